"""Where an upgrade stops on the way, and between which releases it starts to fail."""

from collections.abc import Callable
from dataclasses import asdict

import pytest

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.errors import BadPlan, KitError
from zenml_upgrade_kit.rehearsal import paths


def fails_from(version: str) -> Callable[[str], bool]:
    """Attempts that work before a release, and fail from it on."""
    at = releases.position(releases.get(version).stamp)
    assert at is not None

    def attempt(tried: str) -> bool:
        position = releases.position(releases.get(tried).stamp)
        assert position is not None
        return position < at

    return attempt


def quiet(_: str) -> None:
    pass


def test_the_release_that_has_the_revision_and_the_one_before_are_all_that_is_tried() -> None:
    found = paths.bisect("0.55.5", "0.98.0", "3b1776345020", fails_from("0.80.0"), quiet)
    assert asdict(found) == {
        "first_failing": "0.80.0",
        "last_working": "0.75.1",
        "tried": {"0.80.0": False, "0.75.1": True},
    }


@pytest.mark.parametrize("version", [release.version for release in paths.stops("0.43.0", "0.98.0")])
def test_any_first_failing_release_is_found_without_a_guess(version: str) -> None:
    between = [release.version for release in paths.stops("0.43.0", "0.98.0")]
    found = paths.bisect("0.43.0", "0.98.0", "", fails_from(version), quiet)
    at = between.index(version)
    assert (found.first_failing, found.last_working) == (version, between[at - 1] if at else "")
    assert len(found.tried) <= len(between).bit_length()


@pytest.mark.parametrize("stopped_at", ["e1d66d91a099", "3b1776345020", "0.98.0", "a revision of the future"])
def test_a_wrong_guess_costs_attempts_not_the_answer(stopped_at: str) -> None:
    found = paths.bisect("0.43.0", "0.98.0", stopped_at, fails_from("0.63.0"), quiet)
    assert (found.first_failing, found.last_working) == ("0.63.0", "0.62.0")


def test_a_revision_of_a_release_to_avoid_leads_to_those_around_it() -> None:
    (first, *_) = releases.get("0.45.0").revisions
    found = paths.bisect("0.43.0", "0.98.0", first, fails_from("0.45.0"), quiet)
    assert asdict(found) == {
        "first_failing": "0.45.4",
        "last_working": "0.44.4",
        "tried": {"0.45.4": False, "0.44.4": True},
    }


def test_a_release_that_cannot_be_tried_here_counts_as_not_there() -> None:
    works = fails_from("0.80.0")

    def attempt(version: str) -> bool | None:
        return None if version in ("0.80.0", "0.75.1") else works(version)

    found = paths.bisect("0.70.0", "0.98.0", "3b1776345020", attempt, quiet)
    assert (found.first_failing, found.last_working) == ("0.80.1", "0.74.0")
    assert not {"0.80.0", "0.75.1"} & found.tried.keys()


def test_a_store_one_release_before_the_target_needs_no_attempt() -> None:
    assert paths.bisect("0.97.0", "0.98.0", "", fails_from("0.98.0"), quiet).tried == {}


def test_nobody_stops_at_a_release_that_was_withdrawn_or_is_to_be_avoided() -> None:
    versions = {release.version for release in paths.stops("0.43.0", "0.98.0", "mysql")}
    assert not versions & {"0.43.0", "0.44.0", "0.45.2", "0.50.0", "0.55.5", "0.56.0", "0.57.0rc1", "0.93.0"}
    assert versions >= {"0.44.4", "0.54.0", "0.56.4", "0.98.0"}
    assert "0.55.5" in {release.version for release in paths.stops("0.43.0", "0.98.0", "sqlite")}


def test_hops_end_with_the_target() -> None:
    assert paths.hops("0.43.0", [], "0.98.0", "sqlite") == ["0.98.0"]
    assert paths.hops("0.43.0", ["0.54.0", "0.75.0"], "0.98.0", "mysql") == ["0.54.0", "0.75.0", "0.98.0"]
    assert paths.hops("0.43.0", ["0.55.5"], "0.98.0", "sqlite") == ["0.55.5", "0.98.0"]


@pytest.mark.parametrize(
    ("via", "found"),
    [
        (["0.56.0"], "service table"),
        (["0.45.3"], "migration bug"),
        (["0.55.5"], "circular foreign key"),
        (["0.90.0rc0"], "pre-release"),
        (["0.50.0"], "fails for stacks"),
        (["0.43.0"], "not newer"),
        (["0.75.0", "0.54.0"], "not newer"),
        (["0.54.0", "0.54.0"], "not newer"),
        (["0.98.0"], "not older than the target"),
    ],
)
def test_a_bad_stop_is_refused_with_its_reason_and_others(via: list[str], found: str) -> None:
    with pytest.raises(BadPlan) as caught:
        paths.hops("0.44.1", via, "0.98.0", "mysql")
    assert found in caught.value.found
    assert caught.value.remedy.startswith("stop at 0.")


def test_a_stop_that_is_no_release_is_refused() -> None:
    with pytest.raises(KitError, match="not a release"):
        paths.hops("0.43.0", ["0.54"], "0.98.0", "sqlite")
