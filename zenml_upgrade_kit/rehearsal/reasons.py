"""What a rehearsal finds, as findings.

RH901 the migration failed, RH902 rows or values that no crossed release explains, RH903 it did not end in time, RH904
what goes by design, RH905 the release in use now does not open the restored backup, RH907 a remedy was tried on copies
alone, RH908 the target cannot list what it migrated, RH909 names that will be others. RH906 is in ``servers``, the DC
conditions are in ``checks.content``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zenml_upgrade_kit import releases, words
from zenml_upgrade_kit.checks.content import Offence
from zenml_upgrade_kit.findings import Finding, Severity
from zenml_upgrade_kit.proof.comparison import Proof
from zenml_upgrade_kit.rehearsal.migration import Hop

EXPORTS = "dropped"
"""The folder of the run that keeps what goes by design."""


def failed(hop: Hop) -> Finding:
    """A failure that no known condition explains."""
    error = hop.error or {}
    release = releases.for_stamp(hop.stopped_at) if hop.stopped_at else None
    where = f" at revision {hop.stopped_at} (of {release.version})" if release else ""
    held = f" Waiting for: {'; '.join(hop.held_by)}." if hop.held_by else ""
    line = next(iter(error["message"].splitlines()), "")
    what = f"did not end within {hop.seconds:.0f} seconds" if hop.timed_out else f"stopped with {error['type']}"
    return Finding(
        id="RH903" if hop.timed_out else "RH901",
        severity=Severity.BLOCK,
        subject=f"alembic_version {hop.reached}",
        message=f"The migration {what}{where}: {line[:600]}{held}",
        remedy=f"Read the log, {hop.log}. "
        + (
            "Give it more time with rehearsal: timeout: in the plan, or end what holds the lock."
            if hop.timed_out
            else "Put the cause right in the old release, or report it to ZenML; then start again."
        ),
        data={"reached": hop.reached, "stopped_at": hop.stopped_at, "error": dict(error), "held_by": list(hop.held_by)},
    )


def obstacle(offence: Offence) -> dict[str, Any]:
    """A condition with its rows and its remedy, for the notebook."""
    one = offence.condition
    told = {"id": one.id, "title": one.title, "severity": one.severity.value, "release": one.release}
    same = ("message", "remedy", "count", "rows", "statements", "variables")
    return {**told, **{name: getattr(offence, name) for name in same}}


def only_tried(identity: str, statements: Sequence[str], variables: Mapping[str, str]) -> Finding:
    """The store still has the rows, so that such a rehearsal cannot be a GO."""
    return Finding(
        id="RH907",
        severity=Severity.BLOCK,
        subject=identity,
        message=f"The remedy of {identity} was tried on copies alone; the store is as it was.",
        remedy="If this rehearsal has no other finding that blocks, carry the remedy out on the store with the old "
        "release stopped and a fresh backup, then rehearse again without --try-remedy.",
        data={"statements": list(statements), "variables": dict(variables)},
    )


def unexplained(proof: Proof) -> Iterator[Finding]:
    """Rows and values that differ without a reason, one finding a table and column."""
    kinds = {"differs": ("value", "changed"), "missing": ("row", "gone"), "extra": ("row", "too many")}
    for one in proof.unexplained:
        place = f"{one['table']}.{one['column']}" if one["column"] else one["table"]
        shown = "".join(f"; {_example(example)}" for example in one["examples"][:2])
        noun, what = kinds[one["kind"]]
        yield Finding(
            id="RH902",
            severity=Severity.BLOCK,
            subject=place,
            message=f"{place}: {words.count(one['count'], noun)} {what}, and no release in between explains it{shown}",
            remedy="Do not upgrade before this is accounted for; the run has both values. Report it to ZenML.",
            data=dict(one),
        )


def _example(example: Mapping[str, Any]) -> str:
    key = ", ".join(f"{name} {value}" for name, value in example["key"].items())
    return f"{key}: {example['before']!r} became {example['after']!r}"


def by_design(dropped: Sequence[dict[str, Any]]) -> Iterator[Finding]:
    """What the crossed releases drop, one finding a table and release; all of it is kept as CSV in the run."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for one in dropped:
        if one["rows"]:
            grouped.setdefault((one["table"], one["release"], one["why"]), []).append(one)
    for (table, release, why), some in grouped.items():
        columns = [one["column"] for one in some if one["column"]]
        rows = max(one["rows"] for one in some)
        what = f"{', '.join(columns)} of " if columns else ""
        yield Finding(
            id="RH904",
            severity=Severity.INFO,
            subject=table,
            message=f"{release} drops {what}{words.count(rows, 'row')} by design.",
            remedy=f"They are kept in the folder {EXPORTS} of this run.",
            data={"rows": rows, "columns": columns, "why": why},
        )


def cannot_open(version: str, why: str) -> Finding:
    return Finding(
        id="RH905",
        severity=Severity.BLOCK,
        subject=f"ZenML {version}",
        message=f"The release in use does not open the restored backup, so that a way back is not proven: {why}.",
        remedy="Read the log in work/30_rehearsal/people; try your own environment with --source-python.",
    )


def cannot_list(kind: str, why: str, version: str) -> Finding:
    return Finding(
        id="RH908",
        severity=Severity.BLOCK,
        subject=kind,
        message=f"ZenML {version} migrates the database, then fails to list {kind}: {why}",
        remedy="Find the row that it stumbles over (DC124, DC125), and correct it in the old release.",
    )


def drilled(listed: Mapping[str, Any], manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the source's release lists all runs and stacks of the backup."""
    rows = {name: table["rows"] for name, table in manifest["tables"].items()}
    for kind, table in (("runs", "pipeline_run"), ("stacks", "stack")):
        if rows.get(table) is not None and listed.get(kind) not in (None, rows[table]):
            yield cannot_open(listed["zenml"], f"it lists {listed[kind]} of {rows[table]} {kind}")


def noticed(changed: Sequence[Mapping[str, Any]]) -> Iterator[Finding]:
    """Names that people know and that will be others; what crossing a release always does is one note."""
    told = [one for one in changed if one["change"] != "error"]
    for one in told:
        if not one.get("expected"):
            yield Finding(
                id="RH909",
                severity=Severity.WARN,
                subject=f"{one['kind']}: {one['before'] or one['after']}",
                message=one["detail"],
                remedy="Tell the people who use this name, and look at code that asks for it.",
            )
    if expected := [one for one in told if one.get("expected") and one["change"] != "new"]:
        yield Finding(
            id="RH909",
            severity=Severity.INFO,
            subject=words.count(len(expected), "name or right"),
            message=" ".join(dict.fromkeys(one["detail"] for one in expected[:5])),
            remedy="Known of the releases in between; see what people will notice.",
        )
