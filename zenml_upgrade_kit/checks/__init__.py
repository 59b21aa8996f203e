"""The check catalogue: pure functions from facts to findings, one registration line each.

A check looks at :class:`StoreFacts` only, so it can be tried on any facts without a database. Its docstring is what
the report says the check is for. Ids and severities are stable, see the catalogue in each module.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.findings import Finding, Severity
from zenml_upgrade_kit.releases import Release


@dataclass(frozen=True, kw_only=True)
class StoreFacts:
    """What the checks know about a store, collected once, read-only.

    target: the release to upgrade to. path: the file or the server's database, as people write it, without a password.
    error: why the schema and the stamps could not be read, "" when they were; remedy: what helps, where that is known.
    tables: columns of every table. leftover_backup: a backup that ZenML itself left ("" for none), and its date.
    Of a file: size, wal_bytes: bytes on disk. journal_mode: "" where it does not start like a SQLite database. damage:
    what SQLite finds wrong with it, empty when nothing. missing_bytes: how much shorter it is than its header says.
    """

    target: Release
    engine: str = "sqlite"
    path: str
    size: int = 0
    error: str = ""
    remedy: str = ""
    damage: tuple[str, ...] = ()
    missing_bytes: int = 0
    stamps: tuple[str, ...] = ()
    tables: Mapping[str, list[str]] = field(default_factory=dict)
    journal_mode: str = "delete"
    wal_bytes: int = 0
    leftover_backup: str = ""
    leftover_backup_date: str = ""

    @property
    def stamp(self) -> str:
        """The one stamp, or "" when there is none or more than one."""
        return self.stamps[0] if len(self.stamps) == 1 else ""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a check saw once. severity: only where it differs from the check's own."""

    subject: str
    message: str
    remedy: str
    data: Mapping[str, Any] = field(default_factory=dict)
    severity: Severity | None = None


Function = Callable[[StoreFacts], Iterator[Seen]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One entry of the catalogue.

    needs: ``file`` runs always; ``contents`` needs a schema that could be read; ``stamp`` one known stamp besides.
    """

    id: str
    severity: Severity
    title: str
    function: Function
    engine: str = ""
    needs: str = "contents"

    @property
    def purpose(self) -> str:
        """The sentence that reports show."""
        return inspect.getdoc(self.function) or self.title


CATALOGUE: dict[str, Check] = {}


def check(check_id: str, *, severity: Severity, title: str, **conditions: str) -> Callable[[Function], Function]:
    """Register a check under its catalogue id; conditions are the other fields of :class:`Check`."""

    def register(function: Function) -> Function:
        if check_id in CATALOGUE:
            raise ValueError(f"{check_id} is registered twice")
        CATALOGUE[check_id] = Check(id=check_id, severity=severity, title=title, function=function, **conditions)
        return function

    return register


def run_checks(facts: StoreFacts) -> tuple[list[Finding], list[dict[str, Any]]]:
    """The findings of all checks, and what became of every check.

    The latter: id, title, purpose, severity, outcome (``passed``, ``found``, ``not_checked``, ``not_applicable``) and
    the reason for the last two. A check that fails itself was not checked; it never ends the others.
    """
    findings: list[Finding] = []
    outcomes: list[dict[str, Any]] = []
    for entry in CATALOGUE.values():
        outcome, reason = _applies(entry, facts)
        if outcome == "passed":
            try:
                seen = [{**vars(one), "severity": one.severity or entry.severity} for one in entry.function(facts)]
                findings += [Finding(id=entry.id, **one) for one in seen]
                outcome = "found" if seen else outcome
            except Exception as error:  # noqa: BLE001 a broken check is one unchecked thing, not the end of the preflight
                outcome, reason = "not_checked", f"the check itself failed: {type(error).__name__}: {error}"
        told = {"id": entry.id, "title": entry.title, "purpose": entry.purpose, "severity": entry.severity.value}
        outcomes.append({**told, "outcome": outcome, "reason": reason})
    return findings, outcomes


def _applies(entry: Check, facts: StoreFacts) -> tuple[str, str]:
    """``passed`` when the check is to be run, else what to say instead."""
    if entry.engine not in ("", facts.engine):
        return "not_applicable", f"only for {entry.engine}"
    if entry.needs == "file":
        return "passed", ""
    if facts.error:
        return "not_checked", f"the database cannot be read: {facts.error}"
    if entry.needs == "stamp" and releases.position(facts.stamp) is None:
        return "not_checked", f"it needs one known stamp, and there is {' and '.join(facts.stamps) or 'none'}"
    return "passed", ""


from zenml_upgrade_kit.checks import database as _database  # noqa: E402, F401  registers its checks
