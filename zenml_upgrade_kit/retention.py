"""Which backups of a place are kept: the last ones, and the newest of so many days, weeks and months."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby

from zenml_upgrade_kit import archive
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.errors import BadPlan
from zenml_upgrade_kit.places import Place


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How many backups of each source to keep, in restic's words; days, weeks (ISO) and months are those of UTC.

    Of the last so many days that have a backup, the newest one of each is kept; days without one do not count.
    """

    keep_last: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0

    def __post_init__(self) -> None:
        counts = vars(self)
        if not any(counts.values()) or min(counts.values()) < 0:
            raise BadPlan(
                "no rule says which backups to keep",
                expected="at least one of --keep-last, --keep-daily, --keep-weekly, --keep-monthly, none below 0",
                found=", ".join(f"{name} {count}" for name, count in counts.items()),
                remedy="add a rule, such as --keep-daily 7",
            )


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Whether a backup is kept, and why."""

    backup: Backup
    keep: bool
    reasons: list[str] = field(default_factory=list)


def plan(backups: Sequence[Backup], policy: Policy) -> list[Choice]:
    """What a policy means for these backups, newest first; backups of each source are counted apart.

    As in ``restic forget`` (its ``snapshot_policy.go``), the oldest backup is kept while a rule has counts
    left. Beyond restic: the newest backup of a source and its newest verified one always stay, and a backup that is
    known to be damaged does not use up a count.
    """
    newest_first = sorted(backups, key=lambda one: one.started, reverse=True)
    by_source = sorted(newest_first, key=_source)
    choices = [choice for _, own in groupby(by_source, key=_source) for choice in _of_source(list(own), policy)]
    return sorted(choices, key=lambda choice: choice.backup.started, reverse=True)


def forget(place: Place, policy: Policy, *, apply: bool) -> list[Choice]:
    """The plan for a place, newest first; with ``apply`` what it does not keep is removed, oldest first.

    Backups whose manifest cannot be read are left alone.
    """
    choices = plan(archive.backups(place)[0], policy)
    for choice in reversed(choices):
        if apply and not choice.keep:
            choice.backup.remove()
    return choices


def _of_source(backups: list[Backup], policy: Policy) -> list[Choice]:
    records = [one.verified for one in backups]
    reasons: list[list[str]] = [[] for _ in backups]
    reasons[0].append("newest")
    sound = [number for number, record in enumerate(records) if not record["problem"]]
    verified = [number for number in sound if records[number]["hashed"] or records[number]["restored"]]
    if verified:
        reasons[verified[0]].append("newest verified")
    for word, period in _PERIODS.items():
        left, seen = getattr(policy, f"keep_{word}"), None
        for number in sound:
            value = period(backups[number].started) if period else number
            if left and (value != seen or number == sound[-1]):
                reasons[number].append(word if value != seen else f"oldest {word}")
                left, seen = left - 1, value
    return [Choice(backup=one, keep=bool(why), reasons=why) for one, why in zip(backups, reasons, strict=True)]


_PERIODS: dict[str, Callable[[datetime], object] | None] = {
    "last": None,
    "daily": datetime.date,
    "weekly": lambda time: time.isocalendar()[:2],
    "monthly": lambda time: (time.year, time.month),
}


def _source(backup: Backup) -> str:
    return str(backup.manifest.get("source", ""))
