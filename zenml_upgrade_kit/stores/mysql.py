"""A MySQL or MariaDB metadata database: read in one snapshot, fingerprinted on the server."""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any, SupportsIndex

import pymysql

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores.address import PEM_FILES, Server

PATIENCE = 10
"""Seconds to wait for a server to answer, and for a table that somebody alters."""
_GRANT = re.compile(r"([A-Z][A-Z ]*[A-Z]) command denied|\(at least one of\) the ([A-Z_, ]+?) privilege")
LARGE = 64 << 20
"""Bytes of a table that several connections work on."""
_BIG = {"mediumtext", "longtext", "mediumblob", "longblob", "json"}


class Row(tuple[Any, ...]):
    """One row: by position, by column name, and as ``dict(row)``, like :class:`sqlite3.Row`."""

    __slots__ = ()
    names: tuple[str, ...] = ()

    def keys(self) -> tuple[str, ...]:
        return self.names

    def __getitem__(self, key: SupportsIndex | slice | str) -> Any:
        return super().__getitem__(self.names.index(key) if isinstance(key, str) else key)


class Connection:
    """One session with a server; used by one thread at a time."""

    def __init__(self, server: Server, session: pymysql.Connection[Any]) -> None:
        self.server, self._session = server, session

    def execute(self, sql: str, params: Sequence[Any] = ()) -> list[Row]:
        """All rows of one statement, none for a statement without rows; ``%s`` stands for a parameter.

        Raises :class:`StoreUnreadable`.
        """
        try:
            with self._session.cursor() as cursor:
                cursor.execute(sql, params or None)
                names = tuple(column[0] for column in cursor.description or ())
                return list(map(type("Row", (Row,), {"__slots__": (), "names": names}), cursor.fetchall()))
        except (pymysql.Error, OSError) as error:
            raise unreadable(self.server, error) from None

    def close(self) -> None:
        with suppress(pymysql.Error):
            self._session.close()

    def stop(self) -> None:
        """End a statement that another thread is waiting for, and the session."""
        with suppress(StoreUnreadable), closing(connect(self.server)) as other:
            other.execute(f"KILL {self._session.thread_id()}")  # type: ignore[no-untyped-call]


def connect(server: Server, *, write: bool = False) -> Connection:
    """A session in UTC, utf8mb4 and ``ANSI_QUOTES``, read-only unless ``write``; transactions are explicit.

    Raises :class:`StoreUnreadable`, also when TLS is wanted and the server has none.
    """
    files = {name.removeprefix("ssl_"): path for name in PEM_FILES if (path := getattr(server, name))}
    try:
        session: pymysql.Connection[Any] = pymysql.connect(
            user=server.user,
            password=server.password.encode(),  # from text it would take Latin-1, unlike the other programs
            host=server.host,
            port=server.port,
            unix_socket=server.socket or None,
            database=server.database or None,
            charset="utf8mb4",
            autocommit=True,
            connect_timeout=PATIENCE,
            ssl={"ssl": True, "check_hostname": server.ssl_verify, **files} if server.ssl else None,
            ssl_disabled=not server.ssl,
        )
    except (pymysql.Error, OSError, RuntimeError) as error:  # RuntimeError: no cryptography for a kind of password
        raise unreadable(server, error) from None
    connection = Connection(server, session)
    try:
        if server.ssl and not connection.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1]:
            raise _unreadable(server, "TLS, as ssl says", "a server without TLS", "switch TLS on there, or ssl off")
        connection.execute(  # the comments are code to MariaDB alone, and to MySQL alone
            "SET SESSION sql_mode = 'ANSI_QUOTES,STRICT_ALL_TABLES', time_zone = '+00:00', wait_timeout = 86400,"
            " /*M!100101 max_statement_time = 0, */ /*!50708 max_execution_time = 0, */"
            f" lock_wait_timeout = {PATIENCE}, innodb_lock_wait_timeout = {PATIENCE}"
        )
        connection.execute(
            f"SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ {'WRITE' if write else 'ONLY'}"
        )
    except StoreUnreadable:
        connection.close()
        raise
    return connection


def unreadable(server: Server, error: Exception) -> StoreUnreadable:
    """What to raise when the server, or the way to it, refuses."""
    code, said = error.args[0] if error.args else 0, str(error.args[-1] if error.args else error)
    cause = getattr(error, "original_exception", error)
    if code in (1045, 1698):
        return _unreadable(server, "a user and password that it accepts", said, "correct them; percent-encode in a URL")
    if code == 1049:
        return _unreadable(server, f"the database {server.database}", said, "correct its name")
    if code in (1044, 1142, 1143, 1227, 1370):
        return _unreadable(server, f"the grant {missing_grant(said)}", said, grant(server, missing_grant(said)))
    if isinstance(cause, ssl.SSLError) or code == 3159:
        return _unreadable(server, "TLS that both sides agree on", said, "check ssl, ssl_ca, ssl_cert and ssl_key")
    if isinstance(cause, socket.gaierror):
        return _unreadable(server, "a host name that can be looked up", said, "correct the host in the store's URL")
    if code == 2003:
        return _unreadable(server, "a server that answers", said, "start it, or correct host, port and firewall")
    if code in (0, 1053, 1317, 1927, 2006, 2013):
        return _unreadable(server, "a server that stays", said or "a lost connection", "look at its log; try again")
    return _unreadable(server, "a database that can be read", said, "see the message")


def _unreadable(server: Server, expected: str, found: str, remedy: str) -> StoreUnreadable:
    return StoreUnreadable(f"{server.name} cannot be read", expected=expected, found=found, remedy=remedy)


def missing_grant(message: str) -> str:
    """The grant that a server's message says is missing, such as ``SHOW VIEW``; SELECT where it names none."""
    match = _GRANT.search(message)
    return next(filter(None, match.groups())) if match else "SELECT"


def grant(server: Server, missing: str) -> str:
    """The statement that gives a grant; an administrator runs it."""
    everywhere = missing.split(",")[0] in ("PROCESS", "RELOAD", "SUPER")
    return f"GRANT {missing} ON {'*' if everywhere else f'`{server.database}`'}.* TO the user {server.user}"


def begin(connection: Connection) -> None:
    """From here to the end of the session, rows are read as they are now; nobody who writes has to wait."""
    connection.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")


def quoted(name: str) -> str:
    """An identifier for SQL text."""
    return '"' + name.replace('"', '""') + '"'


def _columns(connection: Connection) -> dict[str, list[tuple[str, str, str]]]:
    """Name, nullable (``YES``) and type of the columns of every base table, in order."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for row in connection.execute(  # joined with tables it takes the server ten times as long
        "SELECT table_name, column_name, is_nullable, data_type FROM information_schema.columns"
        " WHERE table_schema = DATABASE() ORDER BY 1, ordinal_position"
    ):
        found.setdefault(row[0], []).append((row[1], row[2], row[3]))
    base = sizes(connection)  # views have columns, too
    return {table: columns for table, columns in found.items() if table in base}


def tables(connection: Connection) -> dict[str, list[str]]:
    """Columns of every base table, in stored order."""
    return {table: [column[0] for column in columns] for table, columns in _columns(connection).items()}


def sizes(connection: Connection) -> dict[str, int]:
    """Every base table and its bytes of data and indexes, as the server estimates."""
    return dict(
        connection.execute(
            "SELECT table_name, CAST(IFNULL(data_length + index_length, 0) AS SIGNED) FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE' ORDER BY 1"
        )
    )


def stamps(connection: Connection) -> list[str]:
    """The revisions in ``alembic_version``: one in a healthy store, none when the table is missing or empty."""
    if "alembic_version" not in sizes(connection):
        return []
    return sorted(str(row[0]) for row in connection.execute("SELECT version_num FROM alembic_version"))


def contents(connections: Sequence[Connection], only: Collection[str] | None = None) -> dict[str, dict[str, Any]]:
    """The content identity of every table: ``rows``, ``fingerprint`` and ``longest``, the bytes of its longest values.

    only: tables to look at instead of all.

    Computed by the server, one table, or a part of a large one, at a time in each connection, which should be in
    transactions of one moment. A single one goes through the tables by name, close to mariadb-dump, so that both read a
    page while it is in memory. Columns count by name, order and text form, in the character set that they are stored
    in; rows in no order. Every column has a CRC-32 of its own, so that no value is ambiguous and none too long, NULL a
    number that no CRC-32 is; each times a factor of its own they make the row's CRC-32, and these are added up: it
    finds faults, not forgery.
    """
    columns = {table: found for table, found in _columns(connections[0]).items() if only is None or table in only}
    large = sizes(connections[0]) if len(connections) > 1 else {}  # largest first: all are done at the same time
    todo = iter(
        [
            (table, part)
            for table in sorted(columns, key=lambda table: (-large.get(table, 0), table))
            for part in (_parts(connections[0], table, columns[table]) if large.get(table, 0) > LARGE else ["TRUE"])
        ]
    )

    def work(connection: Connection) -> list[tuple[str, Row]]:
        return [(table, connection.execute(_sums(table, columns[table], part))[0]) for table, part in todo]

    with ThreadPoolExecutor(len(connections)) as pool:
        done = [one for some in pool.map(work, connections) for one in some]
    found: dict[str, dict[str, Any]] = {}
    for table in sorted(columns):
        rows, total, longest = zip(*(sums for name, sums in done if name == table), strict=True)
        content = repr(([column[0] for column in columns[table]], sum(rows), str(sum(total))))
        fingerprint = hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
        found[table] = {"rows": sum(rows), "fingerprint": fingerprint, "longest": int(max(longest))}
    return found


def _parts(connection: Connection, table: str, columns: Sequence[tuple[str, str, str]]) -> list[str]:
    """Conditions of which every row meets one; where the primary key is a UUID, as ZenML's are, about as many each."""
    keys = connection.execute(f"SHOW KEYS FROM {quoted(table)} WHERE Key_name = 'PRIMARY' AND Seq_in_index = 1")
    texts = {name for name, _, kind in columns if kind in ("char", "varchar")}
    if not keys or keys[0]["Column_name"] not in texts:
        return ["TRUE"]
    key = quoted(keys[0]["Column_name"])
    return [f"{key} < '4'", f"{key} >= '4' AND {key} < '8'", f"{key} >= '8' AND {key} < 'c'", f"{key} >= 'c'"]


def _sums(table: str, columns: Sequence[tuple[str, str, str]], part: str) -> str:
    """The statement for the number of rows of a part, the sum of their CRC-32s and the bytes of its longest values."""
    terms: list[str] = []
    for number, (name, nullable, _) in enumerate(columns):
        one = f"CRC32({quoted(name)})"
        one = f"IFNULL({one}, 1 << 32)" if nullable == "YES" else one
        if len(terms) == 30:  # 64 bits hold no more of them
            terms = [f"CRC32({' + '.join(terms)})"]
        # multiplied, for a shift or XOR is linear as CRC-32 is: neighbours that change alike would cancel
        factor = int.from_bytes(hashlib.sha256(str(number).encode()).digest()[:4], "big") >> 6 | 1
        terms.append(f"{one} * {factor}")
    longest = "".join(f" + IFNULL(MAX(LENGTH({quoted(name)})), 0)" for name, _, kind in columns if kind in _BIG)
    found = f"COUNT(*), IFNULL(SUM(CRC32({' + '.join(terms)})), 0), 0{longest}"
    return f"SELECT {found} FROM {quoted(table)} WHERE {part}"


def facts(connection: Connection) -> dict[str, Any]:
    """What a copy must have in common with this database, and what else a reader of a backup asks, as JSON.

    flavour: ``MariaDB`` or ``MySQL``. charset, collation: defaults of the database. collations, charsets, engines: in
    use by its tables and columns. tables: bytes of data and indexes, as the server estimates. objects: how many
    views, triggers, routines and events this account can see. tls: the cipher in use, "" for none.
    """
    (row,) = connection.execute(
        "SELECT VERSION() AS version, @@character_set_database AS charset, @@collation_database AS collation,"
        " @@GLOBAL.sql_mode AS sql_mode, @@GLOBAL.lower_case_table_names AS lower_case_table_names,"
        " IF(@@GLOBAL.time_zone = 'SYSTEM', @@system_time_zone, @@GLOBAL.time_zone) AS time_zone,"
        " @@GLOBAL.max_allowed_packet AS max_allowed_packet"
    )
    objects = {
        kind: connection.execute(f"SELECT COUNT(*) FROM information_schema.{kind} WHERE {column} = DATABASE()")[0][0]
        for kind, column in (
            ("views", "table_schema"),
            ("triggers", "trigger_schema"),
            ("routines", "routine_schema"),
            ("events", "event_schema"),
        )
    }
    used = {
        column: connection.execute(
            f"SELECT DISTINCT {column} FROM information_schema.{view}"
            f" WHERE table_schema = DATABASE() AND {column} IS NOT NULL"
        )
        for view, column in (
            ("tables", "table_collation"),
            ("columns", "collation_name"),
            ("columns", "character_set_name"),
            ("tables", "engine"),
        )
    }
    names = {column: {str(one[0]) for one in rows} for column, rows in used.items()}
    return {
        "flavour": "MariaDB" if "mariadb" in row["version"].lower() else "MySQL",
        **dict(row),
        "collations": sorted(names["table_collation"] | names["collation_name"]),
        "charsets": sorted(names["character_set_name"]),
        "engines": sorted(names["engine"]),
        "tables": sizes(connection),
        "objects": objects,
        "tls": connection.execute("SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1],
    }


def definitions(connection: Connection) -> dict[str, str]:
    """What ``SHOW CREATE TABLE`` says of every table, without the counter of its AUTO_INCREMENT column."""
    return {
        table: re.sub(
            r"(\n\)[^\n]*?) AUTO_INCREMENT=\d+", r"\1", connection.execute(f"SHOW CREATE TABLE {quoted(table)}")[0][1]
        )
        for table in sizes(connection)
    }
