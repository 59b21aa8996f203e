"""The rehearsal: a real migration of a real old store, failures that are recognised, rows that are accounted for."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import backup, plan, preflight, rehearsal, releases
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import RunUnusable
from zenml_upgrade_kit.findings import Severity, Status, StepResult
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import sqlite

Deployment = Callable[..., Path]
Environments = Callable[[str], Environment]


@pytest.fixture
def backed_up(tmp_path: Path, environment: Environments) -> Callable[[Path, str, str], Run]:
    """A run up to the backup, with environments that are there already."""

    def make(config: Path, source: str, target: str = "0.98.0") -> Run:
        values = plan.make({"store": str(config), "to": target, "out": str(tmp_path / "runs")})
        run = preflight.start(values)
        run.save(preflight.begin_facts(run.begin("00_start")))
        found = {"source": environment(target).to_json(), "target": environment(target).to_json()}
        run.save(run.begin("10_preflight").result((), {"environments": found}))
        result = backup.back_up(run.begin("20_backup"))
        assert result.status is Status.PASS
        run.save(result)
        return run

    return make


def database(config: Path) -> Path:
    return config / "local_stores" / "default_zen_store" / "zenml.db"


def rows(result: StepResult) -> dict[str, Any]:
    return {row["table"]: row for row in result.facts["tables"]}


@pytest.mark.parametrize(("version", "by_design"), [("0.55.5", ["pipeline"]), ("0.70.0", [])])
def test_the_target_migrates_a_copy_and_every_row_is_accounted_for(
    version: str,
    by_design: list[str],
    deployment: Deployment,
    backed_up: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DISABLE_DATABASE_MIGRATION", "true")  # the user's settings must not reach the target
    monkeypatch.setenv("ZENML_STORE_URL", "sqlite:////nowhere/zenml.db")
    config = deployment(version)
    before = sqlite.digest(database(config))
    run = backed_up(config, version)
    result = rehearsal.rehearse(run.begin("30_rehearsal"))
    assert result.status is Status.PASS
    assert [(finding.id, finding.subject) for finding in result.findings] == [("RH904", table) for table in by_design]
    facts = result.facts
    assert (facts["revision_before"], facts["revision_after"], facts["zenml"]) == (version, "0.98.0", "0.98.0")
    assert facts["revisions"] == len(releases.pending(version, "0.98.0"))
    assert "Running upgrade" in facts["log_tail"]
    assert facts["source_unchanged"]
    assert sqlite.digest(database(config)) == before
    tables = rows(result)
    assert tables["pipeline_run"]["before"] == tables["pipeline_run"]["after"] == 5
    assert tables["pipeline_snapshot"]["before"] == tables["pipeline_snapshot"]["after"] > 0
    assert "pipeline_deployment" in tables["pipeline_snapshot"]["note"]
    with closing(sqlite.connect(Path(facts["copy"]))) as connection:
        assert sqlite.stamps(connection) == ["0.98.0"]
    assert not list(run.work.glob("30_rehearsal/*backup*"))


def test_several_workspaces_block_with_their_names(deployment: Deployment, backed_up: Callable[..., Run]) -> None:
    config = deployment("0.70.0")
    with closing(sqlite3.connect(database(config))) as connection, connection:
        connection.execute(
            "INSERT INTO workspace SELECT '0123456789abcdef0123456789abcdef', created, updated, 'research', description"
            " FROM workspace"
        )
    result = rehearsal.rehearse(backed_up(config, "0.70.0").begin("30_rehearsal"))
    [finding] = result.findings
    assert (finding.id, finding.severity, result.status) == ("DC101", Severity.BLOCK, Status.BLOCK)
    assert finding.message == "0.80.0 refuses a database with 2 workspaces: default, research."
    assert result.facts["tables"] == []
    with closing(sqlite.connect(database(config))) as connection:
        assert sqlite.stamps(connection) == ["0.70.0"]


def test_any_other_failure_says_where_it_stopped_and_why(deployment: Deployment, backed_up: Callable[..., Run]) -> None:
    config = deployment("0.70.0")
    with closing(sqlite3.connect(database(config))) as connection, connection:
        connection.execute("UPDATE pipeline_deployment SET step_configurations = '{'")
    result = rehearsal.rehearse(backed_up(config, "0.70.0").begin("30_rehearsal"))
    [finding] = result.findings
    assert (finding.id, finding.severity) == ("RH901", Severity.BLOCK)
    assert "at revision 3d7e39f3ac92 (of 0.83.1)" in finding.message
    assert "RuntimeError" in finding.message
    assert Path(result.facts["log"]).is_file()


def test_a_blocked_preflight_leaves_nothing_to_rehearse_with(
    deployment: Deployment, backed_up: Callable[..., Run]
) -> None:
    run = backed_up(deployment("0.70.0"), "0.70.0")
    run.save(run.begin("10_preflight").result())
    with pytest.raises(RunUnusable, match="preflight"):
        rehearsal.rehearse(run.begin("30_rehearsal"))


def test_a_renamed_table_is_compared_with_what_it_was() -> None:
    found = {
        row["table"]: row for row in rehearsal._compare("0.70.0", "0.98.0", {"workspace": 1}, {"project": 1, "tag": 0})
    }
    assert (found["project"]["before"], found["project"]["after"]) == (1, 1)
    assert found["project"]["note"] == "called workspace before 0.80.0"
    assert found["tag"]["before"] is None


def test_artifacts_that_became_versions_are_compared_with_the_versions() -> None:
    before, after = {"artifact": 18}, {"artifact": 17, "artifact_version": 18}
    found = {row["table"]: row for row in rehearsal._compare("0.43.0", "0.98.0", before, after)}
    assert (found["artifact_version"]["before"], found["artifact"]["before"]) == (18, None)
    assert list(rehearsal._losses(list(found.values()))) == []


@pytest.mark.parametrize(
    ("table", "before", "after", "expected"),
    [
        ("pipeline_run", 5, 4, "RH902"),
        ("pipeline_run", 5, 6, None),
        ("step_run", 5, None, "RH902"),
        ("pipeline", 3, 2, "RH904"),  # versions merge at 0.63.0
        ("stack", 3, 2, "RH902"),  # 0.50.0 only adds
        ("role", 2, None, "RH904"),
        ("role", 0, None, None),
        ("flavor", 45, 40, None),
    ],
)
def test_rows_that_go_need_a_reason(table: str, before: int, after: int | None, expected: str | None) -> None:
    tables = rehearsal._compare("0.43.0", "0.98.0", {table: before}, {table: after} if after is not None else {})
    assert [finding.id for finding in rehearsal._losses(list(tables))] == ([expected] if expected else [])


def test_a_reason_counts_only_where_its_release_is_crossed() -> None:
    tables = list(rehearsal._compare("0.70.0", "0.98.0", {"pipeline": 3}, {"pipeline": 2}))
    assert [finding.id for finding in rehearsal._losses(tables)] == ["RH902"]
