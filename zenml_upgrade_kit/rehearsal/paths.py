"""Which releases an upgrade stops at, and between which two it starts to fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.errors import BadPlan
from zenml_upgrade_kit.releases import Release, crosses


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """Where upgrades from one store begin to fail.

    first_failing: the oldest release whose migration fails, the target at the latest. last_working: the newest before
    it whose migration works, "" when none does. Releases that nobody should stop at are not tried, so that there may
    be some in between. tried: whether the migration to each release worked, in the order of trying.
    """

    first_failing: str
    last_working: str
    tried: dict[str, bool]


def bisect(
    source_stamp: str,
    target_version: str,
    stopped_at: str,
    attempt: Callable[[str], bool | None],
    tell: Callable[[str], object] = print,
    engine: str = "",
) -> Bisection:
    """The first release that fails and the last that works, for a store whose direct upgrade failed.

    stopped_at: the revision at which it did, or "". The release that has it is tried first, then the one before: two
    attempts when the guess is right. attempt: migrate a fresh copy to a release; true when that worked, None when the
    release cannot be tried here, for want of a Python that runs it: then it counts as not there.
    """
    between = [release.version for release in stops(source_stamp, target_version, engine)]
    low, high = -1, len(between) - 1  # nothing is known to work; the target, which is the last, has failed
    tried: dict[str, bool] = {}
    guesses = _guesses(between, stopped_at)
    while high - low > 1:
        guesses = [version for version in guesses if version in between[low + 1 : high]]
        version = guesses.pop(0) if guesses else between[(low + high) // 2]
        tell(f"Trying ZenML {version}, one of {high - low - 1} releases between those that work and those that fail")
        worked, at = attempt(version), between.index(version)
        if worked is None:
            between.pop(at)
            high -= 1
            continue
        tried[version] = worked
        low, high = (at, high) if worked else (low, at)
    return Bisection(first_failing=between[high], last_working=between[low] if low >= 0 else "", tried=tried)


def _guesses(between: Sequence[str], stopped_at: str) -> list[str]:
    """The release that has a revision, or the next where one may stop, then the one before it."""
    guessed = releases.for_stamp(stopped_at)
    if not guessed:
        return []
    after = next((at for at, one in enumerate(between) if _at(releases.get(one)) >= _at(guessed)), 0)
    return [between[after], *between[max(after - 1, 0) : after]]


def stops(source_stamp: str, target_version: str, engine: str = "") -> list[Release]:
    """The releases that change the database on the way, where one may stop, oldest first; the target is the last.

    One release of each stamp; none that was withdrawn, is a pre-release or is to be avoided (on this engine).
    """
    target = releases.get(target_version)
    found = {
        release.stamp: release
        for release in releases.all()
        if crosses(source_stamp, target.stamp, release.stamp)
        and release.stamp != target.stamp
        and not why_not(release, engine)
    }
    return [*found.values(), target]


def hops(source_stamp: str, via: Sequence[str], target: str, engine: str) -> list[str]:
    """The releases to migrate to, one after the other, the target last; raises :class:`BadPlan` for a bad ``via``.

    engine: ``sqlite`` or ``mysql``, which MariaDB is too.
    """
    last = releases.get(target)
    before = releases.position(source_stamp)
    for version in via:
        release = releases.get(version)
        reason = why_not(release, engine)
        if not reason and before is not None and _at(release) <= before:
            reason = "it is not newer than the store, or the release before it on the way"
        if not reason and _at(release) >= _at(last):
            reason = f"it is not older than the target, {target}"
        if reason:
            raise BadPlan(
                f"the upgrade cannot stop at ZenML {version}",
                expected=f"releases between {source_stamp} and {target}, oldest first",
                found=reason,
                remedy=_instead(source_stamp, release, target, engine),
            )
        before = _at(release)
    return [*(releases.get(version).version for version in via), last.version]


def why_not(release: Release, engine: str = "") -> str:
    """Why no upgrade should stop at a release, "" when there is no reason. engine: "" for any."""
    if release.yanked:
        return release.avoid or "it was withdrawn"
    if release.prerelease:
        return "it is a pre-release"
    return release.avoid if release.avoid_engine in ("", engine) or not engine else ""


def _at(release: Release) -> int:
    """Place of a release in the one chain of revisions; known for every release."""
    return releases.position(release.stamp) or 0


def _instead(source_stamp: str, release: Release, target: str, engine: str) -> str:
    """The nearest releases to stop at."""
    near = sorted(stops(source_stamp, target, engine)[:-1], key=lambda one: abs(_at(one) - _at(release)))[:2]
    return f"stop at {' or '.join(one.version for one in near)}" if near else "leave it out: go straight to the target"
