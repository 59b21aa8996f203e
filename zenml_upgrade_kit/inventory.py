"""What is in a metadata store, through plain read-only SQL: ZenML would migrate the store by looking at it.

The schema changed many times between 0.43.0 and 0.98.0, so what to read is chosen by the tables and columns that are
there, never by the stamp. Secret values, passwords and tokens are not among the columns read.
"""

from __future__ import annotations

import base64
import json
import sqlite3
import sys
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

from packaging.version import Version

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores import Store, sqlite

_NO_LIBRARY = frozenset(sys.stdlib_module_names) | {"zenml", "__main__", "builtins", ""}
Tables = Mapping[str, list[str]]


def take(store: Store) -> dict[str, Any]:
    """Everything a report says about a store, as JSON.

    libraries: distribution name (import name where the store does not know it) to the version that wrote the newest
    artifact of it, "" where none was recorded.
    python_versions, zenml_versions: how many runs recorded each. Times are UTC as stored.
    Raises :class:`StoreUnreadable`.
    """
    try:
        with closing(sqlite.connect(store.path)) as connection:
            connection.execute("BEGIN")
            tables = sqlite.tables(connection)
            stamps = sqlite.stamps(connection)
            zenml_versions = _recorded(connection, tables, "client_version")
            return {
                "stamps": stamps,
                "source_version": source_version(stamps[0], zenml_versions) if stamps else "",
                "database_bytes": store.path.stat().st_size,
                "tables": sqlite.counts(connection),
                "runs_by_status": dict(_pairs(connection, tables, "pipeline_run", "status")),
                "pipelines": _pipelines(connection, tables),
                "artifacts_by_type": _artifacts_by_type(connection, tables),
                "stacks": _stacks(connection, tables),
                "users": _users(connection, tables),
                "schedules": _schedules(connection, tables),
                "libraries": _libraries(connection, tables),
                "python_versions": _python_versions(connection, tables),
                "zenml_versions": zenml_versions,
            }
    except sqlite3.Error as error:
        raise sqlite.unreadable(store.path, error) from None


def recorded_versions(store: Store) -> list[str]:
    """The ZenML releases that runs recorded; empty where they cannot be read."""
    try:
        with closing(sqlite.connect(store.path)) as connection:
            return list(_recorded(connection, sqlite.tables(connection), "client_version"))
    except (sqlite3.Error, StoreUnreadable):
        return []


def source_version(stamp: str, recorded: Iterable[str] = ()) -> str:
    """The release that wrote a stamp; where several share it, the one that runs recorded. Unknown stamps stay as is."""
    release = releases.for_stamp(stamp)
    sharing = [item.version for item in releases.all() if item.stamp == stamp]
    seen = [version for version in recorded if version in sharing]
    return max(seen, key=Version) if seen else release.version if release else stamp


def artifacts(connection: sqlite3.Connection, local_stores: Path) -> list[dict[str, Any]]:
    """Every artifact version, oldest first.

    id, store_id: UUIDs with dashes. version: "" before 0.50.0, which had none. type: ZenML's kind (``DataArtifact``).
    data_type, materializer: ``{"module", "attribute", "type"}`` and, where recorded, ``package_name`` and ``version``.
    store_flavor, store_root: of its artifact store, None where that is gone; a local store without a path of its own
    lies in ``local_stores``.
    """
    tables = sqlite.tables(connection)
    stores = _artifact_stores(connection, tables, local_stores)
    source_of = cache(_source)  # few different texts in many rows
    if "artifact_version" in tables:
        source = "artifact_version AS v LEFT JOIN artifact AS a ON a.id = v.artifact_id"
        name, version = "a.name", "v.version"
    else:  # before 0.51.0 a row of artifact is what is now a version
        source = "artifact AS v"
        name, version = "v.name", "v.version" if "version" in tables.get("artifact", []) else "''"
    if "artifact" not in tables:
        return []
    rows = connection.execute(
        f"SELECT v.id, {name} AS name, {version} AS version, v.type, v.data_type, v.materializer, v.uri,"
        f" v.artifact_store_id AS store_id FROM {source} ORDER BY v.created, v.id"
    )
    return [
        {
            **dict(row),
            "id": dashed(row["id"]),
            "version": str(row["version"] if row["version"] is not None else ""),
            "data_type": source_of(row["data_type"]),
            "materializer": source_of(row["materializer"]),
            "store_id": dashed(row["store_id"]),
            **stores.get(row["store_id"], {"store_flavor": None, "store_root": None}),
        }
        for row in rows
    ]


def runs(
    connection: sqlite3.Connection, *, pipeline: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Runs, newest first, with their steps in order and what each step wrote; one pipeline's only when named.

    A step that was taken from the cache names the step it came from in ``original_step_run_id``.
    """
    tables = sqlite.tables(connection)
    if "pipeline_run" not in tables:
        return []
    chosen = (
        "FROM pipeline_run AS r LEFT JOIN pipeline AS p ON p.id = r.pipeline_id"
        " WHERE :pipeline IS NULL OR p.name = :pipeline ORDER BY r.created DESC, r.id LIMIT :limit"
    )
    values = {"pipeline": pipeline, "limit": -1 if limit is None else limit}
    found = {
        row["id"]: {**dict(row), "id": dashed(row["id"]), "steps": []}
        for row in connection.execute(
            f"SELECT r.id, r.name, p.name AS pipeline, r.status, r.start_time {chosen}", values
        )
    }
    outputs: dict[str, list[dict[str, Any]]] = {}
    of_runs = f"pipeline_run_id IN (SELECT r.id {chosen})"
    for row in connection.execute(
        "SELECT o.step_id, o.name, o.artifact_id FROM step_run_output_artifact AS o"
        f" JOIN step_run AS s ON s.id = o.step_id WHERE s.{of_runs} ORDER BY o.name",
        values,
    ):
        output = {"name": row["name"], "artifact_version_id": dashed(row["artifact_id"])}
        outputs.setdefault(row["step_id"], []).append(output)
    for row in connection.execute(
        "SELECT id, pipeline_run_id, name, status, original_step_run_id FROM step_run"
        f" WHERE {of_runs} ORDER BY start_time, created",
        values,
    ):
        found[row["pipeline_run_id"]]["steps"].append(
            {
                "id": dashed(row["id"]),
                "name": row["name"],
                "status": row["status"],
                "outputs": outputs.get(row["id"], []),
                "original_step_run_id": dashed(row["original_step_run_id"]),
            }
        )
    return list(found.values())


def dashed(value: str | None) -> str | None:
    """A UUID as ZenML's API writes it; the database keeps 32 hex characters."""
    try:
        return str(uuid.UUID(value)) if value else None
    except ValueError:
        return value


def _source(text: str | None) -> dict[str, Any]:
    """A stored source; plain dotted names, as very old releases wrote them, become the same shape."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if isinstance(value, dict):
        return value
    module, _, attribute = str(text).rpartition(".")
    return {"module": module, "attribute": attribute, "type": "unknown"}


def _pairs(connection: sqlite3.Connection, tables: Tables, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Distinct values of columns and how often they occur, most often first; nothing when one of them is missing."""
    if not set(columns) <= set(tables.get(table, [])):
        return []
    names = ", ".join(map(sqlite.quoted, columns))
    query = f"SELECT {names}, COUNT(*) AS n FROM {sqlite.quoted(table)} GROUP BY {names} ORDER BY n DESC, {names}"
    return [tuple(row) for row in connection.execute(query)]


def _pipelines(connection: sqlite3.Connection, tables: Tables) -> list[dict[str, Any]]:
    if not {"pipeline", "pipeline_run"} <= set(tables):
        return []
    rows = connection.execute(
        "SELECT p.name, COUNT(r.id) AS runs, MAX(r.created) AS newest, r.start_time AS last_run,"
        " r.status AS last_status FROM pipeline AS p LEFT JOIN pipeline_run AS r ON r.pipeline_id = p.id"
        " GROUP BY p.name ORDER BY p.name"
    )  # SQLite takes the bare columns from the row that has the maximum
    return [{key: row[key] for key in ("name", "runs", "last_run", "last_status")} for row in rows]


def _artifacts_by_type(connection: sqlite3.Connection, tables: Tables) -> list[dict[str, Any]]:
    counted: Counter[tuple[str, str]] = Counter()
    for materializer, data_type, count in _pairs(connection, tables, _versions(tables), "materializer", "data_type"):
        counted[_dotted(materializer), _dotted(data_type)] += count
    return [{"materializer": key[0], "type": key[1], "count": count} for key, count in counted.most_common()]


def _versions(tables: Tables) -> str:
    return "artifact_version" if "artifact_version" in tables else "artifact"


def _dotted(text: str | None) -> str:
    source = _source(text)
    return ".".join(filter(None, (source.get("module"), source.get("attribute"))))


def _stacks(connection: sqlite3.Connection, tables: Tables) -> list[dict[str, Any]]:
    if not {"stack", "stack_composition", "stack_component"} <= set(tables):
        return []
    rows = connection.execute(
        "SELECT s.id, s.name AS stack, c.name, c.type, c.flavor FROM stack AS s"
        " LEFT JOIN stack_composition AS m ON m.stack_id = s.id LEFT JOIN stack_component AS c ON c.id = m.component_id"
        " ORDER BY s.name, s.id, c.type, c.name"
    )
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        stack = found.setdefault(row["id"], {"name": row["stack"], "components": []})
        if row["type"]:
            stack["components"].append({key: row[key] for key in ("name", "type", "flavor")})
    return list(found.values())


def _users(connection: sqlite3.Connection, tables: Tables) -> list[str]:
    return [name for name, _ in sorted(_pairs(connection, tables, "user", "name"))]


def _schedules(connection: sqlite3.Connection, tables: Tables) -> list[dict[str, Any]]:
    if not {"schedule", "pipeline"} <= set(tables):
        return []
    rows = connection.execute(
        "SELECT s.name, s.active, s.cron_expression, s.interval_second, p.name AS pipeline"
        " FROM schedule AS s LEFT JOIN pipeline AS p ON p.id = s.pipeline_id ORDER BY s.name"
    )
    return [{**dict(row), "active": bool(row["active"])} for row in rows]


def _libraries(connection: sqlite3.Connection, tables: Tables) -> dict[str, str]:
    table = _versions(tables)
    if not {"materializer", "data_type", "created"} <= set(tables.get(table, [])):
        return {}
    found: dict[str, str] = {}
    for column in ("materializer", "data_type"):
        query = f"SELECT {column}, MAX(created) AS newest FROM {table} GROUP BY {column} ORDER BY newest"
        for row in connection.execute(query):
            source = _source(row[0])
            root = str(source.get("module") or "").split(".")[0]
            if root not in _NO_LIBRARY and source.get("type") in ("distribution_package", "unknown"):
                name = str(source.get("package_name") or root)
                found[name] = str(source.get("version") or found.get(name, ""))
    return dict(sorted(found.items()))


def _python_versions(connection: sqlite3.Connection, tables: Tables) -> dict[str, int]:
    """Pythons that runs recorded: the orchestrator's, where steps and so artifacts were made, else the client's."""
    texts = _pairs(connection, tables, "pipeline_run", "orchestrator_environment")
    counted = _counted((_environment(text).get("python_version"), count) for text, count in texts)
    return counted or _counted(
        (_environment(text).get("python_version"), count)
        for table in ("pipeline_run", "pipeline_deployment", "pipeline_snapshot")
        for text, count in _pairs(connection, tables, table, "client_environment")
    )


def _environment(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _recorded(connection: sqlite3.Connection, tables: Tables, column: str) -> dict[str, int]:
    """A column that moved from the run (0.43) to its deployment (0.45.0), which became a snapshot (0.90.0)."""
    return _counted(
        pair
        for table in ("pipeline_run", "pipeline_deployment", "pipeline_snapshot")
        for pair in _pairs(connection, tables, table, column)
    )


def _counted(pairs: Iterable[tuple[Any, ...]]) -> dict[str, int]:
    counted: Counter[str] = Counter()
    for value, count in pairs:
        if value:
            counted[str(value)] += count
    return dict(counted.most_common())


def _artifact_stores(
    connection: sqlite3.Connection, tables: Tables, local_stores: Path
) -> dict[str, dict[str, str | None]]:
    if "stack_component" not in tables:
        return {}
    found: dict[str, dict[str, str | None]] = {}
    for row in connection.execute(
        "SELECT id, flavor, configuration FROM stack_component WHERE type = 'artifact_store'"
    ):
        try:
            path = json.loads(base64.b64decode(row["configuration"] or b"")).get("path")
        except (ValueError, AttributeError):
            path = None
        if not path and row["flavor"] == "local":
            path = str(local_stores / str(dashed(row["id"])))
        found[row["id"]] = {"store_flavor": row["flavor"], "store_root": path}
    return found
