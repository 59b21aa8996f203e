"""Smoke runs: the user's pipelines run under the target release and are compared with their latest earlier run."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import artifacts, environments, inventory
from zenml_upgrade_kit.artifacts import Loaded
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import BadPlan
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.plan import SmokeRun
from zenml_upgrade_kit.runs import Step
from zenml_upgrade_kit.stores import sqlite

PROBE = "run_pipeline"
DONE = {"completed", "cached"}


def run(step: Step) -> StepResult:
    """Run the plan's pipelines against a copy of the migrated store, with local artifact storage inside the run."""
    if not step.plan.pipelines:
        return step.result(
            not_checked=["no pipeline is named in the plan (pipelines:), so none was run"], facts={"runs": []}
        )
    code = step.run.code_copy()
    if code is None:
        raise BadPlan(
            "the pipelines of the plan cannot be run",
            expected="code: a directory with your pipelines",
            found="no code directory",
            remedy="add code: to the plan, or --code DIR",
        )
    rehearsal = step.run.needs("30_rehearsal")
    database = Path(shutil.copy2(rehearsal.facts["copy"], step.empty_work() / "zenml.db"))
    _forget_cache(database)
    _, target = environments.of_run(step.run)
    earlier = _runs(database)
    values = _values(step)
    reports, findings, not_compared = [], [], []
    for number, smoke in enumerate(step.plan.pipelines, 1):
        folder = step.work / f"{number:02d}"
        for report in _carry_out(step, smoke, target, code, database, earlier, values, folder):
            reports.append(report)
            findings += list(_findings(report))
            not_compared += [
                f"{report['pipeline']}: output {output['step']}.{output['output']} has nothing to compare with"
                for output in report["outputs"]
                if output["outcome"] == "not_checked"
            ]
    return step.result(findings, {"runs": reports}, not_compared)


def _forget_cache(database: Path) -> None:
    """Make the copy forget cached steps: a smoke run must execute its code, and old outputs lie outside its storage."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE step_run SET cache_key = NULL")


def _runs(database: Path) -> list[dict[str, Any]]:
    with closing(sqlite.connect(database)) as connection:
        return inventory.runs(connection)


def _values(step: Step) -> dict[str, Mapping[str, Any]]:
    """What the target release made of each earlier artifact version, by id, from the reload checks."""
    reloaded = step.run.result("40_artifacts")
    return {row["id"]: row["new"] for row in reloaded.facts.get("artifacts", ())} if reloaded else {}


def _carry_out(
    step: Step,
    smoke: SmokeRun,
    target: Environment,
    code: Path,
    database: Path,
    earlier: Sequence[Mapping[str, Any]],
    values: Mapping[str, Mapping[str, Any]],
    folder: Path,
) -> Iterator[dict[str, Any]]:
    """Reports of the runs that one entry of the plan made; one report without a run when it made none."""
    began = time.monotonic()
    known = {row["id"] for row in _runs(database)}
    storage = step.work / "stores"
    ended, error = _start(smoke, target, code, database, storage, folder)
    seconds = time.monotonic() - began
    new = [row for row in _runs(database) if row["id"] not in known][::-1]
    log_tail = ended.last_lines(40)
    if not new:
        latest = next((row for row in earlier if row["pipeline"] == smoke.target.partition(":")[2]), None)
        yield {
            "name": smoke.name,
            "pipeline": smoke.name,
            "run_id": "",
            "status": "no run",
            "steps": [],
            "outputs": [],
            "expected": latest["status"] if latest else "",
            "outcome": "failed",
            "error": error or f"exit code {ended.returncode}, and no pipeline run in the store",
            "seconds": seconds,
            "log_tail": log_tail,
        }
        return
    produced = {output["artifact_version_id"] for row in new for part in row["steps"] for output in part["outputs"]}
    with closing(sqlite.connect(database)) as connection:
        rows = inventory.artifacts(connection, storage)
    wanted = [row for row in rows if row["id"] in produced and row["store_flavor"] == "local"]
    loaded = artifacts.load(
        target, wanted, folder=folder / "outputs", database=database, code=code, timeout=step.plan.artifact_timeout
    )
    for row in new:
        latest = next((old for old in earlier if old["pipeline"] == row["pipeline"]), None)
        report = _against(row, latest, loaded, values)
        yield {**report, "name": smoke.name, "error": error, "seconds": seconds, "log_tail": log_tail}


def _start(
    smoke: SmokeRun, target: Environment, code: Path, database: Path, local_stores: Path, folder: Path
) -> tuple[environments.Ended, str]:
    """Run one entry of the plan in the target environment; how its process ended, and the error it reported."""
    folder.mkdir(parents=True)
    passed = {name: os.environ[name] for name in smoke.environment if name in os.environ}
    variables = {
        **passed,
        "ZENML_STORE_URL": f"sqlite:///{database}",
        "ZENML_LOCAL_STORES_PATH": str(local_stores),
    }
    if smoke.command:
        ended = environments.run_command(
            target, shlex.split(smoke.command), folder=folder, variables=variables, timeout=smoke.timeout, cwd=code
        )
        return ended, "" if ended.returncode == 0 else f"exit code {ended.returncode}"
    request, reply = folder / "request.json", folder / "reply.json"
    request.write_text(json.dumps({"target": smoke.target, "parameters": smoke.parameters, "code": str(code)}))
    ended = environments.run_probe_process(
        target, PROBE, [str(request), str(reply)], folder=folder, variables=variables, timeout=smoke.timeout
    )
    if ended.timed_out:
        return ended, f"did not end within {smoke.timeout:g} seconds"
    return ended, json.loads(reply.read_text())["error"] if reply.exists() else f"exit code {ended.returncode}"


def _against(
    row: Mapping[str, Any],
    latest: Mapping[str, Any] | None,
    loaded: Mapping[str, Loaded],
    values: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """One run beside the latest earlier run of its pipeline: status, steps, outputs."""
    before = {part["name"]: part for part in latest["steps"]} if latest else {}
    now = {part["name"]: part for part in row["steps"]}
    steps = [
        {
            "name": name,
            "status": now[name]["status"] if name in now else "missing",
            "expected": before[name]["status"] if name in before else "",
        }
        for name in [*now, *(name for name in before if name not in now)]
    ]
    outputs = []
    for name, part in now.items():
        old = {output["name"]: output["artifact_version_id"] for output in before.get(name, {}).get("outputs", ())}
        for output in part["outputs"]:
            new_value = asdict(loaded.get(output["artifact_version_id"], Loaded(ok=False, error="not loaded")))
            old_value = values.get(old.get(output["name"], ""), {})
            outputs.append(
                {
                    "step": name,
                    "output": output["name"],
                    "outcome": _output_outcome(old_value, new_value),
                    "old": old_value.get("summary", ""),
                    "new": new_value["summary"] or new_value["error"],
                }
            )
    expected = latest["status"] if latest else ""
    same_steps = latest is None or all(_alike(part["status"], part["expected"]) for part in steps)
    if not _alike(row["status"], expected or "completed"):
        outcome = "failed" if row["status"] not in DONE else "different"
    elif not latest:
        outcome = "not_checked"
    else:
        outcome = "same" if same_steps and all(item["outcome"] == "same" for item in outputs) else "different"
    return {
        "pipeline": row["pipeline"],
        "run_id": row["id"],
        "status": row["status"],
        "expected": expected,
        "outcome": outcome,
        "steps": steps,
        "outputs": outputs,
    }


def _alike(status: str, expected: str) -> bool:
    return status == expected or {status, expected} <= DONE


def _output_outcome(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if not new["ok"]:
        return "fails"
    if not old.get("near") or not new["near"]:
        return "not_checked"
    return "same" if old["near"] == new["near"] else "different"


def _findings(report: Mapping[str, Any]) -> Iterator[Finding]:
    subject = f"{report['pipeline']} ({report['run_id'] or 'no run'})"
    if report["outcome"] == "failed":
        was = f"its latest earlier run was {report['expected']}" if report["expected"] else "it has no earlier run"
        yield Finding(
            id="SR951",
            severity=Severity.BLOCK,
            subject=subject,
            message=f"The smoke run ended as {report['status']}; {was}. {report['error']}".strip(),
            remedy="Read the end of its log, correct the code for the target release, rehearse again.",
            data={"error": report["error"]},
        )
        return
    if not report["expected"]:
        yield Finding(
            id="SR952",
            severity=Severity.INFO,
            subject=subject,
            message=f"The smoke run ended as {report['status']}; the store has no earlier run to compare with.",
        )
    elif report["status"] not in DONE:
        yield Finding(
            id="SR953",
            severity=Severity.INFO,
            subject=subject,
            message=f"The smoke run ended as {report['status']}, as its latest earlier run did.",
            remedy="Nothing for the upgrade; a pipeline that fails proves less than one that completes.",
        )
    for part in report["steps"]:
        if report["expected"] and not _alike(part["status"], part["expected"]):
            yield Finding(
                id="SR954",
                severity=Severity.WARN,
                subject=f"{subject} step {part['name']}",
                message=f"Ended as {part['status']}; in the latest earlier run: {part['expected'] or 'no such step'}.",
                remedy="Compare the two runs; code that changed since then explains new steps.",
            )
    for output in report["outputs"]:
        if output["outcome"] in {"different", "fails"}:
            yield Finding(
                id="SR955",
                severity=Severity.WARN,
                subject=f"{subject} output {output['step']}.{output['output']}",
                message=f"Was {output['old'] or 'not there'}, is {output['new']}, with other content.",
                remedy="Expected for random or time-dependent outputs; otherwise compare the values.",
            )
