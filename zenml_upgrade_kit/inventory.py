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
from collections.abc import Iterable
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from zenml_upgrade_kit import releases, stores
from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores import Reader, Store, sqlite

NO_LIBRARY = frozenset(sys.stdlib_module_names) | {"zenml", "__main__", "builtins", ""}


def take(store: Store) -> dict[str, Any]:
    """Everything a report says about a store, as JSON.

    libraries: distribution name (import name where the store does not know it) to the version that wrote the newest
    artifact of it, "" where none was recorded. python_versions: how many runs recorded each, of the orchestrator where
    steps and so artifacts were made, else of the client. zenml_versions: likewise. Times are UTC as stored.
    Raises :class:`StoreUnreadable`, also when tables that every release has are missing.
    """
    try:
        with closing(sqlite.connect(store.path)) as connection:
            connection.execute("BEGIN")
            stamps = stores.stamps(connection)
            zenml_versions = _recorded(connection, "client_version")
            pythons = _recorded(connection, "orchestrator_environment", "python_version")
            pythons = pythons or _recorded(connection, "client_environment", "python_version")
            versions = "artifact_version" if "artifact_version" in stores.tables(connection) else "artifact"
            return {
                "stamps": stamps,
                "source_version": source_version(stamps[0], zenml_versions) if stamps else "",
                "database_bytes": store.path.stat().st_size,
                "tables": sqlite.counts(connection),
                "runs_by_status": dict(_distinct(connection, "pipeline_run", "status")),
                "pipelines": _pipelines(connection),
                "artifacts_by_type": _artifacts_by_type(connection, versions),
                "stacks": _stacks(connection),
                "users": sorted(name for name, _ in _distinct(connection, "user", "name")),
                "schedules": _schedules(connection),
                "libraries": _libraries(connection, versions),
                "python_versions": pythons,
                "zenml_versions": zenml_versions,
            }
    except sqlite3.Error as error:
        raise sqlite.unreadable(store.path, error) from None


def recorded_versions(store: Store) -> list[str]:
    """The ZenML releases that runs recorded; empty where they cannot be read."""
    try:
        with closing(sqlite.connect(store.path)) as connection:
            return list(_recorded(connection, "client_version"))
    except (sqlite3.Error, StoreUnreadable):
        return []


def stamp(connection: Reader) -> str:
    """The revision of the database; several are joined, none is ""."""
    return ", ".join(stores.stamps(connection))


def written_by(connection: Reader) -> str:
    """The release that wrote the database, "" when it has no stamp."""
    found = stores.stamps(connection)
    return source_version(found[0], _recorded(connection, "client_version")) if found else ""


def belongings(connection: Reader, local_stores: Path) -> dict[str, Any]:
    """What a backup says of the things around a database; empty for a database that is not ZenML's.

    stacks: names, components and their configurations, enough to register them again; they may hold secrets.
    artifact_stores: ``name``, ``flavor``, ``root``, ``versions`` (how many artifact versions lie there). images: how
    many builds made container images. secrets: how many are ``readable`` in the database, how many ``encrypted``.
    """
    held = stores.tables(connection)
    if not {"stack", "stack_component", "stack_composition"} <= held.keys():
        return {"stacks": {}, "artifact_stores": [], "images": 0, "secrets": {}}
    versions = "artifact_version" if "artifact_version" in held else "artifact"
    counted = {row[0]: row[1] for row in _distinct(connection, versions, "artifact_store_id")}
    places = artifact_stores(connection, local_stores)
    query = "SELECT id, name, type, flavor, configuration FROM stack_component ORDER BY type, name"
    components = [
        {**dict(zip(("id", "name", "type", "flavor"), row, strict=False)), "configuration": decoded(row[4])}
        for row in connection.execute(query)
    ]
    query = (
        "SELECT s.name, m.component_id FROM stack AS s JOIN stack_composition AS m ON m.stack_id = s.id ORDER BY s.name"
    )
    stacks: dict[str, list[str]] = {}
    for name, component in connection.execute(query):
        stacks.setdefault(name, []).append(component)
    readable = [
        decoded(row[0]) is not None
        for row in (connection.execute('SELECT "values" FROM secret') if "secret" in held else ())
    ]
    images = "SELECT COUNT(*) FROM pipeline_build WHERE is_local = 0"
    return {
        "stacks": {"stacks": stacks, "components": components},
        "artifact_stores": [
            {
                "name": one["name"],
                "flavor": one["flavor"],
                "root": places[one["id"]]["store_root"],
                "versions": counted.get(one["id"], 0),
            }
            for one in components
            if one["type"] == "artifact_store"
        ],
        "images": next(iter(connection.execute(images)))[0] if "pipeline_build" in held else 0,
        "secrets": {"readable": sum(readable), "encrypted": len(readable) - sum(readable)},
    }


def secrets_store(config_yaml: Path) -> str:
    """The kind of secrets store that a config.yaml names, such as ``aws``; "" when it names none."""
    config = yaml.safe_load(config_yaml.read_text(encoding="utf-8"))
    store = (config if isinstance(config, dict) else {}).get("store")
    section = store.get("secrets_store") if isinstance(store, dict) else None
    return str(section.get("type", "")) if isinstance(section, dict) else ""


def decoded(value: str | bytes | None) -> Any:
    """What base64 of JSON holds; None for anything else, an encrypted value for example."""
    try:
        return json.loads(base64.b64decode(value or b"", validate=True))
    except ValueError:
        return None


def source_version(stamp: str, recorded: Iterable[str] = ()) -> str:
    """The release that wrote a stamp; where several share it, the one that runs recorded. Unknown stamps stay as is."""
    release = releases.for_stamp(stamp)
    sharing = [item.version for item in releases.all() if item.stamp == stamp]
    seen = [version for version in recorded if version in sharing]
    return max(seen, key=Version) if seen else release.version if release else stamp


def artifacts(
    connection: Reader, local_stores: Path, only: str = "1 = 1 ORDER BY v.created, v.id"
) -> list[dict[str, Any]]:
    """Every artifact version, oldest first, or those that a condition in SQL names, in its order.

    id, store_id: UUIDs with dashes. version: "" before 0.50.0, which had none. type: ZenML's kind (``DataArtifact``).
    data_type, materializer: ``{"module", "attribute", "type"}`` and, where recorded, ``package_name`` and ``version``.
    store_flavor, store_root: of its artifact store, None where that is gone; a local store without a path of its own
    lies in ``local_stores``. created: UTC as stored.
    """
    tables = stores.tables(connection)
    places = artifact_stores(connection, local_stores)
    if "artifact_version" in tables:
        source, name = "artifact_version AS v LEFT JOIN artifact AS a ON a.id = v.artifact_id", "a.name"
    else:  # before 0.51.0 a row of artifact is what is now a version
        source, name = "artifact AS v", "v.name"
    version = "v.version" if "version" in (tables.get("artifact_version") or tables["artifact"]) else "NULL"
    rows = connection.execute(
        f"SELECT v.id, {name}, {version}, v.type, v.data_type, v.materializer, v.uri, v.artifact_store_id, v.created"
        f" FROM {source} WHERE {only}"
    )
    return [
        {
            "id": dashed(key),
            "name": name,
            "version": str(version if version is not None else ""),
            "type": kind,
            "data_type": _shared(data_type),
            "materializer": _shared(materializer),
            "uri": uri,
            "store_id": dashed(store),
            **places.get(store, {"store_flavor": None, "store_root": None}),
            "created": str(created),
        }
        for key, name, version, kind, data_type, materializer, uri, store, created in rows
    ]


def runs(connection: Reader) -> list[dict[str, Any]]:
    """Runs, newest first, with their steps in order and what each step wrote.

    A step that was taken from the cache names the step it came from in ``original_step_run_id``.
    """
    outputs: dict[str, list[dict[str, Any]]] = {}
    query = "SELECT step_id, name, artifact_id FROM step_run_output_artifact ORDER BY name"
    for step, name, artifact in connection.execute(query):
        outputs.setdefault(step, []).append({"name": name, "artifact_version_id": dashed(artifact)})
    steps: dict[str, list[dict[str, Any]]] = {}
    query = "SELECT id, pipeline_run_id, name, status, original_step_run_id FROM step_run ORDER BY start_time, created"
    for key, run, name, status, original in connection.execute(query):
        step = {"id": dashed(key), "name": name, "status": status, "outputs": outputs.get(key, [])}
        steps.setdefault(run, []).append({**step, "original_step_run_id": dashed(original)})
    query = (
        "SELECT r.id, r.name, p.name AS pipeline, r.status, r.start_time FROM pipeline_run AS r"
        " LEFT JOIN pipeline AS p ON p.id = r.pipeline_id ORDER BY r.created DESC, r.id"
    )
    return [
        {**dict(row), "id": dashed(row["id"]), "steps": steps.get(row["id"], [])} for row in connection.execute(query)
    ]


def dashed(value: str | None) -> str | None:
    """A UUID as ZenML's API writes it; the database keeps 32 hex characters."""
    try:
        return str(uuid.UUID(value)) if value else None
    except ValueError:
        return value


def _parsed(text: str | bytes | None) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def source_of(text: str | None) -> dict[str, Any]:
    """A stored source; plain dotted names, as very old releases wrote them, become the same shape."""
    value = _parsed(text)
    if value is None:
        module, _, attribute = str(text).rpartition(".")
        value = {"module": module, "attribute": attribute, "type": "unknown"}
    return value


_shared = lru_cache(1024)(source_of)
"""Few different texts are in many rows."""


def _distinct(connection: Reader, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Distinct values of columns and how often they occur, most often first."""
    names = ", ".join(map(stores.quoted, columns))
    query = f"SELECT {names}, COUNT(*) AS n FROM {stores.quoted(table)} GROUP BY {names} ORDER BY n DESC, {names}"
    return [tuple(row) for row in connection.execute(query)]


def _recorded(connection: Reader, column: str, key: str = "") -> dict[str, int]:
    """What runs recorded in a column, or under a key of its JSON, and how often, most often first.

    Columns moved from the run (0.43) to its deployment (0.45.0), which became a snapshot (0.90.0).
    """
    counted: Counter[str] = Counter()
    for table, columns in stores.tables(connection).items():
        if table in ("pipeline_run", "pipeline_deployment", "pipeline_snapshot") and column in columns:
            for value, count in _distinct(connection, table, column):
                if found := (_parsed(value) or {}).get(key) if key else value:
                    counted[str(found)] += count
    return dict(counted.most_common())


def _pipelines(connection: Reader) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT p.name, COUNT(r.id) AS runs, MAX(r.created) AS newest, r.start_time AS last_run,"
        " r.status AS last_status FROM pipeline AS p LEFT JOIN pipeline_run AS r ON r.pipeline_id = p.id"
        " GROUP BY p.name ORDER BY p.name"
    )  # SQLite takes the bare columns from the row that has the maximum
    return [{key: row[key] for key in ("name", "runs", "last_run", "last_status")} for row in rows]


def _artifacts_by_type(connection: Reader, versions: str) -> list[dict[str, Any]]:
    counted: Counter[tuple[str, ...]] = Counter()
    for *texts, count in _distinct(connection, versions, "materializer", "data_type"):
        sources = map(source_of, texts)
        counted[tuple(".".join(filter(None, (it.get("module"), it.get("attribute")))) for it in sources)] += count
    return [{"materializer": key[0], "type": key[1], "count": count} for key, count in counted.most_common()]


def _stacks(connection: Reader) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT s.id, s.name AS stack, c.name, c.type, c.flavor FROM stack AS s"
        " LEFT JOIN stack_composition AS m ON m.stack_id = s.id LEFT JOIN stack_component AS c ON c.id = m.component_id"
        " ORDER BY s.name, s.id, c.type, c.name"
    )
    found: dict[str, dict[str, Any]] = {}
    for key, stack, name, kind, flavor in rows:
        components = found.setdefault(key, {"name": stack, "components": []})["components"]
        if kind:
            components.append({"name": name, "type": kind, "flavor": flavor})
    return list(found.values())


def _schedules(connection: Reader) -> list[dict[str, Any]]:
    rows = connection.execute(
        "SELECT s.name, s.active, s.cron_expression, s.interval_second, p.name AS pipeline"
        " FROM schedule AS s LEFT JOIN pipeline AS p ON p.id = s.pipeline_id ORDER BY s.name"
    )
    return [{**dict(row), "active": bool(row["active"])} for row in rows]


def _libraries(connection: Reader, versions: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for column in ("materializer", "data_type"):
        query = f"SELECT {column}, MAX(created) AS newest FROM {versions} GROUP BY {column} ORDER BY newest"
        for text, _ in connection.execute(query):
            source = source_of(text)
            root = str(source.get("module") or "").split(".")[0]
            if root not in NO_LIBRARY and source.get("type") in ("distribution_package", "unknown"):
                name = str(source.get("package_name") or root)
                found[name] = str(source.get("version") or found.get(name, ""))
    return dict(sorted(found.items()))


def artifact_stores(connection: Reader, local_stores: Path) -> dict[str, dict[str, str | None]]:
    """``store_flavor`` and ``store_root`` of every registered artifact store, by the id that the database has."""
    query = "SELECT id, flavor, configuration FROM stack_component WHERE type = 'artifact_store'"
    found: dict[str, dict[str, str | None]] = {}
    for key, flavor, configuration in connection.execute(query):
        config = decoded(configuration)
        path = config.get("path") if isinstance(config, dict) else None
        if not path and flavor == "local":
            path = str(local_stores / str(dashed(key)))
        found[key] = {"store_flavor": flavor, "store_root": path}
    return found
