"""Steps whose outputs are the zoo; the names of the outputs are what the tests ask for."""

# ruff: noqa: UP006, UP035
# mypy: ignore-errors

import datetime
import tempfile
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, List, Set, Tuple

import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from typing_extensions import Annotated
from zenml import pipeline, step

from animals.species import Climate, Food, Fox, Ledger, Meal, Owl, doubled


@step
def plain() -> Tuple[
    Annotated[int, "whole_number"],
    Annotated[float, "fraction"],
    Annotated[bool, "yes"],
    Annotated[str, "text_with_emoji"],
    Annotated[bytes, "raw_bytes"],
    Annotated[Any, "nothing"],
    Annotated[Dict[str, Any], "dict_of_json"],
    Annotated[List[int], "list_of_ints"],
    Annotated[Tuple[int, str], "tuple_of_two"],
    Annotated[Set[str], "set_of_texts"],
]:
    """Scalars and collections of them: JSON and text files."""
    text = "fœx 🦊, \"quoted\" and 'so'\n"
    return (
        120,
        0.1,
        True,
        text,
        b"\x00fox\xff",
        None,
        {"a": [1, None], "b": {"c": 0.5}},
        [1, 2, 3],
        (7, "owl"),
        {"x", "y"},
    )


@step
def nested() -> Tuple[
    Annotated[list, "list_of_arrays"],
    Annotated[dict, "dict_with_frame"],
    Annotated[tuple, "tuple_with_array"],
]:
    """Collections that JSON cannot hold: a folder for each member, and their absolute addresses in metadata.json."""
    inner = {"frame": pd.DataFrame({"name": ["fox", None], "legs": [4, 2]}), "legs": 4}
    return [np.arange(3), np.zeros((2, 2))], {"mammals": inner, "count": 1}, (1, np.arange(4, dtype="int16"))


@step
def arrays() -> Tuple[
    Annotated[np.ndarray, "array_of_floats"],
    Annotated[np.ndarray, "array_of_small_ints"],
    Annotated[np.ndarray, "array_of_booleans"],
    Annotated[np.ndarray, "array_of_texts"],
    Annotated[np.ndarray, "array_of_times"],
    Annotated[np.ndarray, "array_of_objects"],
]:
    """Arrays of several dtypes."""
    objects = np.array([None, "fox", 3, {"legs": 4}], dtype=object)
    times = np.array(["2024-01-01T12:00", "NaT"], dtype="datetime64[ns]")
    floats = np.array([[0.1, np.nan], [np.inf, -0.0]])
    return floats, np.arange(-3, 3, dtype="int8"), np.array([True, False]), np.array(["fox", "öwl"]), times, objects


@step
def frames() -> Tuple[
    Annotated[pd.DataFrame, "frame_of_numbers"],
    Annotated[pd.DataFrame, "frame_of_texts_with_none"],
    Annotated[pd.DataFrame, "frame_of_times"],
    Annotated[pd.DataFrame, "frame_of_categories"],
    Annotated[pd.DataFrame, "frame_with_text_index"],
    Annotated[pd.Series, "series_of_numbers"],
    Annotated[pd.Series, "series_of_texts"],
]:
    """Frames and series: parquet."""
    numbers = pd.DataFrame({"months": np.arange(5), "spent": np.arange(5) / 10, "left": np.arange(5) > 2})
    texts = pd.DataFrame({"name": ["fox", None, "öwl 🦉"], "legs": [4, 4, 2]})
    times = pd.DataFrame({"born": pd.to_datetime(["2024-01-01 12:00:00.5", None]).astype("datetime64[ns]")})
    categories = pd.DataFrame({"food": pd.Categorical(["mouse", "seed", "mouse"])})
    index = pd.DataFrame({"legs": [4, 2]}, index=pd.Index(["fox", "owl"], name="animal"))
    return numbers, texts, times, categories, index, pd.Series([1.5, 2.5], name="weight"), pd.Series(["fox", None])


@step
def objects() -> Tuple[
    Annotated[Food, "pydantic_as_json"],
    Annotated[Meal, "pydantic_inside_a_pickle"],
    Annotated[Fox, "dataclass"],
    Annotated[Owl, "object_of_a_class"],
    Annotated[Ledger, "frame_inside_a_pickle"],
    Annotated[Climate, "enum_member"],
    Annotated[uuid.UUID, "uuid"],
    Annotated[datetime.datetime, "date_and_time"],
]:
    """Objects: most end in cloudpickle, by reference to their class."""
    food = Food(name="mouse", grams=20.5, tags=["grey"])
    born = datetime.datetime(2024, 2, 29, 12, 30, tzinfo=datetime.timezone.utc)
    ledger = Ledger(pd.DataFrame({"name": ["fox", None], "born": pd.to_datetime(["2024-01-01", None])}))
    return (
        food,
        Meal(food, 7),
        Fox("Reineke", weights={"spring": 6.5}),
        Owl("Uhu", 2),
        ledger,
        Climate.COLD,
        uuid.UUID(int=42),
        born,
    )


@step
def folder() -> Annotated[Path, "folder"]:
    """A directory: releases that have no materializer for it pickle the path alone."""
    path = Path(tempfile.mkdtemp(prefix="zoo-"))
    (path / "below").mkdir()
    (path / "names.txt").write_text("fox\n")
    (path / "below" / "raw").write_bytes(b"\x00\x01")
    return path


@step
def models() -> Tuple[
    Annotated[LogisticRegression, "logistic_regression"],
    Annotated[GradientBoostingClassifier, "gradient_boosting"],
    Annotated[RandomForestClassifier, "random_forest"],
    Annotated[Pipeline, "pipeline_of_models"],
]:
    """Models, all of the same small data."""
    number = np.arange(60)
    features = np.column_stack([number % 7, number % 11 / 10, number % 5])
    labels = (number % 7 > 3).astype(int)
    scaled = Pipeline([("scale", StandardScaler()), ("model", LogisticRegression())])
    return (
        LogisticRegression().fit(features, labels),
        GradientBoostingClassifier(n_estimators=3, random_state=0).fit(features, labels),
        RandomForestClassifier(n_estimators=3, random_state=0).fit(features, labels),
        scaled.fit(features, labels),
    )


def adder(much):
    """Makes a closure."""

    def add(number):
        return number + much

    return add


@step
def functions() -> Tuple[
    Annotated[Callable, "function_of_a_module"], Annotated[Callable, "lambda"], Annotated[Callable, "closure"]
]:
    """Functions: releases before 0.58.0 cannot store them."""
    return doubled, lambda number: number + 1, adder(3)


@pipeline
def every_kind(with_functions: bool = False):
    """All kinds but those of the run script."""
    plain()
    nested()
    arrays()
    frames()
    objects()
    folder()
    models()
    if with_functions:
        functions()
