"""Why artifacts fail or differ: every failure and silent change that was measured, and what users are told of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit.artifacts.causes import Cause, cause, proven
from zenml_upgrade_kit.artifacts.shards import Loaded
from zenml_upgrade_kit.probing import Environment

OLD = {"pandas": "2.0.3", "numpy": "1.24.4", "scikit-learn": "1.3.0", "pydantic": "1.10.12", "cloudpickle": "2.2.1"}
NEW = {"pandas": "3.0.6", "numpy": "2.4.6", "scikit-learn": "1.9.1", "pydantic": "2.12.5", "cloudpickle": "3.1.2"}


def environment(version: str, python: str, packages: dict[str, str]) -> Environment:
    return Environment(
        version=version, python=Path("python"), python_version=python, packages=packages, origin="cached"
    )


SOURCE = environment("0.43.0", "3.10.13", {**OLD, "xgboost": "2.0.0"})
TARGET = environment("0.98.0", "3.12.1", NEW)
SAME_PYTHON = environment("0.98.0", "3.10.13", NEW)
LOADED = Loaded(ok=True, type="int", summary="int", digest="1", near="1", basis="content")


def row(module: str = "builtins", attribute: str = "int", **recorded: str) -> dict[str, Any]:
    materializer = {"module": "zenml.materializers.cloudpickle_materializer", "attribute": "CloudpickleMaterializer"}
    return {"id": "1", "uri": "/s/1", "data_type": {"module": module, "attribute": attribute, **recorded}} | {
        "materializer": {**materializer, "type": "internal"}
    }


def look(**found: Any) -> dict[str, Any]:
    nothing = {"kind": "pickle", "problem": "", "limit": "", "python": "", "by_value": [], "code_names": []}
    return {**nothing, "globals": [], "roots": [], "missing": [], "pydantic1": False, **found}


def judged(
    outcome: str,
    error: str = "",
    *,
    of: dict[str, Any] | None = None,
    seen: dict[str, Any] | None = None,
    difference: str = "",
    broken: bool = False,
    target: Environment = TARGET,
    **new: Any,
) -> Cause:
    """The cause for an artifact version; it loads in the source unless it is broken there, too."""
    after = Loaded(**{**(asdict(LOADED) if not error and outcome != "lost" else {}), "error": error, **new})
    before = Loaded(error=error or "gone") if broken else LOADED
    found = cause(of or row(), look() if seen is None else seen, before, after, outcome, difference, SOURCE, target)
    assert found
    return found


MODEL = row("sklearn.ensemble._gb", "GradientBoostingClassifier", package_name="scikit-learn", version="1.3.0")
FRAME = row("pandas.core.frame", "DataFrame", package_name="pandas", version="2.0.3")
RULE = row("churn.customers", "Rule", type="user")
FUNCTION = look(by_value=["area"], python="3.10", roots=["cloudpickle"])
ON_MAIN = look(by_value=["Order"], python="3.10", roots=["cloudpickle", "dataclasses"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # models across scikit-learn
        (
            {"error": "ModuleNotFoundError: No module named 'sklearn.ensemble._gb_losses'", "of": MODEL},
            ("AR604", "library", "scikit-learn 1.3.0 → 1.9.1", ("scikit-learn==1.3.0",)),
        ),
        (
            {"error": "ModuleNotFoundError: No module named '_loss'", "of": MODEL},
            ("AR604", "library", "scikit-learn 1.3.0 → 1.9.1", ("scikit-learn==1.3.0",)),
        ),
        (
            {"error": "ValueError: node array from the pickle has an incompatible dtype", "where": "sklearn"},
            ("AR604", "library", "scikit-learn 1.3.0 → 1.9.1", ("scikit-learn==1.3.0",)),
        ),
        (
            {"error": "AttributeError: Can't get attribute 'X' on <module 'sklearn.tree._tree' from '/x.so'>"},
            ("AR604", "library", "scikit-learn 1.3.0 → 1.9.1", ("scikit-learn==1.3.0",)),
        ),
        # a class of a library that is gone, and a library that is not installed
        (
            {
                "error": "pandas.core.indexes.numeric.Int64Index: ModuleNotFoundError: No module named 'pandas.core.x'",
                "of": row("pandas.core.indexes.numeric", "Int64Index"),
                "missing": "data type",
            },
            ("AR602", "library", "pandas 2.0.3 → 3.0.6", ("pandas==2.0.3",)),
        ),
        (
            {"error": "xgboost.core.Booster: ModuleNotFoundError: No module named 'xgboost'", "missing": "data type"},
            ("AR602", "library", "xgboost 2.0.0 → not installed", ("xgboost==2.0.0",)),
        ),
        # by value on another Python
        (
            {"error": "TypeError: code() argument 13 must be str, not int", "seen": FUNCTION},
            ("AR605", "python", "Python 3.10 → 3.12", ()),
        ),
        (
            {"error": "TypeError: _DataclassParams.__init__() missing 6 required arguments", "seen": ON_MAIN},
            ("AR605", "python", "Python 3.10 → 3.12", ()),
        ),
        ({"called": "ended by SIGSEGV", "seen": FUNCTION}, ("AR605", "python", "Python 3.10 → 3.12", ())),
        ({"called": "raised TypeError", "seen": FUNCTION}, ("AR605", "python", "Python 3.10 → 3.12", ())),
        (
            {"error": "ModuleNotFoundError: No module named 'distutils'"},
            ("AR604", "python", "Python 3.10 → 3.12", ()),
        ),
        # the user's code
        (
            {"error": "churn.customers.Rule: ModuleNotFoundError: No module named 'churn'", "missing": "data type"}
            | {"of": RULE},
            ("AR602", "module", "churn cannot be imported", ()),
        ),
        (
            {"error": "churn.m.M: ModuleNotFoundError: No module named 'churn.m'", "missing": "materializer"},
            ("AR601", "module", "churn.m cannot be imported", ()),
        ),
        (
            {"error": "AttributeError: Can't get attribute 'Rule' on <module 'churn.customers' from 'x.py'>"},
            ("AR604", "module", "churn.customers has no Rule", ()),
        ),
        (
            {"error": "AttributeError: Can't get attribute 'Rule' on <module '__main__' (built-in)>"},
            ("AR604", "module", "its class was in the script that ran", ()),
        ),
        # ZenML itself
        (
            {
                "error": "zenml.integrations.evidently.x.Y: ModuleNotFoundError: No module named"
                " 'zenml.integrations.evidently.materializers'",
                "missing": "materializer",
            },
            ("AR601", "zenml", "ZenML 0.43.0 → 0.98.0", ()),
        ),
        (
            {"error": "TypeError: load() takes 2 positional arguments but 3 were given"},
            ("AR604", "zenml", "ZenML 0.43.0 → 0.98.0", ()),
        ),
        # files
        (
            {"error": "RuntimeError: The artifact at '/s/1' does not match its recorded content hash."},
            ("AR608", "file", "a file is not the one that was written", ()),
        ),
        (
            {"error": "EOFError: Ran out of input", "seen": look(problem="artifact.pkl is empty"), "broken": True},
            ("AR608", "file", "artifact.pkl is empty", ()),
        ),
        (
            {
                "error": "UnpicklingError: pickle data was truncated",
                "seen": look(problem="artifact.pkl ends after 512 bytes, before its pickle does"),
                "broken": True,
            },
            ("AR608", "file", "artifact.pkl is cut short", ()),
        ),
        (
            {"error": "JSONDecodeError: Expecting value: line 1 column 1 (char 0)", "broken": True},
            ("AR608", "file", "a file is cut or damaged", ()),
        ),
        (
            {"error": "FileNotFoundError: [Errno 2] No such file or directory: '/s/1/df.csv'", "broken": True}
            | {"of": FRAME},
            ("AR607", "file", "some of its files are gone", ()),
        ),
        (
            {"error": "FileNotFoundError: File `/s/1` is outside of artifact store bounds `/s/2`"},
            ("AR603", "store", "it lies outside its artifact store", ()),
        ),
        # limits, and what ends the process
        (
            {"error": "did not load within 120 s", "of": MODEL},
            ("AR604", "limit", "the time limit of one artifact", ()),
        ),
        (
            {"error": "MemoryError: it needs more than the 1,000 bytes that one loading process may allocate"},
            ("AR604", "limit", "the memory limit of a loading process", ()),
        ),
        (
            {"error": "the loading process ended with exit code 0", "broken": True},
            ("AR604", "unknown", "it ends the process that loads it (exit code 0)", ()),
        ),
        (
            {"error": "the loading process ended by SIGSEGV", "of": MODEL},
            ("AR604", "library", "scikit-learn 1.3.0 → 1.9.1", ("scikit-learn==1.3.0",)),
        ),
        ({"error": "SystemExit: 3", "where": "churn"}, ("AR604", "unknown", "SystemExit in churn", ())),
    ],
)
def test_every_failure_has_its_cause(options: dict[str, Any], expected: tuple[Any, ...]) -> None:
    found = judged("fails", **options)
    assert (found.id, found.kind, found.blame, found.pins) == expected
    assert found.remedy.endswith(".")


@pytest.mark.parametrize(
    ("difference", "of", "seen", "expected"),
    [
        ("column name: object with None became str with nan", FRAME, look(kind="parquet"), ("AR606", "pandas")),
        ("column when: datetime64[ns] became datetime64[us]", FRAME, look(kind="parquet"), ("AR606", "pandas")),
        ("index: object became str", row("builtins", "dict"), look(kind="parquet"), ("AR606", "pandas")),
        ("probabilities", MODEL, look(roots=["numpy", "sklearn"]), ("AR606", "scikit-learn")),
        ("field limit: 3 became none", RULE, look(roots=["churn"], pydantic1=True), ("AR610", "pydantic")),
        ("field frame, column name: object became str", RULE, look(roots=["churn", "pandas"]), ("AR606", "pandas")),
    ],
)
def test_a_silent_change_is_blamed_on_its_library(
    difference: str, of: dict[str, Any], seen: dict[str, Any], expected: tuple[str, str]
) -> None:
    found = judged("differs", of=of, seen=seen, difference=difference)
    assert (found.id, found.kind) == (expected[0], "library")
    assert found.blame == f"{expected[1]} {OLD[expected[1]]} → {NEW[expected[1]]}"
    assert found.pins == (() if found.id == "AR610" else (f"{expected[1]}=={OLD[expected[1]]}",))


def test_a_function_that_loads_on_another_python_is_not_to_be_trusted_until_a_call_returned() -> None:
    found = judged("loads", seen=FUNCTION)
    assert (found.id, found.kind, found.blame) == ("AR605", "python", "Python 3.10 → 3.12")
    returned = Loaded(**{**asdict(LOADED), "called": "returned int"})
    assert cause(row(), FUNCTION, LOADED, returned, "identical", "", SOURCE, TARGET) is None
    assert cause(row(), FUNCTION, LOADED, LOADED, "identical", "", SOURCE, SAME_PYTHON) is None
    shaped = look(by_value=["area"], python="3.8 to 3.10")
    assert cause(row(), shaped, LOADED, LOADED, "loads", "", SOURCE, SAME_PYTHON) is None
    assert judged("loads", seen=shaped).blame == "Python 3.8 to 3.10 → 3.12"


def test_a_python_is_only_recommended_where_the_release_runs_on_it() -> None:
    kept = judged("fails", "TypeError: code() argument 13 must be str", seen=FUNCTION)
    assert kept.remedy == "Keep Python 3.10, or run the step again."
    gone = judged("fails", "TypeError: code() argument 13 must be str", seen={**FUNCTION, "python": "3.8"})
    assert gone.remedy == "ZenML 0.98.0 does not run on Python 3.8: rescue it, or run the step again."


def test_what_loads_but_was_written_by_another_or_an_unknown_version_is_a_warning() -> None:
    found = judged("loads", of=row("sklearn.svm", "SVC", package_name="scikit-learn", version="0.24.2"))
    assert (found.id, found.blame) == ("AR609", "scikit-learn 0.24.2 → 1.9.1")
    assert judged("loads", of=row("sklearn.svm", "SVC", type="unknown")).blame == (
        "scikit-learn of unknown version → 1.9.1"
    )
    for quiet in (MODEL, RULE, row()):
        assert cause(quiet, look(), LOADED, LOADED, "loads", "", SOURCE, TARGET) is None


def test_what_was_never_loaded_is_judged_by_the_look_alone() -> None:
    def static(**seen: Any) -> Cause:
        found = cause(row(), look(**seen), Loaded(), Loaded(), "not_checked", "", SOURCE, TARGET)
        assert found
        return found

    assert static(missing=["churn.customers"], roots=["churn"]).blame == "churn cannot be imported"
    assert static(missing=["sklearn.ensemble._gb_losses"]).blame == "scikit-learn 1.3.0 → 1.9.1"
    assert static(missing=["__main__"]).kind == "module"
    assert static(by_value=["area"], python="3.8").id == "AR605"
    assert static(problem="data.json is empty").id == "AR608"
    assert static(problem="data.json cannot be read: Permission denied").kind == "store"
    assert (static().id, static().kind) == ("AR612", "limit")
    too_large = Loaded(error="2,000,000 bytes, and 1,000 are allowed")
    found = cause(row(), {}, LOADED, too_large, "not_checked", "", SOURCE, TARGET)
    assert found
    assert found.blame == "it was not loaded"


def test_lost_files_and_what_neither_environment_has() -> None:
    assert (judged("lost", seen={}).id, judged("lost", seen={}).kind) == ("AR607", "file")
    error = "team.x.Y: ModuleNotFoundError: No module named 'team'"
    found = judged("not_checked", error, of=row("team.x", "Y"), missing="data type", broken=True)
    assert (found.id, found.kind, found.blame) == ("AR602", "module", "team cannot be imported")
    assert "--code" in found.remedy


def test_what_was_broken_before_is_not_blamed_on_the_upgrade() -> None:
    found = judged("fails", "ValueError: it broke", broken=True)
    assert "broken before the upgrade" in found.remedy
    written_on_3_8 = judged("fails", "TypeError: code() argument", seen={**FUNCTION, "python": "3.8"}, broken=True)
    assert (written_on_3_8.kind, written_on_3_8.blame) == ("python", "Python 3.8 → 3.12")


def test_many_failures_of_one_kind_are_one_cause() -> None:
    errors = [f"UnpicklingError: pickle data was truncated at {number}" for number in range(50)]
    problems = [look(problem=f"artifact.pkl ends after {number:,} bytes, before …") for number in range(50)]
    pairs = zip(errors, problems, strict=True)
    assert len({judged("fails", error, seen=seen, broken=True) for error, seen in pairs}) == 1
    named = [f"ModuleNotFoundError: No module named 'sklearn.x{number}'" for number in range(50)]
    assert len({judged("fails", error) for error in named}) == 1
    assert len({judged("fails", f"ValueError: {number}", where="churn") for number in range(50)}) == 1


def test_a_control_load_confirms_the_pins_or_moves_the_blame() -> None:
    blamed = judged("fails", "ModuleNotFoundError: No module named 'sklearn.ensemble._gb_losses'", of=MODEL)
    assert blamed.remedy == "Pin scikit-learn==1.3.0, or run the step again."
    confirmed = proven(blamed, True, SOURCE, TARGET)
    assert confirmed.pins == ("scikit-learn==1.3.0",)
    assert "with the source's libraries ZenML 0.98.0 loads it as before" in confirmed.remedy
    assert (proven(blamed, False, SOURCE, TARGET).kind, proven(blamed, False, SOURCE, TARGET).pins) == ("python", ())
    assert proven(blamed, False, SOURCE, SAME_PYTHON).blame == "ZenML 0.43.0 → 0.98.0"


def test_a_writer_that_the_source_does_not_have_is_named_by_what_was_recorded() -> None:
    recorded = row("sklearn.svm", "SVC", package_name="scikit-learn", version="0.24.2")
    found = judged("fails", "ValueError: x", of=recorded, where="sklearn", broken=True)
    assert (found.blame, found.pins) == ("scikit-learn 0.24.2 → 1.9.1", ("scikit-learn==0.24.2",))
