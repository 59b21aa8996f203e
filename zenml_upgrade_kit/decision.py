"""The decision: GO, GO WITH WARNINGS or NO-GO, from what the earlier steps left behind."""

from __future__ import annotations

from pathlib import Path

from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult, Verdict
from zenml_upgrade_kit.runs import REHEARSAL, Step
from zenml_upgrade_kit.stores import sqlite


def decide(step: Step) -> StepResult:
    """The verdict and its reasons; also written to ``verdict.json``. A missing or crashed step is NO-GO."""
    run = step.run
    results = {name: run.result(name) for name in REHEARSAL[:-1]}
    findings = [*_steps(results), *_source(results["00_start"])]
    not_checked = [
        f"{name}: {sentence}" for name, result in results.items() if result for sentence in result.not_checked
    ]
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
    return step.result(findings, {"verdict": verdict.value, "reasons": reasons, "steps": rows}, not_checked)


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


def _source(start: StepResult | None) -> list[Finding]:
    """Whether the source's bytes are what they were when the run started."""
    if start is None or "source_sha256" not in start.facts:
        return []
    path = Path(start.facts["store"]["path"])
    if path.exists() and sqlite.digest(path) == start.facts["source_sha256"]:
        return []
    return [
        Finding(
            id="OP805",
            severity=Severity.WARN,
            subject=str(path),
            message="The source changed during the rehearsal. The kit opens it read-only: something else wrote to it.",
            remedy="Back up again before the upgrade, or accept the loss of these writes on a rollback.",
        )
    ]
