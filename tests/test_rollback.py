"""The rollback: a store that a newer ZenML migrated goes back, and the old release opens it."""

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from zenml_upgrade_kit import archive, backup, drill, plan, probing, upgrade
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import BackupUnusable, EnvironmentFailed, KitError, StoreUnreadable
from zenml_upgrade_kit.findings import Status, StepResult
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import sqlite

Deployment = Callable[..., Path]
Environments = Callable[[str], Environment]
OPEN = "from zenml.client import Client; print(Client().list_pipeline_runs(size=1).total, 'runs')"


class Site:
    """A deployment with a run that holds its backup."""

    def __init__(self, config: Path, version: str, out: Path, python: Path) -> None:
        self.config, self.database = config, config / "local_stores" / "default_zen_store" / "zenml.db"
        values = {"store": str(config), "to": "0.98.0", "out": str(out), "source_python": str(python)}
        self.run = Run.create(plan.make(values), version, "0.98.0", config / "config.yaml")
        assert backup.back_up(self.run.begin("20_backup")).status is Status.PASS
        saved = archive.open_backup(self.run.work / "20_backup")
        assert saved.place.local
        self.saved = saved.place.local / saved.name
        with drill.unpacked(saved) as copy:
            self.old = sqlite.digest(copy), (config / "config.yaml").read_bytes()

    def content(self) -> tuple[str, bytes]:
        return sqlite.digest(self.database), (self.config / "config.yaml").read_bytes()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.database.parent.iterdir())

    def roll_back(self, *, apply: bool) -> StepResult:
        return upgrade.roll_back(self.run.begin("90_rollback"), apply=apply)

    def open_with(self, environment: Environment) -> subprocess.CompletedProcess[str]:
        """What a user does: open the live store."""
        variables = {
            "ZENML_CONFIG_PATH": str(self.config),
            "ZENML_ANALYTICS_OPT_IN": "false",
            "HOME": str(self.config),
            "PATH": os.environ["PATH"],
        }
        command = [str(environment.python), "-c", OPEN]
        return subprocess.run(command, env=variables, cwd=self.config, capture_output=True, text=True)

    def spoil(self) -> None:
        """Another content, as an upgrade leaves it, without the time that one takes."""
        with closing(sqlite3.connect(self.database)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = '0.98.0'")
        (self.config / "config.yaml").write_text("version: 0.98.0\n")


@pytest.fixture
def site(deployment: Deployment, environment: Environments, tmp_path: Path) -> Callable[[str], Site]:
    return lambda version: Site(deployment(version), version, tmp_path / "runs", environment(version).python)


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the proof by the old release to the tests that are about it."""

    def none(*_: object, **__: object) -> Environment:
        raise EnvironmentFailed("left out", expected="", found="", remedy="")

    monkeypatch.setattr(upgrade, "_old_release", none)


@pytest.mark.parametrize("version", ["0.55.5", "0.70.0"])
def test_an_upgraded_store_goes_back_and_the_old_release_opens_it(
    site: Callable[[str], Site], environment: Environments, version: str
) -> None:
    own = site(version)
    assert own.open_with(environment("0.98.0")).returncode == 0  # which migrates it
    migrated = own.content()
    assert migrated[0] != own.old[0]
    assert own.open_with(environment(version)).returncode != 0

    result = own.roll_back(apply=True)

    assert result.status is Status.PASS, result.findings
    assert own.content() == own.old
    assert result.facts["proof"]["zenml"] == version
    assert result.facts["proof"]["stamp"] == version
    kept = [Path(path) for path in result.facts["kept"]]
    assert [sqlite.digest(kept[0]), kept[1].read_bytes()] == list(migrated)
    opened = own.open_with(environment(version))
    assert f"{result.facts['proof']['runs']} runs" in opened.stdout, opened.stderr


def test_looking_changes_nothing_and_says_what_would_be_done(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    own.spoil()
    before = own.content(), own.names()
    result = own.roll_back(apply=False)
    assert result.status is Status.PASS
    assert str(own.database) in result.facts["actions"][0]
    assert str(own.config / "config.yaml") in result.facts["actions"][1]
    assert (result.facts["kept"], result.facts["proof"]) == ([], {})
    assert (own.content(), own.names()) == before


@pytest.mark.usefixtures("unproven")
def test_a_stale_log_is_never_replayed_onto_the_restored_file(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    program = (
        "import os, sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('PRAGMA journal_mode = wal'); c.execute('UPDATE pipeline_run SET status = ?', ['stale'])\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(own.database)], check=False)
    assert sqlite.wal_bytes(own.database) > 0
    result = own.roll_back(apply=True)
    with closing(sqlite.connect(own.database)) as connection:
        statuses = {row["status"] for row in connection.execute("SELECT status FROM pipeline_run")}
    assert "stale" not in statuses
    assert own.content() == own.old
    with closing(sqlite3.connect(result.facts["kept"][0])) as kept:
        assert {row[0] for row in kept.execute("SELECT status FROM pipeline_run")} == {"stale"}


@pytest.mark.usefixtures("unproven")
def test_the_side_files_of_a_damaged_database_move_with_it(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    own.database.write_bytes(b"damaged")
    log = own.database.with_name("zenml.db-wal")
    log.write_bytes(b"what was in its log")
    result = own.roll_back(apply=True)
    assert own.content() == own.old
    assert not log.exists()
    assert {Path(path).read_bytes() for path in result.facts["kept"]} == {b"damaged", b"what was in its log"}
    assert [line for line in result.not_checked if "are lost by a rollback: file is not a database" in line]


@pytest.mark.usefixtures("unproven")
def test_a_second_rollback_finds_nothing_to_do(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    own.spoil()
    own.roll_back(apply=True)
    names = own.names()
    result = own.roll_back(apply=True)
    assert result.facts["actions"] == ["nothing: the backup is in place"]
    assert own.names() == names


@pytest.mark.usefixtures("unproven")
def test_a_rollback_that_was_killed_between_the_files_is_finished_by_the_next(
    site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = site("0.70.0")
    own.spoil()
    replace = Path.replace

    def die_before_the_config(self: Path, target: Path) -> Path:
        if target.name == "config.yaml":
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die_before_the_config)
        with pytest.raises(KeyboardInterrupt):
            own.roll_back(apply=True)
    assert own.content()[0] == own.old[0]
    assert own.content()[1] != own.old[1]
    result = own.roll_back(apply=True)
    assert own.content() == own.old
    assert [Path(path).name.split(".before")[0] for path in result.facts["kept"]] == ["config.yaml"]


def test_a_failure_leaves_the_live_files_and_no_rubbish(
    site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = site("0.70.0")
    own.spoil()
    before = own.content(), own.names()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", no_space)
        with pytest.raises(KitError, match="No space left"):
            own.roll_back(apply=True)
    assert (own.content(), own.names()) == before


@pytest.mark.parametrize("statements", [["BEGIN IMMEDIATE"], ["PRAGMA journal_mode = wal", "SELECT * FROM stack"]])
def test_a_store_in_use_is_not_replaced(site: Callable[[str], Site], statements: list[str]) -> None:
    """In WAL mode an open connection is enough to be noticed; otherwise only somebody who is writing is."""
    own = site("0.70.0")
    own.spoil()
    with closing(sqlite3.connect(own.database, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchall()
        before = own.content()
        with pytest.raises(StoreUnreadable, match="in use"):
            own.roll_back(apply=True)
        assert own.content() == before


@pytest.mark.parametrize("apply", [False, True])
def test_a_damaged_backup_is_never_restored(site: Callable[[str], Site], apply: bool) -> None:
    own = site("0.70.0")
    own.spoil()
    before = own.content()
    (own.saved / "zenml.db.zst").write_bytes(b"damaged")
    with pytest.raises(BackupUnusable):
        own.roll_back(apply=apply)
    assert own.content() == before


def test_runs_that_would_be_lost_are_told(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    with closing(sqlite3.connect(own.database)) as connection, connection:
        connection.execute(
            "UPDATE pipeline_run SET created = '2099-01-01 00:00:00' WHERE id = (SELECT MIN(id) FROM pipeline_run)"
        )
    result = own.roll_back(apply=False)
    (finding,) = result.findings
    assert (finding.id, result.status, finding.data["runs"]) == ("OP805", Status.WARN, 1)


@pytest.mark.usefixtures("unproven")
def test_a_restored_file_keeps_the_permissions_of_the_one_before(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    own.spoil()
    own.database.chmod(0o664)
    own.roll_back(apply=True)
    assert own.database.stat().st_mode & 0o777 == 0o664


@pytest.mark.usefixtures("unproven")
def test_a_store_that_is_gone_comes_back_and_the_missing_proof_is_told(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    shutil.rmtree(own.database.parent)
    (own.config / "config.yaml").unlink()
    result = own.roll_back(apply=True)
    assert own.content() == own.old
    assert result.status is Status.NOT_CHECKED
    assert "0.70.0 opens" in result.not_checked[0]


def test_what_was_replaced_is_told_when_the_restored_store_cannot_be_read_for_the_proof(
    site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(source: Path, _: Path) -> None:
        raise sqlite.unreadable(source, sqlite3.OperationalError("database is locked"))

    own = site("0.70.0")
    own.spoil()
    monkeypatch.setattr(sqlite, "online_backup", in_use)
    result = own.roll_back(apply=True)
    assert (result.status, len(result.facts["kept"])) == (Status.NOT_CHECKED, 2)
    assert "0.70.0 opens" in result.not_checked[0]


def test_an_old_release_that_lists_something_else_blocks(
    site: Callable[[str], Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    own = site("0.70.0")
    answer = {"zenml": "0.70.0", "user": "default", "runs": 0, "stacks": 1, "errors": {}}
    monkeypatch.setattr(probing, "run_probe", lambda *_, **__: dict(answer))
    result = own.roll_back(apply=True)
    assert [finding.id for finding in result.findings] == ["RB902"]
    assert "0 runs of" in result.findings[0].message


def test_a_restored_file_that_changes_at_once_blocks(site: Callable[[str], Site]) -> None:
    own = site("0.70.0")
    own.spoil()
    files = [(own.config / "config.yaml", own.database), (own.database, own.config / "config.yaml")]
    assert [finding.id for finding in upgrade.verify(files)] == ["RB901", "RB901"]
