"""Schemas of our own on the user's server: made with a marker, listed when left over, switched to in one statement."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.errors import BadPlan, KitError, RestoreRefused, StoreUnreadable
from zenml_upgrade_kit.findings import now
from zenml_upgrade_kit.stores import mysql
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.mysql import Connection, quoted

PREFIX = "zenml_upgrade_"
OURS = re.compile(PREFIX + r"(\w+)_[0-9a-f]{8}")
MARKER = "zenml_upgrade_kit"
"""A view in every scratch schema that tells whose it is; a table would be in the way of what is loaded and compared."""
UNSEEN = "sessions of other accounts cannot be seen: that takes the grant PROCESS"
LOADING = (
    "CREATE TABLE t (id INT PRIMARY KEY, other INT, FOREIGN KEY (other) REFERENCES t (id))",
    "LOCK TABLES t WRITE",
    "ALTER TABLE t ADD INDEX (other)",
    "INSERT INTO t VALUES (1, 1)",
    "SELECT * FROM t",
    "DROP TABLE t",
)
"""What loading and comparing a dump takes."""
COPY = "copy"
"""Purpose of schemas that belong to a run, not to a process: only the run, or a user, removes them."""
NAMES = 5
"""That are tried when one is taken."""


@contextmanager
def scratch(server: Server, facts: Mapping[str, Any], purpose: str) -> Iterator[Server]:
    """As :func:`make`, for as long as this process needs it: it is dropped at the end."""
    fresh, session = make(server, facts, purpose)
    with closing(session):
        try:
            yield fresh
        finally:
            with suppress(KitError):  # it is listed as left over
                _drop(server, fresh.database)


def make(server: Server, facts: Mapping[str, Any], purpose: str, run: str = "") -> tuple[Server, Connection]:
    """A new schema on the server, with the charset and collation of facts, and the session that has its lock.

    purpose: a lower-case word; what is made for :data:`COPY` stays when its process ends. run: the folder of the run
    that it belongs to. To every host, the schema is in use until the session ends. Raises :class:`StoreUnreadable` when
    it cannot be made, with the grant that is needed.
    """
    connection = _connect(server)
    name = ""
    try:
        name = _create(connection, purpose, _default(facts["charset"], facts["collation"]))
        connection.execute(
            f"CREATE SQL SECURITY INVOKER VIEW {quoted(name)}.{quoted(MARKER)} AS"
            " SELECT %s AS created, %s AS host, %s AS pid, %s AS run",
            (now(), socket.gethostname(), os.getpid(), run),
        )
    except BaseException as error:
        with suppress(KitError):
            if name:
                _drop(server, name)
        connection.close()
        if not isinstance(error, KitError):
            raise
        raise StoreUnreadable(
            f"no scratch schema can be made on {server.name}",
            expected=f"a server with {facts['collation']}, and an account that may create schemas",
            found=error.found,
            remedy=_remedy(server, error),
        ) from None
    return server.using(name), connection


def hold(server: Server, name: str) -> Connection:
    """A session that has the lock of a schema of ours: to every host, it is in use until :func:`release`."""
    connection = _connect(server)
    try:
        _lock(connection, name)
    except KitError:
        connection.close()
        raise
    return connection


def release(session: Connection, name: str) -> None:
    """End a session that has the lock of a schema; nobody sees it in use any more."""
    with suppress(KitError), closing(session):  # a server that was restarted has forgotten both
        session.execute("SELECT RELEASE_LOCK(%s)", (name,))


def why_not(server: Server, facts: Mapping[str, Any], copies: int = 1) -> str:
    """Why no scratch schemas, so many, can hold what facts describe, in words; "" when they can.

    A small one is made, filled and dropped: no list of grants tells as much. How much room there is shows only where
    the server's data folder is on this machine.
    """
    try:
        with scratch(server, facts, "probe") as fresh, closing(mysql.connect(fresh, write=True)) as connection:
            for statement in LOADING:
                connection.execute(statement)
            data = Path(connection.execute("SELECT @@datadir")[0][0])
    except KitError as error:
        return f"{error.found}; {_remedy(server, error)}"
    needed = sum(facts["tables"].values()) * 1.1 * copies
    here = server.socket or server.host in {"localhost", "127.0.0.1", "::1"}
    free = shutil.disk_usage(data).free if here and data.is_dir() else needed
    return "" if free >= needed else f"{free:,} bytes are free in {data}, and {needed:,.0f} are needed"


def leftovers(server: Server) -> list[dict[str, Any]]:
    """Schemas of ours on the server: ``name``, ``purpose``, ``created`` (UTC), ``host``, ``pid``, ``run``, ``alive``.

    Ours is what has our kind of name and our marker; never what a switch kept. What has nothing in it either, as when
    its maker was killed at once, is listed without ``created``, and never removed. alive: whether a process, on any
    host, still uses it.
    """
    with closing(_connect(server)) as connection:
        names = sorted(str(row[0]) for row in connection.execute("SELECT SCHEMA_NAME FROM information_schema.SCHEMATA"))
        return [found for name in names if OURS.fullmatch(name) and (found := _described(connection, name))]


def remove(server: Server, name: str, own: Connection | None = None) -> None:
    """Drop what :func:`leftovers` lists; raises :class:`BadPlan` for any other schema, and for one in use.

    own: the session that has its lock, of the process that removes it; it ends.
    """
    found = next((one for one in leftovers(server) if one["name"] == name), None)
    if found and not (found["created"] or found["alive"]):
        raise BadPlan(
            f"the schema {name} on {server.name} is not removed",
            expected="the kit's marker in it",
            found="nothing in it: whoever made it was killed at once, or it is not the kit's",
            remedy=f"if nobody needs it: DROP DATABASE {name}",
        )
    if not found or (found["alive"] and not own):
        raise BadPlan(
            f"the schema {name} on {server.name} is not removed",
            expected="a scratch schema whose process has ended",
            found=f"in use by process {found['pid']} on {found['host']}" if found else "none that the kit made",
            remedy="wait for it" if found else "choose one that is listed as left over",
        )
    _drop(server, name)
    if own:
        release(own, name)


def tables_in(server: Server) -> int:
    """How many tables the database holds: 0 also when it is not there."""
    with closing(_connect(server)) as connection:
        return len(_tables(connection, server.database))


def in_use(server: Server) -> list[str]:
    """Other sessions in the database, in words; :data:`UNSEEN` is among them when there may be more."""
    with closing(_connect(server)) as connection:
        found = [
            f"{row['User']} from {row['Host']}, {row['Command']} for {row['Time']} s"
            for row in connection.execute("SHOW PROCESSLIST")
            if row["db"] == server.database
        ]
        try:
            connection.execute("SELECT 1 FROM information_schema.INNODB_TRX LIMIT 1")  # takes the same grant
        except KitError:
            found.append(UNSEEN)
    return found


def switch(server: Server, fresh: Server) -> str:
    """Put the tables of a schema in the place of those of ``server.database``; the name of the schema that keeps these.

    The database gets the charset and collation of ``fresh``, and is made when it is not there. All tables move in one
    statement, with their foreign keys, or none does: also when this process is killed, and from MariaDB 10.6.1
    (MDEV-23842) and MySQL 8.0 (WL#9536) on when the server crashes. What is kept is never removed by the kit and can be
    switched to; "" when there was nothing. Raises :class:`RestoreRefused` when nothing was changed; after any other
    error the answer was lost, and the tables of ``fresh`` are where they were or in place. It waits ``mysql.PATIENCE``
    seconds for tables that others hold; meanwhile whoever comes later waits too.
    """
    target, source = server.database, fresh.database
    with closing(_connect(server)) as connection:
        old, new = _tables(connection, target), _tables(connection, source)
        if obstacles := _obstacles(connection, target, source) if new else ["no table in the backup"]:
            raise _refused(server, "tables and nothing else", obstacles, "restore into an empty database")
        was, wanted = _default_of(connection, target), _default_of(connection, source)
        kept = ""
        if not was:
            connection.execute(f"CREATE DATABASE {quoted(target)} {wanted}")
        try:
            kept = _create(connection, f"kept_{datetime.now(timezone.utc):%Y%m%dt%H%M%S}", was) if old else ""
            moves = [(target, kept, table) for table in old] + [(source, target, table) for table in new]
            steps = [f"{quoted(a)}.{quoted(table)} TO {quoted(b)}.{quoted(table)}" for a, b, table in moves]
            connection.execute(f"RENAME TABLE {', '.join(steps)}")
        except KitError as error:
            # a session that answers has ended its statement; without an answer what is kept may yet be on its way
            if [_tables(connection, name) for name in (target, source)] != [old, new]:
                raise
            if kept:
                with suppress(KitError):  # it is empty, and listed as left over
                    _drop(server, kept)
            found = [error.found, *in_use(server)]
            remedy = "stop what is connected, such as a ZenML server, or grant what is missing, and try again"
            raise _refused(server, "tables that nobody holds", found, remedy) from None
        if kept:
            _let_go(connection, kept)
        if was not in ("", wanted):  # it takes the grant that moving the tables has just taken
            connection.execute(f"ALTER DATABASE {quoted(target)} {wanted}")
    return kept


def _let_go(connection: Connection, kept: str) -> None:
    """Drop foreign keys of kept tables whose parent was missing: they would hold on to the one now in its place."""
    rows = connection.execute(
        "SELECT DISTINCT TABLE_NAME, CONSTRAINT_NAME FROM information_schema.KEY_COLUMN_USAGE"
        " WHERE TABLE_SCHEMA = %s AND REFERENCED_TABLE_SCHEMA <> %s",
        (kept, kept),
    )
    for table, name in rows:
        connection.execute(f"ALTER TABLE {quoted(kept)}.{quoted(table)} DROP FOREIGN KEY {quoted(name)}")


def _remedy(server: Server, error: KitError) -> str:
    """Where a grant is missing, the one that is enough for every schema of ours."""
    pattern = f"{PREFIX}%".replace("_", r"\_")
    return mysql.grant(server.using(pattern), "ALL") if error.remedy.startswith("GRANT") else error.remedy


def _default(charset: str, collation: str) -> str:
    return f"CHARACTER SET {quoted(charset)} COLLATE {quoted(collation)}"


def _connect(server: Server) -> Connection:
    """A session outside of any schema that may be dropped or not be there yet."""
    return mysql.connect(server.using("information_schema"), write=True)


def _create(connection: Connection, purpose: str, default: str) -> str:
    """The name of a new schema. The lock comes first: an empty schema without it is nobody's any more."""
    connection.execute("SET SESSION wait_timeout = 2147483")  # seconds; a drill of a large store may take hours
    for _ in range(NAMES):
        name = f"{PREFIX}{purpose}_{secrets.token_hex(4)}"
        if not _lock(connection, name):
            continue
        try:
            connection.execute(f"CREATE DATABASE {quoted(name)} {default}")
            return name
        except KitError:
            if not _default_of(connection, name):  # not for want of another name
                raise
            connection.execute("SELECT RELEASE_LOCK(%s)", (name,))
    raise BadPlan("no name is free", expected="one of some", found="all of them taken", remedy="try again")


def _lock(connection: Connection, name: str) -> bool:
    return bool(connection.execute("SELECT GET_LOCK(%s, 0)", (name,))[0][0])


def _drop(server: Server, name: str) -> None:
    with closing(_connect(server)) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {quoted(name)}")


def _described(connection: Connection, name: str) -> dict[str, Any]:
    """What is told of one schema of ours, nothing when it is not."""
    query = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s"
    objects = [row[0] for row in connection.execute(query, (name,))]
    if objects and MARKER not in objects:
        return {}
    told = {"created": "", "host": "", "pid": "", "run": ""}
    if objects:
        told |= dict(connection.execute(f"SELECT * FROM {quoted(name)}.{quoted(MARKER)}")[0])
    used = connection.execute("SELECT IS_USED_LOCK(%s)", (name,))[0][0]
    return {"name": name, "purpose": OURS.sub(r"\1", name), **told, "alive": used is not None}


def _tables(connection: Connection, schema: str) -> list[str]:
    query = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = %s AND TABLE_TYPE = 'BASE TABLE'"
    return sorted(str(row[0]) for row in connection.execute(query, (schema,)))


def _default_of(connection: Connection, schema: str) -> str:
    """Charset and collation of a schema, "" when it is not there."""
    query = "SELECT DEFAULT_CHARACTER_SET_NAME, DEFAULT_COLLATION_NAME FROM information_schema.SCHEMATA"
    rows = connection.execute(f"{query} WHERE SCHEMA_NAME = %s", (schema,))
    return _default(rows[0][0], rows[0][1]) if rows else ""


def _obstacles(connection: Connection, *schemas: str) -> list[str]:
    """What cannot move to another schema, or would be left behind."""
    found = []
    for kind, part in {"view": "TABLE", "trigger": "TRIGGER", "routine": "ROUTINE", "event": "EVENT"}.items():
        columns, table = f"{part}_SCHEMA, {part}_NAME", f"information_schema.{kind.upper()}S"
        rows = connection.execute(f"SELECT {columns} FROM {table} WHERE {part}_SCHEMA IN (%s, %s)", schemas)
        found += [f"the {kind} {schema}.{name}" for schema, name in rows if name != MARKER]
    return found


def _refused(server: Server, expected: str, found: Sequence[str], remedy: str) -> RestoreRefused:
    return RestoreRefused(
        f"the tables of {server.name} are not replaced; nothing was changed",
        expected=expected,
        found="; ".join(found),
        remedy=remedy,
    )
