"""Smoke runs: the user's pipelines run under the target release and are compared with their latest earlier run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import environments, inventory, probing, stores, words
from zenml_upgrade_kit.artifacts import selection, shards, sides
from zenml_upgrade_kit.artifacts.shards import Loaded, Settings
from zenml_upgrade_kit.choices import SmokeRun
from zenml_upgrade_kit.errors import BadPlan, KitError
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import Step
from zenml_upgrade_kit.stores import Reader
from zenml_upgrade_kit.stores.address import Server

PROBE = "run_pipeline"
NOTHING = Loaded(error="not loaded")
DONE = {"completed", "cached"}

_EXCEPTION = re.compile(r"(?m)^\s*(\w+(?:Error|Exception): .+)$")
"""The line of a traceback that says what happened; releases since 0.85.0 raise only that a step failed."""

Report = dict[str, Any]
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """Where smoke runs happen: the target's environment, a copy of the code, a migrated store, local storage.

    earlier: the store's own runs, the newest of each pipeline by its name.
    """

    target: Environment
    code: Path
    database: Path | Server
    storage: Path
    earlier: Mapping[str, Row]
    artifact_timeout: float

    def known(self) -> set[str]:
        """Ids of the runs that there are."""
        with closing(stores.connect(self.database)) as connection:
            return inventory.run_ids(connection)

    def runs(self, ids: Collection[str]) -> list[dict[str, Any]]:
        with closing(stores.connect(self.database)) as connection:
            return inventory.runs(connection, ids)

    def outputs(self, runs: Sequence[Row], folder: Path) -> dict[str, Loaded]:
        """What these runs wrote into local artifact stores, loaded by the target, by artifact version id."""
        written = {output["artifact_version_id"] for row in runs for part in row["steps"] for output in part["outputs"]}
        with closing(stores.connect(self.database)) as connection:
            rows = selection.by_ids(connection, self.storage, sorted(written))
        local = [row for row in rows.values() if row["store_flavor"] == "local"]
        settings = Settings(
            python=str(self.target.python),
            version=self.target.version,
            folder=str(folder),
            code=str(self.code),
            database="" if isinstance(self.database, Server) else str(self.database),
            timeout=self.artifact_timeout,
            look=False,
            near=True,
        )
        try:
            return sides.load(local, settings)
        finally:
            shards.close()


def run(step: Step) -> StepResult:
    """Run the plan's pipelines against the migrated store, with local artifact storage inside the run.

    facts: ``runs``, one report each; ``store``: where they happened, in words. A SQLite store is copied once more for
    them; on a server they write into the migrated copy itself.
    """
    if not step.plan.pipelines:
        none = "no pipeline is named in the plan (pipelines:), so none was run"
        return step.result(not_checked=[none], facts={"runs": []})
    code = step.run.code_copy()
    if code is None:
        raise BadPlan(
            "the pipelines of the plan cannot be run",
            expected="code: a directory with your pipelines",
            found="no code directory",
            remedy="add code: to the plan, or --code DIR",
        )
    reports, findings, not_compared = [], [], []
    with copies.reopen(step.run) as (before, migrated):
        stage = _prepare(step, code, before, migrated)
        for number, smoke in enumerate(step.plan.pipelines, 1):
            for report in _carry_out(stage, smoke, step.work / f"{number:02d}"):
                reports.append(report)
                findings += list(_findings(report))
                not_compared += [
                    f"{report['pipeline']}: output {output['step']}.{output['output']} has nothing to compare with"
                    for output in report["outputs"]
                    if output["outcome"] == "not_checked"
                ]
    there = "the migrated copy itself" if isinstance(migrated, Server) else "a copy of the migrated copy"
    return step.result(findings, {"runs": reports, "store": there}, not_compared)


def _prepare(step: Step, code: Path, before: Path | Server, migrated: Path | Server) -> _Stage:
    folder = step.empty_work()
    if isinstance(migrated, Server):
        database: Path | Server = migrated
        step.run.redactor.hide([migrated.password])
    else:
        database = Path(shutil.copy2(migrated, folder / "zenml.db"))
    with closing(stores.connect(before)) as connection:
        until = inventory.last_made(connection)  # an earlier attempt of this step may have left runs on the server
    with closing(stores.connect(database, write=True)) as connection:
        # A smoke run must execute its code, and what old runs cached lies outside its storage.
        connection.execute("UPDATE step_run SET cache_key = NULL WHERE cache_key IS NOT NULL")
        earlier = _latest(connection, until)
    return _Stage(
        target=environments.of_run(step.run)[1],
        code=code,
        database=database,
        storage=step.work / "stores",
        earlier=earlier,
        artifact_timeout=step.plan.artifacts.timeout,
    )


def _latest(connection: Reader, until: str) -> dict[str, Row]:
    """The newest run of every pipeline, by its name."""
    newest = {run["id"] for run in inventory.newest_runs(connection, until).values()}
    return {run["pipeline"]: run for run in inventory.runs(connection, newest)}


def _carry_out(stage: _Stage, smoke: SmokeRun, folder: Path) -> Iterator[Report]:
    """Reports of the runs that one entry of the plan made; one report without a run when it made none."""
    known, began = stage.known(), time.monotonic()
    error, log_tail = _start(stage, smoke, folder)
    entry = {"name": smoke.name, "error": error, "seconds": time.monotonic() - began, "log_tail": log_tail}
    new = stage.runs(stage.known() - known)[::-1]
    if not new:
        latest = stage.earlier.get(smoke.target.partition(":")[2])
        nothing = {"pipeline": smoke.name, "run_id": "", "status": "no run", "steps": [], "outputs": []}
        expected = latest["status"] if latest else ""
        error = error or "it ended well, but there is no pipeline run in the store"
        yield {**entry, **nothing, "expected": expected, "outcome": "failed", "error": error}
        return
    earlier = [latest for row in new if (latest := stage.earlier.get(row["pipeline"]))]
    loaded = stage.outputs([*new, *earlier], folder / "outputs")
    for row in new:
        report = {**entry, **_against(row, stage.earlier.get(row["pipeline"]), loaded)}
        if error and row is new[-1] and all(_is_done(other["status"]) for other in new):
            report["outcome"] = "failed"  # what failed came after the runs
        yield report


def _start(stage: _Stage, smoke: SmokeRun, folder: Path) -> tuple[str, str]:
    """Run one entry of the plan in the target environment: the error, empty for none, and the end of the log."""
    folder.mkdir(parents=True)
    reply = folder / "reply.json"
    variables = {
        **{name: os.environ[name] for name in smoke.environment if name in os.environ},
        **copies.variables(stage.database, stage.target.version),
        "ZENML_LOCAL_STORES_PATH": str(stage.storage),
    }
    try:
        if smoke.command:
            command = shlex.split(smoke.command)
            ended = probing.run_command(
                stage.target, command, folder=folder, variables=variables, timeout=smoke.timeout, cwd=stage.code
            )
        else:
            wanted = {"target": smoke.target, "parameters": smoke.parameters, "code": str(stage.code)}
            (folder / "request.json").write_text(json.dumps(wanted), encoding="utf-8")
            files = [str(folder / "request.json"), str(reply)]
            ended = probing.run_probe_process(
                stage.target, PROBE, files, folder=folder, variables=variables, timeout=smoke.timeout
            )
    except KitError as failure:  # a command that is not there is this entry's failure
        return f"{failure.problem}: {failure.found}", ""
    if ended.timed_out:
        error = f"did not end within {smoke.timeout:g} seconds"
    elif reply.exists():
        error = json.loads(reply.read_text(encoding="utf-8"))["error"]
    else:
        error = f"exit code {ended.returncode}" if ended.returncode else ""
    return error, ended.last_lines(40)


def _against(row: Row, latest: Row | None, loaded: Mapping[str, Loaded]) -> Report:
    """One run beside the latest earlier run of its pipeline: status, steps, outputs."""
    now = {part["name"]: part for part in row["steps"]}
    before = {part["name"]: part for part in latest["steps"]} if latest else {}
    steps = [
        {
            "name": name,
            "status": now[name]["status"] if name in now else "missing",
            "expected": before[name]["status"] if name in before else "",
        }
        for name in dict.fromkeys([*now, *before])
    ]
    outputs = []
    for name, part in now.items():
        old = {output["name"]: output["artifact_version_id"] for output in before.get(name, {}).get("outputs", ())}
        for output in part["outputs"]:
            value = loaded.get(output["artifact_version_id"], NOTHING)
            earlier = loaded.get(old.get(output["name"], ""), NOTHING)
            outputs.append(
                {
                    "step": name,
                    "output": output["name"],
                    "outcome": _output_outcome(earlier, value),
                    "old": earlier.summary,
                    "new": value.summary or value.error,
                }
            )
    expected = latest["status"] if latest else ""
    if not _alike(row["status"], expected or "completed"):
        outcome = "different" if _is_done(row["status"]) else "failed"
    elif not latest:
        outcome = "not_checked"
    else:
        same_steps = all(_alike(part["status"], part["expected"]) for part in steps)
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


def _is_done(status: str) -> bool:
    return status in DONE


def _alike(status: str, expected: str) -> bool:
    return status == expected or (_is_done(status) and _is_done(expected))


def _output_outcome(old: Loaded, new: Loaded) -> str:
    """Values that were computed twice: floats may differ by what rounding leaves."""
    if not new.ok:
        return "fails"
    if not old.near or not new.near:
        return "not_checked"
    return "same" if old.near == new.near else "different"


def _findings(report: Mapping[str, Any]) -> Iterator[Finding]:
    subject = f"{report['pipeline']} ({report['run_id'] or 'no run'})"
    if report["outcome"] == "failed":
        log = words.plain(report["log_tail"]).partition("Exception ignored in")[0]  # what follows comes from the exit
        causes = [line for line in _EXCEPTION.findall(log) if line not in report["error"]]
        error = f"{report['error']} ({causes[0]})" if causes else report["error"]
        was = f"its latest earlier run was {report['expected']}" if report["expected"] else "it has no earlier run"
        yield Finding(
            id="SR951",
            severity=Severity.BLOCK,
            subject=subject,
            message=f"The smoke run ended as {report['status']}; {was}. {error}".strip(),
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
    elif not _is_done(report["status"]):
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
                message=f"Was {output['old'] or 'not there'}, is {output['new']}, with other content."
                if output["outcome"] == "different"
                else f"Cannot be loaded again: {output['new']}",
                remedy="Expected for random or time-dependent outputs; otherwise compare the values."
                if output["outcome"] == "different"
                else "Correct the materializer or the type for the target release.",
            )
