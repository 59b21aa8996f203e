"""Facts about ZenML releases: Python range, revision order, yanked ones, hard breaks.

``data/releases.json`` holds every release from 0.43.0 on, oldest first: upload date, Python range and withdrawal as the
package index has them, and ``revisions``, the alembic revisions between the stamp before and its own (the one chain of
0.98.0). ``older`` holds stamps and revisions from before 0.43.0, so that a store that is too old is told apart from one
that is too new.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from zenml_upgrade_kit.errors import BadPlan


@dataclass(frozen=True, kw_only=True)
class Release:
    """One release.

    stamp: value of ``alembic_version.version_num`` in a store it wrote; a backport shares it with the release before.
    revisions: what its migration adds to the release before, in order.
    extras_local_required: a store on the same machine needs ``zenml[local]``.
    hard_break: why client and server on both sides of it do not work together; empty when no reason is known.
    avoid: why not to stop at it on the way; empty when there is no reason. avoid_engine: only on this engine.
    """

    version: str
    date: date
    requires_python: str
    stamp: str
    revisions: tuple[str, ...]
    yanked: bool = False
    extras_local_required: bool = False
    hard_break: str = ""
    avoid: str = ""
    avoid_engine: str = ""
    note: str = ""

    @property
    def prerelease(self) -> bool:
        """A release candidate."""
        return Version(self.version).is_prerelease

    def supports_python(self, version: str) -> bool:
        """Whether a Python (``3.11`` or ``3.11.7``) is in the release's range."""
        return version in SpecifierSet(self.requires_python)


@cache
def _table() -> tuple[tuple[Release, ...], Mapping[str, Release], Mapping[str, int], str]:
    """Releases, releases by version, positions of stamps and revisions, and the day the facts were taken."""
    data = json.loads((Path(__file__).parent / "data" / "releases.json").read_text(encoding="utf-8"))
    releases = tuple(
        Release(**{**item, "date": date.fromisoformat(item["date"]), "revisions": tuple(item["revisions"])})
        for item in data["releases"]
    )
    chain = list(data["older"])
    for release in releases:
        chain += [step for step in (*release.revisions, release.stamp) if step not in chain]
    positions = {step: place for place, step in enumerate(chain, start=-len(data["older"]))}
    return releases, {release.version: release for release in releases}, positions, data["taken"]


def all() -> tuple[Release, ...]:  # noqa: A001 - releases.all() reads well, and nothing here needs the builtin
    """Every release the kit knows, oldest first; compare by :func:`position`, not as text."""
    return _table()[0]


def get(version: str) -> Release:
    """The release; raises :class:`BadPlan` for one the kit does not know or support."""
    releases, by_version, _, taken = _table()
    if found := by_version.get(version.strip()):
        return found
    near = [known for known in by_version if known.startswith(version)] or difflib.get_close_matches(
        version, by_version
    )
    raise BadPlan(
        f"ZenML {version} is not a release that the kit knows",
        expected=f"a release from {releases[0].version} to {releases[-1].version} (known on {taken})",
        found=version,
        remedy=f"did you mean {', '.join(near[:4])}?"
        if near
        else "give a release in that range, or install a newer kit",
    )


def position(stamp: str) -> int | None:
    """Place of a stamp or 12-hex revision in the one chain of revisions, negative before 0.43.0; None when unknown."""
    return _table()[2].get(stamp)


def for_stamp(stamp: str) -> Release | None:
    """The release that writes this stamp, the first of several; None for an unknown stamp or one before 0.43.0.

    A 12-hex revision belongs to a development build: the answer is the first release that contains it, since an
    earlier one refuses the store.
    """
    return next((release for release in all() if stamp == release.stamp or stamp in release.revisions), None)


def crosses(source: str, target: str, version: str) -> bool:
    """Whether an upgrade from one stamp (or revision) to another runs the migrations of a release.

    Unknown stamps are never crossed: the caller has refused them.
    """
    before, after, at = position(source), position(target), position(version)
    return before is not None and after is not None and at is not None and before < at <= after


def pending(source: str, target: str) -> list[str]:
    """The revisions that an upgrade from one stamp (or revision) to another runs, in order, without release stamps."""
    chain = [step for release in all() for step in release.revisions]
    return [step for step in chain if crosses(source, target, step)]
