"""Runs as the rehearsal of the migration leaves them, for tests of the steps after it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import backup
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.rehearsal import copies, migration
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores.address import Server


def rehearsed(run: Run, target: Environment | None = None) -> tuple[Path | Server, Path | Server]:
    """The copies ``before`` and ``migrated`` of a new backup; nothing is migrated without a target."""
    made = run.begin("20_backup")
    made.finish(backup.back_up(made))
    step = run.begin("30_rehearsal")
    with copies.site(step, backup.of_run(run), run.plan.rehearsal) as site:
        before, _ = site.restore("before")
        migrated, _ = site.restore("migrated")
        if target:
            told = copies.variables(migrated, target.version)
            hop = migration.migrate(target, migrated, folder=step.work / "hop", variables=told, timeout=600)
            assert not hop.error, hop.error
        step.finish(step.result((), {"copies": site.state()}))
    return before, migrated


def kill_when(command: Sequence[str], folder: Path, pattern: str, **surroundings: Any) -> None:
    """Start a program and kill it, and all that it started, as soon as there is such a path in a folder."""
    program = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, **surroundings)
    until = time.monotonic() + 600
    try:
        while not _appeared(folder, pattern):
            assert program.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(program.pid, signal.SIGKILL)
        program.wait()


def _appeared(folder: Path, pattern: str) -> bool:
    with suppress(FileNotFoundError):  # up to Python 3.12 glob ends so when a folder goes that it is about to read
        return any(folder.glob(pattern))
    return False
