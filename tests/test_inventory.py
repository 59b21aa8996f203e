"""The inventory: what a real store holds, the same at every revision on the way to the target."""

import json
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import inventory, releases, stores
from zenml_upgrade_kit.artifacts import locations, selection
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores import Store, locate, mysql, sqlite
from zenml_upgrade_kit.stores.address import Server

EVERY_SETTING = selection.Sample(per_type=1, stages=("production",), used_days=30)
Deployment = Callable[..., Path]


def rows_of(store: Store) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    with closing(stores.connect(store.server or store.path)) as connection:
        return inventory.artifacts(connection, store.local_stores), inventory.runs(connection)


@pytest.fixture(params=["0.55.5", "0.70.0"])
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_real_store_is_told(deployment: Deployment, version: str) -> None:
    store = locate(str(deployment(version)))
    digest = sqlite.digest(store.path)
    held = inventory.take(store)
    assert held["stamps"] == [version]
    assert held["source_version"] == version
    assert held["database_bytes"] == store.path.stat().st_size
    assert held["runs_by_status"]["failed"] == 1
    assert sum(held["runs_by_status"].values()) == held["tables"]["pipeline_run"]
    assert sum(pipeline["runs"] for pipeline in held["pipelines"]) == held["tables"]["pipeline_run"]
    assert sum(row["count"] for row in held["artifacts_by_type"]) == held["tables"]["artifact_version"]
    assert "builtins.int" in {row["type"] for row in held["artifacts_by_type"]}
    assert {"type": "artifact_store", "flavor": "local", "name": "default"} in held["stacks"][0]["components"]
    assert held["users"] == ["default"]
    assert {"numpy", "pandas", "scikit-learn"} <= set(held["libraries"])
    assert all(version[0].isdigit() for version in held["libraries"].values())
    assert sum(held["python_versions"].values()) <= held["tables"]["pipeline_run"]
    assert all(version.startswith("3.") for version in held["python_versions"])
    assert list(held["zenml_versions"]) == [version]
    assert sqlite.digest(store.path) == digest


def test_every_artifact_version_is_where_its_store_says(deployment: Deployment, version: str) -> None:
    rows, _ = rows_of(locate(str(deployment(version))))
    assert rows
    for row in rows:
        assert Path(row["uri"]).is_dir()
        assert row["store_flavor"] == "local"
        assert Path(row["uri"]).is_relative_to(row["store_root"])
        assert {"module", "attribute", "type"} <= row["data_type"].keys() & row["materializer"].keys()
        assert len(row["id"]) == 36
        assert row["version"]


def test_runs_come_newest_first_with_their_steps_and_outputs(deployment: Deployment, version: str) -> None:
    store = locate(str(deployment(version)))
    known = {row["id"] for row in rows_of(store)[0]}
    _, runs = rows_of(store)
    assert [run["start_time"] for run in runs] == sorted((run["start_time"] for run in runs), reverse=True)
    outputs = [output for run in runs for step in run["steps"] for output in step["outputs"]]
    assert outputs
    assert {output["artifact_version_id"] for output in outputs} <= known
    statuses = {step["status"] for run in runs for step in run["steps"]}
    assert {"completed", "cached", "failed"} <= statuses
    ids = {step["id"] for run in runs for step in run["steps"]}
    cached = [step for run in runs for step in run["steps"] if step["status"] == "cached"]
    assert {step["original_step_run_id"] for step in cached} <= ids


def test_the_inventory_is_the_same_at_every_revision(
    deployment: Deployment, environment: Callable[[str], Environment], tmp_path: Path
) -> None:
    """The newest ZenML migrates a store of 0.43.0 one revision at a time; we read all of them."""
    store = locate(str(deployment("0.43.0")))
    (tmp_path / "kept").mkdir()
    script = Path(__file__).parent / "make_schemas.py"
    command = [environment("0.98.0").python, script, store.path, tmp_path / "schemas.json", tmp_path / "kept"]
    subprocess.run([*map(str, command)], check=True, capture_output=True, cwd=tmp_path)
    shipped = Path(releases.__file__).parent / "data" / "schemas.json"
    assert (tmp_path / "schemas.json").read_text() == shipped.read_text()

    keys = ("runs_by_status", "pipelines", "artifacts_by_type", "users", "schedules", "libraries", "python_versions")
    before: Any = None
    copies = list((tmp_path / "kept").iterdir())
    assert len(copies) > 200
    for path in copies:
        copy = Store(file=path, config_yaml=None, local_stores=store.local_stores)
        held = inventory.take(copy)
        artifacts, runs = rows_of(copy)
        with closing(sqlite.connect(path)) as connection:
            pages = selection.pages(connection, store.local_stores, EVERY_SETTING, page=4)
            assert {row["id"] for page in pages for row in page} == {row["id"] for row in artifacts}
            assert {row["store_id"] for row in artifacts} <= locations.locations(connection, store.local_stores).keys()
        told = {**{key: held[key] for key in keys}, "runs": runs}
        told["artifacts"] = [{key: value for key, value in row.items() if key != "version"} for row in artifacts]
        assert held["stamps"] == [path.stem]
        assert before is None or told == before, path.stem
        assert {row["version"] for row in artifacts} <= {"", "UNVERSIONED"}
        assert releases.get(held["source_version"])
        before = told


def test_a_library_without_a_recorded_version_is_still_named(deployment: Deployment) -> None:
    """Stores written on Python 3.10 have ``type: unknown`` and no version."""
    store = locate(str(deployment("0.70.0")))
    change = "UPDATE artifact_version SET data_type = ? WHERE data_type LIKE ?"
    with closing(sqlite3.connect(store.path)) as connection, connection:
        for name, attribute, like in (("sklearn.svm", "SVC", "%scikit-learn%"), ("uuid", "UUID", '%"int"%')):
            source = {"module": name, "attribute": attribute, "type": "unknown"}
            connection.execute(change, (json.dumps(source), like))
    libraries = inventory.take(store)["libraries"]
    assert libraries["sklearn"] == ""
    assert "uuid" not in libraries
    assert "scikit-learn" not in libraries


def test_the_newest_recorded_version_of_a_library_counts(deployment: Deployment) -> None:
    store = locate(str(deployment("0.70.0")))
    with closing(sqlite3.connect(store.path)) as connection, connection:
        row = connection.execute("SELECT id FROM artifact_version WHERE data_type LIKE '%pandas%' LIMIT 1").fetchone()
        connection.execute(
            "UPDATE artifact_version SET created = '2030-01-01 00:00:00', data_type ="
            ' \'{"module": "pandas.core.frame", "attribute": "DataFrame", "type": "distribution_package",'
            ' "package_name": "pandas", "version": "9.9"}\' WHERE id = ?',
            row,
        )
    assert inventory.take(store)["libraries"]["pandas"] == "9.9"


@pytest.mark.parametrize(
    ("stamp", "recorded", "expected"),
    [
        ("0.70.0", ["0.70.0"], "0.70.0"),
        ("0.43.0", [], "0.43.0"),
        ("0.43.0", ["0.43.0", "0.43.1"], "0.43.1"),
        ("0.43.0", ["0.42.0"], "0.43.0"),
        ("c7d4e8a2b5f1", [], "0.98.0"),
        ("0.99.0", [], "0.99.0"),
    ],
)
def test_the_release_is_read_from_the_stamp_and_from_runs_where_two_share_it(
    stamp: str, recorded: list[str], expected: str
) -> None:
    assert inventory.source_version(stamp, recorded) == expected


def test_no_secret_is_in_the_inventory(deployment: Deployment) -> None:
    store = locate(str(deployment("0.70.0")))
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("UPDATE user SET password = 'c4nary', activation_token = 'c4nary'")
        connection.execute(
            "UPDATE stack_component SET configuration = ? WHERE type = 'artifact_store'",
            ("eyJwYXRoIjogIiIsICJrZXkiOiAiYzRuYXJ5In0=",),  # {"path": "", "key": "c4nary"}
        )
    assert "c4nary" not in repr((inventory.take(store), rows_of(store)))


def test_a_config_yaml_that_cannot_be_read_is_told_without_its_lines(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("store:\n  password: c4nary: [\n")
    with pytest.raises(StoreUnreadable, match="cannot be read") as raised:
        inventory.store_section(tmp_path / "config.yaml")
    assert "c4nary" not in str(raised.value)


# --- on a server


def on_a_server(server: Server) -> Store:
    return Store(server=server, config_yaml=None, local_stores=Path())


@pytest.mark.parametrize("version", ["0.43.0", "0.55.5", "0.70.0"])
def test_a_server_holds_what_a_file_does(
    deployment: Deployment, mysql_store: Callable[..., Server], version: str
) -> None:
    """The sample's runs in both engines. Times are their own, and in a server of 0.55.5 some runs have the same."""
    file, server = (locate(str(deployment(version))), on_a_server(mysql_store(version)))
    before, own, held = stores.identity(server.server or Path()), inventory.take(file), inventory.take(server)
    same = ("stamps", "source_version", "runs_by_status", "artifacts_by_type", "stacks", "users", "schedules")
    for key in (*same, "libraries", "zenml_versions"):
        assert held[key] == own[key], key
    for pipeline, other in zip(held["pipelines"], own["pipelines"], strict=True):
        assert (pipeline["name"], pipeline["runs"]) == (other["name"], other["runs"])
        assert pipeline["last_status"] in ("completed", "failed")
        assert datetime.fromisoformat(pipeline["last_run"]).year == datetime.fromisoformat(other["last_run"]).year
    assert held["tables"].keys() == own["tables"].keys()
    assert held["tables"]["artifact_version" if version != "0.43.0" else "artifact"] == 18
    assert held["database_bytes"] > 1_000_000
    assert json.dumps(held)
    assert stores.identity(server.server or Path()) == before


@pytest.mark.parametrize("version", ["0.55.5", "0.70.0"])
def test_rows_of_a_server_are_those_of_a_file(
    deployment: Deployment, mysql_store: Callable[..., Server], version: str
) -> None:
    file, server = rows_of(locate(str(deployment(version)))), rows_of(on_a_server(mysql_store(version)))
    told = [
        sorted(
            (run["pipeline"], run["status"], step["name"], step["status"], *(one["name"] for one in step["outputs"]))
            for run in runs
            for step in run["steps"]
        )
        for _, runs in (file, server)
    ]
    assert told[0] == told[1]
    assert [run["start_time"] for run in server[1]] == sorted((run["start_time"] for run in server[1]), reverse=True)
    for key in ("name", "version", "type", "data_type", "materializer", "store_flavor"):
        assert sorted(str(row[key]) for row in server[0]) == sorted(str(row[key]) for row in file[0])
    for row in server[0]:  # nobody said where the local stores are: the URIs do
        assert Path(row["uri"]).is_relative_to(row["store_root"])
        assert Path(row["store_root"]).name == row["store_id"]


def test_runs_can_be_asked_for_one_by_one(deployment: Deployment, mysql_store: Callable[..., Server]) -> None:
    for store in (locate(str(deployment("0.70.0"))), on_a_server(mysql_store("0.70.0"))):
        with closing(stores.connect(store.server or store.path)) as connection:
            everything = inventory.runs(connection)
            assert inventory.run_ids(connection) == {run["id"] for run in everything}
            for run in everything[:2]:
                assert inventory.runs(connection, [run["id"]]) == [run]
            assert inventory.runs(connection, []) == []
            newest = inventory.newest_runs(connection)
            assert newest.keys() == {run["pipeline"] for run in everything}
            for name, run in newest.items():
                assert run["id"] == next(one["id"] for one in everything if one["pipeline"] == name)
            last = inventory.last_made(connection)
            assert inventory.newest_runs(connection, last) == newest
            assert inventory.newest_runs(connection, "2001-01-01") == {}


def test_values_that_a_collation_holds_to_be_the_same_are_not(mysql_store: Callable[..., Server]) -> None:
    """They differ in case alone, or only far behind the 1024 bytes that a server sorts by."""
    server = mysql_store("0.70.0")
    long = json.dumps({"module": "a" * 3000, "attribute": "T", "type": "unknown"})
    other = json.dumps({"module": "a" * 3000, "attribute": "t", "type": "unknown"})
    with closing(stores.connect(server, write=True)) as connection:
        (first, second) = connection.execute("SELECT id FROM artifact_version LIMIT 2")
        for row, text in ((first, long), (second, other)):
            connection.execute(f"UPDATE artifact_version SET data_type = '{text}' WHERE id = '{row[0]}'")
    held = inventory.take(on_a_server(server))
    assert {row["type"][-2:] for row in held["artifacts_by_type"] if row["type"].startswith("aaa")} == {".T", ".t"}


def test_no_secret_of_a_server_is_in_the_inventory(mysql_store: Callable[..., Server]) -> None:
    server = mysql_store("0.70.0")
    with closing(stores.connect(server, write=True)) as connection:
        connection.execute("UPDATE \"user\" SET password = 'c4nary', activation_token = 'c4nary'")
        connection.execute("UPDATE stack_component SET configuration = 'eyJwYXRoIjogIiIsICJrZXkiOiAiYzRuYXJ5In0='")
    with closing(stores.connect(server, write=True)) as connection:
        connection.execute("CREATE USER IF NOT EXISTS c4@localhost IDENTIFIED BY 'c4nary'")
        connection.execute(f'GRANT SELECT ON "{server.database}".* TO c4@localhost')
    store = on_a_server(replace(server, user="c4", password="c4nary"))
    assert "c4nary" not in repr((inventory.take(store), rows_of(store)))


def test_the_newest_of_each_type_are_found_page_by_page_on_a_server(
    mysql_store: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(stores.connect(mysql_store("0.70.0"))) as connection:
        whole = [row["chosen"] for page in selection.pages(connection, Path(), EVERY_SETTING) for row in page]
        monkeypatch.setattr(selection, "PAGE", 4)
        paged = [row["chosen"] for page in selection.pages(connection, Path(), EVERY_SETTING, page=4) for row in page]
        one = selection.pages(connection, Path(), selection.Sample(per_type=1))
        kinds = [
            (str(row["data_type"]["attribute"]), str(row["materializer"]))
            for page in one
            for row in page
            if row["chosen"]
        ]
    assert whole == paged
    assert len(kinds) == len(set(kinds)) > 5


def test_what_is_asked_of_a_server_is_common_sql(
    mysql_store: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a server insists that what is selected is grouped by, as MySQL does."""
    store, connect = on_a_server(mysql_store("0.70.0")), mysql.connect
    held = inventory.take(store), rows_of(store)

    def insisting(server: Server, **options: Any) -> mysql.Connection:
        connection = connect(server, **options)
        connection.execute("SET SESSION sql_mode = 'ONLY_FULL_GROUP_BY,ANSI_QUOTES,STRICT_ALL_TABLES'")
        return connection

    monkeypatch.setattr(mysql, "connect", insisting)
    assert (inventory.take(store), rows_of(store)) == held
