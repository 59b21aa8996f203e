"""The model of what migrations change explains every difference that real migrations make, up to release 0.63.0.

A store of 0.43.0 is filled and migrated, revision by revision, by the newest ZenML, and filled again at some releases.
"""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import databases
import filled
import pytest

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.checks import schemas
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.proof import changes, comparison, entries
from zenml_upgrade_kit.proof.states import MIGRATED, Expectation
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.pair import with_views
from zenml_upgrade_kit.stores.sqlite import quoted

LAST = "0.63.0"
STAMPS = [stamp for stamp in filled.stamps() if (releases.position(stamp) or 0) <= (releases.position(LAST) or 0)]
ENTRIES = [change for change in entries.load() if change.release in STAMPS]
HOPS = list(pairwise(STAMPS))
Deploy = Callable[[str, Path], Path]


@pytest.fixture(scope="module")
def chain(environment: Callable[[str], Environment], deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database at every release, filled at some; see filled.py."""
    folder = tmp_path_factory.mktemp("chain")
    store = deploy("0.43.0", folder / "deployment") / "local_stores" / "default_zen_store" / "zenml.db"
    return filled.chain(environment("0.98.0").python, store, folder)


def proven(chain: Path, source: str, target: str, tmp_path: Path) -> comparison.Proof:
    """From the database that the chain left at one release to the one that it brought to the other."""
    return comparison.prove(
        filled.left(chain, source), chain / f"{target}.db", source, target, exports=tmp_path / "exports"
    )


def test_every_table_and_column_that_comes_or_goes_has_its_why() -> None:
    assert flaws() == []


def flaws() -> list[str]:
    """What is wrong with the model: composed from every stamp to the newest, and from the oldest to every stamp."""
    stamps = list(dict.fromkeys(release.stamp for release in releases.all()))
    found: dict[str, None] = {}
    for source, target in [(stamp, stamps[-1]) for stamp in stamps[:-1]] + [(stamps[0], stamp) for stamp in stamps]:
        before, after = schemas.at(source) or {}, schemas.at(target) or {}
        columns = {name: sorted(names) for name, names in before.items()}
        made = changes.expected(source, target, "sqlite", columns)
        found |= dict.fromkeys([*made.problems, *different(made, after), *refused(made, before, after)])
    return list(found)


def different(made: Expectation, after: schemas.Schema) -> Iterator[str]:
    for name in sorted(made.tables.keys() | after.keys()):
        composed, real = set(made.tables[name].columns) if name in made.tables else set(), after.get(name, set())
        if composed != real:
            yield f"composed and real columns of {name} differ: {', '.join(sorted(composed ^ real))}"


def refused(made: Expectation, before: schemas.Schema, after: schemas.Schema) -> Iterator[str]:
    """What SQLite says of the statements."""
    with closing(sqlite3.connect(":memory:")) as connection:
        for schema, tables in zip(changes.NAMES, (before, after), strict=True):
            connection.execute(f"ATTACH ':memory:' AS {quoted(schema)}")
            for name, columns in tables.items():
                listed = ", ".join(map(quoted, sorted(columns)))
                connection.execute(f"CREATE TABLE {quoted(schema)}.{quoted(name)} ({listed})")
        for table in made.tables.values():
            checks = [check for column in table.columns.values() for check in column.checks]
            joined = f" CROSS JOIN {quoted(changes.NAMES[1])}.{quoted(table.name)} AS {MIGRATED}"
            conditions = [*table.where, *checks, *table.new_rows] or ["1 = 1"]
            statements = [table.select(list(table.columns))] + [
                f"SELECT 1 FROM {table.source}{joined} WHERE {one}" for one in conditions
            ]
            yield from tried(connection, made.views, table.name, statements)
        for lost in made.lost:
            yield from tried(connection, made.views, f"{lost.table} ({lost.release})", [lost.select])


def tried(
    connection: sqlite3.Connection, views: Mapping[str, str], name: str, statements: Sequence[str]
) -> Iterator[str]:
    for statement in statements:
        try:
            connection.execute(f"EXPLAIN {with_views(statement, views)}")
        except sqlite3.Error as error:
            yield f"{name}: {error}: {statement[:1000]}"


def test_every_table_gets_new_rows_wherever_the_store_is_filled(chain: Path) -> None:
    for stamp in filled.REFILLED:
        counts = []
        for path in (chain / f"{stamp}.db", chain / f"{stamp}.filled.db"):
            with closing(sqlite3.connect(path)) as connection:
                tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
                counts.append(
                    {name: connection.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone() for name in tables}
                )
        unchanged = {name for name, count in counts[0].items() if counts[1][name] == count}
        assert (stamp, unchanged - filled.LEFT_ALONE) == (stamp, set())


@pytest.mark.parametrize(("source", "target"), HOPS)
def test_every_difference_between_one_release_and_the_next_is_explained(
    chain: Path, tmp_path: Path, source: str, target: str
) -> None:
    proof = proven(chain, source, target, tmp_path)
    assert (proof.unexplained, proof.not_checked) == ([], [])
    assert proof.totals["rows"] > 100


@pytest.mark.parametrize("change", ENTRIES, ids=lambda change: f"{change.release}-{change.revision}-{change.why[:20]}")
def test_no_entry_can_be_missed(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: entries.Change
) -> None:
    if change.revision == "7b651bf6822e":
        pytest.skip("only a secrets store outside of the database makes it do anything")
    model = tuple(one for one in entries.load() if one is not change)
    monkeypatch.setattr(entries, "load", lambda: model)
    source = STAMPS[STAMPS.index(change.release) - 1]
    proof = proven(chain, source, change.release, tmp_path)
    assert proof.unexplained or proof.not_checked


@pytest.mark.parametrize(
    "source", ["0.43.0", *(pytest.param(stamp, marks=pytest.mark.nightly) for stamp in ("0.46.1", "0.47.0", "0.55.4"))]
)
def test_every_difference_of_a_long_way_is_explained(
    chain: Path, environment: Callable[[str], Environment], tmp_path: Path, source: str
) -> None:
    filled.chain(environment("0.98.0").python, filled.left(chain, source), tmp_path, refilled=())
    for target in ("0.58.2", LAST, "0.98.0"):
        proof = comparison.prove(
            filled.left(chain, source), tmp_path / f"{target}.db", source, target, exports=tmp_path / "exports"
        )
        assert (target, proof.unexplained, proof.not_checked) == (target, [], [])


@pytest.mark.nightly
def test_owners_and_links_of_tags_that_an_upgrade_makes_are_looked_at(
    chain: Path, environment: Callable[[str], Environment], tmp_path: Path
) -> None:
    before = filled.left(chain, "0.46.1")
    migrated = filled.chain(environment("0.98.0").python, before, tmp_path, refilled=()) / "0.98.0.db"
    made = "(SELECT MIN(r.tag_id) FROM tag_resource AS r JOIN model AS m ON m.id = r.resource_id)"
    for sql, place in (
        (f"UPDATE tag SET user_id = 'nobody' WHERE id = {made}", ("tag", "user_id")),
        (f"UPDATE tag SET user_id = NULL WHERE id = {made} AND user_id IS NOT NULL", ("tag", "user_id")),
        (f"UPDATE tag_resource SET resource_id = 'nothing' WHERE tag_id = {made}", ("tag_resource", "")),
        (f"UPDATE tag_resource SET tag_id = 'none' WHERE tag_id = {made}", ("tag_resource", "")),
        (f"DELETE FROM tag_resource WHERE tag_id = {made}", ("tag", "id")),
        (f"DELETE FROM tag WHERE id = {made}", ("tag", "")),
        (
            f"DELETE FROM tag WHERE id = {made}; DELETE FROM tag_resource WHERE tag_id NOT IN (SELECT id FROM tag)",
            ("tag", ""),
        ),
    ):
        damaged = Path(shutil.copyfile(migrated, tmp_path / "damaged.db"))
        with closing(sqlite3.connect(damaged)) as connection, connection:
            connection.executescript(sql)
            assert connection.total_changes
        proof = comparison.prove(before, damaged, "0.46.1", "0.98.0", exports=tmp_path / "exports")
        assert place in {(one["table"], one["column"]) for one in proof.unexplained}, sql


@pytest.mark.nightly
def test_every_difference_on_mariadb_is_explained(
    mysql_store: Callable[..., Server],
    zenml_mariadb: Server,
    environment: Callable[[str], Environment],
    tmp_path: Path,
) -> None:
    before = mysql_store("0.43.0", on=zenml_mariadb)
    for source, targets in (("0.43.0", ["0.46.1"]), ("0.46.1", ["0.47.0", "0.50.0", "0.51.0", "0.53.0", LAST])):
        filled.fill(before)
        after = databases.copied(before)
        for target in targets:
            databases.upgraded(environment("0.98.0"), after, target, tmp_path)
            proof = comparison.prove(before, after, source, target, exports=tmp_path / "exports")
            assert (target, proof.unexplained, proof.not_checked) == (target, [], [])
        before = after
