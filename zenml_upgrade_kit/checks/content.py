"""Which rows of a store make a migration refuse, fail, rename or delete, and what can be done about them? (DC)

The conditions are in ``data/conditions.yaml``, texts and SQL; each is looked at on the source's own schema.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.checks import mending, schemas
from zenml_upgrade_kit.findings import Finding, Severity

Query = Callable[[str], list[Any]]
"""Runs one SELECT; every row can be made a dict."""
SHOWN = 20
NAMED = 4
LONG = 60


@dataclass(frozen=True, kw_only=True)
class Condition:
    """One thing to look for in one table.

    revision: the migration that refuses, fails, renames or deletes, of ``release``; both "" where rows pass every
    migration and only fail later. deletes: a migration that meets it passes, and something is lost. columns: those that
    the query needs. rows: SQL for the offending ones; in their column ``group``, if any, equal names have equal values.
    The other fields are as ``data/conditions.yaml`` says.
    """

    id: str
    revision: str = ""
    release: str = ""
    severity: Severity
    title: str
    deletes: bool = False
    table: str
    columns: tuple[str, ...]
    rows: str
    only: str = ""
    values: tuple[str, ...] = ()
    otherwise: str = ""
    message: str
    remedy: str
    mend: str | tuple[str, ...] = ()

    @property
    def stops(self) -> bool:
        """Whether a migration that meets it stops there."""
        return bool(self.revision) and self.severity is Severity.BLOCK and not self.deletes


@dataclass(frozen=True, kw_only=True)
class Offence:
    """What a look at one condition found.

    rows: the first :data:`SHOWN` of ``count``. statements: reviewed SQL for a copy, in this order, empty where none is
    safe; valid on this engine in any SQL mode. variables: environment variables for the migration instead. not_checked:
    why it could not be looked at, in a sentence; then there are no rows, which does not mean that there are none.
    """

    condition: Condition
    rows: list[dict[str, Any]] = field(default_factory=list)
    count: int = 0
    message: str
    remedy: str
    statements: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    not_checked: str = ""

    @property
    def finding(self) -> Finding:
        """As steps report it; of one that was not checked, only the sentence in ``not_checked`` is worth telling."""
        condition = self.condition
        told = {"table": condition.table, "revision": condition.revision, "release": condition.release}
        data = {**told, "count": self.count, "rows": self.rows, "statements": len(self.statements)}
        return Finding(
            id=condition.id,
            severity=condition.severity,
            subject=condition.table,
            message=self.message,
            remedy=self.remedy,
            data={**data, "variables": self.variables},
        )


def applicable(source: str, target: str, engine: str) -> list[Condition]:
    """The conditions for an upgrade from one stamp (or revision) to another, one for each table, in catalogue order.

    None for a stamp from before 0.43.0 or unknown ones, which other checks report.
    """
    schema = schemas.at(source) or {}
    found = []
    for entry in _catalogue():
        if entry.get("engine") not in (None, engine) or not _concerned(entry, source, target):
            continue
        for table, columns in entry["over"].items():
            if {*columns} <= schema.get(table, set()):
                found.append(_condition(entry, table, columns, engine))
    return found


def look(query: Query, tables: Mapping[str, Sequence[str]], condition: Condition, engine: str) -> Offence | None:
    """The offending rows of one condition, None when there are none; a look that fails is an offence not checked.

    tables: columns of every table.
    """
    try:
        missing = [name for name in condition.columns if name not in tables.get(condition.table, ())]
        if missing:
            raise LookupError(f"there is no {condition.table}.{missing[0]}")
        rows = [dict(row) for row in query(condition.rows)]
        found = mending.Found(query=query, tables=tables, condition=condition, rows=rows, engine=engine)
        if condition.only:
            found = replace(found, rows=list(mending.ONLY[condition.only](found)))
        count = sum(row.get("n", 1) for row in found.rows)
        if not count:
            return None
        mended = mending.mend(found)
    except Exception as error:  # noqa: BLE001 one thing that was not looked at, not the end of the others
        why = f"{condition.id} ({condition.title}) in {condition.table}: {type(error).__name__}: {error}"
        return Offence(condition=condition, message=why, remedy="", not_checked=why)
    words = _words(found, count)
    return Offence(
        condition=condition,
        rows=[{name: value for name, value in row.items() if name != "group"} for row in found.rows[:SHOWN]],
        count=count,
        message=condition.message.format_map(words),
        remedy=condition.remedy.format_map(words),
        statements=mended.statements,
        variables=mended.variables,
    )


def offences(
    query: Query, tables: Mapping[str, Sequence[str]], source: str, target: str, engine: str, *, passed: bool = False
) -> list[Offence]:
    """What all applicable conditions find, and which of them could not be looked at, in catalogue order.

    passed: these very rows were migrated, which shows better than a look that nothing stops it.
    """
    conditions = [one for one in applicable(source, target, engine) if not (passed and one.stops)]
    looked = (look(query, tables, condition, engine) for condition in conditions)
    return [offence for offence in looked if offence]


def explain(
    query: Query, tables: Mapping[str, Sequence[str]], source: str, target: str, engine: str, stopped_at: str
) -> list[Offence]:
    """Why a migration failed: what blocks at the revision where it stopped, and what it would meet next.

    Then come what it has passed or only fails later, and what was not checked.
    """
    place = releases.position(stopped_at) or 0

    def order(offence: Offence) -> tuple[bool, bool, bool, int]:
        revision = offence.condition.revision
        at = releases.position(revision)
        return bool(offence.not_checked), revision != stopped_at, at is None or at < place, at or 0

    found = offences(query, tables, source, target, engine)
    return sorted((one for one in found if one.condition.severity is Severity.BLOCK), key=order)


@cache
def _catalogue() -> list[dict[str, Any]]:
    text = (Path(__file__).parent.parent / "data" / "conditions.yaml").read_text(encoding="utf-8")
    entries: list[dict[str, Any]] = yaml.safe_load(text)
    return entries


def _concerned(entry: Mapping[str, Any], source: str, target: str) -> bool:
    """Whether an entry of the catalogue is about this upgrade."""
    at, since, before = (releases.position(step or "") for step in (source, entry.get("since"), entry.get("before")))
    if at is None or (since is not None and at < since) or (before is not None and at >= before):
        return False
    if entry.get("target") not in (None, target):
        return False
    return not entry.get("revision") or releases.crosses(source, target, entry["revision"])


def _condition(entry: Mapping[str, Any], table: str, columns: Sequence[str], engine: str) -> Condition:
    """An entry of the catalogue for one of its tables."""
    release = releases.for_stamp(entry.get("revision", ""))
    values = tuple(entry.get("values", ()))
    filled = {
        "table": table,
        "column": columns[0],
        "last": columns[-1],
        "exact": f"CAST(`{columns[0]}` AS BINARY)" if engine == "mysql" else f"`{columns[0]}`",
        "length": "CHAR_LENGTH" if engine == "mysql" else "LENGTH",
        "values": ", ".join(f"'{value}'" for value in values),
    }
    mend = entry.get("mend", ())
    known = ("id", "revision", "title", "deletes", "only", "otherwise", "message", "remedy")
    return Condition(
        **{name: entry[name] for name in known if name in entry},
        release=release.version if release else "",
        severity=Severity(entry["severity"]),
        table=table,
        columns=tuple(columns),
        rows=entry["rows"].format(**filled) if "rows" in entry else _equal(entry, table, columns, engine),
        values=values,
        mend=mend if isinstance(mend, str) else tuple(mend),
    )


def _equal(entry: Mapping[str, Any], table: str, columns: Sequence[str], engine: str) -> str:
    """SQL for all rows that are equal to another in the key; the first of a group is the one to keep."""
    key, nulls = entry.get("key", columns), entry.get("nulls", False)
    by_bytes = entry["equal"] == "bytes" and engine == "mysql"

    def value(name: str) -> str:
        plain = f"CAST(s.`{name}` AS BINARY)" if by_bytes else f"s.`{name}`"
        return f"COALESCE({plain}, '-')" if nulls else plain

    where = entry.get("where") or ("1 = 1" if nulls else " AND ".join(f"`{name}` IS NOT NULL" for name in key))
    offending, measured = ["COUNT(*) OVER equals AS members"], "members > 1"
    if entry["equal"] == "folded":
        exact = f"CAST(s.`{columns[0]}` AS BINARY)"
        offending += [f"MIN({exact}) OVER equals AS low", f"MAX({exact}) OVER equals AS high"]
        measured = "low <> high"
    for sign, name in (("<>", entry.get("differ")), ("=", entry.get("alike"))):
        if name:
            offending += [f"MIN(s.`{name}`) OVER equals AS `least`", f"MAX(s.`{name}`) OVER equals AS `most`"]
            measured += f" AND `least` {sign} `most`"
    shown = ", ".join(f"s.`{name}` AS `{name}`" for name in {"id": None, **dict.fromkeys(columns)})
    prefer = f"{entry['prefer']}, " if entry.get("prefer") else ""
    return (  # sorting the table once: to join it with its groups, both engines may read it again for each of them
        f"SELECT {', '.join(f't.`{name}`' for name in ('id', *columns))}, t.`group` FROM (SELECT {shown},"
        f" s.created AS born, {value(key[0])} AS sorted, MIN(s.id) OVER equals AS `group`, {', '.join(offending)}"
        f" FROM `{table}` AS s WHERE {where} WINDOW equals AS (PARTITION BY {', '.join(map(value, key))})) AS t"
        f" WHERE {measured} ORDER BY t.sorted, t.`group`, {prefer}t.born, t.id"
    )


def _words(found: mending.Found, count: int) -> dict[str, Any]:
    """What the texts of a condition may say."""
    condition, rows = found.condition, found.rows
    column = condition.columns[0]
    names = list(dict.fromkeys(str(row[column]) for row in rows if row.get(column) is not None))
    told = [repr(name if len(name) <= LONG else f"{name[:LONG]}…") for name in names[:NAMED]]
    told += [f"{len(names) - NAMED} more"] if len(names) > NAMED else []
    start = ", ".join(told[:-1])
    return {
        **rows[0],
        "n": count,
        "groups": len({row.get("group") for row in rows}),
        "names": f"{start} and {told[-1]}" if start else next(iter(told), "none"),
        "table": condition.table,
        "column": column,
        "release": condition.release,
        "otherwise": condition.otherwise,
    }
