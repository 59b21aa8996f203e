"""A migration of a 0.55.5 database on MariaDB that fails, and what ZenML's own backup then restores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from databases import client, zenml_url

from zenml_upgrade_kit.probing import Environment, run_command
from zenml_upgrade_kit.stores.mysql import Server


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


def test_zenml_itself_leaves_three_tables(
    mysql_store: Callable[..., Server],
    zenml_mariadb: Server,
    environment: Callable[[str], Environment],
    tmp_path: Path,
) -> None:
    store = mysql_store("0.55.5", on=zenml_mariadb)
    assert len(client(store, "SHOW TABLES").split()) == 37
    fail_to_migrate(store, environment("0.98.0"), tmp_path)
    assert client(store, "SHOW TABLES").split() == ["alembic_version", "artifact", "identity"]
