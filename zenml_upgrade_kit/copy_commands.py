"""The subcommand of ``zenml-upgrade`` for copies: those of a rehearsal, and what is left over on a server."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.errors import BadPlan
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import scratch
from zenml_upgrade_kit.terminal import choose_format


def copies(given: argparse.Namespace) -> int:
    """List the copies of a run, or all schemas of the kit on a server; remove some."""
    if bool(given.run) == bool(given.store):
        raise BadPlan(
            "it is not clear whose copies are meant",
            expected="the folder of a run, or a server with --store env:NAME",
            found="both" if given.run else "neither",
            remedy="give exactly one of them",
        )
    return _of_run(given) if given.run else _of_server(given)


def _of_run(given: argparse.Namespace) -> int:
    from zenml_upgrade_kit.rehearsal import copies as all_copies

    run = Run.open(Path(given.run))
    done = all_copies.end(run, () if given.remove_all else given.remove) if given.remove_all or given.remove else []
    left = [{name: one[name] for name in ("name", "where", "state")} for one in all_copies.of_run(run)]
    return _tell(given, done, left, "This run has no copies.")


def _of_server(given: argparse.Namespace) -> int:
    from zenml_upgrade_kit import drill
    from zenml_upgrade_kit.rehearsal import copies as all_copies

    server = drill.server_at(given.store)
    names = dict.fromkeys(given.remove)
    if given.remove_all:  # a copy of a run that may go on takes its name
        names |= dict.fromkeys(one["name"] for one in all_copies.listed(server) if one["state"] == "left over")
    for name in names:
        scratch.remove(server, name)
    done = [f"removed the schema {name} on {server.using('').name}" for name in names]
    return _tell(given, done, all_copies.listed(server), f"No schema of the kit is on {server.using('').name}.")


def _tell(given: argparse.Namespace, done: list[str], left: list[dict[str, Any]], nothing: str) -> int:
    if given.format == "json":
        print(json.dumps({"removed": done, "copies": left}, indent=1, default=str))
        return 0
    for sentence in done:
        print(f"done: {sentence}")
    for one in left:
        print(_line(one))
    if not left:
        print(nothing)
    elif not given.remove_all:
        print("\nTo remove one: the same with --remove NAME; all that nobody uses: --remove-all")
    return 0


def _line(one: Mapping[str, Any]) -> str:
    if "where" in one:
        return f"{one['name']}  {one['state']}  {one['where']}"
    line = f"{one['name']}  {one['state']}"
    if one["created"]:
        line += f"  made for a {one['purpose']} by process {one['pid']} on {one['host']}, {one['created']}"
    return f"{line}, {one['run']}" if one["run"] else line


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommand; ``command`` makes one from its name, its verb and its help."""
    one = command("copies", copies, "List and remove copies of rehearsals, and what killed processes left on a server.")
    one.add_argument("run", nargs="?", default="", metavar="RUN", help="folder of the run")
    one.add_argument("--store", default="", metavar="env:NAME", help="a server: the kit's schemas of every run on it")
    one.add_argument("--remove", metavar="NAME", action="append", default=[], help="remove this one")
    one.add_argument(
        "--remove-all", action="store_true", help="remove all of the run; of a server, all that are left over"
    )
    choose_format(one, "text", "json")
