"""A private MariaDB server in a temporary folder, reached by its socket; it is gone when it is not needed any more."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.probing import guarded
from zenml_upgrade_kit.stores import mysql
from zenml_upgrade_kit.stores.address import Server

PATIENCE = 60.0
"""Seconds until the server must answer; measured: under one."""
PLACES = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin", "/opt/homebrew/sbin")
"""Where servers are installed beside ``PATH``."""
LOCAL = "DELETE FROM mysql.global_priv WHERE Host <> 'localhost' AND User = 'root' OR User = '';\nFLUSH PRIVILEGES;\n"
"""Run before anybody can connect: the accounts that a new data folder has for TCP need no password."""
INSTALL = "install it: apt install mariadb-server, brew install mariadb, or mamba install -c conda-forge mariadb"


def find(name: str) -> str:
    """The path of an installed program, "" for none."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), *PLACES])) or ""


@contextmanager
def server(
    options: Mapping[str, str] | None = None, *, port: int = 0, folder: Path | None = None, data: Path | None = None
) -> Iterator[Server]:
    """A running server with an account ``root`` that needs no password on its socket, which only this user reaches.

    It ends with the context. options: of ``mariadbd``, such as ``{"sql-mode": ""}``; the character set is utf8mb4
    unless told (the built-in default is latin1, with which every ZenML release fails on the first other character).
    port: on 127.0.0.1, 0 for none; nobody can log in there unless an account is made. folder: where its own temporary
    folder is made. data: a data folder that stays, made when it is not there; otherwise it goes with the context.
    Raises :class:`StoreUnreadable` when it cannot be started.
    """
    if not (find("mariadbd") and find("mariadb-install-db")):
        raise _not_started("MariaDB's mariadbd and mariadb-install-db", "not on PATH", INSTALL)
    # a short path: a socket's may have about 100 characters
    with tempfile.TemporaryDirectory(prefix="zuk-db-", dir=folder, ignore_cleanup_errors=True) as own:
        account = ["--user=root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
        data = data or Path(own, "data")
        log, listens, first = Path(own, "log"), Path(own, "s"), Path(own, "first.sql")
        if not data.exists():
            _install(data, account)
        first.write_text(LOCAL)
        chosen = {
            "character-set-server": "utf8mb4",
            "collation-server": "utf8mb4_general_ci",
            "max-allowed-packet": "1G",
            "innodb-flush-log-at-trx-commit": "0",  # a copy may be lost with the machine, and is faster
            **({"port": str(port), "bind-address": "127.0.0.1"} if port else {"skip-networking": "1"}),
            **(options or {}),
        }
        command = guarded([find("mariadbd"), "--no-defaults", f"--datadir={data}", f"--socket={listens}"])
        command += [f"--init-file={first}", f"--pid-file={own}/pid", f"--tmpdir={own}", "--skip-name-resolve", *account]
        command += [f"--{name}={value}" for name, value in chosen.items()]
        with (
            log.open("wb") as written,
            subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, start_new_session=True
            ) as process,
        ):
            try:
                root = Server(user="root", host="127.0.0.1" if port else "localhost", port=port, socket=str(listens))
                _wait(process, root, log)
                yield root
            finally:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()


def _install(data: Path, account: list[str]) -> None:
    command = [find("mariadb-install-db"), "--no-defaults", f"--datadir={data}", f"--tmpdir={data.parent}", *account]
    command += ["--skip-test-db", "--auth-root-authentication-method=normal"]
    made = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if made.returncode:
        raise _not_started("an empty data folder", (made.stderr or made.stdout).strip()[-400:], "see the message")


def new_account(root: Server, name: str) -> str:
    """Make an account anew that can do everything, over TCP from this machine; its random password."""
    password = secrets.token_hex(24)
    with closing(mysql.connect(root, write=True)) as connection:
        connection.execute("CREATE OR REPLACE USER %s@'127.0.0.1' IDENTIFIED BY %s", (name, password))
        connection.execute("GRANT ALL ON *.* TO %s@'127.0.0.1'", (name,))
    return password


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(process: subprocess.Popen[bytes], root: Server, log: Path) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with suppress(StoreUnreadable):
            return mysql.connect(root).close()
        time.sleep(0.05)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    found = next((line for line in lines if "[ERROR]" in line), "no answer")
    raise _not_started("a server that answers", found[-400:], "see the message")


def _not_started(expected: str, found: str, remedy: str) -> StoreUnreadable:
    return StoreUnreadable("no private MariaDB can be started", expected=expected, found=found, remedy=remedy)
