"""Puts a backup into a database: restored beside what is there, verified, then switched to."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from datetime import datetime, timezone
from pathlib import Path

import yaml

from zenml_upgrade_kit import archive, backup, drill, stores
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.choices import BackupChoices
from zenml_upgrade_kit.errors import BackupUnusable, KitError, RestoreRefused, StoreUnreadable
from zenml_upgrade_kit.stores import Store, scratch, sqlite
from zenml_upgrade_kit.stores.address import Server

APART = "before-restore"
"""Folder, in the place of a backup, of the backups of what a restore replaced: never the newest of the place."""


@dataclass(kw_only=True)
class Restored:
    """What a restore did.

    into: the database, in words. opens_with: the ZenML release for it; a newer one migrates it. actions, notes:
    sentences. kept: files or schemas with what was there before. seconds: of the whole restore.
    """

    into: str
    opens_with: str
    actions: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    seconds: float = 0.0


def restore(
    given: Backup, into: str, *, replace: bool = False, config: bool = False, identity: Path | None = None
) -> Restored:
    """Restore a backup into a database that is empty or, with ``replace``, whatever it holds.

    config: put ``config.yaml`` back, too; its store is the database that was restored. With ``replace``, what is there
    is backed up first, into the place of the backup. A failure at any point leaves the old content in place.
    Raises :class:`BackupUnusable` for a backup that does not verify and :class:`RestoreRefused` for a target that
    holds something, is in use, or cannot take it.
    """
    started = time.monotonic()
    target = stores.destination(into)
    engine = "sqlite" if isinstance(target, Path) else "mysql"
    if given.manifest["engine"] != engine:
        raise RestoreRefused(
            "a backup can only go back into the kind of database that it came from",
            expected=f"a {given.manifest['engine']} store",
            found=f"a {engine} store",
            remedy="name another target with --into; nothing was changed",
        )
    if problems := archive.verify(given):
        raise BackupUnusable(
            f"the backup {given.where} is damaged",
            expected="files as the manifest says",
            found="; ".join(problems),
            remedy="use another backup; nothing was changed",
        )
    settings = _config_target(given, target, into) if config else None
    done = Restored(into=str(target if isinstance(target, Path) else target.name), opens_with=_release(given))
    if isinstance(target, Path):
        _into_file(given, target, done, replace=replace, identity=identity)
    else:
        _into_server(given, target, done, replace=replace, identity=identity)
    if settings:
        _put_config(given, settings, target, done, identity)
    done.seconds = time.monotonic() - started
    return done


def _release(given: Backup) -> str:
    return str(given.manifest["source_version"] or given.manifest["stamp"] or "unknown")


def _occupied(target: str, what: str) -> RestoreRefused:
    return RestoreRefused(
        f"{target} is not empty",
        expected="an empty database, or --replace",
        found=what,
        remedy="choose another target, or add --replace: what is there is backed up first. Nothing was changed",
    )


def _different(into: str, problems: Sequence[str]) -> RestoreRefused:
    return RestoreRefused(
        f"what was restored beside {into} is not what the backup says, so it was not switched to",
        expected="every table as in the manifest",
        found="; ".join(problems[:5]),
        remedy="use another backup; what was there is unchanged",
    )


def _save_first(store: Store, given: Backup, done: Restored) -> None:
    """Back up what is there, apart from the backups that people mean; one from an encrypted place is encrypted too."""
    choices = BackupChoices(encrypt_to=list(given.manifest["encrypted_to"]))
    here = given.place
    apart = replaced(here, url=f"{here.url}/{APART}", root=f"{here.root}/{APART}")
    try:
        done.actions.append(f"backed up what was there: {backup.make(store, apart, choices).where}")
    except (StoreUnreadable, backup.NotProven) as error:
        done.notes.append(f"what was there is damaged: it could not be backed up, only kept ({error.found})")


# a SQLite file


def _into_file(given: Backup, target: Path, done: Restored, *, replace: bool, identity: Path | None) -> None:
    target = Path(os.path.realpath(target))
    if target.exists() and target.stat().st_size:
        if not replace:
            raise _occupied(str(target), f"a file of {target.stat().st_size:,} bytes")
        fold_in(target)
        _save_first(Store(file=target, config_yaml=None, local_stores=target.parent), given, done)
    target.parent.mkdir(parents=True, exist_ok=True)
    with drill.unpacked(given, identity, target.parent) as copy:
        if problems := drill.differences(given, copy):
            raise _different(str(target), problems)
        done.kept += [str(kept) for kept in put([(copy, target)])]
    done.actions.append(f"restored {target}")


def fold_in(database: Path) -> None:
    """Raises :class:`StoreUnreadable` when a program holds the database; folds a write-ahead log in otherwise.

    The only place where a live database is opened for writing: a log that stayed behind would be replayed onto the
    restored file. What does not start like a database is not opened (SQLite would delete its log); it is replaced.
    """
    if not database.is_file() or sqlite.journal_mode(database) == "":
        return
    try:
        uri = f"{database.as_uri()}?mode=rw"
        with closing(sqlite3.connect(uri, uri=True, timeout=2, isolation_level=None)) as live:
            live.execute("PRAGMA locking_mode = EXCLUSIVE")
            live.execute("BEGIN EXCLUSIVE")
            live.execute("ROLLBACK")
            live.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.Error as error:
        if "locked" in str(error):
            raise StoreUnreadable(
                f"the store {database} is in use; nothing was changed",
                expected="a database that no program holds",
                found=str(error),
                remedy="stop ZenML servers, pipelines and notebooks that use it, then try again",
            ) from None


def put(pending: list[tuple[Path, Path]]) -> list[Path]:
    """Put copies in place; returns where the replaced files are kept. All copies are written before any is replaced."""
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    kept: list[Path] = []
    parts = {live: live.with_name(f".{live.name}.restore.part") for _, live in pending}
    try:
        for copy, live in pending:
            live.parent.mkdir(parents=True, exist_ok=True)
            _copy(copy, parts[live], like=live)
        for _, live in pending:
            replaced = live.with_name(f"{live.name}.before-restore-{moment}")
            if live.exists():
                kept.append(_keep(live, replaced))
            for suffix in sqlite.SIDE_FILES:
                stale = sqlite.beside(live, suffix)
                if stale.exists():
                    kept.append(stale.replace(sqlite.beside(replaced, suffix)))
            parts[live].replace(live)
    except OSError as error:
        raise KitError(
            "the files could not all be put in place",
            expected=f"to write beside {error.filename or pending[0][1]}",
            found=error.strerror or str(error),
            remedy="correct that and do the same again: it goes on where it stopped; replaced files are kept",
        ) from None
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
    return kept


def _keep(live: Path, kept: Path) -> Path:
    """A second name for the file where the file system has links, which takes no room; else a whole copy."""
    try:
        os.link(live, kept)
    except OSError:
        part = kept.with_name(f".{kept.name}.part")
        try:
            Path(shutil.copy2(live, part)).replace(kept)
        finally:
            part.unlink(missing_ok=True)
    return kept


def _copy(source: Path, target: Path, *, like: Path) -> None:
    """A flushed copy with the permissions and, where allowed, the owner of the file that it will replace."""
    target.unlink(missing_ok=True)
    target.touch(mode=0o600)
    with source.open("rb") as old, target.open("wb") as new:
        shutil.copyfileobj(old, new, 1 << 20)
        new.flush()
        os.fsync(new.fileno())
    if like.exists():
        shutil.copymode(like, target)
        with suppress(OSError, AttributeError):  # only the superuser may give files away; Windows has no owners
            os.chown(target, like.stat().st_uid, like.stat().st_gid)


# a schema on a server


def _into_server(given: Backup, target: Server, done: Restored, *, replace: bool, identity: Path | None) -> None:
    facts = given.manifest["server"]
    held = scratch.tables_in(target)
    if held and not replace:
        raise _occupied(target.name, f"{held} tables")
    if why_not := scratch.why_not(target, facts):
        raise RestoreRefused(
            f"nothing can be restored beside {target.name}",
            expected="an account that may make a schema next to it",
            found=why_not,
            remedy="grant that, or restore with another account; nothing was changed",
        )
    seen = scratch.in_use(target)
    if users := [one for one in seen if one != scratch.UNSEEN]:
        raise RestoreRefused(
            f"{target.name} is in use",
            expected="a database to which nobody is connected",
            found="; ".join(users[:5]),
            remedy="stop ZenML servers and pipelines that use it, then try again; nothing was changed",
        )
    done.notes += seen  # that others cannot be seen; the switch waits for them, but not long
    if held:
        _save_first(Store(server=target, config_yaml=None, local_stores=Path()), given, done)
    with drill.beside(given, target, identity, purpose="restore") as (fresh, problems):
        if problems:
            raise _different(target.name, problems)
        if kept := scratch.switch(target, fresh):
            done.kept.append(f"schema {kept}")
    done.actions.append(f"restored {target.name}")


# config.yaml


def _config_target(given: Backup, target: Path | Server, into: str) -> Path:
    """Where config.yaml goes: into the named config directory, else to where it came from, if so did the database."""
    saved = given.files("config_yaml")
    if not saved:
        raise RestoreRefused(
            "config.yaml cannot be restored",
            expected="a backup with config.yaml",
            found=f"none in {given.where}",
            remedy="leave --with-config out; nothing was changed",
        )
    if isinstance(target, Path) and "://" not in into and Path(into).expanduser().is_dir():
        return Path(os.path.abspath(Path(into).expanduser())) / "config.yaml"
    same = given.manifest["source"] == (f"sqlite:///{target}" if isinstance(target, Path) else target.name)
    if not same:
        raise RestoreRefused(
            "it is not clear where config.yaml belongs",
            expected="a ZenML config directory as the target, or the database that was backed up",
            found=into if "://" not in into else "another database",
            remedy="name the config directory with --into, or leave --with-config out; nothing was changed",
        )
    return Path(saved[0]["restore_to"])


def _put_config(given: Backup, place: Path, target: Path | Server, done: Restored, identity: Path | None) -> None:
    """Restore config.yaml; one that named another database names this one: ZenML opens what it says."""
    place.parent.mkdir(parents=True, exist_ok=True)
    copy = place.with_name(f".{place.name}.unpacked")
    copy.unlink(missing_ok=True)
    try:
        drill.unpack(given, "config_yaml", copy, identity)
        url = f"sqlite:///{target}" if isinstance(target, Path) else ""
        config = yaml.safe_load(copy.read_text(encoding="utf-8"))
        section = config.get("store") if isinstance(config, dict) else None
        if url and isinstance(section, dict) and section.get("url") not in (None, url):
            config["store"] = {**section, "url": url, "database": str(target)}
            copy.write_text(yaml.safe_dump(config), encoding="utf-8")
        if place.is_file() and place.read_bytes() == copy.read_bytes():
            done.actions.append(f"{place} is as it was")
            return
        done.kept += [str(kept) for kept in put([(copy, place)])]
        done.actions.append(f"restored {place}")
    finally:
        copy.unlink(missing_ok=True)
