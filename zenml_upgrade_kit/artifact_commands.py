"""The subcommands of ``zenml-upgrade`` for artifacts: those that will not load, rescued."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zenml_upgrade_kit import words
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.terminal import tell

if TYPE_CHECKING:
    from zenml_upgrade_kit.artifacts.rescue import Rescue


def rescue(given: argparse.Namespace) -> int:
    """Save artifacts again in version-agnostic formats. 1: not all of them could be."""
    from zenml_upgrade_kit.artifacts import rescue as rescues

    run = Run.open(Path(given.run))
    if given.apply:
        tell(f"looking at production's store, {run.plan.store}")
        done = rescues.apply(run, given.artifact, yes=given.yes)
    else:
        tell(f"loading with ZenML {run.source_version}, reading back with {run.target_version}")
        options = {"to": given.to, "keep": given.yes, "as_version": given.as_version}
        done = rescues.rescue(run, given.artifact, **options)
    for one in done:
        for line in _told(one, run, given):
            print(run.redactor.text(line))
    if not done:
        print("nothing to rescue: no artifact version of this run fails or differs")
        return 0
    if not given.yes:
        print("\nNothing was kept or saved. To do it: the same with --yes")
    well = [one for one in done if not one.problem and one.outcome in rescues.WELL]
    print(f"{len(well)} of {words.count(len(done), 'artifact version')} as before in ZenML {run.target_version}")
    return 0 if len(well) == len(done) else 1


def _told(one: Rescue, run: Run, given: argparse.Namespace) -> list[str]:
    """An artifact version in lines: first what it is written as, then where it is and what reads it."""
    if not one.sidecar:
        return [f"{words.mark('fails')} {one.label}: {one.problem}"]
    would = "" if given.yes else "would be "
    lines = [f"{words.mark(one.outcome)} {one.label}: {one.sidecar['format']}"]
    lines[0] += f", read by ZenML {run.target_version}" + (f": {one.difference}" if one.difference else "")
    if given.yes or given.apply:
        lines.append(f"file: {one.sidecar['folder']}/{one.sidecar['file']}")
    if one.copy:
        lines.append(f"new version {one.copy['version']} on the copy: {one.copy['outcome']} {one.copy['difference']}")
    if one.production:
        lines.append(f"in production: version {one.production['version']} ({one.production['id']})")
    elif given.apply and not one.problem:
        lines.append(f"{would}saved in production as a new version of {one.name}")
    lines += [f"problem: {one.problem}"] if one.problem else []
    return [lines[0], *(f"    {line}".rstrip() for line in lines[1:])]


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand; ``command`` makes one from its name, its verb and its help."""
    one = command("rescue", rescue, "Save artifacts that fail or differ again, in formats that every version reads.")
    one.add_argument("run", metavar="RUN", help="folder of the run")
    one.add_argument(
        "--artifact", metavar="ID", action="append", default=[], help="an artifact version (all that fail or differ)"
    )
    one.add_argument("--to", metavar="DIR", type=Path, help="where the files go (rescued in the run's folder)")
    one.add_argument(
        "--as-version", action="store_true", help="save them as new artifact versions, too, on a copy of the database"
    )
    one.add_argument("--yes", action="store_true", help="do it; without this, only say what would be done")
    one.add_argument(
        "--apply", action="store_true", help="save in production, with the old release, what worked on the copy"
    )
