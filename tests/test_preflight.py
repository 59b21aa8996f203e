"""The preflight: damaged and strange stores are told apart, and none of them is touched."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from zenml_upgrade_kit import plan, preflight
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import BadPlan, KitError, StoreUnreadable
from zenml_upgrade_kit.findings import Status
from zenml_upgrade_kit.plan import Plan
from zenml_upgrade_kit.stores import sqlite

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
    run = preflight.start(upgrade(database))
    first = run.begin("00_start")
    first.finish(preflight.begin_facts(first))
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
    assert facts["source_sha256"] == sqlite.digest(Path(facts["store"]["path"]))
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
    run = preflight.start(made)
    first = run.begin("00_start")
    first.finish(preflight.begin_facts(first))
    result = preflight.preflight(run.begin("10_preflight"))
    assert result.status is Status.PASS
    for side, version in (("source", "0.70.0"), ("target", "0.98.0")):
        assert result.facts["environments"][side]["version"] == version
        assert result.facts["environments"][side]["python"] == pythons[side]


def test_requirements_that_do_not_fit_beside_a_release_block(
    deployment: Deployment, upgrade: Upgrade, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text("pydantic==1.10.13\n")
    run = preflight.start(upgrade(deployment("0.70.0"), requirements=str(tmp_path / "requirements.txt")))
    first = run.begin("00_start")
    first.finish(preflight.begin_facts(first))
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


def test_a_missing_store_is_an_error_and_is_not_created(upgrade: Upgrade, tmp_path: Path) -> None:
    missing = tmp_path / "nowhere" / "zenml.db"
    with pytest.raises(KitError, match="no such file"):
        preflight.check(upgrade(missing))
    assert not missing.parent.exists()
