"""Is this a whole ZenML database that the target can place in its order of revisions? (DB, BK)"""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.checks import Seen, StoreFacts, check, schemas
from zenml_upgrade_kit.findings import Severity
from zenml_upgrade_kit.releases import Release

BLOCK, WARN, INFO = Severity.BLOCK, Severity.WARN, Severity.INFO
_REPAIRED_LATER = {"0.44.0", "0.46.1"}
_REVISION = "alembic_version.version_num"
_SHOWN = 5
_EMPTY = "{} is empty. ZenML would open it as a brand-new store and report success."


@check("DB001", severity=BLOCK, title="Database is newer than the target")
def newer_than_the_target(facts: StoreFacts) -> Iterator[Seen]:
    """An older release cannot read a newer database: going back is a restore, not an upgrade."""
    target = facts.target.version
    for stamp in facts.stamps:
        if _in_reach(stamp, facts.target):
            continue
        message = f"The database is stamped {stamp}; neither the target {target} nor this kit knows that revision."
        remedy = "Find out which build wrote it; restore the backup made before, or install a newer kit."
        if releases.position(stamp) is not None or _is_later(stamp):
            message = (
                f"The database was last written by ZenML {stamp}; the target {target} cannot read it. "
                "This would be a downgrade."
            )
            remedy = f"Choose a target >= {stamp}, or restore the backup made before the upgrade to {stamp}."
        yield Seen(subject=_REVISION, message=message, remedy=remedy, data={"stamp": stamp, "target": target})


def _in_reach(stamp: str, target: Release) -> bool:
    return stamp == target.stamp or releases.crosses(stamp, target.stamp, target.stamp)


def _is_later(stamp: str) -> bool:
    try:
        return Version(stamp) > Version(releases.all()[-1].version)
    except InvalidVersion:
        return False


@check("DB002", severity=BLOCK, title="Stamp of a withdrawn release", needs="stamp")
def withdrawn_release(facts: StoreFacts) -> Iterator[Seen]:
    """Some releases were withdrawn because their migration could damage data."""
    release, stamp = releases.for_stamp(facts.stamp), facts.stamp
    if release and release.yanked:
        yield Seen(
            subject=_REVISION,
            message=f"The database carries the stamp of {stamp}, a withdrawn release that could damage data.",
            remedy=f"Rehearse on a copy and compare row by row; if that fails, restore the backup from before {stamp}.",
            severity=WARN if release.version in _REPAIRED_LATER else BLOCK,
            data={"stamp": stamp, "release": release.version},
        )


@check("DB003", severity=BLOCK, title="Never migrated with alembic")
def no_revision(facts: StoreFacts) -> Iterator[Seen]:
    """Without a revision ZenML cannot tell which migrations the database needs, and refuses it."""
    in_a_file = facts.engine == "sqlite"
    if facts.stamps or (in_a_file and not facts.tables):
        return
    if {"pipeline_run", "stack", "user"}.isdisjoint(facts.tables):
        message = "This database has no ZenML tables and no revision: it is not a ZenML store."
        remedy = "Check the path: ZenML's own database is <local stores>/default_zen_store/zenml.db."
        if not facts.tables:
            message = _EMPTY.format(facts.path)
        if not in_a_file:
            remedy = "Check the name of the database in the store's URL, and that the account may read its tables."
    else:
        message = "This database has tables but no revision. It is older than 0.21 or was damaged."
        remedy = (
            "If it is really that old: upgrade to 0.54.0 or earlier first, then to "
            f"{facts.target.version}. Otherwise restore a backup."
        )
    yield Seen(subject="alembic_version", message=message, remedy=remedy, data={"tables": len(facts.tables)})


@check("DB004", severity=BLOCK, title="Half-migrated schema", needs="stamp")
def half_migrated(facts: StoreFacts) -> Iterator[Seen]:
    """A migration that was killed leaves tables of two releases; every later attempt stops at the same place."""
    found = list(schemas.differences(facts.stamp, facts.tables))
    if found:
        first = "; ".join(f"{subject} {what}" for subject, what in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        yield Seen(
            subject=found[0][0],
            message=f"The schema does not match its stamp {facts.stamp}: {first}{more}. "
            "An earlier migration stopped midway.",
            remedy="Restore the backup from before that attempt. Do not re-run the migration: it stops again.",
            data={"stamp": facts.stamp, "differences": [list(pair) for pair in found]},
        )


@check("DB005", severity=BLOCK, title="More than one alembic row")
def more_than_one_revision(facts: StoreFacts) -> Iterator[Seen]:
    """A healthy database has exactly one revision; with two, ZenML migrates from one and keeps the other."""
    if len(facts.stamps) > 1:
        matching = [one for one in facts.stamps if schemas.at(one) and not [*schemas.differences(one, facts.tables)]]
        fits = f"is that of {matching[0]}" if len(matching) == 1 else "fits none of them alone"
        yield Seen(
            subject="alembic_version",
            message=f"`alembic_version` has {len(facts.stamps)} rows ({', '.join(facts.stamps)}); "
            f"ZenML only warns and leaves the extra row behind. The schema {fits}.",
            remedy="Have the row that does not match the schema removed on a copy, then rehearse.",
            data={"stamps": list(facts.stamps), "matching": matching},
        )


@check("DB006", severity=BLOCK, title="Empty database file", engine="sqlite", needs="file")
def empty_file(facts: StoreFacts) -> Iterator[Seen]:
    """ZenML opens an empty file as a new store: an upgrade would seem to succeed, with everything gone."""
    if not facts.size or (facts.journal_mode and not facts.error and not facts.tables):
        remedy = "Check the path; restore the file from a backup."
        yield Seen(subject=facts.path, message=_EMPTY.format(facts.path), remedy=remedy, data={"bytes": facts.size})


@check("DB007", severity=BLOCK, title="Damaged SQLite file", engine="sqlite", needs="file")
def damaged_file(facts: StoreFacts) -> Iterator[Seen]:
    """A damaged file can fail in the middle of a migration, or carry the damage into the new store."""
    lines, remedy = list(facts.damage), "Recover with sqlite3's `.recover` into a new file and compare, or "
    if facts.size and not facts.journal_mode:
        lines.insert(0, "it does not start like a SQLite database")
        remedy = "Check the path: the store is a SQLite file; or "
    elif facts.missing_bytes:
        lines.insert(0, f"{facts.missing_bytes:,} bytes are missing at its end")
    if lines:
        message = f"{facts.path} is damaged: {lines[0]}."
        yield Seen(subject=facts.path, message=message, remedy=f"{remedy}restore a backup.", data={"lines": lines})


@check("DB008", severity=WARN, title="Write-ahead log not folded in", engine="sqlite", needs="file")
def write_ahead_log(facts: StoreFacts) -> Iterator[Seen]:
    """In WAL mode the newest rows are in a second file, which plain copies forget."""
    if facts.journal_mode == "wal" or facts.wal_bytes:
        yield Seen(
            subject=f"{facts.path}-wal",
            message=f"Committed rows may be only in {facts.path}-wal; a plain file copy loses them.",
            remedy="Back up through SQLite's backup API only, as this kit does. "
            "Never copy the file alone and never open it with immutable=1.",
            data={"journal_mode": facts.journal_mode, "wal_bytes": facts.wal_bytes},
        )


@check("DB009", severity=WARN, title="Stamp is an unreleased development build", needs="stamp")
def development_build(facts: StoreFacts) -> Iterator[Seen]:
    """A revision between two releases means a development build, or a migration that was stopped there."""
    release, stamp = releases.for_stamp(facts.stamp), facts.stamp
    if release and stamp != release.stamp and _in_reach(stamp, facts.target):
        earlier = [one.version for one in releases.all() if releases.crosses(one.stamp, stamp, stamp)]
        before = earlier[-1] if earlier else "an older release"
        yield Seen(
            subject=_REVISION,
            message=f"The database is at revision {stamp}, between {before} and {release.version}: "
            "a development build wrote it, or a migration was stopped there.",
            remedy=f"Supported by the migration chain; rehearse, and read checks as if the stamp were {before}.",
            data={"stamp": stamp, "after": before, "before": release.version},
        )


@check("DB010", severity=INFO, title="Stamp shared by two releases", needs="stamp")
def shared_stamp(facts: StoreFacts) -> Iterator[Seen]:
    """A backport carries the stamp of the release before it, so the stamp alone cannot tell which one wrote."""
    sharing = [release.version for release in releases.all() if release.stamp == facts.stamp]
    if len(sharing) > 1:
        yield Seen(
            subject=_REVISION,
            message=f"The stamp {facts.stamp} is also written by the backport {', '.join(sharing[1:])}; "
            "the exact release cannot be read from the database.",
            remedy="The release that runs recorded is used; name another one as source in the plan.",
            data={"stamp": facts.stamp, "releases": sharing},
        )


@check("DB011", severity=BLOCK, title="Database cannot be read", needs="file")
def unreadable(facts: StoreFacts) -> Iterator[Seen]:
    """What cannot be read cannot be checked, backed up or upgraded."""
    if facts.error and (facts.engine != "sqlite" or (facts.size and facts.journal_mode and not facts.damage)):
        remedy = "Give a path or URL and credentials that can read; the kit needs no write access for this step."
        remedy = f"{facts.remedy[:1].upper()}{facts.remedy[1:]}." if facts.remedy else remedy
        message = f"Cannot read the database: {facts.error}."
        yield Seen(subject=facts.path, message=message, remedy=remedy, data={"error": facts.error})


@check("BK301", severity=BLOCK, title="Leftover ZenML backup", needs="file")
def leftover_backup(facts: StoreFacts) -> Iterator[Seen]:
    """ZenML reuses a backup it finds without looking: the next failed upgrade would restore the old state."""
    left, date = facts.leftover_backup, facts.leftover_backup_date
    if left:
        yield Seen(
            subject=left,
            message=f"An old ZenML backup lies at {left} (from {date}). "
            "If a migration fails, ZenML restores THAT and reports success.",
            remedy="Move it away (the kit never deletes it) and re-check.",
            data={"date": date},
        )
