"""Artifact reload: every artifact version is loaded by the old and by the new release, and the values are compared."""

from __future__ import annotations

import json
import shutil
import signal
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import drill, environments, inventory, probing
from zenml_upgrade_kit.backup import of_run
from zenml_upgrade_kit.errors import ProbeFailed
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.runs import Step
from zenml_upgrade_kit.stores import sqlite

PROBE = "load_artifacts"
START_UP = 300.0
"""Seconds that a probe may take beyond its artifacts: the first import of ZenML took 22 s on a loaded machine."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What one release made of one artifact version.

    type: class of the value. digest: content identity, None when the content cannot be compared (error says why);
    near: the same with floats rounded to about 8 digits, for values that were computed twice.
    missing: ``materializer`` or ``data type`` when that class cannot be imported.
    """

    ok: bool
    type: str = ""
    summary: str = ""
    digest: str | None = None
    near: str | None = None
    error: str = ""
    missing: str = ""
    seconds: float = 0.0

    @property
    def lacks_a_module(self) -> bool:
        """Whether it failed because this environment cannot import something."""
        return bool(self.missing) or self.error.startswith(("ModuleNotFoundError", "ImportError"))


def reload(step: Step) -> StepResult:
    """Load every artifact version in both environments and compare; nothing is written to the artifact stores."""
    rehearsal = step.run.needs("30_rehearsal")
    source, target = environments.of_run(step.run)
    folder = step.empty_work()
    # copies: a client writes to the store that it opens
    private = {
        "source": drill.unpack(of_run(step.run), "database", folder / "source.db", step.plan.backup.identity),
        "target": Path(shutil.copy2(rehearsal.facts["copy"], folder / "target.db")),
    }
    local_stores = Path(step.run.needs("00_start").facts["store"]["local_stores"])
    rows = {}
    for name, database in private.items():
        with closing(sqlite.connect(database)) as connection:
            rows[name] = {row["id"]: row for row in inventory.artifacts(connection, local_stores)}
    unreachable = {key: why for key, row in rows["source"].items() if (why := _unreachable(row))}
    loaded = {}
    for name, environment in (("source", source), ("target", target)):
        wanted = [row for key, row in rows[name].items() if key not in unreachable and key in rows["source"]]
        loaded[name] = load(
            environment,
            wanted,
            folder=folder / name,
            database=private[name],
            code=step.run.code_copy(),
            timeout=step.plan.artifacts.timeout,
        )
    return _compare(step, rows, loaded, unreachable)


def load(
    environment: Environment,
    artifacts: Sequence[Mapping[str, Any]],
    *,
    folder: Path,
    database: Path,
    code: Path | None,
    timeout: float,
) -> dict[str, Loaded]:
    """Load artifact versions (rows of :func:`inventory.artifacts`) by id in processes that may die.

    database: a copy that a ZenML client may open. timeout: seconds for one artifact. A crash costs the artifact that
    was being loaded; the rest go on in a new process.
    """
    folder.mkdir(parents=True, exist_ok=True)
    request, reply = folder / "request.json", folder / "reply.jsonl"
    reply.unlink(missing_ok=True)
    loaded: dict[str, Loaded] = {}
    pending = list(artifacts)
    while pending:
        wanted = [_question(row) for row in pending]
        request.write_text(json.dumps({"artifacts": wanted, "code": code and str(code), "timeout": timeout}))
        ended = probing.run_probe_process(
            environment,
            PROBE,
            [str(request), str(reply)],
            folder=folder / f"from-{len(loaded)}",  # a log of its own: the reason for a death is at its end
            variables={"ZENML_STORE_URL": f"sqlite:///{database}"},
            timeout=START_UP + timeout * len(pending),
        )
        started, answers = _read(reply)
        loaded |= answers
        left = [row for row in pending if row["id"] not in loaded]
        if left and started and started not in loaded:
            loaded[started] = Loaded(ok=False, error=_death(ended, timeout))
        elif left:
            raise ProbeFailed(
                f"artifacts cannot be loaded with ZenML {environment.version}",
                expected="a probe that starts",
                found=f"exit code {ended.returncode}; {ended.last_lines(5)}",
                remedy=f"see the log {ended.log}",
            )
        pending = [row for row in left if row["id"] not in loaded]
    return loaded


def _question(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "uri": row["uri"],
        "root": row["store_root"],
        "materializer": row["materializer"],
        "data_type": row["data_type"],
    }


def _read(reply: Path) -> tuple[str, dict[str, Loaded]]:
    """The id that was started last, and all answers."""
    started, answers = "", {}
    for line in reply.read_text(encoding="utf-8").splitlines() if reply.exists() else ():
        try:
            value = json.loads(line)
        except ValueError:  # the process died while it wrote this line
            continue
        if "start" in value:
            started = value["start"]
        else:
            key = value.pop("id")
            answers[key] = Loaded(**value)
    return started, answers


def _death(ended: probing.Ended, timeout: float) -> str:
    if ended.returncode < 0:
        return f"the loading process was ended by {signal.Signals(-ended.returncode).name}"
    if "Timeout (" in ended.last_lines(40):
        return f"did not load within {timeout:g} seconds"
    return f"the loading process ended itself with exit code {ended.returncode}"


def _unreachable(row: Mapping[str, Any]) -> str:
    """Why the files of an artifact version cannot be looked at from here; empty when they can."""
    if not row["store_flavor"]:
        return "its artifact store is no longer registered"
    if row["store_flavor"] != "local":
        return f"its artifact store is of flavor {row['store_flavor']}, only local ones are loaded"
    return ""


def _compare(
    step: Step,
    rows: Mapping[str, Mapping[str, Mapping[str, Any]]],
    loaded: Mapping[str, Mapping[str, Loaded]],
    unreachable: Mapping[str, str],
) -> StepResult:
    table, findings = [], []
    for key, row in rows["source"].items():
        nothing = Loaded(ok=False, error="not in the migrated store" if key not in rows["target"] else "not loaded")
        old, new = loaded["source"].get(key, nothing), loaded["target"].get(key, nothing)
        outcome = "not_checked" if key in unreachable else _outcome(old, new)
        table.append(
            {
                **{name: row[name] for name in ("id", "name", "version", "uri")},
                "data_type": _named(row["data_type"]),
                "materializer": _named(row["materializer"]),
                "outcome": outcome,
                "old": asdict(old),
                "new": asdict(new),
            }
        )
        if key not in unreachable:
            findings += list(_findings(step.run.source_version, row, outcome, old, new))
    missing = [f"{count} artifact versions: {why}" for why, count in Counter(unreachable.values()).items()]
    for sentence in missing:
        findings.append(
            Finding(
                id="AR611" if "registered" in sentence else "AR612",
                severity=Severity.WARN if "registered" in sentence else Severity.INFO,
                subject="artifacts",
                message=f"Not checked: {sentence}.",
                remedy="Register a store on the same path."
                if "registered" in sentence
                else "Load some of them by hand.",
            )
        )
    counts = Counter(row["outcome"] for row in table)
    if alone := counts["not_checked"] - len(unreachable):
        missing.append(f"{alone} artifact versions need code or libraries that neither environment has")
    if counts["loads"]:
        missing.append(f"{counts['loads']} artifact versions load, but their content cannot be compared")
    facts = {"counts": dict(counts), "artifacts": table, "code": step.plan.code}
    return step.result(findings, facts, missing)


def _outcome(old: Loaded, new: Loaded) -> str:
    if not new.ok:
        return "not_checked" if old.lacks_a_module and new.lacks_a_module else "fails"
    if old.ok and (old.type != new.type or (old.digest and new.digest and old.digest != new.digest)):
        return "different"
    return "same" if old.digest and new.digest else "loads"


def _findings(source: str, row: Mapping[str, Any], outcome: str, old: Loaded, new: Loaded) -> Iterator[Finding]:
    subject = f"{row['name']} {row['version']} ({row['id']})"
    if outcome == "different":
        change = (
            f"{old.summary} became {new.summary}" if old.summary != new.summary else f"{new.summary}, other content"
        )
        yield Finding(
            id="AR606",
            severity=Severity.WARN,
            subject=subject,
            message=f"Loads, but differently: {change}.",
            remedy="Pin the library that wrote it, or accept the difference and note it.",
        )
    if outcome not in {"fails", "not_checked"}:
        return
    identity, remedy = _cause(row, new)
    before = "" if old.ok else f" It does not load with {source} here either."
    if outcome == "fails" and not old.ok:
        remedy = "Give your --code and --requirements if it loads for you; otherwise it was broken before the upgrade."
    yield Finding(
        id=identity,
        severity=Severity.BLOCK if old.ok else Severity.WARN,
        subject=subject,
        message=f"{new.error.rstrip('.')}.{before}",
        remedy=remedy,
        data={"uri": row["uri"], "fails_before": not old.ok},
    )


def _cause(row: Mapping[str, Any], new: Loaded) -> tuple[str, str]:
    """Catalogue id and remedy of a failed load."""
    uri, root = Path(row["uri"]), Path(row["store_root"])
    if new.missing == "materializer":
        return "AR601", "Give your --code or --requirements, or restore the module of the materializer."
    if new.missing:
        return "AR602", "Give your --code or --requirements, or keep the module name alive."
    if not uri.is_relative_to(root):
        return "AR603", f"ZenML reads only below {root}: use the original local stores folder."
    if not uri.exists() or not any(uri.iterdir() if uri.is_dir() else [uri]):
        return "AR607", "Restore the files; ZenML may name df.csv when a parquet file is missing."
    return "AR604", "Pin the library that wrote it, or run the step again under the new release."


def _named(source: Mapping[str, Any]) -> str:
    return f"{source['module']}.{source['attribute']}".removeprefix("builtins.")
