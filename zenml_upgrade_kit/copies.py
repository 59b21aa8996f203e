"""Copies of a backup, to migrate and to look at: files, schemas beside the store, or a private MariaDB.

They outlive the process that makes them, since every step is one of its own; :func:`end` removes them. Finding of this
module: RH906 where the copies are, and why not on a server like the store's.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.findings import Finding
from zenml_upgrade_kit.plan import RehearsalChoices
from zenml_upgrade_kit.runs import Run, Step
from zenml_upgrade_kit.stores.address import Server


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the copies of one backup go: a ``file``, a ``schema`` on a server, or in a ``private`` MariaDB of ours."""

    kind: str
    where: str
    findings: tuple[Finding, ...]

    def restore(self, name: str) -> tuple[Path | Server, float]:
        """A new copy of the backup, compared with its manifest, and the seconds that it took."""
        raise NotImplementedError

    def remove(self, database: Path | Server) -> None:
        """Remove a copy that :meth:`restore` made."""
        raise NotImplementedError

    def speed(self) -> float | None:
        """How many times as fast as the store's server this site is; None when it cannot be measured."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What :func:`reopen` needs, as JSON: ``kind``, ``where`` and ``copies`` by name; never a password."""
        raise NotImplementedError


@contextmanager
def site(step: Step, backup: Backup, choices: RehearsalChoices) -> Iterator[Site]:
    """Where copies of a backup go; what an earlier attempt of the run left there is removed first."""
    raise NotImplementedError
    yield


@contextmanager
def reopen(run: Run) -> Iterator[tuple[Path | Server, Path | Server]]:
    """The copies ``before`` and ``migrated`` that 30_rehearsal left, as its ``facts["copies"]`` name them."""
    raise NotImplementedError
    yield


def end(run: Run) -> list[str]:
    """Remove the copies of a run; what was removed, in sentences. Nothing to remove is no error."""
    raise NotImplementedError


def variables(database: Path | Server, release: str = "") -> dict[str, str]:
    """The environment variables that make a ZenML open a copy: the only place that has its password."""
    raise NotImplementedError


def listed(server: Server) -> list[dict[str, Any]]:
    """Schemas of ours on a server, as :func:`scratch.leftovers`, with ``state``: what is known of their use."""
    raise NotImplementedError
