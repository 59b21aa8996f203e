"""Copies of a backup, to migrate and to look at: files, schemas beside the store, or a private MariaDB.

They outlive the process that makes them, since every step has one of its own; :func:`end` removes them.
"""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import drill, places
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.choices import RehearsalChoices
from zenml_upgrade_kit.errors import BackupUnusable, BadPlan, KitError, RunUnusable, StoreUnreadable
from zenml_upgrade_kit.findings import Finding
from zenml_upgrade_kit.rehearsal import servers
from zenml_upgrade_kit.rehearsal.servers import listed as listed
from zenml_upgrade_kit.rehearsal.servers import variables as variables
from zenml_upgrade_kit.runs import Run, Step
from zenml_upgrade_kit.stores import locate, scratch, sqlite
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.mysql import Connection

STEP, NAMES, LOCK = "30_rehearsal", ("before", "migrated"), "copies"
EMPTY = 126 << 20
"""Bytes of an empty data folder of MariaDB."""
LEAST = 32 << 20
"""Bytes that must be free for a MariaDB to go on."""


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where the copies of one backup go: a ``file``, a ``schema`` on a server, or in a ``private`` MariaDB of ours.

    where: in words. named: the server that the plan names, ``env:NAME``, "" for none. server: of the schemas, None for
    files. copies: what :meth:`restore` made, by name. compared: those that were found to be as the manifest says.
    """

    kind: str
    where: str
    findings: tuple[Finding, ...] = ()
    named: str = ""
    step: Step = field(repr=False)
    backup: Backup = field(repr=False)
    server: Server | None = field(default=None, repr=False)
    copies: dict[str, Path | Server] = field(default_factory=dict)
    compared: list[str] = field(default_factory=list, repr=False)
    _held: dict[str, Connection] = field(default_factory=dict, repr=False)

    def restore(self, name: str) -> tuple[Path | Server, float]:
        """A new copy of the backup, compared with its manifest, and the seconds that both took.

        One of that name is replaced. A second file is not compared again: it is unpacked from the same bytes, as their
        SHA-256 shows. Raises :class:`BackupUnusable` when it differs, :class:`PlaceUnusable` when there is no room;
        nothing of it stays then.
        """
        if name in self.copies:
            self.remove(self.copies[name])
        started, identity = time.monotonic(), self.step.plan.backup.identity
        copy = self.empty(name)
        try:
            if isinstance(copy, Path):
                drill.unpack(self.backup, "database", copy, identity)
                problems = [] if self.compared else drill.differences(self.backup, copy)
            else:
                problems = drill.fill(self.backup, copy, identity) + servers.other_defaults(self.backup, copy)
            if problems:
                raise BackupUnusable(
                    f"the copy {name} is not what the backup {self.backup.where} says",
                    expected="every table as in its manifest",
                    found="; ".join(problems[:5]),
                    remedy="make another backup with 20_backup, then try again",
                )
        except BaseException as error:
            if self.kind == "private" and isinstance(error, StoreUnreadable):
                places.room(_folder(self.step.run), LEAST)  # a MariaDB dies of a full disk without a word
            with suppress(KitError):  # it is listed as one of this run
                self.remove(copy)
            raise
        self.compared.append(name)
        return copy, time.monotonic() - started

    def empty(self, name: str) -> Path | Server:
        """A database without tables, with the defaults of the backup's; as a file it is not there yet."""
        if self.server:
            facts, run = self.backup.manifest["server"], str(self.step.run.folder)
            fresh, session = scratch.make(self.server, facts, scratch.COPY, run)
            self.copies[name], self._held[fresh.database] = fresh, session
        else:
            self.copies[name] = _folder(self.step.run) / f"{name}.db"
        return self.copies[name]

    def remove(self, database: Path | Server) -> None:
        """Remove a copy that :meth:`restore` made, and no other."""
        (name,) = [name for name, copy in self.copies.items() if copy == database]
        if isinstance(database, Path):
            for suffix in ("", *sqlite.SIDE_FILES):
                sqlite.beside(database, suffix).unlink(missing_ok=True)
        else:
            scratch.remove(database, database.database, self._held[database.database])
            del self._held[database.database]
        del self.copies[name]

    def release(self) -> None:
        """Let others use the copies."""
        for name, session in self._held.items():
            scratch.release(session, name)
        self._held.clear()

    def speed(self) -> float | None:
        """How many times as fast as the store's server this site is, by the same small queries on both.

        1.0 beside the store; None when it cannot be measured.
        """
        if not self.server or (self.kind == "schema" and not self.named):
            return 1.0
        before = self.copies.get("before")  # the other one has other columns by now
        try:
            store = locate(self.step.plan.store).server
            return servers.speed(store, before if isinstance(before, Server) else self.server) if store else None
        except KitError:
            return None

    def state(self) -> dict[str, Any]:
        """What :func:`reopen` needs, as JSON: ``kind``, ``named``, ``copies`` by name, ``options``."""
        names = {name: str(copy) if isinstance(copy, Path) else copy.database for name, copy in self.copies.items()}
        options = servers.options(self.backup.manifest["server"]) if self.kind == "private" else {}
        return {"kind": self.kind, "named": self.named, "copies": names, "options": options}


@contextmanager
def _alone(run: Run) -> Iterator[None]:
    """Other processes do not use the copies of the run meanwhile, nor remove them."""
    run.hold(LOCK)
    try:
        yield
    finally:
        run.release(LOCK)


@contextmanager
def site(step: Step, backup: Backup, choices: RehearsalChoices) -> Iterator[Site]:
    """Where copies of a backup go; what an earlier attempt of the step left is removed first, also its other files.

    The copies stay; after an exception they go, unless ``choices.keep_copy``. Raises :class:`PlaceUnusable` when there
    is no room for them, and :class:`StoreUnreadable` when no server can hold them, with the reason for each.
    """
    with _alone(step.run):
        _remove(step.run)
        step.empty_work()
        _folder(step.run).mkdir(mode=0o700, parents=True)
        try:
            with _chosen(step, backup, choices) as chosen, ExitStack() as stack:
                stack.callback(chosen.release)
                yield chosen
        except BaseException:
            with suppress(KitError):  # what stays is listed as this run's
                if not choices.keep_copy:
                    _remove(step.run)
            raise


@contextmanager
def _chosen(step: Step, backup: Backup, choices: RehearsalChoices) -> Iterator[Site]:
    common: dict[str, Any] = {"step": step, "backup": backup}
    folder = _folder(step.run)
    if backup.manifest["engine"] == "sqlite":
        places.room(folder, len(NAMES) * sum(file["original_bytes"] for file in backup.files("database")))
        yield Site(kind="file", where=f"files in {folder}", **common)
        return
    server, why = _wanted(step, backup, choices)
    if server and not why:
        where = f"schemas {'on' if choices.server else 'beside the store, on'} {server.using('').name}"
        findings = servers.unlike(server, backup, "")
        yield Site(kind="schema", where=where, findings=findings, server=server, named=choices.server, **common)
        return
    if server and choices.server:
        raise StoreUnreadable(
            f"no copy can be made on {server.name}",
            expected="a server that can hold the copies, and that ZenML can use",
            found=why,
            remedy="put that right, or leave server out: then copies are made beside the store or in a private MariaDB",
        )
    places.room(folder, EMPTY + 1.1 * len(NAMES) * sum(backup.manifest["server"]["tables"].values()))
    with servers.private_server(folder / "mariadb", servers.options(backup.manifest["server"]), why) as ours:
        drill.must_load(backup, ours)
        findings = servers.unlike(ours, backup, why)
        yield Site(kind="private", where="a private MariaDB", findings=findings, server=ours, **common)


def _wanted(step: Step, backup: Backup, choices: RehearsalChoices) -> tuple[Server | None, str]:
    """The server that copies should go to, and why they cannot, "" when they can."""
    if choices.private and not choices.server:
        return None, servers.AS_PLANNED
    server = drill.server_at(choices.server) if choices.server else locate(step.plan.store).server
    return server, servers.why_not(server, backup, len(NAMES)) if server else "the store is a file now"


@contextmanager
def reopen(run: Run) -> Iterator[tuple[Path | Server, Path | Server]]:
    """The copies ``before`` and ``migrated`` that 30_rehearsal left, as its ``facts["copies"]`` name them.

    A private MariaDB is started again for as long as they are used. Raises :class:`RunUnusable` when they are gone.
    """
    state = run.needs(STEP).facts.get("copies") or {"kind": "", "copies": {}}
    before, migrated = (Path(state["copies"].get(name, "")).name for name in NAMES)  # the run may have been moved
    with _alone(run), ExitStack() as stack:
        folder = _folder(run)
        server: Server | None = None
        if state["kind"] == "private" and (folder / "mariadb").is_dir():
            server = stack.enter_context(servers.private_server(folder / "mariadb", state["options"]))
        elif state["kind"] == "schema":
            server = locate(state["named"] or run.plan.store).server
        there = [one["name"] for one in scratch.leftovers(server)] if server else []
        there += [path.name for path in folder.glob("*.db")]
        for name, copy in zip(NAMES, (before, migrated), strict=True):
            if copy not in there:
                raise RunUnusable(
                    f"the copy {name} of {run.folder} is not there",
                    expected="the copies that 30_rehearsal left; 60_decision removes them",
                    found="nothing",
                    remedy="run 30_rehearsal again",
                )
            if server:
                stack.callback(scratch.release, scratch.hold(server, copy), copy)
        yield (server.using(before), server.using(migrated)) if server else (folder / before, folder / migrated)


def _folder(run: Run) -> Path:
    return run.work / STEP / "copies"


def end(run: Run, names: Sequence[str] = ()) -> list[str]:
    """Remove the copies of a run, or some; what was removed, in sentences. Nothing to remove is no error.

    names: as :func:`of_run` has them. Raises :class:`BadPlan` for what is none of them.
    """
    with _alone(run):
        there = [one["name"] for one in of_run(run)] if names else []
        if unknown := sorted(set(names) - set(there)):
            raise BadPlan(
                f"{', '.join(unknown)} is no copy of {run.folder}",
                expected=", ".join(there) or "nothing: it has no copies",
                found=", ".join(unknown),
                remedy="name one that is listed; nothing was removed",
            )
        return _remove(run, names)


def _remove(run: Run, names: Sequence[str] = ()) -> list[str]:
    """All of them when none is named; files go also where no server can be asked for schemas."""
    done = []
    for one in chain(_files(run), _schemas(run)):
        if names and one["name"] not in names:
            continue
        if one["server"]:
            servers.drop(one["server"], one["name"])
        elif Path(one["where"]).is_dir():
            shutil.rmtree(one["where"])
        else:
            Path(one["where"]).unlink()
        done.append(f"removed {one['where']}")
    return done


def of_run(run: Run) -> list[dict[str, Any]]:
    """Copies of a run, also half-made ones: ``name``, ``where`` in words, ``server`` (None for files), ``state``.

    A schema is a run's when its marker names the folder and this host, or when the run's result names the schema.
    Raises :class:`BadPlan` and :class:`StoreUnreadable` where the server that may have schemas of the run cannot be
    asked: nobody knows then that there are none.
    """
    return [*_files(run), *_schemas(run)]


def _files(run: Run) -> Iterator[dict[str, Any]]:
    for path in sorted(_folder(run).glob("*")):
        yield {"name": path.name, "where": str(path), "server": None, "state": "of this run"}


def _schemas(run: Run) -> Iterator[dict[str, Any]]:
    state: Mapping[str, Any] = {}
    with suppress(RunUnusable):  # a damaged result tells nothing
        state = (result.facts if (result := run.result(STEP)) else {}).get("copies") or {}
    if state.get("kind") in ("file", "private"):
        return
    try:
        server = locate(state.get("named") or run.plan.rehearsal.server or run.plan.store).server
    except StoreUnreadable:  # no server was asked: a file that is gone by now
        return
    if not server:
        return
    here, known = (str(run.folder), socket.gethostname()), state.get("copies", {}).values()
    for one in listed(server):
        if one["purpose"] == scratch.COPY and ((one["run"], one["host"]) == here or one["name"] in known):
            yield {**one, "where": f"the schema {one['name']} on {server.using('').name}", "server": server}
