"""KitError and its few children; each message says what to do next."""

from __future__ import annotations


class KitError(Exception):
    """The kit could not do its work (exit code 2).

    problem: one sentence; expected, found, remedy: one phrase each, shown on their own lines.
    """

    def __init__(self, problem: str, *, expected: str, found: str, remedy: str) -> None:
        super().__init__(problem, expected, found, remedy)
        self.problem = problem
        self.expected = expected
        self.found = found
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}\n  expected: {self.expected}\n  found:    {self.found}\n  do this:  {self.remedy}"

    def _render_traceback_(self) -> list[str]:
        """IPython shows this instead of a traceback: readers need the message, not our stack."""
        return [str(self)]


class BadPlan(KitError):
    """The plan, a parameter or an option is wrong."""


class StoreUnreadable(KitError):
    """The metadata store cannot be found or read."""


class EnvironmentFailed(KitError):
    """An environment with the ZenML release could not be found or built."""


class RequirementsConflict(EnvironmentFailed):
    """The user's own requirements do not resolve beside a ZenML release: an answer, once the preflight has asked."""


class ProbeFailed(KitError):
    """A probe died or gave no reply; the problem names the probe and its log."""


class RunUnusable(KitError):
    """A run folder, or a result that a step needs, is missing or unfinished."""


class BackupUnusable(KitError):
    """A backup is missing, incomplete or does not match its manifest."""


class ClusterUnusable(KitError):
    """A Dask cluster does not answer, or its workers cannot load."""


class PlaceUnusable(KitError):
    """A place for backups cannot be reached, read or written to."""


class RestoreRefused(KitError):
    """A restore was not begun, or not switched to: what was there is unchanged."""


class ToolMissing(KitError):
    """A program, or an optional package of this kit, is not installed."""


class StepFailed(Exception):
    """A step ended with a finding that blocks: the answer is NO-GO, the kit itself works."""

    def _render_traceback_(self) -> list[str]:
        return [str(self)]
