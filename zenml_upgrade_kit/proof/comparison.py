"""Proves that a migrated database holds what the one before must have become: every row, every cell, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.proof import changes, exports, steps
from zenml_upgrade_kit.proof.changes import MIGRATED, Column, Expectation, Lost, Table
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.pair import Kind, Pair
from zenml_upgrade_kit.stores.sqlite import quoted

EXAMPLES = 5
"""Rows that are shown of what is not explained."""
ORDER = ("unexplained", "not_checked", "dropped", "changed", "renamed", "added", "unchanged")


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What became of every table, as JSON.

    tables: ``table``, ``was`` (another name before, or ""), ``before`` and ``after`` (rows, None for no table),
    ``outcome``, ``columns`` (those that are not plainly the same: ``column``, ``was``, ``outcome``, ``release``,
    ``why``), ``new_rows``, ``dropped_rows``, ``why``, ``seconds``. unexplained: ``table``, ``column`` ("" for whole
    rows), ``kind`` (differs, missing, extra), ``count``, ``examples`` (``key``, ``before``, ``after``). dropped:
    ``table`` as it was called before, ``column``, ``rows``, ``file`` (its name), ``release``, ``why``, ``hidden``.
    totals: ``tables``, ``rows`` and ``cells`` that were compared. not_checked: sentences.
    """

    tables: Sequence[Mapping[str, Any]]
    unexplained: Sequence[Mapping[str, Any]]
    dropped: Sequence[Mapping[str, Any]]
    totals: Mapping[str, int]
    not_checked: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def prove(
    before: Path | Server, migrated: Path | Server, source: str, target: str, *, exports: Path, sessions: int = 2
) -> Proof:
    """Compare a migrated database with what the one before it must have become on the way between two stamps.

    Both are read only. exports: a folder for CSV files of what the upgrade drops, made when there is something.
    sessions: how many tables at a time. A table that cannot be compared is not checked, with the reason. Raises
    :class:`StoreUnreadable` when the databases cannot be opened side by side.
    """
    with Pair(before, migrated) as pair:
        names = pair.before.name, pair.after.name
        columns = {table: list(found) for table, found in pair.before.tables.items()}
        expectation = changes.expected(source, target, pair.engine, columns, names=names)
        weights = pair.weights()
    work = _Work(expectation, exports)
    jobs = [(float("inf") if table.by else weights.get(name, 0), name) for name, table in expectation.tables.items()]
    todo: Iterator[str | Lost] = iter([*(name for _, name in sorted(jobs, reverse=True)), *expectation.lost])

    def session(_: int) -> None:
        with Pair(before, migrated, views=expectation.views) as own:
            for one in todo:
                work.export(own, one) if isinstance(one, Lost) else work.table(own, one)

    with ThreadPoolExecutor(sessions) as pool:
        list(pool.map(session, range(sessions)))
    with Pair(before, migrated) as pair:
        work.rest(pair)
    return work.proof()


class _Work:
    """What is known so far; several threads add to it."""

    def __init__(self, expectation: Expectation, folder: Path) -> None:
        self.expectation, self.folder = expectation, folder
        self.tables: list[dict[str, Any]] = []
        self.unexplained: list[dict[str, Any]] = []
        self.dropped: list[dict[str, Any]] = []
        self.not_checked = list(expectation.problems)
        self.rows = self.cells = 0

    def table(self, pair: Pair, name: str) -> None:
        """Compare one table of the migrated database."""
        table, started = self.expectation.tables[name], time.monotonic()
        found = _Found(table=table)
        if name not in pair.after.tables:
            found.wrong("", "missing", _count(pair, f"({table.select([])}) AS expected"))
        else:
            try:
                (_by_check if table.by else _joined)(pair, table, found)
            except KitError as error:
                found.error = error.found
        self._keep(found, time.monotonic() - started)

    def export(self, pair: Pair, lost: Lost) -> None:
        """Write down what is dropped."""
        if lost.kind == "moved":
            return
        try:
            written = exports.write(pair, lost, self.folder)
            self.dropped += [written] if written["rows"] else []
        except (KitError, OSError) as error:
            reason = error.found if isinstance(error, KitError) else str(error)
            self.not_checked.append(f"what is dropped of {lost.was} could not be exported: {reason}")

    def rest(self, pair: Pair) -> None:
        """Tables that are gone, and those that nobody expects."""
        for name, change in self.expectation.dropped.items():
            rows = _count(pair, _full(pair.before.name, name))
            told = {"outcome": "dropped", "why": [change.why], "release": change.release, "before": rows}
            self.tables.append(_record(name) | told)
        for name in sorted(pair.after.tables.keys() - self.expectation.tables.keys()):
            rows = _count(pair, _full(pair.after.name, name))
            self.unexplained.append(_unexplained(name, "", "extra", rows or 1, []))
            self.tables.append(_record(name) | {"outcome": "unexplained", "after": rows})

    def proof(self) -> Proof:
        self.tables.sort(key=lambda one: (ORDER.index(one["outcome"]), one["table"]))
        compared = [one for one in self.tables if one["outcome"] not in ("dropped", "not_checked")]
        return Proof(
            tables=self.tables,
            unexplained=sorted(self.unexplained, key=lambda one: (one["table"], one["column"])),
            dropped=sorted(self.dropped, key=lambda one: (one["table"], one["column"])),
            totals={"tables": len(compared), "rows": self.rows, "cells": self.cells},
            not_checked=sorted(self.not_checked),
        )

    def _keep(self, found: _Found, seconds: float) -> None:
        table = found.table
        gone = [one for one in self.expectation.lost if table.was and one.was == table.was]
        columns = [_column(one) for one in table.columns.values() if one.outcome and table.was]
        columns += [
            {"column": name, "was": "", "outcome": outcome, "release": one.release, "why": one.why}
            for one in gone
            for name in one.columns
            if (outcome := {"columns": "dropped", "moved": "moved"}[one.kind])
        ]
        whys = dict.fromkeys([*table.why, *(one["why"] for one in columns)])
        record = _record(table.name) | {"was": table.was if table.was != table.name else "", "columns": columns}
        record |= {"before": found.before, "after": found.after, "new_rows": found.new, "dropped_rows": found.dropped}
        record |= {"outcome": found.outcome(bool(columns)), "why": [*whys], "seconds": round(seconds, 3)}
        self.tables.append(record)
        self.unexplained += found.unexplained
        if found.error:
            self.not_checked.append(f"the table {table.name} could not be compared: {found.error}")
        else:
            self.rows += found.rows
            self.cells += found.cells


@dataclass(kw_only=True)
class _Found:
    """What comparing one table found."""

    table: Table
    before: int | None = None
    after: int | None = None
    rows: int = 0
    cells: int = 0
    new: int = 0
    dropped: int = 0
    error: str = ""

    def __post_init__(self) -> None:
        self.unexplained: list[dict[str, Any]] = []

    def wrong(self, column: str, kind: str, count: int, examples: Sequence[Any] = ()) -> None:
        """Something that the model does not explain."""
        self.unexplained.append(_unexplained(self.table.name, column, kind, count, examples))

    def outcome(self, columns: bool) -> str:
        """The word for it."""
        for word, true in {
            "not_checked": self.error,
            "unexplained": self.unexplained,
            "added": not self.table.was,
            "renamed": self.table.was != self.table.name,
            "changed": columns or self.new or self.dropped,
        }.items():
            if true:
                return word
        return "unchanged"


class _Join:
    """The rows that a table must have beside those that it has."""

    def __init__(self, pair: Pair, table: Table) -> None:
        self.pair, self.table = pair, table
        self.real = pair.after.tables[table.name]
        primary = pair.after.keys.get(table.name, ())
        self.keys = [name for name in table.key or primary if name in table.columns]
        self.full = _full(pair.after.name, table.name)
        self.columns = [one for name, one in table.columns.items() if name in self.real and one.outcome != "free"]
        made = [name for name in self.keys if table.columns[name].outcome == "free"]
        if made or not self.keys:
            raise KitError("no key", expected="a key", found="nothing tells its rows apart", remedy="")
        exact = "" if set(self.keys) >= set(primary) else self._all(f"NOT ({self.differs(name)})" for name in self.keys)
        self.on = self._all(self._match(name) for name in self.keys) + (f" AND {exact}" if exact else "")
        self.unique_after = bool(primary) and set(self.keys) >= set(primary)
        plain = {one.was for name in self.keys if (one := table.columns[name]).plain}
        first = set(pair.before.keys.get(table.was, ("",)))
        self.unique_before = first <= plain and bool(table.was) and not table.made
        self.source = f"{table.source} LEFT JOIN {self.full} AS {MIGRATED} ON {self.on}"
        self.there = f"{MIGRATED}.{quoted(self.keys[0])} IS NOT NULL"

    def differs(self, name: str) -> str:
        """SQL that is true where a column is not as it must be."""
        column = self.table.columns[name]
        if column.checks:
            return f"({' OR '.join(column.checks)}) IS NOT TRUE"
        return self.pair.differ(column.sql, f"{MIGRATED}.{quoted(name)}", self._kind(column), self.real[name])

    def where(self, *conditions: str) -> str:
        """A where-clause with the table's own conditions."""
        return " WHERE " + self._all([*self.table.where, *conditions]) if self.table.where or conditions else ""

    def unmatched(self, condition: str = "") -> str:
        """Rows of the migrated table that nothing was before, as from- and where-clause."""
        inner = f"SELECT 1 FROM {self.table.source}{self.where(self.on)}"
        return f"{self.full} AS {MIGRATED} WHERE NOT EXISTS ({inner}){condition and f' AND {condition}'}"

    def _match(self, name: str) -> str:
        column = self.table.columns[name]
        return self.pair.match(f"{MIGRATED}.{quoted(name)}", column.sql, self.real[name], self._kind(column))

    def _kind(self, column: Column) -> Kind:
        return self.pair.before.tables[self.table.was][column.was] if column.plain else Kind()

    @staticmethod
    def _all(conditions: Any) -> str:
        return " AND ".join(conditions)


def _joined(pair: Pair, table: Table, found: _Found) -> None:
    """Compare a table in one pass; look closer only where something is not as it must be."""
    found.after = _count(pair, _full(pair.after.name, table.name))
    for name in table.columns.keys() - pair.after.tables[table.name].keys():
        found.wrong(name, "missing", found.after or 1)
    for name in pair.after.tables[table.name].keys() - table.columns.keys():
        found.wrong(name, "extra", found.after or 1)
    if not pair.after.keys.get(table.name) and not table.key:
        _without_key(pair, table, found)
        return
    join = _Join(pair, table)
    tests = {one.name: join.differs(one.name) for one in join.columns}
    any_differs = " OR ".join(f"({test})" for test in tests.values())
    row = pair.first(
        f"SELECT COUNT(*), SUM({join.there}), SUM({join.there} AND ({any_differs})) FROM {join.source}{join.where()}"
    )
    expected, matched, differing = (int(value or 0) for value in row)
    found.before = _before(pair, table, expected)
    found.dropped = max(0, found.before - expected) if found.before is not None else 0
    found.rows, found.cells = matched, matched * len(tests)
    if differing:
        _differing(pair, join, tests, found)
    if matched < expected:
        found.wrong("", "missing", expected - matched, _rows(pair, join, missing=True))
    _bijective(pair, join, found)
    if found.after != matched:
        new = " OR ".join(table.new_rows) or "1 = 0"
        extra, found.new = (
            int(value or 0) for value in pair.first(f"SELECT COUNT(*), SUM(({new}) IS TRUE) FROM {join.unmatched()}")
        )
        if extra > found.new:
            found.wrong("", "extra", extra - found.new, _rows(pair, join, missing=False, new=new))
        if found.after - extra != matched and not found.unexplained:
            found.wrong("", "differs", abs(found.after - extra - matched))


def _bijective(pair: Pair, join: _Join, found: _Found) -> None:
    """No two rows may share a key where no primary key keeps them from it: counts would hide it."""
    table = join.table
    for unique, kind, source, where, names in (
        (join.unique_before, "missing", table.source, join.where(), [table.columns[name].sql for name in join.keys]),
        (join.unique_after, "extra", f"{join.full} AS {MIGRATED}", "", [f"{MIGRATED}.{quoted(n)}" for n in join.keys]),
    ):
        if not unique:
            exact = [f"CAST({name} AS BINARY)" if pair.engine == "mysql" else name for name in names]
            several = f"SELECT 1 FROM {source}{where} GROUP BY {', '.join(exact)} HAVING COUNT(*) > 1"
            if count := _count(pair, f"({several}) AS several"):
                found.wrong("", kind, count)


def _differing(pair: Pair, join: _Join, tests: Mapping[str, str], found: _Found) -> None:
    sums = ", ".join(f"SUM({join.there} AND ({test}))" for test in tests.values())
    counts = pair.first(f"SELECT {sums} FROM {join.source}{join.where()}")
    for (name, test), count in zip(tests.items(), counts, strict=True):
        if count:
            keys = [f"{MIGRATED}.{quoted(key)}" for key in join.keys]
            values = [*keys, join.table.columns[name].sql, f"{MIGRATED}.{quoted(name)}"]
            query = f"SELECT {', '.join(values)} FROM {join.source}{join.where(join.there, f'({test})')}"
            examples = [
                _example(join, row, exports.shown(_secret_table(join.table, name), name, *row[-2:]))
                for row in pair.rows(f"{query} LIMIT {EXAMPLES}")
            ]
            found.wrong(name, "differs", int(count), examples)


def _rows(pair: Pair, join: _Join, *, missing: bool, new: str = "") -> list[dict[str, Any]]:
    """Some rows that are missing, or too many."""
    if missing:
        values = [join.table.columns[name].sql for name in join.keys]
        query = f"{join.source}{join.where(f'NOT ({join.there})')}"
    else:
        values, query = [f"{MIGRATED}.{quoted(key)}" for key in join.keys], join.unmatched(f"({new}) IS NOT TRUE")
    shown = ["a row", None] if missing else [None, "a row"]
    rows = pair.rows(f"SELECT {', '.join(values)} FROM {query} LIMIT {EXAMPLES}")
    return [_example(join, row, shown) for row in rows]


def _example(join: _Join, row: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
    keys = {key: exports.text(join.table.name, key, value) for key, value in zip(join.keys, row, strict=False)}
    return {"key": keys, "before": values[0], "after": values[1]}


def _secret_table(table: Table, column: str) -> str:
    """The name of the table under which the column is known for a secret, if it is."""
    return table.was if exports.is_secret(table.was, column) else table.name


def _without_key(pair: Pair, table: Table, found: _Found) -> None:
    """Compare a table without a primary key, as somebody's own may be: the same rows, each as often."""
    kinds = pair.after.tables[table.name]
    names = [name for name in table.columns if name in kinds]
    exact = {
        name: f"CAST({quoted(name)} AS BINARY)" if pair.engine == "mysql" else f"+{quoted(name)}" for name in names
    }
    listed = ", ".join(exact.values())
    one, other = (
        f"SELECT {listed}, COUNT(*) FROM {source} AS rows_of_it GROUP BY {listed}"
        for source in (f"({table.select(names)})", _full(pair.after.name, table.name))
    )
    for kind, query in (("missing", f"{one} EXCEPT {other}"), ("extra", f"{other} EXCEPT {one}")):
        if count := _count(pair, f"({query}) AS different"):
            found.wrong("", kind, count)
    found.before = _before(pair, table, 0)
    found.rows, found.cells = found.after or 0, (found.after or 0) * len(names)


def _by_check(pair: Pair, table: Table, found: _Found) -> None:
    """Compare a table with what a check in Python says that it must hold."""
    found.after = _count(pair, _full(pair.after.name, table.name))
    for name in table.columns.keys() ^ pair.after.tables[table.name].keys():
        found.wrong(name, "missing" if name in table.columns else "extra", found.after or 1)
    check: Callable[..., tuple[int, list[dict[str, Any]]]] = steps.CHECKS[table.by[0]] if table.by else steps.nothing
    found.rows, wrong = check(pair, table)
    found.cells = found.rows * len(table.columns)
    for one in wrong:
        found.wrong(one["column"], one["kind"], one["count"], one["examples"])


def _before(pair: Pair, table: Table, expected: int) -> int | None:
    if not table.was:
        return None
    whole = expected and not (table.where or table.filtered or table.made)
    return expected if whole else _count(pair, _full(pair.before.name, table.was))


def _full(schema: str, table: str) -> str:
    return f"{quoted(schema)}.{quoted(table)}"


def _count(pair: Pair, source: str) -> int:
    return int(pair.first(f"SELECT COUNT(*) FROM {source}")[0])


def _record(name: str) -> dict[str, Any]:
    return {
        "table": name,
        "was": "",
        "before": None,
        "after": None,
        "outcome": "",
        "columns": [],
        "new_rows": 0,
        "dropped_rows": 0,
        "why": [],
        "seconds": 0.0,
    }


def _column(column: Column) -> dict[str, Any]:
    return {
        "column": column.name,
        "was": column.was if column.was != column.name else "",
        "outcome": column.outcome,
        "release": column.release,
        "why": column.why,
    }


def _unexplained(table: str, column: str, kind: str, count: int, examples: Sequence[Any]) -> dict[str, Any]:
    return {"table": table, "column": column, "kind": kind, "count": count, "examples": list(examples)}
