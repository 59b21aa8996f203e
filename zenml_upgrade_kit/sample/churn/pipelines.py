"""Pipelines whose artifacts are of every built-in kind; the same code runs in every release from 0.43.0 on."""

from typing import Any, Dict, List, Set, Tuple

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from typing_extensions import Annotated
from zenml import pipeline, step

from churn.customers import Report, Rule, Segment

COLUMNS = ["months", "calls", "spent"]


@step
def numbers() -> Tuple[
    Annotated[int, "customers"],
    Annotated[float, "churn_rate"],
    Annotated[bool, "complete"],
    Annotated[str, "region"],
    Annotated[bytes, "fingerprint"],
]:
    """One artifact of every simple kind."""
    return 120, 0.25, True, "Zürich", b"\x00churn\xff"


@step
def collections() -> Tuple[
    Annotated[Dict[str, Any], "settings"],
    Annotated[List[int], "months"],
    Annotated[Tuple[int, str], "best_month"],
    Annotated[Set[str], "regions"],
]:
    """One artifact of every built-in collection."""
    return {"limit": 3, "names": ["a", "b"]}, [1, 2, 3], (7, "July"), {"north", "south"}


@step
def load(rows: int) -> Tuple[Annotated[pd.DataFrame, "frame"], Annotated[pd.Series, "labels"]]:
    """Customers, the same ones every time."""
    number = np.arange(rows)
    frame = pd.DataFrame({"months": number % 36, "calls": number % 7, "spent": (number * 37 % 101) / 10.0})
    return frame, pd.Series((frame["calls"] > 3).astype(int), name="left")


@step
def to_array(frame: pd.DataFrame) -> Annotated[np.ndarray, "features"]:
    """The frame as numbers."""
    return frame[COLUMNS].to_numpy(dtype=float)


@step
def train(features: np.ndarray, labels: pd.Series) -> Annotated[LogisticRegression, "model"]:
    """A small model."""
    return LogisticRegression(max_iter=500).fit(features, labels.to_numpy())


@step
def evaluate(
    model: LogisticRegression, features: np.ndarray, labels: pd.Series
) -> Tuple[Annotated[float, "accuracy"], Annotated[Report, "report"]]:
    """How good the model is."""
    accuracy = round(float(model.score(features, labels.to_numpy())), 3)
    return accuracy, Report(title="churn", accuracy=accuracy, columns=COLUMNS)


@step
def segment(rows: int) -> Tuple[Annotated[Segment, "segment"], Annotated[Rule, "rule"]]:
    """Objects that only cloudpickle can store."""
    return Segment(name="loyal", customers=rows // 2, shares={"north": 0.5}), Rule("calls", 3)


@step
def publish(found: Segment, broken: bool) -> Annotated[str, "address"]:
    """Fails when it is told to."""
    if broken:
        raise ValueError(f"the page for {found.name} cannot be published")
    return f"churn/{found.name}"


@pipeline
def facts_pipeline():
    """Simple values and collections."""
    numbers()
    collections()


@pipeline
def training_pipeline(rows: int = 120):
    """Frames, arrays and a model."""
    frame, labels = load(rows=rows)
    features = to_array(frame)
    evaluate(train(features, labels), features, labels)


@pipeline
def publishing_pipeline(rows: int = 120, broken: bool = False):
    """Objects of the team's own classes; one run of it failed."""
    found, _ = segment(rows=rows)
    publish(found, broken=broken)
