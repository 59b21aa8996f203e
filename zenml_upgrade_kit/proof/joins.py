"""The rows that a table must have beside those that it has, in one statement."""

from __future__ import annotations

from collections.abc import Iterable

from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.proof.states import MIGRATED, THIS, Column, Table
from zenml_upgrade_kit.stores.pair import Kind, Pair
from zenml_upgrade_kit.stores.sqlite import quoted


class Join:
    """The rows that a table must have beside those that it has."""

    def __init__(self, pair: Pair, table: Table) -> None:
        self.pair, self.table = pair, table
        self.real = pair.after.tables[table.name]
        primary = pair.after.keys.get(table.name, ())
        self.keys = [name for name in table.key or primary if name in table.columns]
        self.full = full(pair.after.name, table.name)
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

    def changed(self, column: Column) -> str:
        """SQL that is true where a column does not hold any more what it held before."""
        held = self.pair.before.tables[self.table.was][column.was]
        after = f"{MIGRATED}.{quoted(column.name)}"
        return self.pair.differ(f"{THIS}.{quoted(column.was)}", after, held, self.real[column.name])

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
    def _all(conditions: Iterable[str]) -> str:
        return " AND ".join(conditions)


def full(schema: str, table: str) -> str:
    return f"{quoted(schema)}.{quoted(table)}"
