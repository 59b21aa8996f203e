"""Lets the target release migrate a copy of the backup, and compares the tables before and after.

Findings of this module: DC101 the database has several workspaces, RH901 the migration failed, RH902 a table lost rows
and no change of the crossed releases explains it, RH904 rows that crossed releases drop by design. Whether the source
itself changed meanwhile is the decision's question (OP805).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import drill, environments, probing, releases
from zenml_upgrade_kit.backup import of_run
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.releases import crosses
from zenml_upgrade_kit.runs import Step
from zenml_upgrade_kit.stores import sqlite

PATIENCE = 6 * 3600.0
"""Seconds that a migration may take; 1.9 million rows took six minutes (SQLite, 0.70.0 to 0.98.0)."""

SEVERAL_WORKSPACES = "3b1776345020"
"""The revision of 0.80.0 that refuses a database with more than one workspace."""

RENAMED = (
    ("0.51.0", "artifact", "artifact_version"),
    ("0.57.0rc1", "identity", "server_settings"),
    ("0.80.0", "workspace", "project"),
    ("0.90.0rc0", "pipeline_deployment", "pipeline_snapshot"),
)
"""Release, name before and name after; the rows are the same. 0.51.0 also makes a new ``artifact``, for the names."""

CHANGES = (
    ("0.50.0", "+", "stack stack_component stack_composition", "a new, empty default stack is added"),
    ("0.50.0", "-", "model_versions_artifacts model_versions_runs", "links that lead nowhere are dropped"),
    ("0.50.0", "-", "role role_permission user_role_assignment", "teams and roles are gone"),
    ("0.50.0", "-", "team team_assignment team_role_assignment", "teams and roles are gone"),
    ("0.51.0", "+", "artifact", "one row for each name; what was here is in artifact_version"),
    ("0.53.0", "-", "stack_component stack_composition", "secrets managers are removed"),
    ("0.63.0", "-", "pipeline", "versions of one pipeline become one"),
    ("0.71.0", "+", "run_metadata_resource", "one row for each piece of metadata"),
    ("0.83.1", "+", "step_configuration", "filled from the configurations of the deployments"),
    ("0.91.0", "+", "stack_component stack_composition", "a default deployer is added"),
    ("0.93.3", "-", "logs", "entries without a run or a step are deleted"),
    ("0.94.0rc0", "-", "trigger trigger_execution event_source action", "triggers of the old kind are gone"),
    ("0.97.0", "-", "resource_pool resource_pool_allocation resource_pool_queue", "resource pools are gone"),
    ("0.97.0", "-", "resource_pool_resource resource_pool_subject_policy", "resource pools are gone"),
    ("0.97.0", "-", "resource_pool_subject_policy_resource", "resource pools are gone"),
    ("0.97.0", "-", "resource_request resource_request_resource", "resource pools are gone"),
)
"""Release, more or fewer rows, tables, why. Measured on twelve releases from 0.43.0 to 0.97.0, all to 0.98.0."""


def rehearse(step: Step) -> StepResult:
    """Migrate a copy of the backup with the target release; only the copy is ever opened by it.

    facts: ``copy``, ``zenml``, ``seconds``, ``revision_before``, ``revision_after``, ``revisions`` (how many ran),
    ``tables`` (``table``, ``before``, ``after``, ``note``, ``explained``; None where there is no such table), ``log``,
    ``log_tail``, ``source_unchanged``.
    """
    start = step.run.needs("00_start").facts
    _, target = environments.of_run(step.run)
    backup = of_run(step.run)
    stamp = releases.get(target.version).stamp
    copy = drill.unpack(backup, "database", step.empty_work() / "zenml.db", step.plan.backup.identity)
    before, counted_before = _look(copy)
    variables = {"ZENML_STORE_URL": f"sqlite:///{copy}"}
    if crosses("0.43.0", stamp, "0.55.1"):  # earlier ones make no backup, and refuse a setting they do not know
        variables["ZENML_STORE_BACKUP_STRATEGY"] = "disabled"
    reply = probing.run_probe(target, "migrate", {}, folder=step.work, variables=variables, timeout=PATIENCE)
    after, counted_after = _look(copy)
    tables = list(_compare(before, stamp, counted_before, counted_after)) if reply["ok"] else []
    log = step.work / "migrate.log"
    facts = {
        "copy": str(copy),
        "zenml": reply["zenml"],
        "seconds": round(reply["seconds"], 3),
        "revision_before": before,
        "revision_after": after,
        "revisions": len(releases.pending(before, after)),
        "tables": tables,
        "log": str(log),
        "log_tail": "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-60:]),
        "source_unchanged": sqlite.digest(Path(start["store"]["path"])) == start["source_identity"],
    }
    findings = list(_losses(tables)) if after == stamp and reply["ok"] else [_failed(reply, copy, after, stamp, log)]
    return step.result(findings, facts)


def _look(database: Path) -> tuple[str, dict[str, int]]:
    """Revision and rows per table."""
    with closing(sqlite.connect(database)) as connection:
        return ", ".join(sqlite.stamps(connection)), sqlite.counts(connection)


def _failed(reply: Mapping[str, Any], copy: Path, reached: str, stamp: str, log: Path) -> Finding:
    """Why the migration stopped, and at which revision."""
    pending = releases.pending(reached, stamp)
    if pending and pending[0] == SEVERAL_WORKSPACES:
        with closing(sqlite.connect(copy)) as connection:
            names = [str(row[0]) for row in connection.execute("SELECT name FROM workspace ORDER BY name")]
        return Finding(
            id="DC101",
            severity=Severity.BLOCK,
            subject="workspace",
            message=f"0.80.0 refuses a database with {len(names)} workspaces: {', '.join(names)}.",
            remedy="Export what is needed, delete all workspaces but one, or keep one ZenML server per workspace.",
            data={"workspaces": names, "revision": SEVERAL_WORKSPACES},
        )
    error = reply.get("error") or {"type": "no error", "message": f"the database is at {reached}, not at {stamp}"}
    release = releases.for_stamp(pending[0]) if pending else None
    where = f" at revision {pending[0]} (of {release.version})" if release else ""
    line = next(iter(error["message"].splitlines()), "")
    return Finding(
        id="RH901",
        severity=Severity.BLOCK,
        subject=f"alembic_version {reached}",
        message=f"The migration stopped{where} with {error['type']}: {line[:600]}",
        remedy=f"Read the log, {log}. Put the cause right in the old release, or report it to ZenML; then start again.",
        data={"reached": reached, "stopped_at": pending[0] if pending else "", "error": error},
    )


def _compare(source: str, target: str, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """One row for each table, renamed ones under their new name, with a note where a crossed release explains it.

    explained: whether a release gives a reason why there are more, or fewer.
    """
    left, old_names = dict(before), {}
    for release, old, new in RENAMED:
        if old in left and new in after and new not in before and crosses(source, target, release):
            left[new] = left.pop(old)
            old_names[new] = f"called {old} before {releases.get(release).version}"
    for table in sorted({*left, *after}):
        rows, now = left.get(table), after.get(table)
        sign = "+" if rows is None or (now is not None and now > rows) else "-" if rows != now else ""
        reasons = [
            why
            for release, direction, tables, why in CHANGES
            if direction == sign and table in tables.split() and crosses(source, target, release)
        ]
        if table == "flavor":
            reasons.append("built-in flavors are written anew; yours stay")
        notes = [old_names[table]] if table in old_names else []
        yield {
            "table": table,
            "before": rows,
            "after": now,
            "note": "; ".join([*notes, *dict.fromkeys(reasons)]),
            "explained": bool(reasons),
        }


def _losses(tables: list[dict[str, Any]]) -> Iterator[Finding]:
    """Rows that are gone: without a reason they block."""
    gone = [row for row in tables if row["before"] and row["before"] > (row["after"] or 0)]
    for row in gone:
        if not row["explained"]:
            yield Finding(
                id="RH902",
                severity=Severity.BLOCK,
                subject=row["table"],
                message=f"{row['table']} had {row['before']} rows and has {row['after'] or 0} after the migration; "
                "no change of the releases in between explains it.",
                remedy="Compare the backup with the migrated copy; do not upgrade before the rows are accounted for.",
                data={"before": row["before"], "after": row["after"]},
            )
        elif row["table"] != "flavor":
            yield Finding(
                id="RH904",
                severity=Severity.INFO,
                subject=row["table"],
                message=f"{row['before'] - (row['after'] or 0)} of {row['before']} rows go by design: {row['note']}.",
                remedy="Export them from the backup if you still need them.",
                data={"before": row["before"], "after": row["after"]},
            )
