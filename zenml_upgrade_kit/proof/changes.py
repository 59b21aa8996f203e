"""The expected state of every table after an upgrade, as SQL over the database before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.proof import entries
from zenml_upgrade_kit.proof.composition import Composition
from zenml_upgrade_kit.proof.entries import ANY, Change
from zenml_upgrade_kit.proof.states import Expectation

NAMES = ("before", "after")


def expected(
    source: str,
    target: str,
    engine: str,
    columns: Mapping[str, Sequence[str]],
    *,
    names: tuple[str, str] = NAMES,
    model: Sequence[Change] | None = None,
) -> Expectation:
    """What a database with these tables and columns must hold when it was migrated from one stamp to another.

    names: what the two databases are called in SQL.
    """
    made = Composition(engine, columns, names)
    changes = entries.load() if model is None else model
    for revision in releases.pending(source, target):
        made.step(revision, [change for change in changes if change.revision == revision])
    if source != target:  # some releases bring nothing but their stamp
        made.step(ANY, [change for change in changes if change.revision == ANY])
        made.stamp(target)
    return made.result()
