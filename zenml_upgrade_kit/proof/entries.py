"""What each alembic revision does to data and names, as ``data/changes/*.yaml`` tells it: one entry a revision.

SQL in an entry is common to both engines (names in double quotes), or ``{sqlite: …, mysql: …}`` where they differ, as
they do for ``||``. In it, ``{column}`` is that column of the entry's table in the state just before the revision;
``<table>`` is a sub-select of a table in that state, with the columns that the SQL names; ``<after.table>`` and
``{after.column}`` are the migrated table, under the names that it has just after the revision. Aliases ``this`` and
``migrated`` are taken. Whatever is not told stays as it is; columns that ``data/schemas.json`` adds and no entry values
are NULL, and tables that it adds are empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.errors import BadPlan

ANY = "*"
"""The revision of the entry for what any first open by a newer release rewrites; the last one."""
ENGINES = ("sqlite", "mysql")
CHECKS = {"step_configurations": ("step_configuration", "pipeline_deployment")}
"""Checks in Python that ``by`` may name: the table that each checks, and the one that it is made of."""
Sql: TypeAlias = "str | Mapping[str, str]"
Cells: TypeAlias = "Mapping[str, Mapping[str, Sql]]"


@dataclass(frozen=True, kw_only=True)
class Change:
    """One entry.

    why: for people who never saw alembic. source: how it is known. Tables and columns may be named as before or after
    the entry's own renaming. set, add: SQL of the value of an existing, a new column. drop_columns, drop_tables,
    drop_rows (a condition): lost by design, exported, and told. moved_columns, moved_tables: gone from here, with words
    for where they are now, ``{table: {column: "where"}}`` and ``{table: "where"}``. tables: a table made of others, as
    ``{columns: {name: SQL}, from: SQL, where: SQL, key: [columns]}``; key where it is not the primary key, because that
    ``id`` is made up. new_rows: which rows of the migrated table (``{column}``) may have no counterpart. free: columns
    whose new values cannot be foretold. check: instead of equality, SQL over ``{column}`` and ``{after.column}``. by: a
    check in Python, of :data:`CHECKS`.
    """

    revision: str
    release: str
    why: str
    source: str
    rename_tables: Mapping[str, str] = field(default_factory=dict)
    rename_columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    set: Cells = field(default_factory=dict)
    add: Cells = field(default_factory=dict)
    drop_columns: Mapping[str, Sequence[str]] = field(default_factory=dict)
    drop_tables: Sequence[str] = ()
    drop_rows: Mapping[str, Sql] = field(default_factory=dict)
    moved_columns: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    moved_tables: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    new_rows: Mapping[str, Sql] = field(default_factory=dict)
    free: Mapping[str, Sequence[str]] = field(default_factory=dict)
    check: Cells = field(default_factory=dict)
    by: str = ""


_TEXT = ("revision", "release", "why", "source", "by")
_KNOWN = {one.name for one in fields(Change)}
_ALIAS = re.compile(r'\bAS\s+"?(this|migrated)\b', re.IGNORECASE)


@cache
def load() -> tuple[Change, ...]:
    """The entries of all files, oldest first; raises :class:`BadPlan` that names what is wrong with them."""
    items: list[Any] = []
    for path in sorted((Path(__file__).parent.parent / "data" / "changes").glob("*.yaml")):
        items += yaml.safe_load(path.read_text(encoding="utf-8")) or []
    return read(items)


def read(items: Sequence[Any]) -> tuple[Change, ...]:
    """Entries as YAML has them; raises :class:`BadPlan` that names what is wrong with them."""
    problems = [f"{_name(item)}: {problem}" for item in items for problem in _wrong(item)]
    if not problems:
        found = [Change(**item) for item in items]
        order = [_place(change) for change in found]
        problems = [
            f"{change.revision} comes too late, it is older than the one above"
            for change, place, before in zip(found[1:], order[1:], order, strict=False)
            if place < before
        ]
    if problems:
        raise BadPlan(
            "the model of what migrations change cannot be used",
            expected="entries as the text of zenml_upgrade_kit/proof/entries.py tells",
            found="; ".join(problems),
            remedy="correct them in zenml_upgrade_kit/data/changes",
        )
    return tuple(found)


def variant(sql: Sql, engine: str) -> str:
    """The SQL for one engine."""
    return str(sql if isinstance(sql, str) else sql[engine])


def _name(item: Any) -> str:
    return str(item.get("revision", "an entry")) if isinstance(item, Mapping) else "an entry"


def _place(change: Change) -> float:
    return float("inf") if change.revision == ANY else float(releases.position(change.revision) or 0)


def _wrong(item: Any) -> list[str]:
    """What is wrong with an entry by itself."""
    if not isinstance(item, Mapping):
        return ["it is not a mapping"]
    wrong = [f"{key} is no key of an entry" for key in item if key not in _KNOWN]
    wrong += [f"{key} is not a text" for key in _TEXT if not isinstance(item.get(key, ""), str)]
    wrong += [f"{key} is missing" for key in ("revision", "release", "why", "source") if not item.get(key)]
    if wrong:
        return wrong
    wrong += _misplaced(item["revision"], item["release"])
    if item.get("by") and item["by"] not in CHECKS:
        wrong.append(f"by: {item['by']} is none of {', '.join(CHECKS)}")
    for key in ("drop_columns", "free"):
        named = item.get(key, {}).items()
        wrong += [f"{key} {table} is not a list of columns" for table, names in named if not isinstance(names, list)]
    for table, made in item.get("tables", {}).items():
        wrong += [f"tables {table}: {key} is no key" for key in made if key not in ("columns", "from", "where", "key")]
        wrong += [] if {"columns", "from"} <= made.keys() else [f"tables {table} has no columns, or no from"]
    return wrong + [problem for where, sql in _statements(item) for problem in _unusable(where, sql)]


def _misplaced(revision: str, release: str) -> list[str]:
    if revision == ANY:
        return []
    found = releases.for_stamp(revision)
    if not found or revision not in found.revisions:
        return [f"no release since {releases.all()[0].version} adds this revision"]
    return [] if release == found.version else [f"it belongs to release {found.version}, not {release}"]


def _statements(item: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All SQL of an entry, and where it is."""
    for key in ("set", "add", "check"):
        for table, cells in item.get(key, {}).items():
            yield from ((f"{key} {table}.{column}", sql) for column, sql in cells.items())
    for key in ("drop_rows", "new_rows"):
        yield from ((f"{key} {table}", sql) for table, sql in item.get(key, {}).items())
    for table, made in item.get("tables", {}).items():
        yield from ((f"tables {table}.{column}", sql) for column, sql in made.get("columns", {}).items())
        yield from ((f"tables {table}: {key}", made[key]) for key in ("from", "where") if key in made)


def _unusable(where: str, sql: Any) -> Iterator[str]:
    if isinstance(sql, Mapping) and set(sql) != set(ENGINES):
        yield f"{where} is not told for {' and '.join(ENGINES)}"
        return
    for text in sql.values() if isinstance(sql, Mapping) else [sql]:
        if not isinstance(text, str) or not text.strip():
            yield f"{where} is not SQL in quotes"
        elif match := _ALIAS.search(text):
            yield f"{where} uses an alias that is taken: {match[1]}"
