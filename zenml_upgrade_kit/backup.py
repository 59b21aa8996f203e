"""Copies the database and config.yaml into the run, and proves the copy equal to the source."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import __version__
from zenml_upgrade_kit.errors import BackupUnusable
from zenml_upgrade_kit.findings import Finding, Severity, StepResult, now
from zenml_upgrade_kit.runs import Step, write_whole
from zenml_upgrade_kit.stores import Store, locate, sqlite

FORMAT = 1
NOT_INCLUDED = (
    "artifact files: a migration does not touch them; back up the artifact stores by other means",
    "secrets in an external secrets store, such as a cloud vault: only those in the database are included",
    "project folders (.zen) and code",
)


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A whole backup, its files hashed just now.

    manifest: ``format``, ``kit_version``, ``source_version``, ``stamp``, ``started``, ``finished``, ``compared`` (what
    proved the copy, and when), ``database`` and ``config_yaml`` (``file``, ``bytes``, ``sha256``, ``restore_to``; the
    latter null when there was none), ``tables`` (name to ``rows`` and ``fingerprint``).
    """

    folder: Path
    database: Path
    config_yaml: Path | None
    manifest: Mapping[str, Any]


def back_up(step: Step) -> StepResult:
    """Back up the plan's store; the source may be in use, is only read, and is seen at one moment.

    Each backup is a folder of its own under the step's, numbered, complete with its manifest; a complete one is never
    changed or removed. facts: ``folder``, ``manifest``, ``verified``, ``not_included``. A copy that differs from the
    source is a BK302 finding and gets no manifest, so that nothing takes it for a backup.

    In rollback-journal mode writers wait while the copy is made and its bytes are compared with the file; in WAL mode,
    where nobody waits, rows and contents of every table are compared.
    """
    store, started = locate(step.plan.store), now()
    complete = {path.parent for path in step.work.glob("*/manifest.json")}
    for unfinished in {path for path in step.work.iterdir() if path.is_dir()} - complete:
        shutil.rmtree(unfinished)
    folder = step.work / f"{len(complete) + 1:03}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    database = folder / "zenml.db"
    try:
        with store.path.open("rb") as file, closing(sqlite.connect(store.path)) as source:
            _make_room(step.work, source)
            source.execute("BEGIN")
            stamp = ", ".join(sqlite.stamps(source))
            _keep_what_matters(step.work, stamp)
            folder.mkdir(mode=0o700)
            sqlite.copy_from(source, database)
            expected = None if sqlite.same_pages(file, database) else _content(source)
        with closing(sqlite.connect(database)) as copy:
            problems, content = sqlite.damage(copy), _content(copy)
    except sqlite3.Error as error:
        raise sqlite.unreadable(store.path, error) from None
    wanted = expected or content
    different = sorted(name for name in wanted.keys() | content.keys() if wanted.get(name) != content.get(name))
    if problems or different:
        return step.result([_not_proven(database, problems, different)], {"folder": str(folder), "verified": {}})
    how = "rows and contents of every table" if expected else "every byte of every page"
    manifest = {
        "format": FORMAT,
        "kit_version": __version__,
        "source_version": step.run.source_version,
        "stamp": stamp,
        "started": started,
        "finished": now(),
        "compared": f"{how}, in the read transaction in which they were copied",
        "database": _described(database, store.path),
        "config_yaml": _copy_config(store, folder),
        "tables": content,
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    open_backup(step.work)  # hashes the files again
    verified = {
        "compared": manifest["compared"],
        "quick_check": "ok",
        "tables_compared": len(content),
        "rows_compared": sum(table["rows"] for table in content.values()),
    }
    facts = {"folder": str(folder), "manifest": manifest, "verified": verified, "not_included": list(NOT_INCLUDED)}
    return step.result((), facts)


def open_backup(folder: Path) -> Backup:
    """The newest complete backup in a folder of backups.

    Raises :class:`BackupUnusable` when there is none, or a file of it is not as its manifest says.
    """
    try:
        own, manifest = _newest(folder)
        if manifest["format"] != FORMAT:
            raise _unusable(own, f"a manifest of format {FORMAT}", f"format {manifest['format']}", "use a newer kit")
        entries = [manifest["database"], *filter(None, [manifest["config_yaml"]])]
        files = [own / entry["file"] for entry in entries]
        for path, entry in zip(files, entries, strict=True):
            if not path.is_file() or sqlite.digest(path) != entry["sha256"]:
                found = "another content" if path.is_file() else "no such file"
                raise _unusable(own, f"{path.name} with SHA-256 {entry['sha256'][:16]}…", found)
        return Backup(folder=own, database=files[0], config_yaml=files[1] if files[1:] else None, manifest=manifest)
    except (OSError, ValueError, KeyError, TypeError):
        raise _unusable(folder, "a readable manifest.json", "a damaged one") from None


def _newest(folder: Path) -> tuple[Path, dict[str, Any]]:
    manifests = sorted(folder.glob("*/manifest.json"))
    if not manifests:
        raise _unusable(folder, "manifest.json, which is written last", "none: no backup was finished here")
    return manifests[-1].parent, json.loads(manifests[-1].read_text(encoding="utf-8"))


def _unusable(folder: Path, expected: str, found: str, remedy: str = "") -> BackupUnusable:
    remedy = remedy or "use another backup, or run 20_backup again while the old store is still there"
    return BackupUnusable(f"the backup in {folder} cannot be used", expected=expected, found=found, remedy=remedy)


def _keep_what_matters(folder: Path, stamp: str) -> None:
    """Raises :class:`BackupUnusable` rather than let a backup from after an upgrade come before the one from before."""
    held = stamp
    with suppress(BackupUnusable, OSError, ValueError, KeyError, TypeError):
        held = _newest(folder)[1]["stamp"]
    if held != stamp:
        raise BackupUnusable(
            f"this run holds the backup of the store from before it was changed, and keeps it: {folder}",
            expected=f"a store that is still at {held}",
            found=f"a store at {stamp or 'no stamp'}",
            remedy="start a new run for the store as it is now, or go back with 90_rollback",
        )


def _make_room(folder: Path, source: sqlite3.Connection) -> None:
    pages, size = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    free = shutil.disk_usage(folder).free
    if free < pages * size * 1.1:
        raise BackupUnusable(
            "there is no room for a backup",
            expected=f"{pages * size:,} bytes and a tenth more under {folder}",
            found=f"{free:,} bytes free",
            remedy="make room, or start a run under another folder with --out",
        )


def _content(connection: sqlite3.Connection) -> dict[str, dict[str, Any]]:
    rows, prints = sqlite.counts(connection), sqlite.fingerprints(connection)
    return {name: {"rows": rows[name], "fingerprint": prints[name]} for name in rows}


def _described(path: Path, original: Path) -> dict[str, Any]:
    """What the manifest says of a file, once it is safely on disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    size, sha256 = path.stat().st_size, sqlite.digest(path)
    return {"file": path.name, "bytes": size, "sha256": sha256, "restore_to": str(original)}


def _copy_config(store: Store, folder: Path) -> dict[str, Any] | None:
    """config.yaml may hold secrets: the copy is for the user alone."""
    if store.config_yaml is None:
        return None
    copy = folder / "config.yaml"
    copy.touch(mode=0o600)
    copy.write_bytes(store.config_yaml.read_bytes())
    return _described(copy, store.config_yaml)


def _not_proven(copy: Path, problems: list[str], different: list[str]) -> Finding:
    seen = [*problems, *(f"table {name} differs from the source" for name in different)]
    return Finding(
        id="BK302",
        severity=Severity.BLOCK,
        subject=str(copy),
        message=f"No proven backup of this database: {'; '.join(seen[:5])}.",
        remedy="Run the backup step again; if it happens again, check the disk.",
        data={"problems": problems, "tables": different},
    )
