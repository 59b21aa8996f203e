"""Proofs of a migration against the bare migration of the same data, which takes ``zenml migrate-database``.

``python tests/bench/bench_proof.py [--scale 0.1|1] [--repeat 3] [--only sqlite|mariadb]``

The migration is timed once, as in an upgrade: with no backup by ZenML; the proof may take a tenth of it, and 300 MB.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from functools import partial
from pathlib import Path

import make_store
from measure import apart, compare, inside, options, program, server, zenml_url

from zenml_upgrade_kit import environments
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.probing import run_command
from zenml_upgrade_kit.proof import comparison
from zenml_upgrade_kit.stores.address import Server

TARGET = "0.98.0"
SHARE = 0.1
"""Of the migration's time."""


def migrated(environment: Environment, url: str, folder: Path) -> float:
    """Seconds that a bare migration takes."""
    variables = {"ZENML_STORE_TYPE": "sql", "ZENML_STORE_URL": url, "ZENML_STORE_BACKUP_STRATEGY": "disabled"}
    command = [str(environment.python.parent / "zenml"), "migrate-database"]
    with tempfile.TemporaryDirectory(dir=folder) as own:
        started = time.perf_counter()
        ended = run_command(environment, command, folder=Path(own), variables=variables, timeout=3600)
        seconds = time.perf_counter() - started
    if ended.returncode:
        raise SystemExit(ended.last_lines())
    return seconds


def measure(title: str, before: Path | Server, after: Path | Server, bare: float, folder: Path, repeat: int) -> None:
    """Print the proof's time, one and two tables at a time, and its share of the migration's."""

    def prove(own: Path, sessions: int) -> float:
        started = time.perf_counter()
        proof = comparison.prove(before, after, make_store.RELEASE, TARGET, exports=own / "lost", sessions=sessions)
        if proof.unexplained or proof.not_checked:
            raise SystemExit(f"not proven: {proof.unexplained} {proof.not_checked}")
        return time.perf_counter() - started

    ways = {f"{sessions} table(s) at a time": partial(prove, sessions=sessions) for sessions in (2, 1)}
    compare(title, ways, repeat=repeat, folder=folder, targets={})
    took = prove(folder / "last", 2)
    print(f"  bare migration {bare:.1f}s; proof {took:.1f}s, {took / bare:.3f} of it; target <= {SHARE:g}", flush=True)


def main() -> None:
    given = options(__doc__, only="")
    environment = environments.ensure(TARGET)
    with inside(given.folder) as text:
        folder = Path(text)
        if given.only in ("", "sqlite"):
            before, after = folder / "before.db", folder / "after.db"
            apart(lambda: make_store.sqlite_store(before, given.scale))
            shutil.copyfile(before, after)
            bare = migrated(environment, f"sqlite:///{after}", folder)
            measure(f"Proof of SQLite, scale {given.scale:g}", before, after, bare, folder, given.repeat)
        if given.only in ("", "mariadb"):
            with server(folder) as (root, reached):
                one, other = root.using("one"), root.using("other")
                apart(lambda: make_store.mariadb_store(one, given.scale))
                dump, load = program("mariadb-dump", root, "one"), program("mariadb", root, "other")
                new = f"{program('mariadb', root)} -e 'CREATE DATABASE other CHARACTER SET utf8mb4'"
                subprocess.run(["bash", "-euo", "pipefail", "-c", f"{new}; {dump} | {load}"], check=True)
                bare = migrated(environment, zenml_url(reached.using("other")), folder)
                measure(f"Proof of MariaDB, scale {given.scale:g}", one, other, bare, folder, given.repeat)


if __name__ == "__main__":
    main()
