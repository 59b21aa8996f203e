"""What is in a metadata store, through plain read-only SQL: ZenML would migrate the store by looking at it.

The schema changed many times between 0.43.0 and 0.98.0, so what to read is chosen by the tables and columns that are
there, never by the stamp. Secret values, passwords and tokens are not among the columns read.
"""

from __future__ import annotations

import sqlite3
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from packaging.version import Version

from zenml_upgrade_kit import releases, stores
from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.inventory.columns import dashed, decoded, exactly, parsed, source_of, time_of
from zenml_upgrade_kit.inventory.rows import (
    artifact_stores,
    artifacts,
    last_made,
    newest_runs,
    run_ids,
    runs,
    versions_table,
)
from zenml_upgrade_kit.stores import Reader, Store, mysql, sqlite

__all__ = ["NO_LIBRARY", "artifact_stores", "artifacts", "belongings", "dashed", "decoded", "last_made", "newest_runs"]
__all__ += ["recorded_versions", "run_ids", "runs", "secrets_store", "source_of", "source_version", "stamp"]
__all__ += ["store_section", "take", "versions_table", "written_by"]

NO_LIBRARY = frozenset(sys.stdlib_module_names) | {"zenml", "__main__", "builtins", ""}


def take(store: Store) -> dict[str, Any]:
    """Everything a report says about a store, as JSON.

    libraries: distribution name (import name where the store does not know it) to the version that wrote the newest
    artifact of it, "" where none was recorded. python_versions: how many runs recorded each, of the orchestrator where
    steps and so artifacts were made, else of the client. zenml_versions: likewise. Times are UTC as stored.
    Raises :class:`StoreUnreadable`, also when tables that every release has are missing.
    """
    with _reading(store) as connection:
        stamps, counted = stores.stamps(connection), _counts(connection)
        zenml_versions = _recorded(connection, "client_version")
        pythons = _recorded(connection, "orchestrator_environment", "python_version")
        pythons = pythons or _recorded(connection, "client_environment", "python_version")
        versions = versions_table(counted)
        return {
            "stamps": stamps,
            "source_version": source_version(stamps[0], zenml_versions) if stamps else "",
            "database_bytes": _bytes(store, connection),
            "tables": counted,
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


@contextmanager
def _reading(store: Store) -> Iterator[Reader]:
    """A connection that sees one moment of a store; raises :class:`StoreUnreadable`, also for what is asked of it."""
    try:
        with stores.moment(store.database) as connection:
            yield connection
    except sqlite3.Error as error:
        raise sqlite.unreadable(store.path, error) from None


def recorded_versions(store: Store) -> list[str]:
    """The ZenML releases that runs recorded; empty where they cannot be read."""
    try:
        with _reading(store) as connection:
            return list(_recorded(connection, "client_version"))
    except StoreUnreadable:
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
    versions = versions_table(held)
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
    section = store_section(config_yaml).get("secrets_store")
    return str(section.get("type", "")) if isinstance(section, dict) else ""


def store_section(config_yaml: Path) -> dict[str, Any]:
    """What a config.yaml says of its store, password included; empty when it says nothing.

    Raises :class:`StoreUnreadable` for one that cannot be read.
    """
    try:
        config = yaml.safe_load(config_yaml.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise StoreUnreadable(
            f"{config_yaml} cannot be read",
            expected="readable YAML, key: value lines",
            found=type(error).__name__,  # a YAML error quotes the line, and the line may be a password
            remedy="correct the file, as ZenML reads it too",
        ) from None
    section = (config if isinstance(config, dict) else {}).get("store")
    return section if isinstance(section, dict) else {}


def source_version(stamp: str, recorded: Iterable[str] = ()) -> str:
    """The release that wrote a stamp; where several share it, the one that runs recorded. Unknown stamps stay as is."""
    release = releases.for_stamp(stamp)
    sharing = [item.version for item in releases.all() if item.stamp == stamp]
    seen = [version for version in recorded if version in sharing]
    return max(seen, key=Version) if seen else release.version if release else stamp


def _counts(connection: Reader) -> dict[str, int]:
    """Rows of every table."""
    query = "SELECT COUNT(*) FROM "
    return {name: next(iter(connection.execute(query + stores.quoted(name))))[0] for name in stores.tables(connection)}


def _bytes(store: Store, connection: Reader) -> int:
    """Size of the database; of a server's as it estimates."""
    return store.file.stat().st_size if store.file else sum(mysql.sizes(connection).values())  # type: ignore[arg-type]


def _distinct(connection: Reader, table: str, *columns: str) -> list[tuple[Any, ...]]:
    """Distinct values of columns and how often they occur, most often first."""
    values = ", ".join(f"MIN({stores.quoted(column)})" for column in columns)
    keys = ", ".join(exactly(connection, column) for column in columns)
    rows = connection.execute(f"SELECT {values}, COUNT(*) FROM {stores.quoted(table)} GROUP BY {keys}")
    return sorted(map(tuple, rows), key=lambda row: (-row[-1], [(one is not None, str(one)) for one in row[:-1]]))


def _recorded(connection: Reader, column: str, key: str = "") -> dict[str, int]:
    """What runs recorded in a column, or under a key of its JSON, and how often, most often first.

    Columns moved from the run (0.43) to its deployment (0.45.0), which became a snapshot (0.90.0).
    """
    counted: Counter[str] = Counter()
    for table, columns in stores.tables(connection).items():
        if table in ("pipeline_run", "pipeline_deployment", "pipeline_snapshot") and column in columns:
            for value, count in _distinct(connection, table, column):
                if found := (parsed(value) or {}).get(key) if key else value:
                    counted[str(found)] += count
    return dict(counted.most_common())


def _pipelines(connection: Reader) -> list[dict[str, Any]]:
    newest, counted = newest_runs(connection), Counter[str]()
    query = (
        "SELECT p.name, COUNT(r.id) FROM pipeline AS p LEFT JOIN pipeline_run AS r ON r.pipeline_id = p.id"
        " GROUP BY p.id, p.name"
    )
    for name, number in connection.execute(query):  # before 0.63.0 a pipeline has a row for each version
        counted[name] += number
    return [
        {
            "name": name,
            "runs": counted[name],
            "last_run": newest.get(name, {}).get("start_time"),
            "last_status": newest.get(name, {}).get("status"),
        }
        for name in sorted(counted)
    ]


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
        query = f"SELECT MIN({column}), MAX(created) FROM {versions} GROUP BY {exactly(connection, column)}"
        for _, text in sorted((time_of(newest) or "", text or "") for text, newest in connection.execute(query)):
            source = source_of(text)
            root = str(source.get("module") or "").split(".")[0]
            if root not in NO_LIBRARY and source.get("type") in ("distribution_package", "unknown"):
                name = str(source.get("package_name") or root)
                found[name] = str(source.get("version") or found.get(name, ""))
    return dict(sorted(found.items()))
