"""What a proof found, as JSON: of every table an outcome, and what nothing explains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from zenml_upgrade_kit.proof.states import Column, Table


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What became of every table, as JSON.

    tables: ``table``, ``was`` (another name before, or ""), ``before`` and ``after`` (rows, None for no table),
    ``outcome``, ``columns`` (those that are not plainly the same: ``column``, ``was``, ``outcome``, ``changed``, in how
    many rows the value is another one, None where that was not counted, ``release``, ``why``), ``new_rows``,
    ``dropped_rows``, ``why``, ``seconds``. unexplained: ``table``, ``column`` ("" for whole rows), ``kind`` (differs,
    missing, extra), ``count``, ``examples`` (``key``, ``before``, ``after``). dropped: ``table`` as it was called
    before, ``column``, ``rows``, ``file`` (its name), ``release``, ``why``, ``hidden``.
    totals: ``tables``, ``rows`` and ``cells`` that were compared. not_checked: sentences.
    """

    tables: Sequence[Mapping[str, Any]]
    unexplained: Sequence[Mapping[str, Any]]
    dropped: Sequence[Mapping[str, Any]]
    totals: Mapping[str, int]
    not_checked: Sequence[str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(kw_only=True)
class Found:
    """What comparing one table found."""

    table: Table
    before: int | None = None
    after: int | None = None
    rows: int = 0
    cells: int = 0
    new: int = 0
    dropped: int = 0
    error: str = ""

    def __post_init__(self) -> None:
        self.unexplained: list[dict[str, Any]] = []
        self.changed: dict[str, int] = {}

    def wrong(self, column: str, kind: str, count: int, examples: Sequence[Any] = ()) -> None:
        """Something that the model does not explain."""
        self.unexplained.append(unexplained(self.table.name, column, kind, count, examples))

    def outcome(self, columns: bool) -> str:
        """The word for it."""
        for word, true in {
            "not_checked": self.error,
            "unexplained": self.unexplained,
            "added": not self.table.was,
            "renamed": self.table.was != self.table.name,
            "changed": columns or self.new or self.dropped,
        }.items():
            if true:
                return word
        return "unchanged"


def record(name: str) -> dict[str, Any]:
    """Of a table, before anything is known."""
    return {
        "table": name,
        "was": "",
        "before": None,
        "after": None,
        "outcome": "",
        "columns": [],
        "new_rows": 0,
        "dropped_rows": 0,
        "why": [],
        "seconds": 0.0,
    }


def column_record(column: Column, changed: int | None) -> dict[str, Any]:
    """Of a column that is not plainly the same."""
    return {
        "column": column.name,
        "was": column.was if column.was != column.name else "",
        "outcome": column.outcome,
        "changed": changed,
        "release": column.release,
        "why": column.why,
    }


def unexplained(table: str, column: str, kind: str, count: int, examples: Sequence[Any]) -> dict[str, Any]:
    """Of cells or rows."""
    return {"table": table, "column": column, "kind": kind, "count": count, "examples": list(examples)}
