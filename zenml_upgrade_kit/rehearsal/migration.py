"""Lets a release migrate a copy of a database: how long each revision took, what it needed, why it stopped."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import probing, releases, stores
from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.probing import Ended, Environment
from zenml_upgrade_kit.rehearsal import servers
from zenml_upgrade_kit.stores import locks, mysql, sqlite
from zenml_upgrade_kit.stores.address import Server

LOCKED = re.compile(r"database is locked|Lock wait timeout|Deadlock found")
"""What SQLite says after five seconds (0.98.0: sixty), MySQL after its innodb_lock_wait_timeout."""
EVERY = 0.25
"""Seconds between two looks at a copy's size; a server is asked a tenth as often."""

_SIZES = (  # the files, temporary ones of an ALTER too, as MySQL and as MariaDB call them; else an estimate
    "SELECT IFNULL(SUM(file_size), 0) FROM innodb_tablespaces WHERE SUBSTRING_INDEX(name, '/', 1) = %s",
    "SELECT IFNULL(SUM(file_size), 0) FROM innodb_sys_tablespaces WHERE SUBSTRING_INDEX(name, '/', 1) = %s",
    "SELECT IFNULL(SUM(data_length + index_length), 0) FROM tables WHERE table_schema = %s",
)


@dataclass(frozen=True, kw_only=True)
class Revision:
    """One revision that was completed: its release, and the seconds from its begin to the next one's."""

    revision: str
    release: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Hop:
    """One migration of a copy to one release.

    started_at, reached: stamps before and after, "" when they could not be read. seconds: opening the database, import
    of ZenML excluded: the revisions, and what is done before and after them (flavors, default stacks). memory, disk:
    bytes, the process's peak and the most that the copy grew by, sampled. error: ``type``, ``message``, ``traceback``;
    None when the release's stamp was reached. stopped_at: the revision that failed, "" when it was none. held_by:
    sentences about who holds the database, when it seemed to be locked. log: path.
    """

    version: str
    started_at: str
    reached: str
    seconds: float
    revisions: tuple[Revision, ...]
    memory: int
    disk: int
    error: Mapping[str, str] | None
    stopped_at: str
    timed_out: bool
    held_by: tuple[str, ...]
    log: str


def migrate(
    environment: Environment, database: Path | Server, *, folder: Path, variables: Mapping[str, str], timeout: float
) -> Hop:
    """Open a copy with a release, which migrates it; whatever happens to it is told in the hop.

    folder: of this hop alone. variables: with which any release finds the copy. timeout: seconds; then the process
    ends, and so do its sessions. ZenML's own backup is switched off where the release knows how (0.55.1).
    """
    stamp = releases.get(environment.version).stamp
    if releases.crosses("0.43.0", stamp, "0.55.1"):  # earlier ones make no backup, and refuse a setting they lack
        variables = {**variables, "ZENML_STORE_BACKUP_STRATEGY": "disabled"}
    progress, log = folder / "migrate.progress", folder / "migrate.log"
    with suppress(OSError):
        progress.unlink()
    started_at = _stamp(database)
    with _Watch(database, progress, timeout) as watch:
        ended, reply = _run(environment, progress, folder, variables, timeout)
    events: list[dict[str, Any]] = (reply or {}).get("events") or _events(progress)
    error = (reply or {}).get("error") or (None if reply else _died(ended, timeout))
    held = watch.held if ended and ended.timed_out else ()
    if error and LOCKED.search(error["message"]):
        held = locks.holders(database, watch.own(events))
    if isinstance(database, Server) and not reply:
        locks.end(database, watch.own(events))
    reached = _stamp(database)
    if not error and reached != stamp:
        found = reached or "a stamp that cannot be read"
        error = {"type": "no error", "message": f"the database is at {found}, not at {stamp}", "traceback": ""}
    revisions, stopped_at = _timed(events)
    hide = servers.redactor(database, variables)
    return Hop(
        version=environment.version,
        started_at=started_at,
        reached=reached,
        seconds=round((reply or {}).get("seconds") or (ended.seconds if ended else 0.0), 3),
        revisions=revisions,
        memory=max((reply or {}).get("memory", 0), watch.memory),
        disk=watch.grown(),
        error=hide.json(error),
        stopped_at=stopped_at if error else "",
        timed_out=bool(ended and ended.timed_out),
        held_by=tuple(map(hide.text, held)),
        log=str(log),
    )


def _run(
    environment: Environment, progress: Path, folder: Path, variables: Mapping[str, str], timeout: float
) -> tuple[Ended | None, dict[str, Any] | None]:
    """How the probe ended and its reply, None for none: where the disk is full there may be neither."""
    asked, answer = folder / "migrate.request.json", folder / "migrate.reply.json"
    ended = None
    with suppress(OSError, ValueError):
        folder.mkdir(parents=True, exist_ok=True)
        answer.unlink(missing_ok=True)
        asked.write_text(json.dumps({"progress": str(progress)}), encoding="utf-8")
        ended = probing.run_probe_process(
            environment, "migrate", [str(asked), str(answer)], folder=folder, variables=variables, timeout=timeout
        )
        if not ended.timed_out:
            return ended, json.loads(answer.read_text(encoding="utf-8"))
    return ended, None


def _died(ended: Ended | None, timeout: float) -> dict[str, str]:
    """The error of a process that gave no reply."""
    if not ended:
        return {"type": "OSError", "message": "nothing can be written to the folder of the hop", "traceback": ""}
    if ended.timed_out:
        kind, message = "timeout", f"the migration was not done after {timeout:g} s and was ended"
    elif ended.returncode < 0:
        kind, message = "killed", f"the process was ended by signal {-ended.returncode} (9: often for lack of memory)"
    else:
        kind, message = "died", f"the process ended with exit code {ended.returncode} and no reply"
    return {"type": kind, "message": message, "traceback": ended.last_lines(40)}


def _timed(events: list[dict[str, Any]]) -> tuple[tuple[Revision, ...], str]:
    """The revisions that were completed, and the one that was not; a second upgrade, which some do, finds nothing."""
    begun = [event for event in events if "revision" in event]
    upgraded = [event["at"] for event in events if "upgraded" in event and begun and event["at"] >= begun[-1]["at"]]
    revisions = []
    for event, until in zip(begun, [*(event["at"] for event in begun[1:]), *upgraded[:1]], strict=False):
        release, taken = releases.for_stamp(event["revision"]), round(until - event["at"], 4)
        revisions.append(
            Revision(revision=event["revision"], release=release.version if release else "", seconds=taken)
        )
    return tuple(revisions), begun[len(revisions)]["revision"] if len(revisions) < len(begun) else ""


def _stamp(database: Path | Server) -> str:
    """The stamps of the database; "" when it cannot be read, as after its server was lost."""
    with suppress(KitError, OSError, sqlite3.Error), closing(stores.connect(database)) as connection:
        return ", ".join(stores.stamps(connection))
    return ""


def _events(progress: Path) -> list[dict[str, Any]]:
    """What a process told before it was killed; its last line may be cut."""
    found: list[dict[str, Any]] = []
    with suppress(OSError, ValueError):
        for line in progress.read_text(encoding="utf-8").splitlines():
            found.append(json.loads(line))
    return found


class _Watch:
    """Looks at a migration from outside, in a thread of its own: size of the copy, memory, and who holds it up.

    Shortly before the time is up, while the migration still waits, it looks who holds the database.
    """

    def __init__(self, database: Path | Server, progress: Path, timeout: float) -> None:
        self._database, self._progress = database, progress
        self._until = time.monotonic() + timeout - min(5.0, timeout / 4)
        self._first, self._most = _size(database), 0
        self._done, self._thread = threading.Event(), threading.Thread(target=self._work, daemon=True)
        self.held: tuple[str, ...] = ()
        self.memory = 0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(mysql.PATIENCE)  # a server that is gone may keep it waiting
        self._most = max(self._most, _size(self._database))

    def grown(self) -> int:
        """Most bytes that the copy was larger than at first; 0 where its size cannot be seen."""
        return max(self._most - self._first, 0) if self._first else 0

    def own(self, events: list[dict[str, Any]]) -> set[int]:
        """The migration's sessions, or for a file its process."""
        name = "session" if isinstance(self._database, Server) else "pid"
        return {int(event[name]) for event in events if name in event}

    def _work(self) -> None:
        pace = EVERY * (10 if isinstance(self._database, Server) else 1)
        while not self._done.wait(pace):
            events = _events(self._progress)
            self._most = max(self._most, _size(self._database))
            self.memory = max(self.memory, *(_memory(event["pid"]) for event in events if "pid" in event), 0)
            if time.monotonic() >= self._until and not self.held:
                self.held = locks.holders(self._database, self.own(events))


def _size(database: Path | Server) -> int:
    """Bytes of a database on the disk, with its side files; 0 when it cannot be told."""
    if isinstance(database, Path):
        files = [database, *(sqlite.beside(database, suffix) for suffix in sqlite.SIDE_FILES)]
        with suppress(OSError):  # a journal that goes at this moment
            return sum(file.stat().st_size for file in files if file.exists())
        return 0
    with suppress(KitError), closing(mysql.connect(database.using("information_schema"))) as connection:
        for query in _SIZES:
            with suppress(KitError):
                return int(connection.execute(query, [database.database])[0][0])
    return 0


def _memory(process: int) -> int:
    """Most bytes that a process had in use so far, where Linux tells."""
    with suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    return 0
