"""The decision: GO, GO WITH WARNINGS or NO-GO, from what the earlier steps left behind."""

from __future__ import annotations

from collections.abc import Mapping

from zenml_upgrade_kit import preflight, stores
from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult, Verdict
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import REHEARSAL, Run, Step
from zenml_upgrade_kit.stores import locate


def decide(step: Step) -> StepResult:
    """The verdict and its reasons; also written to ``verdict.json``. A missing or crashed step is NO-GO.

    facts: ``verdict``, ``reasons``, ``steps``; ``removed``: what became of the copies, in sentences; ``kept``: why
    they stay, "" when they do not.
    """
    run = step.run
    results = {name: run.result(name) for name in REHEARSAL[:-1]}
    changed, not_compared = _source(run, results["00_start"])
    removed, kept, left = _copies(step, results)
    findings = [*_steps(results), *changed, *left]
    not_checked = [
        f"{name}: {sentence}" for name, result in results.items() if result for sentence in result.not_checked
    ]
    not_checked += not_compared
    warnings = [
        f"{name}: {finding.id} {finding.subject}: {finding.message}"
        for name, result in results.items()
        for finding in (result.findings if result else ())
        if finding.severity is Severity.WARN
    ]
    own = {severity: [f.message for f in findings if f.severity is severity] for severity in Severity}
    if own[Severity.BLOCK]:
        verdict, reasons = Verdict.NO_GO, own[Severity.BLOCK]
    elif warnings or not_checked or own[Severity.WARN]:
        verdict = Verdict.GO_WITH_WARNINGS
        reasons = [*own[Severity.WARN], *warnings, *(f"not checked: {sentence}" for sentence in not_checked)]
    else:
        verdict, reasons = Verdict.GO, ["every step passed on a copy of this store"]
    run.write_json(
        "verdict.json",
        {
            "verdict": verdict.value,
            "source_version": run.source_version,
            "target_version": run.target_version,
            "reasons": reasons,
        },
    )
    rows = [
        {
            "step": name,
            "status": result.status.value if result else "missing",
            "findings": len(result.findings) if result else 0,
            "seconds": result.seconds if result else None,
        }
        for name, result in results.items()
    ]
    facts = {"verdict": verdict.value, "reasons": reasons, "steps": rows, "removed": removed, "kept": kept}
    return step.result(findings, facts, not_checked)


def _steps(results: dict[str, StepResult | None]) -> list[Finding]:
    """A blocking finding for each step that blocked, could not be carried out, or is missing."""
    findings = []
    for name, result in results.items():
        if result is None:
            identity, message = "ST901", f"{name} was not carried out"
        elif result.status is Status.ERROR:
            identity, message = "ST902", f"{name} could not be carried out: {result.facts.get('error', '')}".strip()
        elif result.status is Status.BLOCK:
            first, *others = [f for f in result.findings if f.severity is Severity.BLOCK]
            more = f" (and {len(others)} more)" if others else ""
            identity, message = "ST903", f"{name}: {first.id} {first.subject}: {first.message}{more}"
        else:
            continue
        findings.append(
            Finding(
                id=identity,
                severity=Severity.BLOCK,
                subject=name,
                message=message,
                remedy="Follow the remedy of the finding, then rehearse again."
                if identity == "ST903"
                else f"Run {name}.",
            )
        )
    return findings


def _source(run: Run, start: StepResult | None) -> tuple[list[Finding], list[str]]:
    """Whether the source is what it was when the run started; in a sentence, why that cannot be told."""
    if start is None or start.status is Status.ERROR:
        return [], []
    was = preflight.source_identity(run)
    try:
        store = locate(run.plan.store)
        if stores.identity(store.database) == was:
            return [], []
    except KitError as error:
        return [], [f"whether the source changed: {error.problem} ({error.found})"]
    finding = Finding(
        id="OP805",
        severity=Severity.WARN,
        subject=str(store.file or store.url),
        message="The source changed during the rehearsal. The kit opens it read-only: something else wrote to it.",
        remedy="Back up again before the upgrade, or accept the loss of these writes on a rollback.",
    )
    return [finding], []


def _copies(step: Step, results: Mapping[str, StepResult | None]) -> tuple[list[str], str, list[Finding]]:
    """Remove the copies of the rehearsal: what was removed, why they stay instead, and that they could not be removed.

    They stay for steps that need them and can still be carried out: nobody wants to migrate again for these.
    """
    migrated = results["30_rehearsal"]
    if step.plan.rehearsal.keep_copy or (migrated and migrated.facts.get("keep_copy")):
        return [], "as keep_copy says", []
    if migrated and migrated.status not in (Status.ERROR, Status.BLOCK):
        for name in ("40_artifacts", "50_smoke_runs"):
            result = results[name]
            if result is None or result.status is Status.ERROR:
                return [], f"{name} needs them when it is carried out", []
    try:
        return copies.end(step.run), "", []
    except KitError as error:
        finding = Finding(
            id="ST904",
            severity=Severity.WARN,
            subject="copies of the rehearsal",
            message=f"They could not be removed: {error.problem} ({error.found}).",
            remedy=f"Remove them: zenml-upgrade copies {step.run.folder}",
        )
        return [], "they could not be removed", [finding]
