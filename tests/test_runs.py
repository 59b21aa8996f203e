"""The run folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zenml_upgrade_kit import plan, runs
from zenml_upgrade_kit.errors import RunUnusable, StepFailed
from zenml_upgrade_kit.findings import Finding, Severity, Status
from zenml_upgrade_kit.runs import Run

BLOCK = Finding(id="DB004", severity=Severity.BLOCK, subject="pipeline_run", message="A column is missing.")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(plan.make({"out": str(tmp_path / "runs")}), "0.70.0", "0.98.0")


def test_two_runs_of_one_moment_get_two_folders(run: Run) -> None:
    other = Run.create(run.plan, "0.70.0", "0.98.0")
    assert other.folder != run.folder
    assert other.folder.parent == run.folder.parent


def test_a_run_is_read_back_as_it_was_made(run: Run) -> None:
    assert Run.open(run.folder) == run


def test_the_newest_run_is_found(run: Run) -> None:
    later = Run.create(run.plan, "0.70.0", "0.98.0")
    assert Run.newest(run.plan.out).folder == later.folder


@pytest.mark.parametrize("content", [None, "", "{}", "[]"])
def test_a_folder_that_is_no_run_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "plan.json").write_text(content)
    with pytest.raises(RunUnusable, match="is not a run"):
        Run.open(tmp_path)


def test_a_result_survives_the_round_trip(run: Run) -> None:
    step = run.begin("00_start")
    result = step.result([BLOCK], {"tables": 3}, ["one thing"])
    run.save(result)
    assert run.result("00_start") == result
    assert result.not_checked == ["one thing"]
    assert result.status is Status.BLOCK


ANOTHER = """
import sys, time
from pathlib import Path
from zenml_upgrade_kit.runs import Run
step = Run.open(Path(sys.argv[1])).begin("30_rehearsal")
print("begun", flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_a_step_is_carried_out_by_one_process_at_a_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ANOTHER, str(run.folder), "600"], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "begun\n"
        run.begin("40_artifacts")  # another step is free
        monkeypatch.setattr(runs, "PATIENCE", 0.2)
        with pytest.raises(RunUnusable, match="is in use") as refused:
            run.begin("30_rehearsal")
        assert "30_rehearsal" in refused.value.expected
        other.kill()
    step = run.begin("30_rehearsal")
    assert run.begin("30_rehearsal").name == "30_rehearsal"  # a cell that is run again
    step.finish(step.result())
    subprocess.run([sys.executable, "-c", ANOTHER, str(run.folder), "0"], check=True)


def test_finishing_with_a_block_saves_first_and_then_fails(run: Run) -> None:
    step = run.begin("10_preflight")
    with pytest.raises(StepFailed, match="DB004 pipeline_run"):
        step.finish(step.result([BLOCK]))
    assert run.needs("10_preflight").findings == (BLOCK,)


def test_beginning_again_removes_the_earlier_result(run: Run) -> None:
    step = run.begin("10_preflight")
    step.finish(step.result())
    run.begin("10_preflight")
    assert run.result("10_preflight") is None


def test_what_was_not_checked_is_never_a_pass(run: Run) -> None:
    assert run.begin("40_artifacts").result(not_checked=["nothing was"]).status is Status.NOT_CHECKED


def test_a_step_cannot_build_on_one_that_could_not_be_carried_out(run: Run) -> None:
    with pytest.raises(RunUnusable, match="needs the result of 20_backup"):
        run.needs("20_backup")
    run.fail("20_backup", "disk full", started="", seconds=0)
    with pytest.raises(RunUnusable, match="needs the result of 20_backup"):
        run.needs("20_backup")


def test_secrets_do_not_reach_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORE_SECRET", "canary-in-variable")
    config = tmp_path / "config.yaml"
    config.write_text("store:\n  password: canary-in-config\n")
    made = plan.make({"out": str(tmp_path / "runs"), "store": "env:STORE_SECRET"})
    run = Run.create(made, "0.70.0", "0.98.0", config)
    step = run.begin("00_start")
    step.finish(step.result(facts={"log": "canary-in-variable canary-in-config mysql://u:canary-url@h/d"}))
    written = "".join(path.read_text() for path in run.folder.rglob("*.json"))
    assert "canary" not in written
    assert "[redacted]" in written


def test_code_is_copied_without_what_is_not_code(tmp_path: Path) -> None:
    code = tmp_path / "code"
    for name in ("pipelines/training.py", ".git/config", ".zen/config.yaml", "env/pyvenv.cfg", "archive/old/plan.json"):
        (code / name).parent.mkdir(parents=True, exist_ok=True)
        (code / name).write_text("x")
    run = Run.create(plan.make({"code": str(code), "out": str(code / "archive")}), "0.70.0", "0.98.0")
    copy = run.code_copy()
    assert copy is not None
    assert [path.name for path in copy.rglob("*") if path.is_file()] == ["training.py"]


def test_a_folder_without_write_permission_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunUnusable, match="no run can be archived"):
        Run.create(plan.make({"out": str(tmp_path / "file" / "runs")}), "0.70.0", "0.98.0")


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "verdict.json"
    runs.write_whole(path, "old")
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError("killed")))
    with pytest.raises(OSError, match="killed"):
        runs.write_whole(path, json.dumps({"new": 1}))
    assert path.read_text() == "old"
