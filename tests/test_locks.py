"""Who holds a database that somebody waits for: told by session or process, without what statements say."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import databases
import pytest

from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.stores import locks, mysql
from zenml_upgrade_kit.stores.address import Server


@pytest.fixture
def schema(mariadb: Server) -> Iterator[Server]:
    databases.client(
        mariadb,
        "CREATE DATABASE held; CREATE DATABASE elsewhere;"
        "CREATE TABLE held.secret (id INT PRIMARY KEY, text TEXT); INSERT INTO held.secret VALUES (1, 'x')",
    )
    yield mariadb.using("held")
    databases.client(mariadb, "DROP DATABASE held; DROP DATABASE elsewhere")


@contextmanager
def waiting(server: Server, statement: str) -> Iterator[int]:
    """The id of a session that waits for what somebody else has locked, until it is ended."""
    connection = mysql.connect(server, write=True)
    number = int(connection.execute("SELECT CONNECTION_ID()")[0][0])

    def run() -> None:
        with suppress(KitError):
            connection.execute(statement)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until = time.monotonic() + 5
        while "'" not in "".join(locks.holders(server, [number])) and time.monotonic() < until:
            time.sleep(0.2)  # InnoDB tells the same for as long as it is asked every 0.1 s
        time.sleep(0.2)
        yield number
    finally:
        locks.end(server, [number])
        thread.join()
        connection.close()


@pytest.mark.parametrize(
    ("place", "before", "statement", "why"),
    [
        ("held", "LOCK TABLES secret WRITE", "UPDATE secret SET text = 'hush'", "may have locked a table of held"),
        ("held", "SELECT * FROM secret", "ALTER TABLE secret ADD more TEXT DEFAULT 'hush'", "has a transaction open"),
        (
            "elsewhere",
            "UPDATE held.secret SET text = 'hush'",
            "DELETE FROM secret WHERE text <> 'hush'",
            "has locked rows",
        ),
    ],
)
def test_the_session_that_holds_a_table_is_named(
    schema: Server, place: str, before: str, statement: str, why: str
) -> None:
    with closing(mysql.connect(schema.using(place), write=True)) as other:
        (holder,) = other.execute("SELECT CONNECTION_ID()")[0]
        if not before.startswith("LOCK"):
            other.execute("START TRANSACTION")
        other.execute(before)
        with waiting(schema, statement) as number:
            told = locks.holders(schema, [number])
    assert [sentence for sentence in told if sentence.startswith(f"session {number} of the migration, for ")], told
    assert [s for s in told if s.startswith(f"session {holder} of root") and f" {why}" in s], told
    assert "hush" not in "".join(told)
    assert "'...'" in "".join(told)


def test_a_lock_of_the_server_itself_has_no_session_to_name(schema: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "_ask", lambda *_: [(None, "has locked secret"), (7, "has locked secret, too")])
    assert locks.holders(schema, []) == ("session 7 has locked secret, too",)


def test_only_sessions_in_the_database_are_ended(schema: Server) -> None:
    with closing(mysql.connect(schema)) as inside, closing(mysql.connect(schema.using("elsewhere"))) as outside:
        numbers = [int(one.execute("SELECT CONNECTION_ID()")[0][0]) for one in (inside, outside)]
        locks.end(schema, numbers)
        with pytest.raises(KitError):
            inside.execute("SELECT 1")
        assert outside.execute("SELECT 1")


def test_a_server_that_does_not_answer_is_told(tmp_path: Path) -> None:
    (told,) = locks.holders(Server(user="root", socket=str(tmp_path / "none"), database="x"), [])
    assert told.startswith("who holds it cannot be seen: ")


def test_a_file_that_is_only_open_is_told_when_nobody_locks_it(tmp_path: Path) -> None:
    path = tmp_path / "zenml.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")
        (told,) = locks.holders(path, [])
        assert told.endswith(f"has open {path}")
        connection.execute("BEGIN IMMEDIATE")
        (told,) = locks.holders(path, [])
        assert told.endswith(f"has locked {path}")
    assert locks.holders(path, []) == ()


def test_a_process_that_opens_and_closes_other_files_meanwhile_is_seen(tmp_path: Path) -> None:
    path, ended = tmp_path / "zenml.db", threading.Event()

    def busy() -> None:
        while not ended.is_set():
            with open(os.devnull), open(os.devnull):
                pass

    with ThreadPoolExecutor(1) as pool, open(os.devnull) as first, path.open("wb"):
        first.close()  # its number, which is looked at before that of the file, is given away again and again
        try:
            pool.submit(busy)
            assert all(locks.holders(path, []) for _ in range(200))
        finally:
            ended.set()
