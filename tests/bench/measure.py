"""Times and peak memory of ways to do the same thing, repeated in turn, as ratios in one table."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from databases import PASSWORD, client, zenml_url

from zenml_upgrade_kit.stores import private
from zenml_upgrade_kit.stores.address import Server

Way = Callable[[Path], object]
"""Does it once, in an empty folder of its own that is removed afterwards."""


@dataclass(frozen=True)
class Sample:
    """seconds: wall time. own: peak memory of the process in MB. all: with every program that it started, at once."""

    seconds: float
    own: float
    all: float


def options(description: str | None, **more: str) -> argparse.Namespace:
    """``--scale``, ``--repeat`` and where to work; ``more``: names and defaults of other options."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--scale", type=float, default=0.1, help="1 is the big store of about 1.5 GB")
    parser.add_argument("--repeat", type=int, default=3, help="repetitions, in turn")
    parser.add_argument("--folder", type=Path, default=None, help="where there is room; the temporary folder otherwise")
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_args()


def compare(title: str, ways: Mapping[str, Way], *, repeat: int, folder: Path, targets: Mapping[str, float]) -> None:
    """Print medians and their ratios to the first way. targets: the ratio that a way may have at most."""
    samples: dict[str, list[Sample]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            samples[name].append(_once(way, folder))
    medians = {name: statistics.median(one.seconds for one in found) for name, found in samples.items()}
    first = next(iter(medians.values()))
    print(f"\n{title}\n  {'':44}{'median':>9}{'best':>9}{'ratio':>8}{'target':>9}{'MB':>6}{'all MB':>8}")
    for name, found in samples.items():
        target = f"{'<=' if targets[name] >= 1 else '< '} {targets[name]:g}" if name in targets else ""
        seconds = f"{medians[name]:8.2f}s{min(one.seconds for one in found):8.2f}s{medians[name] / first:8.2f}"
        memory = f"{max(one.own for one in found):6.0f}{max(one.all for one in found):8.0f}"
        print(f"  {name:44}{seconds}{target:>9}{memory}", flush=True)


def apart(work: Callable[[], object]) -> tuple[float, float]:
    """Do it in a process of its own; its peak memory in MB, alone and with every program that it started."""
    fork = multiprocessing.get_context("fork")
    reading, writing = fork.Pipe(duplex=False)

    def run() -> None:
        work()
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        writing.send(peak / (2**20 if sys.platform == "darwin" else 2**10))

    process = fork.Process(target=run)
    process.start()
    seen = 0.0
    while process.is_alive():
        seen = max(seen, _memory(str(process.pid)))
        process.join(0.1)
    if process.exitcode:
        raise SystemExit("it failed, see above")
    own: float = reading.recv()
    return own, max(own, seen)


def _memory(pid: str) -> float:
    """What a process and all below it have in memory, in MB; where there is no /proc, nothing."""
    try:
        pages = int(Path("/proc", pid, "statm").read_text().split()[1])
        below = [path.read_text().split() for path in Path("/proc", pid, "task").glob("*/children")]
    except OSError:
        return 0.0
    return pages * resource.getpagesize() / 2**20 + sum(_memory(child) for some in below for child in some)


def _once(way: Way, folder: Path) -> Sample:
    own = Path(tempfile.mkdtemp(dir=folder))
    os.sync()  # what came before has been written: nobody waits for another's pages
    seconds = multiprocessing.get_context("fork").Value("d")

    def run() -> None:
        started = time.perf_counter()
        way(own)
        seconds.value = time.perf_counter() - started

    try:
        peaks = apart(run)
        return Sample(seconds.value, *peaks)
    finally:
        shutil.rmtree(own)


def shell(text: str) -> Way:
    """A command line of bash, ``$OUT`` being the folder; it fails when a part of a pipe does."""

    def run(folder: Path) -> None:
        command = ["bash", "-euo", "pipefail", "-c", text]
        subprocess.run(command, check=True, env={"OUT": str(folder), "PATH": "/usr/local/bin:/usr/bin:/bin"})

    return run


@contextmanager
def server(folder: Path | None) -> Iterator[tuple[Server, Server]]:
    """A private MariaDB with a cache as a real one has: as ``root`` by its socket, and as ZenML can reach it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    chosen = {"innodb-buffer-pool-size": "1G", "innodb-log-file-size": "512M"}
    with private.server(chosen, port=port, folder=folder) as root:
        grant = "GRANT ALL ON *.* TO zenml@'127.0.0.1' IDENTIFIED BY"
        client(root, f"{grant} '{PASSWORD}' WITH GRANT OPTION")
        yield root, replace(root, user="zenml", password=PASSWORD, socket="")


def program(name: str, server: Server, *arguments: str) -> str:
    """The start of a command line for one of MariaDB's programs or mydumper's, as root by its socket."""
    given = [] if name.startswith("my") else ["--no-defaults"]
    return " ".join([name, *given, f"--user={server.user}", f"--socket={server.socket}", *arguments])


def inside(place: Path | None) -> Any:
    """A temporary folder to work in."""
    return tempfile.TemporaryDirectory(prefix="bench-", dir=place)


__all__ = ["Way", "apart", "compare", "inside", "options", "program", "server", "shell", "zenml_url"]
