"""The preflight: damaged and strange stores are told apart, and none of them is touched."""

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from zenml_upgrade_kit import backup, plan, preflight, stores
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import BadPlan, KitError, RunUnusable, StoreUnreadable
from zenml_upgrade_kit.findings import Status, StepResult
from zenml_upgrade_kit.plan import Plan
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import mysql, sqlite
from zenml_upgrade_kit.stores.address import Server

Deployment = Callable[..., Path]
Upgrade = Callable[..., Plan]


@pytest.fixture
def database(deployment: Deployment) -> Path:
    return deployment("0.70.0") / "local_stores" / "default_zen_store" / "zenml.db"


@pytest.fixture
def upgrade(tmp_path: Path) -> Upgrade:
    def make(store: Path | str, to: str = "0.98.0", **values: str) -> Plan:
        return plan.make({"store": str(store), "to": to, "out": str(tmp_path / "runs"), **values})

    return make


def change(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


def state(database: Path) -> tuple[str, list[str]]:
    return sqlite.digest(database), sorted(path.name for path in database.parent.iterdir())


def started(made: Plan) -> Run:
    """A new run whose first step is done."""
    run = preflight.start(made)
    first = run.begin("00_start")
    first.finish(preflight.begin_facts(first))
    return run


def ids(made: Plan) -> list[str]:
    return [finding.id for finding in preflight.check(made).findings]


@pytest.mark.parametrize("version", ["0.43.0", "0.55.5", "0.70.0"])
def test_a_healthy_store_passes(deployment: Deployment, upgrade: Upgrade, version: str) -> None:
    config = deployment(version)
    before = state(config / "local_stores" / "default_zen_store" / "zenml.db")
    result = preflight.check(upgrade(config))
    assert (result.step, result.status) == ("10_preflight", Status.PASS)
    assert {key: result.facts[key] for key in ("source_version", "stamp", "target_version")} == {
        "source_version": version,
        "stamp": version,
        "target_version": "0.98.0",
    }
    assert result.facts["store"]["config_yaml"] == str(config / "config.yaml")
    assert all(check["outcome"] in ("passed", "found") for check in result.facts["checks"])
    assert state(config / "local_stores" / "default_zen_store" / "zenml.db") == before


def damage_middle(database: Path) -> None:
    data = bytearray(database.read_bytes())
    half = len(data) // 2
    data[half : half + 20000] = b"\xff" * 20000
    database.write_bytes(data)


def cut(database: Path) -> None:
    database.write_bytes(database.read_bytes()[: int(database.stat().st_size * 0.6)])


def of_another_program(database: Path) -> None:
    database.unlink()
    change(database, "CREATE TABLE notes (id)")


Harm = Callable[[Path], object]
UNREADABLE: dict[str, tuple[Harm, str, str]] = {
    "zero bytes": (lambda path: path.write_bytes(b""), "DB006", "is empty"),
    "not a database": (lambda path: path.write_text("hello\n" * 900), "DB007", "does not start like a SQLite database"),
    "truncated": (cut, "DB007", "bytes are missing"),
    "no stamp": (lambda path: change(path, "DELETE FROM alembic_version"), "DB003", "no revision"),
    "no stamp table": (lambda path: change(path, "DROP TABLE alembic_version"), "DB003", "no revision"),
    "another program's": (of_another_program, "DB003", "not a ZenML store"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_a_store_without_a_readable_stamp_blocks_and_starts_no_run(
    database: Path, upgrade: Upgrade, tmp_path: Path, case: str
) -> None:
    harm, check_id, words = UNREADABLE[case]
    harm(database)
    before = state(database)
    result = preflight.check(upgrade(database))
    assert result.status is Status.BLOCK
    (finding,) = (finding for finding in result.findings if finding.id == check_id)
    assert words in finding.message
    with pytest.raises(StoreUnreadable, match=words):
        preflight.start(upgrade(database))
    assert not (tmp_path / "runs").exists()
    assert state(database) == before


BLOCKED: dict[str, tuple[Harm, str]] = {
    "corrupt middle": (damage_middle, "DB007"),
    "newer": (lambda path: change(path, "UPDATE alembic_version SET version_num = '0.99.0'"), "DB001"),
    "two stamps": (lambda path: change(path, "INSERT INTO alembic_version VALUES ('0.60.0')"), "DB005"),
    "half-migrated": (lambda path: change(path, "UPDATE alembic_version SET version_num = '0.68.0'"), "DB004"),
    "leftover backup": (lambda path: shutil.copy(path, path.with_name("zenml-backup.db")), "BK301"),
}


@pytest.mark.parametrize("case", BLOCKED)
def test_a_store_that_must_not_be_upgraded_gets_a_run_that_says_so(database: Path, upgrade: Upgrade, case: str) -> None:
    harm, check_id = BLOCKED[case]
    harm(database)
    before = state(database)
    assert check_id in ids(upgrade(database))
    run = started(upgrade(database))
    second = run.begin("10_preflight")
    result = preflight.preflight(second)
    assert result.status is Status.BLOCK
    assert "environments" not in result.facts
    assert state(database) == before


def test_a_store_of_two_stamps_goes_by_the_older_one(database: Path, upgrade: Upgrade) -> None:
    change(database, "INSERT INTO alembic_version VALUES ('0.60.0')")
    assert preflight.start(upgrade(database)).source_version == "0.60.0"


def test_a_wal_store_in_use_is_a_warning_and_its_newest_rows_are_seen(database: Path, upgrade: Upgrade) -> None:
    with closing(sqlite3.connect(database)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("INSERT INTO alembic_version VALUES ('0.60.0')")
        writer.commit()
        before = state(database)
        assert ids(upgrade(database)) == ["DB005", "DB008"]
        assert state(database) == before


def test_a_locked_store_blocks_and_says_why(database: Path, upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "PATIENCE", 0.1)
    with closing(sqlite3.connect(database, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        (finding,) = preflight.check(upgrade(database)).findings
    assert (finding.id, "locked" in finding.message) == ("DB011", True)


def test_the_start_takes_stock_and_a_digest(deployment: Deployment, upgrade: Upgrade) -> None:
    run = preflight.start(upgrade(deployment("0.70.0")))
    assert run.folder.name.endswith("-0.70.0-to-0.98.0")
    assert run.config_yaml is not None
    facts = preflight.begin_facts(run.begin("00_start")).facts
    assert facts["inventory"]["runs_by_status"]["completed"] > 0
    assert facts["source_identity"] == sqlite.digest(Path(facts["store"]["path"]))
    assert Path(facts["store"]["local_stores"]).is_dir()


def test_an_inventory_that_cannot_be_taken_is_not_checked(database: Path, upgrade: Upgrade) -> None:
    damage_middle(database)
    result = preflight.begin_facts(preflight.start(upgrade(database)).begin("00_start"))
    assert result.status is Status.NOT_CHECKED
    assert "inventory" in result.not_checked[0]


def test_interpreters_that_the_plan_gives_become_the_environments(
    deployment: Deployment, upgrade: Upgrade, environment: Callable[[str], Environment]
) -> None:
    pythons = {side: str(environment(version).python) for side, version in (("source", "0.70.0"), ("target", "0.98.0"))}
    made = upgrade(deployment("0.70.0"), **{f"{side}_python": path for side, path in pythons.items()})
    run = started(made)
    result = preflight.preflight(run.begin("10_preflight"))
    assert result.status is Status.PASS
    for side, version in (("source", "0.70.0"), ("target", "0.98.0")):
        assert result.facts["environments"][side]["version"] == version
        assert result.facts["environments"][side]["python"] == pythons[side]


def test_requirements_that_do_not_fit_beside_a_release_block(
    deployment: Deployment, upgrade: Upgrade, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text("pydantic==1.10.13\n")
    run = started(upgrade(deployment("0.70.0"), requirements=str(tmp_path / "requirements.txt")))
    result = preflight.preflight(run.begin("10_preflight"))
    (finding,) = result.findings
    assert (result.status, finding.id) == (Status.BLOCK, "EN402")
    assert finding.subject == str(tmp_path / "requirements.txt")
    assert "ZenML 0.70.0" in finding.message
    assert "pydantic==1.10.13" in finding.message
    assert "environments" not in result.facts


def test_an_empty_target_is_the_zenml_beside_the_kit(
    deployment: Deployment, upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.97.0")
    assert preflight.start(upgrade(deployment("0.70.0"), to="")).target_version == "0.97.0"


@pytest.mark.parametrize(
    ("stamp", "to", "message"),
    [
        ("0.70.0", "0.70.0", "nothing to upgrade"),
        ("0.43.0", "0.43.1", "nothing to upgrade"),  # a backport without a migration
        ("0.70.0", "0.70.9", "not a release"),
        ("0.42.0", "0.98.0", "older than ZenML 0.43.0"),
    ],
)
def test_what_is_no_upgrade_is_refused(
    database: Path, upgrade: Upgrade, tmp_path: Path, stamp: str, to: str, message: str
) -> None:
    change(database, f"UPDATE alembic_version SET version_num = '{stamp}'")
    for verb in (preflight.check, preflight.start):
        with pytest.raises(BadPlan, match=message):
            verb(upgrade(database, to=to))
    assert not (tmp_path / "runs").exists()


def test_a_source_that_writes_another_stamp_is_refused(database: Path, upgrade: Upgrade) -> None:
    assert preflight.start(upgrade(database, source="0.70.0")).source_version == "0.70.0"
    for verb in (preflight.check, preflight.start):
        with pytest.raises(BadPlan, match=r"0\.68\.1 did not write this database"):
            verb(upgrade(database, source="0.68.1"))


def test_a_missing_store_is_an_error_and_is_not_created(upgrade: Upgrade, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "zenml.db"
    with pytest.raises(KitError, match="no such file"):
        preflight.check(upgrade(missing))
    assert not missing.parent.exists()


# --- on a server

PASSWORD = "c4nary-of-the-store"


@pytest.fixture
def server(mysql_store: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Server]:
    """``server("0.70.0")``: a store whose URL, with a password, is in ``PROD``; its account may only read."""

    def make(version: str = "0.70.0") -> Server:
        store = mysql_store(version)
        with closing(mysql.connect(store, write=True)) as connection:
            connection.execute(f"CREATE OR REPLACE USER reader@localhost IDENTIFIED BY '{PASSWORD}'")
            connection.execute(f'GRANT SELECT ON "{store.database}".* TO reader@localhost')
        monkeypatch.setenv("PROD", f"mysql://reader:{PASSWORD}@localhost/{store.database}?unix_socket={store.socket}")
        return store

    return make


def alter(store: Server, *statements: str) -> None:
    with closing(mysql.connect(store, write=True)) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize("version", ["0.43.0", "0.55.5", "0.70.0"])
def test_a_healthy_store_on_a_server_passes(server: Callable[..., Server], upgrade: Upgrade, version: str) -> None:
    store = server(version)
    before = stores.identity(store)
    result = preflight.check(upgrade("env:PROD"))
    assert result.status is Status.PASS
    assert (result.facts["source_version"], result.facts["stamp"]) == (version, version)
    told = {check["id"]: check for check in result.facts["checks"]}
    for check_id in ("DB006", "DB007", "DB008"):
        assert told.pop(check_id)["outcome"] == "not_applicable"
    assert {check["outcome"] for check in told.values()} <= {"passed", "found"}
    assert result.facts["store"]["engine"] == "mysql"
    assert result.facts["store"]["path"] == f"mysql://reader@localhost{store.socket}/{store.database}"
    assert result.facts["store"]["local_stores"] == ""
    assert stores.identity(store) == before


ON_A_SERVER: dict[str, tuple[tuple[str, ...], str, str]] = {
    "a column of the stamp is gone": (
        ("ALTER TABLE pipeline_run DROP COLUMN status",),
        "DB004",
        "pipeline_run.status is missing",
    ),
    "a column of later": (
        ("ALTER TABLE stack ADD COLUMN environment BLOB",),
        "DB004",
        "stack.environment belongs to a later release",
    ),
    "a table of later": (("CREATE TABLE project (id CHAR(32))",), "DB004", "project belongs to a later release"),
    "a table of the stamp is gone": (("DROP TABLE run_metadata",), "DB004", "run_metadata is missing"),
    "newer": (("UPDATE alembic_version SET version_num = '0.99.0'",), "DB001", "downgrade"),
    "withdrawn": (("UPDATE alembic_version SET version_num = '0.56.0'",), "DB002", "withdrawn"),
    "no stamp": (("DELETE FROM alembic_version",), "DB003", "no revision"),
    "two stamps": (("INSERT INTO alembic_version VALUES ('0.60.0')",), "DB005", "2 rows"),
    "a backport": (("UPDATE alembic_version SET version_num = '0.75.0'",), "DB010", "backport"),
}


@pytest.mark.parametrize("case", ON_A_SERVER)
def test_a_strange_store_on_a_server_is_told(server: Callable[..., Server], upgrade: Upgrade, case: str) -> None:
    statements, check_id, words = ON_A_SERVER[case]
    store = server("0.70.0")
    alter(store, "SET FOREIGN_KEY_CHECKS = 0", *statements)
    found = {finding.id: finding for finding in preflight.check(upgrade("env:PROD")).findings}
    assert words in found[check_id].message


def test_somebody_elses_table_on_a_server_is_nobodys_business(server: Callable[..., Server], upgrade: Upgrade) -> None:
    alter(server(), "CREATE TABLE notes_of_the_team (id INT)")
    assert ids(upgrade("env:PROD")) == []


def test_an_empty_database_on_a_server_blocks_and_starts_no_run(
    mariadb: Server, upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with closing(mysql.connect(mariadb, write=True)) as connection:
        connection.execute("CREATE OR REPLACE DATABASE nothing_in_it")
    monkeypatch.setenv("PROD", f"mysql://root@localhost/nothing_in_it?unix_socket={mariadb.socket}")
    (finding,) = preflight.check(upgrade("env:PROD")).findings
    assert (finding.id, finding.severity.value) == ("DB003", "block")
    assert "is empty. ZenML would open it as a brand-new store" in finding.message
    with pytest.raises(StoreUnreadable, match="is empty"):
        preflight.start(upgrade("env:PROD"))
    assert not (tmp_path / "runs").exists()


def test_a_server_that_refuses_blocks_with_what_helps(
    server: Callable[..., Server], upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = server()
    alter(store, f'REVOKE SELECT ON "{store.database}".* FROM reader@localhost')
    alter(store, f'GRANT SELECT ON "{store.database}".pipeline TO reader@localhost')
    (finding,) = (one for one in preflight.check(upgrade("env:PROD")).findings if one.id in ("DB011", "DB003"))
    assert finding.severity.value == "block"
    monkeypatch.setenv("PROD", f"mysql://reader:wr0ng-c4nary@localhost/x?unix_socket={store.socket}")
    result = preflight.check(upgrade("env:PROD"))
    (finding,) = result.findings
    assert (finding.id, "Access denied" in finding.message) == ("DB011", True)
    assert "percent-encode" in finding.remedy
    assert "c4nary" not in repr(result)


def test_a_backup_that_zenml_left_of_a_server_is_found_where_config_yaml_says(
    server: Callable[..., Server], upgrade: Upgrade, tmp_path: Path
) -> None:
    store = server()
    config = tmp_path / "config"
    config.mkdir()
    section = {"url": os.environ["PROD"], "type": "sql"}
    (config / "config.yaml").write_text(yaml.safe_dump({"store": section}))
    assert ids(upgrade(config)) == []
    (config / "database_backup").mkdir()
    (config / "database_backup" / f"{store.database}-backup.json").write_text("[]")
    assert ids(upgrade(config)) == ["BK301"]
    (config / "config.yaml").write_text(yaml.safe_dump({"store": {**section, "backup_directory": str(tmp_path / "b")}}))
    assert ids(upgrade(config)) == []
    (tmp_path / "b" / f"{store.database}-backup").mkdir(parents=True)  # mydumper's, since 0.93
    assert ids(upgrade(config)) == ["BK301"]


def test_a_run_of_a_server_starts_and_keeps_no_password(server: Callable[..., Server], upgrade: Upgrade) -> None:
    store = server()
    run = started(upgrade("env:PROD"))
    assert run.folder.name.endswith("-0.70.0-to-0.98.0")
    facts = Run.open(run.folder).needs("00_start").facts
    assert facts["inventory"]["runs_by_status"]["completed"] > 0
    assert facts["source_identity"] == preflight.source_identity(run) == stores.identity(store)
    alter(store, "UPDATE pipeline SET updated = '2030-01-01 00:00:00' LIMIT 1")
    assert preflight.source_identity(run) != stores.identity(store)
    held = [path.read_bytes() for path in run.folder.rglob("*") if path.is_file()]
    assert len(held) >= 2
    assert PASSWORD.encode() not in b"".join(held)


def test_a_run_is_not_started_with_a_password_that_it_could_not_keep(
    server: Callable[..., Server], upgrade: Upgrade, tmp_path: Path
) -> None:
    server()
    assert preflight.check(upgrade(os.environ["PROD"])).status is Status.PASS
    for start in (preflight.start, backup.start):
        with pytest.raises(BadPlan, match="cannot keep the password") as raised:
            start(upgrade(os.environ["PROD"]))
        assert PASSWORD not in str(raised.value)
    assert not (tmp_path / "runs").exists()


def test_a_server_that_zenmls_own_settings_name_is_found_again(
    server: Callable[..., Server], upgrade: Upgrade, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    server()
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path / "none"))
    monkeypatch.setenv("ZENML_STORE_URL", os.environ["PROD"])
    assert preflight.start(upgrade("")).plan.store == backup.start(upgrade("")).plan.store == "env:ZENML_STORE_URL"
    monkeypatch.delenv("ZENML_STORE_URL")
    config = tmp_path / "config"
    config.mkdir()
    (config / "config.yaml").write_text(yaml.safe_dump({"store": {"url": os.environ["PROD"], "type": "sql"}}))
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(config))
    run = preflight.start(upgrade(""))
    assert run.plan.store == str(config)
    assert PASSWORD not in "".join(path.read_text() for path in run.folder.rglob("*.json"))


def test_a_run_of_an_older_kit_is_told_to_start_again(tmp_path: Path) -> None:
    run = Run.create(plan.make({"out": str(tmp_path)}), "0.70.0", "0.98.0")
    run.save(StepResult(step="00_start", status=Status.PASS, facts={"source_sha256": "ab" * 32}))
    with pytest.raises(RunUnusable, match="started by an older version of the kit") as raised:
        preflight.source_identity(run)
    assert "run 00_start again" in raised.value.remedy
