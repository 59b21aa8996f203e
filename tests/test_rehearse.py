"""The main job, as people run it: real old deployments go in, a verdict and a report come out."""

import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from rehearsed import kill_when

from zenml_upgrade_kit import environments, probing
from zenml_upgrade_kit.runs import REHEARSAL, Run

ROOT = Path(__file__).parent.parent
TARGET = "0.98.0"
COMMAND = [sys.executable, "-m", "zenml_upgrade_kit"]


def database(deployment: Path) -> Path:
    return deployment / "local_stores" / "default_zen_store" / "zenml.db"


def stamp(deployment: Path) -> str:
    with closing(sqlite3.connect(f"file:{database(deployment)}?mode=ro", uri=True)) as connection:
        return str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])


def surroundings(**variables: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ZENML_UPGRADE_")}
    cache = {name: os.environ[name] for name in ["ZENML_UPGRADE_CACHE"] if name in os.environ}
    return {**inherited, **cache, "PYTHONPATH": str(ROOT), **variables}


def command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=surroundings(**variables), check=False
    )


def files(folder: Path) -> dict[str, str]:
    """Every file below a folder with the digest of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Rehearsal:
    """One finished rehearsal of a deployment."""

    def __init__(self, deployment: Path, before: dict[str, str], ended: subprocess.CompletedProcess[str]) -> None:
        self.deployment, self.before, self.ended = deployment, before, ended
        self.answer: dict[str, Any] = json.loads(ended.stdout)
        self.run = Run.open(Path(self.answer["run"]))


@pytest.fixture(scope="module", params=["0.55.5", "0.70.0"])
def rehearsal(
    request: pytest.FixtureRequest, deploy: Callable[[str, Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Rehearsal:
    """A whole rehearsal from a plan file, with a pipeline, a command and a canary in a secret variable."""
    folder = tmp_path_factory.mktemp("rehearsal")
    deployment = deploy(request.param, folder / "sample")
    (folder / "plan.yaml").write_text(
        "store: env:STORE\nto: 0.98.0\ncode: sample/code\nout: runs\n"
        "pipelines:\n"
        "  - target: churn.pipelines:training_pipeline\n"
        "  - command: python smoke.py\n"
        "    environment: [TOKEN]\n"
    )
    (deployment.parent / "code" / "smoke.py").write_text(
        "import os\nfrom churn.pipelines import publishing_pipeline\n"
        "if __name__ == '__main__':\n    print(os.environ['TOKEN'])\n    publishing_pipeline()\n"
    )
    before = files(deployment.parent)
    ended = command(
        *("rehearse", folder / "plan.yaml", "--format", "json"),
        STORE=f"sqlite:///{database(deployment)}",
        TOKEN="s3cr3t-canary",
    )
    return Rehearsal(deployment, before, ended)


def test_the_answer_is_go_and_stdout_holds_it_alone(rehearsal: Rehearsal) -> None:
    assert rehearsal.ended.returncode == 0, rehearsal.ended.stderr
    assert set(rehearsal.answer) == {"run", "verdict", "report"}
    assert rehearsal.answer["verdict"] in {"GO", "GO_WITH_WARNINGS"}
    assert Path(rehearsal.answer["report"]).name == "index.html"


def test_every_step_left_its_result_and_its_page(rehearsal: Rehearsal) -> None:
    assert [result.step for result in rehearsal.run.results()] == list(REHEARSAL)
    assert {result.status.value for result in rehearsal.run.results()} <= {"pass", "warn"}
    for name in REHEARSAL:
        assert (rehearsal.run.folder / f"{name}.html").stat().st_size < 1_000_000
        assert (rehearsal.run.folder / "notebooks" / f"{name}.ipynb").exists()


def test_nothing_of_the_source_changed(rehearsal: Rehearsal) -> None:
    assert files(rehearsal.deployment.parent) == rehearsal.before


def test_the_copy_was_migrated_by_the_target(rehearsal: Rehearsal) -> None:
    facts = rehearsal.run.needs("30_rehearsal").facts
    assert (facts["revision_before"], facts["revision_after"]) == (rehearsal.run.source_version, TARGET)
    assert stamp(rehearsal.deployment) == rehearsal.run.source_version


def test_every_artifact_loads_and_has_the_same_value(rehearsal: Rehearsal) -> None:
    rows = [json.loads(line) for line in (rehearsal.run.folder / "artifacts.jsonl").read_text().splitlines()]
    outcomes = {row["name"]: row["outcome"] for row in rows}
    assert set(outcomes.values()) == {"identical"}, outcomes
    kinds = {row["data_type"].rsplit(".", 1)[-1] for row in rows}
    wanted = {"int", "float", "bool", "str", "bytes", "dict", "list", "tuple", "set"}
    wanted |= {"ndarray", "DataFrame", "Series", "LogisticRegression", "Report", "Segment", "Rule"}
    assert wanted <= kinds


def test_the_smoke_runs_did_what_their_latest_run_did(rehearsal: Rehearsal) -> None:
    reports = {report["pipeline"]: report for report in rehearsal.run.needs("50_smoke_runs").facts["runs"]}
    assert set(reports) == {"training_pipeline", "publishing_pipeline"}
    for report in reports.values():
        assert report["status"] == "completed"
        assert {step["status"] for step in report["steps"]} == {"completed"}, "nothing came from the cache"
        assert report["outputs"]
        assert {output["outcome"] for output in report["outputs"]} == {"same"}


def test_the_pages_stand_alone(rehearsal: Rehearsal) -> None:
    pages = sorted(rehearsal.run.folder.glob("*.html"))
    assert len(pages) == len(REHEARSAL) + 1
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert "<script" not in text.lower()
        assert "Content-Security-Policy" in text
        assert not re.search(r"""(?:src|href|url)\s*[=(]\s*["']?(?:https?:)?//""", text), page.name


def test_summary_junit_and_verdict_agree(rehearsal: Rehearsal) -> None:
    verdict = json.loads((rehearsal.run.folder / "verdict.json").read_text())
    assert verdict["verdict"] == rehearsal.answer["verdict"]
    assert (rehearsal.run.folder / "junit.xml").read_text().count("<failure") == 0
    summary = (rehearsal.run.folder / "summary.md").read_text()
    assert verdict["source_version"] in summary
    assert TARGET in summary


def test_the_canary_stays_out_of_everything(rehearsal: Rehearsal) -> None:
    def holds(path: Path) -> bool:
        return b"s3cr3t-canary" in path.read_bytes()

    printed = [path for path in rehearsal.run.folder.rglob("*.log") if b"[redacted]" in path.read_bytes()]
    assert printed, "the command printed the variable, so a log must show that it was masked"
    assert not [path for path in rehearsal.run.folder.rglob("*") if path.is_file() and holds(path)]
    assert "s3cr3t-canary" not in rehearsal.ended.stdout + rehearsal.ended.stderr


def test_going_back_is_one_command(rehearsal: Rehearsal, tmp_path: Path) -> None:
    """Last of this rehearsal's tests: it upgrades the deployment for real, and takes that back."""
    config = rehearsal.deployment / "config.yaml"
    before, target = config.read_bytes(), environments.of_run(rehearsal.run)[1]
    variables = {"ZENML_CONFIG_PATH": str(rehearsal.deployment)}
    probing.run_probe(target, "migrate", {}, folder=tmp_path, variables=variables, timeout=600)
    assert stamp(rehearsal.deployment) == TARGET
    assert config.read_bytes() != before
    upgraded = files(rehearsal.deployment)

    looked = command("rollback", rehearsal.run.folder)
    assert looked.returncode == 0, looked.stderr
    assert f"would: replace {database(rehearsal.deployment)}" in looked.stdout
    assert files(rehearsal.deployment) == upgraded

    done = command("rollback", rehearsal.run.folder, "--yes")
    assert done.returncode == 0, done.stderr
    assert stamp(rehearsal.deployment) == rehearsal.run.source_version
    assert config.read_bytes() == before
    assert rehearsal.run.needs("90_rollback").facts["proof"]["zenml"] == rehearsal.run.source_version
    kept = {name.partition(".before-restore")[0] for name in files(rehearsal.deployment) if ".before-restore" in name}
    assert kept == {"config.yaml", str(database(rehearsal.deployment).relative_to(rehearsal.deployment))}


def test_two_workspaces_are_no_go_with_their_finding(deployment: Callable[..., Path], tmp_path: Path) -> None:
    source = deployment("0.70.0")
    with closing(sqlite3.connect(database(source))) as connection, connection:
        connection.execute(
            "INSERT INTO workspace (id, created, updated, name, description)"
            " SELECT lower(hex(randomblob(16))), created, updated, 'second', '' FROM workspace LIMIT 1"
        )
    before = files(source)
    ended = command("rehearse", "--store", source, "--to", TARGET, "--out", tmp_path / "runs", "--format", "json")
    assert ended.returncode == 1, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["verdict"] == "NO_GO"
    run = Run.open(Path(answer["run"]))
    assert "DC101" in {finding.id for result in run.results() for finding in result.findings}
    assert run.result("40_artifacts") is None, "the workbook stops at the first step that blocks"
    assert files(source) == before


def test_a_killed_run_goes_on_where_it_was(deployment: Callable[..., Path], tmp_path: Path) -> None:
    source, out = deployment("0.70.0"), tmp_path / "runs"
    started = [*COMMAND, "rehearse", "--store", str(source), "--to", TARGET, "--out", str(out)]
    kill_when(started, out, "*/work/30_rehearsal/*", env=surroundings(), stderr=subprocess.DEVNULL)
    [folder] = [path for path in out.iterdir() if path.is_dir()]
    run = Run.open(folder)
    assert run.verdict() is None
    assert run.result("30_rehearsal") is None
    backup = run.needs("20_backup").started

    resumed = command("rehearse", "--resume", folder, "--format", "json")
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["run"] == str(folder)
    assert run.needs("20_backup").started == backup
    assert [result.step for result in run.results()] == list(REHEARSAL)
    outcomes = {row["name"]: row["outcome"] for row in run.needs("40_artifacts").facts["artifacts"]}
    unchecked = {name for name, outcome in outcomes.items() if outcome == "not_checked"}
    assert unchecked == {"report", "segment", "rule"}, "classes of code that was not given are no pass, and no failure"
