"""The subcommands of ``zenml-upgrade`` for backups: made, listed, tried, restored, forgotten, scheduled."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from zenml_upgrade_kit import plan as plans
from zenml_upgrade_kit import words
from zenml_upgrade_kit.findings import Status, StepResult
from zenml_upgrade_kit.terminal import STORE, choose_format, print_findings, tell

KEEP = ("last", "daily", "weekly", "monthly")
PLACES = "a folder, s3://, gs:// or az://"


def backup(given: argparse.Namespace) -> int:
    """Make a backup: a run of 20_backup alone, archived like every run."""
    from zenml_upgrade_kit import backup as backups
    from zenml_upgrade_kit import report, workbook

    chosen = ("place", "tool", "with_artifacts", "encrypt_to", "drill", "server", "identity", "managed", "snapshot")
    keep = {word: number for word in KEEP if (number := getattr(given, f"keep_{word}"))}
    choices = {name: value for name in chosen if (value := getattr(given, name))} | ({"keep": keep} if keep else {})
    values = {"store": given.store, "code": given.code, "out": given.out}
    plan = plans.make({**values, **({"backup": choices} if choices else {})}, origin="the command line")
    run = backups.start(plan)
    tell(f"backing up, run {run.folder}")
    result = workbook.carry_out(run, "20_backup")
    page = report.write(run)
    if given.format == "json":
        print(json.dumps({"run": str(run.folder), "report": str(page), **result.to_json()}, default=str))
    else:
        _print_backup(result)
        print(f"report: {page}")
    if result.status is Status.ERROR:
        tell(f"zenml-upgrade: {result.facts['error']}")
    return 2 if result.status is Status.ERROR else 1 if result.status is Status.BLOCK else 0


def verify(given: argparse.Namespace) -> int:
    """Hash the files of a backup again; with ``--restore``, restore it where it disturbs nobody."""
    from zenml_upgrade_kit import archive, drill

    backup = archive.open_backup(given.backup)
    problems = archive.verify(backup)
    print(f"{backup.where}: {_all_or(problems, 'every file is as its manifest says')}")
    if given.restore and not problems:
        server = drill.server_at(given.server) if given.server else None
        done = drill.drill(backup, server=server, identity=given.identity)
        if done.not_checked:
            tell(f"zenml-upgrade: the drill was not possible: {done.not_checked}")
            return 2
        problems = list(done.problems)
        same = f"every table is as its manifest says; restored and compared in {done.seconds:.1f} s"
        print(f"restored into {done.into}: {_all_or(problems, same)}")
    return 1 if problems else 0


def restore(given: argparse.Namespace) -> int:
    """Put a backup into a database."""
    from zenml_upgrade_kit import archive
    from zenml_upgrade_kit import restore as restoring

    backup = archive.open_backup(given.backup)
    tell(f"restoring {backup.where}, made {words.when(backup.manifest['started'])}")
    done = restoring.restore(
        backup, given.into, replace=given.replace, config=given.with_config, identity=given.identity
    )
    for action in done.actions:
        print(f"done: {action}")
    for note in done.notes:
        print(f"note: {note}")
    for kept in done.kept:
        print(f"kept: {kept}")
    print(f"\nRestored in {done.seconds:.1f} s. Go on with ZenML {done.opens_with}: a newer one migrates the database.")
    return 0


def backups(given: argparse.Namespace) -> int:
    """List the backups of a place."""
    from zenml_upgrade_kit import archive, places, show

    whole, unusable = archive.backups(places.open_place(given.place))
    rows = [show.backup_row(one) for one in whole]
    if given.format == "json":
        print(json.dumps({"backups": rows, "unusable": [error.problem for error in unusable]}, indent=1, default=str))
    else:
        print(show.backups(rows, f"Backups in {given.place}").text)
        for error in unusable:
            print(f"✗ {error.problem}: {error.found}")
    return 0


def forget(given: argparse.Namespace) -> int:
    """Remove the backups that no rule keeps."""
    from zenml_upgrade_kit import places, retention

    place = places.open_place(given.place)
    policy = retention.Policy(**{f"keep_{word}": getattr(given, f"keep_{word}") or 0 for word in KEEP})
    for choice in retention.forget(place, policy, apply=given.yes):
        done = "keep  " if choice.keep else "removed" if given.yes else "would remove"
        print(f"{done} {choice.backup.name}  {', '.join(choice.reasons)}")
    if not given.yes:
        print("\nNothing was removed. To remove: the same with --yes")
    return 0


def schedule(given: argparse.Namespace) -> int:
    """Print or install the job that makes backups every day."""
    from zenml_upgrade_kit import schedule as jobs

    command = ["zenml-upgrade", "backup", "--store", given.store, "--place", given.place, "--out", given.out or "runs"]
    command += [part for word in KEEP if (n := getattr(given, f"keep_{word}")) for part in (f"--keep-{word}", str(n))]
    command += [part for one in given.encrypt_to for part in ("--encrypt-to", one)]
    for option in ("--tool", "--with-artifacts", "--drill", "--server", "--managed", "--snapshot"):
        value = getattr(given, option[2:].replace("-", "_"))
        command += [option, *([] if value is True else [value])] if value else []
    stores = [url.removeprefix("env:") for url in (given.store, given.server or "") if url.startswith("env:")]
    job = jobs.Job(command=tuple(command), at=given.at, variables=(*stores, *given.variable))
    if given.install:
        for line in jobs.install(given.kind, job):
            print(line)
        return 0
    for name, text in jobs.render(given.kind, job).items():
        print(f"# {name}\n{text}")
    return 0


def _all_or(problems: Sequence[str], well: str) -> str:
    return "\n  ".join([words.count(len(problems), "problem"), *problems]) if problems else well


def _print_backup(result: StepResult) -> None:
    print_findings(result.findings)
    for sentence in result.not_checked:
        print(f"? not checked: {sentence}")
    manifest = result.facts.get("manifest")
    if manifest:
        rows = sum(table["rows"] or 0 for table in manifest["tables"].values())
        size = words.size(sum(file["bytes"] for file in manifest["files"]))
        print(f"{result.facts['where']}: {words.count(rows, 'row')} of {manifest['source']}, {size}")
        print(f"made with {manifest['tool']} in {words.duration(result.seconds)}")
        if result.facts["verified"]["restored"]:
            seconds = result.facts["verified"]["restore_seconds"]
            print(f"drill: restored into {result.facts['verified']['restored_into']} in {words.duration(seconds)}")
    for line in result.facts.get("removed", ()):
        print(f"removed: {line}")


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the subcommands; ``command`` makes one from its name, its verb and its help."""
    one = command("backup", backup, "Back up the metadata database, while it is in use, and prove the copy.")
    one.add_argument("--store", metavar="S", help=STORE)
    one.add_argument("--place", metavar="P", help=f"where backups are kept: {PLACES} (backups)")
    one.add_argument("--code", metavar="DIR", help="code directory, whose .zen folder is included")
    one.add_argument("--identity", metavar="FILE", type=Path, help="your age key, for the drill of an encrypted backup")
    _options_of_backups(one)
    choose_format(one, "text", "json")

    one = command("verify", verify, "Hash the files of a backup again and compare them with its manifest.")
    one.add_argument("backup", metavar="BACKUP", help="folder or URL of a backup, or a place, meaning its newest")
    one.add_argument(
        "--restore", action="store_true", help="restore it into a scratch database and compare every table"
    )
    one.add_argument("--server", metavar="S", help="MySQL for the drill: env:NAME (default: a private MariaDB)")
    one.add_argument("--identity", metavar="FILE", type=Path, help="your age key, for an encrypted backup")

    one = command("restore", restore, "Put a backup into a database: restored beside it, verified, then switched to.")
    one.add_argument("backup", metavar="BACKUP", help="folder or URL of a backup, or a place, meaning its newest")
    one.add_argument("--into", metavar="S", required=True, help=STORE.partition(" (")[0])
    one.add_argument(
        "--replace", action="store_true", help="although the target holds something: it is backed up first"
    )
    one.add_argument("--with-config", action="store_true", help="put config.yaml back as well")
    one.add_argument("--identity", metavar="FILE", type=Path, help="your age key, for an encrypted backup")

    one = command("backups", backups, "List backups: age, size, release, verified or not.")
    one.add_argument("place", nargs="?", default="backups", metavar="PLACE", help=f"{PLACES} (backups)")
    choose_format(one, "text", "json")

    one = command("forget", forget, "Remove backups that no rule keeps; never the last verified one.")
    one.add_argument("place", nargs="?", default="backups", metavar="PLACE", help=f"{PLACES} (backups)")
    _keep(one)
    one.add_argument("--yes", action="store_true", help="do it; without this, only say what would be done")

    one = command("schedule", schedule, "Print the job that makes a backup every day, or install it.")
    one.add_argument("kind", choices=("cron", "systemd", "kubernetes", "github"), help="what runs it")
    one.add_argument(
        "--store", metavar="S", required=True, help="env:NAME, the variable with its URL, or a SQLite store"
    )
    one.add_argument("--place", metavar="P", required=True, help=f"where backups are kept: {PLACES}")
    one.add_argument("--at", metavar="HH:MM", default="02:30", help="when (02:30)")
    one.add_argument("--variable", metavar="NAME", action="append", default=[], help="another variable the job needs")
    _options_of_backups(one)
    one.add_argument("--install", action="store_true", help="install it; without this, it is only printed")


def _options_of_backups(parser: argparse.ArgumentParser) -> None:
    tools = ("mydumper", "mariadb-dump", "mysqldump")
    parser.add_argument("--tool", choices=tools, help="for MySQL (the best installed)")
    parser.add_argument("--with-artifacts", action="store_true", help="include the files of local artifact stores")
    parser.add_argument(
        "--encrypt-to", metavar="AGE", action="append", default=[], help="age recipient; may be repeated"
    )
    parser.add_argument("--drill", action="store_true", help="restore it into a scratch database and compare")
    parser.add_argument("--server", metavar="env:NAME", help="URL of another server, for the drill")
    clouds = "aws:REGION/INSTANCE, gcp:PROJECT/INSTANCE, azure:SUB/GROUP/SERVER"
    parser.add_argument("--managed", metavar="M", help=f"{clouds}, if the host does not tell")
    parser.add_argument(
        "--snapshot", action="store_true", help="have the provider take a snapshot, too, and wait for it"
    )
    parser.add_argument("--out", metavar="DIR", help="where reports are archived (runs)")
    _keep(parser)


def _keep(parser: argparse.ArgumentParser) -> None:
    meant = {"last": "the last N backups", "daily": "the newest backup of each of the last N days"}
    meant |= {"weekly": "the same for N weeks", "monthly": "the same for N months"}
    for word in KEEP:
        parser.add_argument(f"--keep-{word}", metavar="N", type=int, help=f"keep {meant[word]}")
