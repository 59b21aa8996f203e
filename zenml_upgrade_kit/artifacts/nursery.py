"""A nursery: a process of an environment that has imported ZenML and what artifacts need, and forks a child a request.

What happens inside is in ``probes/load_artifacts.py``. Each Python process keeps its nurseries until :func:`close`.
"""

from __future__ import annotations

import atexit
import importlib.resources
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent import futures
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from zenml_upgrade_kit import probing, redact
from zenml_upgrade_kit.errors import ProbeFailed

START_UP = 300.0
"""Seconds that one import may take: the first one of ZenML took 22 s on a loaded machine."""
GUARD = ""
"""What keeps loads from writing; see ``probes/guard.py``."""

Json = dict[str, Any]

_nurseries: dict[tuple[Any, ...], Nursery] = {}
_starting = threading.Lock()


def nursery(*, python: str, version: str, folder: str, code: str, database: str) -> Nursery:
    """The nursery for these settings (of a shard): a new one when there is none, or when that has ended.

    A module that ended a nursery while it was imported is left out in the next one: artifacts that need it import it.
    Raises :class:`ProbeFailed` when the environment does not work.
    """
    key = (os.getpid(), python, folder, code, database)  # a fork of this process has none
    with _starting:
        last = _nurseries.get(key)
        if last and not last.ended:
            return last
        if last:
            last.end()
        fresh = _nurseries[key] = Nursery(python, version, folder, code, database, last)
    return fresh


def close() -> None:
    """End the nurseries that this process keeps."""
    with _starting:
        ended = [_nurseries.pop(key) for key in list(_nurseries) if key[0] == os.getpid()]
    for one in ended:
        one.end()


atexit.register(close)


class Nursery:
    """A process that forks children, and the threads that wait for them.

    ended: whether it has, by itself. culprit: the module that was being imported then, "" when there was none.
    """

    def __init__(
        self, python: str, version: str, folder: str, code: str, database: str, last: Nursery | None = None
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="load-", dir=folder or None))
        self.log, self.version, self.ended, self.culprit = self.folder / "load.log", version, False, ""
        self._keep_log = bool(folder)
        self._avoid: list[str] = [*last._avoid, *filter(None, [last.culprit])] if last else []
        self._modules: dict[str, None] = last._modules if last else {}
        self._numbers, self._lock = itertools.count(1), threading.Lock()
        self._waiting: dict[int, futures.Future[int | None]] = {}
        self._importing, self._since = "", time.monotonic()
        self._ready: futures.Future[bool] = futures.Future()
        self._process: futures.Future[subprocess.Popen[bytes]] = futures.Future()
        private, settings = self.folder / "private", self.folder / "settings.json"
        private.mkdir()
        variables = {"TMPDIR": str(private), "OMP_NUM_THREADS": "1", "ZENML_LOGGING_VERBOSITY": "ERROR"}
        if database:
            variables["ZENML_STORE_URL"] = f"sqlite:///{_linked(Path(database), private / 'zenml.db')}"
        probes = importlib.resources.files("zenml_upgrade_kit") / "probes"
        for probe in (path for path in probes.iterdir() if path.is_file()):  # on a Dask worker the kit is a zip
            (self.folder / probe.name).write_bytes(probe.read_bytes())
        told = {"code": _found(code), "private": str(private), "avoid": self._avoid, "guard": GUARD}
        settings.write_text(json.dumps(told), encoding="utf-8")
        command = [python or sys.executable, "-I", str(self.folder / "load_artifacts.py"), str(settings)]
        threading.Thread(target=self._listen, args=(command, variables), daemon=True).start()
        self._process.result()
        if not self._wait(self._ready):
            raise self.failed()

    def ask(self, request: Json) -> tuple[int | None, str, dict[str, Json]]:
        """Wait status of the child (None: the nursery ended), the id that it started last, and its answers by id."""
        number = next(self._numbers)
        folder, answer = self.folder / str(number), futures.Future[int | None]()
        asked, reply, scratch = folder / "request.json", folder / "reply.jsonl", folder / "scratch"
        scratch.mkdir(parents=True)
        request = {**request, "scratch": str(scratch), "modules": list(self._modules)}
        asked.write_text(json.dumps(request), encoding="utf-8")
        line = json.dumps({"number": number, "request": str(asked), "reply": str(reply)})
        with self._lock:
            if self.ended:
                return None, "", {}
            self._waiting[number] = answer
            with suppress(OSError):  # it is about to end
                os.write(self._stdin().fileno(), line.encode() + b"\n")
        status = self._wait(answer)
        started, answers = "", dict[str, Json]()
        for said in reply.read_text(encoding="utf-8").splitlines() if reply.exists() else ():
            with suppress(ValueError):  # it ended while it wrote this line
                value = json.loads(said)
                self._modules.update(dict.fromkeys(value.pop("modules", ())))
                if "start" in value:
                    started = value["start"]
                elif value:
                    answers.setdefault(value.pop("id"), {}).update(value)
        shutil.rmtree(folder, ignore_errors=True)
        return status, started, answers

    def end(self) -> None:
        """End the process and its children; what they wrote is removed, but not the log in a given folder."""
        process = self._process.result()
        with suppress(OSError):
            self._stdin().close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        probing.end(process)
        for path in self.folder.iterdir():
            if path != self.log:
                shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
        if not self._keep_log:
            shutil.rmtree(self.folder)

    def failed(self) -> ProbeFailed:
        """That nothing can be loaded at all, and why."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
        return ProbeFailed(
            f"artifacts cannot be loaded with ZenML {self.version}",
            expected="a process that imports ZenML and loads artifacts",
            found=redact.url("; ".join(lines)) or "one that ended without a word",
            remedy=f"see the log {self.log}",
        )

    def _stdin(self) -> IO[bytes]:
        stream = self._process.result().stdin
        assert stream
        return stream

    def _wait(self, answer: futures.Future[Any]) -> Any:
        """The answer; a process that imports one module for too long is ended."""
        while True:
            try:
                return answer.result(timeout=1)
            except futures.TimeoutError:
                if self._since and time.monotonic() - self._since > START_UP:
                    probing.end(self._process.result())

    def _listen(self, command: list[str], variables: Mapping[str, str]) -> None:
        """Start the process and hear it to its end, in one thread: it ends together with the thread that began it."""
        try:
            folder = self.folder / "private"
            process = probing.start(self.version, command, folder=folder, log=self.log, variables=variables)
        except BaseException as error:  # noqa: BLE001 the thread that waits raises it
            self._process.set_exception(error)
            return
        self._process.set_result(process)
        assert process.stdout
        for line in process.stdout:
            said = json.loads(line)
            if "ended" in said:
                self._waiting.pop(said["ended"]).set_result(said["status"])
            else:
                self._importing = said.get("importing", "")
                self._since = time.monotonic() if self._importing else 0
                if "ready" in said:
                    self._ready.set_result(True)
        probing.end(process)
        with self._lock:
            self.ended, self.culprit = True, self._importing
            for answer in self._waiting.values():
                answer.set_result(None)
        if not self._ready.done():
            self._ready.set_result(False)


def _linked(file: Path, to: Path) -> Path:
    """The same file under another name, where loads may write; a copy where that cannot be."""
    try:
        os.link(file, to)
    except OSError:
        shutil.copyfile(file, to)
    return to


def _found(code: str) -> str:
    """The path of the user's code; the bare name of a zip is looked for on ``sys.path``, where Dask puts it."""
    places = (Path(code), *(Path(folder, code) for folder in sys.path)) if code else ()
    return next((str(path) for path in places if path.exists()), "")
