"""Fills the database of a ZenML store, at any stamp, with rows that every later migration has something to do with.

A few rows a table: one with every column, one with NULL wherever that is allowed, one with emoji, quotes and empty
strings, and a twin that has the name of the first where that is allowed. Rows honour types, foreign keys and unique
indexes; JSON is JSON where ZenML keeps JSON. What makes migrations refuse is left out (a second workspace, quotes in
the tags of models, the same step twice in a run ...); what they rename, move and drop is there.

As a program, run with the Python of an environment that has the newest ``zenml[local]``, it takes a copy of a database
through all later revisions:

    NEWEST_ENV/bin/python tests/filled.py STORE_OF_0.43.0/zenml.db FOLDER 0.43.0,0.45.0,0.63.0

FOLDER gets ``<stamp>.db`` as each release is reached and, for the stamps named, ``<stamp>.filled.db`` with new rows,
from which the chain goes on. The program needs nothing but the standard library and that ZenML.
"""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

if TYPE_CHECKING:
    from zenml_upgrade_kit.stores.address import Server

Execute = Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]

BORN = ("0.43.0", "0.45.0", "0.46.1", "0.47.0", "0.50.0", "0.55.4", "0.56.2", "0.60.0", "0.63.0", "0.71.0", "0.83.1")
REFILLED = (*BORN, "0.90.0rc0", "0.91.1", "0.93.3", "0.94.0rc0", "0.94.3", "0.95.0", "0.96.4")
"""Releases that bring tables, or that keep others in them."""
RELEASES = Path(__file__).parent.parent / "zenml_upgrade_kit" / "data" / "releases.json"
# One row each, made by ZenML itself; a second workspace makes 0.80.0 refuse.
LEFT_ALONE = {"alembic_version", "workspace", "project", "identity", "server_settings", "sqlite_sequence"}
# Tables where two rows of one name make a later migration fail.
NO_TWINS = {"user", "step_run", "artifact_visualization"}
EXOTIC = 'Zoë\'s "größte" \\ 100 % 🚀'
JSON_TEXTS = {
    *("client_environment", "orchestrator_environment", "pipeline_configuration", "parameters", "caching_parameters"),
    *("config", "config_schema", "materializer", "data_type", "spec", "pipeline_spec", "images", "value", "info"),
    *("user_metadata", "configuration", "exception_info", "deployment_metadata", "oidc_claims", "project_metadata"),
    *("data_schema_json", "result_json", "dispatch_state", "target_events", "code_repository.source"),
}
KINDS = {
    "stack_component": ("orchestrator", "step_operator", "artifact_store"),
    "flavor": ("step_operator", "artifact_store", "orchestrator"),
    "artifact": ("DataArtifact", "BaseArtifact", "ModelArtifact"),
    "artifact_version": ("DataArtifact", "BaseArtifact", "ModelArtifact"),
    "run_metadata": ("str", "int", "Uri"),
    "step_run_input_artifact": ("default", "manual", "default"),
    "step_run_output_artifact": ("default", "manual", "default"),
}
OWNERS = {  # columns of which one row has one
    "run_metadata": ("pipeline_run_id", "step_run_id", "artifact_id"),
    "logs": ("pipeline_run_id", "", "step_run_id"),
    "step_configuration": ("snapshot_id", "step_run_id", "snapshot_id"),
}
RESOURCES = {"run_metadata": ("pipeline_run", "step_run", "artifact_version")}


@dataclass(frozen=True)
class Column:
    """Of a table; target: the table that its foreign key points to, or ``""``; size: characters, 0 for no limit."""

    name: str
    type: str
    nullable: bool
    target: str
    size: int


@dataclass
class Table:
    """Columns, and the sets of columns that may not repeat, the primary key among them, with what is taken."""

    columns: list[Column]
    unique: list[tuple[str, ...]]
    taken: list[set[tuple[Any, ...]]] = field(default_factory=list)


def fill(database: Path | Server, rows: int = 3) -> dict[str, int]:
    """Insert new rows, about ``rows`` and one more a table; the number of them by table. Can be repeated."""
    if isinstance(database, Path):
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("PRAGMA foreign_keys = ON")
            return _Filler(lambda sql, given: connection.execute(sql, given).fetchall(), "?", _sqlite).run(rows)
    from zenml_upgrade_kit.stores import mysql  # not where this file is a program

    with closing(mysql.connect(database, write=True)) as session:
        return _Filler(session.execute, "%s", _mysql).run(rows)


def _sqlite(execute: Execute) -> dict[str, Table]:
    tables = {}
    for (name,) in execute("SELECT name FROM sqlite_master WHERE type = 'table'", ()):
        keys = {row[3]: row[2] for row in execute(f'PRAGMA foreign_key_list("{name}")', ())}
        info = execute(f'PRAGMA table_info("{name}")', ())
        sizes = {row[1]: "".join(filter(str.isdigit, row[2])) for row in info}
        columns = [
            Column(row[1], row[2].lower().split("(")[0], not row[3] and not row[5], keys.get(row[1], ""), 0)
            for row in info
        ]
        unique = [tuple(row[1] for row in info if row[5])]
        for index in execute(f'PRAGMA index_list("{name}")', ()):
            if index[2]:
                unique.append(tuple(row[2] for row in execute(f'PRAGMA index_info("{index[1]}")', ())))
        tables[name] = Table([Column(*_sized(column, sizes)) for column in columns], unique)
    return tables


def _sized(column: Column, sizes: dict[str, str]) -> tuple[str, str, bool, str, int]:
    return column.name, column.type, column.nullable, column.target, int(sizes[column.name] or 0)


def _mysql(execute: Execute) -> dict[str, Table]:
    here = "WHERE table_schema = DATABASE()"
    keys = {
        (row[0], row[1]): row[2]
        for row in execute(
            "SELECT table_name, column_name, referenced_table_name FROM information_schema.key_column_usage"
            f" {here} AND referenced_table_name IS NOT NULL",
            (),
        )
    }
    tables: dict[str, Table] = {}
    for table, name, kind, whole, nullable, size in execute(
        "SELECT table_name, column_name, data_type, column_type, is_nullable, character_maximum_length"
        f" FROM information_schema.columns {here} ORDER BY table_name, ordinal_position",
        (),
    ):
        known = {"tinyint(1)": "boolean", "json": "json"}.get(whole, kind.lower())
        column = Column(name, known, nullable == "YES", keys.get((table, name), ""), int(size or 0))
        tables.setdefault(table, Table([], [])).columns.append(column)
    indexes: dict[tuple[str, str], list[str]] = {}
    for table, index, name in execute(
        f"SELECT table_name, index_name, column_name FROM information_schema.statistics {here} AND non_unique = 0"
        " ORDER BY table_name, index_name, seq_in_index",
        (),
    ):
        indexes.setdefault((table, index), []).append(name)
    for (table, _), names in indexes.items():
        tables[table].unique.append(tuple(names))
    return tables


class _Filler:
    """One filling of one database."""

    def __init__(self, execute: Execute, mark: str, look: Callable[[Execute], dict[str, Table]]) -> None:
        self.execute, self.mark, self.tables = execute, mark, look(execute)
        self.count = 0
        self.names: dict[str, str] = {}
        self.second_user: str | None = None
        self.ids: dict[str, list[str]] = {}
        self.has_secrets_managers = False
        self.started = datetime(2026, 1, 1)

    def run(self, rows: int) -> dict[str, int]:
        for name, table in self.tables.items():
            if any(column.name == "id" for column in table.columns):
                self.ids[name] = [row[0] for row in self.execute(f'SELECT id FROM "{name}" LIMIT 20', ())]
            for columns in table.unique:
                listed = ", ".join(f'"{column}"' for column in columns)
                table.taken.append({tuple(row) for row in self.execute(f'SELECT {listed} FROM "{name}"', ())})
        links = "model_versions_artifacts"  # renamed in the release that drops secrets managers
        newer = "run_metadata_resource" in self.tables or (
            links in self.tables and self._has(links, "is_deployment_artifact")
        )
        self.has_secrets_managers = not newer
        self.started += timedelta(hours=self.execute("SELECT COUNT(*) FROM pipeline_run", ())[0][0])
        return {name: self._fill(name, rows) for name in self._order() if name not in LEFT_ALONE}

    def _order(self) -> list[str]:
        """Tables after those that they need; foreign keys that may be NULL give way where they go in circles."""
        order: list[str] = []
        waiting = dict(self.tables)
        for optional_too in (True, False) * 50:
            free = [
                name
                for name, table in waiting.items()
                if not any(
                    c.target in waiting and c.target != name and (optional_too or not c.nullable) for c in table.columns
                )
            ]
            order += free
            for name in free:
                del waiting[name]
        assert not waiting
        return order

    def _fill(self, name: str, rows: int) -> int:
        inserted = sum(self._insert(name, variant % 3) for variant in range(rows))
        if name in self.names and not (name in NO_TWINS or (name == "artifact" and not self._has(name, "uri"))):
            inserted += self._insert(name, 0, name=self.names[name])
        if name == "user":
            inserted += self._same_user_twice()
        if name in ("stack", "stack_component") and self._has(name, "is_shared"):
            owner = self.ids["user"][0]
            for variant, of in ((0, owner), (2, owner), (0, None), (0, self.second_user)):
                inserted += self._insert(name, variant, name="default", user_id=of)
        return inserted

    def _same_user_twice(self) -> int:
        """As 0.46.1 left them: 0.47.0 renames the one with 0."""
        kind = next((one for one in self.tables["user"].columns if one.name == "is_service_account"), None)
        if not kind or not kind.nullable:
            return 0
        name = f"zoë {uuid4().hex[:8]}"
        inserted = self._insert("user", 1, name=name) + self._insert("user", 2, name=name)
        self.second_user = self.ids["user"][2]
        return inserted

    def _has(self, table: str, name: str) -> bool:
        return any(column.name == name for column in self.tables[table].columns)

    def _insert(self, name: str, variant: int, /, **given: str | None) -> int:
        """1, or 0 where a unique index or a missing parent forbids the row."""
        self.count += 1
        table = self.tables[name]
        row: dict[str, Any] = {}
        for column in table.columns:
            row[column.name] = value = self._value(name, column, variant, row)
            if value is None and not column.nullable:
                return 0
        row |= given
        for columns, taken in zip(table.unique, table.taken, strict=True):
            key = tuple(row[column] for column in columns)
            if None not in key and key in taken:
                return 0
            taken.add(key)
        listed, marks = ", ".join(f'"{column}"' for column in row), ", ".join([self.mark] * len(row))
        self.execute(f'INSERT INTO "{name}" ({listed}) VALUES ({marks})', list(row.values()))
        if "id" in row:
            self.ids[name].insert(variant, row["id"])
        if "name" in row and variant == 0 and not given:
            self.names[name] = row["name"]
        return 1

    def _value(self, table: str, column: Column, variant: int, row: dict[str, Any]) -> Any:
        special = self._special(table, column, variant, row)
        if special is not _ORDINARY:
            return special
        if column.nullable and variant == 1:
            return None
        if column.target:
            ids = self.ids[column.target]
            own = (variant + (column.name == "child_id")) % max(len(ids), 1)
            return ids[own] if ids and (column.target != table or variant != 0) else None
        if column.name in JSON_TEXTS or f"{table}.{column.name}" in JSON_TEXTS or column.type == "json":
            return json.dumps({"number": self.count, "text": EXOTIC if variant == 2 else "plain", "none": None})
        return self._typed(table, column, variant)

    def _typed(self, table: str, column: Column, variant: int) -> Any:
        if column.type == "boolean":
            return int(variant != 2)
        if column.type in ("integer", "int", "bigint", "tinyint", "smallint"):
            return self.count
        if column.type in ("float", "double"):
            return self.count * 60.0
        if column.type == "datetime":
            return str(self.started + timedelta(seconds=self.count))
        if "blob" in column.type or "binary" in column.type:
            return base64.b64encode(json.dumps({"text": EXOTIC, "number": self.count}).encode())
        if column.size == 32:
            return uuid4().hex
        if variant == 2 and column.name != "name" and column.nullable:
            return ""
        return f"{EXOTIC if variant == 2 else f'{table} {column.name}'} {uuid4().hex[:8]}"[: column.size or None]

    def _special(self, table: str, column: Column, variant: int, row: dict[str, Any]) -> Any:
        name = column.name
        if name == "id" and not column.target:
            return uuid4().hex
        if table in OWNERS and name in OWNERS[table] and column.nullable:
            return self.ids[column.target][variant] if OWNERS[table][variant] == name else None
        if name in ("workspace_id", "project_id"):
            return self.ids[column.target][0]
        if name == "type" and table in KINDS:
            manager = self.has_secrets_managers and variant == 1 and table in ("stack_component", "flavor")
            return "secrets_manager" if manager else KINDS[table][variant]
        if name in ("artifact_store_id", "orchestrator_id", "log_store_id", "deployer_id"):
            kind = {"orchestrator_id": "orchestrator"}.get(name, "artifact_store")
            found = self.execute(f"SELECT MIN(id) FROM stack_component WHERE type = '{kind}'", ())[0][0]
            return None if column.nullable and variant == 1 else found
        if name == "resource_type":
            return RESOURCES.get(table, ("model", "model_version", "pipeline_run"))[variant]
        if name in ("resource_id", "run_metadata_id") and column.size == 32 and name == "resource_id":
            of = RESOURCES.get(table, ("model", "model_version", "pipeline_run"))[variant]
            return self.ids[of][0] if self.ids.get(of) else None
        if name == "secret_id" and not column.target:
            return self.ids["secret"][0] if self.ids["secret"] and variant != 1 else None
        if name == "status":
            return ("completed", "failed", "running")[variant]
        if name == "is_custom":
            return 1
        if name == "scope":
            return ("workspace", "user", "workspace")[variant]
        if name == "orchestrator_run_id":  # NULL with a deployment twice makes 0.54.0 refuse; NULL without is repaired
            return None if variant == 1 else f"run of {uuid4()}"
        if name == "values":
            return base64.b64encode(json.dumps({"key": EXOTIC}).encode()).decode()
        if name == "resource_types":
            return base64.b64encode(b'["s3-bucket"]')
        if name == "tags":
            return None if variant == 1 else json.dumps(["shared", f"tag {variant} 🚀", "größe"][: variant + 2])
        if name == "step_configurations":
            return json.dumps({step: _step(step, variant) for step in ("load", "träin")})
        if name == "step_configuration":
            return None if column.nullable and variant == 1 else json.dumps(_step("load", variant))
        if name == "onboarding_state":
            return "[]"
        if name == "child_key" or (name == "parent_run_id" and variant == 0):
            return None if variant != 2 else uuid4().hex
        return _ORDINARY


_ORDINARY = object()


def _step(name: str, variant: int) -> dict[str, Any]:
    """The configuration of a step, with what migrations rename and rewrite in it."""
    key = ("model_config_model", "model_config", "model_version")[variant]
    inputs: dict[str, Any] = {"given": str(uuid4()), "other": str(uuid4())} if variant == 0 else {}
    config = {"name": name, key: {"name": "churn"}, "external_input_artifacts": inputs, "extra": {"text": EXOTIC}}
    return {"config": config, "spec": {"source": {"module": "m", "attribute": name}, "upstream_steps": []}}


def stamps() -> list[str]:
    """Stamps of the releases, oldest first."""
    listed = json.loads(RELEASES.read_text(encoding="utf-8"))["releases"]
    return list(dict.fromkeys(release["stamp"] for release in listed))


def chain(python: Path, base: Path, folder: Path, refilled: Sequence[str] = REFILLED) -> Path:
    """A folder with the database at every release from that of ``base``; see the top of this file."""
    command = [str(python), str(Path(__file__).resolve()), str(base), str(folder), ",".join(refilled)]
    subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL, timeout=500)
    return folder


def left(folder: Path, stamp: str) -> Path:
    """The database at a release as the chain left it: filled, if it was."""
    filled = folder / f"{stamp}.filled.db"
    return filled if filled.exists() else folder / f"{stamp}.db"


def main(base: str, folder: str, refilled: str) -> None:
    """See the top of this file."""
    from make_schemas import migrations

    kept, wanted = set(stamps()), set(filter(None, refilled.split(",")))
    copy = Path(shutil.copyfile(base, Path(folder, "zenml.db")))
    for revision in migrations(copy):
        if revision in kept:
            shutil.copyfile(copy, Path(folder, f"{revision}.db"))
        if revision in wanted:
            fill(copy)
            shutil.copyfile(copy, Path(folder, f"{revision}.filled.db"))


if __name__ == "__main__":
    main(*sys.argv[1:])
