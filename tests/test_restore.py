"""Restoring: beside what is there, verified, then switched to; a failure leaves the old content in place."""

import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from zenml_upgrade_kit import archive, backup, places, restore
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.choices import BackupChoices
from zenml_upgrade_kit.errors import BackupUnusable, BadPlan, KitError, RestoreRefused, StoreUnreadable
from zenml_upgrade_kit.stores import Store, locate, mysql, scratch, sqlite
from zenml_upgrade_kit.stores.address import Server

Deployment = Callable[..., Path]
OldStore = Callable[..., Server]


def made(store: Store, place: Path, **choices: object) -> Backup:
    return backup.make(store, places.open_place(str(place)), BackupChoices.model_validate(choices))


def file_contents(path: Path) -> object:
    with closing(sqlite.connect(path)) as connection:
        return sqlite.contents(connection)


def server_contents(server: Server) -> tuple[object, object]:
    with closing(mysql.connect(server)) as connection:
        return mysql.contents([connection]), mysql.definitions(connection)


def on(server: Server, *statements: str) -> None:
    with closing(mysql.connect(server, write=True)) as connection:
        for statement in statements:
            connection.execute(statement)


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# SQLite


@pytest.fixture
def config(deployment: Deployment) -> Path:
    return deployment("0.70.0")


@pytest.fixture
def database(config: Path) -> Path:
    return config / "local_stores" / "default_zen_store" / "zenml.db"


def spoil(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("DELETE FROM step_run_output_artifact")
        connection.execute("UPDATE alembic_version SET version_num = '0.98.0'")


def test_a_backup_goes_into_a_new_file(config: Path, database: Path, tmp_path: Path) -> None:
    whole = made(locate(str(config)), tmp_path / "place")
    done = restore.restore(whole, str(tmp_path / "new" / "zenml.db"))
    assert file_contents(tmp_path / "new" / "zenml.db") == file_contents(database)
    assert done.opens_with == "0.70.0"
    assert done.kept == []
    assert names(tmp_path / "new") == ["zenml.db"]


def test_what_is_there_is_replaced_on_request_only(config: Path, database: Path, tmp_path: Path) -> None:
    whole, before = made(locate(str(config)), tmp_path / "place"), file_contents(database)
    spoil(database)
    spoilt = file_contents(database)
    with pytest.raises(RestoreRefused, match="not empty"):
        restore.restore(whole, str(database))
    assert file_contents(database) == spoilt

    done = restore.restore(whole, str(database), replace=True)

    assert file_contents(database) == before
    assert file_contents(Path(done.kept[0])) == spoilt
    saved = archive.open_backup(f"{whole.place.url}/{restore.APART}")
    assert saved.manifest["tables"] == spoilt, "what was there was backed up first"
    assert saved.where in done.actions[0]
    assert archive.open_backup(whole.place.url).name == whole.name, "the newest backup is still the one that was meant"


def test_the_config_comes_back_on_request(config: Path, database: Path, tmp_path: Path) -> None:
    whole, settings = made(locate(str(config)), tmp_path / "place"), (config / "config.yaml").read_bytes()
    (config / "config.yaml").write_text("version: 0.98.0\n")
    restore.restore(whole, str(config / "local_stores" / "default_zen_store" / "zenml.db"), replace=True)
    assert (config / "config.yaml").read_text() == "version: 0.98.0\n"
    done = restore.restore(whole, f"sqlite:///{database}", replace=True, config=True)
    assert (config / "config.yaml").read_bytes() == settings
    assert [Path(kept).read_text() for kept in done.kept if "config" in Path(kept).name] == ["version: 0.98.0\n"]


def test_a_config_that_goes_elsewhere_names_the_database_there(config: Path, tmp_path: Path) -> None:
    """Otherwise a ZenML that uses the copy would write to the original."""
    whole, other = made(locate(str(config)), tmp_path / "place"), tmp_path / "other"
    other.mkdir()
    restore.restore(whole, str(other), config=True)
    path = other / "local_stores" / "default_zen_store" / "zenml.db"
    assert yaml.safe_load((other / "config.yaml").read_text())["store"]["url"] == f"sqlite:///{path}"
    assert locate(str(other)).path == path
    with pytest.raises(RestoreRefused, match="not clear where"):
        restore.restore(whole, str(tmp_path / "alone.db"), config=True)
    assert not (tmp_path / "alone.db").exists()


@pytest.mark.parametrize("statements", [["BEGIN IMMEDIATE"], ["PRAGMA journal_mode = wal", "SELECT * FROM stack"]])
def test_a_file_in_use_is_not_replaced(config: Path, database: Path, tmp_path: Path, statements: list[str]) -> None:
    whole = made(locate(str(config)), tmp_path / "place")
    spoil(database)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        for statement in statements:
            other.execute(statement).fetchall()
        with pytest.raises(StoreUnreadable, match="in use"):
            restore.restore(whole, str(database), replace=True)
    with closing(sqlite.connect(database)) as connection:
        assert sqlite.stamps(connection) == ["0.98.0"]


@pytest.mark.parametrize("part", ["all", "pages"])
def test_a_damaged_file_is_kept_although_it_cannot_be_backed_up(
    config: Path, database: Path, tmp_path: Path, part: str
) -> None:
    whole, before = made(locate(str(config)), tmp_path / "place"), file_contents(database)
    whole_bytes = database.read_bytes()
    half = len(whole_bytes) // 2
    damaged = b"damaged" if part == "all" else whole_bytes[:half] + b"\xff" * (len(whole_bytes) - half)
    database.write_bytes(damaged)
    done = restore.restore(whole, str(database), replace=True)
    assert file_contents(database) == before
    assert Path(done.kept[0]).read_bytes() == damaged
    assert "could not be backed up" in done.notes[0]


def test_a_flipped_byte_in_any_file_stops_the_restore(config: Path, database: Path, tmp_path: Path) -> None:
    whole = made(locate(str(config)), tmp_path / "place")
    spoil(database)
    spoilt = file_contents(database)
    assert whole.place.local
    for file in whole.files():
        path = whole.place.local / whole.name / file["name"]
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with pytest.raises(BackupUnusable, match=file["name"]):
            restore.restore(whole, str(database), replace=True)
        path.write_bytes(good)
    assert file_contents(database) == spoilt


def killed_at(moment: int, whole: Backup, database: Path) -> bool:
    """Restore in a process that is killed at its nth change beside the database; False: it ended."""
    if not (child := os.fork()):
        left = moment

        def count(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            if event in ("open", "os.rename", "os.link", "os.remove") and str(database.parent) in str(arguments):
                left -= 1
                if not left:
                    os.kill(os.getpid(), signal.SIGKILL)

        import sys

        sys.addaudithook(count)
        restore.restore(whole, str(database), replace=True)
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_content(config: Path, database: Path, tmp_path: Path) -> None:
    whole, before = made(locate(str(config)), tmp_path / "place"), file_contents(database)
    spoil(database)
    spoilt, moment = file_contents(database), 1
    while killed_at(moment, whole, database):
        assert file_contents(database) in (before, spoilt), moment
        moment += 1
    assert moment > 10
    assert file_contents(database) == before


def test_a_backup_goes_back_into_its_own_kind_of_database(config: Path, tmp_path: Path) -> None:
    whole = made(locate(str(config)), tmp_path / "place")
    with pytest.raises(RestoreRefused, match="kind of database"):
        restore.restore(whole, "mysql://root@localhost/zenml")
    with pytest.raises(BadPlan):
        restore.restore(whole, "")


def test_an_encrypted_backup_needs_its_key_and_saves_what_is_there_encrypted(
    config: Path, database: Path, tmp_path: Path
) -> None:
    pyrage = pytest.importorskip("pyrage")
    key = pyrage.x25519.Identity.generate()
    (tmp_path / "key").write_text(str(key))
    whole = made(locate(str(config)), tmp_path / "place", encrypt_to=[str(key.to_public())])
    before = file_contents(database)
    spoil(database)
    with pytest.raises(KitError, match=r"key|identity"):
        restore.restore(whole, str(database), replace=True)
    restore.restore(whole, str(database), replace=True, identity=tmp_path / "key")
    assert file_contents(database) == before
    assert archive.open_backup(f"{whole.place.url}/{restore.APART}").manifest["encrypted_to"]


# MySQL and MariaDB


@pytest.mark.parametrize("tool", ["mydumper", "mariadb-dump"])
@pytest.mark.parametrize("version", ["0.55.5", "0.60.0", "0.70.0", "0.80.2", "0.98.0"])
def test_a_server_store_comes_back_as_it_was(mysql_store: OldStore, tmp_path: Path, version: str, tool: str) -> None:
    server = mysql_store(version)
    before = server_contents(server)
    whole = made(Store(server=server, config_yaml=None, local_stores=Path()), tmp_path / "place", tool=tool)
    assert (whole.manifest["stamp"], whole.manifest["source_version"]) == (version, version)
    assert whole.manifest["tool"].startswith(tool)
    assert whole.manifest["unsettled"] == []
    on(server, "SET foreign_key_checks = 0", "DROP TABLE pipeline_run", 'DELETE FROM "user"')
    spoilt = server_contents(server)
    with pytest.raises(RestoreRefused, match="not empty"):
        restore.restore(whole, url(server))
    assert server_contents(server) == spoilt

    done = restore.restore(whole, url(server), replace=True)

    assert server_contents(server) == before
    kept = server.using(done.kept[0].removeprefix("schema "))
    with closing(mysql.connect(kept)) as connection:
        assert mysql.contents([connection]) == spoilt[0]
        abroad = connection.execute(
            "SELECT TABLE_NAME FROM information_schema.KEY_COLUMN_USAGE"
            " WHERE TABLE_SCHEMA = %s AND REFERENCED_TABLE_SCHEMA <> TABLE_SCHEMA",
            (kept.database,),
        )
    assert abroad == [], "what is kept must not hold on to tables of the store"
    assert scratch.leftovers(server) == []


def url(server: Server) -> str:
    return f"mysql://{server.user}@localhost/{server.database}?unix_socket={server.socket}"


def test_a_server_store_goes_into_a_schema_that_is_not_there_yet(mysql_store: OldStore, tmp_path: Path) -> None:
    server = mysql_store("0.70.0")
    on(server, f"ALTER DATABASE {server.database} CHARACTER SET latin1 COLLATE latin1_swedish_ci")
    whole = made(Store(server=server, config_yaml=None, local_stores=Path()), tmp_path / "place")
    other = server.using(f"{server.database}_new")
    restore.restore(whole, url(other))
    assert server_contents(other) == server_contents(server)
    with closing(mysql.connect(other)) as connection:
        facts = mysql.facts(connection)
    assert (facts["charset"], facts["collation"]) == ("latin1", "latin1_swedish_ci")


def test_a_server_store_in_use_is_not_replaced(mysql_store: OldStore, tmp_path: Path) -> None:
    server = mysql_store("0.70.0")
    whole = made(Store(server=server, config_yaml=None, local_stores=Path()), tmp_path / "place")
    before = server_contents(server)
    with closing(mysql.connect(server, write=True)), pytest.raises(RestoreRefused, match="in use"):
        restore.restore(whole, url(server), replace=True)
    assert server_contents(server) == before
    assert scratch.leftovers(server) == []


def test_a_collation_that_the_server_does_not_know_is_named_before_anything_happens(
    mysql_store: OldStore, tmp_path: Path
) -> None:
    server = mysql_store("0.70.0")
    whole = made(Store(server=server, config_yaml=None, local_stores=Path()), tmp_path / "place")
    facts = {**whole.manifest["server"], "flavour": "MySQL", "version": "9.7.4", "collations": ["utf8mb4_klingon_ci"]}
    foreign = Backup(place=whole.place, name=whole.name, manifest={**whole.manifest, "server": facts})
    before = server_contents(server)
    with pytest.raises(KitError, match="utf8mb4_klingon_ci"):
        restore.restore(foreign, url(server), replace=True)
    assert server_contents(server) == before


def test_a_restore_that_comes_out_different_is_not_switched_to(mysql_store: OldStore, tmp_path: Path) -> None:
    server = mysql_store("0.70.0")
    whole = made(Store(server=server, config_yaml=None, local_stores=Path()), tmp_path / "place")
    tables = {**whole.manifest["tables"], "user": {"rows": 77, "fingerprint": None}}
    wrong = Backup(place=whole.place, name=whole.name, manifest={**whole.manifest, "tables": tables})
    before = server_contents(server)
    with pytest.raises(RestoreRefused, match="not switched to"):
        restore.restore(wrong, url(server), replace=True)
    assert server_contents(server) == before
    assert scratch.leftovers(server) == []
