"""Who holds what somebody else waits for: sessions of a server, processes that have a SQLite file open."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.stores import mysql, sqlite
from zenml_upgrade_kit.stores.address import Server

_VALUE = re.compile(r"'(?:[^'\\]|\\.|'')*('|$)|\"(?:[^\"\\]|\\.|\"\")*(\"|$)", re.DOTALL)
_BLOCKERS = (
    (  # MySQL; MariaDB where its performance schema is switched on
        "SELECT DISTINCT t.processlist_id, CONCAT('has locked ', l.object_name, ' (', l.lock_type, ')')"
        " FROM performance_schema.metadata_locks l JOIN performance_schema.threads t ON t.thread_id = l.owner_thread_id"
        " WHERE l.lock_status = 'GRANTED' AND l.object_type = 'TABLE' AND l.object_schema = %s"
    ),
    (  # MariaDB, with its plugin
        "SELECT DISTINCT thread_id, CONCAT('has locked ', table_name, ' (', lock_mode, ')')"
        " FROM information_schema.metadata_lock_info WHERE lock_type LIKE 'Table%%' AND table_schema = %s"
    ),
    (  # MySQL
        "SELECT DISTINCT b.processlist_id, 'has locked rows that are waited for'"
        " FROM performance_schema.data_lock_waits w"
        " JOIN performance_schema.threads r ON r.thread_id = w.requesting_thread_id"
        " JOIN performance_schema.threads b ON b.thread_id = w.blocking_thread_id WHERE r.processlist_db = %s"
    ),
    (  # MariaDB
        "SELECT DISTINCT b.trx_mysql_thread_id, 'has locked rows that are waited for'"
        " FROM information_schema.innodb_lock_waits w"
        " JOIN information_schema.innodb_trx r ON r.trx_id = w.requesting_trx_id"
        " JOIN information_schema.innodb_trx b ON b.trx_id = w.blocking_trx_id"
        " JOIN information_schema.processlist p ON p.id = r.trx_mysql_thread_id WHERE p.db = %s"
    ),
    (
        "SELECT trx_mysql_thread_id, CONCAT('has a transaction open since ', trx_started, ' (server time)')"
        " FROM information_schema.innodb_trx JOIN information_schema.processlist ON id = trx_mysql_thread_id"
        " WHERE COALESCE(db, '') IN ('', %s)"
    ),
    "SELECT id, CONCAT('may have locked a table of ', db) FROM information_schema.processlist WHERE db = %s",
)
"""Session and what it does; a server may lack tables, or the account grants. The last is for when none else knows."""


def holders(database: Path | Server, waiting: Collection[int]) -> tuple[str, ...]:
    """What is known of who holds a database, in sentences without statements' values; none when nobody is seen.

    waiting: sessions, or processes for a file, that are not meant: those of the one who waits. Never raises.
    """
    try:
        if isinstance(database, Path):
            return tuple(_processes(database, waiting))
        with closing(mysql.connect(database.using("information_schema"))) as connection:
            return tuple(_sessions(connection, database.database, waiting))
    except (KitError, OSError, ValueError) as error:
        return (f"who holds it cannot be seen: {getattr(error, 'found', error)}",)


def end(server: Server, sessions: Collection[int]) -> None:
    """End these sessions where they are in the server's database: a killed client's statement would go on waiting."""
    with suppress(KitError), closing(mysql.connect(server.using("information_schema"))) as connection:
        for row in connection.execute("SELECT id FROM processlist WHERE db = %s", [server.database]):
            if row[0] in sessions:
                with suppress(KitError):  # it has just ended
                    connection.execute(f"KILL {int(row[0])}")


def _sessions(connection: mysql.Connection, schema: str, waiting: Collection[int]) -> Iterator[str]:
    sessions = {int(row["Id"]): row for row in connection.execute("SHOW FULL PROCESSLIST")}
    for number in sorted(sessions.keys() & set(waiting)):
        row = sessions[number]
        if row["Command"] != "Sleep":
            yield f"session {number} of the migration, for {row['Time']} s: {row['State'] or 'busy'}: {_statement(row)}"
    me = int(connection.execute("SELECT CONNECTION_ID()")[0][0])
    found: dict[int, list[str]] = {}
    for query in _BLOCKERS:
        if query is not _BLOCKERS[-1] or not found:
            for number, what in _ask(connection, query, schema):
                if number is not None and int(number) not in (*waiting, me):  # None: a thread of the server itself
                    found.setdefault(int(number), []).append(str(what))
    for number, reasons in found.items():
        yield _session(number, sessions.get(number), reasons)


def _ask(connection: mysql.Connection, query: str, schema: str) -> list[Any]:
    with suppress(KitError):
        return list(connection.execute(query, [schema]))
    return []


def _session(number: int, row: Any, reasons: list[str]) -> str:
    what = ", ".join(dict.fromkeys(reasons))
    if not row:
        return f"session {number} {what}"
    doing = "has been idle" if row["Command"] == "Sleep" else f"has been running {_statement(row)}"
    return f"session {number} of {row['User']} from {row['Host']} {what}; for {row['Time']} s it {doing}"


def _statement(row: Any) -> str:
    """The beginning of a statement; what is quoted in it may be somebody's secret."""
    return " ".join(_VALUE.sub("'...'", str(row["Info"] or row["Command"])).split())[:160]


def _processes(path: Path, waiting: Collection[int]) -> Iterator[str]:
    real = Path(os.path.realpath(path))
    opening = set(_opening({str(sqlite.beside(real, suffix)) for suffix in ("", *sqlite.SIDE_FILES)})) - set(waiting)
    locking = {
        process
        for process in set(_locking(path)) - set(waiting)  # another disk may have a file of that number
        if process in opening or not os.access(f"/proc/{process}/fd", os.R_OK)
    }
    for process in sorted(locking or opening):
        name = _read(f"/proc/{process}/comm").strip() or "unknown"
        yield f"process {process} ({name}) {'has locked' if process in locking else 'has open'} {path}"


def _locking(path: Path) -> Iterator[int]:
    """Processes with a POSIX lock on a file, as Linux lists them."""
    inode = str(path.stat().st_ino)
    for line in _read("/proc/locks").splitlines():
        fields = line.split()
        place = next((field for field in fields if field.count(":") == 2), "")
        if place.rpartition(":")[2] == inode and "->" not in fields:
            yield int(fields[fields.index(place) - 1])


def _opening(files: Collection[str]) -> Iterator[int]:
    """Processes that have one of the files open; only those of this user can be looked into."""
    for number in filter(str.isdecimal, os.listdir("/proc")):
        if any(link in files for link in _links(f"/proc/{number}/fd")):
            yield int(number)


def _links(folder: str) -> Iterator[str]:
    """Where the links of a folder point to; any may go while they are looked at."""
    with suppress(OSError):
        for name in os.listdir(folder):
            with suppress(OSError):
                yield os.readlink(f"{folder}/{name}")


def _read(path: str) -> str:
    with suppress(OSError):
        return Path(path).read_text(encoding="utf-8", errors="replace")
    return ""
