"""Dumps and their loading: everything comes back, of one moment, and no password is seen."""

import resource
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import tls

from zenml_upgrade_kit.errors import BadPlan, RestoreRefused, StoreUnreadable, ToolMissing
from zenml_upgrade_kit.stores import dumping, mysql, private, programs
from zenml_upgrade_kit.stores.address import Server

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


def kept(
    server: Server, folder: Path, tool: str = "", meanwhile: Callable[[dumping.Dump], object] = str
) -> tuple[dumping.Dump, list[Path]]:
    """The dump of a database as files in a folder; meanwhile: what happens once it has begun."""
    with dumping.dump(server, tool=tool, staging=folder) as dump:
        meanwhile(dump)
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


def test_what_a_table_alone_does_not_tell_comes_back_too(database: Callable[..., Server], tmp_path: Path) -> None:
    source = database(
        "CREATE TABLE t (a INT PRIMARY KEY, `é` ENUM('ü') CHARACTER SET latin1) COMMENT '😊'",
        "CREATE VIEW v AS SELECT a FROM t",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW BEGIN SET NEW.a = NEW.a + 1; SET @x = ';'; END",
        "CREATE FUNCTION f() RETURNS INT DETERMINISTIC BEGIN RETURN 1; END",
        "CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO DELETE FROM t",
        "INSERT INTO t VALUES (1, 'ü')",
    )
    dump, files = kept(source, tmp_path)
    assert dump.tool.split()[0] == "mariadb-dump"  # mydumper would lose the letters
    target = database()
    load(target, dump, files)
    assert contents(target) == contents(source)
    with closing(mysql.connect(target)) as connection:
        assert mysql.facts(connection)["objects"] == dump.server["objects"]
        assert set(dump.server["objects"].values()) == {1}
        assert connection.execute("SELECT * FROM v")[0][0] == 2
    with pytest.raises(StoreUnreadable, match="letters beyond ASCII"):
        kept(source, tmp_path, "mydumper")


def test_another_engine_takes_the_program_with_one_session(database: Callable[..., Server], tmp_path: Path) -> None:
    source = database("CREATE TABLE t (a INT) ENGINE=MyISAM", "INSERT INTO t VALUES (1)")
    dump, _ = kept(source, tmp_path)
    assert (dump.tool.split()[0], dump.contents) == ("mariadb-dump", contents(source)[0])
    with pytest.raises(StoreUnreadable, match="another engine"):
        kept(source, tmp_path, "mydumper")


@pytest.fixture
def busy(database: Callable[..., Server]) -> Iterator[Callable[..., tuple[Server, list[int]]]]:
    """``busy(pause)``: a database in which each transaction adds one row to two tables, and how many there were."""
    ended, threads = threading.Event(), list[threading.Thread]()

    def start(pause: float) -> tuple[Server, list[int]]:
        server, done = database("CREATE TABLE quiet (a INT)", "CREATE TABLE big (a LONGTEXT)"), [0]
        with closing(mysql.connect(server, write=True)) as connection:
            connection.execute("INSERT INTO quiet VALUES (1)")
            connection.execute("INSERT INTO big SELECT REPEAT('x', 1 << 20) FROM seq_1_to_40")
            for name in ("one", "two"):
                connection.execute(f"CREATE TABLE {name} (a INT AUTO_INCREMENT PRIMARY KEY)")

        def write() -> None:
            with closing(mysql.connect(server, write=True)) as connection:
                while not ended.wait(pause):
                    for statement in ("BEGIN", "INSERT INTO one VALUES ()", "INSERT INTO two VALUES ()", "COMMIT"):
                        connection.execute(statement)
                    done[0] += 1

        threads.append(threading.Thread(target=write))
        threads[0].start()
        return server, done

    yield start
    ended.set()
    for thread in threads:
        thread.join()


@pytest.mark.parametrize("tool", ["mydumper", "mariadb-dump"])
def test_a_dump_of_a_database_in_use_is_of_one_moment(
    busy: Callable[..., tuple[Server, list[int]]], database: Callable[..., Server], tmp_path: Path, tool: str
) -> None:
    source, _ = busy(0.5)
    dump, files = kept(source, tmp_path, tool)
    assert dump.unsettled == []
    target = database()
    load(target, dump, files)
    assert contents(target)[0] == dump.contents
    assert dump.contents["one"]["rows"] == dump.contents["two"]["rows"]


def test_writers_that_never_rest_go_on_and_what_cannot_be_told_is_said(
    busy: Callable[..., tuple[Server, list[int]]], database: Callable[..., Server], tmp_path: Path
) -> None:
    source, done = busy(0)
    with dumping.dump(source, staging=tmp_path) as dump:
        files = dump.files()
        _, stream = next(files)
        block, before = stream.read(1 << 20), done[0]
        while done[0] < before + 5:  # nobody waits for us
            time.sleep(0.01)
        (tmp_path / "kept-database.sql").write_bytes(block + stream.read())
        assert list(files) == []
    assert dump.tool.split()[0] == "mariadb-dump"  # the sessions of mydumper never got one moment
    assert set(dump.unsettled) == {"one", "two"}
    assert dump.contents["one"]["rows"] is dump.contents["two"]["fingerprint"] is None
    target = database()
    load(target, dump, [tmp_path / "kept-database.sql"])
    found = contents(target)[0]
    assert found["one"]["rows"] == found["two"]["rows"] > 0
    assert {name: found[name] for name in ("quiet", "big")} == {name: dump.contents[name] for name in ("quiet", "big")}
    with pytest.raises(StoreUnreadable, match="commits all the time"):
        kept(source, tmp_path, "mydumper")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tls.server(tmp_path_factory.mktemp("tls")) as server:
        yield server


def processes(part: str) -> list[bytes]:
    """Command line and environment of every process whose command line has the text in it."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes()
            if part.encode() in command:
                found.append(command + (folder / "environ").read_bytes())
    return found


@pytest.mark.parametrize(("tool", "loader"), [("mydumper", "myloader"), ("mariadb-dump", "mariadb")])
@pytest.mark.parametrize("verify", [False, True])
def test_a_password_goes_through_tls_and_is_never_seen(
    secured: Server, tmp_path: Path, tool: str, loader: str, verify: bool
) -> None:
    source = replace(secured, ssl_verify=verify)
    target = source.using("test_target")
    with closing(mysql.connect(source, write=True)) as connection:
        for statement in ("CREATE OR REPLACE TABLE t (a LONGTEXT)", "INSERT INTO t VALUES (REPEAT('x', 33554432))"):
            connection.execute(statement)
        connection.execute("CREATE OR REPLACE DATABASE test_target")
    with dumping.dump(source, tool=tool, staging=tmp_path) as dump:
        seen = processes(str(tmp_path))
        options = [
            (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) for path in tmp_path.rglob("my.cnf")
        ]
        files = []
        for name, stream in dump.files():
            files.append(tmp_path / f"kept-{name}")
            files[-1].write_bytes(stream.read())
    assert seen
    assert not [text for text in seen if b"p%@" in text]
    assert options == ([(0o600, 0o700)] if tool == "mydumper" else [])  # the other has read it, so it is gone
    load(target, dump, files, loader)
    assert contents(target)[0] == dump.contents


@pytest.mark.parametrize("tool", ["mydumper", "mariadb-dump", "mysqldump"])
def test_a_program_does_not_talk_to_a_server_with_another_certificate(
    secured: Server, tmp_path: Path, tool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(secured, ssl_ca=str(Path(secured.ssl_ca).with_name("other.pem")))
    real = mysql.connect

    def connect(server: Server) -> mysql.Connection:
        connection = real(replace(server, ssl_ca=secured.ssl_ca))
        connection.server = server
        return connection

    monkeypatch.setattr(mysql, "connect", connect)  # our own sessions do not get as far as the program either
    with pytest.raises(StoreUnreadable, match="certificate") as raised:
        kept(other, tmp_path, tool)
    assert tls.PASSWORD not in str(raised.value)


def test_missing_grants_are_named(secured: Server, database: Callable[..., Server], mariadb: Server) -> None:
    source = database("CREATE TABLE t (a INT)", "CREATE VIEW v AS SELECT 1 AS one", "CREATE TABLE u (a INT)")
    with closing(mysql.connect(mariadb, write=True)) as connection:
        connection.execute("CREATE OR REPLACE USER poor@localhost")
        connection.execute(f"GRANT SELECT ON {source.database}.* TO poor@localhost")
    poor = replace(source, user="poor")
    with pytest.raises(StoreUnreadable) as raised, TemporaryDirectory() as folder:
        kept(poor, Path(folder), "mariadb-dump")
    assert raised.value.expected == "the grant SHOW VIEW"
    assert raised.value.remedy == f"GRANT SHOW VIEW ON `{source.database}`.* TO the user poor"


@pytest.mark.parametrize("tool", ["mydumper", "mariadb-dump"])
def test_reading_rights_are_enough(database: Callable[..., Server], mariadb: Server, tmp_path: Path, tool: str) -> None:
    source = database("CREATE TABLE t (a INT)", "INSERT INTO t VALUES (1)")
    with closing(mysql.connect(mariadb, write=True)) as connection:
        connection.execute("CREATE OR REPLACE USER reader@localhost")
        connection.execute(f"GRANT SELECT ON {source.database}.* TO reader@localhost")
    dump, _ = kept(replace(source, user="reader"), tmp_path, tool)
    assert dump.contents == contents(source)[0]


BIG = (
    "CREATE TABLE a (x LONGTEXT)",
    "INSERT INTO a SELECT REPEAT(UUID(), 30000) FROM seq_1_to_60",
    "CREATE TABLE b (x INT)",
)


def change(server: Server, statement: str) -> None:
    with closing(mysql.connect(server, write=True)) as connection:
        connection.execute(statement)


@pytest.mark.parametrize("tool", ["mydumper", "mariadb-dump"])
def test_a_program_that_is_killed_leaves_no_dump(database: Callable[..., Server], tmp_path: Path, tool: str) -> None:
    source = database(*BIG)
    with pytest.raises(StoreUnreadable, match="killed by signal 9"):
        kept(source, tmp_path, tool, lambda dump: dump._program.process.kill())
    assert not list(tmp_path.glob("zuk-*"))


def test_no_room_for_its_files_leaves_no_dump(database: Callable[..., Server], tmp_path: Path) -> None:
    source, usual = database(*BIG), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, usual[1]))
    try:
        with pytest.raises(StoreUnreadable, match=r"bytes are free in /.*zuk-"):
            kept(source, tmp_path, "mydumper")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not list(tmp_path.glob("zuk-*"))


def test_tables_that_are_made_meanwhile_leave_no_dump(database: Callable[..., Server], tmp_path: Path) -> None:
    source = database("CREATE TABLE t (a INT)")
    with pytest.raises(StoreUnreadable, match="made, altered or dropped"):
        kept(source, tmp_path, "mariadb-dump", lambda dump: change(source, "CREATE TABLE u (a INT)"))


def test_a_table_that_is_dropped_meanwhile_leaves_no_dump(database: Callable[..., Server], tmp_path: Path) -> None:
    source = database(*BIG)

    def drop(dump: dumping.Dump) -> None:
        for future in dump._computed:  # until then, dropping a table has to wait
            future.result()
        change(source, "DROP TABLE b")

    with pytest.raises(StoreUnreadable, match=r"Table '.*b' doesn't exist"):
        kept(source, tmp_path, "mariadb-dump", drop)


def test_a_dump_that_is_given_up_leaves_nothing_running(database: Callable[..., Server], tmp_path: Path) -> None:
    source = database(*BIG)
    for tool in ("mydumper", "mariadb-dump"):
        with suppress(ZeroDivisionError), dumping.dump(source, tool=tool, staging=tmp_path):
            raise ZeroDivisionError
    assert not [*processes(str(tmp_path)), *tmp_path.iterdir()]


KIT = """
import sys, time
from pathlib import Path
from zenml_upgrade_kit.stores import address, dumping, mysql
server = address.Server(user="root", socket=sys.argv[1], database=sys.argv[2])
with dumping.dump(server, tool=sys.argv[3], staging=Path(sys.argv[4])) as dump:
    dump._program.process.send_signal(19)  # it does not end by itself
    print(dump._program.process.pid, flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not private.find("setpriv"), reason="only Linux ends the child of a killed process")
@pytest.mark.parametrize("tool", ["mydumper", "mariadb-dump"])
def test_the_program_ends_when_the_kit_is_killed(database: Callable[..., Server], tmp_path: Path, tool: str) -> None:
    source = database(*BIG)
    command = [sys.executable, "-c", KIT, source.socket, source.database, tool, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kit:
        assert kit.stdout
        program = Path("/proc", kit.stdout.readline().strip())
        assert program.exists()
        kit.kill()
    for _ in range(500):
        if not program.exists() or ") Z " in (program / "stat").read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{tool} lives on")


def test_the_best_program_is_chosen_and_without_any_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [programs.dumpers()[0], *map(programs.loader, ("mydumper", "sql")), *programs.dumpers("mysqldump")]
    assert [tool.name for tool in found] == ["mydumper", "myloader", "mariadb", "mysqldump"]
    assert [tool.vendor for tool in found[2:]] == ["MariaDB", "MariaDB"]  # Debian's mysqldump is MariaDB's
    assert str(found[3]).startswith("mysqldump 10.")
    with pytest.raises(BadPlan, match="mydumper or mariadb-dump or mysqldump"):
        programs.dumpers("pg_dump")
    monkeypatch.setattr(private, "find", lambda *names: "")
    for forced in ("", "mysqldump"):
        with pytest.raises(ToolMissing, match=r"apt install mariadb-client .*brew install .*mamba install"):
            programs.dumpers(forced)


MYSQLS_OWN = """#!/bin/sh
if [ "$1" = --version ]; then echo "mysqldump  Ver 8.4.3 for Linux on x86_64 (MySQL Community Server - GPL)"; exit; fi
file="${1#--defaults-file=}"; shift
cp "$file" "$0.cnf"; echo "$@" > "$0.args"
sed -i -e /^ssl-mode/d -e /^get-server-public-key/d "$file"
exec mariadb-dump --defaults-file="$file" $(echo "$@" | sed -e s/--set-gtid-purged=OFF// -e s/--column-statistics=0//)
"""


def test_the_program_of_mysql_gets_the_options_that_it_knows(
    database: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mysqldump"
    program.write_text(MYSQLS_OWN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    dump, _ = kept(database("CREATE TABLE t (a INT)"), tmp_path, "mysqldump")
    assert dump.tool == "mysqldump 8.4.3"
    assert "--column-statistics=0" in (tmp_path / "mysqldump.args").read_text()
    assert 'ssl-mode="PREFERRED"' in (tmp_path / "mysqldump.cnf").read_text()


@pytest.mark.parametrize("loader", ["mariadb", "myloader"])
def test_a_collation_that_the_server_does_not_know_is_named(
    database: Callable[..., Server], tmp_path: Path, loader: str
) -> None:
    dump, files = kept(
        database("CREATE TABLE t (a TEXT)"), tmp_path, "mydumper" if loader == "myloader" else "mariadb-dump"
    )
    for file in files:
        file.write_bytes(file.read_bytes().replace(b"utf8mb4_general_ci", b"utf8mb4_0900_ai_ci"))
    with pytest.raises(RestoreRefused, match="Unknown collation: 'utf8mb4_0900_ai_ci'"):
        load(database(), dump, files, loader)


def test_what_cannot_be_loaded_is_known_before(database: Callable[..., Server], tmp_path: Path) -> None:
    dump, _ = kept(database("CREATE TABLE t (a LONGTEXT)", "INSERT INTO t VALUES ('x')"), tmp_path)
    with closing(mysql.connect(database())) as connection:
        assert dumping.loadable(dump.server, connection) == []
        newer = {**dump.server, "flavour": "MySQL", "version": "8.4.0", "collations": ["utf8mb4_0900_ai_ci", "binary"]}
        (reason,) = dumping.loadable({**newer, "longest": 1 << 20}, connection)
        assert "Unknown collation: 'utf8mb4_0900_ai_ci'" in reason
        assert reason.endswith("the backup is of MySQL 8.4.0")
        (reason,) = dumping.loadable({**dump.server, "longest": 1 << 29}, connection)
        assert reason.startswith("max_allowed_packet is 1,073,741,824 bytes there")
