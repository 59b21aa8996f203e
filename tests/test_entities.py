"""What people see by name, listed by real releases before and after a migration, and what is said of the difference."""

import json
import runpy
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databases
import pytest

from zenml_upgrade_kit.errors import ProbeFailed
from zenml_upgrade_kit.probing import Environment, run_command
from zenml_upgrade_kit.rehearsal import entities
from zenml_upgrade_kit.stores.address import Server

Environments = Callable[[str], Environment]
Sides = Callable[[str], tuple[dict[str, Any], dict[str, Any]]]
VALUE = "never-to-be-seen"
PREPARE = f"""
import os
from zenml.client import Client
from zenml.enums import SecretScope
client = Client()
client.create_secret("shared", {{"key": "{VALUE}"}})
client.create_user("bob", password="{VALUE}")
if hasattr(client, "create_tag"):
    client.create_model("forecast", tags=["quarterly"])
if hasattr(client, "create_service_account"):
    client.create_service_account("robot")
os.environ["ZENML_DEFAULT_USER_NAME"] = "bob"
client._active_user = None
client.create_secret("of-bob", {{"key": "{VALUE}"}}, scope=SecretScope.USER)
"""
TWINS = {  # two of a name, which later releases do not allow
    "0.43.0": ("stack", "default"),
    "0.55.5": ("tag", "quarterly"),
    "0.70.0": ("secret", "shared"),
}


def twin(database: Path, table: str, name: str) -> None:
    """A second row of that name; indexes that forbid it go, as in stores that were made before there were any."""
    with closing(sqlite3.connect(database)) as connection, connection:
        columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
        values = ", ".join("lower(hex(randomblob(16)))" if column == "id" else f'"{column}"' for column in columns)
        connection.execute(f'INSERT INTO "{table}" SELECT {values} FROM "{table}" WHERE name = ? LIMIT 1', [name])


def url(database: Path) -> dict[str, str]:
    return {"ZENML_STORE_URL": f"sqlite:///{database}"}


@pytest.fixture(scope="module")
def store(
    deploy: Callable[[str, Path], Path], environment: Environments, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """A database with several users, secrets, what else the release has, and two of one name."""

    @cache
    def prepare(version: str) -> Path:
        folder = tmp_path_factory.mktemp("entities")
        own = environment(version)
        database = deploy(version, folder / "own") / "local_stores" / "default_zen_store" / "zenml.db"
        command = [str(own.python), "-c", PREPARE]
        ended = run_command(own, command, folder=folder / "prepare", variables=url(database), timeout=300)
        assert ended.returncode == 0, ended.last_lines()
        twin(database, *TWINS[version])
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute(
                "UPDATE flavor SET name = 'ours', is_custom = 1 WHERE id = (SELECT id FROM flavor WHERE name = 's3')"
            )
        return database

    return prepare


@pytest.fixture(scope="module")
def sides(store: Callable[[str], Path], environment: Environments, tmp_path_factory: pytest.TempPathFactory) -> Sides:
    """What the release that wrote a store lists in it, and what 0.98.0 does, which migrates a copy as it opens it."""

    @cache
    def listed(version: str) -> tuple[dict[str, Any], dict[str, Any]]:
        folder, found = tmp_path_factory.mktemp("sides"), []
        for release in (version, "0.98.0"):
            copy = folder / f"{release}.db"
            shutil.copy(store(version), copy)
            found.append(entities.listed(environment(release), copy, folder / release, url(copy), 300))
        return found[0], found[1]

    return listed


def names(side: dict[str, Any], kind: str) -> list[str]:
    return sorted(entity["name"] for entity in side["entities"][kind])


@pytest.mark.parametrize("version", ["0.43.0", "0.55.5", "0.70.0"])
def test_every_change_that_people_notice_has_its_reason(sides: Sides, version: str) -> None:
    before, after = sides(version)
    assert (before["errors"], after["errors"], before["cut"], after["cut"]) == ({}, {}, {}, {})
    assert (before["zenml"], after["zenml"], before["user"]) == (version, "0.98.0", "default")
    assert before["runs"] == after["runs"] == len(before["entities"]["runs"]) == 5
    assert before["artifact_versions"] == after["artifact_versions"] == 18
    found = entities.changes(before, after)
    assert [row for row in found if "expected" not in row] == []
    assert VALUE not in json.dumps([before, after, found])


@pytest.mark.parametrize("version", ["0.43.0", "0.55.5", "0.70.0"])
def test_secrets_of_every_user_are_read_and_not_repeated(sides: Sides, version: str) -> None:
    for side in sides(version):
        secrets = {secret["name"].split("_")[0]: secret["readable"] for secret in side["entities"]["secrets"]}
        assert secrets == {"shared": True, "of-bob": True}


def test_what_becomes_of_the_default_stack_and_of_versions_of_a_pipeline_is_told(sides: Sides) -> None:
    rows = entities.changes(*sides("0.43.0"))
    told = {(row["kind"], row["change"], row.get("release")) for row in rows}
    assert ("stacks", "renamed", "0.50.0") in told
    assert ("stacks", "new", "0.50.0") in told
    assert ("components", "new", "0.50.0") in told
    assert ("components", "new", "0.91.0") in told
    assert ("pipelines", "merged", "0.63.0") in told
    assert ("users", "changed", "0.56.0") in told
    details = [row["detail"] for row in rows]
    assert "There is a new stack, default." in details
    assert "The user bob changes; may administrate: not told before, yes afterwards." in details
    assert any(detail.startswith("2 versions of the pipeline ") for detail in details)
    assert len([row for row in rows if row["kind"] == "stacks" and row["change"] == "renamed"]) == 2


@pytest.mark.parametrize(
    ("version", "kind", "name"), [("0.55.5", "tags", "quarterly"), ("0.70.0", "secrets", "shared")]
)
def test_a_name_that_was_used_twice_is_told(sides: Sides, version: str, kind: str, name: str) -> None:
    (row,) = [row for row in entities.changes(*sides(version)) if row["change"] == "renamed"]
    assert (row["kind"], row["before"], row["release"]) == (kind, name, "0.80.0")
    assert row["after"].startswith(f"{name}_")


def test_everything_that_has_a_name_is_listed(sides: Sides) -> None:
    before, after = sides("0.55.5")
    for side in (before, after):
        assert names(side, "users") == ["bob", "default"]
        assert names(side, "service_accounts") == ["robot"]
        assert names(side, "models") == ["forecast"]
        assert names(side, "flavors_custom") == ["ours"]
        assert names(side, "projects") == ["default"]
        assert "training_pipeline" in names(side, "pipelines")
        assert len(names(side, "artifacts")) == 18
    assert {user["name"]: user["is_admin"] for user in after["entities"]["users"]} == {"bob": True, "default": True}


def test_what_is_cut_is_said_and_nothing_is_called_gone_for_it(
    sides: Sides, store: Callable[[str], Path], environment: Environments, tmp_path: Path
) -> None:
    copy = tmp_path / "zenml.db"
    shutil.copy(store("0.70.0"), copy)
    some = entities.listed(environment("0.70.0"), copy, tmp_path / "some", url(copy), 300, limit=2)
    assert (some["cut"]["artifacts"], len(some["entities"]["artifacts"]), some["runs"]) == (18, 2, 5)
    kinds = {row["kind"] for row in entities.changes(some, sides("0.70.0")[1]) if row["change"] in ("new", "gone")}
    assert kinds <= {"components"}
    none = entities.listed(environment("0.70.0"), copy, tmp_path / "none", url(copy), 300, limit=0)
    assert (none["entities"], none["runs"], none["stacks"], none["errors"]) == ({}, 5, 1, {})


def test_a_kind_that_cannot_be_listed_is_an_error_of_that_kind(
    sides: Sides, store: Callable[[str], Path], environment: Environments, tmp_path: Path
) -> None:
    copy = tmp_path / "zenml.db"
    shutil.copy(store("0.70.0"), copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE pipeline_run SET status = 'dreaming'")
        connection.execute("UPDATE secret SET 'values' = 'bm90IGpzb24=' WHERE name = 'of-bob'")
    after = entities.listed(environment("0.98.0"), copy, tmp_path / "after", url(copy), 300)
    assert set(after["errors"]) == {"pipelines", "runs"}  # a pipeline is shown with its latest run
    assert "dreaming" in after["errors"]["runs"] or "validation error" in after["errors"]["runs"]
    rows = [row for row in entities.changes(sides("0.70.0")[0], after) if "expected" not in row]
    assert {(row["kind"], row["change"]) for row in rows[:2]} == {("runs", "error"), ("pipelines", "error")}
    assert all(row["detail"].startswith(f"ZenML 0.98.0 cannot list {row['kind']}: ") for row in rows[:2])
    assert [row["detail"] for row in rows[2:]] == ["The secret of-bob changes; can be read: yes before, no afterwards."]


def test_what_could_not_be_listed_before_either_is_not_the_upgrades_doing(sides: Sides) -> None:
    before, after = ({**side, "errors": {"tags": "ValueError: a color"}} for side in sides("0.70.0"))
    (row,) = [row for row in entities.changes(before, after) if row["change"] == "error"]
    assert row["detail"] == "ZenML 0.70.0 and 0.98.0 cannot list tags: ValueError: a color."
    assert row["expected"] == "it cannot be listed before the upgrade either"
    (row,) = [row for row in entities.changes(sides("0.70.0")[0], after) if row["change"] == "error"]
    assert "expected" not in row


def test_what_is_gone_or_other_without_a_reason_is_told_without_one(sides: Sides) -> None:
    before, after = (json.loads(json.dumps(side)) for side in sides("0.70.0"))
    after["entities"]["models"].clear()
    after["entities"]["pipelines"][0]["name"] = "another"
    next(user for user in after["entities"]["users"] if user["name"] == "default")["is_admin"] = False
    after["runs"] = 4
    told = {row["detail"] for row in entities.changes(before, after) if "expected" not in row}
    was = {entity["id"]: entity["name"] for entity in before["entities"]["pipelines"]}
    assert told == {
        "The model forecast is gone.",
        f"The pipeline {was[after['entities']['pipelines'][0]['id']]} is called another afterwards.",
        "The user default changes; may administrate: yes before, no afterwards.",
        "Runs: 5 before, 4 afterwards.",
    }


@pytest.mark.parametrize("version", ["0.43.0", "0.70.0"])
def test_all_workspaces_are_listed(
    store: Callable[[str], Path], environment: Environments, tmp_path: Path, version: str
) -> None:
    copy = tmp_path / "zenml.db"
    shutil.copy(store(version), copy)
    with closing(sqlite3.connect(copy)) as connection, connection:
        twin(copy, "workspace", "default")
        connection.execute("UPDATE workspace SET name = 'second' WHERE rowid = (SELECT MAX(rowid) FROM workspace)")
        connection.execute(
            "UPDATE pipeline_run SET workspace_id = (SELECT id FROM workspace WHERE name = 'second')"
            " WHERE id = (SELECT MIN(id) FROM pipeline_run)"
        )
    found = entities.listed(environment(version), copy, tmp_path / "found", url(copy), 300)
    assert (found["errors"], names(found, "projects")) == ({}, ["default", "second"])
    assert (found["runs"], found["stacks"]) == (5, len(found["entities"]["stacks"]))
    assert sorted(run["project"] for run in found["entities"]["runs"]) == [*["default"] * 4, "second"]


@pytest.mark.nightly
def test_archived_schedules_are_listed_on_both_sides(
    deploy: Callable[[str, Path], Path], environment: Environments, tmp_path: Path
) -> None:
    database = deploy("0.94.1", tmp_path / "own") / "local_stores" / "default_zen_store" / "zenml.db"
    with closing(sqlite3.connect(database)) as connection, connection:
        for number, name in enumerate(("daily", "retired")):
            connection.execute(
                "INSERT INTO schedule (id, created, updated, name, project_id, active, catchup, is_archived)"
                " SELECT ?, created, updated, ?, id, 1, 0, ? FROM project",
                [f"{number:032x}", name, number],
            )
    sides = [
        entities.listed(environment(version), database, tmp_path / version, url(database), 300)
        for version in ("0.94.1", "0.98.0")  # which migrates it
    ]
    assert [names(side, "schedules") for side in sides] == [["daily", "retired"]] * 2
    assert entities.changes(*sides) == []


def test_a_database_on_a_server_is_listed(
    mysql_store: Callable[..., Server], zenml_mariadb: Server, environment: Environments, tmp_path: Path
) -> None:
    own = mysql_store("0.70.0", zenml_mariadb)
    variables = {"ZENML_STORE_URL": databases.zenml_url(own)}
    found = entities.listed(environment("0.70.0"), own, tmp_path, variables, 300)
    assert (found["errors"], found["runs"], names(found, "users")) == ({}, 5, ["default"])


def test_nobody_is_taken_for_a_user_whose_secrets_could_not_be_listed() -> None:
    path = Path(entities.__file__).parent.parent / "probes" / "list_entities.py"
    probe = runpy.run_path(str(path))

    def refused(page: int, size: int) -> None:
        raise ValueError(f"page {page} of {size}")

    store = SimpleNamespace(_default_user=None, _get_default_user=None, get_user=lambda account: account)
    client = SimpleNamespace(zen_store=store, active_user=SimpleNamespace(name="default"), list_secrets=refused)
    lister = probe["Lister"](client, 10)
    lister.entities["users"] = {"bob": {}}
    lister.attempt("secrets", lister.secrets, None)
    assert (store._default_user, list(lister.errors)) == (None, ["secrets"])


def test_a_copy_that_cannot_be_opened_is_an_error_without_its_password(
    zenml_mariadb: Server, environment: Environments, tmp_path: Path
) -> None:
    own = zenml_mariadb.using("nowhere")
    variables = {"ZENML_STORE_URL": databases.zenml_url(own).replace("zenml:", "nobody:")}
    with pytest.raises(ProbeFailed) as caught:
        entities.listed(environment("0.70.0"), own, tmp_path, variables, 300)
    assert databases.PASSWORD not in str(caught.value)
