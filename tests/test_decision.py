"""The decision follows from results alone, by fixed rules."""

import dataclasses
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import databases
import pytest
from rehearsed import rehearsed

from zenml_upgrade_kit import decision, plan, stores
from zenml_upgrade_kit.errors import RunUnusable, StepFailed
from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult, judge
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import REHEARSAL, Run
from zenml_upgrade_kit.stores.address import Server


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose steps all passed on a source that is still what it was."""
    source = tmp_path / "zenml.db"
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num)")
    run = Run.create(plan.make({"out": str(tmp_path / "runs"), "store": str(source)}), "0.70.0", "0.98.0")
    facts = {"source_identity": stores.identity(source)}
    for name in REHEARSAL[:-1]:
        step = run.begin(name)
        step.finish(step.result(facts=facts if name == "00_start" else {}))
    return run


def decide(run: Run) -> dict[str, Any]:
    step = run.begin("60_decision")
    result = decision.decide(step)
    verdict: dict[str, Any] = json.loads((run.folder / "verdict.json").read_text())
    assert result.facts["verdict"] == verdict["verdict"]
    if verdict["verdict"] == "NO_GO":
        with pytest.raises(StepFailed):
            step.finish(result)
    else:
        step.finish(result)
    return verdict


def replace(run: Run, name: str, severity: Severity | None = None, not_checked: tuple[str, ...] = ()) -> None:
    found = (Finding(id="XX999", severity=severity, subject="a table", message="Seen."),) if severity else ()
    status, facts = judge(found, not_checked), {"not_checked": list(not_checked)}
    run.save(StepResult(step=name, status=status, findings=found, facts=facts))


def test_go_when_every_step_passed(run: Run) -> None:
    verdict = decide(run)
    assert verdict["verdict"] == "GO"
    assert (verdict["source_version"], verdict["target_version"]) == ("0.70.0", "0.98.0")


def test_a_warning_is_a_reason(run: Run) -> None:
    replace(run, "40_artifacts", Severity.WARN)
    verdict = decide(run)
    assert verdict["verdict"] == "GO_WITH_WARNINGS"
    assert verdict["reasons"] == ["40_artifacts: XX999 a table: Seen."]


def test_what_was_not_checked_is_a_warning_and_not_a_pass(run: Run) -> None:
    replace(run, "50_smoke_runs", not_checked=("no pipeline is named",))
    verdict = decide(run)
    assert verdict["verdict"] == "GO_WITH_WARNINGS"
    assert verdict["reasons"] == ["not checked: 50_smoke_runs: no pipeline is named"]


def test_information_alone_changes_nothing(run: Run) -> None:
    replace(run, "40_artifacts", Severity.INFO)
    assert decide(run)["verdict"] == "GO"


def test_a_blocking_finding_is_no_go(run: Run) -> None:
    replace(run, "30_rehearsal", Severity.BLOCK)
    verdict = decide(run)
    assert verdict["verdict"] == "NO_GO"
    assert verdict["reasons"] == ["30_rehearsal: XX999 a table: Seen."]


@pytest.mark.parametrize("name", REHEARSAL[:-1])
def test_a_missing_step_is_no_go(run: Run, name: str) -> None:
    (run.folder / "results" / f"{name}.json").unlink()
    verdict = decide(run)
    assert verdict["verdict"] == "NO_GO"
    assert verdict["reasons"][0] == f"{name} was not carried out"


def test_a_crashed_step_is_no_go(run: Run) -> None:
    run.fail("40_artifacts", "no space left", started="", seconds=0)
    verdict = decide(run)
    assert verdict["verdict"] == "NO_GO"
    assert "no space left" in verdict["reasons"][0]


def test_a_source_that_changed_during_the_run_is_told(run: Run) -> None:
    with closing(sqlite3.connect(run.plan.store)) as connection, connection:
        connection.execute("INSERT INTO alembic_version VALUES ('0.70.0')")
    verdict = decide(run)
    assert verdict["verdict"] == "GO_WITH_WARNINGS"
    assert "changed" in verdict["reasons"][0]


def test_a_source_that_is_gone_is_not_checked(run: Run) -> None:
    Path(run.plan.store).unlink()
    verdict = decide(run)
    assert verdict["verdict"] == "GO_WITH_WARNINGS"
    assert "whether the source changed" in verdict["reasons"][0]
    assert "no such file" in verdict["reasons"][0]


def test_a_run_of_an_older_kit_is_told_to_start_again(run: Run) -> None:
    run.save(StepResult(step="00_start", status=Status.PASS, facts={"source_sha256": "ab" * 32, "not_checked": []}))
    with pytest.raises(RunUnusable, match="older version of the kit"):
        decision.decide(run.begin("60_decision"))


# --- the copies


@pytest.fixture
def copied(run: Run) -> Path:
    """The folder of the copies of a run whose steps all passed."""
    before, _ = rehearsed(run)
    for name in ("40_artifacts", "50_smoke_runs"):
        replace(run, name)
    assert isinstance(before, Path)
    assert len(databases_in(before.parent)) == 2
    return before.parent


def databases_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.db"))


def test_the_copies_go_with_the_decision_once(run: Run, copied: Path) -> None:
    step = run.begin("60_decision")
    result = decision.decide(step)
    assert databases_in(copied) == []
    assert len(result.facts["removed"]) >= 1
    assert result.facts["kept"] == ""
    with pytest.raises(RunUnusable, match="30_rehearsal"), copies.reopen(run):
        pass
    assert decision.decide(step).facts["removed"] == []


def test_the_copies_stay_when_the_plan_says_so(run: Run, copied: Path) -> None:
    values = run.plan.model_dump() | {"rehearsal": {"keep_copy": True}}
    keeping = dataclasses.replace(run, plan=plan.make(values))
    facts = decision.decide(keeping.begin("60_decision")).facts
    assert (facts["removed"], "keep_copy" in facts["kept"]) == ([], True)
    assert len(databases_in(copied)) == 2


@pytest.mark.parametrize("name", ["40_artifacts", "50_smoke_runs"])
def test_the_copies_stay_for_a_step_that_can_still_be_carried_out(run: Run, copied: Path, name: str) -> None:
    run.fail(name, "no space left", started="", seconds=0)
    facts = decision.decide(run.begin("60_decision")).facts
    assert (facts["removed"], facts["kept"]) == ([], f"{name} needs them when it is carried out")
    assert len(databases_in(copied)) == 2
    replace(run, "30_rehearsal", Severity.BLOCK)  # these copies lead nowhere
    decision.decide(run.begin("60_decision"))
    assert databases_in(copied) == []


def test_a_server_is_compared_and_its_copies_are_removed(
    zenml_mariadb: Server, mysql_store: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = mysql_store("0.70.0", on=zenml_mariadb)
    monkeypatch.setenv("PROD", databases.zenml_url(store))
    run = Run.create(plan.make({"store": "env:PROD", "out": str(tmp_path)}), "0.70.0", "0.98.0")
    facts = {"source_identity": stores.identity(store), "not_checked": []}
    run.save(StepResult(step="00_start", status=Status.PASS, facts=facts))
    replace(run, "10_preflight")
    rehearsed(run)
    for name in ("40_artifacts", "50_smoke_runs"):
        replace(run, name)
    of_this_run = [one["name"] for one in copies.listed(store) if one["run"] == str(run.folder)]
    assert len(of_this_run) == 2
    databases.client(store, "UPDATE pipeline SET updated = '2030-01-01'")
    result = decision.decide(run.begin("60_decision"))
    assert result.facts["verdict"] == "GO_WITH_WARNINGS"
    assert [finding.id for finding in result.findings] == ["OP805"]
    assert not [one for one in copies.listed(store) if one["name"] in of_this_run]
    assert all(any(name in sentence for sentence in result.facts["removed"]) for name in of_this_run)
    assert databases.PASSWORD not in json.dumps(result.to_json())


def test_copies_on_a_server_that_does_not_answer_are_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(run, "30_rehearsal")
    result = run.needs("30_rehearsal")
    monkeypatch.setenv("AWAY", "mysql://zenml:c4nary@127.0.0.1:9/x")
    state = {"kind": "schema", "where": "there", "named": "env:AWAY", "copies": {"before": "a", "migrated": "b"}}
    run.save(StepResult(step=result.step, status=result.status, facts={**result.facts, "copies": state}))
    made = decision.decide(run.begin("60_decision"))
    (finding,) = made.findings
    assert (finding.id, finding.severity.value, made.facts["removed"]) == ("ST904", "warn", [])
    assert "zenml-upgrade copies" in finding.remedy
    assert "c4nary" not in repr(made)
