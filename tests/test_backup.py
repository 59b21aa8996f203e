"""The backup: equal to a source that may be in use, and never taken for one when it is not whole."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import plan
from zenml_upgrade_kit.backup import back_up, open_backup
from zenml_upgrade_kit.errors import BackupUnusable, KitError
from zenml_upgrade_kit.findings import Status, StepResult
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import locate, sqlite

Deployment = Callable[..., Path]


@pytest.fixture
def config(deployment: Deployment) -> Path:
    return deployment("0.70.0")


@pytest.fixture
def database(config: Path) -> Path:
    return config / "local_stores" / "default_zen_store" / "zenml.db"


@pytest.fixture
def run(config: Path, tmp_path: Path) -> Run:
    made = plan.make({"store": str(config), "to": "0.98.0", "out": str(tmp_path / "runs")})
    return Run.create(made, "0.70.0", "0.98.0", config / "config.yaml")


def take(run: Run) -> StepResult:
    return back_up(run.begin("20_backup"))


def folder(run: Run) -> Path:
    return run.work / "20_backup"


def newest(run: Run) -> Path:
    return max(path for path in folder(run).iterdir() if path.is_dir())


def state(database: Path) -> tuple[str, list[str]]:
    return sqlite.digest(database), sorted(path.name for path in database.parent.iterdir())


def test_the_backup_is_equal_to_the_source_and_the_source_is_untouched(run: Run, config: Path, database: Path) -> None:
    before = state(database)
    result = take(run)
    assert result.status is Status.PASS
    assert result.facts["verified"]["rows_compared"] > 100
    assert any("artifact files" in line for line in result.facts["not_included"])
    whole = open_backup(folder(run))
    header = 100  # SQLite counts the copy as a change there
    assert whole.database.read_bytes()[header:] == database.read_bytes()[header:]
    assert whole.config_yaml is not None
    assert whole.config_yaml.read_bytes() == (config / "config.yaml").read_bytes()
    assert {path.name: path.stat().st_mode & 0o777 for path in whole.folder.iterdir()} == {
        "zenml.db": 0o600,
        "config.yaml": 0o600,
        "manifest.json": 0o644,
    }
    assert state(database) == before


def test_the_manifest_says_what_is_in_the_backup_and_where_it_belongs(run: Run, config: Path, database: Path) -> None:
    manifest = take(run).facts["manifest"]
    assert manifest == json.loads((newest(run) / "manifest.json").read_text())
    assert (manifest["format"], manifest["source_version"], manifest["stamp"]) == (1, "0.70.0", "0.70.0")
    assert manifest["database"]["restore_to"] == str(database)
    assert manifest["config_yaml"]["restore_to"] == str(config / "config.yaml")
    assert manifest["database"]["bytes"] == database.stat().st_size
    with closing(sqlite.connect(database)) as source:
        rows, prints = sqlite.counts(source), sqlite.fingerprints(source)
    assert {name: (t["rows"], t["fingerprint"]) for name, t in manifest["tables"].items()} == {
        name: (rows[name], prints[name]) for name in rows
    }


def test_a_store_without_a_config_yaml_can_be_backed_up(database: Path, config: Path, tmp_path: Path) -> None:
    (config / "config.yaml").unlink()
    made = plan.make({"store": str(database), "to": "0.98.0", "out": str(tmp_path / "runs")})
    run = Run.create(made, "0.70.0", "0.98.0")
    assert take(run).facts["manifest"]["config_yaml"] is None
    assert open_backup(folder(run)).config_yaml is None


def test_a_wal_store_in_use_is_backed_up_with_its_newest_rows(run: Run, database: Path) -> None:
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("INSERT INTO tag (id, name, color, created, updated) VALUES ('a', 'new', 'red', '', '')")
        writer.commit()
        assert sqlite.wal_bytes(database) > 0
        before = state(database)
        assert take(run).status is Status.PASS
        assert state(database) == before
    assert sorted(path.name for path in newest(run).iterdir()) == ["config.yaml", "manifest.json", "zenml.db"]
    with closing(sqlite.connect(newest(run) / "zenml.db")) as copy:
        assert [row["name"] for row in copy.execute("SELECT name FROM tag")] == ["new"]


WRITER = """
import sqlite3, sys, time
path, mode, patience, times = sys.argv[1:]
c = sqlite3.connect(path, timeout=float(patience), isolation_level=None)
c.execute("PRAGMA journal_mode = " + mode)
for _ in range(int(times)):
    c.execute("INSERT INTO tag (id, name, color, created, updated) VALUES (hex(randomblob(9)), '', 'red', '', '')")
    print("written", flush=True)
    time.sleep(0.005)
"""


def writer(database: Path, mode: str, *, patience: float, times: int) -> subprocess.Popen[str]:
    """Another process that writes to the store; it prints a line for every row, and the error it ended with."""
    command = [sys.executable, "-c", WRITER, str(database), mode, str(patience), str(times)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_somebody_who_writes_meanwhile_makes_no_difference(run: Run, database: Path, mode: str) -> None:
    with writer(database, mode, patience=30, times=100_000) as process:
        assert process.stdout
        assert process.stdout.readline() == "written\n"
        results = [take(run) for _ in range(5)]
        process.kill()
        written = 1 + process.stdout.read().count("written\n")
    assert {result.status for result in results} == {Status.PASS}
    rows = [result.facts["manifest"]["tables"]["tag"]["rows"] for result in results]
    assert rows == sorted(rows)
    assert 1 <= rows[0] <= rows[-1] <= written + 1


@pytest.mark.parametrize("mode", ["wal", "delete"])
def test_a_writer_waits_for_the_copy_and_its_comparison_only(
    run: Run, database: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each part of the work somebody without patience tries to write."""
    answers: list[tuple[str, bool]] = []

    def then_write(name: str) -> None:
        original = getattr(sqlite, name)

        def call(*arguments: Any) -> Any:
            value = original(*arguments)
            with writer(database, mode, patience=0, times=1) as process:
                answer = process.communicate()[0]
            assert answer == "written\n" or "database is locked" in answer
            answers.append((name, answer == "written\n"))
            return value

        monkeypatch.setattr(sqlite, name, call)

    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        for name in ("copy_from", "same_pages", "fingerprints"):
            then_write(name)
        result = take(run)
    waited = [("copy_from", False), ("same_pages", False), ("fingerprints", True)]
    free = [("copy_from", True), ("same_pages", True), ("fingerprints", True), ("fingerprints", True)]
    assert answers == (waited if mode == "delete" else free)
    assert result.status is Status.PASS
    assert result.facts["verified"]["compared"].startswith("every byte" if mode == "delete" else "rows and contents")
    assert result.facts["manifest"]["tables"]["tag"]["rows"] == 0


def test_a_copy_that_differs_blocks_and_gets_no_manifest(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_copy = sqlite.copy_from

    def forgetful(connection: sqlite3.Connection, target: Path) -> None:
        whole_copy(connection, target)
        with closing(sqlite3.connect(target)) as copy, copy:
            copy.execute("DELETE FROM step_run WHERE id = (SELECT MIN(id) FROM step_run)")
            copy.execute("UPDATE user SET full_name = 'changed'")

    monkeypatch.setattr(sqlite, "copy_from", forgetful)
    result = take(run)
    (finding,) = result.findings
    assert (finding.id, result.status) == ("BK302", Status.BLOCK)
    assert set(finding.data["tables"]) == {"step_run", "user"}
    with pytest.raises(BackupUnusable, match="no backup was finished"):
        open_backup(folder(run))


def killed_at(moment: int, run: Run) -> bool:
    """Back up in a process that is killed at its nth look at, or change to, the folder of backups; False: it ended."""
    if not (child := os.fork()):
        left = moment

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if any("20_backup" in str(argument) for argument in arguments):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        take(run)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_backup_that_is_killed_at_any_moment_costs_neither_the_one_before_nor_the_next(run: Run) -> None:
    moment = 1
    while killed_at(moment, run) and not list(folder(run).glob("*/manifest.json")):
        with pytest.raises(BackupUnusable, match="no backup was finished"):
            open_backup(folder(run))
        moment += 1
    first, moment = open_backup(folder(run)).folder, 1
    while killed_at(moment, run) and open_backup(folder(run)).folder == first:
        moment += 1
    assert moment > 10
    assert open_backup(folder(run)).folder.name.startswith("002-")
    assert take(run).status is Status.PASS
    held = sorted(folder(run).iterdir())
    assert (held[0], open_backup(folder(run)).folder) == (first, held[2])


@pytest.mark.parametrize("name", ["zenml.db", "config.yaml"])
@pytest.mark.parametrize("harm", ["flipped byte", "cut", "gone"])
def test_a_backup_whose_file_changed_is_refused(run: Run, name: str, harm: str) -> None:
    take(run)
    path = newest(run) / name
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data if harm == "flipped byte" else data[:-1])
    with pytest.raises(BackupUnusable, match=name):
        open_backup(folder(run))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 2}'])
def test_a_manifest_that_says_nothing_usable_is_refused(run: Run, text: str) -> None:
    take(run)
    (newest(run) / "manifest.json").write_text(text)
    with pytest.raises(BackupUnusable):
        open_backup(folder(run))


def test_the_backup_from_before_an_upgrade_is_never_replaced_by_one_from_after_it(run: Run, database: Path) -> None:
    take(run)
    before = (newest(run) / "zenml.db").read_bytes()
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0.98.0'")
    with pytest.raises(BackupUnusable, match="keeps it"):
        take(run)
    assert open_backup(folder(run)).database.read_bytes() == before


def test_zenmls_own_leftover_backup_stays_where_it_is(run: Run, database: Path) -> None:
    leftover = database.with_name("zenml-backup.db")
    leftover.write_bytes(b"old")
    take(run)
    assert leftover.read_bytes() == b"old"


def test_a_full_disk_is_said_before_anything_is_copied(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(BackupUnusable, match="no room"):
        take(run)
    assert list(folder(run).iterdir()) == []


def test_a_damaged_source_is_an_error_and_no_backup(run: Run, database: Path) -> None:
    data = bytearray(database.read_bytes())
    data[len(data) // 2 :] = b"\xff" * (len(data) - len(data) // 2)
    database.write_bytes(data)
    with pytest.raises(KitError):
        take(run)
    with pytest.raises(BackupUnusable):
        open_backup(folder(run))
    assert locate(str(database)).path == database
