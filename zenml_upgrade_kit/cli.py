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

from zenml_upgrade_kit import __version__, artifact_commands, backup_commands, copy_commands
from zenml_upgrade_kit import plan as plans
from zenml_upgrade_kit.errors import BadPlan, KitError
from zenml_upgrade_kit.findings import Severity, Status, StepResult, Verdict
from zenml_upgrade_kit.redact import Redactor, secrets_of_environment
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.terminal import STORE, choose_format, print_findings, tell

CHOICES = ("store", "to", "code", "requirements", "target_requirements", "source_python", "target_python", "out")
OF_ARTIFACTS = ("sample", "max_bytes", "max_total_bytes", "scheduler")
OF_REHEARSAL = ("via", "try_remedy", "keep_copy", "copies_on")


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
        tell(
            "zenml-upgrade: interrupted; nothing is lost. A rehearsal goes on with: zenml-upgrade rehearse --resume RUN"
        )
        return 130


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
        if given.plan or any(getattr(given, name) for name in (*CHOICES, *OF_ARTIFACTS, *OF_REHEARSAL)):
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
    print_findings(result.findings)
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


def _plan(given: argparse.Namespace) -> plans.Plan:
    values: dict[str, Any] = {name: getattr(given, name, None) for name in CHOICES}
    values["artifacts"] = {name: value for name in OF_ARTIFACTS if (value := getattr(given, name, None))}
    rehearsal = {name: value for name in OF_REHEARSAL if (value := getattr(given, name, None))}
    values["rehearsal"] = {{"copies_on": "server"}.get(name, name): value for name, value in rehearsal.items()}
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
    print_findings(result.findings)
    for sentence in result.not_checked:
        print(f"? not checked: {sentence}")
    outcomes = Counter(row["outcome"].replace("_", " ") for row in facts["checks"])
    severities = Counter(finding.severity.value for finding in result.findings)
    print(f"{len(facts['checks'])} checks: {', '.join(f'{count} {name}' for name, count in outcomes.items())}")
    print(f"findings: {', '.join(f'{severities[one.value]} {one.value}' for one in Severity)}")


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
    choose_format(one, "text", "json")

    one = command("rehearse", rehearse, "Prove the upgrade of a deployment on a copy and leave a report.")
    _of_rehearsal(one)

    one = command("check", check, "Look for known obstacles: read-only, in seconds.")
    _store(one)
    choose_format(one, "text", "json", "junit", "markdown")

    one = command("init", init, "Write a commented plan.")
    one.add_argument("plan", nargs="?", default="plan.yaml", metavar="PLAN", help="the file to write (plan.yaml)")

    one = command("report", report_again, "Write the pages of a run again.")
    one.add_argument("run", metavar="RUN", help="folder of the run")

    one = command("rollback", rollback, "Restore the database and config.yaml from the backup of a run.")
    one.add_argument("run", metavar="RUN", help="folder of the run")
    one.add_argument("--yes", action="store_true", help="do it; without this, only say what would be done")

    copy_commands.add(command)
    artifact_commands.add(command)
    backup_commands.add(command)
    return parser


def _of_rehearsal(one: argparse.ArgumentParser) -> None:
    one.add_argument("plan", nargs="?", metavar="PLAN", help="plan in YAML, as written by: zenml-upgrade init")
    _store(one)
    one.add_argument(
        "--requirements", metavar="FILE", help="your requirements (default: versions that the store recorded)"
    )
    one.add_argument(
        "--target-requirements", metavar="FILE", help="what will be beside the new release (default: the same)"
    )
    one.add_argument("--source-python", metavar="P", help="interpreter that has the old ZenML (default: one is built)")
    one.add_argument("--target-python", metavar="P", help="interpreter that has the new ZenML (default: one is built)")
    one.add_argument("--sample", type=int, metavar="N", help="load the newest N artifact versions of each type (all)")
    one.add_argument("--max-bytes", metavar="SIZE", help="load no artifact larger than this, as in 2GB (no limit)")
    one.add_argument("--max-total-bytes", metavar="SIZE", help="read no more than this from artifact stores (no limit)")
    one.add_argument("--scheduler", metavar="URL", help="Dask cluster with the new release's environment, tcp://…")
    one.add_argument("--via", action="append", metavar="V", help="release to stop at on the way; may be repeated")
    one.add_argument(
        "--try-remedy", action="append", metavar="ID", help="apply a finding's remedy to the copies first; never a GO"
    )
    one.add_argument("--copies-on", metavar="S", help="server for copies of a server's database, as env:NAME")
    one.add_argument("--keep-copy", action="store_true", help="leave the copies after the decision")
    one.add_argument("--out", metavar="DIR", help="where runs are archived (runs)")
    one.add_argument("--keep-going", action="store_true", help="carry out the later steps although one blocks")
    one.add_argument("--resume", metavar="RUN", help="continue a run that was killed or stopped")
    choose_format(one, "text", "json")


def _store(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="S",
        help=STORE,
    )
    parser.add_argument("--to", metavar="V", help="release to upgrade to (default: the one installed beside the kit)")
    parser.add_argument("--code", metavar="DIR", help="directory with your pipelines")
