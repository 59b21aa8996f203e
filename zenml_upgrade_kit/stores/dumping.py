"""Dumps of a MySQL or MariaDB database, made and loaded with the programs that people trust."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from zenml_upgrade_kit.errors import RestoreRefused, StoreUnreadable
from zenml_upgrade_kit.stores import mysql, programs
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.mysql import Connection
from zenml_upgrade_kit.stores.programs import BLOCK, SESSION, Program, Tool

THREADS = 2
"""Of a program that works with several, and sessions of our own that fingerprint meanwhile."""
ATTEMPTS = 6
"""To start a dump in a moment in which nobody commits; each takes some hundredths of a second."""
_STARTED = re.compile(rb"-- (?:Table structure|Temporary|Dump completed)")
_SANDBOX = re.compile(rb"\A/\*M?!999999\\- [^\n]*\n")
"""A first line of MariaDB's that older clients, and MySQL's, do not understand."""
_Contents: TypeAlias = "dict[str, dict[str, Any]]"


@dataclass
class Dump:
    """A dump that has begun, of one moment.

    tool: program and version. format: ``mydumper`` or ``sql``. server: :func:`mysql.facts`, and once the files were
    read ``longest``, the bytes of the longest values in a row. definitions: :func:`mysql.definitions`. contents, once
    the files were read: :func:`mysql.contents` of that very moment. unsettled: tables that were written to while the
    dump began, so that nobody can tell their contents: ``rows`` and ``fingerprint`` are None.
    """

    tool: str
    format: str
    server: dict[str, Any]
    definitions: dict[str, str]
    _program: Program
    _watch: Connection
    _computed: list[Future[_Contents]]
    contents: _Contents = field(default_factory=dict)
    unsettled: list[str] = field(default_factory=list)

    def files(self) -> Iterator[tuple[str, BinaryIO]]:
        """Name and plain bytes of each file, to be read to its end before the next; mydumper's are deleted then.

        Raises :class:`StoreUnreadable` when the program does not end well, a table is missing or altered meanwhile.
        """
        if self.format == "sql":
            yield "database.sql", cast(BinaryIO, _Output(self._program))
        else:
            names = yield from _mydumper_files(self._program)
            if (found := sum(name.endswith("-schema.sql") for name in names)) < len(self.definitions):
                raise self._program.failed(f"{found} of {len(self.definitions)} tables in its files")
        first, *later = [one.result() for one in self._computed]
        if mysql.definitions(self._watch) != self.definitions:
            raise self._program.failed("tables that were made, altered or dropped meanwhile")
        self.unsettled = [name for name, found in first.items() if any(other[name] != found for other in later)]
        self.server["longest"] = max((found["longest"] for found in first.values()), default=0)
        for name in self.unsettled:
            first[name] |= {"rows": None, "fingerprint": None}
        self.contents = first


@contextmanager
def dump(server: Server, *, tool: str = "", staging: Path) -> Iterator[Dump]:
    """Begin to dump a database in one snapshot, while it is in use: nobody who writes has to wait.

    The fingerprints are of the same moment, though no lock is held. Sessions of our own take their snapshot, the
    program takes its own, and where nobody committed in between, by InnoDB's log position before and after, both are
    the same: this is tried a few times, and is how several sessions of mydumper become one snapshot too. On a server
    that never rests mariadb-dump is used, whose one session needs no luck, and tables that are equal in snapshots of
    ours before and after its own are settled. tool: one of :data:`programs.DUMPERS`, "" to choose. staging: for
    mydumper's files. Raises :class:`StoreUnreadable`, :class:`ToolMissing`, :class:`BadPlan`.
    """
    chosen = programs.dumpers(tool)
    with ExitStack() as stack:
        watch, *before = (stack.enter_context(closing(mysql.connect(server))) for _ in range(1 + THREADS))
        facts, definitions = mysql.facts(watch), mysql.definitions(watch)
        program, quiet = _start(chosen, watch, before, facts, staging)
        stack.enter_context(program)
        kind = programs.DUMPERS[program.tool.name]
        moments = [before[:1] if kind == "sql" else before]  # what reads with one session is followed by one
        if not quiet:
            moments.append([stack.enter_context(closing(mysql.connect(server))) for _ in moments[0]])
            for session in moments[-1]:
                mysql.begin(session)
        pool = stack.enter_context(ThreadPoolExecutor(1))
        computed = [pool.submit(_contents, sessions) for sessions in moments]
        stack.callback(_stop, computed, moments)
        yield Dump(str(program.tool), kind, facts, definitions, program, watch, computed)


def _contents(sessions: Sequence[Connection]) -> _Contents:
    """Then lets go of the snapshot: whoever wants to alter a table has to wait for it."""
    found = mysql.contents(sessions)
    for session in sessions:
        session.close()
    return found


def _stop(computed: Iterable[Future[_Contents]], moments: Iterable[Sequence[Connection]]) -> None:
    for future, sessions in zip(computed, moments, strict=True):
        if not future.cancel() and not future.done():
            for session in sessions:
                session.stop()


def _start(
    tools: Iterable[Tool], watch: Connection, before: Sequence[Connection], facts: Mapping[str, Any], staging: Path
) -> tuple[Program, bool]:
    """A program that has its snapshot, and whether it is that of the sessions too."""
    ascii_only = all(text.isascii() for text in mysql.definitions(watch).values())  # mydumper 0.10 loses the rest
    for tool in tools:
        sql = programs.DUMPERS[tool.name] == "sql"
        for left in reversed(range(ATTEMPTS)):
            position = _log_position(watch) if facts["engines"] in ([], ["InnoDB"]) else ""
            if not sql and not (ascii_only and position):
                break
            for session in before:
                mysql.begin(session)
            with ExitStack() as undo:
                program = undo.enter_context(_dumping(tool, watch.server, facts["objects"], staging))
                _wait_for_snapshot(program)
                quiet = bool(position) and position == _log_position(watch)
                if quiet or (sql and not (left and position)):
                    undo.pop_all()
                    return program, quiet
    raise StoreUnreadable(
        f"{watch.server.name} cannot be dumped with mydumper",
        expected="a moment without a commit, in which all of its sessions begin; InnoDB; definitions in ASCII",
        found="commits all the time" if ascii_only and position else "another engine, or letters beyond ASCII",
        remedy="dump with mariadb-dump or mysqldump, whose one session needs none of these",
    )


def _log_position(connection: Connection) -> str:
    """Where InnoDB's log ends, which every commit moves; "" where the server does not say (MySQL before 8.0.30)."""
    if connection.execute("SHOW GLOBAL VARIABLES LIKE 'aurora_version'"):
        return ""  # its storage is another
    names = "('Innodb_lsn_current', 'Innodb_redo_log_current_lsn')"
    rows = connection.execute(f"SHOW GLOBAL STATUS WHERE Variable_name IN {names}")
    return rows[0][1] if rows else ""


def _dumping(tool: Tool, server: Server, objects: Mapping[str, int], staging: Path) -> Program:
    also = [f"--{kind}" for kind in ("triggers", "routines", "events") if objects[kind]]  # each needs a grant
    if tool.name == "mydumper":
        modern = "--sync-thread-lock-mode" in programs.said_by(tool.path, "--help")
        lock = "--sync-thread-lock-mode=NO_LOCK" if modern else "--no-locks"
        given = [
            lock,
            f"--threads={THREADS}",
            "--chunk-filesize=64",
            "--verbose=1",
            *programs.tls_arguments(tool, server),
        ]
        return Program(tool, server, [*given, *also, f"--database={server.database}"], staging)
    given = ["--single-transaction", "--quick", "--hex-blob", "--no-tablespaces", "--default-character-set=utf8mb4"]
    given += ["--skip-add-drop-table", "--skip-add-locks"]  # it is loaded into an empty database, or not at all
    if tool.vendor == "MySQL":
        given += ["--set-gtid-purged=OFF", *(["--column-statistics=0"] if tool.version[0] != "5" else [])]
    return Program(tool, server, [*given, *also, server.database], staging, stdout=subprocess.PIPE)


def _wait_for_snapshot(program: Program) -> None:
    """Returns when the program has read its first definition, or has ended. Raises :class:`StoreUnreadable`."""
    if program.process.stdout:
        head = cast(io.BufferedReader, program.process.stdout).peek()
        program.options.unlink()
        if not _STARTED.search(head):
            raise program.failed(program.ended() or f"{program.tool} began with {head[:60]!r}")
    while program.process.stdout is None and not list(program.folder.glob("*-schema*.sql")):
        if program.process.poll() is not None:
            if problem := program.ended():
                raise program.failed(problem)
            return
        time.sleep(0.002)


class _Output(io.RawIOBase):
    """What mariadb-dump writes; reading fails where it ends without its mark of completion."""

    def __init__(self, program: Program) -> None:
        self._program, self._tail = program, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = cast(io.BufferedReader, self._program.process.stdout).readinto(buffer)
        self._tail = (self._tail + bytes(buffer[max(0, count - 80) : count]))[-80:]
        if not count and (problem := self._program.ended()):
            raise self._program.failed(problem)
        if not count and b"-- Dump completed" not in self._tail:
            raise self._program.failed(f"{self._program.tool} ended in the middle")
        return count


def _mydumper_files(program: Program) -> Generator[tuple[str, BinaryIO], None, list[str]]:
    """Files as they are finished, so that they do not pile up: those that the program has not open (Linux tells)."""
    seen: list[str] = []
    opened = Path("/proc", str(program.process.pid), "fd")
    while True:
        running = program.process.poll() is None
        ready = sorted(program.folder.iterdir())
        if running:
            busy = {path.resolve() for path in ready}
            with suppress(OSError):  # no Linux, or it has just ended
                busy = {Path(os.path.realpath(link)) for link in opened.iterdir()}
            ready = [path for path in ready if path.resolve() not in busy and not path.name.startswith("metadata")]
        elif problem := program.ended():
            raise program.failed(problem)
        for path in ready:
            if path.name in seen:
                raise program.failed(f"{program.tool} wrote {path.name} again")
            with suppress(FileNotFoundError), path.open("rb") as file:  # it removes those without rows
                yield path.name, file
                path.unlink()
                seen.append(path.name)
        if not running:
            return seen
        time.sleep(0 if ready else 0.02)


def load(server: Server, *, format: str, files: Iterable[tuple[str, BinaryIO]], staging: Path, tool: str = "") -> str:  # noqa: A002
    """Load a dump into the existing, empty database of a server; the program that did it.

    files: as :meth:`Dump.files` gave them, in any order. staging: where mydumper's are written first. Raises
    :class:`RestoreRefused` with the program's own words, :class:`ToolMissing`, and whatever reading the files raises.
    """
    chosen = programs.loader(format, tool)
    with ExitStack() as stack:
        if format == "mydumper":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zuk-", dir=staging)))
            for name, source in files:
                with (folder / Path(name).name).open("xb") as file:
                    shutil.copyfileobj(source, file, BLOCK)
            files = ((path.name, stack.enter_context(path.open("rb"))) for path in sorted(folder.iterdir(), key=_turn))
        if chosen.name == "myloader":
            given = [f"--directory={folder}", f"--database={server.database}", f"--threads={THREADS}"]
            given += ["--enable-binlog", "--verbose=1", *programs.tls_arguments(chosen, server)]  # replicas get it too
            program = stack.enter_context(Program(chosen, server, given, staging))
        else:
            given = ["--binary-mode", "--default-character-set=utf8mb4", server.database]
            program = stack.enter_context(Program(chosen, server, given, staging, stdin=subprocess.PIPE))
            _feed(cast(BinaryIO, program.process.stdin), (source for name, source in files if _turn(Path(name))))
        if problem := program.ended():
            raise RestoreRefused(
                f"the backup cannot be loaded into {server.name}",
                expected=f"{chosen} that loads all of it",
                found=problem,
                remedy="see the message; a collation that is unknown takes a server of the backup's flavour, or newer",
            )
    return str(chosen)


def _turn(path: Path) -> int:
    """When a client loads a file: definitions, rows, then what is built on them; 0 for what is of no use to it."""
    if path.name.startswith("metadata") or path.name.endswith("-schema-create.sql"):
        return 0
    return 1 if path.name.endswith("-schema.sql") else 3 if "-schema-" in path.name else 2


def _feed(pipe: BinaryIO, sources: Iterable[BinaryIO]) -> None:
    """Write all that the program takes; when it ends early, its log says why."""
    pipe.write(f"{SESSION};\n".encode())
    for source in sources:
        block = _SANDBOX.sub(b"", source.read(BLOCK), count=1)
        while block:
            try:
                pipe.write(block)
            except BrokenPipeError:
                return
            block = source.read(BLOCK)
    with suppress(BrokenPipeError):
        pipe.close()


def loadable(facts: Mapping[str, Any], connection: Connection) -> list[str]:
    """Why a dump cannot be loaded into the server of a connection, in words; nothing when no reason is known.

    facts: ``server`` of the dump.
    """
    (target,) = connection.execute("SELECT VERSION(), @@GLOBAL.max_allowed_packet, @@GLOBAL.lower_case_table_names")
    reasons = []
    for collation in {*facts["collations"], facts["collation"]}:
        charset = collation.partition("_")[0]
        try:
            connection.execute(f"SELECT CONVERT('' USING {mysql.quoted(charset)}) COLLATE {mysql.quoted(collation)}")
        except StoreUnreadable as error:
            whose = f"the backup is of {facts['flavour']} {facts['version']}"
            reasons.append(f"{target[0]} does not know the collation {collation} ({error.found}); {whose}")
    needed = 2 * facts.get("longest", 0) + BLOCK  # a value in hexadecimal, and the rest of its row
    if target[1] < needed:
        reasons.append(f"max_allowed_packet is {target[1]:,} bytes there, and the longest row needs {needed:,}")
    if target[2] and (mixed := [name for name in facts["tables"] if name != name.lower()]):
        reasons.append(f"lower_case_table_names is {target[2]} there, and the backup has {', '.join(mixed)}")
    return sorted(reasons)
