"""A SQLite metadata database: opened read-only, fingerprinted, backed up; the source is never written.

Measured with SQLite 3.40: a ``mode=ro`` connection to a WAL database creates and leaves ``-wal`` and ``-shm`` where
there were none, fails in a read-only folder, and fails where a killed writer left a hot ``-journal``. So a database
that nobody has open, but that needs such files to be read, is read through a private copy of all its files.
Never ``immutable=1``: it does not see rows that are only in the WAL.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.errors import StoreUnreadable

MAGIC = b"SQLite format 3\0"
SIDE_FILES = ("-wal", "-shm", "-journal")
PATIENCE = 10.0
"""Seconds to wait for a writer that holds the database."""


class _Copy(sqlite3.Connection):
    """A connection to a private copy, which goes away with it."""

    folder: tempfile.TemporaryDirectory[str]

    def close(self) -> None:
        super().close()
        self.folder.cleanup()


def connect(path: Path) -> sqlite3.Connection:
    """A read-only connection that has read the schema; rows are :class:`sqlite3.Row`, transactions are explicit.

    No file appears beside the database, none changes. Raises :class:`StoreUnreadable`.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
        if not header.startswith(MAGIC):
            raise sqlite3.DatabaseError("the file is empty" if not header else "file is not a database")
        if _needs_copy(path, header):
            return _open_copy(path)
        try:
            return _open(path)
        except sqlite3.OperationalError as error:
            if not (_beside(path, "-journal").exists() and "locked" not in str(error)):
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


def _open(path: Path, mode: str = "ro", factory: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=PATIENCE, isolation_level=None, factory=factory)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        sqlite3.Connection.close(connection)
        raise
    return connection


def _needs_copy(path: Path, header: bytes) -> bool:
    """True for a WAL database without ``-shm``: nobody has it open, and reading it in place would leave files."""
    in_wal_mode = header[18:20] != b"\1\1" or _beside(path, "-wal").exists()
    return in_wal_mode and not (_beside(path, "-wal").exists() and _beside(path, "-shm").exists())


def _open_copy(path: Path) -> sqlite3.Connection:
    """Opens a copy taken while no file changed; a writer that turns up meanwhile makes it start again."""
    for _ in range(5):
        folder = tempfile.TemporaryDirectory(prefix="zenml-upgrade-")
        before = _state(path)
        for suffix in ("", "-wal", "-journal"):
            if _beside(path, suffix).exists():
                shutil.copyfile(_beside(path, suffix), Path(folder.name, path.name + suffix))
        if _state(path) == before:
            connection = _open(Path(folder.name, path.name), "rw", _Copy)
            assert isinstance(connection, _Copy)
            connection.folder = folder
            connection.execute("PRAGMA query_only = ON")
            return connection
        folder.cleanup()
        if _beside(path, "-shm").exists():
            return _open(path)  # somebody opened it: now it can be read in place
    raise sqlite3.OperationalError("the file changes while it is read; the database is locked by a writer")


def _state(path: Path) -> list[tuple[int, int, int] | None]:
    files = [_beside(path, suffix) for suffix in ("", *SIDE_FILES)]
    stats = [file.stat() if file.exists() else None for file in files]
    return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) if stat else None for stat in stats]


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def quoted(name: str) -> str:
    """An identifier for SQL text."""
    return '"' + name.replace('"', '""') + '"'


def tables(connection: sqlite3.Connection) -> dict[str, list[str]]:
    """Columns of every table, in stored order; SQLite's own tables are left out."""
    names = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!' ORDER BY name"
    )
    return {
        name: [row[1] for row in connection.execute(f"PRAGMA table_info({quoted(name)})")]
        for (name,) in names.fetchall()
    }


def stamps(connection: sqlite3.Connection) -> list[str]:
    """The revisions in ``alembic_version``: one in a healthy store, none when the table is missing or empty."""
    if "alembic_version" not in tables(connection):
        return []
    return sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))


def counts(connection: sqlite3.Connection) -> dict[str, int]:
    """Rows of every table."""
    return {
        name: connection.execute(f"SELECT COUNT(*) FROM {quoted(name)}").fetchone()[0] for name in tables(connection)
    }


def fingerprints(connection: sqlite3.Connection) -> dict[str, str]:
    """The content identity of every table: the same rows and column names give the same value.

    Rows are read in the order of the primary key (of all columns where there is none). Text arrives as bytearray and
    blobs as bytes, so that ``repr`` keeps every type, length and byte apart, whatever the text's encoding.
    """
    orders = {name: _order(connection, name, columns) for name, columns in tables(connection).items()}
    result: dict[str, str] = {}
    with _raw(connection):
        for name, (columns, order) in orders.items():
            digest = hashlib.blake2b(repr(columns).encode(), digest_size=16)
            for row in connection.execute(f"SELECT * FROM {quoted(name)} ORDER BY {order}"):
                digest.update(repr(row).encode())
            result[name] = digest.hexdigest()
    return result


def _order(connection: sqlite3.Connection, name: str, columns: list[str]) -> tuple[list[str], str]:
    keys = {row[5]: row[1] for row in connection.execute(f"PRAGMA table_info({quoted(name)})") if row[5]}
    return columns, ", ".join(map(quoted, [keys[place] for place in sorted(keys)] or columns))


@contextmanager
def _raw(connection: sqlite3.Connection) -> Iterator[None]:
    kept: Any = connection.row_factory, connection.text_factory
    connection.row_factory, connection.text_factory = None, bytearray
    try:
        yield
    finally:
        connection.row_factory, connection.text_factory = kept


def digest(path: Path) -> str:
    """SHA-256 of the database's bytes, and of its ``-wal`` when that is not empty."""
    sha = hashlib.sha256()
    for file in (path, _beside(path, "-wal")):
        if file == path or (file.exists() and file.stat().st_size):
            with file.open("rb") as source:
                while block := source.read(1 << 20):
                    sha.update(block)
    return sha.hexdigest()


def wal_bytes(path: Path) -> int:
    """Size of the write-ahead log beside the database, 0 when there is none."""
    wal = _beside(path, "-wal")
    return wal.stat().st_size if wal.exists() else 0


def journal_mode(path: Path) -> str:
    """``wal`` or ``delete`` as the file itself says, "" for no database; what is read through a copy may differ."""
    with path.open("rb") as file:
        header = file.read(20)
    return ("wal" if header[18:20] == b"\2\2" else "delete") if header.startswith(MAGIC) else ""


def missing_bytes(path: Path) -> int:
    """How much shorter the file is than its header says; 0 in WAL mode, where pages may still be in the log."""
    with path.open("rb") as file:
        header = file.read(100)
        size = file.seek(0, os.SEEK_END)
    if len(header) < 100 or header[18:20] != b"\1\1" or header[24:28] != header[92:96]:
        return 0  # the page count is only valid where SQLite wrote it together with the change counter
    page_size = int.from_bytes(header[16:18], "big")
    return max(0, int.from_bytes(header[28:32], "big") * (65536 if page_size == 1 else page_size) - size)


def check(connection: sqlite3.Connection, *, full: bool = False) -> list[str]:
    """What SQLite finds wrong with the file's structure, ``["ok"]`` when nothing; full: with its indexes."""
    try:
        pragma = "integrity_check" if full else "quick_check"
        return [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}(20)")]
    except sqlite3.DatabaseError as error:
        return [str(error)]


def quick_check(path: Path) -> list[str]:
    """As :func:`check`, of a file."""
    with closing(connect(path)) as connection:
        return check(connection)


def online_backup(source: Path, target: Path) -> None:
    """Copy a database that may be in use, rows in its WAL included, with SQLite's backup API.

    The copy is one self-contained file in rollback-journal mode, private to the user.
    """
    with closing(connect(source)) as connection:
        copy_from(connection, target)


def copy_from(connection: sqlite3.Connection, target: Path) -> None:
    """As :func:`online_backup`, of what an open connection sees; inside its transaction that is one moment."""
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(target)) as copy:
        connection.backup(copy)
        copy.execute("PRAGMA journal_mode = DELETE")
    with target.open("rb") as file:
        os.fsync(file.fileno())
