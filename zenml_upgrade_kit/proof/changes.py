"""The expected state of every table after an upgrade, as SQL over the database before it.

``python -m zenml_upgrade_kit.proof.changes`` says what is wrong with the entries (:mod:`proof.entries`): composed from
every release to every later one that matters, and compiled by SQLite.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.checks import schemas
from zenml_upgrade_kit.proof import entries
from zenml_upgrade_kit.proof.composition import Composition
from zenml_upgrade_kit.proof.entries import ANY, Change
from zenml_upgrade_kit.proof.states import MIGRATED, Expectation
from zenml_upgrade_kit.stores.pair import with_views
from zenml_upgrade_kit.stores.sqlite import quoted

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


def flaws(model: Sequence[Change] | None = None) -> list[str]:
    """What is wrong with the model: composed from every stamp to the newest, and from the oldest to every stamp."""
    stamps = list(dict.fromkeys(release.stamp for release in releases.all()))
    found: dict[str, None] = {}
    for source, target in [(stamp, stamps[-1]) for stamp in stamps[:-1]] + [(stamps[0], stamp) for stamp in stamps]:
        before, after = schemas.at(source) or {}, schemas.at(target) or {}
        made = expected(
            source, target, "sqlite", {name: sorted(columns) for name, columns in before.items()}, model=model
        )
        found |= dict.fromkeys([*made.problems, *_different(made, after), *_refused(made, before, after)])
    return list(found)


def _different(made: Expectation, after: schemas.Schema) -> Iterator[str]:
    for name in sorted(made.tables.keys() | after.keys()):
        composed, real = set(made.tables[name].columns) if name in made.tables else set(), after.get(name, set())
        if composed != real:
            yield f"composed and real columns of {name} differ: {', '.join(sorted(composed ^ real))}"


def _refused(made: Expectation, before: schemas.Schema, after: schemas.Schema) -> Iterator[str]:
    """What SQLite says of the statements."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for schema, tables in zip(NAMES, (before, after), strict=True):
            connection.execute(f"ATTACH ':memory:' AS {quoted(schema)}")
            for name, columns in tables.items():
                listed = ", ".join(map(quoted, sorted(columns)))
                connection.execute(f"CREATE TABLE {quoted(schema)}.{quoted(name)} ({listed})")
        for table in made.tables.values():
            checks = [check for column in table.columns.values() for check in column.checks]
            joined = f" CROSS JOIN {quoted(NAMES[1])}.{quoted(table.name)} AS {MIGRATED}"
            conditions = [*table.where, *checks, *table.new_rows] or ["1 = 1"]
            tried = [table.select(list(table.columns))] + [
                f"SELECT 1 FROM {table.source}{joined} WHERE {one}" for one in conditions
            ]
            yield from _tried(connection, made.views, table.name, tried)
        for lost in made.lost:
            yield from _tried(connection, made.views, f"{lost.table} ({lost.release})", [lost.select])


def _tried(
    connection: sqlite3.Connection, views: Mapping[str, str], name: str, statements: Sequence[str]
) -> Iterator[str]:
    for statement in statements:
        try:
            connection.execute(f"EXPLAIN {with_views(statement, views)}")
        except sqlite3.Error as error:
            yield f"{name}: {error}: {statement[:1000]}"


if __name__ == "__main__":
    wrong = flaws()
    print("\n".join(wrong) or "the model explains every table and column that comes or goes")
    sys.exit(bool(wrong))
