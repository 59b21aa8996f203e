"""What a rehearsal shows, for a reader who never saw a database migration: what happens to the data, and how long."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zenml_upgrade_kit import words
from zenml_upgrade_kit.findings import StepResult
from zenml_upgrade_kit.tables import Shown, bars, code, folded, folded_table, listing, log, pairs, sentence, table

OUTCOMES = {
    "unchanged": "exactly as before",
    "renamed": "the same rows under another name",
    "changed": "changed as a release in between says",
    "added": "new",
    "dropped": "gone by design, kept in the run as CSV",
    "unexplained": "differ, and nothing explains it",
    "not_checked": "not checked",
}
"""What becomes of a table, in the order in which it is told."""
WORST = ("unexplained", "not_checked", "dropped", "changed", "added", "renamed")
"""Tables that are not as they were, in the order in which they deserve a look."""
ELSEWHERE = {"moved": "kept elsewhere", "added": "new columns"}
"""What is told of columns whose values are not in the same place of the table before; the others just change."""
NOT_COMPARED = "Nothing was compared: the migration did not end well."
SLOW = 12
"""Revisions that the picture of the time shows."""


def summary(result: StepResult) -> Shown:
    """The rehearsal in a few sentences, and how many tables, rows and values were compared with which outcome."""
    facts = result.facts
    hops, proof = facts.get("hops") or [], facts.get("proof") or {}
    done = [f"Where the copies of the backup were: {facts['site']}."] if hops else []
    for hop in hops:
        steps = f"{words.count(len(hop['revisions']), 'step')} in {words.duration(hop['seconds'])}"
        ended = "stopped" if hop["error"] else f"took the copy from {hop['started_at']} to {hop['reached']}"
        done.append(f"ZenML {hop['version']} {ended}: {steps}.")
    if proof:
        totals = proof["totals"]
        done.append(
            f"{words.count(totals['tables'], 'table')}, {words.count(totals['rows'], 'row')} and "
            f"{words.count(totals['cells'], 'value')} were compared with the backup, one by one."
        )
    store = {True: "is as it was", False: "was changed by somebody else", None: "could not be compared with before"}
    done.append(f"The store itself {store[facts.get('source_unchanged')]}.")
    counted = {name: [one for one in proof.get("tables", ()) if one["outcome"] == name] for name in OUTCOMES}
    rows = [
        {"outcome": name, "meaning": meaning, "tables": len(counted[name]), "rows": _rows(counted[name])}
        for name, meaning in OUTCOMES.items()
        if counted[name]
    ]
    columns = {"outcome": "Outcome", "meaning": "What that means", "tables": "Tables", "rows": "Rows"}
    return listing("", done) + (table(rows, columns, "What becomes of your tables") if rows else Shown("", ""))


def story(result: StepResult) -> Shown:
    """What each release in between does to the data, in plain words; what concerns nothing in here is folded."""
    told: dict[tuple[str, str], float] = {}
    for one in result.facts.get("story") or []:
        for why in one["why"]:
            told[one["release"], why] = told.get((one["release"], why), 0.0) + one["seconds"]
    touched = _touched(result.facts.get("proof"))
    rows = [{"release": release, "why": why, "seconds": seconds} for (release, why), seconds in told.items()]
    yours = [row for row in rows if touched is None or row["why"] in touched]
    columns = {"release": "Release", "why": "What it does", "seconds": "Time"}
    shown = table(yours, columns, "What the releases do to your data")
    rest = [row for row in rows if row not in yours]
    return shown + folded_table(rest, columns, "change", after=" with nothing to do in this database")


def obstacles(result: StepResult) -> Shown:
    """Conditions that this database meets: the rows, and what puts them right."""
    found = result.facts.get("obstacles") or []
    shown = Shown("", "") if found else sentence("No known condition stands in the way.")
    for one in found:
        heading = f"{words.mark(one['severity'])} {one['id']} · {one['title']} · {words.count(one['count'], 'row')}"
        content = sentence(one["message"]) + sentence(f"Do this: {one['remedy']}")
        if names := {name: name for row in one["rows"] for name in row}:
            content += table(one["rows"], names, "The rows, at most 20")
        settings = [f"{name}={value}" for name, value in one["variables"].items()]
        content += code("For the migration, set:", settings)
        content += code("In SQL, to be read before it is run:", (f"{statement};" for statement in one["statements"]))
        if one["statements"] or settings:
            content += sentence(f"See it work on a copy: zenml-upgrade rehearse … --try-remedy {one['id']}")
        shown += folded(heading, content, opened=one["severity"] == "block")
    found = result.facts.get("bisection")
    if found:
        works = f"the last release that migrates this database is {found['last_working'] or 'none'}"
        shown += sentence(f"Tried on copies: {works}, the first that fails is {found['first_failing'] or 'none'}.")
    return shown


def tables(result: StepResult) -> Shown:
    """Every table before and after, the worst first; those that are as they were, or empty, are folded."""
    proof = result.facts.get("proof") or {}
    rows = [{**one, **_changes(one)} for one in proof.get("tables", ())]
    if not rows:
        return sentence(NOT_COMPARED)
    rows.sort(key=lambda row: [*WORST, "unchanged"].index(row["outcome"]))
    bad = ("unexplained", "not_checked")
    loud = [row for row in rows if row["outcome"] in bad or (row["outcome"] != "unchanged" and row["held"])]
    columns = {"outcome": "Outcome", "table": "Table", "before": "Rows before", "after": "Rows after"}
    shown = _unexplained(proof) + table(loud, {**columns, "changes": "What changes"}, "Tables that change")
    same = [row for row in rows if row["outcome"] == "unchanged"]
    shown += folded_table(same, {"table": "Table", "after": "Rows"}, "table", before="✓ exactly as before: ")
    empty = [row for row in rows if row not in loud and row not in same]
    shown += folded_table(empty, columns, "table", after=" without rows, before and after")
    columns = {"table": "Table", "column": "Column", "was": "Was", "outcome": "Outcome", "changed": "In rows"}
    columns |= {"release": "Release"}
    changed = [{"table": row["table"], **column} for row in rows if row["held"] for column in row["columns"]]
    shown += folded_table(changed, {**columns, "why": "Why"}, "column", after=", each with the reason")
    return shown + listing("Not checked", proof["not_checked"])


def _unexplained(proof: Mapping[str, Any]) -> Shown:
    """Rows and values that nothing explains, with both values."""
    rows = [
        {
            "place": _place(one),
            "kind": one["kind"],
            "count": one["count"],
            "key": ", ".join(map(str, example["key"].values())) if example else "",
            "old": repr(example["before"]) if example else "",
            "new": repr(example["after"]) if example else "",
        }
        for one in proof.get("unexplained", ())
        for example in one["examples"] or [None]  # of a table that is gone there are none
    ]
    columns = {"place": "Where", "kind": "What", "count": "How many", "key": "Key", "old": "Before", "new": "After"}
    return table(rows, columns, "✗ Not explained by any release") if rows else Shown("", "")


def dropped(result: StepResult) -> Shown:
    """What goes by design, and where it is kept."""
    proof = result.facts.get("proof")
    if not proof:
        return sentence(NOT_COMPARED)
    gone = [one for one in proof["dropped"] if one["rows"]]
    if not gone:
        return sentence("Nothing of yours goes.")
    grouped: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for one in gone:
        grouped.setdefault((one["release"], one["table"], one["why"]), []).append(one)
    rows = [
        {"release": release, "table": name, "columns": ", ".join(one["column"] for one in some if one["column"])}
        | {"rows": max(one["rows"] for one in some), "why": why}
        for (release, name, why), some in grouped.items()
    ]
    columns = {"release": "Release", "table": "Table", "columns": "Columns (none: whole rows)", "rows": "Rows"}
    files = [{**one, "place": _place(one), "hidden": ", ".join(one["hidden"]) or None} for one in gone]
    kept = {"place": "What", "rows": "Rows", "file": "Kept in this run as", "hidden": "Not kept: secret"}
    shown = table(rows, {**columns, "why": "Why"}, "What goes by design")
    return shown + folded_table(files, kept, "file", after=" in the folder of this run that keep all of it")


def people(result: StepResult) -> Shown:
    """Names that people will find changed, as both releases list them."""
    rows = result.facts.get("people")
    if rows is None:
        return sentence("The names were not compared: the migration failed, or a release did not list them.")
    columns = {"kind": "Kind", "before": "Name before", "after": "Name after", "change": "Change"}
    columns |= {"detail": "Detail", "expected": "Expected, because"}
    many = ", ".join(f"{kind.replace('_', ' ')} ({count:,})" for kind, count in result.facts.get("cut", {}).items())
    rest = sentence(f"Too many to list all by name, but their rows are compared like all others: {many}.")
    same = sentence("What both releases listed has the same names: pipelines, stacks, users, secrets, models and more.")
    return (table(rows, columns, "What people will notice") if rows else same) + (rest if many else Shown("", ""))


def time(result: StepResult) -> Shown:
    """How long the real upgrade will take, and which steps of the migration take it."""
    forecast = result.facts.get("forecast") or {}
    if not forecast:
        return sentence("There is no forecast: the migration did not end well.")
    names = {"backup": "Backup", "migration": "Migration", "downtime": "Downtime, when all goes well"}
    names |= {"restore": "Going back, should it be needed", "with_rollback": "Downtime with going back"}
    shown = pairs({key: words.duration(forecast[key]) for key in names}, names, "How long it will take")
    speed, site = forecast["speed"], result.facts["site"]
    if speed is None:
        shown += sentence(f"Measured in {site}; how fast your server is beside it could not be measured.")
    elif speed != 1:
        shown += sentence(f"Measured in {site}, which is {speed:.2g} times as fast, and scaled.")
    spent = sorted(result.facts.get("story") or [], key=lambda one: -float(one["seconds"]))
    slow = [(f"{one['release']} {one['revision']}", one["seconds"]) for one in spent[:SLOW] if one["seconds"] >= 0.05]
    columns = {"release": "Release", "revision": "Revision", "seconds": "Time", "why": "What it does"}
    shown += bars(slow, "The slowest steps of the migration", "seconds")
    shown += folded_table(spent, columns, "step", after=" of the migration, slowest first")
    peak = {"version": "Migrated with ZenML", "memory_bytes": "Memory, at most", "disk_bytes": "The copy grew by"}
    rows = [{**hop, "memory_bytes": hop["memory"], "disk_bytes": hop["disk"]} for hop in result.facts["hops"]]
    return shown + table(rows, peak, "What the migration took")


def way_back(result: StepResult) -> Shown:
    """The drill of a rollback: the backup restored, and opened by the release in use now."""
    drill = result.facts.get("drill")
    if not drill:
        return sentence("The way back was not tried.")
    names = {"zenml": "Opened with ZenML", "seconds": "Time", "runs": "Runs listed", "stacks": "Stacks listed"}
    return pairs(drill, {**names, "user": "User", "active_stack": "Active stack"}, "The way back, tried on a copy")


def end_of_log(result: StepResult) -> Shown:
    """What the migration printed last, open where it failed."""
    failed = any(hop["error"] for hop in result.facts.get("hops") or ())
    return log(result.facts.get("log_tail", ""), opened=failed)


def _rows(tables: Iterable[Mapping[str, Any]]) -> int:
    return sum((one["after"] if one["after"] is not None else one["before"]) or 0 for one in tables)


def _changes(one: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a table in a line: its other name, rows that came and went, columns by what becomes of them."""
    told = [
        f"called {one['was']} before" if one["was"] not in ("", one["table"]) else "",
        f"{words.count(one['new_rows'], 'new row')}" if one["new_rows"] else "",
        f"{words.count(one['dropped_rows'], 'row')} less" if one["dropped_rows"] else "",
    ]
    grouped: dict[str, list[str]] = {"columns": []}
    for column in one["columns"]:
        grouped.setdefault(ELSEWHERE.get(column["outcome"], "columns"), []).append(column["column"])
    for what, names in grouped.items():
        more = f" and {len(names) - 6} more" if len(names) > 6 else ""
        told.append(f"{what}: {', '.join(names[:6])}{more}" if names else "")
    return {"changes": "; ".join(filter(None, told)), "held": bool(one["before"] or one["after"])}


def _touched(proof: Mapping[str, Any] | None) -> set[str] | None:
    """The reasons that concern rows which are there; None where nothing was compared."""
    if not proof:
        return None
    held = [one for one in proof["tables"] if one["before"]]
    columns = [column for one in held for column in one["columns"] if column["outcome"] != "added"]
    return {column["why"] for column in columns} | {one["why"] for one in proof["dropped"] if one["rows"]}


def _place(one: Mapping[str, Any]) -> str:
    return f"{one['table']}.{one['column']}" if one["column"] else str(one["table"])
