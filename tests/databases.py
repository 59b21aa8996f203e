"""A private MariaDB that ZenML itself can reach, and MariaDB's own programs run against any server."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

from zenml_upgrade_kit.probing import Environment, run_command
from zenml_upgrade_kit.stores import private
from zenml_upgrade_kit.stores.address import Server

PASSWORD = "a@b:c/d%#e"
UPGRADE = """
import sys
import sqlalchemy
from zenml.zen_stores.migrations.alembic import Alembic
Alembic(sqlalchemy.create_engine(sys.argv[1])).upgrade(sys.argv[2])
"""


@contextmanager
def for_zenml() -> Iterator[Server]:
    """A server on a port of 127.0.0.1, account ``zenml`` with a password: what a URL of ZenML can say."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with private.server(port=port) as root:
        client(root, f"GRANT ALL ON *.* TO zenml@'127.0.0.1' IDENTIFIED BY '{PASSWORD}' WITH GRANT OPTION")
        yield replace(root, user="zenml", password=PASSWORD, socket="")


def zenml_url(server: Server) -> str:
    """The database as ZenML's settings name it, password included."""
    return f"mysql://{server.user}:{quote(server.password, safe='')}@{server.host}:{server.port}/{server.database}"


def url(database: Path | Server) -> str:
    """A file's or a server's database as ZenML names it."""
    return f"sqlite:///{database}" if isinstance(database, Path) else zenml_url(database)


def upgraded(environment: Environment, database: Path | Server, revision: str, folder: Path) -> None:
    """Bring a database to a revision on the way, with ZenML's own migrations."""
    address = url(database).replace("mysql://", "mysql+pymysql://")
    command = [str(environment.python), "-c", UPGRADE, address, revision]
    ended = run_command(environment, command, folder=folder, timeout=300)
    assert ended.returncode == 0, ended.last_lines()


def copied(server: Server) -> Server:
    """A copy of a database beside it."""
    own = server.using(f"copy_{uuid4().hex[:8]}")
    client(server, f"CREATE DATABASE {own.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
    client(own, run("mariadb-dump", server, server.database).decode())
    return own


def client(server: Server, sql: str) -> str:
    """What ``mariadb`` prints: a line a row, tabs between columns."""
    database = [server.database] if server.database else []
    return run("mariadb", server, "--skip-column-names", *database, sql=sql).decode().strip()


def run(program: str, server: Server, *arguments: str, sql: str = "") -> bytes:
    """What a program of MariaDB prints; ``sql`` is its standard input. No password is ever on a command line."""
    place = [f"--socket={server.socket}"] if server.socket else [f"--host={server.host}", f"--port={server.port}"]
    with tempfile.NamedTemporaryFile("w", suffix=".cnf") as options:
        options.write(f'[client]\nuser={server.user}\npassword="{server.password}"\ndefault-character-set=utf8mb4\n')
        options.flush()
        command = [private.find(program), f"--defaults-file={options.name}", *place, *arguments]
        return subprocess.run(command, input=sql.encode(), check=True, stdout=subprocess.PIPE).stdout
