"""A MySQL or MariaDB metadata database: read in one snapshot, fingerprinted; never written by this module."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


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
