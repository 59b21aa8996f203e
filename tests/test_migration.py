"""A migration of a copy by a real release: every revision timed, every way to fail told."""

import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import databases
import pytest

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.rehearsal import migration
from zenml_upgrade_kit.rehearsal.migration import Hop
from zenml_upgrade_kit.stores import mysql
from zenml_upgrade_kit.stores.address import Server

Environments = Callable[[str], Environment]
Deployment = Callable[..., Path]
SEVERAL_WORKSPACES = "3b1776345020"


@pytest.fixture
def copy(deployment: Deployment) -> Callable[[str], Path]:
    """A database file that a release filled."""
    return lambda version: deployment(version) / "local_stores" / "default_zen_store" / "zenml.db"


@pytest.fixture
def migrate(environment: Environments, tmp_path: Path) -> Callable[..., Hop]:
    def run(database: Path | Server, version: str, timeout: float = 300, python: Path | None = None) -> Hop:
        own = environment(version)
        file = f"sqlite:///{database}"
        return migration.migrate(
            replace(own, python=python) if python else own,
            database,
            folder=tmp_path / f"hop-{version}",
            variables={"ZENML_STORE_URL": databases.zenml_url(database) if isinstance(database, Server) else file},
            timeout=timeout,
        )

    return run


def on_the_way(source: str, target: str) -> list[str]:
    """Every revision between two releases, stamps included."""
    chain = [step for release in releases.all() for step in (*release.revisions, release.stamp)]
    return [step for step in dict.fromkeys(chain) if releases.crosses(source, target, step)]


@contextmanager
def other_process(*arguments: str) -> Iterator[int]:
    """The id of another Python that has done what it was told, and now waits."""
    with subprocess.Popen([sys.executable, "-c", *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield process.pid
        process.kill()


def script(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["#!/bin/bash", *lines, ""]))
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("source", "target"), [("0.43.0", "0.60.0"), ("0.55.5", "0.80.2"), ("0.43.0", "0.98.0"), ("0.70.0", "0.98.0")]
)
def test_every_revision_of_a_migration_is_timed(
    copy: Callable[[str], Path], migrate: Callable[..., Hop], source: str, target: str
) -> None:
    database = copy(source)
    hop = migrate(database, target)
    assert (hop.error, hop.stopped_at, hop.held_by, hop.timed_out) == (None, "", (), False)
    assert (hop.version, hop.started_at, hop.reached) == (target, source, target)
    assert [one.revision for one in hop.revisions] == on_the_way(source, target)
    assert {one.revision: one.release for one in hop.revisions}[target] == target
    assert 0 < sum(one.seconds for one in hop.revisions) < hop.seconds
    assert min(one.seconds for one in hop.revisions) >= 0
    assert 50 << 20 < hop.memory < 2 << 30
    assert hop.disk > 0
    assert not list(database.parent.glob("*backup*"))  # ours exists
    assert "Running upgrade" in Path(hop.log).read_text()
    assert json.loads(json.dumps(asdict(hop)))["revisions"][-1]["revision"] == target


def test_a_migration_on_a_server_is_timed_and_measured(
    mysql_store: Callable[..., Server], zenml_mariadb: Server, migrate: Callable[..., Hop]
) -> None:
    hop = migrate(mysql_store("0.55.5", zenml_mariadb), "0.98.0")
    assert (hop.error, hop.reached) == (None, "0.98.0")
    assert [one.revision for one in hop.revisions] == on_the_way("0.55.5", "0.98.0")
    assert hop.disk > 1 << 20


def test_the_revision_that_fails_is_named(copy: Callable[[str], Path], migrate: Callable[..., Hop]) -> None:
    database = copy("0.70.0")
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute(
            "INSERT INTO workspace (id, name, description, created, updated)"
            " SELECT lower(hex(randomblob(16))), 'second', '', created, updated FROM workspace"
        )
    hop = migrate(database, "0.98.0")
    assert hop.error
    assert "workspace" in hop.error["message"]
    assert "Traceback" in hop.error["traceback"]
    assert hop.stopped_at == SEVERAL_WORKSPACES
    assert [one.revision for one in hop.revisions] == on_the_way("0.70.0", hop.reached)
    assert (hop.held_by, hop.timed_out) == ((), False)


def test_a_file_that_somebody_writes_to_is_told_with_the_process(
    copy: Callable[[str], Path], migrate: Callable[..., Hop]
) -> None:
    database = copy("0.43.0")
    program = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE'); print('ready', flush=True); sys.stdin.read()"
    )
    with other_process(program, str(database)) as process:
        hop = migrate(database, "0.60.0")
    assert hop.error
    assert "database is locked" in hop.error["message"]
    assert len(hop.held_by) == 1
    assert hop.held_by[0].startswith(f"process {process} (")
    assert hop.held_by[0].endswith(f"has locked {database}")
    assert hop.reached == "0.43.0"


def test_a_migration_that_waits_for_a_session_ends_in_time_and_names_it(
    mysql_store: Callable[..., Server], zenml_mariadb: Server, migrate: Callable[..., Hop]
) -> None:
    store = mysql_store("0.70.0", zenml_mariadb)
    with closing(mysql.connect(store)) as other:
        mysql.begin(other)
        other.execute("SELECT * FROM artifact")
        (session,) = other.execute("SELECT CONNECTION_ID()")[0]
        hop = migrate(store, "0.98.0", timeout=25)
        waiting = databases.client(store, "SHOW PROCESSLIST")
    assert hop.error
    assert (hop.error["type"], hop.timed_out, bool(hop.stopped_at)) == ("timeout", True, True)
    assert any("Waiting for table metadata lock" in sentence for sentence in hop.held_by), hop.held_by
    assert any(sentence.startswith(f"session {session} of zenml") for sentence in hop.held_by), hop.held_by
    assert "metadata lock" not in waiting  # the killed client's statement went, too
    assert hop.seconds < 40
    assert databases.PASSWORD not in json.dumps(asdict(hop))


def test_a_server_that_goes_away_ends_the_hop_not_the_caller(
    mysql_store: Callable[..., Server], migrate: Callable[..., Hop], tmp_path: Path
) -> None:
    with databases.for_zenml() as own:
        store = mysql_store("0.70.0", own)
        progress = tmp_path / "hop-0.98.0" / "migrate.progress"

        def shut_down() -> None:
            until = time.monotonic() + 120
            while time.monotonic() < until and not (progress.exists() and "revision" in progress.read_text()):
                time.sleep(0.02)
            databases.client(own, "SHUTDOWN")

        thread = threading.Thread(target=shut_down)
        thread.start()
        hop = migrate(store, "0.98.0")
        thread.join()
    assert hop.error
    assert "server" in hop.error["message"].lower(), hop.error
    assert (hop.started_at, hop.reached, hop.timed_out) == ("0.70.0", "", False)
    assert hop.stopped_at
    assert databases.PASSWORD not in json.dumps(asdict(hop))


def test_a_full_disk_is_an_error_of_the_hop(
    copy: Callable[[str], Path], migrate: Callable[..., Hop], environment: Environments, tmp_path: Path
) -> None:
    database = copy("0.70.0")
    room = database.stat().st_size // 1024 + 20
    python = script(tmp_path / "python", f"ulimit -f {room}", f'exec {environment("0.98.0").python} "$@"')
    hop = migrate(database, "0.98.0", python=python)
    assert hop.error
    assert "disk" in hop.error["message"]
    assert hop.stopped_at


def test_a_process_that_is_killed_is_told_with_its_signal(
    copy: Callable[[str], Path], migrate: Callable[..., Hop], tmp_path: Path
) -> None:
    hop = migrate(copy("0.70.0"), "0.98.0", python=script(tmp_path / "python", "echo out of memory", "kill -9 $$"))
    assert hop.error
    assert (hop.error["type"], hop.timed_out, hop.revisions) == ("killed", False, ())
    assert "signal 9" in hop.error["message"]
    assert "out of memory" in hop.error["traceback"]


def test_a_password_in_what_zenml_says_is_not_repeated(
    zenml_mariadb: Server, migrate: Callable[..., Hop], tmp_path: Path
) -> None:
    said = databases.zenml_url(zenml_mariadb.using("nowhere"))
    hop = migrate(
        zenml_mariadb.using("nowhere"),
        "0.98.0",
        python=script(tmp_path / "python", f"echo 'cannot open {said} with {databases.PASSWORD}'", "exit 3"),
    )
    assert hop.error
    assert "cannot open mysql://zenml:[redacted]@127.0.0.1" in hop.error["traceback"]
    assert databases.PASSWORD not in json.dumps(asdict(hop))


def test_a_database_that_is_left_as_it_was_is_no_success(
    copy: Callable[[str], Path], migrate: Callable[..., Hop], tmp_path: Path
) -> None:
    python = script(tmp_path / "python", """echo '{"seconds": 1, "memory": 1, "events": []}' > "${@: -1}" """)
    for database, found in ((copy("0.70.0"), "0.70.0"), (tmp_path / "gone.db", "a stamp that cannot be read")):
        hop = migrate(database, "0.98.0", python=python)
        assert hop.error
        assert hop.error["message"] == f"the database is at {found}, not at 0.98.0"


def test_a_folder_that_cannot_be_written_to_is_an_error_of_the_hop(
    copy: Callable[[str], Path], migrate: Callable[..., Hop], tmp_path: Path
) -> None:
    (tmp_path / "hop-0.98.0").write_text("a file")
    hop = migrate(copy("0.70.0"), "0.98.0")
    assert hop.error
    assert hop.error["type"] == "OSError"
