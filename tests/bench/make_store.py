"""Makes a big store out of what a real ZenML 0.70.0 wrote: every run of the sample, thousands of times.

``python tests/bench/make_store.py big.db --scale 0.1``, or ``mysql://root@localhost/SCHEMA?unix_socket=PATH`` for a new
schema. Scale 1 is about 20,000 runs, 200,000 steps, 300,000 artifact versions and 500,000 metadata rows, 1.5 GB as SQL.
A copy of a row has new ids everywhere, so its foreign keys hold as those of the original do.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pymysql
import zstandard

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest
import databases

from zenml_upgrade_kit.stores import address
from zenml_upgrade_kit.stores.address import Server

RELEASE = "0.70.0"
RUNS, STEPS, VERSIONS, METADATA = 4_000, 14_286, 16_667, 11_111
"""How often the sample's 5 runs, 14 steps, 18 artifact versions and 45 metadata rows are copied at scale 1."""
BLOCKS = -(-STEPS // RUNS)
"""How often a run has every step of the original."""
CHANGING = "5f2b8c1d9e3a4b7c8d6e0f1a2b3c4d5e"
"""Stands in the grown JSON for what is different in every run."""
REQUIREMENTS = "boto3==1.26.76 evidently==0.4.38 great-expectations==0.17.23 lightgbm==4.5.0 mlflow-skinny==2.17.2 "
REQUIREMENTS += "numpy==1.26.4 pandas==2.2.1 pyarrow==15.0.1 s3fs==2022.11.0 scikit-learn==1.4.1.post1 torch==2.5.0"

Say = Callable[[str], Any]


def sqlite_store(path: Path, scale: float = 0.1) -> Path:
    """A new database file; it is not flushed to disk."""
    shutil.copyfile(conftest._sample(RELEASE) / "deployment/local_stores/default_zen_store/zenml.db", path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.create_function("md5", 1, _md5, deterministic=True)
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("PRAGMA cache_size = -400000")
        connection.execute("BEGIN")
        _grow(
            connection.cursor(),
            scale,
            "WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s) SELECT n FROM s",
            "?",
        )
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = DELETE")
    return path


def mariadb_store(server: Server, scale: float = 0.1) -> Server:
    """A new schema ``server.database`` on a MariaDB server; an existing one of that name is replaced."""
    with closing(_connection(server.using(""))) as connection:
        connection.cursor().execute(f'DROP DATABASE IF EXISTS "{server.database}"')
        connection.cursor().execute(f'CREATE DATABASE "{server.database}" CHARACTER SET utf8mb4')
    databases.client(server, zstandard.decompress(conftest._dump(RELEASE).read_bytes()).decode())
    with closing(_connection(server)) as connection, connection.cursor() as cursor:
        cursor.execute("SET foreign_key_checks = 0, unique_checks = 0")
        _grow(cursor, scale, "SELECT seq AS n FROM seq_0_to_9999999", "%s")
        cursor.execute("COMMIT")
    return server


def _connection(server: Server) -> pymysql.Connection[Any]:
    return pymysql.connect(
        host=server.host,
        port=server.port,
        unix_socket=server.socket or None,
        user=server.user,
        password=server.password,
        database=server.database or None,
        sql_mode="ANSI",  # one SQL for both engines: || joins, "…" quotes names
        charset="utf8mb4",
    )


def _grow(cursor: Any, scale: float, numbers: str, mark: str) -> None:
    """Copies the rows; the same ids, and all but the same rows, in both engines."""
    runs, steps, versions, metadata = (max(1, round(times * scale)) for times in (RUNS, STEPS, VERSIONS, METADATA))
    cursor.execute(f"CREATE TEMPORARY TABLE numbers AS {numbers} LIMIT {max(runs, steps, versions, metadata)}")
    cursor.execute("SELECT id, step_configurations FROM pipeline_deployment")
    for identity, text in cursor.fetchall():
        sql = f"UPDATE pipeline_deployment SET step_configurations = {mark} WHERE id = {mark}"
        cursor.execute(sql, (_grown(json.loads(text)), identity))
    block, some = f"CAST((n - n % {runs}) / {runs} AS INTEGER)", "n * 7919 % 100003"
    uri = f"uri || '/' || {_new('id')}"
    links = _copied("step_id", "artifact_id")
    copies = {
        "pipeline_deployment": (
            runs,
            {"step_configurations": f"replace(step_configurations, '{CHANGING}', {_new('id')})"},
        ),
        "pipeline_run": (runs, {"name": "name || '-' || n", **_copied("deployment_id", "orchestrator_run_id")}),
        "step_run": (
            steps,
            {"name": f"name || '_' || {block}", **_copied("cache_key", "original_step_run_id")}
            | _copied("deployment_id", "pipeline_run_id", number=f"n % {runs}"),
        ),
        "step_run_parents": (steps, _copied("parent_id", "child_id")),
        "step_run_input_artifact": (steps, links),
        "step_run_output_artifact": (steps, links),
        "logs": (steps, {"uri": uri, **_copied("step_run_id")}),
        "artifact_version": (versions, {"version": "n + 2", "version_number": "n + 2", "uri": uri}),
        "artifact_visualization": (versions, {"uri": uri, **_copied("artifact_version_id")}),
        "run_metadata": (
            metadata,
            {"value": f"CASE type WHEN 'int' THEN '' || {some} WHEN 'float' THEN '0.' || {some} ELSE value END"}
            | _copied("resource_id"),
        ),
    }
    moments = {name: _moment(name) for name in ("created", "updated", "start_time", "end_time")}
    for table, (times, other) in copies.items():
        cursor.execute(f"SELECT * FROM {table} LIMIT 0")
        columns = [item[0] for item in cursor.description]
        values = [{**moments, "id": _new("id"), **other}.get(name, f'"{name}"') for name in columns]
        named = ", ".join(f'"{name}"' for name in columns)
        source = f"SELECT * FROM {table} CROSS JOIN numbers WHERE n < {times}"
        cursor.execute(f"INSERT INTO {table} ({named}) SELECT {', '.join(values)} FROM ({source}) AS original")


def _new(column: str, number: str = "n") -> str:
    """SQL of the id that a copy has instead of another id, NULL where there is none."""
    return f"md5({column} || '-' || ({number}))"


def _copied(*columns: str, number: str = "n") -> dict[str, str]:
    """Columns that hold the id of something that is copied as well."""
    return {column: _new(column, number) for column in columns}


def _moment(column: str) -> str:
    """SQL of a time like that of the original, on another day."""
    day = f"substr({column}, 1, 8) || (10 + n % 18) || ' ' || (10 + n % 13)"
    return f"{day} || substr({column}, 14, 6) || '.' || (100000 + n * 7919 % 900000)"


def _md5(text: str | None) -> str | None:
    return None if text is None else hashlib.md5(text.encode()).hexdigest()


def _grown(steps: dict[str, Any]) -> str:
    """The configurations of all steps of a copied run, each with the settings and parameters of a real project."""
    lines = REQUIREMENTS.split()
    docker = {"requirements": lines, "required_integrations": ["s3", "kubernetes", "mlflow", "sklearn"]}
    environment = {f"TEAM_{line.split('==')[0].upper()}_HOME": f"/opt/team/{line}" for line in lines}
    image = {"parent_image": f"registry.example.com/team/base@sha256:{CHANGING}", "environment": environment}
    pod = {"node_selectors": {"pool": "batch"}, "annotations": {"team.example.com/run": CHANGING}, "env": environment}
    settings = {"docker": {**docker, **image}, "orchestrator.kubernetes": {"pod_settings": pod}}
    parameters = {"seed": CHANGING, "features": [f"customer_feature_{number}" for number in range(20)]}
    grown = {}
    for block in range(BLOCKS):
        for name, step in steps.items():
            config = {**step["config"], "settings": settings, "parameters": parameters, "name": f"{name}_{block}"}
            grown[f"{name}_{block}"] = {**step, "config": config}
    return json.dumps(grown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="a new file, or the mysql:// URL of a schema, which is replaced")
    parser.add_argument("--scale", type=float, default=0.1)
    given = parser.parse_args()
    if "://" in given.target:
        print(mariadb_store(address.parse(given.target), given.scale).name)
    else:
        print(sqlite_store(Path(given.target), given.scale))


if __name__ == "__main__":
    main()
