"""Statements that let a copy migrate: what data/conditions.yaml cannot say in SQL alone.

Everything is quoted with backticks, which SQLite and MySQL in any SQL mode understand.
"""

from __future__ import annotations

import json
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zenml_upgrade_kit.checks.content import Condition, Query

TOGETHER = 500
"""Ids in one statement."""
KEPT = 240
"""Characters of a name that gets a suffix: 255 is the most that a column holds."""
SUFFIX = 8
NAMED_IN_WORKSPACE = {"pipeline", "pipeline_run", "model", "stack", "stack_component", "service_connector", "secret"}
NAMED_IN_WORKSPACE |= {"schedule", "code_repository", "action", "event_source", "trigger", "run_template"}
"""Tables whose names have to be different in a workspace, by 0.80.0 at the latest."""

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Found:
    """All rows that a condition's SQL gave, and what else is needed to put them right."""

    query: Query
    tables: Mapping[str, Sequence[str]]
    condition: Condition
    rows: Rows
    engine: str


@dataclass(frozen=True, kw_only=True)
class Mended:
    """What lets a copy migrate: statements, or environment variables."""

    statements: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)


class _Joined:
    """``{joined:a|b|c}``: texts one after the other, in an engine's SQL."""

    def __init__(self, engine: str) -> None:
        self.engine = engine

    def __format__(self, parts: str) -> str:
        texts = parts.split("|")
        return f"CONCAT({', '.join(texts)})" if self.engine == "mysql" else f"({' || '.join(texts)})"


def mend(found: Found) -> Mended:
    """What lets a copy with these rows migrate, as the condition says."""
    if isinstance(found.condition.mend, str):
        return MEND[found.condition.mend](found)
    columns, joined = found.condition.columns, _Joined(found.engine)
    column = columns[0]
    words = {"table": found.condition.table, "column": column, "last": columns[-1], "joined": joined}
    kept = f"SUBSTR(`{column}`, 1, {KEPT})"
    statements = []
    for template in found.condition.mend:
        parts = _shared(found.rows, column) if "{together}" in template else [("", _others(found.rows))]
        for suffix, changed in parts:
            for ids in _listed(changed):
                filled = {
                    **words,
                    "ids": ids,
                    "apart": format(joined, f"{kept}|'-'|SUBSTR(id, 1, {SUFFIX})"),
                    "together": format(joined, f"{kept}|'-{suffix}'"),
                }
                statements.append(template.format_map(filled))
    return Mended(statements=statements)


def _listed(rows: Rows) -> Iterator[str]:
    """Their ids in SQL, so many for each statement."""
    for start in range(0, len(rows), TOGETHER):
        yield ", ".join(f"'{row['id']}'" for row in rows[start : start + TOGETHER])


def _others(rows: Rows) -> list[dict[str, Any]]:
    """All rows but the first of each group, and all that are in none."""
    seen: set[Any] = {None}
    others = []
    for row in rows:
        if row.get("group") in seen:
            others.append(row)
        seen.add(row.get("group"))
    return others


def _shared(rows: Rows, column: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(suffix, rows) for each name of a group but the first row's: rows of one name stay together."""
    for group, members in groupby(rows, lambda row: row.get("group")):
        by_name: dict[str, list[dict[str, Any]]] = {}
        for row in members:
            by_name.setdefault(row[column], []).append(row)
        for place, same in enumerate(by_name.values()):
            if group is None or place:
                yield min(row["id"] for row in same)[:SUFFIX], same


def _literal(text: str, engine: str) -> str:
    """A text in SQL. MySQL takes a backslash for an escape in every SQL mode of ZenML's or the kit's sessions."""
    text = text.replace("'", "''")
    return "'" + (text.replace("\\", "\\\\") if engine == "mysql" else text) + "'"


def _one_workspace(found: Found) -> Mended:
    """Everything moves to the workspace called default, or the oldest; names that are there get the other's name."""
    keep, joined = _chosen(found.rows), _Joined(found.engine)
    concerned = sorted(name for name, columns in found.tables.items() if "workspace_id" in columns)
    statements = []
    for row in found.rows:
        if row is keep:
            continue
        suffix = "-" + row["name"].replace("|", "_")[:100]
        for table in concerned:
            if not found.query(f"SELECT 1 AS found FROM `{table}` WHERE workspace_id = '{row['id']}' LIMIT 1"):
                continue
            if table in NAMED_IN_WORKSPACE:
                parts = f"SUBSTR(name, 1, {255 - len(suffix)})|{_literal(suffix, found.engine)}"
                there = f"SELECT name FROM `{table}` WHERE workspace_id = '{keep['id']}'"
                statements.append(  # a table by another name: MySQL does not read the one that it changes
                    f"UPDATE `{table}` SET name = {format(joined, parts)} WHERE workspace_id = '{row['id']}'"
                    f" AND name IN (SELECT name FROM ({there}) AS there)"
                )
            statements.append(f"UPDATE `{table}` SET workspace_id = '{keep['id']}' WHERE workspace_id = '{row['id']}'")
        statements.append(f"DELETE FROM workspace WHERE id = '{row['id']}'")
    return Mended(statements=statements)


def _chosen(rows: Rows) -> dict[str, Any]:
    """The workspace that ZenML looks for, or the oldest; ``rows`` are in the order of their age."""
    return next((row for row in rows if row["name"] == "default"), rows[0])


def _default_workspace(found: Found) -> Mended:
    """The migration is told which workspace to take; where there is none, it gets one as ZenML itself makes it."""
    if found.rows[0]["id"] is not None:
        oldest = found.query("SELECT name FROM workspace ORDER BY created, id LIMIT 1")
        return Mended(variables={"ZENML_DEFAULT_PROJECT_NAME": str(dict(oldest[0])["name"])})
    return Mended(
        statements=[
            "INSERT INTO workspace (id, name, description, created, updated)"
            f" VALUES ('{uuid.uuid4().hex}', 'default', '', CURRENT_TIMESTAMP, CURRENT_TIMESTAMP)"
        ]
    )


def _new_identity(found: Found) -> Mended:
    return Mended(statements=[f"INSERT INTO {found.condition.table} (id) VALUES ('{uuid.uuid4().hex}')"])


def _plain_tags(found: Found) -> Mended:
    """Every character that may break the statement becomes ``_``; tags that are then the same become one."""
    statements = []
    for row in found.rows:
        plain = list(dict.fromkeys(re.sub(r"['\\:]", "_", tag) for tag in json.loads(row["tags"])))
        statements.append(
            f"UPDATE model SET tags = {_literal(json.dumps(plain), found.engine)} WHERE id = '{row['id']}'"
        )
    return Mended(statements=statements)


def _known_value(found: Found) -> Mended:
    """A value that is only written in other letters is written as ZenML knows it; any other is set to one for all."""
    column, known = found.condition.columns[0], {value.lower(): value for value in found.condition.values}
    by_value: dict[str, list[dict[str, Any]]] = {}
    for row in found.rows:
        by_value.setdefault(known.get(row[column].lower().strip(), found.condition.otherwise), []).append(row)
    return Mended(
        statements=[
            f"UPDATE `{found.condition.table}` SET `{column}` = '{value}' WHERE id IN ({ids})"
            for value, rows in by_value.items()
            for ids in _listed(rows)
        ]
    )


MEND: dict[str, Callable[[Found], Mended]] = {
    "one_workspace": _one_workspace,
    "default_workspace": _default_workspace,
    "new_identity": _new_identity,
    "plain_tags": _plain_tags,
    "known_value": _known_value,
}


def _not_an_object(found: Found) -> Iterator[dict[str, Any]]:
    """What Python's JSON, which the migration reads it with, calls no object; it takes NaN, which databases do not.

    The text itself is left out: it may hold anything.
    """
    for row in found.rows:
        text = row.pop(found.condition.columns[-1])
        try:
            value = json.loads(text)
            problem = "" if isinstance(value, dict) else f"a JSON {type(value).__name__}"
        except (TypeError, ValueError) as error:
            problem = str(error) if text else "nothing in it"
        if problem:
            yield {**row, "problem": problem}


def _unquotable(found: Found) -> Iterator[dict[str, Any]]:
    """Models with a tag that cannot be pasted into a statement: a quote, or what SQLAlchemy takes for a parameter.

    On MySQL a backslash, too, which SQLAlchemy takes away before a colon anywhere.
    """
    breaks = re.compile(r"'|(?<![:\w\\]):\w+(?!:)|\\:" + (r"|\\" if found.engine == "mysql" else ""))
    for row in found.rows:
        try:
            tags = json.loads(row["tags"])
        except ValueError:
            continue  # so does the migration
        if bad := [tag for tag in tags if breaks.search(f" {tag}")]:
            yield {**row, "tag": bad[0]}


def _folding_steps(found: Found) -> Iterator[dict[str, Any]]:
    """Deployments with steps whose names differ in case, accents or spaces at the end alone."""
    for row in found.rows:
        folded: dict[str, list[str]] = {}
        for name in json.loads(row["steps"] or "[]"):
            letters = [one for one in unicodedata.normalize("NFKD", name) if not unicodedata.combining(one)]
            folded.setdefault("".join(letters).casefold().rstrip(" "), []).append(name)
        if same := [names for names in folded.values() if len(names) > 1]:
            yield {**row, "steps": " and ".join(map(repr, sorted(same[0])))}


ONLY: dict[str, Callable[[Found], Iterable[dict[str, Any]]]] = {
    "not_an_object": _not_an_object,
    "unquotable": _unquotable,
    "folding_steps": _folding_steps,
}
