"""Copies the database and config.yaml into the run, and proves the copy equal to the source, table by table."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
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

    manifest: ``format``, ``kit_version``, ``source_version``, ``stamp``, ``started``, ``finished``, ``database`` and
    ``config_yaml`` (``file``, ``bytes``, ``sha256``, ``restore_to``; the latter null when there was none), ``tables``
    (name to ``rows`` and ``fingerprint``).
    """

    folder: Path
    database: Path
    config_yaml: Path | None
    manifest: Mapping[str, Any]


def back_up(step: Step) -> StepResult:
    """Back up the plan's store; the source may be in use, is only read, and is seen at one moment.

    facts: ``folder``, ``manifest``, ``verified``, ``not_included``. A copy that differs from the source is a BK302
    finding and gets no manifest, so that nothing takes it for a backup.
    """
    store, folder = locate(step.plan.store), step.work
    _keep_what_matters(folder, store)
    for leftover in folder.iterdir():
        leftover.unlink()
    started = now()
    part, database = folder / "zenml.db.part", folder / "zenml.db"
    try:
        with closing(sqlite.connect(store.path)) as source:
            _make_room(folder, source)
            source.execute("BEGIN")  # what is compared is what was copied, whoever writes meanwhile
            stamps = sqlite.stamps(source)
            sqlite.copy_from(source, part)
            expected = _content(source)
        with closing(sqlite.connect(part)) as copy:
            problems = [line for line in sqlite.check(copy) if line != "ok"]
            found = _content(copy)
    except sqlite3.Error as error:
        raise sqlite.unreadable(store.path, error) from None
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if problems or different:
        return step.result([_not_proven(part, problems, different)], {"folder": str(folder), "verified": {}})
    part.replace(database)
    manifest = {
        "format": FORMAT,
        "kit_version": __version__,
        "source_version": step.run.source_version,
        "stamp": ", ".join(stamps),
        "started": started,
        "finished": now(),
        "database": _described(database, store.path),
        "config_yaml": _copy_config(store, folder),
        "tables": found,
    }
    write_whole(folder / "manifest.json", json.dumps(manifest, indent=1) + "\n")
    whole = open_backup(folder)
    verified = {
        "quick_check": "ok",
        "tables_compared": len(found),
        "rows_compared": sum(table["rows"] for table in found.values()),
        "rows_and_contents": "equal to the source",
        "files_hashed_again": 2 if whole.config_yaml else 1,
    }
    facts = {"folder": str(folder), "manifest": manifest, "verified": verified, "not_included": list(NOT_INCLUDED)}
    return step.result((), facts)


def open_backup(folder: Path) -> Backup:
    """The backup in a folder; raises :class:`BackupUnusable` unless every file is as the manifest says."""
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise _unusable(folder, f"a manifest of format {FORMAT}", f"format {manifest['format']}", "use a newer kit")
        entries = [manifest["database"], *filter(None, [manifest["config_yaml"]])]
        for entry in entries:
            path = folder / entry["file"]
            if not path.is_file() or sqlite.digest(path) != entry["sha256"]:
                found = "another content" if path.is_file() else "no such file"
                raise _unusable(folder, f"{entry['file']} with SHA-256 {entry['sha256'][:16]}…", found)
        return Backup(
            folder=folder,
            database=folder / manifest["database"]["file"],
            config_yaml=folder / manifest["config_yaml"]["file"] if manifest["config_yaml"] else None,
            manifest=manifest,
        )
    except FileNotFoundError:
        raise _unusable(folder, "manifest.json, which is written last", "none: no backup was finished here") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise _unusable(folder, "a readable manifest.json", "a damaged one") from None


def _unusable(folder: Path, expected: str, found: str, remedy: str = "") -> BackupUnusable:
    remedy = remedy or "use another backup, or run 20_backup again while the old store is still there"
    return BackupUnusable(f"the backup in {folder} cannot be used", expected=expected, found=found, remedy=remedy)


def _keep_what_matters(folder: Path, store: Store) -> None:
    """Raises :class:`BackupUnusable` rather than replace the backup from before an upgrade by one from after it."""
    try:
        stamp = open_backup(folder).manifest["stamp"]
    except BackupUnusable:
        return
    with closing(sqlite.connect(store.path)) as source:
        current = ", ".join(sqlite.stamps(source))
    if current != stamp:
        raise BackupUnusable(
            f"this run holds the backup of the store from before it was changed, and keeps it: {folder}",
            expected=f"a store that is still at {stamp}",
            found=f"a store at {current or 'no stamp'}",
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
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": sqlite.digest(path),
        "restore_to": str(original),
    }


def _copy_config(store: Store, folder: Path) -> dict[str, Any] | None:
    """config.yaml may hold secrets: the copy is for the user alone."""
    if store.config_yaml is None:
        return None
    copy = folder / "config.yaml"
    data = store.config_yaml.read_bytes()
    with open(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    described = _described(copy, store.config_yaml)
    assert described["sha256"] == hashlib.sha256(data).hexdigest()
    return described


def _not_proven(part: Path, problems: list[str], different: list[str]) -> Finding:
    seen = [*problems, *(f"table {name} differs from the source" for name in different)]
    return Finding(
        id="BK302",
        severity=Severity.BLOCK,
        subject=str(part),
        message=f"No proven backup of this database: {'; '.join(seen[:5])}.",
        remedy="Run the backup step again; if it happens again, check the disk.",
        data={"problems": problems, "tables": different},
    )
