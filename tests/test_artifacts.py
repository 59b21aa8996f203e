"""Artifact reload: what a loader does to its process costs one artifact, never the run."""

import ctypes
import importlib
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import inventory
from zenml_upgrade_kit.artifacts import check as artifacts
from zenml_upgrade_kit.artifacts.check import Loaded
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import ProbeFailed
from zenml_upgrade_kit.stores import sqlite


class Calls:
    """Pickles to a call of a function: what unpickling does is up to the pickle."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@pytest.fixture
def store(deployment: Callable[..., Path], tmp_path: Path) -> Iterator[tuple[Path, list[dict[str, Any]]]]:
    """A copy of a real store that a client may open, and its artifact versions."""
    source = deployment("0.70.0")
    database = source / "local_stores" / "default_zen_store" / "zenml.db"
    sqlite.online_backup(database, tmp_path / "copy.db")
    with closing(sqlite.connect(database)) as connection:
        yield tmp_path / "copy.db", inventory.artifacts(connection, source / "local_stores")


def load(
    environment: Environment, store: tuple[Path, list[dict[str, Any]]], rows: list[dict[str, Any]], **options: Any
) -> dict[str, Loaded]:
    """The rows by name, loaded."""
    database, _ = store
    code = database.parent / "deployment-0.70.0" / "code"
    loaded = artifacts.load(
        environment,
        rows,
        folder=database.parent / "load",
        database=database,
        **{"code": code, "timeout": 60, **options},
    )
    return {row["name"]: loaded[row["id"]] for row in rows}


def named(rows: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    return [next(row for row in rows if row["name"] == name) for name in names]


def overwrite(row: dict[str, Any], content: bytes) -> None:
    [file] = Path(row["uri"]).glob("artifact.pkl")
    file.write_bytes(content)


def test_every_way_to_die_costs_one_artifact(
    store: tuple[Path, list[dict[str, Any]]], environment: Callable[[str], Environment]
) -> None:
    rows = named(store[1], "customers", "model", "segment", "rule", "region")
    overwrite(rows[1], pickle.dumps(Calls(ctypes.string_at, 0)))
    overwrite(rows[2], pickle.dumps(Calls(os._exit, 0)))
    overwrite(rows[3], pickle.dumps(Calls(time.sleep, 3600)))
    loaded = load(environment("0.70.0"), store, rows, timeout=15)
    assert {name: value.ok for name, value in loaded.items()} == {
        "customers": True,
        "model": False,
        "segment": False,
        "rule": False,
        "region": True,
    }
    assert "SIGSEGV" in loaded["model"].error
    assert "exit code 0" in loaded["segment"].error
    assert "within 15 seconds" in loaded["rule"].error


def test_what_raises_is_that_artifacts_failure(
    store: tuple[Path, list[dict[str, Any]]], environment: Callable[[str], Environment]
) -> None:
    rows = named(store[1], "model", "segment", "rule", "customers")
    overwrite(rows[0], pickle.dumps(Calls(sys.exit, 3)))
    overwrite(rows[1], b"not a pickle")
    overwrite(rows[2], pickle.dumps(Calls(importlib.import_module, "gone_for_good")))
    loaded = load(environment("0.70.0"), store, rows)
    assert "SystemExit" in loaded["model"].error
    assert "UnpicklingError" in loaded["segment"].error
    assert "gone_for_good" in loaded["rule"].error
    assert loaded["customers"].ok


def test_a_class_that_cannot_be_imported_is_told_apart(
    store: tuple[Path, list[dict[str, Any]]], environment: Callable[[str], Environment]
) -> None:
    rows = named(store[1], "customers", "rule")
    rows[0] = {**rows[0], "materializer": {"module": "gone.materializers", "attribute": "Gone"}}
    loaded = load(environment("0.70.0"), store, rows, code=None)
    assert loaded["customers"].missing == "materializer"
    assert "gone.materializers" in loaded["customers"].error
    assert loaded["rule"].missing == "data type"
    assert "churn.customers" in loaded["rule"].error


def test_an_environment_that_does_not_start_is_the_kits_failure(
    store: tuple[Path, list[dict[str, Any]]], environment: Callable[[str], Environment], tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no libraries here\nexit 1\n")
    broken.chmod(0o755)
    found = Environment(**{**vars(environment("0.70.0")), "python": broken})
    with pytest.raises(ProbeFailed, match="no libraries here"):
        load(found, store, named(store[1], "customers"))


def test_a_load_writes_nothing_into_the_artifact_store(
    store: tuple[Path, list[dict[str, Any]]], environment: Callable[[str], Environment]
) -> None:
    local_stores = store[0].parent / "deployment-0.70.0" / "deployment" / "local_stores"
    before = sorted((path, path.stat().st_mtime_ns) for path in local_stores.rglob("*"))
    loaded = load(environment("0.98.0"), store, store[1])
    assert [(name, value.error) for name, value in loaded.items() if not value.ok] == []
    assert sorted((path, path.stat().st_mtime_ns) for path in local_stores.rglob("*")) == before


def row(**values: Any) -> dict[str, Any]:
    return {"id": "1", "name": "model", "version": "3", "uri": "/stores/a/x", "store_root": "/stores/a", **values}


SAME: dict[str, Any] = {"ok": True, "type": "int", "summary": "int", "digest": "1", "near": "1"}


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ({}, {}, "same"),
        ({}, {"digest": "2"}, "different"),
        ({}, {"type": "float"}, "different"),
        ({"digest": None}, {"digest": None}, "loads"),
        ({}, {"digest": None}, "loads"),
        ({"ok": False, "digest": None, "type": ""}, {}, "loads"),
        ({}, {"ok": False}, "fails"),
        ({}, {"ok": False, "missing": "data type"}, "fails"),
        ({"ok": False, "error": "ValueError: x"}, {"ok": False, "error": "ValueError: x"}, "fails"),
        ({"ok": False, "missing": "data type"}, {"ok": False, "missing": "data type"}, "not_checked"),
        (
            {"ok": False, "error": "ModuleNotFoundError: No module named 'team'"},
            {"ok": False, "error": "ModuleNotFoundError: No module named 'team'"},
            "not_checked",
        ),
    ],
)
def test_the_outcome_of_a_reload(old: dict[str, Any], new: dict[str, Any], outcome: str) -> None:
    assert artifacts._outcome(Loaded(**{**SAME, **old}), Loaded(**{**SAME, **new})) == outcome


@pytest.mark.parametrize(
    ("values", "new", "identity"),
    [
        ({}, {"missing": "materializer"}, "AR601"),
        ({}, {"missing": "data type"}, "AR602"),
        ({"uri": "/elsewhere/x"}, {}, "AR603"),
        ({}, {}, "AR607"),
        ({"uri": str(Path(__file__)), "store_root": str(Path(__file__).parent)}, {}, "AR604"),
    ],
)
def test_the_cause_of_a_failure_has_its_catalogue_id(
    values: dict[str, Any], new: dict[str, Any], identity: str
) -> None:
    failed = Loaded(ok=False, error="it broke", **new)
    [finding] = artifacts._findings("0.70.0", row(**values), "fails", Loaded(**SAME), failed)
    assert (finding.id, finding.severity.value, finding.subject) == (identity, "block", "model 3 (1)")


def test_what_was_broken_before_does_not_block_the_upgrade() -> None:
    failed = Loaded(ok=False, error="it broke")
    [finding] = artifacts._findings("0.70.0", row(), "fails", failed, failed)
    assert finding.severity.value == "warn"
    assert "does not load with 0.70.0 here either" in finding.message


VALUES = """
import sys, json, enum, dataclasses, datetime, decimal, pathlib, uuid
sys.path.insert(0, sys.argv[1])
import numpy as np, pandas as pd
from load_artifacts import Digest, Opaque

class Colour(enum.Enum):
    RED = 1

@dataclasses.dataclass
class Point:
    x: int
    y: list

class Plain:
    def __init__(self, value):
        self.value = value

shared = [1]

def loop():
    found = []
    found.append(found)
    return found

PAIRS = {
    "equal": [
        ([[1], [1]], [shared, shared]), ({"a": [1], "b": [2]}, {"b": [2], "a": [1]}),
        (1, 1), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), ({1, 2}, {2, 1}), (float("nan"), float("nan")), (loop(), loop()),
        (np.arange(3), np.arange(3)), (pd.DataFrame({"a": [1]}), pd.DataFrame({"a": [1]})), (Plain([1]), Plain([1])),
        (Point(1, [2]), Point(1, [2])), (Colour.RED, Colour.RED), (np.float64(1.5), np.float64(1.5)),
        (uuid.UUID(int=1), uuid.UUID(int=1)), (decimal.Decimal("1.0"), decimal.Decimal("1.0")),
    ],
    "different": [
        (1, 1.0), (1, True), ("1", 1), (["a", "b"], ["ab"]), ([1, [2]], [[1], 2]), ((1,), [1]), (b"a", "a"),
        (0.0, -0.0),
        ({"a": 1}, {"a": 2}), (np.arange(3), np.arange(3.0)), (np.zeros((2, 3)), np.zeros((3, 2))),
        (pd.Series([1, None], dtype=object), pd.Series([1, float("nan")], dtype=object)),
        (pd.Series(["a"]), pd.Series(["a"], name="x")), (pd.DataFrame({"a": [1]}), pd.DataFrame({"b": [1]})),
        (pd.Series(pd.to_datetime(["2024-01-01"]).astype("datetime64[ns]")),
         pd.Series(pd.to_datetime(["2024-01-01"]).astype("datetime64[s]"))),
        (Plain(1), Plain(2)), (Point(1, []), Point(1, [0])), (datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)),
    ],
    "near": [(0.1 + 0.2, 0.3), (np.array([0.1 + 0.2]), np.array([0.3])), (Plain(1e300 * 3), Plain(3e300))],
    "not near": [(0.1, 0.1001), (np.array([1.0]), np.array([1.00001]))],
}

def same(one, other, rounded):
    digests = Digest(rounded), Digest(rounded)
    for digest, value in zip(digests, (one, other)):
        digest.add(value)
    return digests[0].hash.hexdigest() == digests[1].hash.hexdigest()

wrong = [(kind, repr(pair)) for kind, pairs in PAIRS.items() for pair in pairs
         if same(*pair, "near" in kind) != (kind in ("equal", "near"))]
try:
    Digest().add(object())
    wrong.append("an object without state was compared")
except Opaque:
    pass
print(json.dumps(wrong))
"""


@pytest.mark.parametrize("version", ["0.55.5", "0.98.0"])
def test_values_are_the_same_when_their_content_is(version: str, environment: Callable[[str], Environment]) -> None:
    probes = Path(artifacts.__file__).parent.parent / "probes"
    python = environment(version).python
    ended = subprocess.run([python, "-c", VALUES, str(probes)], capture_output=True, text=True, check=True)
    assert json.loads(ended.stdout) == []


def test_a_store_that_is_not_local_is_not_checked() -> None:
    assert "flavor s3" in artifacts._unreachable(row(store_flavor="s3", store_root="s3://bucket"))
    assert "no longer registered" in artifacts._unreachable(row(store_flavor=None, store_root=None))
    assert artifacts._unreachable(row(store_flavor="local")) == ""
