"""What the results of the steps look like: one view for each kind, made of the tables and lists of ``tables``.

Every view takes a :class:`StepResult` and returns a :class:`Shown`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from zenml_upgrade_kit import artifact_views, words
from zenml_upgrade_kit.findings import Severity, StepResult
from zenml_upgrade_kit.tables import (
    Shown,
    bars,
    chip,
    folded,
    folded_table,
    listing,
    log,
    loud_first,
    pairs,
    sentence,
    table,
)

UNTRIED = "not done: restoring was not tried"
READABLE = "that anyone with this backup can read"
MANAGED = {
    "provider": "Provider",
    "instance": "Instance",
    "automated": "Automated backups",
    "retention_days": "Days kept",
    "latest_restorable": "Restorable up to",
    "newest_snapshot": "Newest snapshot",
    "console": "Look at",
}

artifacts, progress = artifact_views.artifacts, artifact_views.Progress


def banner(result: StepResult) -> Shown:
    """How the step ended, in one coloured line: status, findings, time."""
    word = result.facts.get("verdict") or result.status.value
    nouns = {Severity.BLOCK: "blocking finding", Severity.WARN: "warning", Severity.INFO: "note"}
    numbers = {noun: sum(one.severity is severity for one in result.findings) for severity, noun in nouns.items()}
    found = ", ".join(words.count(number, noun) for noun, number in numbers.items() if number)
    missing = f"{words.count(len(result.not_checked), 'thing')} not checked" if result.not_checked else ""
    details = [found or "no findings", missing, words.duration(result.seconds), words.when(result.started)]
    name, line = words.title(result.step), " · ".join(filter(None, details))
    style = f"margin:.6em 0;padding:.6em .8em;border-left:.5em solid {words.COLOURS[words.tone(word)]}"
    return Shown(
        f'<p style="{style};background:rgba(128,128,128,.12)">{chip(word)} <b>{escape(name)}</b> {escape(line)}</p>',
        f"{words.mark(word)}  {name}: {line}",
    )


def findings(result: StepResult) -> Shown:
    """What the step found, worst first, and below it what it could not look at."""
    order = list(Severity)
    rows = [one.to_json() for one in sorted(result.findings, key=lambda one: order.index(one.severity))]
    columns = {"severity": "Severity", "id": "Id", "subject": "About", "message": "What was seen"}
    columns |= {"remedy": "What to do", "url": "More"}
    used = {key: heading for key, heading in columns.items() if key != "url" or any(row["url"] for row in rows)}
    shown = table(rows, used, f"Findings ({len(rows):,})") if rows else sentence("No findings.")
    missing = result.not_checked
    return shown + listing(f"? Not checked ({len(missing):,}): none of this counts as passed", missing)


def inventory(result: StepResult) -> Shown:
    """What is in the store: the release that wrote it, its size, runs, pipelines, artifacts, stacks."""
    held, store = result.facts.get("inventory") or {}, result.facts.get("store") or {}
    names = {
        "path": "Store",
        "config_yaml": "ZenML configuration",
        "source_version": "Written by ZenML",
        "stamp": "Stamp",
        "target_version": "To be upgraded to ZenML",
        "database_bytes": "Database size",
        "source_identity": "Identity of the database",
        "runs_by_status": "Runs",
        "users": "Users",
        "schedules": "Schedules",
        "zenml_versions": "ZenML versions recorded (runs)",
        "python_versions": "Python versions recorded (runs)",
        "libraries": "Libraries recorded",
    }
    sums = {"runs_by_status": held.get("runs_by_status") or "none", "schedules": len(held.get("schedules") or [])}
    shown = pairs({**store, **held, **result.facts, **sums}, names, "The store")
    pipelines = {"name": "Pipeline", "runs": "Runs", "last_run": "Last run", "last_status": "Status"}
    shown += table(held.get("pipelines") or [], pipelines, "Pipelines")
    types = {"type": "Type", "materializer": "Materializer", "count": "Artifact versions"}
    shown += table(held.get("artifacts_by_type") or [], types, "Artifact versions by type")
    stacks = [
        {"name": stack["name"], "components": [f"{part['type']}: {part['flavor']}" for part in stack["components"]]}
        for stack in held.get("stacks") or []
    ]
    shown += table(stacks, {"name": "Stack", "components": "Components"}, "Stacks")
    rows = [{"table": name, "rows": number} for name, number in sorted((held.get("tables") or {}).items())]
    total = words.count(sum(row["rows"] for row in rows), "row")
    return shown + folded_table(rows, {"table": "Table", "rows": "Rows"}, "table", after=f" with {total}")


def checks(result: StepResult) -> Shown:
    """Every check of the catalogue that was considered; those that found nothing are folded."""
    rows = [
        {**check, "outcome": check["severity"] if check["outcome"] == "found" else check["outcome"]}
        for check in sorted(result.facts.get("checks") or [], key=lambda check: str(check["id"]))
    ]
    columns = {"outcome": "Outcome", "id": "Id", "title": "Check", "reason": "Why"}
    return loud_first(rows, columns, "Checks", quiet=("passed", "not_applicable"), noun="check")


def environments(result: StepResult) -> Shown:
    """The two isolated environments, and what was chosen for them and why."""
    made = {side: found for side, found in (result.facts.get("environments") or {}).items() if found}
    if not made:
        return sentence("No environment was made: the store may not be upgraded as it is.")
    shown = sentence("Two isolated environments stand in for the old and the new installation.")
    names = {"version": "ZenML", "python_version": "Python", "python": "Interpreter", "origin": "How it was made"}
    for side, found in made.items():
        shown += pairs(found, names, f"{side.capitalize()} environment")
        shown += listing("Chosen, and why", found.get("notes") or [])
        packages = [{"name": name, "version": version} for name, version in sorted(found["packages"].items())]
        shown += folded_table(packages, {"name": "Package", "version": "Version"}, "package")
    return shown


def backup(result: StepResult) -> Shown:
    """What was copied where, how it was proven, how long going back takes, and what is not inside."""
    manifest = result.facts.get("manifest") or {}
    verified = result.facts.get("verified") or {}
    secrets, server = manifest.get("secrets") or {}, manifest.get("server") or {}
    tried = verified.get("restored")
    facts = {
        **manifest,
        "where": result.facts.get("where"),
        "server": server and f"{server['flavour']} {server['version']}",
        "charset": server and f"{server['charset']}, {server['collation']}",
        "hashed": verified.get("hashed") and words.when(verified["hashed"]),
        "drill": f"into {verified['restored_into']}, {words.when(tried)}" if tried else manifest and UNTRIED,
        "seconds": verified.get("restore_seconds"),
        "held": secrets.get("readable") and f"{words.count(secrets['readable'], 'secret')} {READABLE}",
        "encrypted": secrets.get("encrypted") and words.count(secrets["encrypted"], "secret"),
    }
    names = {"where": "Backup", "source": "Of", "server": "Server", "charset": "Character set"}
    names |= {"stamp": "Release stamp", "tool": "Made with", "started": "Begun", "finished": "Finished"}
    names |= {"compared": "Compared", "hashed": "Files hashed again", "drill": "Restored to try it"}
    names |= {"seconds": "Restoring took", "encrypted_to": "Encrypted to"}
    names |= {"held": "Readable secrets", "encrypted": "Encrypted secrets"}
    shown = pairs({name: value for name, value in facts.items() if value}, names, "The backup")
    shown += listing("Not part of this backup", manifest.get("not_included") or [])
    if hosted := result.facts.get("managed"):
        shown += pairs(hosted, MANAGED, "What the provider keeps")
    return shown + _contents(manifest) + listing("Removed", result.facts.get("removed") or [])


def _contents(manifest: Mapping[str, Any]) -> Shown:
    """The tables and files of a backup, largest first."""
    tables = [{"table": name, **about} for name, about in (manifest.get("tables") or {}).items()]
    tables.sort(key=lambda row: (-(row.get("bytes") or row["rows"] or 0), row["table"]))
    sized, by = ("bytes", "size") if any(row.get("bytes") for row in tables) else ("rows", "rows")
    largest = [(row["table"], row.get(sized) or 0) for row in tables[:10]]
    columns = {"table": "Table", "rows": "Rows", sized: by.capitalize(), "fingerprint": "Fingerprint"}
    files = {"name": "File", "bytes": "Size", "original_bytes": "Unpacked", "sha256": "SHA-256"}
    return (
        bars(largest, f"Largest tables by {by}", sized)
        + folded_table(tables, columns, "table", after=" with rows and fingerprints")
        + folded_table(
            manifest.get("files") or [], {**files, "restore_to": "Goes back to"}, "file", after=" in the backup"
        )
    )


def backup_row(one: Any) -> dict[str, Any]:
    """One backup in a list of them."""
    verified = one.verified
    checked = "restored" if verified["restored"] else "hashed" if verified["hashed"] else "no"
    return {
        "name": one.name,
        "age": words.duration(one.age.total_seconds()),
        "bytes": sum(file["bytes"] for file in one.files()),
        "source_version": one.manifest["source_version"] or one.manifest["stamp"],
        "source": one.manifest["source"],
        "verified": verified["problem"] or checked,
        "seconds": verified["restore_seconds"],
    }


def backups(rows: Sequence[Mapping[str, Any]], caption: str) -> Shown:
    """A list of backups, newest first."""
    columns = {"name": "Backup", "age": "Age", "bytes": "Size", "source_version": "ZenML", "source": "Of"}
    return table(rows, {**columns, "verified": "Verified", "seconds": "Restored in"}, caption)


def smoke_runs(result: StepResult) -> Shown:
    """Every pipeline that was run under the target release, beside its latest run in the store."""
    runs = result.facts.get("runs") or []
    if not runs:
        return sentence("No pipeline was run: the plan names none.")
    columns = {"outcome": "Outcome", "name": "Run", "status": "Status", "expected": "Expected", "seconds": "Time"}
    steps = {"name": "Step", "status": "Status", "expected": "Expected"}
    outputs = {"outcome": "Outcome", "step": "Step", "output": "Output", "old": "Latest run", "new": "Under the target"}
    there = result.facts.get("store")
    shown = sentence(f"The pipelines ran in {there}.") if there else Shown("", "")
    shown += table(runs, columns, "Runs under the target release")
    for run in runs:
        failed = run["outcome"] == "failed"
        content = table(run["steps"], steps, "Steps") + table(run["outputs"], outputs, "Outputs")
        content += log(run["log_tail"], opened=failed)
        if run["error"]:
            content = sentence(f"Error: {run['error']}") + content
        shown += folded(f"{words.mark(run['outcome'])} · {run['name']}: steps, outputs and log", content, opened=failed)
    return shown


def decision(result: StepResult) -> Shown:
    """The verdict with its reasons, and what each step contributed."""
    rows = [{**row, "step": words.title(row["step"])} for row in result.facts.get("steps") or []]
    columns = {"status": "Status", "step": "Step", "findings": "Findings", "seconds": "Time"}
    shown = listing("Reasons", result.facts.get("reasons") or []) + table(rows, columns, "Steps of this run")
    kept = result.facts.get("kept")
    shown += listing("Copies of the database", [f"They stay: {kept}"] if kept else [])
    return shown + listing("Copies of the database that went", result.facts.get("removed") or [])


def rollback(result: StepResult) -> Shown:
    """What a rollback did, or would do."""
    facts = result.facts
    looked = "Nothing was changed, because apply is False. This is what would be done."
    shown = sentence("This was done." if facts.get("applied") else looked)
    shown += pairs(facts, {"backup": "Backup", "applied": "Applied", "proof": "Proof"}, "The rollback")
    return shown + listing("Actions", facts.get("actions") or []) + listing("Kept", facts.get("kept") or [])
