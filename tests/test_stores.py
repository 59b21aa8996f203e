"""Finding and reading a store: it is never written, whatever state it is in."""

import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from zenml_upgrade_kit import stores
from zenml_upgrade_kit.errors import BadPlan, KitError, StoreUnreadable
from zenml_upgrade_kit.stores import rows, sqlite

Deployment = Callable[..., Path]
VARIABLES = ("ZENML_CONFIG_PATH", "ZENML_LOCAL_STORES_PATH", "ZENML_STORE_URL")


@pytest.fixture(autouse=True)
def _no_zenml_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a database is read; every test asks that reading leaves nothing behind in it."""
    own = tmp_path / "own"
    own.mkdir()
    return own


def make(path: Path, *, wal: bool = False, rows: int = 3) -> Path:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA journal_mode = {'wal' if wal else 'delete'}")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        connection.executemany("INSERT INTO t (v) VALUES (?)", [(f"row {n}",) for n in range(rows)])
        connection.commit()
    return path


def killed(path: Path, *statements: str) -> None:
    """Another process executes statements and dies without closing the database."""
    program = (
        "import os, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "for s in sys.argv[2:]: c.execute(s)\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(path), *statements], check=False)


def contents(folder: Path) -> dict[str, str]:
    """Every file's hash; the index of a write-ahead log is scratch memory of SQLite, so only its presence counts."""
    return {
        path.name: "" if path.name.endswith("-shm") else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def count(path: Path) -> int:
    with closing(sqlite.connect(path)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM t").fetchone()[0])


# --- where the store is


@pytest.mark.parametrize("way", ["URL", "variable", "config directory", "own"])
def test_a_database_on_a_server_is_found_without_connecting(
    folder: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, given = "mysql://someone:s3cr3t%40pw@db.example:3307/zenml", ""
    if way == "URL":
        given = url
    elif way == "variable":
        monkeypatch.setenv("PRODUCTION", url)
        given = "env:PRODUCTION"
    elif way == "config directory":
        section = {
            "type": "sql",
            "url": "mysql://db.example:3307/zenml",
            "username": "someone",
            "password": "s3cr3t@pw",
        }
        (folder / "config.yaml").write_text(yaml.safe_dump({"store": section}))
        given = str(folder)
    else:
        monkeypatch.setenv("ZENML_CONFIG_PATH", str(folder))
        monkeypatch.setenv("ZENML_STORE_URL", "mysql://someone@db.example:3307/zenml")
        monkeypatch.setenv("ZENML_STORE_PASSWORD", "s3cr3t@pw")
    store = stores.locate(given)
    assert store.server
    assert (store.engine, store.server.password) == ("mysql", "s3cr3t@pw")
    assert store.url == "mysql://someone@db.example:3307/zenml"
    assert "s3cr3t" not in repr(store)
    with pytest.raises(BadPlan, match="needs a SQLite store"):
        store.path  # noqa: B018


def test_a_config_directory_its_database_and_its_url_name_the_same_store(deployment: Deployment) -> None:
    config = deployment("0.70.0")
    store = stores.locate(str(config))
    assert store.path == config / "local_stores" / "default_zen_store" / "zenml.db"
    assert store.config_yaml == config / "config.yaml"
    assert store.local_stores == config / "local_stores"
    assert stores.locate(store.url) == stores.locate(str(store.path)) == store


def test_an_environment_variable_can_name_the_store(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    store = stores.locate(str(deployment("0.70.0")))
    monkeypatch.setenv("MY_STORE", store.url)
    assert stores.locate("env:MY_STORE") == store
    monkeypatch.delenv("MY_STORE")
    with pytest.raises(BadPlan, match="MY_STORE"):
        stores.locate("env:MY_STORE")


def test_a_config_yaml_nearby_that_names_another_database_is_not_used(deployment: Deployment, tmp_path: Path) -> None:
    config = deployment("0.70.0")
    copy = tmp_path / "copy"
    shutil.copytree(config, copy)  # its config.yaml still names the original
    store = stores.locate(str(copy / "local_stores" / "default_zen_store" / "zenml.db"))
    assert store.config_yaml is None
    assert store.local_stores == copy / "local_stores"


def test_nothing_given_means_the_store_that_zenml_would_open(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = deployment("0.70.0")
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(config))
    assert stores.locate("") == stores.locate(str(config))
    (config / "config.yaml").unlink()
    found = stores.locate("")
    assert (found.path, found.config_yaml) == (config / "local_stores" / "default_zen_store" / "zenml.db", None)
    other = make(tmp_path / "other.db")
    monkeypatch.setenv("ZENML_STORE_URL", f"sqlite:///{other}")
    assert stores.locate("").path == other
    monkeypatch.delenv("ZENML_STORE_URL")
    monkeypatch.setenv("ZENML_LOCAL_STORES_PATH", str(tmp_path / "elsewhere"))
    with pytest.raises(StoreUnreadable, match="elsewhere"):
        stores.locate("")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mysql://someone:s3cr3tpw@host", "database"),
        ("https://someone:s3cr3tpw@host", "server"),
        ("sqlite:///relative.db", "four slashes"),
        ("postgresql://someone:s3cr3tpw@host/db", "cannot be used"),
        ("/no/such/zenml.db", "no such file"),
        ("/", "config directory"),
    ],
)
def test_what_cannot_be_a_store_is_said_without_secrets(given: str, message: str) -> None:
    with pytest.raises(KitError, match=message) as error:
        stores.locate(given)
    assert "s3cr3tpw" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("store: {type: rest, url: 'https://zen.example'}", "server's database"),
        ("store: {type: sql, url: 'mysql://u:s3cr3tpw@h'}", "database"),
        ("store: {type: sql}", "store.url"),
        ("password: [s3cr3tpw", "readable YAML"),
        ("", "key: value"),
        ("version: 0.70.0", "default_zen_store"),
    ],
)
def test_a_config_yaml_that_names_no_sqlite_store_is_explained(folder: Path, text: str, message: str) -> None:
    (folder / "config.yaml").write_text(text)
    with pytest.raises(KitError, match=message) as error:
        stores.locate(str(folder))
    assert "s3cr3tpw" not in str(error.value)
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_a_config_yaml_without_a_store_means_the_default_place(deployment: Deployment) -> None:
    config = deployment("0.70.0")
    values = yaml.safe_load((config / "config.yaml").read_text())
    del values["store"]
    (config / "config.yaml").write_text(yaml.safe_dump(values))
    assert stores.locate(str(config)).path == config / "local_stores" / "default_zen_store" / "zenml.db"


# --- reading without a trace


@pytest.fixture(params=["plain", "wal", "wal in use", "wal of a killed writer", "wal without index", "hot journal"])
def state(request: pytest.FixtureRequest, folder: Path) -> Iterator[Path]:
    """A database with 5 rows in every state that its files can be in."""
    path = make(folder / "zenml.db", wal="wal" in request.param)
    more = "INSERT INTO t (v) VALUES ('a'), ('b')"
    if request.param in ("plain", "wal", "hot journal"):
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(more)
    if request.param == "wal in use":
        writer = sqlite3.connect(path)
        with writer:
            writer.execute(more)
        yield path
        writer.close()
        return
    if request.param.startswith("wal "):
        killed(path, more)
    if request.param == "wal without index":
        (folder / "zenml.db-shm").unlink()
    if request.param == "hot journal":
        killed(path, "PRAGMA cache_size = 1", "BEGIN IMMEDIATE", "UPDATE t SET v = zeroblob(100000)", "DELETE FROM t")
        assert (folder / "zenml.db-journal").stat().st_size
    yield path


def test_every_committed_row_is_seen_and_nothing_is_left_behind(state: Path) -> None:
    before, digest = contents(state.parent), sqlite.digest(state)
    assert count(state) == 5
    with closing(sqlite.connect(state)) as connection:
        assert sqlite.damage(connection) == sqlite.damage(connection, full=True) == []
        with pytest.raises(sqlite3.OperationalError):
            connection.execute("INSERT INTO t (v) VALUES ('never')")
    assert contents(state.parent) == before
    assert sqlite.digest(state) == digest


def test_an_online_backup_holds_every_committed_row_in_one_file(state: Path, tmp_path: Path) -> None:
    before = contents(state.parent)
    (tmp_path / "copy").mkdir()
    copy = tmp_path / "copy" / "zenml.db"
    sqlite.online_backup(state, copy)
    assert [path.name for path in copy.parent.iterdir()] == ["zenml.db"]
    assert (sqlite.journal_mode(copy), copy.stat().st_mode & 0o777) == ("delete", 0o600)
    assert count(copy) == 5
    assert contents(state.parent) == before


def test_a_writer_goes_on_while_a_wal_database_is_read(folder: Path) -> None:
    path = make(folder / "zenml.db", wal=True)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("INSERT INTO t (v) VALUES ('first')")
        writer.commit()
        with closing(sqlite.connect(path)) as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 4
            writer.execute("INSERT INTO t (v) VALUES ('second')")
            writer.commit()
            assert reader.execute("SELECT COUNT(*) FROM t").fetchone()[0] == 4
        assert count(path) == 5


@pytest.mark.skipif(os.name == "nt", reason="permissions are those of Unix")
def test_a_read_only_folder_can_be_read() -> None:
    program = (
        "import os, sys, tempfile\nfrom pathlib import Path\nfrom zenml_upgrade_kit.stores import sqlite\n"
        "os.getuid() or os.setuid(65534)\n"  # permissions mean nothing to the superuser
        "print(sqlite.connect(Path(sys.argv[1])).execute('SELECT COUNT(*) FROM t').fetchone()[0])"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder, "zenml.db"), wal=True)
        path.chmod(0o444)
        path.parent.chmod(0o555)
        done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
        path.parent.chmod(0o755)
        assert done.stdout.strip() == "3", done.stderr
        assert [item.name for item in path.parent.iterdir()] == ["zenml.db"]


@pytest.mark.parametrize("data", [b"", b"not a database" * 100, b"SQLite format 3\0" + b"\xff" * 200])
def test_a_file_that_is_no_database_is_refused_and_kept(folder: Path, data: bytes) -> None:
    path = folder / "zenml.db"
    path.write_bytes(data)
    with pytest.raises(StoreUnreadable, match="cannot be read"):
        sqlite.connect(path)
    assert contents(folder) == {"zenml.db": hashlib.sha256(data).hexdigest()}


# --- what is in it


def test_a_fingerprint_tells_values_types_and_names_apart(folder: Path) -> None:
    values: list[object] = [None, 1, 1.0, "1", b"1", "", b"", "a\0b", "a", "1, 2", -1, 0]
    seen = set()
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v)")
        connection.execute("INSERT INTO t VALUES (1, NULL)")
        for value in values:
            connection.execute("UPDATE t SET v = ?", (value,))
            seen.add(sqlite.fingerprints(connection)["t"])
        connection.execute("ALTER TABLE t RENAME COLUMN v TO w")
        seen.add(sqlite.fingerprints(connection)["t"])
    assert len(seen) == len(values) + 1


def test_a_fingerprint_does_not_depend_on_where_the_rows_lie(folder: Path) -> None:
    def prints(name: str, rows: list[tuple[str, str]]) -> dict[str, str]:
        with closing(sqlite3.connect(folder / name)) as connection:
            connection.execute("CREATE TABLE keyed (id TEXT PRIMARY KEY, v)")
            connection.execute("CREATE TABLE plain (a, b)")
            connection.executemany("INSERT INTO keyed VALUES (?, ?)", rows)
            connection.executemany("INSERT INTO plain VALUES (?, ?)", rows)
            return sqlite.fingerprints(connection)

    rows = [("x", "1"), ("y", "2"), ("z", "3")]
    assert prints("one.db", rows) == prints("two.db", rows[::-1])
    assert prints("three.db", rows[:2])["plain"] != prints("four.db", rows)["plain"]


def test_rows_that_are_there_several_times_are_counted(folder: Path) -> None:
    seen = set()
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        connection.execute("CREATE TABLE t (a, b)")
        for _ in range(4):
            seen.add(sqlite.fingerprints(connection)["t"])
            connection.execute("INSERT INTO t VALUES (1, 'x')")
    assert len(seen) == 4


def test_a_fingerprint_tells_text_that_is_not_utf8_apart_as_well(folder: Path) -> None:
    seen = set()
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        connection.execute("CREATE TABLE t (v)")
        connection.execute("INSERT INTO t VALUES ('é'), (NULL)")
        for value in ("x'ff'", "x'fe'", "x'edb3bf'", "x'efbfbd'", "'\\xff'"):
            connection.execute(f"UPDATE t SET v = CAST({value} AS TEXT) WHERE v IS NOT 'é'")
            seen.add(sqlite.fingerprints(connection)["t"])
        connection.execute("UPDATE t SET v = x'ff' WHERE v IS NOT 'é'")
        seen.add(sqlite.fingerprints(connection)["t"])
        assert connection.text_factory is str
    assert len(seen) == 6


def test_a_fingerprint_is_the_same_in_every_python(folder: Path) -> None:
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        connection.execute("CREATE TABLE t (a, b, c)")
        connection.execute("INSERT INTO t VALUES (1, 'a', NULL), (-5000000000, 'é😀', 1.5), ('', x'00ff', '1')")
        assert sqlite.fingerprints(connection) == {"t": "5dfae70bf71812d710776f7a34f32e3d"}


@pytest.mark.parametrize("program", [sys.executable, "/no/such/python", shutil.which("false"), shutil.which("sleep")])
def test_contents_are_the_same_when_another_process_helps_or_fails_to(
    folder: Path, monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    path = make(folder / "zenml.db", rows=5000)
    with closing(sqlite3.connect(path)) as connection, connection:
        for name in ("user", "trigger", 'odd "name"\n é', "empty"):
            connection.execute(f"CREATE TABLE {sqlite.quoted(name)} (a, b)")
            connection.execute(f"INSERT INTO {sqlite.quoted(name)} SELECT v, CAST(x'ff' AS TEXT) FROM t")
        connection.execute("DELETE FROM empty")
    with closing(sqlite.connect(path)) as connection:
        alone = sqlite.contents(connection)
        monkeypatch.setattr(sqlite, "SHARED", 0)
        monkeypatch.setattr(sys, "executable", program)
        assert sqlite.contents(connection, copy=path) == alone
    assert (
        len({table["fingerprint"] for table in alone.values()}) == 3
    )  # that of t, of three alike, and of the empty one
    assert contents(folder) == {"zenml.db": hashlib.sha256(path.read_bytes()).hexdigest()}


def test_the_other_process_answers_with_the_same_fingerprints_without_the_kit(folder: Path) -> None:
    path = make(folder / "zenml ?.db")
    command = [sys.executable, "-I", "-S", rows.__file__, path.as_uri()]
    said = subprocess.run(command, input='"t"\n"t"\n', capture_output=True, text=True, check=True).stdout.split()
    with closing(sqlite.connect(path)) as connection:
        assert said == [sqlite.fingerprints(connection)["t"]] * 2


def test_a_fingerprint_holds_one_row_in_memory_at_a_time(folder: Path) -> None:
    size = 1 << 22
    with closing(sqlite3.connect(folder / "x.db")) as connection:
        connection.execute("CREATE TABLE t (v)")
        connection.executemany("INSERT INTO t VALUES (CAST(zeroblob(?) AS TEXT))", [(size,)] * 20)
        tracemalloc.start()
        sqlite.fingerprints(connection)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert size < peak < 6 * size


def test_the_digest_covers_rows_that_are_only_in_the_log(folder: Path) -> None:
    path = make(folder / "zenml.db", wal=True)
    with closing(sqlite3.connect(path)) as writer:
        before = sqlite.digest(path)
        writer.execute("INSERT INTO t (v) VALUES ('x')")
        writer.commit()
        assert sqlite.digest(path) != before


def test_missing_bytes_are_counted(folder: Path) -> None:
    path = make(folder / "zenml.db", rows=2000)
    assert sqlite.missing_bytes(path) == 0
    os.truncate(path, path.stat().st_size - 5000)
    assert sqlite.missing_bytes(path) == 5000
