"""How to reach a database on a MySQL or MariaDB server, as ZenML writes it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qsl, unquote

from zenml_upgrade_kit.errors import BadPlan

FORM = "mysql://USER:PASSWORD@HOST:3306/DATABASE"
PEM_FILES = ("ssl_ca", "ssl_cert", "ssl_key")
_QUERY = ("ssl", *PEM_FILES, "ssl_verify_server_cert", "unix_socket")
_TRUTH = {**dict.fromkeys(("1", "y", "yes", "true"), True), **dict.fromkeys(("0", "n", "no", "false", ""), False)}
_URL = re.compile(  # as SQLAlchemy reads it, and so ZenML: only what is told apart here needs percent-encoding
    r"(?:mysql|mariadb)(?:\+\w+)?://(?:(?P<user>[^:/]*)(?::(?P<password>[^@]*))?@)?"
    r"(?:\[(?P<six>[^\]/?]+)\]|(?P<host>[^:/?]+))?(?::(?P<port>[^/?]*))?(?:/(?P<database>[^?]*))?(?:\?(?P<query>.*))?",
    re.IGNORECASE | re.DOTALL,
)


@dataclass(frozen=True, kw_only=True)
class Server:
    """How to reach one database on a server.

    socket: path of a unix socket, used instead of host and port when given. ssl: whether TLS is wanted; ssl_ca,
    ssl_cert, ssl_key: paths of PEM files, "" for none; ssl_verify: whether the host name must match. The password is
    never part of ``repr``.
    """

    user: str
    password: str = field(default="", repr=False)
    host: str = "localhost"
    port: int = 3306
    socket: str = ""
    database: str = ""
    ssl: bool = False
    ssl_ca: str = ""
    ssl_cert: str = ""
    ssl_key: str = ""
    ssl_verify: bool = False

    @property
    def name(self) -> str:
        """What messages and manifests call it: ``mysql://user@host:3306/database``, without the password."""
        place = f"localhost{self.socket}" if self.socket else f"{self.host}:{self.port}"
        return f"mysql://{self.user}@{place}/{self.database}"

    def using(self, database: str) -> Server:
        """The same server, another database."""
        return replace(self, database=database)


def parse(url: str, section: Mapping[str, Any] | None = None) -> Server:
    """The server in a URL as ZenML writes it; ``section``, the store section of config.yaml, fills what it lacks.

    As in ZenML, user and password may be percent-encoded, a certificate switches TLS on, and the server is checked
    against ``ssl_ca`` when that is given, its name only with ``ssl_verify_server_cert``. ``unix_socket`` is ours.
    Raises :class:`BadPlan`, whose message never repeats the URL.
    """
    match = _URL.fullmatch(url)
    if not match:
        raise _bad(FORM, "something else", "percent-encode @ : / ? # % in the user name and the password")
    given = dict(parse_qsl(match["query"] or "", keep_blank_values=True))
    if unknown := sorted(given.keys() - set(_QUERY)):
        raise _bad(", ".join(_QUERY), f"the unknown option {unknown[0]}", "remove it from the URL")
    said = {**(section or {}), **given}
    if said.get("auth_mode") == "aws_rds_iam":
        raise _bad("a password", "auth_mode: aws_rds_iam", "name a database user that has one in the store's URL")
    user = unquote(match["user"] or "") or str(said.get("username") or "")
    database = match["database"] or str(said.get("database") or "")
    if not user or not database:
        raise _bad(FORM, f"no {'database' if user else 'user'} name", "name it in the URL or in config.yaml")
    port = match["port"] or "3306"
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise _bad("a port from 1 to 65535", "something else", "correct it in the URL")
    files = {name: str(said.get(name) or "") for name in PEM_FILES}
    for name, path in files.items():
        if path and not os.path.isfile(path):
            found = "the text of one" if "-----BEGIN" in path else f"no such file: {path}"
            raise _bad(f"the path of a PEM file in {name}", found, "save it as a file and give its path")
    truths = {name: _TRUTH.get(str(said.get(name) or "").lower()) for name in ("ssl", "ssl_verify_server_cert")}
    for name, truth in truths.items():
        if truth is None:
            raise _bad(f"{name}=true or {name}=false", "something else", "correct it in the URL")
    return Server(
        user=user,
        password=unquote(match["password"] or "") or str(said.get("password") or ""),
        host=match["six"] or match["host"] or "localhost",
        port=int(port),
        socket=str(said.get("unix_socket") or ""),
        database=database,
        ssl=bool(truths["ssl"] or any(files.values())),
        ssl_verify=bool(truths["ssl_verify_server_cert"]),
        **files,
    )


def _bad(expected: str, found: str, remedy: str) -> BadPlan:
    return BadPlan("the store's MySQL URL cannot be used", expected=expected, found=found, remedy=remedy)
