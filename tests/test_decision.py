"""The decision follows from results alone, by fixed rules."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import decision, plan
from zenml_upgrade_kit.errors import StepFailed
from zenml_upgrade_kit.findings import Finding, Severity, StepResult, judge
from zenml_upgrade_kit.runs import REHEARSAL, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run whose steps all passed on a source that is still what it was."""
    source = tmp_path / "zenml.db"
    source.write_bytes(b"SQLite format 3\0 and more")
    run = Run.create(plan.make({"out": str(tmp_path / "runs"), "store": str(source)}), "0.70.0", "0.98.0")
    facts = {"store": {"path": str(source)}, "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest()}
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
    Path(run.plan.store).write_bytes(b"SQLite format 3\0 and other rows")
    verdict = decide(run)
    assert verdict["verdict"] == "GO_WITH_WARNINGS"
    assert "changed" in verdict["reasons"][0]
