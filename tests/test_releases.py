"""Facts about releases: order, ranges, names."""

from __future__ import annotations

import re

import pytest

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.errors import BadPlan


def place(stamp: str) -> int:
    found = releases.position(stamp)
    assert found is not None
    return found


def named(stamp: str) -> str:
    found = releases.for_stamp(stamp)
    return found.version if found else ""


def test_the_table_covers_the_supported_range_in_order_of_the_chain() -> None:
    versions = [release.version for release in releases.all()]
    assert (versions[0], versions[-1]) == ("0.43.0", "0.98.0")
    places = [place(release.stamp) for release in releases.all()]
    assert places == sorted(places)


def test_the_chain_is_the_one_of_the_installed_zenml() -> None:
    directory = pytest.importorskip("alembic.script").ScriptDirectory
    migrations = pytest.importorskip("zenml.zen_stores.migrations.utils").__file__.rsplit("/", 1)[0]
    chain = [revision.revision for revision in directory(migrations).walk_revisions()][::-1]
    places = [place(step) for step in chain[1 : chain.index("0.98.0") + 1]]
    assert places == sorted(places)


def test_every_revision_belongs_to_one_release() -> None:
    steps = [step for release in releases.all() for step in release.revisions]
    assert len(steps) == len(set(steps)) > 100
    assert all(re.fullmatch(r"[0-9a-f]{12}", step) for step in steps)


def test_a_backport_shares_its_stamp_with_the_release_before() -> None:
    assert releases.get("0.75.1").stamp == "0.75.0"
    assert named("0.75.0") == "0.75.0"
    assert place("0.75.0") < place("0.80.0")


def test_a_development_revision_stands_between_two_releases() -> None:
    assert place("0.75.0") < place("3b1776345020") < place("0.80.0")
    assert named("3b1776345020") == "0.80.0"


def test_stamps_before_the_supported_range_are_known_but_have_no_release() -> None:
    assert place("0.21.0") < place("0.42.1") < place("0.43.0")
    assert releases.for_stamp("0.42.1") is None


def test_an_unknown_stamp_has_no_place() -> None:
    assert releases.position("0.99.0") is None
    assert releases.for_stamp("0123456789ab") is None


def test_crossing_includes_the_target_and_leaves_out_the_source() -> None:
    assert releases.crosses("0.70.0", "0.80.0", "0.80.0")
    assert not releases.crosses("0.80.0", "0.98.0", "0.80.0")
    assert not releases.crosses("0.55.5", "0.70.0", "0.80.0")
    assert releases.pending("0.80.0", "0.80.2") == ["1f1105204aaf", "6611d4bcc95b"]
    assert releases.pending("0.80.2", "0.80.2") == []


def test_an_unknown_release_is_refused_with_near_names() -> None:
    with pytest.raises(BadPlan, match=r"0\.43\.0 to 0\.98\.0") as caught:
        releases.get("0.70")
    assert "0.70.0" in caught.value.remedy


def test_a_release_before_the_supported_range_is_refused() -> None:
    with pytest.raises(BadPlan, match=r"0\.43\.0"):
        releases.get("0.42.0")


def test_python_ranges_tell_minors_apart() -> None:
    assert releases.get("0.43.0").supports_python("3.11.7")
    assert not releases.get("0.43.0").supports_python("3.12.1")
    assert releases.get("0.91.0").supports_python("3.13")
    assert not releases.get("0.91.0").supports_python("3.9.18")


def test_candidates_and_withdrawn_releases_are_marked() -> None:
    assert releases.get("0.90.0rc0").prerelease
    assert [release.version for release in releases.all() if release.yanked] == [
        "0.44.0", "0.45.0", "0.45.1", "0.46.1", "0.56.0", "0.56.1",
    ]  # fmt: skip
