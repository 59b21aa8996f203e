"""Proves that a migrated database holds what the one before must have become: every row, every cell, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.proof import changes, exports, steps
from zenml_upgrade_kit.proof.joins import Join, full
from zenml_upgrade_kit.proof.outcomes import Found, column_record, record, unexplained
from zenml_upgrade_kit.proof.outcomes import Proof as Proof
from zenml_upgrade_kit.proof.states import MIGRATED, Expectation, Lost, Table
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.pair import Pair
from zenml_upgrade_kit.stores.sqlite import quoted

EXAMPLES = 5
"""Rows that are shown of what is not explained."""
ORDER = ("unexplained", "not_checked", "dropped", "changed", "renamed", "added", "unchanged")


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
        found = Found(table=table)
        try:
            if name in pair.after.tables:
                (_by_check if table.by else _joined)(pair, table, found)
            else:
                found.wrong("", "missing", _count(pair, f"({table.select([])}) AS expected"))
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
            rows = _count(pair, full(pair.before.name, name))
            told = {"outcome": "dropped", "why": [change.why], "release": change.release, "before": rows}
            self.tables.append(record(name) | told)
        for name in sorted(pair.after.tables.keys() - self.expectation.tables.keys()):
            rows = _count(pair, full(pair.after.name, name))
            self.unexplained.append(unexplained(name, "", "extra", rows or 1, []))
            self.tables.append(record(name) | {"outcome": "unexplained", "after": rows})

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

    def _keep(self, found: Found, seconds: float) -> None:
        table = found.table
        gone = [one for one in self.expectation.lost if table.was and one.was == table.was]
        columns = [
            column_record(one, found.changed.get(one.name))
            for one in table.columns.values()
            if one.outcome and table.was and found.changed.get(one.name) != 0  # what may be rewritten, and was not
        ]
        columns += [
            {"column": name, "was": "", "outcome": outcome, "changed": None, "release": one.release, "why": one.why}
            for one in gone
            for name in one.columns
            if (outcome := {"columns": "dropped", "moved": "moved"}[one.kind])
        ]
        whys = dict.fromkeys([*table.why, *(one["why"] for one in columns)])
        told = record(table.name) | {"was": table.was if table.was != table.name else "", "columns": columns}
        told |= {"before": found.before, "after": found.after, "new_rows": found.new, "dropped_rows": found.dropped}
        told |= {"outcome": found.outcome(bool(columns)), "why": [*whys], "seconds": round(seconds, 3)}
        self.tables.append(told)
        self.unexplained += found.unexplained
        if found.error:
            self.not_checked.append(f"the table {table.name} could not be compared: {found.error}")
        else:
            self.rows += found.rows
            self.cells += found.cells


def _joined(pair: Pair, table: Table, found: Found) -> None:
    """Compare a table in one pass; look closer only where something is not as it must be."""
    found.after = _count(pair, full(pair.after.name, table.name))
    for name in table.columns.keys() - pair.after.tables[table.name].keys():
        found.wrong(name, "missing", found.after or 1)
    for name in pair.after.tables[table.name].keys() - table.columns.keys():
        found.wrong(name, "extra", found.after or 1)
    if not pair.after.keys.get(table.name) and not table.key:
        _without_key(pair, table, found)
        return
    join = Join(pair, table)
    tests = {one.name: join.differs(one.name) for one in join.columns}
    any_differs = " OR ".join(f"({test})" for test in tests.values()) or "1 = 0"
    rewritten = [one for one in join.columns if one.outcome == "rewritten" and one.was and table.was and not table.made]
    sums = [any_differs, *(join.changed(one) for one in rewritten)]
    counted = ", ".join(f"SUM({join.there} AND ({test}))" for test in sums)
    row = pair.first(f"SELECT COUNT(*), SUM({join.there}), {counted} FROM {join.source}{join.where()}")
    expected, matched, differing, *changed = (int(value or 0) for value in row)
    found.changed = {one.name: count for one, count in zip(rewritten, changed, strict=True)}
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


def _bijective(pair: Pair, join: Join, found: Found) -> None:
    """No two rows may share a key where no primary key keeps them from it: counts would hide it."""
    table = join.table
    for unique, kind, source, where, names in (
        (join.unique_before, "missing", table.source, join.where(), [table.columns[name].sql for name in join.keys]),
        (join.unique_after, "extra", f"{join.full} AS {MIGRATED}", "", [f"{MIGRATED}.{quoted(n)}" for n in join.keys]),
    ):
        if not unique and (count := _repeated(pair, f"{source}{where}", names)):
            found.wrong("", kind, count)


def _repeated(pair: Pair, source: str, names: Sequence[str]) -> int:
    """Keys that several rows have, by their bytes. By collation no fewer are equal, and an index tells it."""
    count, exact = 0, [f"CAST({name} AS BINARY)" for name in names]
    for key in (names, exact) if pair.engine == "mysql" else (names,):
        several = f"SELECT 1 FROM {source} GROUP BY {', '.join(key)} HAVING COUNT(*) > 1"
        if not (count := _count(pair, f"({several}) AS several")):
            break
    return count


def _differing(pair: Pair, join: Join, tests: Mapping[str, str], found: Found) -> None:
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


def _rows(pair: Pair, join: Join, *, missing: bool, new: str = "") -> list[dict[str, Any]]:
    """Some rows that are missing, or too many."""
    if missing:
        values = [join.table.columns[name].sql for name in join.keys]
        query = f"{join.source}{join.where(f'NOT ({join.there})')}"
    else:
        values, query = [f"{MIGRATED}.{quoted(key)}" for key in join.keys], join.unmatched(f"({new}) IS NOT TRUE")
    shown = ["a row", None] if missing else [None, "a row"]
    rows = pair.rows(f"SELECT {', '.join(values)} FROM {query} LIMIT {EXAMPLES}")
    return [_example(join, row, shown) for row in rows]


def _example(join: Join, row: Sequence[Any], values: Sequence[Any]) -> dict[str, Any]:
    keys = {key: exports.text(join.table.name, key, value) for key, value in zip(join.keys, row, strict=False)}
    return {"key": keys, "before": values[0], "after": values[1]}


def _secret_table(table: Table, column: str) -> str:
    """The name of the table under which the column is known for a secret, if it is."""
    return table.was if exports.is_secret(table.was, column) else table.name


def _without_key(pair: Pair, table: Table, found: Found) -> None:
    """Compare a table without a primary key, as somebody's own may be: the same rows, each as often."""
    kinds = pair.after.tables[table.name]
    names = [name for name in table.columns if name in kinds]
    exact = {
        name: f"CAST({quoted(name)} AS BINARY)" if pair.engine == "mysql" else f"+{quoted(name)}" for name in names
    }
    listed = ", ".join(exact.values())
    one, other = (
        f"SELECT {listed}, COUNT(*) FROM {source} AS rows_of_it GROUP BY {listed}"
        for source in (f"({table.select(names)})", full(pair.after.name, table.name))
    )
    for kind, query in (("missing", f"{one} EXCEPT {other}"), ("extra", f"{other} EXCEPT {one}")):
        if count := _count(pair, f"({query}) AS different"):
            found.wrong("", kind, count)
    found.before = _before(pair, table, 0)
    found.rows, found.cells = found.after or 0, (found.after or 0) * len(names)


def _by_check(pair: Pair, table: Table, found: Found) -> None:
    """Compare a table with what a check in Python says that it must hold."""
    found.after = _count(pair, full(pair.after.name, table.name))
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
    return expected if whole else _count(pair, full(pair.before.name, table.was))


def _count(pair: Pair, source: str) -> int:
    return int(pair.first(f"SELECT COUNT(*) FROM {source}")[0])
