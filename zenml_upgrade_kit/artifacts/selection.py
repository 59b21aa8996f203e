"""Which artifact versions are looked at: the rows of a store page by page, a sample of them, and shards of it."""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import inventory, stores
from zenml_upgrade_kit.stores import Reader

Row = dict[str, Any]
PAGE = 20_000
"""Rows of a few columns that are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Which artifact versions are enough; one that every setting chooses is chosen, without settings all are.

    per_type: the newest so many of each pair of materializer and data type, whatever versions their libraries had.
    stages: those linked to a model version in one of these stages. used_days: those that a step of the last days read.
    """

    per_type: int = 0
    stages: tuple[str, ...] = ()
    used_days: int = 0


def count(connection: Reader) -> int:
    """How many artifact versions a store has."""
    return int(next(iter(connection.execute(f"SELECT COUNT(*) FROM {_versions(connection)}")))[0])


def pages(
    connection: Reader, local_stores: Path, sample: Sample | None = None, page: int = 5000
) -> Iterator[list[Row]]:
    """Every artifact version, by id, one query a page; nothing is held open between two pages.

    Rows are those of :func:`inventory.artifacts`, with ``chosen``, whether they are in the sample, and ``reason``, why
    not, or "".
    """
    samples, last = list(_samples(connection, sample or Sample())), ""
    while rows := inventory.artifacts(connection, local_stores, f"v.id > {_text(last)} ORDER BY v.id LIMIT {page}"):
        last = _stored(rows[-1]["id"])
        for row in rows:
            row["reason"] = next((reason for ids, reason in samples if _stored(row["id"]) not in ids), "")
            row["chosen"] = not row["reason"]
        yield rows


def by_ids(connection: Reader, local_stores: Path, ids: Collection[str]) -> dict[str, Row]:
    """Rows of :func:`inventory.artifacts` by id, for some ids, a few thousand at most; unknown ones are left out."""
    wanted = ", ".join(_text(_stored(key)) for key in ids) or "''"
    return {row["id"]: row for row in inventory.artifacts(connection, local_stores, f"v.id IN ({wanted})")}


def groups(rows: Iterable[Row], most: int = 500) -> Iterator[list[Row]]:
    """Chosen rows in shards of at most ``most``: of one artifact store and with the same libraries to be imported.

    Within a shard they are sorted by materializer and data type. At most ``most`` rows of each kind are held.
    """
    waiting: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        if row.get("chosen", True):
            sources = (row["materializer"], row["data_type"])
            libraries = {str(source.get("module") or "").partition(".")[0] for source in sources}
            kind = (row["store_id"], *sorted(libraries - inventory.NO_LIBRARY))
            waiting.setdefault(kind, []).append(row)
            if len(waiting[kind]) == most:
                yield sorted(waiting.pop(kind), key=_kind)
    for held in waiting.values():
        yield sorted(held, key=_kind)


def _kind(row: Row) -> tuple[str, ...]:
    return _named(row["materializer"]), _named(row["data_type"]), row["id"]


def _named(source: Row) -> str:
    return f"{source.get('module')}.{source.get('attribute')}"


def _samples(connection: Reader, sample: Sample) -> Iterator[tuple[Collection[str], str]]:
    """For each setting the ids that it chooses, as the database has them, and what is said of the others."""
    tables = stores.tables(connection)
    if sample.per_type:
        yield (
            _newest(connection, sample.per_type),
            f"not among the {sample.per_type} newest of its type",
        )
    if sample.stages:
        stages = " or ".join(sample.stages)
        if "model_versions_artifacts" in tables:
            column = "artifact_version_id" if "artifact_version" in tables else "artifact_id"
            names = ", ".join(_text(stage.lower()) for stage in sample.stages)
            query = (
                f"SELECT DISTINCT l.{column} FROM model_versions_artifacts AS l"
                f" JOIN model_version AS m ON m.id = l.model_version_id WHERE LOWER(m.stage) IN ({names})"
            )
            yield _ids(connection, query), f"not linked to a model version in {stages}"
        else:
            yield (), f"not linked to a model version in {stages}: the store is older than models (ZenML 0.45.0)"
    if sample.used_days:
        since = (datetime.now(timezone.utc) - timedelta(days=sample.used_days)).strftime("%Y-%m-%d %H:%M:%S")
        query = (
            "SELECT DISTINCT i.artifact_id FROM step_run_input_artifact AS i JOIN step_run AS s ON s.id = i.step_id"
            f" WHERE COALESCE(s.start_time, s.created) >= '{since}'"
        )
        yield _ids(connection, query), f"not read by a step of the last {sample.used_days} days"


def _newest(connection: Reader, most: int) -> set[str]:
    """Ids of the newest of each type: one look at every row, with few of them held. A sort in SQL takes longer."""
    named = lru_cache(4096)(lambda text: _named(inventory.source_of(text)))
    newest: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for key, created, materializer, data_type in _every(connection, "id, created, materializer, data_type"):
        held = newest.setdefault((named(materializer), named(data_type)), [])
        (heapq.heappush if len(held) < most else heapq.heappushpop)(held, (str(created), key))
    return {key for held in newest.values() for _, key in held}


def _every(connection: Reader, columns: str) -> Iterator[Sequence[Any]]:
    """Columns, ``id`` first, of every artifact version; of a server's in pages, for its answers come as a whole."""
    query, last = f"SELECT {columns} FROM {_versions(connection)}", ""
    if isinstance(connection, sqlite3.Connection):
        yield from connection.execute(query)
        return
    while rows := list(connection.execute(f"{query} WHERE id > {_text(last)} ORDER BY id LIMIT {PAGE}")):
        yield from rows
        last = rows[-1][0]


def _ids(connection: Reader, query: str) -> set[str]:
    return {row[0] for row in connection.execute(query)}


def _versions(connection: Reader) -> str:
    return "artifact_version" if "artifact_version" in stores.tables(connection) else "artifact"


def _text(value: str) -> str:
    """A value in SQL for both engines."""
    return "'" + value.replace("'", "''") + "'"


def _stored(key: str) -> str:
    """An id as the database has it: 32 hexadecimal digits."""
    return key.replace("-", "")
