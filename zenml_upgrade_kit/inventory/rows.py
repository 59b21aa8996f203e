"""Artifact versions, where they are, and runs: as a metadata store lists them, whatever its schema."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from functools import lru_cache
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import stores
from zenml_upgrade_kit.inventory.columns import dashed, decoded, source_of, time_of
from zenml_upgrade_kit.stores import Reader

_shared = lru_cache(1024)(source_of)
"""Few different texts are in many rows."""


def artifacts(
    connection: Reader, local_stores: Path, only: str = "1 = 1 ORDER BY v.created, v.id"
) -> list[dict[str, Any]]:
    """Every artifact version, oldest first, or those that a condition in SQL names, in its order.

    id, store_id: UUIDs with dashes. version: "" before 0.50.0, which had none. type: ZenML's kind (``DataArtifact``).
    data_type, materializer: ``{"module", "attribute", "type"}`` and, where recorded, ``package_name`` and ``version``.
    store_flavor, store_root: of its artifact store, None where that is gone; a local store without a path of its own
    lies in ``local_stores``, and where these are not known (empty) wherever its URI says. created: UTC as stored.
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
            **_rooted(places.get(store, {"store_flavor": None, "store_root": None}), uri, dashed(store)),
            "created": str(created),
        }
        for key, name, version, kind, data_type, materializer, uri, store, created in rows
    ]


def runs(connection: Reader, ids: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Runs, newest first, with their steps in order and what each step wrote; where ids are given, only these runs.

    A step that was taken from the cache names the step it came from in ``original_step_run_id``.
    """
    listed = ", ".join(f"'{uuid.UUID(key).hex}'" for key in ids or ()) or "''"
    of_run, only = ("1 = 1", "1 = 1") if ids is None else (f"s.pipeline_run_id IN ({listed})", f"r.id IN ({listed})")
    outputs: dict[str, list[dict[str, Any]]] = {}
    query = (
        "SELECT o.step_id, o.name, o.artifact_id FROM step_run_output_artifact AS o"
        f" JOIN step_run AS s ON s.id = o.step_id WHERE {of_run} ORDER BY o.name"
    )
    for step, name, artifact in connection.execute(query):
        outputs.setdefault(step, []).append({"name": name, "artifact_version_id": dashed(artifact)})
    steps: dict[str, list[dict[str, Any]]] = {}
    query = (
        "SELECT s.id, s.pipeline_run_id, s.name, s.status, s.original_step_run_id FROM step_run AS s"
        f" WHERE {of_run} ORDER BY s.start_time, s.created"
    )
    for key, run, name, status, original in connection.execute(query):
        step = {"id": dashed(key), "name": name, "status": status, "outputs": outputs.get(key, [])}
        steps.setdefault(run, []).append({**step, "original_step_run_id": dashed(original)})
    query = (
        "SELECT r.id, r.name, p.name AS pipeline, r.status, r.start_time FROM pipeline_run AS r"
        f" LEFT JOIN pipeline AS p ON p.id = r.pipeline_id WHERE {only} ORDER BY r.created DESC, r.id"
    )
    return [
        {
            **dict(row),
            "id": dashed(row["id"]),
            "start_time": time_of(row["start_time"]),
            "steps": steps.get(row["id"], []),
        }
        for row in connection.execute(query)
    ]


def run_ids(connection: Reader) -> set[str]:
    """The ids of all runs."""
    return {str(dashed(row[0])) for row in connection.execute("SELECT id FROM pipeline_run")}


def newest_runs(connection: Reader, until: str = "") -> dict[str, dict[str, Any]]:
    """The newest run of every pipeline, by the pipeline's name: ``id``, ``start_time``, ``status``.

    until: runs that were made later do not count; as :func:`last_made` says it.
    """
    made = f"WHERE created <= '{until}'" if until else ""
    rows = connection.execute(
        "SELECT p.name, r.id, r.start_time, r.status FROM pipeline_run AS r JOIN pipeline AS p ON p.id = r.pipeline_id"
        f" JOIN (SELECT pipeline_id, MAX(created) AS newest FROM pipeline_run {made} GROUP BY pipeline_id) AS n"
        " ON n.pipeline_id = r.pipeline_id AND n.newest = r.created ORDER BY r.created, r.id DESC"
    )  # of two of one moment, and of versions of one pipeline, the last counts
    return {name: {"id": dashed(key), "start_time": time_of(at), "status": status} for name, key, at, status in rows}


def last_made(connection: Reader) -> str:
    """When the newest run was made, UTC as stored; "" where there is none."""
    return time_of(next(iter(connection.execute("SELECT MAX(created) FROM pipeline_run")))[0]) or ""


def versions_table(tables: Collection[str]) -> str:
    """The table of artifact versions: before 0.51.0 a row of artifact is what is now a version."""
    return "artifact_version" if "artifact_version" in tables else "artifact"


def artifact_stores(connection: Reader, local_stores: Path) -> dict[str, dict[str, str | None]]:
    """``store_flavor`` and ``store_root`` of every registered artifact store, by the id that the database has.

    The root is "" where it is below a folder that nobody named: ``local_stores`` is empty for the URL of a server.
    """
    query = "SELECT id, flavor, configuration FROM stack_component WHERE type = 'artifact_store'"
    found: dict[str, dict[str, str | None]] = {}
    for key, flavor, configuration in connection.execute(query):
        config = decoded(configuration)
        path = config.get("path") if isinstance(config, dict) else None
        if not path and flavor == "local":
            path = str(local_stores / str(dashed(key))) if local_stores != Path() else ""
        found[key] = {"store_flavor": flavor, "store_root": path}
    return found


def _rooted(place: dict[str, str | None], uri: str, store: str | None) -> dict[str, str | None]:
    """Where nobody named the local stores folder, it is the one that this artifact was written into."""
    if place["store_root"] != "":
        return place
    folder, below, _ = uri.partition(f"/{store}/")
    return {**place, "store_root": f"{folder}/{store}" if below else uri}
