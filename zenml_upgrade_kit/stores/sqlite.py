"""A SQLite metadata database: opened read-only, fingerprinted, backed up; the source is never written.

Measured with SQLite 3.40: a ``mode=ro`` connection to a WAL database creates and leaves ``-wal`` and ``-shm`` where
there were none, fails in a read-only folder, and fails where a killed writer left a hot ``-journal``. So a database
that nobody has open, but that needs such files to be read, is read through a private copy of all its files.
Never ``immutable=1``: it does not see rows that are only in the WAL.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, BinaryIO

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores import rows

MAGIC = b"SQLite format 3\0"
HEADER = 100
"""Bytes before the first page's content: versions and counters, which a copy has of its own."""
SIDE_FILES = ("-wal", "-shm", "-journal")
PATIENCE = 10.0
"""Seconds to wait for a writer that holds the database."""
SHARED = 20_000
"""Rows from which a second process is worth its start, which takes some hundredths of a second."""


class _Connection(sqlite3.Connection):
    """A connection with which a private copy goes away, if it is one to such a copy."""

    copy: tempfile.TemporaryDirectory[str] | None = None

    def close(self) -> None:
        super().close()
        if self.copy:
            self.copy.cleanup()


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection that has read the schema; rows are :class:`sqlite3.Row`, transactions are explicit.

    No file appears beside the database, none changes. Raises :class:`StoreUnreadable`.
    """
    try:
        header = _header(path)
        if not header.startswith(MAGIC):
            raise sqlite3.DatabaseError("the file is empty" if not header else "file is not a database")
        wal, index, journal = (beside(path, suffix).exists() for suffix in SIDE_FILES)
        if (wal or header[18:20] != b"\1\1") and not (wal and index):
            return _open_copy(path)  # in WAL mode and nobody has it open: reading it in place would leave files
        try:
            return _open(path)
        except sqlite3.OperationalError as error:
            if not journal or "locked" in str(error):
                raise
            return _open_copy(path)  # a killed writer's journal is rolled back, in the copy
    except (OSError, sqlite3.Error) as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: Exception) -> StoreUnreadable:
    """What to raise when SQLite refuses."""
    locked = "locked" in str(error)
    return StoreUnreadable(
        f"the database {path} cannot be read",
        expected="a moment in which no program writes" if locked else "a whole SQLite database",
        found=str(getattr(error, "strerror", None) or error),
        remedy="try again when the program that holds it is done" if locked else "check the path; restore a backup",
    )


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEADER)


def _open(path: Path, copy: tempfile.TemporaryDirectory[str] | None = None) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={'rw' if copy else 'ro'}"
    connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None, factory=_Connection)
    connection.copy, connection.row_factory = copy, sqlite3.Row
    try:
        connection.execute("PRAGMA query_only = ON")
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _open_copy(path: Path) -> sqlite3.Connection:
    """Opens a copy taken while no file changed; a writer that turns up meanwhile makes it start again."""
    for _ in range(5):
        folder = tempfile.TemporaryDirectory(prefix="zenml-upgrade-")
        before = _state(path)
        for suffix in ("", "-wal", "-journal"):
            if beside(path, suffix).exists():
                shutil.copyfile(beside(path, suffix), Path(folder.name, path.name + suffix))
        if _state(path) == before:
            return _open(Path(folder.name, path.name), folder)
        folder.cleanup()
        if beside(path, "-shm").exists():
            return _open(path)  # somebody opened it: now it can be read in place
    raise sqlite3.OperationalError("the file changes while it is read; the database is locked by a writer")


def _state(path: Path) -> list[tuple[int, int, int] | None]:
    files = [beside(path, suffix) for suffix in ("", *SIDE_FILES)]
    stats = [file.stat() if file.exists() else None for file in files]
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else None for stat in stats]


def beside(path: Path, suffix: str) -> Path:
    """A side file of a database, by its suffix."""
    return path.with_name(path.name + suffix)


def quoted(name: str) -> str:
    """An identifier for SQL text."""
    return '"' + name.replace('"', '""') + '"'


def tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Columns of every table, in stored order; SQLite's own tables are left out."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    return {name: [row[1] for row in _columns(connection, name)] for (name,) in connection.execute(query).fetchall()}


def _columns(connection: sqlite3.Connection, table: str) -> list[Any]:
    return connection.execute(f"PRAGMA table_info({quoted(table)})").fetchall()


def stamps(connection: sqlite3.Connection) -> list[str]:
    """The revisions in ``alembic_version``: one in a healthy store, none when the table is missing or empty."""
    if "alembic_version" not in tables(connection):
        return []
    return sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows of every table."""
    query = "SELECT COUNT(*) FROM "
    return {name: connection.execute(query + quoted(name)).fetchone()[0] for name in tables(connection)}


def fingerprints(connection: sqlite3.Connection) -> dict[str, str]:
    """The content identity of every table, as :func:`rows.fingerprint`."""
    return {name: rows.fingerprint(connection, name) for name in tables(connection)}


def contents(connection: sqlite3.Connection, *, copy: Path | None = None) -> dict[str, dict[str, Any]]:
    """What a manifest says of every table: ``rows`` and ``fingerprint``.

    copy: the file that is read, when nobody can be writing to it: then a second process takes its share of the tables.
    """
    counted, found = counts(connection), dict[str, str]()
    todo = iter(sorted(counted, key=lambda name: counted[name], reverse=True))
    with _shared(copy, todo, found) if copy and sum(counted.values()) > SHARED else nullcontext():
        for name in todo:
            found[name] = rows.fingerprint(connection, name)
    for name in counted.keys() - found.keys():  # what the other process gave no answer to
        found[name] = rows.fingerprint(connection, name)
    return {name: {"rows": counted[name], "fingerprint": found[name]} for name in counted}


@contextmanager
def _shared(copy: Path, todo: Iterator[str], found: dict[str, str]) -> Iterator[None]:
    """Meanwhile another process takes tables from the same list: Python reads rows on one core only."""

    def ask() -> None:
        command = [sys.executable, "-I", "-S", rows.__file__, copy.absolute().as_uri()]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        with suppress(OSError), subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=null, text=True) as process:
            for name in todo:
                print(json.dumps(name), file=process.stdin, flush=True)
                if not (answer := process.stdout.readline().strip() if process.stdout else ""):
                    return
                found[name] = answer

    with ThreadPoolExecutor(1) as pool:
        pool.submit(ask)
        try:
            yield
        finally:
            deque(todo, maxlen=0)


def digest(path: Path) -> str:
    """SHA-256 of the database's bytes, and of its ``-wal`` when that is not empty."""
    sha = hashlib.sha256()
    for file in [path, beside(path, "-wal")][: 2 if wal_bytes(path) else 1]:
        with file.open("rb") as source:
            while block := source.read(1 << 20):
                sha.update(block)
    return sha.hexdigest()


def wal_bytes(path: Path) -> int:
    """Size of the write-ahead log beside the database, 0 when there is none."""
    wal = beside(path, "-wal")
    return wal.stat().st_size if wal.exists() else 0


def journal_mode(path: Path) -> str:
    """``wal`` or ``delete`` as the file itself says, "" for no database; what is read through a copy may differ."""
    header = _header(path)
    return ("wal" if header[18:20] == b"\2\2" else "delete") if header.startswith(MAGIC) else ""


def missing_bytes(path: Path) -> int:
    """How much shorter the file is than its header says; 0 in WAL mode, where pages may still be in the log."""
    header = _header(path)
    if len(header) < HEADER or header[18:20] != b"\1\1" or header[24:28] != header[92:96]:
        return 0  # the page count is only valid where SQLite wrote it together with the change counter
    page_size = int.from_bytes(header[16:18], "big")
    pages = int.from_bytes(header[28:32], "big")
    return max(0, pages * (65536 if page_size == 1 else page_size) - path.stat().st_size)


def damage(connection: sqlite3.Connection, *, full: bool = False) -> list[str]:
    """What SQLite finds wrong with the file's structure, nothing when it is whole; full: with its indexes."""
    try:
        pragma = "integrity_check" if full else "quick_check"
        lines = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}(20)")]
        return [] if lines == ["ok"] else lines
    except sqlite3.DatabaseError as error:
        return [str(error)]


def online_backup(source: Path, target: Path) -> None:
    """Copy a database that may be in use, rows in its WAL included, with SQLite's backup API.

    The copy is one self-contained file in rollback-journal mode, private to the user; it is not flushed to disk.
    """
    with closing(connect(source)) as connection:
        copy_from(connection, target)


def copy_from(connection: sqlite3.Connection, target: Path) -> None:
    """As :func:`online_backup`, of what an open connection sees; inside its transaction that is one moment."""
    target.touch(mode=0o600, exist_ok=False)
    with closing(sqlite3.connect(target)) as copy:
        copy.execute("PRAGMA synchronous = OFF")  # a writer may be waiting: whoever needs it on disk flushes it later
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")


def same_pages(file: BinaryIO, copy: Path) -> bool:
    """Whether a copy has, after the header, the very bytes of an open database file; False in WAL mode, unread.

    Means something only in the transaction that the copy was made in. The file is opened before it and closed after
    it: closing any handle of a file makes POSIX drop all locks that the process has on it, SQLite's too.
    """
    with copy.open("rb") as other:
        other.seek(HEADER)
        if file.read(HEADER)[18:20] != b"\1\1":
            return False  # the newest pages are in the log
        while block := other.read(1 << 20):
            if file.read(len(block)) != block:
                return False
    return not file.read(1)
