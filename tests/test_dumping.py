"""Dumps and their loading: everything comes back, of one moment, and no password is seen."""

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit.errors import BadPlan, RestoreRefused, StoreUnreadable, ToolMissing
from zenml_upgrade_kit.stores import dumping, mysql, private
from zenml_upgrade_kit.stores.mysql import Server

PASSWORD = "p%@:/#?'\"\\ ;é=w"
ODD = (
    "CREATE TABLE `trigger` (id CHAR(32) PRIMARY KEY, `values` MEDIUMTEXT, `key` VARCHAR(30) CHARACTER SET latin1)",
    "CREATE TABLE `user` (id INT AUTO_INCREMENT PRIMARY KEY, raw LONGBLOB, fixed BINARY(4), j JSON, bits BIT(12),"
    " at DATETIME(6), stamp TIMESTAMP NULL, price DECIMAL(20,8), ratio DOUBLE, kind ENUM('a','b')) CHARSET latin1",
    "CREATE TABLE parent (id INT PRIMARY KEY, child INT) COLLATE utf8mb4_unicode_ci COMMENT 'it''s \"quoted\"'",
    "CREATE TABLE child (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES parent (id))",
    "ALTER TABLE parent ADD FOREIGN KEY (child) REFERENCES child (id)",
    "CREATE TABLE nothing (id INT)",
    "CREATE TABLE alembic_version (version_num VARCHAR(32) PRIMARY KEY)",
    "INSERT INTO alembic_version VALUES ('0.55.5')",
    "SET foreign_key_checks = 0",
    "INSERT INTO parent VALUES (1, 1), (2, NULL)",
    "INSERT INTO child VALUES (1, 1)",
)


@pytest.fixture
def database(mariadb: Server) -> Iterator[Callable[..., Server]]:
    """``database("CREATE TABLE …", …)``: a new database of this test's own; without statements an empty one."""
    made: list[str] = []

    def make(*statements: str, server: Server = mariadb) -> Server:
        own = server.using(f"test_{secrets.token_hex(4)}")
        made.append(own.database)
        with closing(mysql.connect(server, write=True)) as connection:
            connection.execute(f"CREATE DATABASE {own.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        with closing(mysql.connect(own, write=True)) as connection:
            for statement in statements:
                connection.execute(statement.replace("`", '"'))
        return own

    yield make
    with closing(mysql.connect(mariadb, write=True)) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE IF EXISTS {name}")


@pytest.fixture
def odd(database: Callable[..., Server]) -> Server:
    """A database with everything that tools are known to lose."""
    server = database(*ODD)
    with closing(mysql.connect(server, write=True)) as connection:
        insert = 'INSERT INTO "trigger" VALUES (%s, %s, %s)'
        for number, text in enumerate(["", None, "😀 \0\r\n\t\x1a\\'\"`--", "é" * 30000]):
            connection.execute(insert, (f"{number:032}", text, "naïve €"))
        big = bytes(range(256)) * (1 << 17)
        insert = 'INSERT INTO "user" VALUES (NULL, %s, %s, %s, %s, %s, %s, %s, %s, %s)'
        rows: list[tuple[Any, ...]] = [
            (
                big,
                b"\0\xff'\\",
                '{"a": "😀"}',
                0xABC,
                "2024-02-29 23:59:59.999999",
                "2024-02-29 23:59:59",
                "0.1",
                0.1,
                "b",
            ),
            (b"", b"", None, 0, "1000-01-01", None, "-999999999999.99999999", 1e308, "a"),
            (None,) * 9,
        ]
        for row in rows:
            connection.execute(insert, row)
    return server


def contents(server: Server) -> tuple[dict[str, Any], dict[str, str], str]:
    with closing(mysql.connect(server)) as connection:
        facts = mysql.facts(connection)
        return mysql.contents([connection]), mysql.definitions(connection), facts["collation"]


def kept(server: Server, folder: Path, tool: str = "") -> tuple[dumping.Dump, list[Path]]:
    """The dump of a database as files in a folder."""
    with dumping.dump(server, tool=tool, staging=folder) as dump:
        files = []
        for name, source in dump.files():
            files.append(folder / f"kept-{name}")
            files[-1].write_bytes(source.read())
    return dump, files


def load(target: Server, dump: dumping.Dump, files: list[Path], tool: str = "") -> str:
    opened = ((file.name.removeprefix("kept-"), file.open("rb")) for file in files)
    return dumping.load(target, format=dump.format, files=opened, staging=files[0].parent, tool=tool)


@pytest.mark.parametrize(
    ("tool", "loader"),
    [("mydumper", "myloader"), ("mydumper", "mariadb"), ("mariadb-dump", "mariadb"), ("", "")],
)
def test_everything_comes_back(
    odd: Server, database: Callable[..., Server], tmp_path: Path, tool: str, loader: str
) -> None:
    before = contents(odd)
    dump, files = kept(odd, tmp_path, tool)
    assert (dump.contents, dump.definitions, dump.unsettled) == (*before[:2], [])
    assert dump.tool.split()[0] == (tool or "mydumper")
    target = database()
    assert load(target, dump, files, loader).split()[0] == (loader or "myloader")
    for found, wanted in zip(contents(target), before, strict=True):
        assert found == wanted
    assert not [path for path in tmp_path.iterdir() if path not in files]
