"""The store that the benches run on: of the promised shape, and one that ZenML could have written."""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import databases
import pytest

from zenml_upgrade_kit.stores.address import Server

sys.path.append(str(Path(__file__).parent / "bench"))

import make_store

SCALE = 0.001
COUNTS = {"pipeline_run": 5 * 5, "step_run": 14 * 15, "artifact_version": 18 * 18, "run_metadata": 45 * 12}


def test_a_big_sqlite_store_has_the_promised_shape_and_keys_that_hold(tmp_path: Path) -> None:
    with closing(sqlite3.connect(make_store.sqlite_store(tmp_path / "big.db", SCALE))) as connection:
        assert {name: connection.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in COUNTS} == COUNTS
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_every_step_of_a_copied_run_is_configured(tmp_path: Path) -> None:
    query = (
        "SELECT s.name, d.step_configurations FROM step_run s JOIN pipeline_run r ON s.pipeline_run_id = r.id "
        "JOIN pipeline_deployment d ON d.id = r.deployment_id AND d.id = s.deployment_id WHERE r.name LIKE '%-3'"
    )
    with closing(sqlite3.connect(make_store.sqlite_store(tmp_path / "big.db", SCALE))) as connection:
        found = connection.execute(query).fetchall()
        texts = {text for _, text in connection.execute("SELECT id, step_configurations FROM pipeline_deployment")}
    assert len(found) == 14 * 3
    assert {name for name, text in found if name not in json.loads(text)} == set()
    assert 25_000 < sum(map(len, texts)) / len(texts) < 50_000
    assert len(texts) == 5 * 4 + 3  # each copy has one of its own; the five of the sample are of three pipelines


@pytest.fixture(scope="session")
def store(mariadb: Server) -> Server:
    return make_store.mariadb_store(mariadb.using("make_store"), SCALE)


def test_a_big_mariadb_store_has_the_same_shape_and_keys_that_hold(store: Server) -> None:
    assert {name: int(databases.client(store, f"SELECT COUNT(*) FROM {name}")) for name in COUNTS} == COUNTS
    keys = databases.client(
        store,
        "SELECT TABLE_NAME, COLUMN_NAME, REFERENCED_TABLE_NAME FROM information_schema.KEY_COLUMN_USAGE "
        "WHERE TABLE_SCHEMA = DATABASE() AND REFERENCED_COLUMN_NAME = 'id'",
    ).splitlines()
    assert len(keys) > 80
    for table, column, other in map(str.split, keys):
        orphans = f"SELECT COUNT(*) FROM `{table}` a LEFT JOIN `{other}` b ON b.id = a.`{column}`"
        assert databases.client(store, f"{orphans} WHERE a.`{column}` IS NOT NULL AND b.id IS NULL") == "0", table


def test_making_a_store_again_replaces_it(store: Server) -> None:
    again = make_store.mariadb_store(store, SCALE)
    assert databases.client(again, "SELECT COUNT(*) FROM step_run") == str(COUNTS["step_run"])
