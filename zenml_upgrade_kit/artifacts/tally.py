"""What a check of many artifact versions adds up to; its memory does not grow with their number."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

from zenml_upgrade_kit.artifacts.causes import Cause

OUTCOMES = ("identical", "loads", "differs", "fails", "lost", "not_checked")
QUIET = ("identical", "loads")
LOUD = ("fails", "lost", "differs", "not_checked")
MOST_ROWS = 250
"""Rows of one outcome that need a look and are kept in the result; the file of all artifact versions has every one."""
MOST_REASONS = 50
MOST_OF_A_CAUSE = 200
"""Artifact versions of one cause whose steps are looked for."""
TOP = 10

Row = Mapping[str, Any]


@dataclass(kw_only=True)
class Group:
    """The artifact versions with one outcome for one cause.

    example: what is told of one of them; row, old: of that one, as the database has it and as the old release loads it.
    """

    outcome: str
    cause: Cause
    example: dict[str, Any] = field(default_factory=dict)
    row: Row = field(default_factory=dict)
    old: Row = field(default_factory=dict)
    count: int = 0
    ids: list[str] = field(default_factory=list)
    proven: bool | None = None
    steps: list[dict[str, Any]] = field(default_factory=list)

    @property
    def broke_before(self) -> bool:
        """Whether the old release does not load them here either."""
        return bool(self.old) and not self.old["ok"]

    def facts(self) -> dict[str, Any]:
        """As in the facts of the step."""
        cause = self.cause
        return {
            "outcome": self.outcome,
            "id": cause.id,
            "kind": cause.kind,
            "blame": cause.blame,
            "remedy": cause.remedy,
            "pins": list(cause.pins),
            "count": self.count,
            "proven": self.proven,
            "example": self.example,
            "broke_before": self.broke_before,
            "steps": self.steps,
        }


class Tally:
    """Counts of outcomes, causes with an example each, the slowest and the largest.

    file: gets one JSON line for each artifact version that was chosen, masked by ``mask``. asked: how many asked a
    client for its store, see :class:`Loaded`.
    """

    def __init__(self, file: IO[str], mask: Callable[[Any], Any]) -> None:
        self._file, self._mask = file, mask
        self.counts: Counter[str] = Counter()
        self.matrix: dict[str, Counter[str]] = {}
        self.reasons: Counter[str] = Counter()
        self.groups: dict[tuple[Any, ...], Group] = {}
        self.rows: dict[str, list[dict[str, Any]]] = {}
        self.bytes = 0
        self.fetch_seconds = 0.0
        self.asked = 0
        self.modules: set[str] = set()
        self.missing: Counter[str] = Counter()
        self.by_value: dict[str, Counter[str]] = {}
        self._top: dict[str, list[tuple[float, str, dict[str, Any]]]] = {"seconds": [], "bytes": []}

    @property
    def total(self) -> int:
        """Artifact versions that were added, chosen or not."""
        return self.counts.total()

    def leave(self, row: Row, reason: str, count: int = 1) -> None:
        """An artifact version that was not loaded, and why."""
        self._count(row, "not_checked", count)
        self.because(reason, count)

    def because(self, reason: str, count: int = 1) -> None:
        """Why artifact versions were not checked."""
        known = reason in self.reasons or len(self.reasons) < MOST_REASONS
        self.reasons[reason if known else "other reasons"] += count

    def add(
        self, row: Row, outcome: str, difference: str, cause: Cause | None, old: Row | None, new: Row | None, read: Row
    ) -> None:
        """What became of one artifact version: both sides as :class:`Loaded` in JSON, read: what reading it took."""
        old, new = old or {}, new or {}
        self._count(row, outcome)
        seconds = max(old.get("seconds") or 0.0, new.get("seconds") or 0.0)
        told = {key: row[key] for key in ("id", "name", "version", "uri")}
        told |= {"data_type": named(row["data_type"]), "materializer": named(row["materializer"]), "outcome": outcome}
        told |= {"cause": cause.id if cause else "", "difference": difference, "old": _said(old), "new": _said(new)}
        told |= {"seconds": seconds, "bytes": read["bytes"]}
        told = self._mask(told)
        self._file.write(json.dumps(told) + "\n")
        self.bytes += read["bytes"] if read["state"] in ("loaded", "looked") else 0
        self.fetch_seconds += read["fetch_seconds"]
        self.asked += bool(old.get("asked") or new.get("asked"))
        self.modules |= {*(old.get("modules") or ()), *(new.get("modules") or ())}
        if outcome not in QUIET and len(rows := self.rows.setdefault(outcome, [])) < MOST_ROWS:
            rows.append(told)
        for fact, most in self._top.items():
            short = {key: told[key] for key in ("id", "name", "version", "seconds", "bytes")}
            heapq.heappush(most, (told[fact], told["id"], {**short, "type": told["data_type"]}))
            if len(most) > TOP:
                heapq.heappop(most)
        if cause:
            self._group(row, told, cause, outcome, old, new)

    def look(self, look: Row, bound: str) -> None:
        """What the static look at one artifact version found; bound: to another Python than the target's, or ""."""
        self.missing.update(look["missing"])
        if bound:
            self.by_value.setdefault(bound, Counter())[look["by_value"][0]] += 1

    def facts(self) -> dict[str, Any]:
        """As JSON, for the step's result."""
        matrix: list[dict[str, Any]] = [
            {"type": kind, **{name: found[name] for name in OUTCOMES}} for kind, found in self.matrix.items()
        ]
        matrix.sort(key=lambda row: ([-row[name] for name in LOUD], row["type"]))
        groups = sorted(self.groups.values(), key=lambda one: ((*LOUD, *QUIET).index(one.outcome), -one.count))
        return {
            "counts": {name: self.counts[name] for name in OUTCOMES},
            "total": self.total,
            "bytes": self.bytes,
            "bandwidth": self.bytes / self.fetch_seconds if self.fetch_seconds else None,
            "matrix": matrix,
            "causes": [group.facts() for group in groups],
            "artifacts": [row for outcome in LOUD for row in self.rows.get(outcome, [])],
            "slowest": self._most("seconds"),
            "largest": self._most("bytes"),
            "not_checked_reasons": [{"reason": why, "count": count} for why, count in self.reasons.most_common()],
            "user_modules": sorted(self.modules),
            "static": {
                "missing": [{"module": name, "count": count} for name, count in self.missing.most_common(TOP * 2)],
                "by_value": [
                    {"python": python, "count": found.total(), "name": found.most_common(1)[0][0]}
                    for python, found in sorted(self.by_value.items())
                ],
            },
        }

    def _count(self, row: Row, outcome: str, count: int = 1) -> None:
        self.counts[outcome] += count
        self.matrix.setdefault(named(row["data_type"]), Counter())[outcome] += count

    def _most(self, fact: str) -> list[dict[str, Any]]:
        return [row for value, _, row in sorted(self._top[fact], key=lambda one: one[:2], reverse=True) if value]

    def _group(self, row: Row, told: Row, cause: Cause, outcome: str, old: Row, new: Row) -> None:
        key = (outcome, cause.id, cause.kind, cause.blame, cause.remedy, bool(old.get("ok")))
        group = self.groups.setdefault(key, Group(outcome=outcome, cause=cause))
        telling = " became " in told["difference"]  # says how, not only that
        if not group.count or (telling and " became " not in group.example["difference"]):
            group.row, group.old = row, old
            group.example = {key: told[key] for key in ("id", "name", "version", "uri", "difference", "old", "new")}
            group.example |= {"type": told["data_type"], "where": new.get("where", "")}
            group.example |= {"error": self._mask(new.get("error") or "")}
        group.count += 1
        if len(group.ids) < MOST_OF_A_CAUSE:
            group.ids.append(row["id"])


def named(source: Row) -> str:
    """A stored source as people write it: ``int``, ``pandas.core.frame.DataFrame``."""
    return f"{source['module']}.{source['attribute']}".removeprefix("builtins.")


def _said(side: Row) -> str:
    return str(side.get("summary") if side.get("ok") else side.get("error") or "")
