"""A migration of a 0.55.5 database on MariaDB that fails: what ZenML's own backup then restores, and what ours does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from databases import client, zenml_url

from zenml_upgrade_kit import backup, places, restore
from zenml_upgrade_kit.choices import BackupChoices
from zenml_upgrade_kit.probing import Environment, run_command
from zenml_upgrade_kit.stores import Store, mysql
from zenml_upgrade_kit.stores.address import Server

OPEN = "from zenml.client import Client; print(Client().list_pipeline_runs(size=1).total, 'runs')"


def held(server: Server) -> tuple[dict[str, Any], dict[str, str]]:
    """Rows and contents of every table, and the definitions."""
    with closing(mysql.connect(server)) as connection:
        return mysql.contents([connection]), mysql.definitions(connection)


def fail_to_migrate(store: Server, environment: Environment, folder: Path) -> None:
    """Let a newer release open a store with a second workspace, as any of its commands does: it refuses half way."""
    client(store, "INSERT INTO workspace SELECT REPLACE(UUID(), '-', ''), created, updated, 'b', '' FROM workspace")
    ended = run_command(
        environment,
        [str(environment.python), "-c", "from zenml.client import Client; Client().active_user"],
        folder=folder,
        variables={"ZENML_STORE_TYPE": "sql", "ZENML_STORE_URL": zenml_url(store)},
        timeout=600,
    )
    assert ended.returncode == 1
    assert "The database migration failed" in ended.last_lines()
    assert "more than just the default workspace" in ended.last_lines().replace("\n", "")


def test_zenml_itself_leaves_three_tables_and_our_restore_brings_all_back(
    mysql_store: Callable[..., Server],
    zenml_mariadb: Server,
    environment: Callable[[str], Environment],
    tmp_path: Path,
) -> None:
    server = mysql_store("0.55.5", on=zenml_mariadb)
    store = Store(server=server, config_yaml=None, local_stores=Path())
    before = held(server)
    assert len(before[0]) == 37
    saved = backup.make(store, places.open_place(str(tmp_path / "place")), BackupChoices())

    fail_to_migrate(server, environment("0.98.0"), tmp_path)
    assert client(server, "SHOW TABLES").split() == ["alembic_version", "artifact", "identity"]

    restore.restore(saved, zenml_url(server), replace=True)
    assert held(server) == before
    opened = run_command(
        environment("0.55.5"),
        [str(environment("0.55.5").python), "-c", OPEN],
        folder=tmp_path,
        variables={"ZENML_STORE_TYPE": "sql", "ZENML_STORE_URL": zenml_url(server)},
        timeout=600,
    )
    runs = client(server, "SELECT COUNT(*) FROM pipeline_run")
    assert f"{runs} runs" in opened.last_lines(), opened.last_lines()
