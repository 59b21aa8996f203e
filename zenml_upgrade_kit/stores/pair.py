"""Two databases of one engine side by side in one session, so that one statement can compare their rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
from pymysql.cursors import SSCursor

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores import mysql, sqlite
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.sqlite import quoted

CACHE = 16_000
"""KiB of pages that SQLite keeps of each of the two databases."""
EXACT = {"tinyint", "smallint", "mediumint", "int", "bigint", "float", "double", "decimal", "datetime", "date"}
"""MySQL's types of which equal values are the same; texts are compared by their bytes."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The type of a MySQL column, as far as comparing needs it; empty for SQLite, whose values have types."""

    type: str = ""
    charset: str = ""
    collation: str = ""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the two: its name in SQL, the kind of every column of every table, and the primary keys."""

    name: str
    tables: Mapping[str, Mapping[str, Kind]]
    keys: Mapping[str, tuple[str, ...]]


class Pair:
    """A read-only session with both databases; used by one thread at a time. Errors are :class:`StoreUnreadable`.

    views: queries that others may name, in order.
    """

    def __init__(
        self, before: Path | Server, migrated: Path | Server, *, views: Mapping[str, str] | None = None
    ) -> None:
        self.views = views or {}
        self._both = before, migrated
        self._sqlite: sqlite3.Connection | None = None
        self._mysql: mysql.Connection | None = None
        if isinstance(before, Path) and isinstance(migrated, Path):
            self._sqlite = _attached(before, migrated)
            self.engine, names = "sqlite", ("before", "after")
        elif isinstance(before, Server) and isinstance(migrated, Server) and _place(before) == _place(migrated):
            self._mysql = mysql.connect(before)
            self._mysql.execute("SET SESSION group_concat_max_len = 1073741824")
            self.engine, names = "mysql", (before.database, migrated.database)
        else:
            raise StoreUnreadable(
                "the two databases cannot be compared",
                expected="two files, or two databases on one server",
                found=f"{_told(before)} and {_told(migrated)}",
                remedy="restore both to the same place",
            )
        self.before, self.after = map(self._side, names)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def other(self) -> Pair:
        """Another session with the same two, for another thread."""
        return Pair(*self._both, views=self.views)

    def close(self) -> None:
        """End the session."""
        for connection in (self._sqlite, self._mysql):
            if connection:
                connection.close()

    def rows(self, sql: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query as they come; all must be read, or the iterator closed, before the next query."""
        sql = with_views(sql, self.views)
        return self._of_file(sql) if self._sqlite else self._of_server(sql)

    def first(self, sql: str) -> tuple[Any, ...]:
        """The one row of a query."""
        return next(iter([*self.rows(sql)]))

    def weights(self) -> dict[str, int]:
        """About how much there is to read in each table that was migrated."""
        name, tables = self.after.name, self.after.tables
        if self.engine == "mysql":
            query = "SELECT table_name, CAST(IFNULL(data_length, 0) AS SIGNED) FROM information_schema.tables"
            return dict(self.rows(f"{query} WHERE table_schema = '{name}'"))
        rows = {table: self.first(f"SELECT COUNT(*) FROM {quoted(name)}.{quoted(table)}")[0] for table in tables}
        return {table: number * len(tables[table]) for table, number in rows.items()}

    def differ(self, one: str, other: str, of: Kind, to: Kind) -> str:
        """SQL that is true where two values are not the same: NULL only equals NULL, texts equal byte by byte.

        of, to: the kinds of the two where they are columns; ``Kind()`` for any other expression.
        """
        if one == "NULL":
            return f"({other}) IS NOT NULL"
        if self._sqlite:
            return f"+({one}) IS NOT +({other})"  # the sign keeps a column's affinity from making '1' of 1
        if of.type == to.type and of.type in EXACT:
            return f"NOT (({one}) <=> ({other}))"
        recoded = bool(of.charset and to.charset) and of.charset[:4] != to.charset[:4]
        pair = [f"CAST({f'CONVERT({sql} USING utf8mb4)' if recoded else sql} AS BINARY)" for sql in (one, other)]
        return f"NOT ({pair[0]} <=> {pair[1]})"

    def match(self, column: str, value: str, of: Kind, to: Kind) -> str:
        """SQL that is true where a column (``of``) holds a value (``to``), so that its index can be used."""
        if of.collation and of.collation != to.collation:  # else the server refuses a mix of collations
            value = f"CONVERT({value} USING {of.charset}) COLLATE {of.collation}"
        return f"{column} = {value}"

    def _of_file(self, sql: str) -> Iterator[tuple[Any, ...]]:
        assert self._sqlite
        try:
            cursor = self._sqlite.execute(sql)
            yield from cursor
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise StoreUnreadable(
                "a query of both databases failed", expected="rows", found=str(error), remedy="see the message"
            ) from None
        cursor.close()

    def _of_server(self, sql: str) -> Iterator[tuple[Any, ...]]:
        assert self._mysql
        try:
            with self._mysql._session.cursor(SSCursor) as cursor:  # unbuffered: rows stay on the server until wanted
                cursor.execute(sql)
                while row := cursor.fetchone():
                    yield row
        except (pymysql.Error, OSError) as error:
            raise mysql.unreadable(self._mysql.server, error) from None

    def _side(self, name: str) -> Side:
        tables: dict[str, dict[str, Kind]] = {}
        keys: dict[str, dict[int, str]] = {}
        if self._sqlite:
            found = self.rows(
                f"SELECT m.name, c.name, '', '', '', c.pk FROM {quoted(name)}.sqlite_master AS m"
                f" JOIN pragma_table_info(m.name, '{name}') AS c"
                " WHERE m.type = 'table' AND m.name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY m.name, c.cid"
            )
        else:
            schema = "'" + name.replace("'", "''") + "'"
            base = f"table_schema = {schema}"
            views = {row[0] for row in self.rows(f"SELECT table_name FROM information_schema.views WHERE {base}")}
            placed = {
                row[:2]: row[2]
                for row in self.rows(
                    "SELECT table_name, column_name, ordinal_position FROM information_schema.key_column_usage"
                    f" WHERE {base} AND constraint_name = 'PRIMARY'"
                )
            }
            columns = self.rows(
                "SELECT table_name, column_name, data_type, IFNULL(character_set_name, ''), IFNULL(collation_name, '')"
                f" FROM information_schema.columns WHERE {base} ORDER BY table_name, ordinal_position"
            )
            found = ((*row, placed.get(row[:2], 0)) for row in columns if row[0] not in views)
        for table, column, kind, charset, collation, place in found:
            tables.setdefault(table, {})[column] = Kind(type=kind, charset=charset, collation=collation)
            if place:
                keys.setdefault(table, {})[place] = column
        ordered = {table: tuple(one[place] for place in sorted(one)) for table, one in keys.items()}
        return Side(name=name, tables=tables, keys=ordered)


def with_views(sql: str, views: Mapping[str, str]) -> str:
    """A query with the views that it names, or that those name, before it."""
    needed: list[str] = []
    for name, query in reversed(list(views.items())):
        if quoted(name) in sql or any(quoted(name) in one for one in needed):
            needed.insert(0, f"{quoted(name)} AS ({query})")
    return f"WITH {', '.join(needed)} {sql}" if needed else sql


def _attached(before: Path, migrated: Path) -> sqlite3.Connection:
    connection = sqlite3.connect("file::memory:", uri=True, check_same_thread=False, isolation_level=None)
    path = before
    try:
        for name, path in (("before", before), ("after", migrated)):
            connection.execute(f"ATTACH ? AS {quoted(name)}", (f"{path.absolute().as_uri()}?mode=ro",))
            connection.execute(f"PRAGMA {quoted(name)}.cache_size = -{CACHE}")
        connection.execute("PRAGMA query_only = ON")
        connection.text_factory = _text
    except sqlite3.Error as error:
        with suppress(sqlite3.Error):
            connection.close()
        raise sqlite.unreadable(path, error) from None
    return connection


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")


def _place(server: Server) -> tuple[str, int, str]:
    return ("", 0, server.socket) if server.socket else (server.host, server.port, "")


def _told(database: Path | Server) -> str:
    return database.name if isinstance(database, Server) else str(database)
