"""Servers for copies: which can hold them, how it differs from the store's, how fast it is.

Finding of this module: RH906 copies are not beside the store, why, and how the server that they are on differs.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from packaging.version import Version

from zenml_upgrade_kit import drill
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.errors import BadPlan, StoreUnreadable
from zenml_upgrade_kit.findings import Finding, Severity
from zenml_upgrade_kit.redact import Redactor, secrets_in
from zenml_upgrade_kit.stores import mysql, private, scratch
from zenml_upgrade_kit.stores.address import PEM_FILES, Server
from zenml_upgrade_kit.stores.mysql import Connection, quoted

SAME = ("flavour", "version", "sql_mode", "lower_case_table_names")
"""What servers should have in common; of a version its series, as in 10.11."""
AS_PLANNED = "as the plan says"
REMEDY = "Put right what is missing, or name a server like the store's with rehearsal.server; or take it into account."
BOUND = 32 << 20
"""Bytes of the largest table that are read to measure a server."""
PATIENCE = 5
"""Seconds that a server may need to notice that a process is gone."""
TLS_SINCE = "0.74.0"
"""The first release that knows the setting ``ssl``; earlier ones do not start with it, and use TLS with files only."""


def why_not(server: Server, backup: Backup, copies: int) -> str:
    """Why so many copies cannot go to a server, in words; "" when they can."""
    if server.socket or not server.password:
        return "a ZenML reaches a database over TCP and with a password only"
    try:
        drill.must_load(backup, server)
    except StoreUnreadable as error:
        return error.found
    return scratch.why_not(server, backup.manifest["server"], copies)


def unlike(server: Server, backup: Backup, why: str) -> tuple[Finding, ...]:
    """RH906: a warning where the server differs from the store's; else a note where copies are not beside it."""
    source = {name: backup.manifest["server"][name] for name in SAME}
    with closing(mysql.connect(server.using("information_schema"))) as connection:
        found = mysql.facts(connection)
    here = {name: found[name] for name in SAME}
    series = [(one["flavour"], one["version"].split(".")[:2]) for one in (source, here)]
    differing = [f"{name} is {here[name]} there, not {source[name]}" for name in SAME[2:] if here[name] != source[name]]
    if series[0] != series[1]:
        differing.insert(0, "so tables were compared by rows and contents, charset and collation, not by definition")
    if not differing and not why:
        return ()
    message = f"The store is on {source['flavour']} {source['version']}, its copies on {here['flavour']} "
    message += here["version"] + (f", a private one, not beside the store: {why}" if why else "")
    message += f". What works there may fail in the store: {'; '.join(differing)}." if differing else "."
    return (
        Finding(
            id="RH906",
            severity=Severity.WARN if differing else Severity.INFO,
            subject=f"{here['flavour']} {here['version']}",
            message=message,
            remedy="" if why == AS_PLANNED and not differing else REMEDY,
            data={"source": source, "copies": here, "why": why, "differing": differing},
        ),
    )


def other_defaults(backup: Backup, copy: Server) -> list[str]:
    """What a schema has not in common with the manifest, in words that every flavour understands."""
    with closing(mysql.connect(copy)) as connection:
        found, wanted = mysql.facts(connection), backup.manifest["server"]

    def names(value: str | list[str]) -> set[str]:
        listed = [value] if isinstance(value, str) else value
        return {f"utf8mb3{name[4:]}" if name.split("_")[0] == "utf8" else name for name in listed}

    return [
        f"{kind} is {found[kind]}, not {wanted[kind]}"
        for kind in ("charset", "collation", "charsets", "collations", "engines")
        if names(wanted[kind]) - names(found[kind])
    ]


def options(wanted: Mapping[str, Any]) -> dict[str, str]:
    """Options with which a MariaDB is like the server of a manifest; it cannot start with modes of MySQL's alone."""
    modes = [mode for mode in wanted["sql_mode"].split(",") if mode != "TIME_TRUNCATE_FRACTIONAL"]
    names = {"lower-case-table-names": "1"} if wanted["lower_case_table_names"] else {}
    return {"sql-mode": ",".join(modes), **names}


@contextmanager
def private_server(data: Path, options: Mapping[str, str], why: str = "") -> Iterator[Server]:
    """A MariaDB with its data in a folder that stays, and a new account for ZenML: its password is in memory only."""
    with ExitStack() as stack:
        for left in reversed(range(3)):
            try:
                root = stack.enter_context(private.server(options, port=private.free_port(), data=data))
                break
            except StoreUnreadable as error:
                if left and "Bind on TCP/IP port" in error.found:  # somebody was faster
                    continue
                found = f"{error.found}; and not beside the store: {why}" if why else error.found
                raise StoreUnreadable(
                    error.problem, expected=error.expected, found=found, remedy=error.remedy
                ) from None
        password = private.new_account(root, "zenml")
        yield replace(root, user="zenml", password=password, socket="")


def listed(server: Server) -> list[dict[str, Any]]:
    """Schemas of ours on a server, as :func:`scratch.leftovers`, with ``state``, one of these.

    ``in use``, ``of a run that is there``, ``of another host`` whose runs cannot be seen from here, ``left over``, and
    ``empty, not marked`` for one that is not removed.
    """
    found = scratch.leftovers(server)
    for one in found:
        here, kept = one["host"] == socket.gethostname(), one["purpose"] == scratch.COPY and one["run"]
        there = "of a run that is there" if Path(one["run"]).is_dir() else "left over"
        state = "in use" if one["alive"] else "left over" if not kept else there if here else "of another host"
        one["state"] = state if one["created"] else "empty, not marked"
    return found


def drop(server: Server, name: str) -> None:
    """Remove a schema; the server may need a moment to notice that a process was killed."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return scratch.remove(server, name)
        except BadPlan:
            if time.monotonic() > until:
                raise
        time.sleep(0.2)


def variables(database: Path | Server, release: str = "") -> dict[str, str]:
    """The environment variables that make a ZenML open a copy; the only place that has its password.

    release: of that ZenML, where it is known: before :data:`TLS_SINCE` TLS takes files. Raises :class:`BadPlan` for a
    database that no ZenML can reach.
    """
    if isinstance(database, Path):
        return {"ZENML_STORE_TYPE": "sql", "ZENML_STORE_URL": f"sqlite:///{database}"}
    if database.socket or not database.password:
        raise BadPlan(
            f"ZenML cannot use {database.name}",
            expected="a host, a port, and an account with a password",
            found="a socket" if database.socket else "no password",
            remedy="name another server for the copies",
        )
    # in a container ZenML replaces these two names by that of Docker's host, where another server listens
    host = {"127.0.0.1": "127.1"}.get(database.host, database.host)
    host = f"[{host}]" if ":" in host else host
    user, password = (quote(text, safe="") for text in (database.user, database.password))
    tls = {name: path for name in PEM_FILES if (path := getattr(database, name))}
    tls |= {"ssl_verify_server_cert": "true"} if tls and database.ssl_verify else {}
    given = {
        "ZENML_STORE_TYPE": "sql",
        "ZENML_STORE_URL": f"mysql://{user}:{password}@{host}:{database.port}/{database.database}"
        + (f"?{urlencode(tls, quote_via=quote)}" if tls else ""),
    }
    if database.ssl and not tls and Version(release or TLS_SINCE) >= Version(TLS_SINCE):
        given["ZENML_STORE_SSL"] = "true"
    return given


def redactor(database: Path | Server, variables: Mapping[str, str]) -> Redactor:
    """Masks the password of a copy, and those in the variables with which a ZenML opens it."""
    own = [database.password] if isinstance(database, Server) else []
    return Redactor([*own, *secrets_in(dict(variables))])


def speed(source: Server, site: Server) -> float:
    """How many times as fast one server is as another, by the same small queries, of a few seconds, on both.

    site: a database with tables of the source, where there is one.
    """
    with closing(mysql.connect(source)) as there, closing(mysql.connect(site)) as here:
        ratios = [_seconds(there, sql) / _seconds(here, sql) for sql in _queries(there, here)]
    return round(math.prod(ratios) ** (1 / len(ratios)), 2)


def _queries(source: Connection, site: Connection) -> list[str]:
    """What takes a server some tenths of a second: its processor, and reading a table that both have."""
    sizes, there, here = mysql.sizes(source), mysql.tables(source), mysql.tables(site)
    queries = ["SELECT BENCHMARK(1000000, CRC32('the quick brown fox'))"]
    if common := [name for name in sizes if sizes[name] and there.get(name) == here.get(name)]:
        table = max(common, key=lambda name: sizes[name])
        query = (
            "SELECT AVG_ROW_LENGTH FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = %s"
        )
        length = max(1, source.execute(query, (table,))[0][0] or 1)
        columns = ", ".join(map(quoted, there[table]))
        rows = f"(SELECT {columns} FROM {quoted(table)} LIMIT {BOUND // length})"
        queries.append(f"SELECT SUM(CRC32(CONCAT_WS('', {columns}))) FROM {rows} AS some")
    return queries


def _seconds(connection: Connection, sql: str) -> float:
    """The best of two to four attempts, in a second or so; the first one may have to read from disk."""
    until, taken = time.monotonic() + 1, list[float]()
    while len(taken) < 2 or (len(taken) < 4 and time.monotonic() < until):
        started = time.monotonic()
        connection.execute(sql)
        taken.append(time.monotonic() - started)
    return min(taken)
