"""Which artifact versions are looked at: all of them page by page, samples with reasons, shards that fit together."""

import json
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from zenml_upgrade_kit import inventory
from zenml_upgrade_kit.artifacts import selection
from zenml_upgrade_kit.artifacts.selection import Sample
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.probing import run_probe
from zenml_upgrade_kit.stores import locate, mysql, sqlite
from zenml_upgrade_kit.stores.address import Server

RELEASES = ["0.43.0", "0.55.5", "0.60.0", "0.70.0", "0.80.2"]
NOWHERE = Path("/nowhere")


@pytest.fixture(scope="session")
def stored(
    deploy: Callable[[str, Path], Path],
    environment: Callable[[str], Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, Path]]:
    """``stored("0.70.0")``: the database that this release wrote, and a copy of it that 0.98.0 has migrated."""

    @cache
    def make(version: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(version)
        original = locate(str(deploy(version, folder / "own"))).path
        migrated = folder / "migrated.db"
        migrated.write_bytes(original.read_bytes())
        told = {"ZENML_STORE_URL": f"sqlite:///{migrated}"}
        reply = run_probe(environment("0.98.0"), "migrate", {}, folder=folder, variables=told, timeout=300)
        assert "error" not in reply, reply
        return original, migrated

    return make


@pytest.fixture(params=[(version, when) for version in RELEASES for when in ("as written", "migrated")], ids=" ".join)
def database(request: pytest.FixtureRequest, stored: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> Path:
    """A copy of a real store, of every release, that a test may change."""
    version, when = request.param
    copy = tmp_path / "zenml.db"
    copy.write_bytes(stored(version)[when == "migrated"].read_bytes())
    return copy


@contextmanager
def changed(database: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(database)) as connection, connection:
        yield connection


def insert(connection: sqlite3.Connection, table: str, **values: Any) -> None:
    """A row; columns that must have a value and are not named get an empty one."""
    for _, name, kind, needed, *_ in connection.execute(f"PRAGMA table_info({table})").fetchall():
        if needed:
            values.setdefault(name, 0 if kind in ("INTEGER", "BOOLEAN") else "2026-01-01" if kind == "DATETIME" else "")
    marks = ", ".join("?" * len(values))
    connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", list(values.values()))


def rows_of(database: Path, sample: Sample | None = None, page: int = 5000) -> list[dict[str, Any]]:
    with closing(sqlite.connect(database)) as connection:
        return [row for rows in selection.pages(connection, NOWHERE, sample, page) for row in rows]


def chosen(database: Path, sample: Sample) -> tuple[set[str], set[str]]:
    """Ids that a sample chooses, and the reasons that it gives for the others."""
    rows = rows_of(database, sample)
    assert all(row["chosen"] == (row["reason"] == "") for row in rows)
    return {row["id"] for row in rows if row["chosen"]}, {row["reason"] for row in rows if not row["chosen"]}


def kind(row: dict[str, Any]) -> tuple[str, ...]:
    return tuple(row[name][part] for name in ("materializer", "data_type") for part in ("module", "attribute"))


@pytest.mark.parametrize("page", [1, 7, 5000])
def test_every_artifact_version_is_in_the_pages_once(database: Path, page: int) -> None:
    with closing(sqlite.connect(database)) as connection:
        rows = inventory.artifacts(connection, NOWHERE)
        assert selection.count(connection) == len(rows) > 10
        pages = list(selection.pages(connection, NOWHERE, page=page))
        by_id = selection.by_ids(connection, NOWHERE, [*(row["id"] for row in rows[:3]), "unknown"])
    assert {len(rows) for rows in pages[:-1]} <= {page}
    found = [row for rows in pages for row in rows]
    expected = sorted(rows, key=lambda row: str(row["id"]))
    assert found == [{**row, "chosen": True, "reason": ""} for row in expected]
    assert list(found[0]) == [
        *("id", "name", "version", "type", "data_type", "materializer", "uri", "store_id", "store_flavor"),
        *("store_root", "created", "reason", "chosen"),
    ]
    assert by_id == {row["id"]: row for row in rows[:3]}


@pytest.mark.parametrize("version", RELEASES)
def test_a_migrated_store_has_the_same_rows(stored: Callable[[str], tuple[Path, Path]], version: str) -> None:
    before, after = map(rows_of, stored(version))
    keys = ("id", "type", "data_type", "materializer", "uri", "store_id", "store_root", "created")
    assert [[row[key] for key in keys] for row in before] == [[row[key] for key in keys] for row in after]


def test_the_newest_of_each_type_are_chosen(database: Path) -> None:
    rows = rows_of(database)
    found, reasons = chosen(database, Sample(per_type=1))
    assert len(found) == len(set(map(kind, rows))) < len(rows)
    for one in set(map(kind, rows)):
        newest = max((row["created"], row["id"]) for row in rows if kind(row) == one)
        assert newest[1] in found
    assert reasons == {"not among the 1 newest of its type"}
    assert chosen(database, Sample(per_type=1000))[0] == {row["id"] for row in rows}


def test_versions_of_a_library_are_one_type(stored: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    copy = tmp_path / "zenml.db"
    copy.write_bytes(stored("0.70.0")[0].read_bytes())
    rows = rows_of(copy)
    [(twice, _)] = Counter(map(kind, rows)).most_common(1)
    with changed(copy) as connection:
        for number, row in enumerate(row for row in rows if kind(row) == twice):
            source = json.dumps({**row["data_type"], "package_name": "one", "version": f"{number}.0"})
            values = (source, row["id"].replace("-", ""))
            connection.execute("UPDATE artifact_version SET data_type = ? WHERE id = ?", values)
    found, _ = chosen(copy, Sample(per_type=1))
    assert len([row for row in rows_of(copy) if row["id"] in found and kind(row) == twice]) == 1


def test_those_of_models_in_a_stage_are_chosen(database: Path) -> None:
    first, second, third = (row["id"] for row in rows_of(database)[:3])
    with changed(database) as connection:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if "model_version" not in tables:
            found, reasons = chosen(database, Sample(stages=("production",)))
            assert not found
            assert reasons == {
                "not linked to a model version in production: the store is older than models (ZenML 0.45.0)"
            }
            return
        for number, (stage, artifact) in enumerate([("production", first), ("Staging", second), (None, third)]):
            model = f"{number:032x}"
            insert(connection, "model_version", id=model, model_id=model, name=model, number=number, stage=stage)
            links = {"artifact_version_id": artifact.replace("-", ""), "model_version_id": model}
            insert(connection, "model_versions_artifacts", id=model, **links)
    found, reasons = chosen(database, Sample(stages=("production",)))
    assert (found, reasons) == ({first}, {"not linked to a model version in production"})
    found, reasons = chosen(database, Sample(stages=("production", "staging")))
    assert (found, reasons) == ({first, second}, {"not linked to a model version in production or staging"})


def test_those_that_a_step_read_lately_are_chosen(database: Path) -> None:
    with changed(database) as connection:
        connection.execute("UPDATE step_run SET start_time = datetime('now', '-100 days')")
        [(step, artifact), *_] = connection.execute("SELECT step_id, artifact_id FROM step_run_input_artifact")
        connection.execute("UPDATE step_run SET start_time = datetime('now', '-3 days') WHERE id = ?", [step])
        read = connection.execute("SELECT artifact_id FROM step_run_input_artifact WHERE step_id = ?", [step])
        expected = {inventory.dashed(row[0]) for row in read}
        every = connection.execute("SELECT DISTINCT artifact_id FROM step_run_input_artifact")
        inputs = {inventory.dashed(row[0]) for row in every}
    assert inventory.dashed(artifact) in expected
    found, reasons = chosen(database, Sample(used_days=30))
    assert (found, reasons) == (expected, {"not read by a step of the last 30 days"})
    assert chosen(database, Sample(used_days=2))[0] == set()
    assert chosen(database, Sample(used_days=1000))[0] == inputs < {row["id"] for row in rows_of(database)}


def test_several_settings_must_all_choose(database: Path) -> None:
    rows = rows_of(database)
    [(twice, _)] = Counter(map(kind, rows)).most_common(1)
    older = min((row for row in rows if kind(row) == twice), key=lambda row: str(row["created"]))["id"]
    with changed(database) as connection:
        [step] = connection.execute("SELECT step_id FROM step_run_input_artifact LIMIT 1").fetchone()
        insert(connection, "step_run_input_artifact", step_id=step, artifact_id=older.replace("-", ""), name="another")
    newest, _ = chosen(database, Sample(per_type=1))
    read, _ = chosen(database, Sample(used_days=10_000))
    both, reasons = chosen(database, Sample(per_type=1, used_days=10_000))
    assert both == newest & read
    assert len(both) < min(len(newest), len(read))
    assert reasons == {"not among the 1 newest of its type", "not read by a step of the last 10000 days"}


def test_shards_have_one_store_and_one_set_of_libraries(database: Path) -> None:
    with changed(database) as connection:
        table = "artifact_version" if "uri" not in sqlite.tables(connection)["artifact"] else "artifact"
        connection.execute(f"UPDATE {table} SET artifact_store_id = NULL WHERE rowid % 4 = 0")
    rows = rows_of(database)
    rows[0]["chosen"] = False
    shards = list(selection.groups(rows, most=3))
    assert Counter(row["id"] for shard in shards for row in shard) == Counter(row["id"] for row in rows[1:])
    for shard in shards:
        assert len(shard) <= 3
        assert len({row["store_id"] for row in shard}) == 1
        assert shard == sorted(shard, key=lambda row: (kind(row), row["id"]))
    heavy = [{row["data_type"]["module"].split(".")[0] for row in shard} & {"pandas", "sklearn"} for shard in shards]
    assert all(len(libraries) <= 1 for libraries in heavy)
    assert any(libraries == {"sklearn"} for libraries in heavy)


def test_shards_come_while_rows_are_still_read() -> None:
    def endless() -> Iterator[dict[str, Any]]:
        source = {"module": "builtins", "attribute": "int"}
        while True:
            yield {"id": "one", "store_id": None, "materializer": source, "data_type": source, "chosen": True}

    assert len(next(selection.groups(endless()))) == 500


def test_a_server_gives_the_same_rows(
    mysql_store: Callable[[str], Server], stored: Callable[[str], tuple[Path, Path]]
) -> None:
    with closing(mysql.connect(mysql_store("0.55.5"))) as connection:
        sample = Sample(per_type=1, used_days=10_000)
        rows = [row for page in selection.pages(connection, NOWHERE, sample, 7) for row in page]
        assert selection.count(connection) == len(rows)
        assert selection.by_ids(connection, NOWHERE, [rows[0]["id"]]).keys() == {rows[0]["id"]}
        assert not any(
            row["chosen"] for page in selection.pages(connection, NOWHERE, Sample(stages=("x",))) for row in page
        )
    same = rows_of(stored("0.55.5")[0], sample)
    names = [Counter((row["name"], kind(row), row["chosen"]) for row in found) for found in (rows, same)]
    assert names[0] == names[1]


def test_large_stores_need_little_memory(stored: Callable[[str], tuple[Path, Path]], tmp_path: Path) -> None:
    copy = tmp_path / "zenml.db"
    copy.write_bytes(stored("0.70.0")[0].read_bytes())
    with changed(copy) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(artifact_version)")]
        own = {"id": "lower(hex(randomblob(16)))", "version": "'n' || n", "uri": "uri || '/' || n"}
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 6000)"
            f" INSERT INTO artifact_version ({', '.join(columns)})"
            f" SELECT {', '.join(own.get(name, name) for name in columns)} FROM artifact_version, numbers"
        )
    script = (
        "import resource, sys; from pathlib import Path; from contextlib import closing\n"
        "from zenml_upgrade_kit.artifacts import selection; from zenml_upgrade_kit.stores import sqlite\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with closing(sqlite.connect(Path(sys.argv[1]))) as connection:\n"
        "    pages = selection.pages(connection, Path('/nowhere'), selection.Sample(per_type=100_000))\n"
        "    rows = sum(map(len, selection.groups(row for page in pages for row in page)))\n"
        "print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(copy)], check=True, capture_output=True, text=True)
    rows, kilobytes = map(int, ended.stdout.split())
    assert rows == 108_018
    assert kilobytes < 100_000  # half of it for the sample, which is large here
