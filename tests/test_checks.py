"""The checks on facts, and the schemas behind DB004 on databases that real releases made."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import checks, releases
from zenml_upgrade_kit.checks import CATALOGUE, Check, Seen, StoreFacts, run_checks, schemas
from zenml_upgrade_kit.findings import Finding, Severity
from zenml_upgrade_kit.stores import locate, sqlite

TARGET = releases.get("0.98.0")


def facts(stamp: str = "0.70.0", **changes: Any) -> StoreFacts:
    """A healthy store at a stamp, but for the changes."""
    schema = schemas.at(stamp) or {}
    healthy = StoreFacts(
        target=TARGET,
        path="/somewhere/zenml.db",
        size=4096,
        stamps=(stamp,),
        tables={name: sorted(columns) for name, columns in schema.items()},
    )
    return replace(healthy, **changes)


def found(looked_at: StoreFacts) -> dict[str, Finding]:
    return {finding.id: finding for finding in run_checks(looked_at)[0]}


def outcomes(looked_at: StoreFacts) -> dict[str, str]:
    return {one["id"]: one["outcome"] for one in run_checks(looked_at)[1]}


# --- the catalogue


def test_a_healthy_store_passes_every_check() -> None:
    assert set(outcomes(facts()).values()) == {"passed"}


@pytest.mark.parametrize(
    ("check_id", "changes"),
    [
        ("DB001", {"target": releases.get("0.68.0")}),
        ("DB003", {"stamps": ()}),
        ("DB004", {"tables": {}}),
        ("DB005", {"stamps": ("0.60.0", "0.70.0")}),
        ("DB006", {"size": 0, "journal_mode": "", "error": "the file is empty"}),
        ("DB007", {"damage": ("database disk image is malformed",)}),
        ("DB007", {"journal_mode": "", "error": "file is not a database"}),
        ("DB007", {"missing_bytes": 7, "error": "malformed"}),
        ("DB008", {"journal_mode": "wal"}),
        ("DB008", {"wal_bytes": 4152}),
        ("DB011", {"error": "database is locked"}),
        ("BK301", {"leftover_backup": "/somewhere/zenml-backup.db", "leftover_backup_date": "2026-01-01"}),
    ],
)
def test_each_check_finds_what_it_is_for(check_id: str, changes: dict[str, Any]) -> None:
    finding = found(facts(**changes))[check_id]
    assert finding.severity is CATALOGUE[check_id].severity
    assert finding.subject
    assert finding.message.endswith(".")
    assert finding.remedy


def test_a_downgrade_names_both_versions() -> None:
    finding = found(facts(target=releases.get("0.68.0")))["DB001"]
    assert "0.70.0" in finding.message
    assert "0.68.0" in finding.message


@pytest.mark.parametrize(("stamp", "words"), [("9.0.0", "downgrade"), ("deadbeef0000", "nor this kit knows")])
def test_a_stamp_that_nobody_knows_blocks(stamp: str, words: str) -> None:
    looked_at = facts(stamps=(stamp,))
    assert words in found(looked_at)["DB001"].message
    assert outcomes(looked_at)["DB004"] == "not_checked"


@pytest.mark.parametrize(
    ("stamp", "severity"),
    [
        ("0.56.1", Severity.BLOCK),
        ("0.45.1", Severity.BLOCK),
        ("1a9a9d2a836d", Severity.BLOCK),  # shipped with 0.56.0
        ("0.46.1", Severity.WARN),
        ("0.44.0", Severity.WARN),
        ("0.56.2", None),
    ],
)
def test_withdrawn_releases_are_named(stamp: str, severity: Severity | None) -> None:
    finding = found(facts(stamp)).get("DB002")
    assert (finding.severity if finding else None) is severity


def test_a_revision_between_two_releases_is_a_development_build() -> None:
    finding = found(facts("1f1105204aaf"))["DB009"]
    assert "between 0.80.0 and 0.80.1" in finding.message
    assert set(found(facts("1f1105204aaf"))) == {"DB009"}


def test_a_stamp_that_a_backport_shares_is_told() -> None:
    assert "0.43.1" in found(facts("0.43.0"))["DB010"].message
    assert found(facts("0.43.0"))["DB010"].severity is Severity.INFO


def test_two_revisions_are_told_with_the_one_that_fits() -> None:
    finding = found(facts("0.70.0", stamps=("0.60.0", "0.70.0")))["DB005"]
    assert "The schema is that of 0.70.0" in finding.message
    assert finding.data["matching"] == ["0.70.0"]


def test_what_cannot_be_read_is_not_checked_and_never_passed() -> None:
    looked_at = facts(stamps=(), tables={}, error="database disk image is malformed", damage=("malformed",))
    results = outcomes(looked_at)
    assert {check_id for check_id, outcome in results.items() if outcome == "not_checked"} == {
        entry.id for entry in CATALOGUE.values() if entry.needs != "file"
    }
    assert set(found(looked_at)) == {"DB007"}


def test_every_check_says_why_it_exists() -> None:
    assert all(entry.purpose != entry.title and entry.purpose.endswith(".") for entry in CATALOGUE.values())


# --- the registry


def test_a_check_that_fails_is_not_checked_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(looked_at: StoreFacts) -> Iterator[Seen]:
        yield Seen(subject="x", message="seen.", remedy="nothing")
        raise KeyError("surprise")

    bad = Check(id="DB999", severity=Severity.BLOCK, title="Broken", function=broken)
    monkeypatch.setattr(checks, "CATALOGUE", {"DB999": bad, "DB008": CATALOGUE["DB008"]})
    findings, told = run_checks(facts(journal_mode="wal"))
    assert [(one["outcome"], "surprise" in one["reason"]) for one in told] == [("not_checked", True), ("found", False)]
    assert [finding.id for finding in findings] == ["DB008"]


def test_an_id_is_used_once() -> None:
    with pytest.raises(ValueError, match="DB001"):
        checks.check("DB001", severity=Severity.INFO, title="Again")(CATALOGUE["DB001"].function)


# --- schemas


@pytest.mark.parametrize("version", ["0.43.0", "0.55.5", "0.70.0"])
def test_the_schema_of_a_store_that_a_release_made_has_no_difference(
    deployment: Callable[..., Path], version: str
) -> None:
    with closing(sqlite.connect(locate(str(deployment(version))).path)) as connection:
        assert list(schemas.differences(version, sqlite.tables(connection))) == []


def test_a_neighbouring_revision_has_differences_wherever_the_schema_changed() -> None:
    revisions = [step for release in releases.all() for step in (*release.revisions, release.stamp)]
    after = revisions[revisions.index("0.43.0") + 1 :]
    for before, stamp in zip(["0.43.0", *after[:-1]], after, strict=True):
        differs = schemas.at(before) != schemas.at(stamp)
        assert bool(list(schemas.differences(before, schemas.at(stamp) or {}))) is differs, stamp


def test_tables_of_somebody_else_are_no_difference() -> None:
    looked_at = facts()
    tables = {**looked_at.tables, "mine": ["id"], "user": [*looked_at.tables["user"], "nickname"]}
    assert found(replace(looked_at, tables=tables)) == {}


def test_the_table_of_an_unfinished_step_is_a_difference() -> None:
    looked_at = facts()
    finding = found(replace(looked_at, tables={**looked_at.tables, "_alembic_tmp_user": ["id"]}))["DB004"]
    assert finding.subject == "_alembic_tmp_user"


def test_many_differences_are_counted_and_kept_as_data() -> None:
    finding = found(facts("0.43.0", stamps=("0.98.0",)))["DB004"]
    assert "and " in finding.message
    assert "more" in finding.message
    assert len(finding.data["differences"]) > 50


# --- a server's database


def on_a_server(**changes: Any) -> StoreFacts:
    name = "mysql://zenml@db:3306/zenml"
    return replace(facts(), **{"engine": "mysql", "path": name, "size": 0, "journal_mode": "", **changes})


def test_a_healthy_server_passes_what_is_not_about_files() -> None:
    told = outcomes(on_a_server())
    assert {told.pop(check_id) for check_id in ("DB006", "DB007", "DB008")} == {"not_applicable"}
    assert set(told.values()) == {"passed"}


def test_an_empty_database_on_a_server_is_no_store() -> None:
    finding = found(on_a_server(tables={}, stamps=()))["DB003"]
    assert "mysql://zenml@db:3306/zenml is empty" in finding.message
    assert "name of the database" in finding.remedy


def test_a_database_of_another_program_on_a_server_is_no_store() -> None:
    finding = found(on_a_server(tables={"notes": ["id"]}, stamps=()))["DB003"]
    assert "not a ZenML store" in finding.message
    assert "zenml.db" not in finding.remedy


def test_a_server_that_cannot_be_read_says_what_helps() -> None:
    finding = found(on_a_server(tables={}, stamps=(), error="no grant", remedy="GRANT SELECT ON `z`.* TO the user z"))
    assert finding.keys() == {"DB011"}
    assert finding["DB011"].remedy == "GRANT SELECT ON `z`.* TO the user z."
