"""The model of what migrations change explains every difference that real migrations make after release 0.63.0.

A store is filled and migrated as in test_changes.py; rows are added that migrations rename, merge and point elsewhere.
"""

import itertools
import json
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from uuid import uuid4

import databases
import filled
import pytest

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.probing import run_command
from zenml_upgrade_kit.proof import changes, comparison, entries
from zenml_upgrade_kit.stores import mysql
from zenml_upgrade_kit.stores.address import Server

FIRST, LAST = "0.63.0", "0.98.0"
STAMPS = filled.stamps()[filled.stamps().index(FIRST) :]
HOPS = list(itertools.pairwise(STAMPS))
ENTRIES = [change for change in entries.load() if change.release in STAMPS[1:]]
NO_ROWS = ("b949c5d1bc0d",)  # rewrites a table that the revision before it made, for the sake of development builds
Deploy = Callable[[str, Path], Path]
Environments = Callable[[str], Environment]
Execute = Callable[[str, Sequence[Any]], Sequence[Sequence[Any]]]


class Rows:
    """Copies of rows that are there, with some other values."""

    def __init__(self, execute: Execute, mark: str) -> None:
        self.execute, self.mark = execute, mark

    def some(self, table: str, number: int = 1) -> list[dict[str, Any]]:
        if self.mark == "?":
            names = [row[1] for row in self.execute(f'PRAGMA table_info("{table}")', ())]
        else:
            schema = "information_schema.columns WHERE table_schema = DATABASE()"
            names = [row[0] for row in self.execute(f"SELECT column_name FROM {schema} AND table_name = '{table}'", ())]
        listed = ", ".join(f'"{name}"' for name in names)
        found = self.execute(f'SELECT {listed} FROM "{table}" ORDER BY 1 LIMIT {number}', ())
        return [dict(zip(names, row, strict=True)) for row in found]

    def add(self, table: str, **values: Any) -> dict[str, Any]:
        row = self.some(table)[0]
        row |= ({"id": uuid4().hex} if "id" in row else {}) | values
        listed, marks = ", ".join(f'"{name}"' for name in row), ", ".join([self.mark] * len(row))
        self.execute(f'INSERT INTO "{table}" ({listed}) VALUES ({marks})', list(row.values()))
        return row


def twist(rows: Rows) -> None:
    """What the migrations after 0.63.0 do not leave alone, in a database of that release."""
    step = {"config": {"name": "größe", "model_artifacts_or_metadata": {}, "z": [1, 2.5, None]}, "spec": {}}
    step["config"]["model_artifacts_or_metadata"] = {
        "one": {"model": {"name": "churn", "version": 3, "license": "none"}, "artifact_name": "a"},
        "two": {"model": {"name": "churn", "version": None}},
    }
    for _ in range(3):
        rows.add("artifact_version")
    for name, number in (("7", 7), ("7", 7), ("7", 7), ("same", 9), ("same", 10), ("other", 10)):
        rows.add("model_version", name=name, number=number)
    for table in ("stack", "tag", "service_connector"):
        for name in "AABBB":
            rows.add(table, name=name)
    for name in "XXYY":
        rows.add("secret", name=name, scope="user")
    rows.add("step_run", name="with a model", step_configuration=json.dumps(step))
    orphan = rows.add("pipeline_deployment", step_configurations=json.dumps({"a": step, "b": {}}), pipeline_id=None)
    _twist_templates(rows, orphan["id"])
    for unowned in ("step_run_id", "pipeline_run_id", ""):
        owner = {"step_run_id": None, "pipeline_run_id": None} | ({unowned: uuid4().hex} if unowned else {})
        rows.add("logs", **owner)
    artifacts, versions = rows.some("artifact_version", 6), rows.some("model_version", 2)
    for artifact, model, service, version in ((5, 1, 0, 0), (5, 0, 1, 1), (3, 0, 1, 0), (4, 1, 1, 0), (1, 0, 0, 0)):
        linked = {"artifact_version_id": artifacts[artifact]["id"], "model_version_id": versions[version]["id"]}
        rows.add("model_versions_artifacts", is_model_artifact=model, is_deployment_artifact=service, **linked)
    for number in range(3):
        component = rows.add("stack_component", name=f"operator {number}", type="step_operator")
        rows.add("stack_composition", component_id=component["id"])
    for number in range(3):  # created at the same time
        run = {"orchestrator_run_id": uuid4().hex} | ({"pipeline_id": None} if number == 2 else {})
        rows.add("pipeline_run", name=f"run {number}", **run)
    done = json.dumps(["pipeline_run", "device_verified", *(f"step_{number}" for number in range(9))])
    rows.execute(f"UPDATE server_settings SET onboarding_state = {rows.mark}", (done,))


def _twist_templates(rows: Rows, deployment: str) -> None:
    """Several templates of one deployment, a run of one of them, and tags of all sorts."""
    rows.add("run_template", name="older", source_deployment_id=deployment, created="2026-02-01 00:00:00")
    newest = {"source_deployment_id": deployment, "created": "2026-02-02 00:00:00", "description": None}
    template = rows.add("run_template", name="newest", **newest)
    rows.add("pipeline_deployment", template_id=template["id"])
    for name, kind, resource in (("template", "run_template", template["id"]), ("gone", "model", uuid4().hex)):
        tag = rows.add("tag", name=f"of a {name}")
        rows.add("tag_resource", tag_id=tag["id"], resource_type=kind, resource_id=resource)
    rows.add("tag", name="of nothing")


def change(database: Path, how: Callable[[Rows], object]) -> Path:
    with closing(sqlite3.connect(database)) as connection, connection:
        how(Rows(lambda sql, given: connection.execute(sql, given).fetchall(), "?"))
    return database


@pytest.fixture(scope="module")
def chain(environment: Environments, deploy: Deploy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the database at every release from 0.63.0, filled at some; see filled.py."""
    folder, first = tmp_path_factory.mktemp("chain"), tmp_path_factory.mktemp("first")
    store = deploy("0.60.0", folder / "deployment") / "local_stores" / "default_zen_store" / "zenml.db"
    filled.chain(environment(LAST).python, store, first, refilled=("0.60.0", FIRST))
    return filled.chain(environment(LAST).python, change(filled.left(first, FIRST), twist), folder)


@pytest.fixture(scope="module")
def ways(chain: Path, environment: Environments, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``ways("0.70.0")``: a folder with the database at every release from that one, never filled on the way."""
    known: dict[str, Path] = {}

    def find(source: str) -> Path:
        if source not in known:
            base = filled.left(chain, source)
            known[source] = tmp_path_factory.mktemp("way")
            filled.chain(environment(LAST).python, base, known[source], refilled=())
        return known[source]

    return find


def explained(before: Path | Server, migrated: Path | Server, source: str, target: str, tmp_path: Path) -> None:
    """Hold that nothing is left to explain, and that there was something to look at."""
    proof = comparison.prove(before, migrated, source, target, exports=tmp_path / "exports")
    assert (source, target, proof.unexplained, proof.not_checked) == (source, target, [], [])
    assert proof.totals["rows"] > 200


@pytest.mark.parametrize(("source", "target"), HOPS)
def test_every_difference_between_one_release_and_the_next_is_explained(
    chain: Path, tmp_path: Path, source: str, target: str
) -> None:
    explained(filled.left(chain, source), chain / f"{target}.db", source, target, tmp_path)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: f"{entry.release}-{entry.revision}-{entry.why[:20]}")
def test_no_entry_can_be_missed(
    chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: entries.Change
) -> None:
    if entry.revision in NO_ROWS:
        pytest.skip("no release leaves a row that it does anything with")
    model = tuple(one for one in entries.load() if one is not entry)
    monkeypatch.setattr(entries, "load", lambda: model)
    source, target = STAMPS[STAMPS.index(entry.release) - 1], entry.release
    exports = tmp_path / "exports"
    proof = comparison.prove(filled.left(chain, source), chain / f"{target}.db", source, target, exports=exports)
    assert proof.unexplained or proof.not_checked


@pytest.mark.parametrize("source", [FIRST, "0.70.0", "0.80.2"])
def test_every_difference_of_a_long_way_is_explained(ways: Callable[[str], Path], tmp_path: Path, source: str) -> None:
    for target in ("0.71.0", "0.80.0", "0.84.0", "0.90.0", "0.94.3", LAST):
        if (releases.position(source) or 0) < (releases.position(target) or 0):
            explained(ways(source) / f"{source}.db", ways(source) / f"{target}.db", source, target, tmp_path)


@pytest.mark.parametrize("source", [FIRST, "0.80.2"])
def test_a_change_of_any_column_is_found(ways: Callable[[str], Path], tmp_path: Path, source: str) -> None:
    before = ways(source) / f"{source}.db"
    damaged = Path(shutil.copyfile(ways(source) / f"{LAST}.db", tmp_path / "damaged.db"))
    wanted = damage(before, damaged, source)
    proof = comparison.prove(before, damaged, source, LAST, exports=tmp_path / "exports")
    found = {(one["table"], one["column"]) for one in proof.unexplained if one["kind"] == "differs"}
    # the time of the upgrade, whatever it is
    free = {("server_settings", "last_user_activity")} if source == FIRST else set()
    assert wanted - found == free
    assert len(wanted) > 250


def damage(before: Path, migrated: Path, source: str) -> set[tuple[str, str]]:
    """Change every column of one row in every table that was there before; the columns that were changed."""
    columns = {name: sorted(found) for name, found in _schema(before).items()}
    expectation = changes.expected(source, LAST, "sqlite", columns)
    done: set[tuple[str, str]] = set()
    with closing(sqlite3.connect(migrated)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"ATTACH '{before}' AS old")
        for name, table in expectation.tables.items():
            info = connection.execute(f'PRAGMA main.table_info("{name}")').fetchall()
            keys = [row[1] for row in info if row[5]]
            kept = f'EXISTS (SELECT 1 FROM old."{table.was}" AS o WHERE o."{keys[0]}" = n."{keys[0]}")'
            kept += " AND n.is_custom = 1" if name == "flavor" else ""
            if not table.was or name == "alembic_version":
                continue
            row = connection.execute(f'SELECT n.rowid FROM main."{name}" AS n WHERE {kept} ORDER BY 1').fetchone()
            for column in (one[1] for one in info if row and not one[5]):
                mark = f"x{len(done)}"  # of its own, or else two columns that are to be equal would be so again
                new = f"""CASE WHEN "{column}" IS NULL THEN '{mark}' WHEN TYPEOF("{column}") = 'integer'
                    THEN "{column}" + 7 ELSE "{column}" || '{mark}' END"""
                connection.execute(f'UPDATE main."{name}" SET "{column}" = {new} WHERE rowid = {row[0]}')
                done.add((name, column))
    return done


def _schema(database: Path) -> dict[str, set[str]]:
    query = "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table'"
    found: dict[str, set[str]] = {}
    with closing(sqlite3.connect(database)) as connection:
        for table, column in connection.execute(query):
            found.setdefault(table, set()).add(column)
    return found


def test_a_deployer_called_default_gives_way(chain: Path, environment: Environments, tmp_path: Path) -> None:
    def deployer(rows: Rows) -> None:
        (stack,) = rows.execute("SELECT id FROM stack WHERE name = 'default'", ())
        for name in ("default", "another"):
            component = rows.add("stack_component", name=name, type="deployer", flavor="local")
            rows.add("stack_composition", component_id=component["id"], stack_id=stack[0])

    before = change(Path(shutil.copyfile(chain / "0.90.0.db", tmp_path / "before.db")), deployer)
    filled.chain(environment(LAST).python, before, tmp_path, refilled=())
    for target in ("0.91.0", LAST):
        explained(before, tmp_path / f"{target}.db", "0.90.0", target, tmp_path)


@pytest.mark.parametrize("source", ["0.70.0", "0.97.0"])
def test_every_difference_that_opening_a_store_makes_is_explained(
    deployment: Callable[..., Path], environment: Environments, tmp_path: Path, source: str
) -> None:
    store = deployment(source) / "local_stores" / "default_zen_store" / "zenml.db"
    opened = _opened(store, environment(LAST), tmp_path)
    explained(store, opened, source, LAST, tmp_path)


def test_a_flavor_of_ones_own_that_zenml_takes_over_is_not_explained(
    deployment: Callable[..., Path], environment: Environments, tmp_path: Path
) -> None:
    store = deployment("0.70.0") / "local_stores" / "default_zen_store" / "zenml.db"
    own = {"type": "step_operator", "source": "my.own.Flavor", "is_custom": 1}
    change(store, lambda rows: [rows.add("flavor", name=name, **own) for name in ("modal", "mine")])
    opened = _opened(store, environment(LAST), tmp_path)
    proof = comparison.prove(store, opened, "0.70.0", LAST, exports=tmp_path / "exports")
    assert {one["table"] for one in proof.unexplained} == {"flavor"}
    source = next(one for one in proof.unexplained if one["column"] == "source")
    assert (source["count"], source["examples"][0]["before"]) == (1, "my.own.Flavor")


def _opened(store: Path, environment: Environment, tmp_path: Path) -> Path:
    """A copy that a release has opened."""
    copy = Path(shutil.copyfile(store, tmp_path / "opened.db"))
    command = [str(environment.python), "-c", "from zenml.client import Client; Client().active_user"]
    variables = {"ZENML_STORE_URL": f"sqlite:///{copy}", "ZENML_STORE_TYPE": "sql"}
    ended = run_command(environment, command, folder=tmp_path / "run", variables=variables, timeout=300)
    assert ended.returncode == 0, ended.last_lines()
    return copy


def test_every_difference_on_mariadb_is_explained(
    mysql_store: Callable[..., Server], zenml_mariadb: Server, environment: Environments, tmp_path: Path
) -> None:
    store = mysql_store("0.60.0", on=zenml_mariadb)

    def upgrade(target: str) -> Server:
        databases.upgraded(environment(LAST), store, target, tmp_path)
        return databases.copied(store)

    upgrade(FIRST)
    filled.fill(store)
    with closing(mysql.connect(store, write=True)) as session:
        session.execute("SET FOREIGN_KEY_CHECKS = 0", ())
        twist(Rows(session.execute, "%s"))
        session.execute('UPDATE "trigger" SET name = id', ())  # names that repeat make 0.80.0 fail here
    reached = {FIRST: databases.copied(store)} | {target: upgrade(target) for target in ("0.80.0", LAST)}
    for source, target in [*itertools.pairwise(reached), (FIRST, LAST)]:
        explained(reached[source], reached[target], source, target, tmp_path)
