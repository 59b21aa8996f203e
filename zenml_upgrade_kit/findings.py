"""The vocabulary: Severity, Finding, StepResult and their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from enum import Enum
from typing import Any


class Severity(str, Enum):
    """How bad a finding is: BLOCK makes the step NO-GO, WARN wants a decision, INFO only tells."""

    BLOCK = "block"
    WARN = "warn"
    INFO = "info"


class Status(str, Enum):
    """How a step ended. NOT_CHECKED is never a pass; ERROR means the kit could not carry the step out."""

    PASS = "pass"
    WARN = "warn"
    BLOCK = "block"
    ERROR = "error"
    NOT_CHECKED = "not_checked"


class Verdict(str, Enum):
    """The answer of a whole run."""

    GO = "GO"
    GO_WITH_WARNINGS = "GO_WITH_WARNINGS"
    NO_GO = "NO_GO"

    @property
    def words(self) -> str:
        """As people say it: ``GO WITH WARNINGS``, ``NO-GO``."""
        return "NO-GO" if self is Verdict.NO_GO else self.value.replace("_", " ")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was seen.

    id: stable catalogue id (``DB004``). subject: a table and key, an artifact name and id, or ``path:line``.
    data: values for programs; its keys belong to the id.
    """

    id: str
    severity: Severity
    subject: str
    message: str
    remedy: str = ""
    url: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """As in ``results/NN_step.json``."""
        return {**asdict(self), "severity": self.severity.value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """Inverse of :meth:`to_json`."""
        return cls(**{**value, "severity": Severity(value["severity"])})


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one step leaves behind: findings, facts, and how long it took.

    started: ISO 8601 in UTC; seconds: wall time. ``facts["not_checked"]``, where present, is a list of sentences,
    one for each thing that could not be looked at.
    """

    step: str
    status: Status
    findings: tuple[Finding, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0

    @property
    def not_checked(self) -> list[str]:
        """Sentences about what could not be looked at."""
        return list(self.facts.get("not_checked", ()))

    def to_json(self) -> dict[str, Any]:
        """As in ``results/NN_step.json``."""
        return {
            "step": self.step,
            "status": self.status.value,
            "findings": [finding.to_json() for finding in self.findings],
            "facts": dict(self.facts),
            "started": self.started,
            "seconds": round(self.seconds, 3),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StepResult:
        """Inverse of :meth:`to_json`."""
        return cls(
            step=value["step"],
            status=Status(value["status"]),
            findings=tuple(Finding.from_json(finding) for finding in value["findings"]),
            facts=value["facts"],
            started=value["started"],
            seconds=value["seconds"],
        )


def judge(findings: Iterable[Finding], not_checked: Iterable[str] = ()) -> Status:
    """The status of a step that was carried out: the worst finding, else not checked, else pass."""
    severities = {finding.severity for finding in findings}
    if Severity.BLOCK in severities:
        return Status.BLOCK
    if Severity.WARN in severities:
        return Status.WARN
    return Status.NOT_CHECKED if list(not_checked) else Status.PASS


def now() -> str:
    """This moment, ISO 8601 in UTC to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
