"""Every condition about the content of a store, on real stores and real migrations."""

import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import databases
import pytest
from databases import upgraded, url

from zenml_upgrade_kit import releases, stores
from zenml_upgrade_kit.checks import content, schemas
from zenml_upgrade_kit.checks.content import Offence
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.findings import Severity
from zenml_upgrade_kit.probing import run_command, run_probe
from zenml_upgrade_kit.stores.address import Server

TARGET = "0.98.0"
Database = Path | Server

LIST = """
from zenml.client import Client
client = Client()
for name, entities in (
    ("runs", client.list_pipeline_runs), ("steps", client.list_run_steps), ("artifacts", client.list_artifact_versions)
):
    try:
        print(name, len(entities(size=100, hydrate=True)))
    except Exception as error:
        print(name, error)
"""


def engine(database: Database) -> str:
    return "mysql" if isinstance(database, Server) else "sqlite"


def execute(database: Database, *statements: str) -> None:
    """Each is one statement, as those of an offence have to be."""
    with closing(stores.connect(database, write=True)) as connection:
        for statement in statements:
            connection.execute(statement)


def plant(database: Database, table: str, like: str = "", **values: Any) -> str:
    """Insert a row, new or as the first that ``like`` finds but for some values; its id."""
    with closing(stores.connect(database)) as connection:
        there = stores.tables(connection)[table]
    identity = values.setdefault("id", uuid.uuid4().hex) if "id" in there else ""
    literals = {
        name: "NULL" if value is None else "'" + str(value).replace("'", "''") + "'" for name, value in values.items()
    }
    columns = there if like else [*values]
    names = ", ".join(f"`{name}`" for name in columns)
    chosen = ", ".join(literals.get(name, f"`{name}`") for name in columns)
    source = f" FROM `{table}` WHERE {like} ORDER BY id LIMIT 1" if like else ""
    execute(database, f"INSERT INTO `{table}` ({names}) SELECT {chosen}{source}")
    return str(identity)


def rows(database: Database, sql: str) -> list[tuple[Any, ...]]:
    with closing(stores.connect(database)) as connection:
        return [tuple(row) for row in connection.execute(sql)]


def stamp(database: Database) -> str:
    return str(rows(database, "SELECT version_num FROM alembic_version")[0][0])


def offences(database: Database, stopped_at: str = "", target: str = TARGET, *, passed: bool = False) -> list[Offence]:
    """All that is found, or, after a failure, what explains it."""
    with closing(stores.connect(database)) as connection:
        of = (lambda sql: list(connection.execute(sql)), stores.tables(connection), stamp(database), target)
        if stopped_at:
            return content.explain(*of, engine(database), stopped_at)
        return content.offences(*of, engine(database), passed=passed)


def ids(database: Database) -> set[str]:
    return {offence.condition.id for offence in offences(database)}


def copied(database: Database, folder: Path) -> Database:
    if isinstance(database, Path):
        return Path(shutil.copy(database, folder / f"{uuid.uuid4().hex}.db"))
    return databases.copied(database)


def stops(environment: Environment, database: Database, folder: Path, variables: dict[str, str]) -> tuple[str, str]:
    """Where a real migration of a copy stops, and its error; "" when it does not."""
    copy = copied(database, folder)
    settings = {"ZENML_STORE_URL": url(copy), "ZENML_STORE_BACKUP_STRATEGY": "disabled", **variables}
    reply = run_probe(environment, "migrate", {}, folder=folder, variables=settings, timeout=300)
    pending = releases.pending(stamp(copy), TARGET)
    assert ("error" in reply) == bool(pending), reply
    return (pending[0], reply["error"]["message"]) if pending else ("", str(getattr(copy, "database", copy)))


def put_right(
    environment: Environment, database: Database, folder: Path, by_hand: dict[str, str] | None = None
) -> Iterator[tuple[str, str, str]]:
    """Migrate copies again and again, each time putting right what is named first: (id, release, error).

    by_hand: a statement for conditions that have none. At the end, ("", "", the migrated copy).
    """
    variables: dict[str, str] = {}
    for _ in range(12):
        revision, error = stops(environment, database, folder, variables)
        if not revision:
            yield "", "", error
            return
        explained = offences(database, revision)
        first = explained[0].condition
        assert first.revision == revision, error
        yield first.id, first.release, error
        for offence in explained:
            if (offence.condition.id, offence.condition.revision) == (first.id, revision):
                execute(database, *(offence.statements or [by_hand[first.id]] if by_hand else offence.statements))
                variables |= offence.variables
    raise AssertionError("it never ends")


def listed(environment: Environment, copy: str, folder: Path) -> str:
    """What the target says to listing runs, steps and artifacts."""
    variables = {"ZENML_STORE_URL": copy if "://" in copy else f"sqlite:///{copy}"}
    log = f"{uuid.uuid4().hex}.log"
    ended = run_command(
        environment, [str(environment.python), "-c", LIST], folder=folder, variables=variables, timeout=300, log=log
    )
    return ended.log.read_text()


NOW = {"created": "2024-01-01 00:00:00", "updated": "2024-01-01 00:00:00"}
LATER = "2030-01-01 00:00:00"


@pytest.fixture(scope="module")
def target(environment: Callable[[str], Environment]) -> Environment:
    return environment(TARGET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("content")


@pytest.fixture(scope="module")
def sample(deploy: Callable[[str, Path], Path], folder: Path) -> Callable[[str], Path]:
    """``sample("0.43.0")``: a database that this release filled; tests work on copies."""

    @cache
    def database(version: str) -> Path:
        return deploy(version, folder / version) / "local_stores" / "default_zen_store" / "zenml.db"

    return lambda version: Path(shutil.copy(database(version), folder / f"{uuid.uuid4().hex}.db"))


@pytest.fixture(scope="module")
def old(target: Environment, sample: Callable[[str], Path], folder: Path) -> Path:
    """A store of 0.46.0: it has models, and still what 0.50.0 takes away."""
    database = sample("0.43.0")
    upgraded(target, database, "0.46.0", folder)
    return database


def first(database: Database, table: str, column: str = "id") -> str:
    return str(rows(database, f"SELECT `{column}` FROM `{table}` ORDER BY created, id LIMIT 1")[0][0])


def spoil(store: Database) -> None:
    """Plant every fault for which a store of 0.46.0 has the tables."""
    model = {"workspace_id": first(store, "workspace"), **NOW}
    plant(store, "model", name="quoted", tags='["it\'s", "plain"]', **model)
    plant(store, "model", name="a parameter", tags='[":ml"]', **model)
    plant(store, "model", name="fine", tags='["team:ml", "a::b"]', **model)
    plant(store, "run_metadata", like="1 = 1", pipeline_run_id=None, step_run_id=None, artifact_id=None)
    runs = [row[0] for row in rows(store, "SELECT id FROM pipeline_run ORDER BY created")]
    execute(
        store,
        f"UPDATE pipeline_run SET orchestrator_run_id = 'same', deployment_id = (SELECT deployment_id FROM pipeline_run"
        f" WHERE id = '{runs[0]}') WHERE id IN ('{runs[0]}', '{runs[1]}')",
        "UPDATE pipeline_run SET deployment_id = NULL, orchestrator_run_id = 'x'"
        f" WHERE id IN ('{runs[2]}', '{runs[3]}')",
        "DELETE FROM identity",
        "UPDATE workspace SET name = 'main'",
    )
    plant(store, "user", like="name = 'default'", created=LATER)
    plant(store, "step_run", like="name = 'load'", created=LATER)
    other = plant(store, "workspace", like="name = 'main'", name="other", created=LATER)
    plant(store, "pipeline_run", like=f"id = '{runs[4]}'", workspace_id=other, orchestrator_run_id="new")
    for text in ("[1]", "{broken: 'a password'", '{"a": {"x": NaN}}'):
        plant(store, "pipeline_deployment", like="1 = 1", step_configurations=text)


def test_each_fault_of_an_old_store_stops_it_where_told_and_its_remedy_lets_it_go_on(
    target: Environment, old: Path, folder: Path
) -> None:
    store = copied(old, folder)
    spoil(store)
    told = {(found.condition.id, found.condition.table): found for found in offences(store)}
    assert {row["tag"] for row in told["DC115", "model"].rows} == {":ml", "it's"}
    assert told["DC106", "pipeline_run"].count == 4
    assert told["DC101", "workspace"].message.endswith("2 workspaces: 'main' and 'other'.")
    assert "password" not in str([vars(found) for found in offences(store)])

    course = list(put_right(target, store, folder))
    assert [(one, release) for one, release, _ in course] == [
        ("DC115", "0.47.0"),
        ("DC133", "0.51.0"),
        ("DC106", "0.54.0"),
        ("DC108", "0.55.5"),
        ("DC114", "0.57.0rc1"),
        ("DC109", "0.68.0"),
        ("DC107", "0.72.0"),
        ("DC101", "0.80.0"),
        ("DC102", "0.80.0"),
        ("DC109", "0.83.1"),
        ("", ""),
    ]
    migrated = Path(course[-1][2])
    assert rows(migrated, "SELECT name FROM project") == [("main",)]
    assert rows(migrated, "SELECT COUNT(*) FROM pipeline_run") == [(6,)]
    assert rows(migrated, "SELECT COUNT(*) FROM pipeline_run WHERE name LIKE '%-other'") == [(1,)]
    assert sorted(rows(migrated, "SELECT name FROM tag")) == [("_ml",), ("a::b",), ("it_s",), ("plain",), ("team:ml",)]


def test_each_fault_of_a_younger_store_stops_it_where_told_and_nothing_is_missing_afterwards(
    target: Environment, sample: Callable[[str], Path], folder: Path
) -> None:
    store = sample("0.60.0")
    upgraded(target, store, "0.65.0", folder)
    workspace = first(store, "workspace")
    plant(store, "artifact", name=first(store, "artifact", "name"), has_custom_name=0, created=LATER, updated=LATER)
    plant(store, "step_run", like="name = 'load'", created=LATER)
    tag = plant(store, "tag", name="blue", color="blue", **NOW)
    plant(store, "tag_resource", tag_id=tag, resource_id=workspace, resource_type="dataset", **NOW)
    another = plant(store, "tag", name="red", color="red", **NOW)
    template = plant(store, "run_template", name="nightly", workspace_id=workspace, **NOW)
    plant(store, "tag_resource", tag_id=another, resource_id=template, resource_type="run_template", **NOW)
    settings = uuid.uuid4().hex
    with closing(sqlite3.connect(store)) as connection, connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(server_settings)") if row[1] != "id"]
        connection.execute(
            f"INSERT INTO server_settings (id, {', '.join(columns)}) SELECT '{settings}', {', '.join(columns)}"
            " FROM server_settings"
        )
    execute(
        store,
        "UPDATE pipeline_run SET status = 'exploded' WHERE id = (SELECT MIN(id) FROM pipeline_run)",
        "UPDATE artifact_version SET type = 'dataartifact' WHERE id = (SELECT MIN(id) FROM artifact_version"
        " WHERE type = 'DataArtifact')",
        f"UPDATE pipeline_run SET name = '{'x' * 300}' WHERE id = (SELECT MAX(id) FROM pipeline_run)",
    )
    by_hand = {"DC134": f"DELETE FROM server_settings WHERE id = '{settings}'"}
    course = list(put_right(target, store, folder, by_hand))
    assert [(one, release) for one, release, _ in course] == [
        ("DC118", "0.70.0"),
        ("DC107", "0.72.0"),
        ("DC132", "0.80.0"),
        ("DC134", "0.81.0"),
        ("DC135", "0.90.0rc0"),
        ("", ""),
    ]
    migrated = Path(course[-1][2])
    said = listed(target, str(migrated), folder)
    assert "'exploded' is not a valid ExecutionStatus" in said
    assert "'dataartifact' is not a valid ArtifactType" in said
    found = offences(migrated)
    assert {one.condition.id for one in found} == {"DC124", "DC125"}
    assert f"'{'x' * 60}…'" in found[-1].message
    execute(migrated, *[statement for one in found for statement in one.statements])
    assert offences(migrated) == []
    assert listed(target, str(migrated), folder).splitlines()[-3:] == ["runs 5", "steps 15", "artifacts 18"]
    assert rows(migrated, "SELECT COUNT(*) FROM artifact_version WHERE type = 'BaseArtifact'") == [(4,)]


@pytest.fixture(scope="module")
def server_store(mysql_store: Callable[..., Server], zenml_mariadb: Server) -> Callable[[str], Server]:
    """``server_store("0.60.0")``: on a MariaDB that ZenML can reach."""
    return lambda version: mysql_store(version, on=zenml_mariadb)


def test_names_that_only_the_server_calls_equal_stop_it_and_their_remedy_lets_it_go_on(
    target: Environment, server_store: Callable[[str], Server], folder: Path
) -> None:
    store = server_store("0.55.5")
    own = {"workspace_id": first(store, "workspace"), "user_id": first(store, "user"), **NOW}
    source = plant(
        store, "event_source", name="s", flavor="f", plugin_subtype="p", description="", configuration="x", is_active=1,
        **own,
    )  # fmt: skip
    plant(
        store, "trigger", name="t", event_source_id=source, event_filter="x", action="x", action_flavor="f",
        action_subtype="s", description="", is_active=1, service_account_id=own["user_id"], auth_window=0, **own,
    )  # fmt: skip
    run, name = first(store, "pipeline_run"), first(store, "pipeline_run", "name")
    plant(store, "pipeline_run", like=f"id = '{run}'", name=name.upper(), orchestrator_run_id="new", created=LATER)
    plant(store, "pipeline", like="name = 'publishing_pipeline'", name="Publishing_Pipeline", created=LATER)
    version = first(store, "artifact_version")
    execute(store, f"UPDATE artifact_version SET version = 'v' WHERE id = '{version}'")
    plant(store, "artifact_version", like=f"id = '{version}'", version="V", created=LATER)

    course = list(put_right(target, store, folder))
    assert [(one, release) for one, release, _ in course] == [
        ("DC105", "0.60.0"),
        ("DC103", "0.70.0"),
        ("DC103", "0.70.0"),
        ("", ""),
    ]
    assert ["1064" in course[0][2], "1062" in course[1][2], "1062" in course[2][2]] == [True] * 3
    versions = rows(store, "SELECT name FROM pipeline WHERE name LIKE 'publishing%' ORDER BY created, id")
    assert [row[0][:19] for row in versions] == ["publishing_pipeline", "publishing_pipeline", "Publishing_Pipeline"]
    assert versions[0] == versions[1]  # versions of one pipeline keep one name


def test_everything_can_be_put_right_on_a_server_too(
    target: Environment, server_store: Callable[[str], Server], folder: Path
) -> None:
    store = server_store("0.60.0")
    workspace, user = first(store, "workspace"), first(store, "user")
    own = {"user_id": user, **NOW}
    action = plant(
        store, "action", name="a", workspace_id=workspace, service_account_id=user, auth_window=0, flavor="f",
        plugin_subtype="s", configuration="x", **own,
    )  # fmt: skip
    for _ in "two":
        plant(
            store, "trigger", name="t", workspace_id=workspace, action_id=action, event_filter="x", is_active=1, **own
        )
    for name in ("red", "Red", "blue", "blue"):
        plant(store, "tag", name=name, color="red", **NOW)
    plant(store, "step_run", like="name = 'load'", created=LATER)
    other = plant(store, "workspace", like="name = 'default'", name="it's \\ other", created=LATER)
    plant(store, "pipeline", like="1 = 1", workspace_id=other)
    plant(store, "pipeline_run", like="1 = 1", workspace_id=other, orchestrator_run_id="new")
    plant(store, "pipeline_deployment", like="1 = 1", step_configurations="[]")
    plant(store, "pipeline_deployment", like="1 = 1", step_configurations="{'")

    found = offences(store)
    assert {one.condition.id for one in found} == {"DC101", "DC107", "DC109", "DC111", "DC113", "DC116", "DC117"}
    assert not [one for one in found if one.not_checked]
    execute(store, *[statement for one in found if one.condition.id != "DC117" for statement in one.statements])
    course = list(put_right(target, store, folder))
    assert [(one, release) for one, release, _ in course] == [("DC117", "0.80.0"), ("", "")]
    assert "1064" in course[0][2]
    migrated = store.using(course[-1][2].rpartition("/")[2])
    assert {row[0] for row in rows(migrated, "SELECT name FROM tag")} >= {"blue"}  # it is not lost
    assert len(rows(migrated, "SELECT name FROM tag WHERE name IN ('red', 'Red')")) == 1
    assert rows(migrated, "SELECT COUNT(*) FROM pipeline_run WHERE name LIKE '%-it''s %other'") == [(1,)]
    assert listed(target, url(migrated), folder).splitlines()[-3:-1] == ["runs 6", "steps 15"]


def test_an_old_store_on_a_server_is_put_right_and_artifact_names_that_fold_stop_0_51_0(
    target: Environment, server_store: Callable[[str], Server], folder: Path
) -> None:
    store = server_store("0.43.0")
    for name in ("Crème", "creme", "creme"):
        plant(store, "artifact", like="1 = 1", name=name)
    (merged,) = [one for one in offences(store) if one.condition.id == "DC120"]
    assert (merged.count, len(merged.statements)) == (3, 1)
    names = len(rows(store, "SELECT DISTINCT BINARY name FROM artifact"))
    upgraded(target, store, "0.46.0", folder)
    spoil(store)
    found = {one.condition.id: one for one in offences(store)}
    assert found.keys() >= {"DC101", "DC102", "DC106", "DC107", "DC108", "DC109", "DC114", "DC115", "DC133"}
    for one in offences(store):
        if one.condition.id != "DC120":
            execute(store, *one.statements)
    assert {one.condition.id for one in offences(store, "46506f72f0ed")} == {"DC102"}  # by a variable
    upgraded(target, store, "0.50.0", folder)
    for name, custom in (("Boost", 0), ("boost", 1), ("boost", 1)):
        plant(store, "artifact", like="1 = 1", name=name, has_custom_name=custom)
    found = {one.condition.id: one for one in offences(store)}
    assert [found[one].count for one in ("DC119", "DC120")] == [3, 3]
    with pytest.raises(AssertionError, match="1242"):
        upgraded(target, copied(store, folder), "0.51.0", folder)
    execute(store, *found["DC119"].statements, *found["DC120"].statements)
    upgraded(target, store, "0.51.0", folder)
    assert len(rows(store, "SELECT name FROM artifact")) == names + 2
    upgraded(target, store, "0.72.0", folder)


CLEAN = {
    "0.43.0": {"DC113", "DC121", "DC123", "DC130"},
    "0.55.5": {"DC113", "DC130"},
    "0.60.0": {"DC113", "DC130"},
    "0.70.0": {"DC130"},
    "0.80.2": set(),
}


@pytest.mark.parametrize("version", CLEAN)
def test_a_clean_store_is_told_only_what_will_happen_to_it(sample: Callable[[str], Path], version: str) -> None:
    found = offences(sample(version))
    assert {one.condition.id for one in found} == CLEAN[version]
    assert not [one for one in found if one.not_checked or one.condition.severity is Severity.BLOCK]


@pytest.mark.parametrize(("version", "expected"), [("0.55.5", {"DC113"}), ("0.70.0", set()), ("0.98.0", set())])
def test_a_clean_store_on_a_server_as_well(
    mysql_store: Callable[[str], Server], version: str, expected: set[str]
) -> None:
    found = offences(mysql_store(version))
    assert ({one.condition.id for one in found}, [one.not_checked for one in found if one.not_checked]) == (
        expected,
        [],
    )


def test_what_is_lost_or_renamed_at_0_50_0_is_told(sample: Callable[[str], Path], old: Path, folder: Path) -> None:
    store = sample("0.43.0")
    component = "type = 'orchestrator' AND name = 'default'"
    plant(store, "stack_component", like=component, name="vault", type="secrets_manager", flavor="aws", user_id=None)
    role = plant(store, "role", name="reader", **NOW)
    plant(store, "role_permission", name="read", role_id=role)
    plant(store, "user_role_assignment", like="1 = 1", role_id=role)
    plant(store, "team", name="us", **NOW)
    plant(store, "logs", like="1 = 1", uri="gone", step_run_id="1" * 32)
    plant(store, "logs", like="1 = 1", uri="of nothing", step_run_id=None, pipeline_run_id=None)
    found = {(one.condition.id, one.condition.table): one for one in offences(store)}
    assert {table for one, table in found if one == "DC111"} == {
        "role",
        "role_permission",
        "user_role_assignment",
        "team",
    }
    assert found["DC110", "stack_component"].rows[0]["name"] == "vault"
    plant(store, "workspace", like="1 = 1", name="other")
    after = {one.condition.id for one in offences(store, passed=True)}
    assert ids(store) - after == {"DC101"}  # it would have stopped there
    assert {row["uri"] for row in found["DC112", "logs"].rows} == {"gone", "of nothing"}
    assert "DC128" not in ids(store)
    assert {one.condition.id for one in offences(store, target="0.50.0")} >= {"DC121", "DC123", "DC128"}

    with_models = copied(old, folder)
    plant(with_models, "model_versions_runs", name="r", workspace_id="w", model_id="m", model_version_id="v", **NOW)
    (link,) = [one for one in offences(with_models) if one.condition.id == "DC122"]
    assert (link.condition.table, link.count) == ("model_versions_runs", 1)


def test_the_second_default_user_of_0_46_1_is_told(target: Environment, old: Path, folder: Path) -> None:
    store = copied(old, folder)
    upgraded(target, store, "0.46.1", folder)
    second = plant(store, "user", like="name = 'default'", is_service_account=0)
    (found,) = [one for one in offences(store) if one.condition.id == "DC131"]
    assert found.rows == [{"id": second, "name": "default"}]
    assert "DC108" not in ids(store)  # the migration renames it


def test_duplicates_that_releases_rename_are_told_and_mended(sample: Callable[[str], Path]) -> None:
    store = sample("0.60.0")
    plant(store, "pipeline_run", like="1 = 1", orchestrator_run_id="new", created=LATER)
    plant(store, "artifact_version", like="1 = 1", created=LATER)
    for name in ("a", "a", "a", "b", "b", "c"):
        plant(store, "tag", name=name, color="red", **NOW)
    found = {(one.condition.id, one.condition.table): one for one in offences(store)}
    assert found.keys() >= {("DC104", "pipeline_run"), ("DC104", "artifact_version")}
    lost = found["DC116", "tag"]
    assert lost.message.startswith("5 rows of tag share 2 names ('a' and 'b');")
    execute(store, *[statement for one in found.values() for statement in one.statements])
    assert {"DC104", "DC116"} & ids(store) == set()
    assert {"a", "b", "c"} < {row[0] for row in rows(store, "SELECT name FROM tag")}


def test_step_configurations_that_are_twice_in_a_snapshot_are_told(mysql_store: Callable[[str], Server]) -> None:
    store = mysql_store("0.98.0")
    plant(store, "step_configuration", like="1 = 1")
    (found,) = offences(store)
    assert (found.condition.id, found.count, found.statements) == ("DC126", 2, [])


def test_steps_that_only_the_server_calls_equal_are_told(mysql_store: Callable[[str], Server]) -> None:
    store = mysql_store("0.70.0")
    for text in ('{"Train": {}, "train ": {}}', '{"train": {}, "trained": {}}'):
        plant(store, "pipeline_deployment", like="1 = 1", step_configurations=text)
    (found,) = offences(store)
    assert (found.condition.id, found.count, found.rows[0]["steps"]) == ("DC136", 1, "'Train' and 'train '")


def test_a_store_without_any_workspace_gets_one(old: Path, folder: Path) -> None:
    store = copied(old, folder)
    execute(store, "DELETE FROM workspace")
    (found,) = [one for one in offences(store) if one.condition.id == "DC102"]
    assert found.message == "0.80.0 looks for a workspace named default and finds none."
    execute(store, *found.statements)
    assert "DC102" not in ids(store)


def test_what_cannot_be_looked_at_is_not_checked_rather_than_absent(sample: Callable[[str], Path]) -> None:
    store = sample("0.60.0")
    execute(store, "DROP TABLE model", "UPDATE pipeline_run SET name = CAST(x'fffe' AS TEXT)")
    plant(store, "workspace", name="other", description="", **NOW)
    found = offences(store, "3b1776345020")
    assert found[0].condition.id == "DC101"
    unseen = [one for one in found if one.not_checked]
    assert found[-len(unseen) :] == unseen
    assert ("DC125", "model") in {(one.condition.id, one.condition.table) for one in unseen}
    said = next(one.not_checked for one in unseen if one.condition.table == "model")
    assert said.endswith("LookupError: there is no model.name")
    assert {one.count for one in unseen} == {0}


def test_every_condition_concerns_some_release_on_its_engine() -> None:
    """A misspelt table or column would never be looked at."""
    seen = {
        (one.id, one.revision, one.table, engine)
        for release in releases.all()
        for engine in ("sqlite", "mysql")
        for goal in {TARGET, "0.50.0"}
        for one in content.applicable(release.stamp, goal, engine)
    }
    wanted = {
        (entry["id"], entry.get("revision", ""), table, engine)
        for entry in content._catalogue()
        for table in entry["over"]
        for engine in ([entry["engine"]] if entry.get("engine") else ["sqlite", "mysql"])
    }
    assert wanted == seen
    for entry in content._catalogue():
        steps = [entry[key] for key in ("revision", "since", "before", "target") if entry.get(key)]
        assert None not in map(releases.position, steps), entry["id"]


def test_a_tag_can_only_be_bound_to_tables_with_an_owner() -> None:
    (condition,) = [one for one in content.applicable("0.70.0", TARGET, "sqlite") if one.id == "DC132"]
    owned = {table for table, columns in (schemas.at("41b28cae31ce") or {}).items() if "user_id" in columns}
    assert set(condition.values) == owned


def test_components_named_default_without_the_stack_fail_after_the_migration(
    deployment: Callable[..., Path], environment: Callable[[str], Environment], tmp_path: Path
) -> None:
    store = deployment("0.70.0") / "local_stores" / "default_zen_store" / "zenml.db"
    execute(store, "UPDATE stack SET name = 'mine' WHERE name = 'default'")
    settings = {"ZENML_STORE_URL": url(copied(store, tmp_path))}
    reply = run_probe(environment(TARGET), "migrate", {}, folder=tmp_path, variables=settings, timeout=300)
    assert reply["error"]["type"] == "EntityExistsError"
    [offence] = [one for one in offences(store) if one.condition.id == "DC137"]
    assert offence.count == 2
    execute(store, *offence.statements)
    assert stops(environment(TARGET), store, tmp_path, {})[0] == ""
