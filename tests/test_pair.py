"""Two databases side by side: the same rows of both engines, compared byte by byte."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from databases import client

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.pair import Kind, Pair

TABLE = 'CREATE TABLE "order" (id CHAR(2) PRIMARY KEY, name VARCHAR(20), number INTEGER, "index" INTEGER)'
VALUES = ["a", "A", "a ", "ä", "", "'", None]
Make = Callable[[str, str], Any]


def sqlite_file(path: Path, sql: str) -> Path:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executescript(sql)
    return path


@pytest.fixture(params=["sqlite", "mysql"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """A new database of either engine by a name and the SQL that fills it; MariaDB's compares without case."""
    if request.param == "sqlite":
        yield lambda name, sql: sqlite_file(tmp_path / f"{name}.db", sql)
        return
    server: Server = request.getfixturevalue("mariadb")
    made: list[str] = []

    def new(name: str, sql: str) -> Server:
        client(server, f"CREATE OR REPLACE DATABASE pair_{name} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        made.append(name)
        client(server.using(f"pair_{name}"), f"SET sql_mode = 'ANSI_QUOTES'; {sql}")
        return server.using(f"pair_{name}")

    yield new
    for name in made:
        client(server, f"DROP DATABASE IF EXISTS pair_{name}")


def literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''") + "'"


def filled(values: list[str | None]) -> str:
    rows = ", ".join(f"('{number}', {literal(value)}, {number}, 0)" for number, value in enumerate(values))
    return f'{TABLE}; INSERT INTO "order" VALUES {rows};'


def test_texts_are_the_same_when_every_byte_is(make: Make) -> None:
    one = [value for value in VALUES for _ in VALUES]
    other = VALUES * len(VALUES)
    with Pair(make("one", filled(one)), make("other", filled(other))) as pair:
        of = pair.before.tables["order"]["name"]
        assert pair.after.tables["order"]["name"] == of
        differ = pair.differ('b."name"', 'a."name"', of, of)
        rows = list(
            pair.rows(
                f'SELECT CASE WHEN {differ} THEN 1 ELSE 0 END FROM "{pair.before.name}"."order" AS b'
                f' JOIN "{pair.after.name}"."order" AS a ON a.id = b.id ORDER BY b."number"'
            )
        )
    assert [bool(row[0]) for row in rows] == [left != right for left, right in zip(one, other, strict=True)]


def test_a_text_is_not_the_number_that_it_looks_like(make: Make) -> None:
    made = make("one", filled(["1"])), make("other", filled(["1e0"]))
    with Pair(*made) as pair:
        kinds = pair.before.tables["order"]
        for left, right, of, to, differs in (
            ("""'1.0'""", '"number" + 1', Kind(), Kind(), True),
            ('"number"', "0", kinds["number"], Kind(), False),
            ('"name"', "'1'", kinds["name"], Kind(), False),
            ('"name"', "'1.0'", kinds["name"], Kind(), True),
        ):
            query = f"SELECT CASE WHEN {pair.differ(left, right, of, to)} THEN 1 ELSE 0 END"
            assert bool(pair.first(f'{query} FROM "{pair.before.name}"."order"')[0]) == differs, (left, right)


def test_tables_columns_and_keys_are_known_of_both(make: Make) -> None:
    two = "CREATE TABLE link (one CHAR(2), two CHAR(2), note TEXT, PRIMARY KEY (two, one));"
    two += "CREATE VIEW v AS SELECT 1 AS x;"
    with Pair(make("one", filled(["x"]) + two), make("other", TABLE + ";")) as pair:
        assert list(pair.before.tables) == ["link", "order"]
        assert list(pair.before.tables["order"]) == ["id", "name", "number", "index"]
        assert pair.before.keys == {"order": ("id",), "link": ("two", "one")}
        assert list(pair.after.tables) == ["order"]
        assert set(pair.weights()) == {"order"}


def test_rows_come_one_after_the_other_and_a_query_can_be_left(make: Make) -> None:
    database = make("one", filled(["x"] * 90))
    with Pair(database, database) as pair:
        rows = pair.rows(f'SELECT id, "number" FROM "{pair.before.name}"."order" ORDER BY "number"')
        assert [next(rows), next(rows)] == [("0", 0), ("1", 1)]
        rows.close()  # type: ignore[attr-defined]
        assert pair.first(f'SELECT COUNT(*) FROM "{pair.after.name}"."order"') == (90,)


def test_nothing_can_be_written_through_a_pair(make: Make) -> None:
    one, other = make("one", filled(["x"])), make("other", filled(["y"]))
    with Pair(one, other) as pair:
        for side in (pair.before, pair.after):
            with pytest.raises(StoreUnreadable):
                list(pair.rows(f'DELETE FROM "{side.name}"."order"'))
            assert pair.first(f'SELECT COUNT(*) FROM "{side.name}"."order"') == (1,)


def test_a_query_that_fails_says_why(make: Make) -> None:
    database = make("one", filled(["x"]))
    with Pair(database, database) as pair, pytest.raises(StoreUnreadable, match="nowhere"):
        pair.first("SELECT * FROM nowhere")


def test_different_collations_do_not_keep_rows_from_being_matched(mariadb: Server) -> None:
    for name, collation in (("a", "utf8mb4_general_ci"), ("b", "utf8mb4_unicode_ci")):
        client(mariadb, f"CREATE OR REPLACE DATABASE pair_{name} CHARACTER SET utf8mb4 COLLATE {collation}")
        client(mariadb.using(f"pair_{name}"), "CREATE TABLE t (id CHAR(2) PRIMARY KEY); INSERT INTO t VALUES ('x')")
    with Pair(mariadb.using("pair_a"), mariadb.using("pair_b")) as pair:
        on = pair.match("m.id", "b.id", pair.after.tables["t"]["id"], pair.before.tables["t"]["id"])
        assert pair.first(f"SELECT COUNT(*) FROM pair_a.t AS b JOIN pair_b.t AS m ON {on}") == (1,)


def test_two_engines_or_two_servers_are_refused(mariadb: Server, tmp_path: Path) -> None:
    file = sqlite_file(tmp_path / "a.db", TABLE)
    elsewhere = replace(mariadb, socket="/tmp/another", database="x")
    for one, other in ((file, mariadb), (mariadb.using("mysql"), elsewhere)):
        with pytest.raises(StoreUnreadable, match="two databases on one server"):
            Pair(one, other)


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreadable):
        Pair(sqlite_file(tmp_path / "a.db", TABLE), tmp_path / "b.db")
    assert not (tmp_path / "b.db").exists()
