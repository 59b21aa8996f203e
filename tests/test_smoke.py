"""Smoke runs: real pipelines under a real release, and what is said of those that do not do what they did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rehearsed import rehearsed

from zenml_upgrade_kit import plan, smoke
from zenml_upgrade_kit.choices import SmokeRun
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import BadPlan
from zenml_upgrade_kit.findings import Finding, Status, StepResult
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import sqlite

CASES = """
import sys, time
from typing_extensions import Annotated
from zenml import pipeline, step
from churn.pipelines import collections, facts_pipeline

@step
def one() -> Annotated[int, "one"]:
    return 1

@step
def sleeper() -> Annotated[int, "slept"]:
    time.sleep(3600)
    return 1

@pipeline
def unknown_to_the_store():
    one()

@pipeline
def hanging():
    sleeper()

@pipeline(name="training_pipeline")
def other_steps():
    one()
"""


@pytest.fixture(scope="module")
def outcome(
    deploy: Callable[[str, Path], Path],
    environment: Callable[[str], Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, dict[str, Any]]:
    """Reports and findings by the name of the plan's entry, of one step with every kind of run.

    The source release itself stands in for the target: no migration is needed to see what a run does.
    """
    folder = tmp_path_factory.mktemp("smoke")
    deployment = deploy("0.70.0", folder / "sample")
    code = deployment.parent / "code"
    (code / "cases.py").write_text(CASES)
    pipelines = code / "churn" / "pipelines.py"
    broken = 'raise KeyError("a library moved")\n    return 120'
    pipelines.write_text(pipelines.read_text().replace("return 120", broken))
    (code / "noop.py").write_text("print('nothing to do')\n")
    (code / "late.py").write_text(
        "from churn.pipelines import publishing_pipeline\n"
        "if __name__ == '__main__':\n    publishing_pipeline()\n    raise SystemExit(3)\n"
    )
    entries: list[dict[str, Any]] = [
        {"target": "churn.pipelines:publishing_pipeline", "parameters": {"rows": 60}},
        {"target": "churn.pipelines:facts_pipeline"},
        {"target": "cases:unknown_to_the_store"},
        {"target": "cases:hanging", "timeout": 20},
        {"target": "cases:other_steps"},
        {"target": "cases:not_there"},
        {"command": "python noop.py"},
        {"command": "python late.py"},
        {"command": "no-such-command"},
    ]
    made = plan.make({"store": str(deployment), "out": str(folder / "runs"), "code": str(code), "pipelines": entries})
    run = Run.create(made, "0.70.0", "0.70.0")
    used = environment("0.70.0").to_json()
    facts = {"environments": {"source": used, "target": used}}
    run.save(StepResult(step="10_preflight", status=Status.PASS, facts=facts))
    _, copy = rehearsed(run)
    assert isinstance(copy, Path)
    before = sqlite.digest(copy), {path: path.read_bytes() for path in code.rglob("*.py")}
    result = smoke.run(run.begin("50_smoke_runs"))
    assert (sqlite.digest(copy), {path: path.read_bytes() for path in code.rglob("*.py")}) == before
    assert result.facts["store"] == "a copy of the migrated copy"
    reports = {report["name"]: report for report in result.facts["runs"]}
    for report in reports.values():
        report["findings"] = [finding for finding in result.findings if report["pipeline"] in finding.subject]
    return reports


def only(findings: list[Finding], identity: str) -> Finding:
    [finding] = [finding for finding in findings if finding.id == identity]
    return finding


def test_a_run_like_the_latest_one_is_compared_with_it(outcome: dict[str, dict[str, Any]]) -> None:
    report = outcome["churn.pipelines:publishing_pipeline"]
    assert report["status"] == report["expected"] == "completed"
    assert [step["name"] for step in report["steps"]] == ["segment", "publish"]
    assert {step["status"] for step in report["steps"]} == {"completed"}


def test_a_pipeline_that_completed_before_and_fails_now_blocks(outcome: dict[str, dict[str, Any]]) -> None:
    report = outcome["churn.pipelines:facts_pipeline"]
    assert (report["outcome"], report["status"]) == ("failed", "failed")
    finding = only(report["findings"], "SR951")
    assert finding.severity.value == "block"
    assert "a library moved" in finding.message
    assert "a library moved" in report["log_tail"]


def test_a_pipeline_without_an_earlier_run_has_nothing_to_compare_with(outcome: dict[str, dict[str, Any]]) -> None:
    report = outcome["cases:unknown_to_the_store"]
    assert (report["outcome"], report["status"]) == ("not_checked", "completed")
    assert only(report["findings"], "SR952").severity.value == "info"


def test_a_run_that_does_not_end_is_ended(outcome: dict[str, dict[str, Any]]) -> None:
    finding = only(outcome["cases:hanging"]["findings"], "SR951")
    assert "did not end within 20 seconds" in finding.message


def test_other_steps_than_before_are_told(outcome: dict[str, dict[str, Any]]) -> None:
    report = outcome["cases:other_steps"]
    assert report["outcome"] == "different"
    told = {finding.subject.rpartition(" ")[2] for finding in report["findings"] if finding.id == "SR954"}
    assert told == {"one", "load", "to_array", "train", "evaluate"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cases:not_there", "no attribute 'not_there'"),
        ("python noop.py", "no pipeline run in the store"),
        ("no-such-command", "does not start"),
    ],
)
def test_an_entry_that_makes_no_run_blocks(outcome: dict[str, dict[str, Any]], name: str, words: str) -> None:
    report = outcome[name]
    assert (report["outcome"], report["status"]) == ("failed", "no run")
    assert words in only(report["findings"], "SR951").message


def test_a_command_that_fails_after_its_run_blocks(outcome: dict[str, dict[str, Any]]) -> None:
    report = outcome["python late.py"]
    assert (report["outcome"], report["status"]) == ("failed", "completed")
    assert "exit code 3" in only([f for f in report["findings"] if report["run_id"] in f.subject], "SR951").message


def test_a_plan_without_pipelines_is_not_checked(tmp_path: Path) -> None:
    run = Run.create(plan.make({"out": str(tmp_path)}), "0.70.0", "0.98.0")
    assert smoke.run(run.begin("50_smoke_runs")).status is Status.NOT_CHECKED


def test_pipelines_without_code_cannot_be_run(tmp_path: Path) -> None:
    made = plan.make({"out": str(tmp_path), "pipelines": [{"target": "a:b"}]})
    run = Run.create(made, "0.70.0", "0.98.0")
    with pytest.raises(BadPlan, match="code"):
        smoke.run(run.begin("50_smoke_runs"))


def test_a_pipeline_that_failed_before_may_fail_again() -> None:
    report = {"pipeline": "p", "run_id": "1", "status": "failed", "expected": "failed", "outcome": "same"}
    [finding] = smoke._findings({**report, "steps": [], "outputs": [], "error": "RuntimeError"})
    assert (finding.id, finding.severity.value) == ("SR953", "info")


def test_an_entry_is_named_by_what_it_runs() -> None:
    assert SmokeRun(target="a.b:c").name == "a.b:c"
    assert SmokeRun(command="python run.py").name == "python run.py"
