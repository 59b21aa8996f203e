"""Follows every table from one revision to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.checks import schemas
from zenml_upgrade_kit.proof.entries import ANY, CHECKS, Change, Sql
from zenml_upgrade_kit.proof.naming import WORD, Names
from zenml_upgrade_kit.proof.states import THIS, Column, Expectation, Lost, Table
from zenml_upgrade_kit.stores.sqlite import quoted


class Composition(Names):
    """The expected state of a database with these tables and columns; names: what the two are called in SQL."""

    def __init__(self, engine: str, columns: Mapping[str, Sequence[str]], names: tuple[str, str]) -> None:
        super().__init__(engine, columns, names)
        self.dropped: dict[str, Change] = {}
        self.views: dict[str, str] = {}
        self.lost: list[Lost] = []
        self.touched: set[str] = set()

    def step(self, revision: str, changes: Sequence[Change]) -> None:
        """Go from the state just before a revision to that just after it."""
        now = {name: set(table.columns) for name, table in self.tables.items()}
        before, after = (now, now) if revision == ANY else _around(revision)
        if not changes and before == after:
            return
        words = set(WORD.findall(repr(changes)))
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
        words = set(WORD.findall(repr(told)))
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
            self._problem(f"{change.revision} rename_tables: no table {old}", old not in self.tables)
            if table := self.tables.pop(old, None):
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
                self._columns(revision, self.tables[name], before, after[name], changes)
        gone = before.keys() - after.keys() - set(self.origin.values())
        for name in sorted(gone & self.tables.keys()):
            reason = next((change for change in changes if name in (*change.drop_tables, *change.moved_tables)), None)
            self._problem(f"{revision}: nobody tells why the table {name} is dropped", not reason)
            table = self.tables.pop(name)
            if reason and table.was:
                self.dropped[table.was] = reason
                self._lose("table", table, (), reason, reason.moved_tables.get(name, ""))
        for change in changes:
            named = {*change.drop_tables, *change.moved_tables}
            self._problem(f"{revision}: {', '.join(sorted(named - gone))} is not dropped here", named - gone)

    def _columns(
        self, revision: str, table: Table, before: schemas.Schema, wanted: set[str], changes: Sequence[Change]
    ) -> None:
        """Columns of a table that come and go; those that the schemas do not know are somebody else's, and stay."""
        known = before.get(self.origin.get(table.name, table.name), set())
        known = {self.renamed.get((table.name, one), one) for one in known}
        dropped = (known - wanted) & table.columns.keys()
        reasons: dict[str, tuple[Change, str]] = {}
        for change in changes:
            lost = change.drop_columns.get(self._named(table, change.drop_columns), ())
            moved = change.moved_columns.get(self._named(table, change.moved_columns), {})
            reasons |= {column: (change, moved.get(column, "")) for column in (*lost, *moved)}
        unknown = reasons.keys() - dropped
        self._problem(
            f"{revision}: {table.name}.{', '.join(sorted(unknown))} is not dropped here", unknown and table.was
        )
        for column in sorted(dropped):
            self._problem(f"{revision}: nobody tells why {table.name}.{column} is dropped", column not in reasons)
            gone = table.columns.pop(column)
            old = self._before(table.name)
            if old and gone.was and column in reasons:
                name = next((one for one in old.columns if old.columns[one].was == gone.was), gone.was)
                self._lose("columns", old, (name,), *reasons[column])
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
        found = releases.for_stamp(revision)
        release = found.version if found else ""
        table.columns[column] = Column(name=column, sql="NULL", outcome="added", release=release, why="new and empty")

    def _make(self, change: Change, name: str, made: Mapping[str, Any], wanted: set[str]) -> None:
        """A table made of others."""
        cells: Mapping[str, Sql] = made["columns"]
        unknown = set(cells) - wanted
        self._problem(f"{change.revision} tables {name}: no {', '.join(sorted(unknown))} in it", unknown)
        old = self.old.get(name)
        table = Table(name=name, source=self._expanded(made["from"], None, change), why=[change.why], made=True)
        table.release, table.key = change.release, list(made.get("key", ()))
        if "where" in made:
            table.where.append(f"({self._expanded(made['where'], None, change)})")
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

    def _lose(self, kind: str, table: Table, columns: tuple[str, ...], change: Change, moved_to: str = "") -> None:
        if not table.was:
            return  # nothing of it was in the database before
        keys = [name for name in table.columns if name in ("id", "name") and name not in columns]
        keys = keys or [name for name in table.columns if name.endswith("_id") and name not in columns]
        rest = columns or [one for one in table.columns if one not in keys]
        some = f"{' AND ' if table.where else ' WHERE '}{table.columns[columns[0]].sql} IS NOT NULL" if columns else ""
        self.lost.append(
            Lost(
                kind="moved" if moved_to else kind,
                table=table.name,
                was=table.was,
                columns=columns,
                names=(*keys, *rest),
                select=table.select([*keys, *rest]) + some,
                release=change.release,
                why=f"{change.why}: now {moved_to}" if moved_to else change.why,
            )
        )


@cache
def _around(revision: str) -> tuple[schemas.Schema, schemas.Schema]:
    """The schemas just before and just after a revision."""
    chain = [releases.all()[0].stamp, *(step for release in releases.all() for step in release.revisions)]
    return schemas.at(chain[chain.index(revision, 1) - 1]) or {}, schemas.at(revision) or {}
