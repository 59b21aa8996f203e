"""Puts a run's backup back in place of the live files, and proves that the old release opens it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import yaml

from zenml_upgrade_kit import drill, environments, restore
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.backup import of_run
from zenml_upgrade_kit.errors import KitError, ProbeFailed, RestoreRefused, RunUnusable, StoreUnreadable
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.rehearsal import entities
from zenml_upgrade_kit.runs import Step
from zenml_upgrade_kit.stores import sqlite

PATIENCE = 300.0
"""Seconds for the old release to open the restored store; the first import in a new environment is slow."""


def roll_back(step: Step, *, apply: bool) -> StepResult:
    """Restore the run's backup; without ``apply`` only say what would be done.

    facts: ``backup``, ``applied``, ``actions`` (sentences), ``kept`` (the replaced files), ``proof`` (what the old
    release lists); the last two are empty where nothing was done. The files are replaced one after the other, each in
    one rename; after a kill, running it again finishes the rest.
    Raises :class:`BackupUnusable` for a backup that does not verify and :class:`StoreUnreadable` for a store in use.
    """
    step.empty_work()
    backup = of_run(step.run)
    if backup.manifest["engine"] != "sqlite":
        raise RestoreRefused(
            "a run can only be rolled back to a SQLite backup yet",
            expected="a backup of a SQLite store",
            found=f"a backup of {backup.manifest['source']}",
            remedy=f"zenml-upgrade restore {backup.where} --into env:NAME --replace",
        )
    files = _unpack(backup, step)
    database, pending = files[0][1], _pending(files)
    findings, not_checked = _lost_runs(database, backup.manifest["started"])
    facts: dict[str, Any] = {
        "backup": f"{backup.where}, stamp {backup.manifest['stamp']}, finished {backup.manifest['finished']}",
        "applied": apply,
        "actions": [f"replace {live} by {copy}" for copy, live in pending] or ["nothing: the backup is in place"],
        "kept": [],
        "proof": {},
    }
    if not apply:
        return step.result(findings, facts, not_checked)
    restore.fold_in(database)
    facts["kept"] = [str(kept) for kept in restore.put(pending)]
    findings += verify(files)
    if not any(finding.severity is Severity.BLOCK for finding in findings):
        try:
            facts["proof"] = _open_with(_old_release(step), step, files)
            findings += [_old_release_fails(database, why) for why in _unexpected(facts["proof"], backup.manifest)]
        except ProbeFailed as error:
            findings.append(_old_release_fails(database, f"{error.problem}: {error.found}"))
        except KitError as error:  # the files are in place: what became of them must be told
            not_checked.append(f"that ZenML {step.run.source_version} opens the restored store: {error.problem}")
    return step.result(findings, facts, not_checked)


def verify(files: list[tuple[Path, Path]]) -> list[Finding]:
    """A finding for every restored file whose bytes are not those of the backup."""
    why = "is not what the backup holds: somebody wrote to it, or the disk is failing."
    remedy = "Stop everything that uses the store, then run the rollback again."
    return [
        Finding(id="RB901", severity=Severity.BLOCK, subject=str(live), message=f"{live} {why}", remedy=remedy)
        for _, live in _pending(files)
    ]


def _unpack(backup: Backup, step: Step) -> list[tuple[Path, Path]]:
    """(file as it was, where it belongs), the database first."""
    found = []
    for role, name in (("database", "zenml.db"), ("config_yaml", "config.yaml")):
        for file in backup.files(role):
            copy = drill.unpack(backup, role, step.work / name, step.plan.backup.identity)
            found.append((copy, Path(os.path.realpath(file["restore_to"]))))
    return found


def _pending(files: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """What is not in place with these bytes."""
    return [(copy, live) for copy, live in files if not live.is_file() or sqlite.digest(copy) != sqlite.digest(live)]


def _old_release(step: Step) -> Environment:
    """The environment that the preflight settled on; built again when it is gone."""
    with suppress(RunUnusable):
        source, _ = environments.of_run(step.run)
        if source.python.exists():
            return source
    plan = step.plan
    return environments.ensure(step.run.source_version, interpreter=plan.source_python, requirements=plan.requirements)


def _open_with(environment: Environment, step: Step, files: list[tuple[Path, Path]]) -> dict[str, Any]:
    """What the old release lists in a copy of the restored store: opening the store itself would write to it."""
    folder = step.work / "proof"
    (folder / "config").mkdir(parents=True)
    copy = folder / "zenml.db"
    sqlite.online_backup(files[0][1], copy)
    for _, live in files[1:]:
        config = yaml.safe_load(live.read_text(encoding="utf-8"))
        if isinstance(config, dict) and isinstance(config.get("store"), dict):
            # A copied config.yaml still names the original (CO509).
            config["store"] = {**config["store"], "url": f"sqlite:///{copy}", "database": str(copy)}
        (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    variables = {"ZENML_STORE_URL": f"sqlite:///{copy}"}
    reply = entities.listed(environment, copy, folder, variables, PATIENCE, limit=0)
    with closing(sqlite.connect(copy)) as connection:
        stamp = ", ".join(sqlite.stamps(connection))
    return {**{name: reply.get(name) for name in ("zenml", "user", "runs", "stacks", "errors")}, "stamp": stamp}


def _unexpected(proof: dict[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    """Where what the old release lists differs."""
    if proof["stamp"] != manifest["stamp"]:
        yield f"it made {proof['stamp']} of {manifest['stamp']}"
    for name, why in proof["errors"].items():
        yield f"it cannot list the {name.replace('_', ' ')}: {why}"
    for name, table in (("runs", "pipeline_run"), ("stacks", "stack")):
        rows = manifest["tables"].get(table, {}).get("rows")
        if name not in proof["errors"] and rows is not None and proof[name] != rows:
            yield f"it lists {proof[name]} {name} of {rows}"


def _old_release_fails(database: Path, why: str) -> Finding:
    return Finding(
        id="RB902",
        severity=Severity.BLOCK,
        subject=str(database),
        message=f"The old release does not work with the restored store: {why}.",
        remedy="The files are those of the backup: read the log in work/90_rollback, and try your own environment.",
    )


def _lost_runs(database: Path, started: str) -> tuple[list[Finding], list[str]]:
    """Runs that were recorded after the backup was started, which a rollback forgets; why that cannot be told."""
    since = started[:19].replace("T", " ")
    if not database.exists():
        return [], []
    try:
        with closing(sqlite.connect(database)) as connection:
            query = "SELECT COUNT(*) FROM pipeline_run WHERE created > ?"
            later = connection.execute(query, [since]).fetchone()[0]
    except (sqlite3.Error, StoreUnreadable) as error:
        why = error.found if isinstance(error, StoreUnreadable) else error
        return [], [f"whether runs since {since} UTC are lost by a rollback: {why}"]
    if not later:
        return [], []
    finding = Finding(
        id="OP805",
        severity=Severity.WARN,
        subject="pipeline_run",
        message=f"pipeline_run changed after the backup: {later} runs since {since} UTC are lost by a rollback.",
        remedy="Write down what they did; the replaced database is kept beside the restored one.",
        data={"runs": later, "since": since},
    )
    return [finding], []
