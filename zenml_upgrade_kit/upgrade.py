"""Puts a run's backup back in place of the live files, and proves that the old release opens it."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from zenml_upgrade_kit import environments, probing
from zenml_upgrade_kit.backup import Backup, open_backup
from zenml_upgrade_kit.errors import EnvironmentFailed, KitError, ProbeFailed, RunUnusable, StoreUnreadable
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.runs import Step
from zenml_upgrade_kit.stores import sqlite

PATIENCE = 300.0
"""Seconds for the old release to open the restored store; the first import in a new environment is slow."""


def roll_back(step: Step, *, apply: bool) -> StepResult:
    """Restore the run's backup; without ``apply`` only say what would be done.

    facts: ``backup``, ``applied``, ``actions`` (sentences), ``kept`` (the replaced files), ``proof``. The files are
    replaced one after the other, each in one rename; after a kill, running it again finishes the rest.
    Raises :class:`BackupUnusable` for a backup that does not verify and :class:`StoreUnreadable` for a store in use.
    """
    backup = open_backup(step.run.work / "20_backup")
    database = Path(backup.manifest["database"]["restore_to"])
    pending = _pending(backup)
    findings = list(_lost_runs(database, backup.manifest["started"]))
    facts: dict[str, Any] = {
        "backup": f"{backup.folder}, stamp {backup.manifest['stamp']}, finished {backup.manifest['finished']}",
        "applied": apply,
        "actions": [f"replace {live} by {copy}" for copy, live in pending] or ["nothing: the backup is in place"],
    }
    if not apply:
        return step.result(findings, facts)
    _fold_in(database)
    facts["kept"] = [str(kept) for kept in _replace(pending)]
    findings += verify(backup)
    not_checked = []
    if not any(finding.severity is Severity.BLOCK for finding in findings):
        try:
            facts["proof"] = _open_with(_old_release(step), step, backup)
            findings += [_old_release_fails(database, why) for why in _unexpected(facts["proof"], backup.manifest)]
        except EnvironmentFailed as error:
            not_checked.append(f"that ZenML {step.run.source_version} opens the restored store: {error.problem}")
        except ProbeFailed as error:
            findings.append(_old_release_fails(database, f"{error.problem}: {error.found}"))
    return step.result(findings, facts, not_checked)


def verify(backup: Backup) -> list[Finding]:
    """A finding for every restored file whose bytes are not those of the backup."""
    why = "is not what the backup holds: somebody wrote to it, or the disk is failing."
    remedy = "Stop everything that uses the store, then run the rollback again."
    return [
        Finding(id="RB901", severity=Severity.BLOCK, subject=str(live), message=f"{live} {why}", remedy=remedy)
        for _, live in _pending(backup)
    ]


def _pending(backup: Backup) -> list[tuple[Path, Path]]:
    """(file in the backup, where it belongs) of what is not in place with these bytes; the database first."""
    pairs = [(backup.database, Path(os.path.realpath(backup.manifest["database"]["restore_to"])))]
    if backup.config_yaml:
        pairs.append((backup.config_yaml, Path(os.path.realpath(backup.manifest["config_yaml"]["restore_to"]))))
    return [(copy, live) for copy, live in pairs if not live.is_file() or sqlite.digest(copy) != sqlite.digest(live)]


def _fold_in(database: Path) -> None:
    """Raises :class:`StoreUnreadable` when a program holds the database; folds a write-ahead log in otherwise.

    The only place where a live database is opened for writing: a log that stayed behind would be replayed onto the
    restored file. What does not start like a database is not opened (SQLite would delete its log); it is replaced.
    """
    if not database.is_file() or sqlite.journal_mode(database) == "":
        return
    try:
        uri = f"{database.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=2, isolation_level=None)) as live:
            live.execute("PRAGMA locking_mode = EXCLUSIVE")
            live.execute("BEGIN EXCLUSIVE")
            live.execute("ROLLBACK")
            live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise StoreUnreadable(
                f"the store {database} is in use; nothing was changed",
                expected="a database that no program holds",
                found=str(error),
                remedy="stop ZenML servers, pipelines and notebooks that use it, then try again",
            ) from None


def _replace(pending: list[tuple[Path, Path]]) -> list[Path]:
    """Put copies in place; returns where the replaced files are kept. All copies are written before any is replaced."""
    time = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    kept: list[Path] = []
    parts = {live: live.with_name(f".{live.name}.rollback.part") for _, live in pending}
    try:
        for copy, live in pending:
            live.parent.mkdir(parents=True, exist_ok=True)
            _copy(copy, parts[live], like=live)
        for _, live in pending:
            replaced = live.with_name(f"{live.name}.before-rollback-{time}")
            if live.exists():
                kept.append(Path(shutil.copy2(live, replaced)))
            for suffix in sqlite.SIDE_FILES:
                stale = sqlite.beside(live, suffix)
                if stale.exists():
                    kept.append(stale.replace(sqlite.beside(replaced, suffix)))
            parts[live].replace(live)
    except OSError as error:
        raise KitError(
            "the rollback could not be finished",
            expected=f"to write beside {error.filename or pending[0][1]}",
            found=error.strerror or str(error),
            remedy="correct that and run the rollback again: it goes on where it stopped; replaced files are kept",
        ) from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return kept


def _copy(source: Path, target: Path, *, like: Path) -> None:
    """A flushed copy with the permissions and, where allowed, the owner of the file that it will replace."""
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
    if like.exists():
        shutil.copymode(like, target)
        with suppress(OSError, AttributeError):  # only the superuser may give files away; Windows has no owners
            os.chown(target, like.stat().st_uid, like.stat().st_gid)


def _old_release(step: Step) -> Environment:
    """The environment that the preflight settled on; built again when it is gone."""
    with suppress(RunUnusable):
        source, _ = environments.of_run(step.run)
        if source.python.exists():
            return source
    plan = step.plan
    return environments.ensure(step.run.source_version, interpreter=plan.source_python, requirements=plan.requirements)


def _open_with(environment: Environment, step: Step, backup: Backup) -> dict[str, Any]:
    """What the old release lists in a copy of the restored store: opening the store itself would write to it."""
    folder = step.work / "proof"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "config").mkdir(parents=True)
    copy = folder / "zenml.db"
    sqlite.online_backup(Path(backup.manifest["database"]["restore_to"]), copy)
    if backup.config_yaml:
        config = yaml.safe_load(Path(backup.manifest["config_yaml"]["restore_to"]).read_text(encoding="utf-8"))
        if isinstance(config, dict) and isinstance(config.get("store"), dict):
            # A copied config.yaml still names the original (CO509).
            config["store"] = {**config["store"], "url": f"sqlite:///{copy}", "database": str(copy)}
        (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    variables = {"ZENML_STORE_URL": f"sqlite:///{copy}"}
    reply = probing.run_probe(environment, "open_store", {}, folder=folder, variables=variables, timeout=PATIENCE)
    with closing(sqlite.connect(copy)) as connection:
        reply["stamp"] = ", ".join(sqlite.stamps(connection))
    return reply


def _unexpected(proof: dict[str, Any], manifest: Mapping[str, Any]) -> Iterator[str]:
    """Where what the old release lists differs; it lists one workspace, so several cannot be compared."""
    if proof["stamp"] != manifest["stamp"]:
        yield f"it made {proof['stamp']} of {manifest['stamp']}"
    rows = {name: table["rows"] for name, table in manifest["tables"].items()}
    if rows.get("workspace", rows.get("project", 1)) == 1:
        for name, expected in (("runs", rows.get("pipeline_run", 0)), ("stacks", rows.get("stack", 0))):
            if proof[name] != expected:
                yield f"it lists {proof[name]} {name} of {expected}"


def _old_release_fails(database: Path, why: str) -> Finding:
    return Finding(
        id="RB902",
        severity=Severity.BLOCK,
        subject=str(database),
        message=f"The old release does not work with the restored store: {why}.",
        remedy="The files are those of the backup: read the log in work/90_rollback, and try your own environment.",
    )


def _lost_runs(database: Path, started: str) -> Iterator[Finding]:
    """Runs that were recorded after the backup was started: a rollback forgets them."""
    since = started[:19].replace("T", " ")
    try:
        with closing(sqlite.connect(database)) as connection:
            query = "SELECT COUNT(*) FROM pipeline_run WHERE created > ?"
            later = connection.execute(query, [since]).fetchone()[0]
    except (sqlite3.Error, StoreUnreadable):
        return  # what cannot be read cannot be kept either; it is replaced
    if later:
        yield Finding(
            id="OP805",
            severity=Severity.WARN,
            subject="pipeline_run",
            message=f"pipeline_run changed after the backup: {later} runs since {since} UTC are lost by a rollback.",
            remedy="Write down what they did; the replaced database is kept beside the restored one.",
            data={"runs": later, "since": since},
        )
