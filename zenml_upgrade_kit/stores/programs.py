"""The programs that people trust with their databases: which are installed, and how one is run without its secrets."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.errors import BadPlan, StoreUnreadable, ToolMissing
from zenml_upgrade_kit.probing import guarded
from zenml_upgrade_kit.redact import Redactor
from zenml_upgrade_kit.stores import mysql, private
from zenml_upgrade_kit.stores.address import PEM_FILES, Server

DUMPERS = {"mydumper": "mydumper", "mariadb-dump": "sql", "mysqldump": "sql"}
"""Programs in the order of preference, and the format that each writes."""
LOADERS = {"mydumper": ("myloader", "mariadb", "mysql"), "sql": ("mariadb", "mysql")}
INSTALL = "apt install mariadb-client (or mydumper), brew install mariadb, or mamba install -c conda-forge mariadb"
PACKET = 1 << 30
"""Bytes of the longest statement, the most that servers allow."""
BLOCK = 1 << 20
SESSION = "SET SESSION sql_mode = 'NO_AUTO_VALUE_ON_ZERO', foreign_key_checks = 0, unique_checks = 0"


@dataclass(frozen=True)
class Tool:
    """An installed program; vendor: ``MariaDB`` or ``MySQL``, whose options differ."""

    name: str
    path: str
    version: str
    vendor: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@cache
def said_by(path: str, option: str) -> str:
    return subprocess.run([path, option], capture_output=True, text=True, check=False).stdout


def dumpers(forced: str = "") -> list[Tool]:
    """The installed programs to dump with, best first: mydumper, which uses several sessions, mariadb-dump, mysqldump.

    Raises :class:`BadPlan` for a program that is none of these, :class:`ToolMissing` when it, or all, are missing.
    """
    return _find(tuple(DUMPERS), forced)


def loader(format: str, forced: str = "") -> Tool:  # noqa: A002
    """The program to load a format with: myloader for mydumper's files where it is installed, else mariadb or mysql."""
    return _find(LOADERS[format], forced)[0]


def _find(names: Sequence[str], forced: str) -> list[Tool]:
    problem, expected = "the database's programs are needed", forced or " or ".join(names)
    if forced and forced not in names:
        remedy = "name one of these, or none to have it chosen"
        raise BadPlan(problem, expected=" or ".join(names), found=forced, remedy=remedy)
    found = []
    for name in [forced] if forced else names:
        if path := private.find(name):
            said = said_by(path, "--version")
            version = re.search(r"Distrib ([\w.]+)|from ([\w.]+)|(\d+\.\d+[\w.]*)", said)
            number = next(filter(None, version.groups())) if version else ""
            found.append(Tool(name, path, number, "MariaDB" if "mariadb" in said.lower() else "MySQL"))
    if not found:
        raise ToolMissing(problem, expected=expected, found="not installed", remedy=INSTALL)
    return found


class Program:
    """A running program, which reads how to connect from a file that only this user may read.

    The password is never on a command line, in the environment or in a message. Where Linux can do it, the program
    ends when this process does, however that happens.
    """

    def __init__(self, tool: Tool, server: Server, arguments: Sequence[str], staging: Path, **pipes: int) -> None:
        self.tool, self.server = tool, server
        self._own = tempfile.TemporaryDirectory(prefix="zuk-", dir=staging, ignore_cleanup_errors=True)
        self.folder, self.options, self._log = (Path(self._own.name, name) for name in ("files", "my.cnf", "log"))
        self.options.touch(mode=0o600)
        self.options.write_text(_option_file(tool, server), encoding="utf-8")
        command = guarded([tool.path, f"--defaults-file={self.options}", *arguments])
        command += [f"--outputdir={self.folder}"] if tool.name == "mydumper" else []
        with self._log.open("wb") as log:
            given: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": log, **pipes}
            self.process = subprocess.Popen(command, stderr=log, bufsize=BLOCK, **given)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            with suppress(OSError):  # what it did not read is lost
                if pipe:
                    pipe.close()
        self.process.wait()
        self._own.cleanup()

    def ended(self) -> str:
        """Wait for its end: why that is not a good one, in its own words, "" when it is."""
        code = self.process.wait()
        text = " ".join(self._log.read_text(encoding="utf-8", errors="replace").split())
        if not code and "CRITICAL" not in text:
            return ""
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        text = text or f"{shutil.disk_usage(self._own.name).free:,} bytes are free in {self._own.name}"
        if len(text) > 600:  # of many errors the first one is the cause
            text = f"{text[:400]} … {text[-200:]}"
        return Redactor([self.server.password]).text(f"{self.tool} {how}: {text}")

    def failed(self, found: str) -> StoreUnreadable:
        """What to raise when a dump did not end well."""
        denied = "denied" in found or "privilege" in found
        missing = mysql.missing_grant(found)
        return StoreUnreadable(
            f"{self.server.name} cannot be dumped",
            expected=f"the grant {missing}" if denied else f"{self.tool} that finishes",
            found=found,
            remedy=mysql.grant(self.server, missing) if denied else "see the message; try again",
        )


def _option_file(tool: Tool, server: Server) -> str:
    """The ``[client]`` options: MariaDB's and MySQL's programs differ in TLS; mydumper's library skips what is new."""
    given = {
        "user": server.user,
        "password": server.password,
        "max-allowed-packet": str(PACKET),  # 1G is one byte to a library of MariaDB's
        **{name.replace("_", "-"): path for name in PEM_FILES if (path := getattr(server, name))},
    }
    if server.socket:
        given |= {"protocol": "socket", "socket": server.socket}
    else:
        given |= {"protocol": "tcp", "host": server.host, "port": str(server.port)}
    checked = server.ssl_verify and server.ssl_ca
    if tool.name in ("mydumper", "myloader"):
        given |= {"init-command": SESSION, "get-server-public-key": "1"}
    elif tool.vendor == "MariaDB":
        given |= {"ssl": str(int(server.ssl)), "ssl-verify-server-cert": "1" if checked else "0"}
    else:
        level = "VERIFY_IDENTITY" if checked else "VERIFY_CA" if server.ssl_ca else "REQUIRED"
        given |= {"ssl-mode": level if server.ssl else "PREFERRED", "get-server-public-key": "1"}
    escaped = {name: re.sub(r'(["\\])', r"\\\1", value) for name, value in given.items()}
    return "[client]\n" + "".join(f'{name}="{value}"\n' for name, value in escaped.items())


def tls_arguments(tool: Tool, server: Server) -> list[str]:
    """What mydumper and myloader do not read from the option file."""
    if not server.ssl:
        return []
    level = "VERIFY_IDENTITY" if server.ssl_verify and server.ssl_ca else "REQUIRED"
    files = [f"--{name[4:]}={path}" for name in PEM_FILES if (path := getattr(server, name))]
    return [f"--ssl-mode={level}" if "--ssl-mode" in said_by(tool.path, "--help") else "--ssl", *files]
