"""Restores a backup where it disturbs nobody, and compares every table with the manifest."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.errors import BackupUnusable, BadPlan, KitError, PlaceUnusable, RestoreRefused, StoreUnreadable
from zenml_upgrade_kit.findings import now
from zenml_upgrade_kit.places import room
from zenml_upgrade_kit.stores import dumping, locate, mysql, private, scratch, sqlite
from zenml_upgrade_kit.stores.address import Server

BLOCK = 1 << 14
"""Bytes to write at a time. Linux caches a file in pieces as large as the writes, and SQLite changes pages of 4 KB:
migrating a file that was written 1 MB at a time takes longer (``bench_rehearsal.py --only pieces``)."""
FULL = re.compile(r"is full|disk full|no space left|no more room|\b(?:errcode|errno|error):? ?28\b", re.IGNORECASE)
"""What servers and their programs say when a disk is full, whatever table it was."""
SESSIONS = 4
"""That compare what was restored, which nobody else uses: they wait for the disk more than for each other."""


@dataclass(frozen=True, kw_only=True)
class Drill:
    """How restoring a backup went.

    into: where, in words. seconds: loading and comparing, which is what going back takes; None when nothing was
    loaded. problems: sentences, none when everything was restored as it was. not_checked: why no drill was possible.
    """

    into: str
    seconds: float | None = None
    problems: tuple[str, ...] = ()
    not_checked: str = ""


def drill(backup: Backup, *, server: Server | None = None, identity: Path | None = None) -> Drill:
    """Restore a backup into a scratch database, compare, remove it; the outcome is recorded beside the manifest.

    SQLite: a temporary file. MySQL and MariaDB: a scratch schema on ``server`` where its grants allow one, else in a
    private MariaDB. What cannot be tried at all is not checked, with the reason.
    """
    started = time.monotonic()
    try:
        with _somewhere(backup, server, identity) as (into, problems):
            done = Drill(into=into, seconds=time.monotonic() - started, problems=tuple(problems))
    except (BackupUnusable, RestoreRefused) as error:
        done = Drill(into="nowhere", problems=(f"{error.problem}: {error.found}",))
    except KitError as error:
        return Drill(into="nowhere", not_checked=f"{error.problem}: {error.found}")
    with suppress(PlaceUnusable):  # a backup that can only be read is as good
        if done.problems:
            backup.record(restored=None, problem="; ".join(done.problems))
        else:
            took = round(done.seconds or 0, 3)
            backup.record(restored=now(), restore_seconds=took, restored_into=done.into, problem="")
    return done


def server_at(given: str) -> Server:
    """The server to load a backup into; raises :class:`BadPlan` for a store that is a file."""
    server = locate(given).server
    if not server:
        raise BadPlan(
            "this can only be done on a server",
            expected="env:NAME of a variable with a mysql:// URL",
            found="a SQLite store",
            remedy="name another, or none",
        )
    return server


@contextmanager
def _somewhere(backup: Backup, server: Server | None, identity: Path | None) -> Iterator[tuple[str, list[str]]]:
    if backup.manifest["engine"] == "sqlite":
        with unpacked(backup, identity) as copy:
            yield "a temporary file", differences(backup, copy)
        return
    why_not = scratch.why_not(server, backup.manifest["server"]) if server else ""
    with nullcontext(server) if server and not why_not else private.server() as chosen:
        into = "a scratch schema beside the store" if chosen is server else "a private MariaDB"
        into += f" (not beside the store: {why_not})" if why_not else ""
        with beside(backup, chosen, identity, purpose="drill") as (fresh, problems):
            with closing(mysql.connect(fresh)) as connection:
                facts = mysql.facts(connection)
            yield f"{into}, {facts['flavour']} {facts['version']}", problems


@contextmanager
def unpacked(backup: Backup, identity: Path | None = None, folder: Path | None = None) -> Iterator[Path]:
    """The database file of a SQLite backup, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="zuk-", dir=folder) as own:
        yield unpack(backup, "database", Path(own, "zenml.db"), identity)


def unpack(backup: Backup, role: str, target: Path, identity: Path | None = None) -> Path:
    """Write the one file of a role, as it was, to a new file that only this user may read.

    Raises :class:`BackupUnusable` when the backup has no such file, or it is not what the manifest says.
    """
    files = backup.files(role)
    if not files:
        raise BackupUnusable(
            f"the backup {backup.where} has no {role.replace('_', '.')}",
            expected=f"a backup with {role.replace('_', '.')}",
            found=", ".join(sorted({file["role"] for file in backup.manifest["files"]})),
            remedy="use another backup, or go on without it",
        )
    room(target.parent, files[0]["original_bytes"])
    with (
        _roomy(str(target.parent), files[0]["original_bytes"]),
        backup.open(files[0], identity) as source,
        open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,  # ext4 flushes what "wb" cuts
    ):
        while block := source.read(BLOCK):
            file.write(block)
    return target


def differences(backup: Backup, database: Path) -> list[str]:
    """Where a SQLite file differs from what the manifest says of it, in sentences."""
    try:
        with closing(sqlite.connect(database)) as connection:
            found = sqlite.contents(connection, copy=database)
            return [*sqlite.damage(connection), *_different(backup.manifest, found)]
    except (sqlite3.Error, KitError) as error:
        return [str(getattr(error, "found", error))]


@contextmanager
def beside(
    backup: Backup, server: Server, identity: Path | None, *, purpose: str
) -> Iterator[tuple[Server, list[str]]]:
    """A scratch schema on a server with the backup in it, and where it differs from the manifest; gone afterwards."""
    must_load(backup, server)
    for left in scratch.leftovers(server):
        if not left["alive"] and left["purpose"] != scratch.COPY:  # of a drill or a restore that was killed
            with suppress(KitError):  # somebody else removes it at this moment
                scratch.remove(server, left["name"])
    with scratch.scratch(server, backup.manifest["server"], purpose) as fresh:
        yield fresh, fill(backup, fresh, identity)


def must_load(backup: Backup, server: Server) -> None:
    """Raises :class:`StoreUnreadable` when a server is known not to take the backup, before anything is done."""
    wanted = backup.manifest["server"]
    with closing(mysql.connect(server.using("information_schema"))) as connection:
        reasons = dumping.loadable(wanted, connection)
    if reasons:
        raise StoreUnreadable(
            f"the backup {backup.where} cannot be loaded into {server.name}",
            expected=f"a server like the one it came from, {wanted['flavour']} {wanted['version']}",
            found="; ".join(reasons),
            remedy="choose a server of that flavour and version, or newer; nothing was changed",
        )


def fill(backup: Backup, fresh: Server, identity: Path | None) -> list[str]:
    """Load a backup into an empty schema; where it differs from the manifest, in sentences."""
    manifest = backup.manifest
    with (
        _roomy(fresh.name, sum(manifest["server"]["tables"].values())),
        tempfile.TemporaryDirectory(prefix="zuk-") as staging,
    ):
        if manifest["dump_format"] == "mydumper":
            room(Path(staging), sum(file["original_bytes"] for file in backup.files("database")))
        files = ((file["original"], backup.open(file, identity)) for file in backup.files("database"))
        loaded = threading.Event()
        with closing(mysql.connect(fresh)) as connection:
            try:
                with ThreadPoolExecutor(1) as pool:
                    known = pool.submit(_as_they_come, connection, loaded) if manifest["dump_format"] == "sql" else None
                    try:
                        dumping.load(fresh, format=manifest["dump_format"], files=files, staging=Path(staging))
                    finally:
                        loaded.set()
            except RestoreRefused:
                connection.execute("SELECT 1")  # a server that was lost meanwhile is no fault of the backup
                raise
        return server_differences(backup, fresh, known.result() if known else {})


@contextmanager
def _roomy(where: str, wanted: float) -> Iterator[None]:
    """A disk that fills up meanwhile is told as that: it is no fault of the backup."""
    try:
        yield
    except (OSError, RestoreRefused) as error:
        found = error.found if isinstance(error, RestoreRefused) else str(error)
        if not (FULL.search(found) or getattr(error, "errno", 0) == errno.ENOSPC):
            raise
        raise PlaceUnusable(
            f"there is no room in {where}",
            expected=f"{wanted:,.0f} bytes",
            found=found,
            remedy="make room there, or choose another place; the backup is as it was",
        ) from None


def _as_they_come(connection: mysql.Connection, loaded: threading.Event) -> dict[str, dict[str, Any]]:
    """Contents of tables while later ones are loaded: one session loads them one after the other, on one core."""
    found: dict[str, dict[str, Any]] = {}
    earlier: set[str] = set()
    while not loaded.wait(0.5):
        there = set(mysql.tables(connection))
        if there - earlier:  # whatever was there before them is complete
            found |= mysql.contents([connection], earlier - found.keys())
            earlier = there
    return found


def server_differences(
    backup: Backup, server: Server, known: Mapping[str, Mapping[str, Any]] | None = None
) -> list[str]:
    """Where a schema differs from the manifest: rows, contents, and on the same kind of server the definitions.

    known: contents of tables that were looked at before.
    """
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(mysql.connect(server))) for _ in range(SESSIONS)]
        rest = mysql.tables(connections[0]).keys() - (known or {}).keys()
        contents, facts = {**(known or {}), **mysql.contents(connections, rest)}, mysql.facts(connections[0])
        definitions = mysql.definitions(connections[0])
    wanted = backup.manifest["server"]
    problems = _different(backup.manifest, contents)
    if (wanted["flavour"], wanted["version"].split(".")[:2]) == (facts["flavour"], facts["version"].split(".")[:2]):
        written = backup.manifest["definitions"]
        problems += [
            f"the definition of table {name} differs"
            for name in sorted(written.keys() & definitions.keys())
            if written[name] != definition_digest(definitions[name])
        ]
    return problems


def definition_digest(text: str) -> str:
    """What a manifest keeps of a table's definition."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _different(manifest: Mapping[str, Any], contents: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Tables that are missing, too many, or other than the manifest says."""
    problems = []
    for name in sorted(manifest["tables"].keys() | contents.keys()):
        wanted, found = manifest["tables"].get(name), contents.get(name)
        if not wanted or not found:
            problems.append(f"table {name} is {'missing' if wanted else 'not of this backup'}")
        elif wanted["rows"] is not None and wanted["rows"] != found["rows"]:
            problems.append(f"table {name} has {found['rows']} rows, not {wanted['rows']}")
        elif wanted["fingerprint"] is not None and wanted["fingerprint"] != found["fingerprint"]:
            problems.append(f"table {name} has other contents")
    return problems
