"""Results as steps leave them, full of names that nobody vetted."""

from collections.abc import Mapping, Sequence
from typing import Any

from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult

EVIL = "<script>alert(1)</script> | `x` \x1b[31mred\x1b[0m \x00 <img src=http://evil.example/a onerror=alert(2)>"
STARTED = "2026-11-23T01:02:03+00:00"


def finding(severity: Severity = Severity.WARN, identity: str = "DC104") -> Finding:
    """A finding whose every text is hostile."""
    return Finding(
        id=identity, severity=severity, subject=f"run {EVIL}", message=f"twice {EVIL}", remedy=f"rename {EVIL}",
        url="https://docs.zenml.io/upgrade",
    )  # fmt: skip


def start() -> StepResult:
    """00_start of a small store."""
    held = {
        "database_bytes": 1_421_312,
        "tables": {"pipeline": 2, "pipeline_run": 2000},
        "runs_by_status": {"completed": 5, EVIL: 1},
        "pipelines": [{"name": EVIL, "runs": 2, "last_run": "2024-05-02 10:11:12.5", "last_status": "failed"}],
        "artifacts_by_type": [{"materializer": "zenml.materializers.Built", "type": EVIL, "count": 4200}],
        "stacks": [{"name": EVIL, "components": [{"type": "orchestrator", "flavor": EVIL}]}],
        "users": [EVIL],
        "schedules": [],
        "libraries": {EVIL: "1.0"},
        "python_versions": {"3.11.7": 6},
    }
    store = {"path": f"/home/{EVIL}/zenml.db", "config_yaml": None}
    facts = {"store": store, "source_version": "0.55.5", "stamp": "0.55.5", "target_version": "0.98.0"}
    facts |= {"inventory": held, "source_identity": "ab" * 32}
    return StepResult(step="00_start", status=Status.PASS, facts=facts, started=STARTED, seconds=2.31)


def preflight(*severities: Severity) -> StepResult:
    """10_preflight with one finding of each given severity, and one check that could not run."""
    checks = [
        {"id": "DB001", "title": EVIL, "severity": "block", "outcome": "passed", "reason": ""},
        {"id": "DB004", "title": "Schema", "severity": "block", "outcome": "not_checked", "reason": EVIL},
        {"id": "DC104", "title": "Duplicates", "severity": "warn", "outcome": "found", "reason": "2 groups"},
    ]
    environment = {"version": "0.98.0", "python_version": "3.11.7", "packages": {EVIL: "1"}, "notes": [EVIL]}
    return StepResult(
        step="10_preflight",
        status=Status.BLOCK if Severity.BLOCK in severities else Status.WARN,
        findings=tuple(finding(severity, f"DC10{number}") for number, severity in enumerate(severities)),
        facts={"checks": checks, "environments": {"target": environment}, "not_checked": [f"DB004: {EVIL}"]},
        started=STARTED,
        seconds=41.2,
    )


def backup() -> StepResult:
    """20_backup as it should be."""
    file = {"name": "zenml.db.zst", "role": "database", "bytes": 4096, "original_bytes": 9999, "sha256": "cd" * 32}
    tables = {EVIL: {"rows": 3, "fingerprint": "ef" * 16, "bytes": 70_000}, "user": {"rows": 1, "fingerprint": None}}
    manifest = {
        "stamp": "0.55.5",
        "started": STARTED,
        "finished": STARTED,
        "source": EVIL,
        "tool": EVIL,
        "compared": EVIL,
        "files": [{**file, "restore_to": f"/home/{EVIL}/zenml.db"}],
        "tables": tables,
        "server": {"flavour": EVIL, "version": "10.11", "charset": "utf8mb4", "collation": "utf8mb4_general_ci"},
        "secrets": {"readable": 2, "encrypted": 1},
        "not_included": [EVIL],
    }
    verified = {"hashed": STARTED, "restored": STARTED, "restore_seconds": 12.5, "restored_into": EVIL, "problem": ""}
    managed = {"provider": "Amazon RDS", "instance": EVIL, "automated": True, "retention_days": 7, "console": EVIL}
    facts = {"where": EVIL, "manifest": manifest, "verified": verified, "managed": managed, "removed": [EVIL]}
    return StepResult(step="20_backup", status=Status.PASS, facts=facts, started=STARTED, seconds=0.4)


def rehearsal() -> StepResult:
    """30_rehearsal with one table of each outcome, a condition, a name that changed and a value nobody explains."""
    column = {
        "column": EVIL,
        "was": "workspace_id",
        "outcome": "renamed",
        "release": "0.80.0",
        "why": EVIL,
        "changed": 1,
    }
    tables = [of_table(EVIL, outcome, columns=[column]) for outcome in ("changed", "renamed", "added", "not_checked")]
    tables += [
        of_table("step_run", "unexplained"),
        of_table("role", "dropped", after=None),
        of_table("tag", "unchanged"),
    ]
    example = {"key": {"id": EVIL}, "before": EVIL, "after": None}
    proof = {
        "tables": tables,
        "unexplained": [
            {"table": "step_run", "column": "status", "kind": "differs", "count": 1, "examples": [example]},
            {"table": "step_run", "column": "", "kind": "missing", "count": 1, "examples": [example]},
        ],
        "dropped": [
            {"table": "role", "column": "", "rows": 2, "file": "dropped/role.csv", "release": "0.50.0", "why": EVIL}
            | {"hidden": ["hub_token"]}
        ],
        "totals": {"tables": 7, "rows": 2000, "cells": 30_000},
        "not_checked": [EVIL],
    }
    error = {"type": "IntegrityError", "message": EVIL, "traceback": EVIL}
    hop = {"version": "0.98.0", "started_at": "0.55.5", "reached": "0.83.0", "seconds": 61.5, "memory": 9 << 27}
    hop |= {"disk": 1 << 30, "revisions": [{"revision": "3d7e39f3ac92", "release": "0.83.1", "seconds": 60.5}]}
    obstacle: dict[str, Any] = {
        "id": "DC107",
        "title": EVIL,
        "severity": "block",
        "release": "0.72.0",
        "message": EVIL,
        "remedy": EVIL,
    }
    obstacle |= {"count": 2, "rows": [{"id": EVIL, "name": "x"}], "statements": [EVIL], "variables": {"A": "b"}}
    people = [
        {"kind": "stack", "before": EVIL, "after": "default-1a2b", "change": "renamed", "detail": "", "expected": EVIL},
        {"kind": "pipeline", "before": "train", "after": "", "change": "gone", "detail": EVIL, "expected": ""},
    ]
    why = {"release": "0.83.1", "revision": "3d7e39f3ac92", "why": [EVIL], "seconds": 60.5}
    forecast = {"backup": 1.0, "migration": 61.5, "restore": 2.0, "downtime": 62.5, "with_rollback": 64.5, "speed": 1.5}
    drill = {"zenml": "0.55.5", "user": EVIL, "active_stack": EVIL, "runs": 5, "stacks": 2, "seconds": 4.5}
    facts = {"site": EVIL, "seconds": 61.5, "revision_before": "0.55.5", "revision_after": "0.98.0", "proof": proof}
    facts |= {"hops": [{**hop, "error": error}], "story": [why], "obstacles": [obstacle], "people": people}
    facts |= {"bisection": {"first_failing": "0.83.1", "last_working": "0.83.0"}, "drill": drill}
    facts |= {"forecast": forecast, "source_unchanged": True, "cut": {"artifact_versions": 20005}}
    facts |= {"log_tail": f"one\n{EVIL}\n{'unbroken' * 60}"}
    return StepResult(step="30_rehearsal", status=Status.PASS, facts=facts, started=STARTED, seconds=73)


def of_table(
    name: str, outcome: str, after: int | None = 3, columns: Sequence[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    counted = {"before": 3, "after": after, "new_rows": 1, "dropped_rows": 1, "seconds": 0.1}
    return {"table": name, "was": "old", "outcome": outcome, "columns": list(columns), "why": [EVIL], **counted}


def artifacts() -> StepResult:
    """40_artifacts with one of each outcome, and two that are identical."""
    error = f"ModuleNotFoundError: No module named 'sklearn._loss' {EVIL}\nTraceback {'unbroken' * 60}"
    shown = {
        "fails": ("GradientBoostingClassifier of 3 features", error, ""),
        "lost": ("", "no such folder", ""),
        "differs": ("DataFrame, 3 × 2", "DataFrame, 3 × 2", f"column name: object became str; {EVIL}"),
        "not_checked": ("No module named 'churn'", "No module named 'churn'", ""),
    }
    rows: list[dict[str, Any]] = [
        {"id": f"0000000{number}-0000-4000-8000-000000000000", "name": f"{outcome} {EVIL}", "version": "3",
         "uri": f"/home/{EVIL}/{outcome}", "data_type": "pandas.core.frame.DataFrame", "materializer": EVIL,
         "outcome": outcome, "cause": f"AR60{number + 4}", "difference": difference, "old": old, "new": new,
         "seconds": 0.1 * number, "bytes": 10_000 * number}
        for number, (outcome, (old, new, difference)) in enumerate(shown.items())
    ]  # fmt: skip
    kinds = {"fails": "library", "lost": "file", "differs": "library", "not_checked": "module"}
    step = {"name": "train", "pipeline": EVIL, "source": "churn.train", "file": f"churn/{EVIL}.py", "line": 12}
    found = [
        {"outcome": row["outcome"], "id": row["cause"], "kind": kinds[row["outcome"]],
         "blame": "scikit-learn 1.3.0 → 1.9.1" if row["outcome"] == "fails" else f"x {EVIL}",
         "remedy": "Pin scikit-learn, or run the step again.", "count": 1, "proven": row["outcome"] == "fails" or None,
         "pins": ["scikit-learn==1.3.0", EVIL] if row["outcome"] in {"fails", "differs"} else [],
         "example": {**{key: row[key] for key in ("id", "name", "version", "uri", "difference", "old", "new")},
                     "type": row["data_type"], "error": row["new"] if row["outcome"] == "fails" else "", "where": EVIL},
         "steps": [{**step, "count": 1}]}
        for row in rows
    ]  # fmt: skip
    counts = {**dict.fromkeys(shown, 1), "loads": 1, "identical": 2}
    none = dict.fromkeys(counts, 0)
    measured = [{key: row[key] for key in ("id", "name", "version", "seconds", "bytes")} for row in rows]
    facts = {
        "counts": counts, "total": 7, "loaded_seconds": 2.5, "bytes": 1_421_312, "bandwidth": 568_525.0,
        "matrix": [
            {"type": "builtins.int", **none, "identical": 2, "loads": 1},
            {"type": f"pandas.core.frame.DataFrame {EVIL}", **none, **dict.fromkeys(shown, 1)},
        ],
        "causes": found, "artifacts": rows, "slowest": measured[::-1], "largest": measured[::-1],
        "not_checked_reasons": [{"reason": f"outside the sample {EVIL}", "count": 1}],
        "user_modules": ["churn.customers", EVIL],
        "static": {"missing": [{"module": EVIL, "count": 1}],
                   "by_value": [{"python": "3.8", "count": 1, "name": f"score {EVIL}"}]},
        "steps": [{**step, "outputs": 2, "why": f"pickled with {EVIL}"}],
    }  # fmt: skip
    return StepResult(step="40_artifacts", status=Status.BLOCK, facts=facts, started=STARTED, seconds=125)


def smoke_runs() -> StepResult:
    """50_smoke_runs with one run that failed."""
    run = {
        "name": EVIL, "status": "failed", "expected": "completed", "outcome": "failed", "seconds": 3725,
        "steps": [{"name": EVIL, "status": "failed", "expected": "completed"}], "error": EVIL, "log_tail": EVIL,
        "outputs": [{"step": EVIL, "output": EVIL, "outcome": "different", "old": {"ok": True, "summary": "1"}}],
    }  # fmt: skip
    return StepResult(step="50_smoke_runs", status=Status.BLOCK, facts={"runs": [run]}, started=STARTED, seconds=12)


def decision() -> StepResult:
    """60_decision of a run that has warnings."""
    steps = [{"step": "10_preflight", "status": "warn", "findings": 1, "seconds": 41.2}]
    facts = {"verdict": "GO_WITH_WARNINGS", "reasons": [f"10_preflight: {EVIL}"], "steps": steps}
    return StepResult(step="60_decision", status=Status.WARN, facts=facts, started=STARTED, seconds=0.1)
