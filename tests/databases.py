"""A private MariaDB that ZenML itself can reach, and MariaDB's own programs run against any server."""

import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import quote

from zenml_upgrade_kit.stores import private
from zenml_upgrade_kit.stores.address import Server

PASSWORD = "a@b:c/d%#e"


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
