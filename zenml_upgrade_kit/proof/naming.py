"""What names in the SQL of an entry stand for: columns and tables just before a revision, and after the upgrade."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

from zenml_upgrade_kit.proof.entries import ANY, Change, Sql, variant
from zenml_upgrade_kit.proof.states import MIGRATED, THIS, Column, Table
from zenml_upgrade_kit.stores.sqlite import quoted

WORD = re.compile(r"\w+")
_TOKEN = re.compile(r"\{(after\.)?(\w+)\}|<(after\.)?(\w+)>(?:\s+AS\s+(\w+|\"[^\"]+\"))?", re.IGNORECASE)


class Names:
    """The state of every table, ``tables``, and just before the revision, ``old``; with what was renamed in it.

    origin: the old name of a table by its new one. renamed: the new name of a column by its table's new and its own old
    name. later: what can only be written at the end.
    """

    def __init__(self, engine: str, columns: Mapping[str, Sequence[str]], names: tuple[str, str]) -> None:
        self.engine, self.names = engine, names
        self.problems: list[str] = []
        self.later: list[Callable[[], None]] = []
        self.tables: dict[str, Table] = {}
        self.old: dict[str, Table] = {}
        self.origin: dict[str, str] = {}
        self.renamed: dict[tuple[str, str], str] = {}
        for name, found in columns.items():
            source = f"{quoted(names[0])}.{quoted(name)} AS {THIS}"
            kept = {one: Column(name=one, sql=f"{THIS}.{quoted(one)}", was=one) for one in found}
            self.tables[name] = Table(name=name, was=name, source=source, columns=kept)

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
        if table.plain:
            return f"{quoted(self.names[0])}.{quoted(table.was)} AS {alias}"
        words = set(WORD.findall(match.string))
        names = [name for name in table.columns if name in words or ".*" in match.string]
        return f"({table.select(names)}) AS {alias}"

    def _table(self, name: str, where: str) -> Table | None:
        """A table by its name before or after the entry's own renaming."""
        renamed = next((new for new, old in self.origin.items() if old == name and name not in self.tables), name)
        self._problem(f"{where}: no table {name}", renamed not in self.tables)
        return self.tables.get(renamed)

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

    def _problem(self, text: str, there: object) -> None:
        if there and not text.startswith(f"{ANY} "):  # whatever any release rewrites, this one may not have yet
            self.problems.append(text)
