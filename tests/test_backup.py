"""The backup: equal to a source that may be in use, and never taken for one when it is not whole."""

import base64
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import archive, backup, drill, plan
from zenml_upgrade_kit.archive import Backup, open_backup
from zenml_upgrade_kit.backup import back_up
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


def newest(run: Run) -> Backup:
    return open_backup(folder(run))


def own_folder(one: Backup) -> Path:
    assert one.place.local
    return one.place.local / one.name


def state(database: Path) -> tuple[str, list[str]]:
    return sqlite.digest(database), sorted(path.name for path in database.parent.iterdir())


def test_the_backup_is_equal_to_the_source_and_the_source_is_untouched(
    run: Run, config: Path, database: Path, tmp_path: Path
) -> None:
    before = state(database)
    result = take(run)
    assert result.status is Status.PASS
    assert sum(table["rows"] for table in result.facts["manifest"]["tables"].values()) > 100
    header = 100  # SQLite counts the copy as a change there
    copy = drill.unpack(newest(run), "database", tmp_path / "copy.db")
    assert copy.read_bytes()[header:] == database.read_bytes()[header:]
    settings = drill.unpack(newest(run), "config_yaml", tmp_path / "config.yaml")
    assert settings.read_bytes() == (config / "config.yaml").read_bytes()
    assert {path.stat().st_mode & 0o77 for path in [settings, *own_folder(newest(run)).rglob("*")]} == {0}
    assert state(database) == before


def test_the_manifest_says_what_is_in_the_backup_and_where_it_belongs(run: Run, config: Path, database: Path) -> None:
    manifest = take(run).facts["manifest"]
    assert manifest == json.loads((own_folder(newest(run)) / "manifest.json").read_text())
    assert (manifest["format"], manifest["source_version"], manifest["stamp"]) == (2, "0.70.0", "0.70.0")
    files = {file["role"]: file for file in manifest["files"]}
    assert files["database"]["restore_to"] == str(database)
    assert files["config_yaml"]["restore_to"] == str(config / "config.yaml")
    assert files["database"]["original_bytes"] == database.stat().st_size
    with closing(sqlite.connect(database)) as source:
        assert manifest["tables"] == sqlite.contents(source)


def test_the_backup_names_the_stacks_and_what_is_not_inside(run: Run, database: Path, tmp_path: Path) -> None:
    take(run)
    stacks = json.loads(drill.unpack(newest(run), "stacks", tmp_path / "stacks.json").read_text())
    components = {one["id"]: one for one in stacks["components"]}
    parts = [components[key] for key in stacks["stacks"]["default"]]
    assert {(one["type"], one["flavor"]) for one in parts} >= {("artifact_store", "local"), ("orchestrator", "local")}
    missing = newest(run).manifest["not_included"]
    with closing(sqlite.connect(database)) as source:
        versions = source.execute("SELECT COUNT(*) FROM artifact_version").fetchone()[0]
    assert any(line.startswith(f"files of {versions} artifact versions in the local store default") for line in missing)
    assert any(".zen" in line for line in missing)
    assert any("external secrets store" in line for line in missing)


def test_secrets_that_can_be_read_are_counted(run: Run, database: Path) -> None:
    """ZenML keeps base64 of JSON, or base64 of what its encryption key made of that."""
    plain, locked = base64.b64encode(b'{"key": "value"}'), base64.b64encode(b"\x8f\x00" * 20)
    with closing(sqlite3.connect(database)) as connection, connection:
        for name, value in (("a", plain), ("b", plain), ("c", locked)):
            connection.execute(
                'INSERT INTO secret (id, created, updated, name, scope, "values", workspace_id, user_id)'
                " SELECT ?, '', '', ?, 'user', ?, w.id, u.id FROM workspace AS w, user AS u",
                (name, name, value),
            )
    assert take(run).facts["manifest"]["secrets"] == {"readable": 2, "encrypted": 1}


def test_local_artifacts_and_the_zen_folder_come_along_when_asked(config: Path, tmp_path: Path) -> None:
    code = tmp_path / "project"
    (code / ".zen").mkdir(parents=True)
    (code / ".zen" / "config.yaml").write_text("active_stack_id: 1")
    values = {"store": str(config), "code": str(code), "out": str(tmp_path / "runs")}
    run = backup.start(plan.make({**values, "backup": {"place": str(tmp_path / "place"), "with_artifacts": True}}))
    assert take(run).status in (Status.PASS, Status.WARN)  # the disk may be the same
    made = open_backup(tmp_path / "place")
    names = {}
    for role in ("zen", "artifacts"):
        with tarfile.open(drill.unpack(made, role, tmp_path / f"{role}.tar")) as tar:
            names[role] = {f"/{member.name}" for member in tar if member.isfile()}
    assert names["zen"] == {str(code / ".zen" / "config.yaml")}
    stores = config / "local_stores"
    files = {str(path) for path in stores.rglob("*") if path.is_file() and "default_zen_store" not in path.parts}
    assert names["artifacts"] == files
    assert not [line for line in made.manifest["not_included"] if "artifact version" in line or ".zen" in line]


def test_a_store_without_a_config_yaml_can_be_backed_up(database: Path, config: Path, tmp_path: Path) -> None:
    (config / "config.yaml").unlink()
    made = plan.make({"store": str(database), "to": "0.98.0", "out": str(tmp_path / "runs")})
    run = Run.create(made, "0.70.0", "0.98.0")
    assert any(line.startswith("config.yaml") for line in take(run).facts["manifest"]["not_included"])
    with pytest.raises(BackupUnusable, match=r"no config\.yaml"):
        drill.unpack(newest(run), "config_yaml", tmp_path / "x")


def test_a_wal_store_in_use_is_backed_up_with_its_newest_rows(run: Run, database: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("INSERT INTO tag (id, name, color, created, updated) VALUES ('a', 'new', 'red', '', '')")
        writer.commit()
        assert sqlite.wal_bytes(database) > 0
        before = state(database)
        assert take(run).status is Status.PASS
        assert state(database) == before
    with closing(sqlite.connect(drill.unpack(newest(run), "database", tmp_path / "copy.db"))) as copy:
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

        def call(*arguments: Any, **named: Any) -> Any:
            value = original(*arguments, **named)
            with writer(database, mode, patience=0, times=1) as process:
                answer = process.communicate()[0]
            assert answer == "written\n" or "database is locked" in answer
            answers.append((name, answer == "written\n"))
            return value

        monkeypatch.setattr(sqlite, name, call)

    with closing(sqlite3.connect(database)) as connection:
        connection.execute(f"PRAGMA journal_mode = {mode}")
        for name in ("copy_from", "same_pages", "contents"):
            then_write(name)
        result = take(run)
    waited = [("copy_from", False), ("same_pages", False), ("contents", True)]
    free = [("copy_from", True), ("same_pages", True), ("contents", True), ("contents", True)]
    assert answers == (waited if mode == "delete" else free)
    assert result.status is Status.PASS
    assert result.facts["manifest"]["compared"].startswith("every byte" if mode == "delete" else "rows and contents")
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
    assert finding.data["problems"] == [f"table {name} differs from the source" for name in ("step_run", "user")]
    assert list(folder(run).iterdir()) == []


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
        with pytest.raises(BackupUnusable):
            newest(run)
        moment += 1
    first, moment = newest(run).name, 1
    while killed_at(moment, run) and newest(run).name == first:
        moment += 1
    assert moment > 10
    assert archive.verify(newest(run)) == []
    assert take(run).status is Status.PASS
    assert first in {one.name for one in archive.backups(newest(run).place)[0]}
    assert all((path / "manifest.json").exists() for path in folder(run).iterdir())


def test_a_drill_restores_the_backup_and_remembers_how_long_that_took(config: Path, tmp_path: Path) -> None:
    values = {"store": str(config), "out": str(tmp_path / "runs")}
    run = backup.start(plan.make({**values, "backup": {"place": str(tmp_path / "place"), "drill": True}}))
    verified = take(run).facts["verified"]
    assert verified["restored_into"] == "a temporary file"
    assert verified["restore_seconds"] > 0
    assert open_backup(tmp_path / "place").verified == verified


def test_a_drill_finds_what_the_hashes_cannot(run: Run) -> None:
    """A manifest whose fingerprints are not those of the data: as if the copy had been wrong from the start."""
    take(run)
    path = own_folder(newest(run)) / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tables"]["user"]["fingerprint"] = "0" * 32
    path.write_text(json.dumps({**manifest, "seal": archive._seal(manifest)}))
    assert archive.verify(newest(run)) == []
    assert drill.drill(newest(run)).problems == ("table user has other contents",)
    assert newest(run).verified["problem"] == "table user has other contents"


def test_the_backup_from_before_an_upgrade_is_never_replaced_by_one_from_after_it(run: Run, database: Path) -> None:
    take(run)
    before = newest(run).manifest
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0.98.0'")
    with pytest.raises(BackupUnusable, match="keeps it"):
        take(run)
    assert newest(run).manifest == before


def test_zenmls_own_leftover_backup_stays_where_it_is(run: Run, database: Path) -> None:
    leftover = database.with_name("zenml-backup.db")
    leftover.write_bytes(b"old")
    take(run)
    assert leftover.read_bytes() == b"old"


def test_a_full_disk_is_said_before_anything_is_copied(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 1000})())
    with pytest.raises(KitError, match="no room"):
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
