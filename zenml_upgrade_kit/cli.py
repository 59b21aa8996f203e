"""The ``zenml-upgrade`` command: thin; every subcommand is one verb."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from zenml_upgrade_kit import __version__, words
from zenml_upgrade_kit import plan as plans
from zenml_upgrade_kit.errors import BadPlan, KitError
from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult, Verdict
from zenml_upgrade_kit.redact import Redactor, secrets_of_environment
from zenml_upgrade_kit.runs import Run

GLYPHS = {Severity.BLOCK: "✗ block", Severity.WARN: "! warn", Severity.INFO: "i info"}
KEEP = ("last", "daily", "weekly", "monthly")
STORE = (
    "sqlite:////abs/zenml.db, mysql://user@host/db, a ZenML config directory, or env:NAME"
    " (default: your own ZenML configuration)"
)
PLACES = "a folder, s3://, gs:// or az://"
CHOICES = ("store", "to", "code", "requirements", "source_python", "target_python", "out")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand. 0: GO, warnings included; 1: NO-GO; 2: the kit could not do its work."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        getattr(stream, "reconfigure", lambda **_: None)(errors="replace")  # a terminal without ✗ still gets the words
    try:
        return int(given.verb(given))
    except KitError as error:
        message = Redactor(secrets_of_environment()).text(str(error))
        tell(f"zenml-upgrade: {message}")
        if getattr(given, "format", "") == "json":
            print(json.dumps({"error": message}))
        return 2
    except KeyboardInterrupt:
        tell("zenml-upgrade: interrupted; nothing is lost. Continue with: zenml-upgrade rehearse --resume RUN")
        return 130


def tell(text: str) -> None:
    """Progress and messages go to stderr: stdout belongs to the answer."""
    print(text, file=sys.stderr, flush=True)


def demo(given: argparse.Namespace) -> int:
    """Build a sample deployment with an old release and rehearse its upgrade."""
    from zenml_upgrade_kit import demo as sample
    from zenml_upgrade_kit import preflight

    preflight.target_release(plans.Plan(to=given.to))  # an unknown target is told before a minute of building
    values = sample.build(Path(given.out or "runs"), version=given.source, log=tell)
    return _rehearse(plans.make({**values, "to": given.to, "out": given.out}, origin="the demo"), given)


def rehearse(given: argparse.Namespace) -> int:
    """Prove the upgrade on a copy."""
    if given.resume:
        if given.plan or any(getattr(given, name) for name in CHOICES):
            raise BadPlan(
                "--resume cannot be combined with a plan",
                expected="--resume RUN alone: the run remembers its plan",
                found="a plan, or options that change it",
                remedy="leave them out, or start a new run without --resume",
            )
        return _carry_on(Run.open(Path(given.resume)), given)
    return _rehearse(_plan(given), given)


def check(given: argparse.Namespace) -> int:
    """Look for known obstacles, read-only, in seconds."""
    from zenml_upgrade_kit import preflight, report

    result = preflight.check(_plan(given))
    if given.format == "json":
        print(json.dumps(result.to_json(), indent=1, default=str))
    elif given.format == "text":
        _print_check(result)
    else:
        print({"junit": report.junit, "markdown": report.markdown}[given.format](result))
    return 1 if result.status is Status.BLOCK else 2 if result.status is Status.ERROR else 0


def init(given: argparse.Namespace) -> int:
    """Write a commented plan."""
    plans.write_template(Path(given.plan))
    print(f"{given.plan} written. Fill it in, then: zenml-upgrade rehearse {given.plan}")
    return 0


def report_again(given: argparse.Namespace) -> int:
    """Write the pages of a run again."""
    from zenml_upgrade_kit import report

    print(report.write(Run.open(Path(given.run))))
    return 0


def rollback(given: argparse.Namespace) -> int:
    """Restore the backup of a run."""
    from zenml_upgrade_kit import report, workbook

    run = Run.open(Path(given.run))
    result = workbook.carry_out(run, "90_rollback", {"apply": given.yes})
    report.write(run)
    _print_findings(result.findings)
    if result.status is Status.ERROR:
        tell(f"zenml-upgrade: {result.facts['error']}")
        return 2
    for action in result.facts["actions"]:
        print(f"{'done' if given.yes else 'would'}: {action}")
    for kept in result.facts.get("kept", ()):
        print(f"kept: {kept}")
    if not given.yes:
        print(f"\nNothing was changed. To restore: zenml-upgrade rollback {given.run} --yes")
    elif result.status is not Status.BLOCK:
        print(f"\nRestored. Go on with ZenML {run.source_version}: a newer one migrates the store when it opens it.")
    print(f"report: {run.folder / '90_rollback.html'}")
    return 1 if result.status is Status.BLOCK else 0


def backup(given: argparse.Namespace) -> int:
    """Make a backup: a run of 20_backup alone, archived like every run."""
    from zenml_upgrade_kit import backup as backups
    from zenml_upgrade_kit import report, workbook

    chosen = ("place", "tool", "with_artifacts", "encrypt_to", "drill", "server", "managed", "snapshot")
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
    from zenml_upgrade_kit import archive, drill, stores

    backup = archive.open_backup(given.backup)
    problems = archive.verify(backup)
    print(f"{backup.where}: {_all_or(problems, 'every file is as its manifest says')}")
    if given.restore and not problems:
        server = stores.locate(given.server).server if given.server else None
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

    command = ["zenml-upgrade", "backup", "--store", given.store, "--place", given.place]
    command += ["--out", given.out] if given.out else []
    command += [part for word in KEEP if (n := getattr(given, f"keep_{word}")) for part in (f"--keep-{word}", str(n))]
    command += [part for one in given.encrypt_to for part in ("--encrypt-to", one)]
    command += ["--drill"] if given.drill else []
    store = [given.store.removeprefix("env:")] if given.store.startswith("env:") else []
    job = jobs.Job(command=tuple(command), at=given.at, variables=(*store, *given.variable))
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
    _print_findings(result.findings)
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


def _plan(given: argparse.Namespace) -> plans.Plan:
    values = {name: getattr(given, name, None) for name in CHOICES}
    plan = getattr(given, "plan", None)
    return plans.read(Path(plan), values) if plan else plans.make(values, origin="the command line")


def _rehearse(plan: plans.Plan, given: argparse.Namespace) -> int:
    from zenml_upgrade_kit import preflight

    return _carry_on(preflight.start(plan), given)


def _carry_on(run: Run, given: argparse.Namespace) -> int:
    from zenml_upgrade_kit import report, workbook

    tell(f"{run.source_version} -> {run.target_version}, run {run.folder}")
    try:
        results = workbook.rehearse(run, keep_going=getattr(given, "keep_going", False), tell=tell)
    finally:
        page = report.write(run)
    verdict = run.verdict() or Verdict.NO_GO
    if given.format == "json":
        print(json.dumps({"run": str(run.folder), "verdict": verdict.value, "report": str(page)}))
    else:
        _print_run(run, verdict, results, page)
    errors = [result for result in results if result.status is Status.ERROR]
    for result in errors:
        tell(f"zenml-upgrade: {result.step} could not be carried out: {result.facts['error']}")
    return 2 if errors else 1 if verdict is Verdict.NO_GO else 0


def _print_run(run: Run, verdict: Verdict, results: Sequence[StepResult], page: Path) -> None:
    print(f"\n{verdict.words}: ZenML {run.source_version} -> {run.target_version}\n")
    for result in results:
        print(f"  {result.step:<14} {result.status.value:<12} {result.seconds:7.1f} s")
    print()
    reasons = json.loads((run.folder / "verdict.json").read_text(encoding="utf-8"))["reasons"] if run.verdict() else []
    for reason in reasons[:10]:
        print(f"  {reason}")
    if len(reasons) > 10:
        print(f"  … and {len(reasons) - 10} more in the report")
    print(f"\nreport: {page}")


def _print_check(result: StepResult) -> None:
    facts = result.facts
    print(f"{facts['store']['path']}: ZenML {facts['source_version'] or 'unknown'} -> {facts['target_version']}\n")
    _print_findings(result.findings)
    for sentence in result.not_checked:
        print(f"? not checked: {sentence}")
    outcomes = Counter(row["outcome"].replace("_", " ") for row in facts["checks"])
    severities = Counter(finding.severity.value for finding in result.findings)
    print(f"{len(facts['checks'])} checks: {', '.join(f'{count} {name}' for name, count in outcomes.items())}")
    print(f"findings: {', '.join(f'{severities[one.value]} {one.value}' for one in Severity)}")


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        print(f"{GLYPHS[finding.severity]} {finding.id} {finding.subject}\n    {finding.message}")
        if finding.remedy:
            print(f"    do this: {finding.remedy}")


def _terminated(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="zenml-upgrade",
        description="Prove a ZenML upgrade on a copy before production is touched.",
        epilog="Exit codes: 0 GO (warnings included), 1 NO-GO, 2 the kit could not do its work.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    verbs = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, verb: Any, text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(verb=verb)
        return added

    one = command("demo", demo, "Build a sample deployment with an old ZenML release and rehearse its upgrade.")
    one.add_argument(
        "--from", dest="source", default="", metavar="V", help="release of the sample, 0.43.0 or later (0.70.0)"
    )
    one.add_argument("--to", default="", metavar="V", help="release to upgrade to (the one installed beside the kit)")
    one.add_argument("--out", default="", metavar="DIR", help="where the sample and the run are kept (runs)")
    _format(one, "text", "json")

    one = command("rehearse", rehearse, "Prove the upgrade of a deployment on a copy and leave a report.")
    one.add_argument("plan", nargs="?", metavar="PLAN", help="plan in YAML, as written by: zenml-upgrade init")
    _store(one)
    one.add_argument(
        "--requirements", metavar="FILE", help="your requirements (default: versions that the store recorded)"
    )
    one.add_argument("--source-python", metavar="P", help="interpreter that has the old ZenML (default: one is built)")
    one.add_argument("--target-python", metavar="P", help="interpreter that has the new ZenML (default: one is built)")
    one.add_argument("--out", metavar="DIR", help="where runs are archived (runs)")
    one.add_argument("--keep-going", action="store_true", help="carry out the later steps although one blocks")
    one.add_argument("--resume", metavar="RUN", help="continue a run that was killed or stopped")
    _format(one, "text", "json")

    one = command("check", check, "Look for known obstacles: read-only, in seconds.")
    _store(one)
    _format(one, "text", "json", "junit", "markdown")

    one = command("init", init, "Write a commented plan.")
    one.add_argument("plan", nargs="?", default="plan.yaml", metavar="PLAN", help="the file to write (plan.yaml)")

    one = command("report", report_again, "Write the pages of a run again.")
    one.add_argument("run", metavar="RUN", help="folder of the run")

    one = command("rollback", rollback, "Restore the database and config.yaml from the backup of a run.")
    one.add_argument("run", metavar="RUN", help="folder of the run")
    one.add_argument("--yes", action="store_true", help="do it; without this, only say what would be done")

    one = command("backup", backup, "Back up the metadata database, while it is in use, and prove the copy.")
    one.add_argument("--store", metavar="S", help=STORE)
    one.add_argument("--place", metavar="P", help=f"where backups are kept: {PLACES} (backups)")
    one.add_argument("--tool", choices=("mydumper", "mariadb-dump", "mysqldump"), help="for MySQL (the best installed)")
    one.add_argument("--code", metavar="DIR", help="code directory, whose .zen folder is included")
    one.add_argument("--with-artifacts", action="store_true", help="include the files of local artifact stores")
    _options_of_backups(one)
    one.add_argument("--server", metavar="env:NAME", help="URL of another server, for the drill")
    one.add_argument("--managed", metavar="M", help="aws:REGION/INSTANCE, gcp:PROJECT/INSTANCE, azure:SUB/GROUP/SERVER")
    one.add_argument("--snapshot", action="store_true", help="have the provider take a snapshot, too, and wait for it")
    _format(one, "text", "json")

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
    _format(one, "text", "json")

    one = command("forget", forget, "Remove backups that no rule keeps; never the last verified one.")
    one.add_argument("place", nargs="?", default="backups", metavar="PLACE", help=f"{PLACES} (backups)")
    _keep(one)
    one.add_argument("--yes", action="store_true", help="do it; without this, only say what would be done")

    one = command("schedule", schedule, "Print the job that makes a backup every day, or install it.")
    one.add_argument("kind", choices=("cron", "systemd", "kubernetes", "github"), help="what runs it")
    one.add_argument("--store", metavar="env:NAME", required=True, help="the variable that holds the store's URL")
    one.add_argument("--place", metavar="P", required=True, help=f"where backups are kept: {PLACES}")
    one.add_argument("--at", metavar="HH:MM", default="02:30", help="when (02:30)")
    one.add_argument("--variable", metavar="NAME", action="append", default=[], help="another variable the job needs")
    _options_of_backups(one)
    one.add_argument("--install", action="store_true", help="install it; without this, it is only printed")
    return parser


def _options_of_backups(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--encrypt-to", metavar="AGE", action="append", default=[], help="age recipient; may be repeated"
    )
    parser.add_argument("--drill", action="store_true", help="restore it into a scratch database and compare")
    parser.add_argument("--out", metavar="DIR", help="where reports are archived (runs)")
    _keep(parser)


def _keep(parser: argparse.ArgumentParser) -> None:
    meant = {
        "last": "the last N",
        "daily": "one for each of the last N days",
        "weekly": "… weeks",
        "monthly": "… months",
    }
    for word in KEEP:
        parser.add_argument(f"--keep-{word}", metavar="N", type=int, help=f"keep {meant[word]} backups")


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="S",
        help=STORE,
    )
    parser.add_argument("--to", metavar="V", help="release to upgrade to (default: the one installed beside the kit)")
    parser.add_argument("--code", metavar="DIR", help="directory with your pipelines")


def _format(parser: argparse.ArgumentParser, *formats: str) -> None:
    parser.add_argument("--format", choices=formats, default=formats[0], help=f"what stdout holds ({formats[0]})")
