"""The expected state of a table: each column as SQL over the database before, and what is not there any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

from zenml_upgrade_kit.proof.entries import Change
from zenml_upgrade_kit.stores.sqlite import quoted

THIS, MIGRATED = '"this"', '"migrated"'
"""Aliases: the row before, and the row after."""


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
    its rows are not those of one table before. key: columns that tell rows apart where the primary key is made up.
    new_rows: conditions on rows of the migrated table that may have no counterpart. by: a check in Python, the query
    over the database before that it reads, and the columns as they were then.
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
    def plain(self) -> bool:
        """Whether it is a table before as it was, but for columns that are gone."""
        as_it_was = all(column.plain and column.name == column.was for column in self.columns.values())
        return as_it_was and not (self.where or self.filtered or self.made)

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
