"""The tables and columns behind every revision since 0.43.0, from ``data/schemas.json`` (see tests/make_schemas.py)."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import releases

Schema = dict[str, set[str]]


@cache
def _data() -> dict[str, Any]:
    text = (Path(__file__).parent.parent / "data" / "schemas.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def at(stamp: str) -> Schema | None:
    """Tables and their columns at a stamp or 12-hex revision; None for one before 0.43.0 or unknown."""
    place, base = releases.position(stamp), releases.position(_data()["base"])
    if place is None or base is None or place < base:
        return None
    schema = {table: set(columns) for table, columns in _data()["tables"].items()}
    for revision, change in _data()["changes"].items():
        if not releases.crosses(stamp, revision, revision):
            _add(schema, change)
            for table, columns in change.get("drop", {}).items():
                schema[table] -= set(columns)
                if not schema[table]:
                    del schema[table]
    return schema


def _add(schema: Schema, change: Mapping[str, Any]) -> None:
    for table, columns in change.get("add", {}).items():
        schema.setdefault(table, set()).update(columns)


def differences(stamp: str, tables: Mapping[str, Collection[str]]) -> Iterator[tuple[str, str]]:
    """(table or table.column, what is wrong) where a database does not look like its stamp.

    Only what a later revision adds counts as too much: a table of somebody else's is none of our business.
    """
    wanted, later = at(stamp) or {}, Schema()
    for revision, change in _data()["changes"].items():
        if releases.crosses(stamp, revision, revision):
            _add(later, change)
    for table in sorted(set(wanted) | set(tables)):
        if table.startswith("_alembic_tmp_"):
            yield table, "is left over from an unfinished step of a migration"
        elif table not in tables:
            yield table, "is missing"
        elif table not in wanted:
            if table in later:
                yield table, "belongs to a later release"
        else:
            for column in sorted(wanted[table] ^ set(tables[table])):
                if column in wanted[table]:
                    yield f"{table}.{column}", "is missing"
                elif column in later.get(table, ()):
                    yield f"{table}.{column}", "belongs to a later release"
