"""The rehearsal: real old stores, migrated and compared row by row; failures named, remedies tried, copies removed."""

from __future__ import annotations

import fcntl
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import databases
import examples
import pytest
from rehearsed import kill_when

from zenml_upgrade_kit import backup, plan, preflight, rehearsal_views, runs, stores
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import BadPlan, RunUnusable, StoreUnreadable
from zenml_upgrade_kit.findings import Severity, Status, StepResult
from zenml_upgrade_kit.rehearsal import copies, migration, trial
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import mysql, scratch, sqlite
from zenml_upgrade_kit.stores.address import Server

Deployment = Callable[..., Path]
Environments = Callable[[str], Environment]
BackedUp = Callable[..., Run]
TARGET = "0.98.0"
FAST = ["0.43.0", "0.55.5", "0.70.0"]
SLOW = ["0.50.0", "0.58.2", "0.60.0", "0.68.1", "0.75.0", "0.80.2", "0.85.0", "0.90.0", "0.94.1", "0.97.0"]
TWICE = (
    "CREATE TEMP TABLE twice AS SELECT * FROM step_run LIMIT 1",
    "UPDATE twice SET id = '0123456789abcdef0123456789abcdef'",
    "INSERT INTO step_run SELECT * FROM twice",
)
"""Statements for a step run that is there twice, which no release from 0.72.0 on allows."""
MATRIX = [*FAST, *(pytest.param(version, marks=pytest.mark.nightly) for version in SLOW)]


@pytest.fixture
def backed_up(tmp_path: Path, environment: Environments, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackedUp]:
    """A run up to the backup, with environments that are there already; its copies go in the end."""
    made: list[Run] = []

    def make(store: Path | Server, source: str, target: str = TARGET, **choices: Any) -> Run:
        given = str(store)
        if isinstance(store, Server):
            monkeypatch.setenv("PROD", databases.zenml_url(store))
            given = "env:PROD"
        values = plan.make({"store": given, "to": target, "out": str(tmp_path / "runs"), "rehearsal": choices})
        run = preflight.start(values)
        made.append(run)
        run.save(preflight.begin_facts(run.begin("00_start")))
        found = {"source": environment(source).to_json(), "target": environment(target).to_json()}
        run.save(run.begin("10_preflight").result((), {"environments": found}))
        result = backup.back_up(run.begin("20_backup"))
        assert not [finding for finding in result.findings if finding.severity is Severity.BLOCK]
        run.save(result)
        return run

    yield make
    for run in made:
        copies.end(run)


def database(config: Path) -> Path:
    return config / "local_stores" / "default_zen_store" / "zenml.db"


def rehearsed(run: Run, **choices: Any) -> StepResult:
    result = trial.rehearse(run.begin("30_rehearsal"), tell=lambda _: None, **choices)
    run.save(result)
    return result


def ids(result: StepResult, severity: Severity = Severity.BLOCK) -> list[str]:
    return [finding.id for finding in result.findings if finding.severity is severity]


def plant(store: Path, *statements: str) -> None:
    with closing(sqlite3.connect(store)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def proven(result: StepResult, source: str) -> dict[str, Any]:
    """The facts of a rehearsal in which everything is accounted for."""
    assert not ids(result), [(one.id, one.message) for one in result.findings]
    facts = dict(result.facts)
    assert not result.not_checked
    assert (facts["revision_before"], facts["revision_after"], facts["hops"][-1]["version"]) == (source, TARGET, TARGET)
    assert facts["proof"]["unexplained"] == []
    assert facts["proof"]["totals"]["rows"] > 50
    assert {one["outcome"] for one in facts["proof"]["tables"]} & {"unexplained", "not_checked"} == set()
    assert facts["source_unchanged"]
    assert facts["drill"]["zenml"] == source
    assert facts["drill"]["runs"] == 5
    assert 0 < facts["forecast"]["downtime"] <= facts["forecast"]["with_rollback"]
    assert sum(one["seconds"] for one in facts["story"]) <= facts["seconds"] * 1.01
    return facts


@pytest.mark.parametrize("version", MATRIX)
def test_every_row_of_an_old_store_is_accounted_for(
    version: str, deployment: Deployment, backed_up: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISABLE_DATABASE_MIGRATION", "true")  # the user's settings must not reach the target
    monkeypatch.setenv("ZENML_STORE_URL", "sqlite:////nowhere/zenml.db")
    config = deployment(version)
    before = sqlite.digest(database(config))
    run = backed_up(config, version)
    facts = proven(rehearsed(run), version)
    assert "Running upgrade" in facts["log_tail"]
    assert sqlite.digest(database(config)) == before
    with copies.reopen(run) as (pristine, migrated):
        for place, stamp in ((pristine, version), (migrated, TARGET)):
            with closing(stores.connect(place)) as connection:
                assert stores.stamps(connection) == [stamp]
    assert not list(run.work.glob("30_rehearsal/**/*backup*"))


@pytest.mark.parametrize(
    "version",
    ["0.55.5", "0.70.0", *(pytest.param(version, marks=pytest.mark.nightly) for version in ("0.60.0", "0.80.2"))],
)
def test_every_row_of_a_server_store_is_accounted_for_beside_it(
    version: str,
    mysql_store: Callable[..., Server],
    zenml_mariadb: Server,
    backed_up: BackedUp,
) -> None:
    store = mysql_store(version, zenml_mariadb)
    before = stores.identity(store)
    run = backed_up(store, version)
    facts = proven(rehearsed(run), version)
    assert facts["copies"]["kind"] == "schema"
    assert stores.identity(store) == before
    held = {left["name"] for left in scratch.leftovers(store)}
    assert len(held) >= 2
    assert copies.end(run)
    assert not {left["name"] for left in scratch.leftovers(store)} & held
    canary = databases.PASSWORD.encode()
    assert not [path for path in run.folder.rglob("*") if path.is_file() and canary in path.read_bytes()]


def test_what_goes_by_design_is_told_and_kept(deployment: Deployment, backed_up: BackedUp) -> None:
    config = deployment("0.43.0")
    run = backed_up(config, "0.43.0")
    result = rehearsed(run)
    gone = {(one["table"], one["column"]): one for one in result.facts["proof"]["dropped"] if one["rows"]}
    assert ("role", "") in gone
    assert "RH904" in ids(result, Severity.INFO)
    kept = run.folder / gone["role", ""]["file"]
    assert kept.stat().st_mode & 0o077 == 0
    assert len(kept.read_text().splitlines()) == gone["role", ""]["rows"] + 1
    stacks = [one for one in result.facts["people"] if one["kind"] == "stacks" and one["change"] == "renamed"]
    assert [(one["before"], one["after"][:8]) for one in stacks] == [("default", "default-")]


def test_a_known_condition_is_named_with_its_rows_and_its_remedy_is_tried_on_copies_alone(
    deployment: Deployment, backed_up: BackedUp
) -> None:
    config = deployment("0.70.0")
    plant(database(config), *TWICE)
    before = sqlite.digest(database(config))
    run = backed_up(config, "0.70.0", bisect=False)
    result = rehearsed(run)
    assert ids(result) == ["DC107"]
    [obstacle] = [one for one in result.facts["obstacles"] if one["id"] == "DC107"]
    assert obstacle["rows"]
    assert obstacle["statements"]
    assert "proof" not in result.facts

    with pytest.raises(BadPlan, match="DC101"):
        rehearsed(run, try_remedy="DC101")
    tried = rehearsed(run, try_remedy="DC107")
    assert ids(tried) == ["RH907"], "it works, but production still has the rows"
    assert tried.facts["proof"]["unexplained"] == []
    assert sqlite.digest(database(config)) == before


def test_a_failure_that_nobody_knows_says_where_it_stopped_and_why(deployment: Deployment, backed_up: BackedUp) -> None:
    config = deployment("0.70.0")
    plant(
        database(config),
        "CREATE TRIGGER nobody_knows BEFORE UPDATE ON pipeline_run"
        " BEGIN SELECT RAISE(ABORT, 'a rule of somebody else'); END",
    )
    run = backed_up(config, "0.70.0", bisect=False)
    database(config).unlink()  # which is no reason to lose what was found
    result = rehearsed(run)
    [finding] = [one for one in result.findings if one.severity is Severity.BLOCK]
    assert result.facts["source_unchanged"] is None
    assert [one for one in result.not_checked if one.startswith("whether the store is as it was: ")]
    assert "The store itself could not be compared" in rehearsal_views.summary(result).text
    assert finding.id == "RH901"
    assert finding.data["stopped_at"]
    assert "a rule of somebody else" in finding.message
    assert Path(result.facts["log"]).is_file()
    assert result.facts["forecast"] == {}
    assert "Nothing was compared" in rehearsal_views.dropped(result).text
    tried = {"bisection": {"first_failing": "0.83.1", "last_working": "0.83.0"}}
    told = rehearsal_views.obstacles(replace(result, facts={**result.facts, **tried})).text
    assert "the first that fails is 0.83.1" in told


def test_a_table_that_is_gone_is_shown_without_rows_of_it() -> None:
    result = examples.rehearsal()
    gone = {"table": "tag", "column": "", "kind": "missing", "count": 7, "examples": []}
    proof = {**result.facts["proof"], "unexplained": [gone]}
    text = rehearsal_views.tables(replace(result, facts={**result.facts, "proof": proof})).text
    assert "tag" in text.partition("Not explained")[2].partition("Tables that change")[0]


@pytest.mark.parametrize("timed_out", [True, False])
def test_a_migration_that_waits_is_blamed_on_no_row_and_no_release(
    timed_out: bool, deployment: Deployment, backed_up: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also, a database that is lost meanwhile meets no condition that anybody knows of, and that is said."""
    config, revision = deployment("0.70.0"), "26351d482b9e"
    plant(database(config), *TWICE)
    run, identity = backed_up(config, "0.70.0"), "RH903" if timed_out else "RH901"

    def waited(*_: Any, **__: Any) -> migration.Hop:
        return migration.Hop(
            version=TARGET,
            started_at="0.70.0",
            reached="0.71.0",
            seconds=9.0,
            revisions=(),
            memory=0,
            disk=0,
            error={"type": "timeout", "message": "not done", "traceback": ""},
            stopped_at=revision,
            timed_out=timed_out,
            held_by=("session 7",),
            log="",
        )

    restore = copies.Site.restore

    def lost(self: copies.Site, name: str) -> Any:
        if name == "before":
            raise StoreUnreadable("the server cannot be read", expected="an answer", found="none", remedy="wait")
        return restore(self, name)

    monkeypatch.setattr(migration, "migrate", waited)
    assert ids(rehearsed(run)) == [identity, "DC107"]
    monkeypatch.setattr(copies.Site, "restore", lost)
    result = rehearsed(run)
    assert ids(result) == [identity]
    assert {"which release fails first", "the conditions that this database meets: none"} <= {*result.not_checked}


def test_a_half_migrated_store_is_found_by_its_shape(deployment: Deployment, backed_up: BackedUp) -> None:
    config = deployment("0.70.0")
    plant(database(config), "CREATE UNIQUE INDEX too_early ON step_run (name, pipeline_run_id)")
    result = rehearsed(backed_up(config, "0.70.0", bisect=False))
    [finding] = [one for one in result.findings if one.id == "DB004"]
    assert "step_run has the unique rule (name, pipeline_run_id)" in finding.message
    assert result.status is Status.BLOCK


def test_what_a_killed_migration_left_on_a_server_is_found_before_anything_is_migrated(
    mysql_store: Callable[..., Server],
    zenml_mariadb: Server,
    environment: Environments,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = mysql_store("0.70.0", zenml_mariadb)
    with closing(mysql.connect(store)) as reader:  # 0.71.0 makes a table, then waits for this one to alter another
        mysql.begin(reader)
        reader.execute("SELECT COUNT(*) FROM run_metadata")
        hop = migration.migrate(
            environment(TARGET), store, folder=tmp_path / "killed", variables=copies.variables(store), timeout=30
        )
    assert hop.timed_out
    monkeypatch.setenv("PROD", databases.zenml_url(store))
    result = preflight.check(plan.make({"store": "env:PROD", "to": TARGET}))
    [finding] = [one for one in result.findings if one.id == "DB004"]
    assert finding.severity is Severity.BLOCK
    assert "run_metadata_resource" in finding.message


@pytest.mark.nightly
def test_after_a_failure_the_releases_between_are_tried(deployment: Deployment, backed_up: BackedUp) -> None:
    config = deployment("0.70.0")
    plant(
        database(config),
        *TWICE,
        "INSERT INTO workspace SELECT '0123456789abcdef0123456789abcdef', created, updated, 'research', description"
        " FROM workspace",
    )
    result = rehearsed(backed_up(config, "0.70.0"), try_remedy="DC107")  # which those copies get, too
    assert ids(result) == ["RH907", "DC101"]
    found = result.facts["bisection"]
    assert (found["last_working"], found["first_failing"]) == ("0.75.1", "0.80.0")


@pytest.mark.nightly
def test_a_release_to_stop_at_is_rehearsed_on_the_way(deployment: Deployment, backed_up: BackedUp) -> None:
    run = backed_up(deployment("0.55.5"), "0.55.5")
    facts = proven(rehearsed(run, via="0.80.2"), "0.55.5")
    assert [(hop["version"], hop["started_at"], hop["reached"]) for hop in facts["hops"]] == [
        ("0.80.2", "0.55.5", "0.80.2"),
        (TARGET, "0.80.2", TARGET),
    ]


def test_an_impossible_stop_is_refused_before_anything_is_copied(deployment: Deployment, backed_up: BackedUp) -> None:
    run = backed_up(deployment("0.70.0"), "0.70.0")
    for via in ("0.56.0", "0.60.0", "1.2.3"):
        with pytest.raises(BadPlan):
            rehearsed(run, via=via)
    assert not list(run.work.glob("30_rehearsal/**/*.db"))


def test_copies_that_another_process_reads_are_not_replaced(
    deployment: Deployment, backed_up: BackedUp, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = backed_up(deployment("0.70.0"), "0.70.0")
    copy = run.work / "30_rehearsal" / "copies" / "before.db"
    copy.parent.mkdir(parents=True)
    copy.touch()
    monkeypatch.setattr(runs, "PATIENCE", 0)
    with (run.work / "copies.lock").open("a") as reading:
        fcntl.flock(reading, fcntl.LOCK_EX)
        with pytest.raises(RunUnusable, match="in use"):
            rehearsed(run)
    assert copy.exists()


def test_a_blocked_preflight_leaves_nothing_to_rehearse_with(deployment: Deployment, backed_up: BackedUp) -> None:
    run = backed_up(deployment("0.70.0"), "0.70.0")
    run.save(run.begin("10_preflight").result())
    with pytest.raises(RunUnusable, match="preflight"):
        rehearsed(run)


def test_the_store_may_be_written_to_meanwhile(deployment: Deployment, backed_up: BackedUp) -> None:
    config = deployment("0.70.0")
    run = backed_up(config, "0.70.0")
    plant(database(config), "UPDATE user SET email = 'new@example.org'")
    result = rehearsed(run)
    assert not ids(result)
    assert not result.facts["source_unchanged"]
    with copies.reopen(run) as (pristine, _), closing(stores.connect(pristine)) as connection:
        query = "SELECT COUNT(*) FROM user WHERE email = 'new@example.org'"
        assert next(iter(connection.execute(query)))[0] == 0


@pytest.mark.parametrize("moment", ["before", "migrated", "people"])
def test_a_kill_leaves_the_store_alone_and_the_next_attempt_works(
    moment: str, deployment: Deployment, backed_up: BackedUp
) -> None:
    config = deployment("0.70.0")
    before = sqlite.digest(database(config))
    run = backed_up(config, "0.70.0")
    code = "from zenml_upgrade_kit import runs; from zenml_upgrade_kit.rehearsal import trial;"
    code += f"trial.rehearse(runs.begin('30_rehearsal', {str(run.folder)!r}))"
    pattern = {"before": "**/*before*", "migrated": "migration/**/*.log", "people": "people/**/*.log"}[moment]
    kill_when([sys.executable, "-c", code], run.work / "30_rehearsal", pattern)
    assert sqlite.digest(database(config)) == before
    assert not (run.folder / "results" / "30_rehearsal.json").exists()
    proven(rehearsed(run), "0.70.0")
    assert json.loads((run.folder / "results" / "30_rehearsal.json").read_text())["status"] in ("pass", "warn")
