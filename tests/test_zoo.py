"""Artifacts of every kind, written by real releases on Python 3.8 to 3.12, loaded by the newest one on 3.10 to 3.13.

What becomes of each was measured without the kit: the loop of ZenML's documentation on a migrated copy of each store,
every artifact in a process of its own, values compared by a script that shares no code with the kit.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import zoo_stores
from zoo_stores import Zoo

from zenml_upgrade_kit import environments
from zenml_upgrade_kit.artifacts import causes, comparison, shards, sides
from zenml_upgrade_kit.artifacts.shards import Loaded, Settings, Shard
from zenml_upgrade_kit.environments import Environment

Becomes = tuple[str, str, str, str]
"""The outcome, the kind of its cause, the id in the catalogue of checks, and words that the difference has."""

FINE: Becomes = ("identical", "", "", "")
TEXT: Becomes = ("differs", "library", "AR606", "object with None became str with nan")
INDEX: Becomes = ("differs", "library", "AR606", "object became str")
PANDAS_3 = {
    "frame_of_texts_with_none": TEXT,
    "series_of_texts": TEXT,
    "dict_with_frame": ("differs", "library", "AR606", "key mammals, key frame: DataFrame 2 × 2"),
    "frame_of_categories": ("differs", "library", "AR606", "category of object became category of str"),
    "frame_with_text_index": INDEX,
}
MODELS: Mapping[str, Becomes] = {"gradient_boosting": ("fails", "library", "AR604", "")}
PYDANTIC_1: Mapping[str, Becomes] = {"pydantic_inside_a_pickle": ("differs", "library", "AR610", "none")}
LOST: Mapping[str, Becomes] = {"object_of_a_lost_module": ("fails", "module", "AR602", "visiting")}
CODE: Becomes = ("fails", "python", "AR605", "code() argument 13 must be str, not int")
CRASH: Becomes = ("fails", "python", "AR605", "SIGSEGV when called")
FUNCTIONS = ("lambda", "closure", "function_of_the_run_script")
"""Pickled by value. That of the run script uses a method: it is not called, but where it was, it ended the process."""
SUSPECT: Becomes = ("identical", "python", "AR605", "")
BY_VALUE: Becomes = ("loads", "python", "AR605", "code as it is on Python 3.")

EXPECTED: Mapping[tuple[str, str], Mapping[str, Becomes]] = {
    ("0.43.0", "3.11"): {
        **PANDAS_3,
        **MODELS,
        **PYDANTIC_1,
        **LOST,
        "frame_of_times": ("differs", "library", "AR606", "datetime64[ns] became datetime64[us]"),
        "random_forest": ("differs", "library", "AR606", "prediction: ndarray float64 1 × 2, other content"),
    },
    ("0.55.5", "3.12"): {**PANDAS_3, **MODELS, **PYDANTIC_1, **LOST},
    ("0.60.0", "3.10"): {**MODELS, **LOST},
    ("0.60.0", "3.13"): {**PANDAS_3, **MODELS, **LOST, "lambda": CODE, "closure": CODE},
    ("0.85.0", "3.12"): {
        **PANDAS_3,
        **MODELS,
        **LOST,
        **dict.fromkeys(FUNCTIONS, BY_VALUE),
        "object_of_the_run_script": SUSPECT,
        "dataclass_of_the_run_script": SUSPECT,
    },
    ("0.97.0", "3.11"): {
        **LOST,
        **dict.fromkeys(FUNCTIONS, BY_VALUE),
        "object_of_the_run_script": ("fails", "python", "AR605", "_DataclassParams"),
    },
    ("0.97.0", "3.13"): {
        **LOST,
        "lambda": CRASH,
        "closure": CRASH,
        "function_of_the_run_script": BY_VALUE,
        "object_of_the_run_script": SUSPECT,
    },
}
"""By source release and Python of the target: what is not identical there."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the kit says of one artifact version."""

    outcome: str
    difference: str
    cause: causes.Cause | None
    row: Mapping[str, Any]
    look: Mapping[str, Any]
    old: Loaded
    new: Loaded


class Checks:
    """Loads of the stores, each done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.zoo = cache(self._zoo)
        self.by_source = cache(self._by_source)
        self.by_newest = cache(self._by_newest)

    def _zoo(self, version: str) -> Zoo:
        return zoo_stores.copy(version, self.folder / version)

    def _by_source(self, version: str, turn: int) -> dict[str, dict[str, Any]]:
        """By name, what the release itself makes of its store, anew in each turn; in the first with the lost module."""
        return self.load(version, zoo_stores.source(version), f"source-{turn}", migrated=False, whole=turn == 1)

    def _by_newest(self, version: str, python: str, turn: int) -> dict[str, dict[str, Any]]:
        """By name, what the newest release on a Python makes of a store without the lost module, anew in each turn."""
        return self.load(version, zoo_stores.target(python), f"target-{python}-{turn}")

    def load(
        self, version: str, environment: Environment, name: str, *, migrated: bool = True, whole: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Results of a shard by the artifacts' names. whole: with the module that goes away."""
        zoo, folder = self.zoo(version), self.folder / f"{version}-{name}"
        folder.mkdir()
        code = shutil.copytree(zoo.code, folder / "code")
        if not whole:
            (code / "visiting.py").unlink()
        rows = zoo.rows(migrated=migrated)
        settings = Settings(
            python=str(environment.python),
            version=environment.version,
            folder=str(folder),
            code=str(code),
            database=str(shutil.copy2(zoo.migrated if migrated else zoo.database, folder / "zenml.db")),
        )
        asked = tuple(sides.question(row, row["uri"]) for row in rows.values())
        return dict(zip(rows, shards.run(Shard(artifacts=asked, settings=settings)), strict=True))

    def pair(self, version: str, python: str) -> dict[str, Seen]:
        """A store in its own release and in the newest one."""
        self.zoo(version)
        with ThreadPoolExecutor(1) as other:  # the machine has two cores
            old = other.submit(self.by_source, version, 1)
            new = self.by_newest(version, python, 1)
        environments = zoo_stores.source(version), zoo_stores.target(python)
        return self.compare(version, old.result(), new, *environments)

    def compare(
        self,
        version: str,
        old: Mapping[str, dict[str, Any]],
        new: Mapping[str, dict[str, Any]],
        source: Environment,
        target: Environment,
    ) -> dict[str, Seen]:
        found = {}
        for name, row in self.zoo(version).rows().items():
            assert (old[name]["state"], new[name]["state"]) == ("loaded", "loaded"), (old[name], new[name])
            before, after, look = Loaded(**old[name]["loaded"]), Loaded(**new[name]["loaded"]), new[name]["look"]
            outcome, difference = comparison.compare(before, after)
            cause = causes.cause(row, look, before, after, outcome, difference, source, target)
            found[name] = Seen(
                outcome=outcome, difference=difference, cause=cause, row=row, look=look, old=before, new=after
            )
        return found


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checks]:
    yield Checks(tmp_path_factory.mktemp("zoo"))
    shards.close()


def told(seen: Mapping[str, Seen]) -> dict[str, tuple[str, ...]]:
    """What is not identical, or has something against it, in the form of the table."""
    return {
        name: (one.outcome, one.cause.kind if one.cause else "", one.cause.id if one.cause else "", one.difference)
        for name, one in seen.items()
        if one.outcome != "identical" or one.cause
    }


@pytest.mark.parametrize(("version", "python"), EXPECTED)
def test_what_becomes_of_every_artifact_is_what_was_measured(version: str, python: str, checks: Checks) -> None:
    found, expected = told(checks.pair(version, python)), EXPECTED[version, python]
    surprises = {
        name: (found.get(name), expected.get(name, FINE))
        for name in {*found, *expected}
        if found.get(name, FINE)[:3] != expected.get(name, FINE)[:3]
        or expected.get(name, FINE)[3] not in found[name][3]
    }
    assert surprises == {}


@pytest.mark.parametrize("version", zoo_stores.PYTHONS)
def test_a_release_beside_itself_differs_in_nothing(version: str, checks: Checks) -> None:
    source = zoo_stores.source(version)
    first, again = checks.by_source(version, 1), checks.by_source(version, 2)
    seen = checks.compare(version, first, again, source, source)
    assert {name for name, one in seen.items() if one.outcome != "identical"} == {"object_of_a_lost_module"}


def test_the_newest_release_differs_from_itself_in_nothing(checks: Checks) -> None:
    target = zoo_stores.target("3.13")
    one, other = (checks.by_newest("0.60.0", "3.13", turn) for turn in (1, 2))
    seen = checks.compare("0.60.0", one, other, target, target)
    assert {one.outcome for one in seen.values()} <= {"identical", "fails", "not_checked"}


def test_the_sources_libraries_are_proven_to_be_a_remedy(checks: Checks) -> None:
    seen, target = checks.pair("0.85.0", "3.12"), zoo_stores.target("3.12")
    source = zoo_stores.source("0.85.0")
    control = environments.control(source, target)
    assert control
    loaded = checks.load("0.85.0", control, "proof")
    found = seen["gradient_boosting"]
    assert found.cause
    proven = causes.proven(found.cause, loaded["gradient_boosting"]["loaded"]["ok"], source, target)
    assert proven.pins == ("scikit-learn==1.7.2",)


def test_the_look_alone_finds_what_is_missing_and_what_is_by_value(checks: Checks) -> None:
    looks = {name: one.look for name, one in checks.pair("0.97.0", "3.13").items()}
    assert {name for name, look in looks.items() if look["missing"]} == {"object_of_a_lost_module"}
    assert {name: look["python"] for name, look in looks.items() if look["by_value"]} == dict.fromkeys(
        ("lambda", "closure", "function_of_the_run_script", "object_of_the_run_script"), "3.12"
    )
