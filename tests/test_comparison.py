"""What becomes of an artifact version, told from two descriptions of it."""

from dataclasses import replace
from typing import Any

import pytest

from zenml_upgrade_kit.artifacts.comparison import compare
from zenml_upgrade_kit.artifacts.shards import Loaded

GOOD: dict[str, Any] = {"ok": True, "type": "int", "summary": "int", "digest": "1", "near": "1", "basis": "content"}
FAILED: dict[str, Any] = {"ok": False, "digest": None, "near": None, "type": "", "summary": "", "basis": ""}
NO_MODULE = {**FAILED, "error": "ModuleNotFoundError: No module named 'team'"}
BROKEN = {**FAILED, "error": "ValueError: x"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({}, {}, ("identical", "")),
        ({}, {"digest": "2", "near": "2"}, ("differs", "int, other content")),
        ({}, {"digest": "2"}, ("differs", "int: numbers differ, but not in their first 8 digits")),
        ({}, {"type": "float"}, ("differs", "int became float")),
        ({}, {"digest": "2", "near": "2", "summary": "list of 3"}, ("differs", "int became list of 3")),
        ({"digest": None}, {"digest": None}, ("loads", "its content could not be compared")),
        ({}, {"digest": None}, ("loads", "its content could not be compared")),
        ({"basis": "type and repr"}, {"basis": "type and repr"}, ("loads", "compared: type and repr")),
        (
            {"basis": "content, but code as it is on Python 3.11"},
            {"basis": "content, but code as it is on Python 3.12"},
            (
                "loads",
                "compared: content, but code as it is on Python 3.11; now content, but code as it is on Python 3.12",
            ),
        ),
        (BROKEN, {}, ("loads", "it did not load before: ValueError: x")),
        ({}, BROKEN, ("fails", "ValueError: x")),
        ({}, {**BROKEN, "missing": "data type"}, ("fails", "ValueError: x")),
        (BROKEN, BROKEN, ("fails", "ValueError: x")),
        (NO_MODULE, NO_MODULE, ("not_checked", "ModuleNotFoundError: No module named 'team'")),
        (
            {**BROKEN, "missing": "materializer"},
            {**BROKEN, "missing": "materializer"},
            ("not_checked", "ValueError: x"),
        ),
        (BROKEN, NO_MODULE, ("fails", "ModuleNotFoundError: No module named 'team'")),
    ],
)
def test_the_outcome_of_a_reload(old: dict[str, Any], new: dict[str, Any], expected: tuple[str, str]) -> None:
    assert compare(Loaded(**{**GOOD, **old}), Loaded(**{**GOOD, **new})) == expected


@pytest.mark.parametrize(
    ("old", "new", "outcome"),
    [
        ("returned ndarray", "returned ndarray", "identical"),
        ("", "", "identical"),
        ("returned ndarray", "", "identical"),
        ("raised ValueError", "raised TypeError", "identical"),
        ("ended by SIGSEGV", "ended by SIGSEGV", "identical"),
        ("did not return within 10 s", "returned int", "identical"),
        ("returned int", "raised TypeError", "fails"),
        ("returned int", "ended by SIGSEGV", "fails"),
        ("returned int", "ended with exit code 0", "fails"),
        ("raised TypeError", "did not return within 10 s", "fails"),
        ("", "ended by SIGSEGV", "fails"),
    ],
)
def test_what_loads_but_cannot_be_used_any_more_fails(old: str, new: str, outcome: str) -> None:
    good = Loaded(**GOOD)
    found, words = compare(replace(good, called=old), replace(good, called=new))
    assert found == outcome
    assert (bool(new) and new in words and old in words) == (outcome == "fails")


FRAME = {"index": ["1", "int64"], "column name": ["2", "object with None"], "column when": ["3", "datetime64[ns]"]}
MODEL = {"parameter C": ["1", "float"], "fitted coef_": ["2", "ndarray float64 1 × 3"], "prediction": ["3", "ndarray"]}
NESTED = {
    "key a": ["1", "dict of 2"],
    "key a, key b": ["2", "int"],
    "key a, key c": ["3", "int"],
    "key z": ["4", "int"],
}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            FRAME,
            {**FRAME, "column name": ["9", "str with nan"], "column when": ["8", "datetime64[us]"]},
            (
                "differs",
                "column name: object with None became str with nan; column when: datetime64[ns] became datetime64[us]",
            ),
        ),
        (FRAME, {**FRAME, "index": ["9", "int64"]}, ("differs", "index: int64, other content")),
        (FRAME, {**FRAME, "column new": ["9", "int64"]}, ("differs", "column new is new")),
        ({**FRAME, "column old": ["9", "int64"]}, FRAME, ("differs", "column old is lost")),
        (MODEL, {**MODEL, "parameter new": ["9", "None"], "fitted new_": ["9", "int"]}, ("identical", "")),
        ({**MODEL, "parameter gone": ["9", "None"]}, MODEL, ("identical", "")),
        (MODEL, {**MODEL, "parameter C": ["9", "int"]}, ("differs", "parameter C: float became int")),
        (
            NESTED,
            {**NESTED, "key a": ["9", "dict of 2"], "key a, key b": ["8", "str of 1"]},
            ("differs", "key a, key b: int became str of 1"),
        ),
        (
            NESTED,
            {"key a": ["9", "list of 2"], "key z": ["4", "int"]},
            ("differs", "key a: dict of 2 became list of 2"),
        ),
        (NESTED, {"key z": ["4", "int"]}, ("differs", "key a is lost")),
        (
            NESTED,
            {**NESTED, "key a": ["9", "dict of 2"], "key a, parameter new": ["8", "None"]},
            ("identical", ""),
        ),
    ],
)
def test_the_difference_names_the_parts_that_differ(
    old: dict[str, Any], new: dict[str, Any], expected: tuple[str, str]
) -> None:
    unlike = {"digest": "2", "near": "2", "parts": new}
    assert compare(Loaded(**{**GOOD, "parts": old}), Loaded(**{**GOOD, **unlike})) == expected


def test_a_prediction_may_differ_though_the_rest_does_not() -> None:
    old, new = Loaded(**GOOD, parts=MODEL), Loaded(**GOOD, parts={**MODEL, "prediction": ["9", "ndarray"]})
    assert compare(old, new) == ("differs", "prediction: ndarray, other content")
    assert compare(old, Loaded(**GOOD, parts={**MODEL, "result": ["9", "int"]})) == ("identical", "")


def test_a_model_of_trees_is_identical_only_when_its_predictions_were_compared() -> None:
    forest = {**GOOD, "basis": "content, but not all that sklearn.RandomForestClassifier learned"}
    assert compare(Loaded(**forest), Loaded(**forest)) == ("loads", f"compared: {forest['basis']}")
    assert compare(Loaded(**forest, parts=MODEL), Loaded(**forest, parts=MODEL)) == ("identical", "")


def test_many_differences_are_counted() -> None:
    old, new = ({f"column {n}": [f"{side} {n}", "int64"] for n in range(20)} for side in "ab")
    _, words = compare(Loaded(**GOOD, parts=old), Loaded(**{**GOOD, "digest": "2"}, parts=new))
    assert words.count("other content") == 8
    assert words.endswith("; and 12 more")


@pytest.mark.parametrize(
    ("old", "new"),
    [("pandas.core.frame.DataFrame", "pandas.DataFrame"), ("numpy.bool_", "numpy.bool"), ("dict", "dict")],
)
def test_a_class_that_a_library_moved_is_the_same(old: str, new: str) -> None:
    assert compare(Loaded(**{**GOOD, "type": old}), Loaded(**{**GOOD, "type": new})) == ("identical", "")


@pytest.mark.parametrize(("old", "new"), [("int", "str"), ("list", "tuple"), ("a.B", "a.C"), ("a.B", "b.B")])
def test_another_class_is_a_difference(old: str, new: str) -> None:
    assert compare(Loaded(**{**GOOD, "type": old}), Loaded(**{**GOOD, "type": new})) == (
        "differs",
        f"{old} became {new}",
    )
