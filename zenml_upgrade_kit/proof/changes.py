"""The expected state of every table after an upgrade, as SQL over the database before it.

``python -m zenml_upgrade_kit.proof.changes`` says what is wrong with the entries (:mod:`proof.entries`): composed from
every release to every later one that matters, and compiled by SQLite.
"""

from __future__ import annotations

import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cache

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.checks import schemas
from zenml_upgrade_kit.proof import entries
from zenml_upgrade_kit.proof.entries import ANY, CHECKS, Change, Sql, variant
from zenml_upgrade_kit.stores.pair import with_views
from zenml_upgrade_kit.stores.sqlite import quoted

THIS, MIGRATED = '"this"', '"migrated"'
NAMES = ("before", "after")
_TOKEN = re.compile(r"\{(after\.)?(\w+)\}|<(after\.)?(\w+)>(?:\s+AS\s+(\w+|\"[^\"]+\"))?", re.IGNORECASE)
_WORD = re.compile(r"\w+")


@dataclass(kw_only=True)
class Column:
    """A column of the migrated table. sql: its expected value. was: its name before, "" where it is not that column.

    outcome: "" for the same, else renamed, rewritten, added or free. checks: conditions on both rows, instead of
    equality; where several entries tell one, one that holds is enough.
    """

    name: str
    sql: str
    was: str = ""
    outcome: str = ""
    release: str = ""
    why: str = ""
    checks: list[str] = field(default_factory=list)

    def told(self, outcome: str, change: Change) -> None:
        """Keep what an entry does to it, the strongest of several."""
        order = ("", "renamed", "added", "rewritten", "free")
        if order.index(outcome) >= order.index(self.outcome):
            self.outcome, self.release, self.why = outcome, change.release, change.why

    @property
    def plain(self) -> bool:
        """Whether the expected value is what a column held before, as it was."""
        return bool(self.was) and self.sql == f"{THIS}.{quoted(self.was)}"


@dataclass(kw_only=True)
class Table:
    """A table of the migrated database. was: the one before that its rows are of, "" for none.

    source: a from-clause, where: conditions, none of them for all rows. filtered: whether rows are gone, made: whether
    its rows are not those of one table before. key: columns that tell rows apart where the
    primary key is made up. new_rows: conditions on rows of the migrated table that may have no counterpart. by: a check
    in Python, and the query over the database before that it reads.
    """

    name: str
    source: str
    was: str = ""
    where: list[str] = field(default_factory=list)
    filtered: bool = False
    made: bool = False
    columns: dict[str, Column] = field(default_factory=dict)
    key: list[str] = field(default_factory=list)
    new_rows: list[str] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    release: str = ""
    by: tuple[str, str, Mapping[str, Column]] | None = None

    @property
    def conditions(self) -> str:
        """A where-clause."""
        return " WHERE " + " AND ".join(self.where) if self.where else ""

    def select(self, names: Sequence[str]) -> str:
        """A query of some columns."""
        chosen = ", ".join(f"{self.columns[name].sql} AS {quoted(name)}" for name in names)
        return f"SELECT {chosen or '1'} FROM {self.source}{self.conditions}"

    def frozen(self) -> Table:
        """As it is now, whatever becomes of it."""
        return replace(self, where=[*self.where], columns={k: copy(v) for k, v in self.columns.items()})


@dataclass(frozen=True, kw_only=True)
class Lost:
    """What the upgrade drops.

    table: its name then, was: before. columns: those dropped, none for whole rows or the whole table. select: the query
    over the database before of what goes, ``names``, those that tell rows apart first. kind: columns, rows, table, or
    moved, which is not lost, and ``why`` tells where it is.
    """

    kind: str
    table: str
    was: str
    columns: tuple[str, ...]
    names: tuple[str, ...]
    select: str
    release: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What the migrated database must hold.

    dropped: tables before that are gone. views: queries that others name, in order. problems: flaws of the model.
    """

    tables: Mapping[str, Table]
    dropped: Mapping[str, Change]
    views: Mapping[str, str]
    lost: Sequence[Lost]
    problems: Sequence[str]


def expected(
    source: str,
    target: str,
    engine: str,
    columns: Mapping[str, Sequence[str]],
    *,
    names: tuple[str, str] = NAMES,
    model: Sequence[Change] | None = None,
) -> Expectation:
    """What a database with these tables and columns must hold when it was migrated from one stamp to another.

    names: what the two databases are called in SQL.
    """
    made = _Composition(engine, columns, names)
    changes = entries.load() if model is None else model
    pending = releases.pending(source, target)
    for revision in pending:
        made.step(revision, [change for change in changes if change.revision == revision])
    if pending:
        made.step(ANY, [change for change in changes if change.revision == ANY])
        made.stamp(target)
    return made.result()


class _Composition:
    """The state of every table, from one revision to the next."""

    def __init__(self, engine: str, columns: Mapping[str, Sequence[str]], names: tuple[str, str]) -> None:
        self.engine, self.names = engine, names
        self.tables: dict[str, Table] = {}
        self.dropped: dict[str, Change] = {}
        self.views: dict[str, str] = {}
        self.lost: list[Lost] = []
        self.problems: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.old: dict[str, Table] = {}
        self.touched: set[str] = set()
        self.origin: dict[str, str] = {}
        self.renamed: dict[tuple[str, str], str] = {}
        for name, found in columns.items():
            source = f"{quoted(names[0])}.{quoted(name)} AS {THIS}"
            kept = {one: Column(name=one, sql=f"{THIS}.{quoted(one)}", was=one) for one in found}
            self.tables[name] = Table(name=name, was=name, source=source, columns=kept)

    def step(self, revision: str, changes: Sequence[Change]) -> None:
        """Go from the state just before a revision to that just after it."""
        now = {name: set(table.columns) for name, table in self.tables.items()}
        before, after = (now, now) if revision == ANY else _around(revision)
        if not changes and before == after:
            return
        words = set(_WORD.findall(repr(changes)))
        self._settle(revision, changes)
        same = self.old.keys() - self.touched
        self.old = {n: self.old[n] if n in same else table.frozen() for n, table in self.tables.items()}
        self.touched = {n for n in before.keys() | after.keys() if n in words or before.get(n) != after.get(n)}
        self.origin = {new: old for change in changes for old, new in change.rename_tables.items()}
        self.renamed = {}
        for change in changes:
            self._rename(change)
            self._drop_rows(change)
        for change in changes:
            self._set(change)
        self._schema(revision, before, after, changes)
        for change in changes:
            for name, made in change.tables.items():
                self._make(change, name, made, after.get(name, set()))
        for change in changes:
            self._loosen(change)

    def stamp(self, target: str) -> None:
        """The table in which alembic keeps the stamp."""
        if table := self.tables.get("alembic_version"):
            table.columns["version_num"].sql = f"'{target}'"
            table.columns["version_num"].outcome = "rewritten"
            table.columns["version_num"].why = "the stamp of the release"

    def result(self) -> Expectation:
        for fill in self.later:
            fill()
        return Expectation(
            tables=self.tables, dropped=self.dropped, views=self.views, lost=self.lost, problems=self.problems
        )

    def _settle(self, revision: str, changes: Sequence[Change]) -> None:
        """Give tables that are told of now a view, where values take a sub-select: else SQL grows and grows."""
        told = [(one.set, one.add, one.check, one.drop_rows, one.new_rows, one.tables) for one in changes]
        words = set(_WORD.findall(repr(told)))
        for name, table in self.tables.items():
            long = [one for one in table.columns.values() if "SELECT" in one.sql.upper() and one.name in words]
            if name in words and long and table.was and not table.made:
                named = "".join(f", {column.sql} AS {quoted(f'{column.name}@{revision}')}" for column in long)
                self.touched.add(name)
                view = f"{name}@{revision}"
                self.views[view] = f"SELECT {THIS}.*{named} FROM {table.source}{table.conditions}"
                table.source = f"{quoted(view)} AS {THIS}"
                table.filtered, table.where = table.filtered or bool(table.where), []
                for column in long:
                    column.sql = f"{THIS}.{quoted(f'{column.name}@{revision}')}"

    def _rename(self, change: Change) -> None:
        for old, new in change.rename_tables.items():
            if table := self._take(old, f"{change.revision} rename_tables"):
                table.name = new
                self.tables[new] = table
                table.why.append(change.why)
                table.release = change.release
        for name, renamed in change.rename_columns.items():
            table = self._table(name, f"{change.revision} rename_columns")
            if not table:
                continue
            unknown = set(renamed) - set(table.columns)
            self._problem(f"{change.revision} rename_columns {name}: no {', '.join(sorted(unknown))}", unknown)
            self.renamed |= {(table.name, old): new for old, new in renamed.items()}
            for column in table.columns.values():
                if column.name in renamed:
                    column.name = renamed[column.name]
                    column.told("renamed", change)
            table.columns = {column.name: column for column in table.columns.values()}

    def _drop_rows(self, change: Change) -> None:
        for name, sql in change.drop_rows.items():
            if (table := self._table(name, f"{change.revision} drop_rows")) and (old := self._before(table.name)):
                condition = f"({self._expanded(sql, old, change)})"
                gone = replace(old, where=[*old.where, condition])
                self._lose("rows", gone, (), change)
                table.where.append(f"{condition} IS NOT TRUE")
                table.why.append(change.why)

    def _set(self, change: Change) -> None:
        for name, cells in change.set.items():
            if (table := self._table(name, f"{change.revision} set")) and (old := self._before(table.name)):
                for column, sql in cells.items():
                    if found := self._column(table, column, f"{change.revision} set"):
                        found.sql = f"({self._expanded(sql, old, change)})"
                        found.told("rewritten", change)

    def _schema(self, revision: str, before: schemas.Schema, after: schemas.Schema, changes: Sequence[Change]) -> None:
        """Columns and tables that come and go, as data/schemas.json knows them."""
        made = {name for change in changes for name in change.tables}
        for name in sorted(after):
            if name not in self.tables and name not in before and name not in made:
                self.tables[name] = Table(name=name, source=f"(SELECT 1 AS one) AS {THIS}", where=["1 = 0"])
            if name in self.tables and name in self.touched:
                self._columns(revision, self.tables[name], self._known(name, before), after[name], changes)
        gone = before.keys() - after.keys() - set(self.origin.values())
        for name in sorted(gone & self.tables.keys()):
            reason = next((change for change in changes if name in (*change.drop_tables, *change.moved_tables)), None)
            self._problem(f"{revision}: nobody tells why the table {name} is dropped", not reason)
            table = self.tables.pop(name)
            if reason and table.was:
                self.dropped[table.was] = reason
                where = reason.moved_tables.get(name, "")
                told = replace(reason, why=f"{reason.why}: now {where}") if where else reason
                self._lose("moved" if where else "table", table, (), told)
        for change in changes:
            named = {*change.drop_tables, *change.moved_tables}
            self._problem(f"{revision}: {', '.join(sorted(named - gone))} is not dropped here", named - gone)

    def _known(self, name: str, before: schemas.Schema) -> set[str]:
        """Columns of a table before the revision that the schemas know, under their names after the entries' renaming.

        What they do not know is somebody else's, and stays.
        """
        return {self.renamed.get((name, one), one) for one in before.get(self.origin.get(name, name), ())}

    def _columns(
        self, revision: str, table: Table, known: set[str], wanted: set[str], changes: Sequence[Change]
    ) -> None:
        dropped = (known - wanted) & table.columns.keys()
        for column in sorted(dropped):
            reason = next((one for one in changes if self._names(table, one.drop_columns, column)), None)
            moved = next((one for one in changes if self._names(table, one.moved_columns, column)), None)
            self._problem(f"{revision}: nobody tells why {table.name}.{column} is dropped", not (reason or moved))
            gone = table.columns.pop(column)
            old = self._before(table.name)
            if old and gone.was and (told := reason or moved):
                name = next((one for one in old.columns if old.columns[one].was == gone.was), gone.was)
                where = moved.moved_columns[self._named(table, moved.moved_columns)][column] if moved else ""
                told = replace(told, why=f"{told.why}: now {where}") if where else told
                self._lose("moved" if where else "columns", old, (name,), told)
        for change in changes:
            for names in (change.drop_columns, change.moved_columns):
                told_of = set(names.get(self._named(table, names), ()))
                self._problem(
                    f"{revision}: {table.name}.{', '.join(sorted(told_of - dropped))} is not dropped here",
                    bool(told_of - dropped and table.was),
                )
        for column in sorted(wanted - table.columns.keys()):
            self._add(revision, table, column, changes)

    def _add(self, revision: str, table: Table, column: str, changes: Sequence[Change]) -> None:
        for change in changes:
            cells = change.add.get(self._named(table, change.add), {})
            if column in cells and (old := self._before(table.name) or table):
                sql = f"({self._expanded(cells[column], old, change)})"
                table.columns[column] = Column(name=column, sql=sql)
                table.columns[column].told("added", change)
                return
        release = next((one.version for one in releases.all() if revision in one.revisions), "")
        table.columns[column] = Column(name=column, sql="NULL", outcome="added", release=release, why="new and empty")

    def _make(self, change: Change, name: str, made: Mapping[str, object], wanted: set[str]) -> None:
        """A table made of others."""
        cells: Mapping[str, Sql] = made["columns"]  # type: ignore[assignment]
        unknown = set(cells) - wanted
        self._problem(f"{change.revision} tables {name}: no {', '.join(sorted(unknown))} in it", unknown)
        old = self.old.get(name)
        table = Table(name=name, source=self._expanded(made["from"], None, change), why=[change.why], made=True)  # type: ignore[arg-type]
        table.release, table.key = change.release, list(made.get("key", ()))  # type: ignore[call-overload]
        if "where" in made:
            table.where.append(f"({self._expanded(made['where'], None, change)})")  # type: ignore[arg-type]
        for column in [*cells, *sorted(wanted - set(cells))]:
            sql = self._expanded(cells.get(column, "NULL"), None, change)
            table.columns[column] = Column(name=column, sql=sql)
            made_up = column == "id" and column not in cells and table.key
            table.columns[column].told("free" if made_up else "added", change)
        if old and name in self.tables:
            table.was = old.was
        self.tables[name] = table

    def _loosen(self, change: Change) -> None:
        """Columns and rows that are not compared for equality."""
        for name, columns in change.free.items():
            if table := self._table(name, f"{change.revision} free"):
                for column in columns:
                    if found := self._column(table, column, f"{change.revision} free"):
                        found.told("free", change)
        for name, cells in change.check.items():
            if table := self._table(name, f"{change.revision} check"):
                for column, sql in cells.items():
                    if found := self._column(table, column, f"{change.revision} check"):
                        found.told("rewritten", change)
                        self._later(found.checks, sql, table, change)
        for name, sql in change.new_rows.items():
            if table := self._table(name, f"{change.revision} new_rows"):
                table.why.append(change.why)
                self._later(table.new_rows, sql, table, change, migrated=True)
        if change.by:
            name, origin = CHECKS[change.by]
            if (table := self._table(name, change.by)) and (old := self.old.get(origin)):
                table.by = (change.by, old.select(["id", "step_configurations"]), dict(table.columns))
                table.why.append(change.why)

    def _later(self, into: list[str], sql: Sql, table: Table, change: Change, *, migrated: bool = False) -> None:
        """Add a condition over the migrated tables; their last names are known at the end only."""
        scope = {name: (one, dict(one.columns)) for name, one in self.tables.items()}
        text, old = variant(sql, self.engine), self._before(table.name)
        mine = dict(table.columns)

        def after(table_name: str) -> str:
            one, columns = scope[table_name]
            full = f"{quoted(self.names[1])}.{quoted(one.name)}"
            if all(name == column.name for name, column in columns.items()):
                return full
            chosen = [(name, column.name) for name, column in columns.items() if column.name in one.columns]
            return f"(SELECT {', '.join(f'{quoted(now)} AS {quoted(then)}' for then, now in chosen)} FROM {full})"

        # what it says of the state before is put in now: that state is gone at the end
        def now(match: re.Match[str]) -> str:
            if match[1] or match[3] or (migrated and match[2]):
                return match[0]
            return self._token(match, old, change)

        half = _TOKEN.sub(now, text)
        used = [*_TOKEN.finditer(half)]
        unknown = {one[2] for one in used if one[2]} - set(mine) | {one[4] for one in used if one[4]} - set(scope)
        self._problem(f"{change.revision} conditions: no {', '.join(sorted(unknown))} in {table.name}", unknown)
        if unknown:
            return

        def fill() -> None:
            def token(match: re.Match[str]) -> str:
                if name := match[2]:
                    return f"{MIGRATED}.{quoted(mine[name].name)}"
                return f"{after(match[4])} AS {match[5] or quoted(match[4])}"

            into.append(f"({_TOKEN.sub(token, half)})")

        self.later.append(fill)

    def _expanded(self, sql: Sql, old: Table | None, change: Change) -> str:
        """SQL of an entry with what its names stand for in the state just before its revision."""
        return _TOKEN.sub(lambda match: self._token(match, old, change), variant(sql, self.engine))

    def _token(self, match: re.Match[str], old: Table | None, change: Change) -> str:
        if name := match[2]:
            if match[1] or not old or name not in old.columns:
                self._problem(
                    f"{change.revision}: no column {match[0]} in {old.name if old else 'a table made anew'}", 1
                )
                return "NULL"
            return old.columns[name].sql
        table = self.old.get(match[4])
        if match[3] or not table:
            self._problem(f"{change.revision}: no table {match[0]}", 1)
            return "(SELECT 1) AS missing"
        alias = match[5] or quoted(match[4])
        if not table.where and all(column.plain and column.name == column.was for column in table.columns.values()):
            return f"{quoted(self.names[0])}.{quoted(table.was)} AS {alias}"
        words = set(_WORD.findall(match.string))
        names = [name for name in table.columns if name in words or ".*" in match.string]
        return f"({table.select(names)}) AS {alias}"

    def _lose(self, kind: str, table: Table, columns: tuple[str, ...], change: Change) -> None:
        if not table.was:
            return  # nothing of it was in the database before
        keys = [name for name in table.columns if name in ("id", "name") and name not in columns]
        keys = keys or [name for name in table.columns if name.endswith("_id") and name not in columns]
        rest = (
            columns if kind in ("columns", "moved") and columns else [one for one in table.columns if one not in keys]
        )
        some = f"{' AND ' if table.where else ' WHERE '}{table.columns[columns[0]].sql} IS NOT NULL" if columns else ""
        self.lost.append(
            Lost(
                kind=kind,
                table=table.name,
                was=table.was,
                columns=columns,
                names=(*keys, *rest),
                select=table.select([*keys, *rest]) + some,
                release=change.release,
                why=change.why,
            )
        )

    def _table(self, name: str, where: str) -> Table | None:
        """A table by its name before or after the entry's own renaming."""
        renamed = next((new for new, old in self.origin.items() if old == name and name not in self.tables), name)
        self._problem(f"{where}: no table {name}", renamed not in self.tables)
        return self.tables.get(renamed)

    def _take(self, name: str, where: str) -> Table | None:
        self._problem(f"{where}: no table {name}", name not in self.tables)
        return self.tables.pop(name, None)

    def _column(self, table: Table, name: str, where: str) -> Column | None:
        if name not in table.columns:
            name = self.renamed.get((table.name, name), name)
        self._problem(f"{where}: no column {name} in {table.name}", name not in table.columns)
        return table.columns.get(name)

    def _before(self, name: str) -> Table | None:
        """A table just before the revision, by its name after the renaming."""
        return self.old.get(self.origin.get(name, name))

    def _named(self, table: Table, given: Mapping[str, object]) -> str:
        return table.name if table.name in given else self.origin.get(table.name, table.name)

    def _names(
        self, table: Table, given: Mapping[str, Mapping[str, str]] | Mapping[str, Sequence[str]], column: str
    ) -> bool:
        return column in given.get(self._named(table, given), ())

    def _problem(self, text: str, there: object) -> None:
        if there and not text.startswith(f"{ANY} "):  # whatever any release rewrites, this one may not have yet
            self.problems.append(text)


@cache
def _around(revision: str) -> tuple[schemas.Schema, schemas.Schema]:
    """The schemas just before and just after a revision."""
    chain = [step for release in releases.all() for step in release.revisions]
    place = chain.index(revision)
    return (schemas.at(chain[place - 1]) if place else None) or schemas.at(releases.all()[0].stamp) or {}, (
        schemas.at(revision) or {}
    )


def flaws(model: Sequence[Change] | None = None) -> list[str]:
    """What is wrong with the model: composed from every stamp to the newest, and from the oldest to every stamp."""
    stamps = list(dict.fromkeys(release.stamp for release in releases.all()))
    found: dict[str, None] = {}
    for source, target in [(stamp, stamps[-1]) for stamp in stamps[:-1]] + [(stamps[0], stamp) for stamp in stamps]:
        before, after = schemas.at(source) or {}, schemas.at(target) or {}
        made = expected(
            source, target, "sqlite", {name: sorted(columns) for name, columns in before.items()}, model=model
        )
        found |= dict.fromkeys([*made.problems, *_different(made, after), *_refused(made, before, after)])
    return list(found)


def _different(made: Expectation, after: schemas.Schema) -> Iterator[str]:
    for name in sorted(made.tables.keys() | after.keys()):
        composed, real = set(made.tables[name].columns) if name in made.tables else set(), after.get(name, set())
        if composed != real:
            yield f"composed and real columns of {name} differ: {', '.join(sorted(composed ^ real))}"


def _refused(made: Expectation, before: schemas.Schema, after: schemas.Schema) -> Iterator[str]:
    """What SQLite says of the statements."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for schema, tables in zip(NAMES, (before, after), strict=True):
            connection.execute(f"ATTACH ':memory:' AS {quoted(schema)}")
            for name, columns in tables.items():
                listed = ", ".join(map(quoted, sorted(columns)))
                connection.execute(f"CREATE TABLE {quoted(schema)}.{quoted(name)} ({listed})")
        for table in made.tables.values():
            checks = [check for column in table.columns.values() for check in column.checks]
            joined = f" CROSS JOIN {quoted(NAMES[1])}.{quoted(table.name)} AS {MIGRATED}"
            conditions = [*table.where, *checks, *table.new_rows] or ["1 = 1"]
            tried = [table.select(list(table.columns))] + [
                f"SELECT 1 FROM {table.source}{joined} WHERE {one}" for one in conditions
            ]
            yield from _tried(connection, made.views, table.name, tried)
        for lost in made.lost:
            yield from _tried(connection, made.views, f"{lost.table} ({lost.release})", [lost.select])


def _tried(
    connection: sqlite3.Connection, views: Mapping[str, str], name: str, statements: Sequence[str]
) -> Iterator[str]:
    for statement in statements:
        try:
            connection.execute(f"EXPLAIN {with_views(statement, views)}")
        except sqlite3.Error as error:
            yield f"{name}: {error}: {statement[:1000]}"


if __name__ == "__main__":
    wrong = flaws()
    print("\n".join(wrong) or "the model explains every table and column that comes or goes")
    sys.exit(bool(wrong))
