"""The backup step on a server's store: its provider, its drill, what a killed drill left."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import databases
import pytest

from zenml_upgrade_kit import archive, backup, drill, places, plan
from zenml_upgrade_kit.choices import BackupChoices
from zenml_upgrade_kit.errors import BadPlan
from zenml_upgrade_kit.findings import Status, StepResult
from zenml_upgrade_kit.stores import Store, mysql, scratch
from zenml_upgrade_kit.stores.address import Server

OldStore = Callable[..., Server]


@pytest.fixture
def server(mysql_store: OldStore, zenml_mariadb: Server) -> Server:
    return mysql_store("0.70.0", zenml_mariadb)


@pytest.fixture
def take(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., StepResult]:
    """``take(drill=True)``: a backup of the server's store, alone."""
    monkeypatch.setenv("PRODUCTION", databases.zenml_url(server))

    def step(**choices: Any) -> StepResult:
        values = {"store": "env:PRODUCTION", "out": str(tmp_path / "runs")}
        made = plan.make({**values, "backup": {"place": str(tmp_path / "place"), **choices}})
        return backup.back_up(backup.start(made).begin("20_backup"))

    return step


def test_the_provider_is_asked_about_its_own_backups(take: Callable[..., StepResult], bucket: str) -> None:
    amazon = boto3.client("rds", region_name="eu-west-1")
    about = {"DBInstanceClass": "db.t3.micro", "Engine": "mysql"}
    amazon.create_db_instance(DBInstanceIdentifier="kept", BackupRetentionPeriod=7, **about)
    amazon.create_db_instance(DBInstanceIdentifier="careless", BackupRetentionPeriod=0, **about)

    kept = take(managed="aws:eu-west-1/kept")
    assert (kept.status, kept.facts["managed"]["retention_days"]) == (Status.PASS, 7)
    careless = take(managed="aws:eu-west-1/careless")
    assert [finding.id for finding in careless.findings] == ["BK901"]
    result = take(managed="aws:eu-west-1/careless", snapshot=True)
    manual = amazon.describe_db_snapshots(DBInstanceIdentifier="careless", SnapshotType="manual")["DBSnapshots"]
    name = result.facts["manifest"]["name"].lower().replace(".", "-")
    assert [one["DBSnapshotIdentifier"] for one in manual] == [f"zenml-{name}"]
    assert manual[0]["DBSnapshotIdentifier"] in result.facts["managed"]["newest_snapshot"]
    missing = take(managed="aws:eu-west-1/nowhere")
    assert missing.status is Status.NOT_CHECKED
    assert "https://" in missing.not_checked[0], "where to look by hand"
    refused = take(managed="aws:eu-west-1/nowhere", snapshot=True)
    assert [(finding.id, finding.severity.value) for finding in refused.findings] == [("BK902", "block")]
    assert archive.verify(archive.open_backup(refused.facts["where"])) == [], "the backup itself is whole"


def test_a_server_of_no_known_provider_has_none(take: Callable[..., StepResult]) -> None:
    result = take()
    assert (result.status, "managed" in result.facts) == (Status.PASS, False)
    assert result.facts["manifest"]["server"]["flavour"] == "MariaDB"
    assert result.facts["manifest"]["tables"]["pipeline_run"]["bytes"] > 0


def test_a_drill_goes_elsewhere_when_the_account_may_make_no_schema(server: Server, tmp_path: Path) -> None:
    databases.client(server, f"GRANT ALL ON {server.database}.* TO narrow@'127.0.0.1' IDENTIFIED BY 'narrow-pw'")
    narrow = replace(server, user="narrow", password="narrow-pw")
    place = places.open_place(str(tmp_path / "place"))
    made = backup.make(Store(server=narrow, config_yaml=None, local_stores=Path()), place, BackupChoices())
    done = drill.drill(made, server=narrow)
    assert done.problems == ()
    assert done.into.startswith("a private MariaDB (not beside the store: ")
    assert "GRANT ALL ON `zenml" in done.into


def test_what_a_killed_drill_left_is_removed_by_the_next(server: Server, tmp_path: Path) -> None:
    place = places.open_place(str(tmp_path / "place"))
    made = backup.make(Store(server=server, config_yaml=None, local_stores=Path()), place, BackupChoices())
    if not (child := os.fork()):
        with drill.beside(made, server, None, purpose="drill"):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    while [one for one in scratch.leftovers(server) if one["alive"]]:
        time.sleep(0.05)
    assert len(scratch.leftovers(server)) == 1
    assert drill.drill(made, server=server).problems == ()
    assert scratch.leftovers(server) == []


def test_a_drill_that_cannot_be_done_is_not_checked(
    take: Callable[..., StepResult], server: Server, deployment: Callable[..., Path]
) -> None:
    made = archive.open_backup(take().facts["where"])
    facts = {**made.manifest["server"], "collations": ["utf8mb4_klingon_ci"]}
    foreign = replace(made, manifest={**made.manifest, "server": facts})
    done = drill.drill(foreign, server=server)
    assert "utf8mb4_klingon_ci" in done.not_checked
    assert made.verified["restored"] is None
    with pytest.raises(BadPlan, match="on a server"):
        drill.server_at(str(deployment("0.70.0")))


def test_a_table_that_was_made_meanwhile_is_said(take: Callable[..., StepResult], server: Server) -> None:
    made = archive.open_backup(take().facts["where"])
    with drill.beside(made, server, None, purpose="drill") as (fresh, problems):
        assert problems == []
        with closing(mysql.connect(fresh, write=True)) as connection:
            connection.execute("CREATE TABLE extra (id INT)")
            connection.execute("ALTER TABLE artifact MODIFY name VARCHAR(254) NOT NULL")
            connection.execute("DELETE FROM run_metadata LIMIT 1")
        found = drill.server_differences(made, fresh)
    rows = made.manifest["tables"]["run_metadata"]["rows"]
    assert found == [
        "table extra is not of this backup",
        f"table run_metadata has {rows - 1} rows, not {rows}",
        "the definition of table artifact differs",
    ]
