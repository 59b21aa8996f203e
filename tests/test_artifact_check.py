"""The check of all artifact versions of a run: what is found, what is said of it, and what stays as it was."""

from __future__ import annotations

import base64
import ctypes
import hashlib
import io
import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from rehearsed import rehearsed

from zenml_upgrade_kit import environments, inventory, plan, preflight
from zenml_upgrade_kit.artifacts import check, shards, workers
from zenml_upgrade_kit.artifacts.causes import Cause
from zenml_upgrade_kit.artifacts.locations import Location
from zenml_upgrade_kit.artifacts.tally import Group, Tally
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import BadPlan, EnvironmentFailed
from zenml_upgrade_kit.findings import StepResult
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import sqlite

Deploy = Callable[[str, Path], Path]
Environments = Callable[[str], Environment]


class Calls:
    """Pickles to a call of a function: what unpickling does is up to the pickle."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


@dataclass(frozen=True)
class Site:
    """A deployment that 0.60.0 filled, and a run of its upgrade up to the rehearsed migration."""

    config: Path
    run: Run

    @property
    def database(self) -> Path:
        return self.config / "local_stores" / "default_zen_store" / "zenml.db"

    def rows(self) -> dict[str, dict[str, Any]]:
        """The newest artifact version of each name."""
        with closing(sqlite.connect(self.database)) as connection:
            return {row["name"]: row for row in inventory.artifacts(connection, self.config / "local_stores")}

    def content(self) -> dict[str, str]:
        files = [path for path in self.config.parent.rglob("*") if path.is_file() and "runs" not in path.parts]
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def reload(self, **choices: Any) -> StepResult:
        step = self.run.begin("40_artifacts")
        result = check.reload(step, **choices)
        self.run.save(result)
        self.run.release("40_artifacts")
        return result


@pytest.fixture(scope="module")
def site(
    deploy: Deploy, environment: Environments, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Callable[[dict[str, Any], Path], None]], Site]:
    """``site(change)``: change gets the newest row of each name and the database before the run begins."""

    def make(change: Callable[[dict[str, Any], Path], None]) -> Site:
        folder = tmp_path_factory.mktemp("check")
        config = deploy("0.60.0", folder / "own")
        made = Site(config, run=None)  # type: ignore[arg-type]
        change(made.rows(), made.database)
        values = plan.make(
            {
                "store": str(config),
                "code": str(config.parent / "code"),
                "to": "0.98.0",
                "out": str(folder / "runs"),
                "artifacts": {"timeout": 20, "memory": "1GB"},
            }
        )
        run = preflight.start(values)
        run.save(preflight.begin_facts(run.begin("00_start")))
        found = {"source": environment("0.60.0").to_json(), "target": environment("0.98.0").to_json()}
        run.save(run.begin("10_preflight").result((), {"environments": found}))
        rehearsed(run, environment("0.98.0"))
        return Site(config, run)

    return make


def nothing(_rows: dict[str, Any], _database: Path) -> None:
    """The deployment as it is."""


@pytest.fixture(scope="module")
def sound(site: Callable[..., Site]) -> Site:
    return site(nothing)


def hostile(rows: dict[str, Any], database: Path) -> None:
    """What can be wrong with an artifact, one of each."""

    def overwrite(name: str, value: Any) -> None:
        (Path(rows[name]["uri"]) / "artifact.pkl").write_bytes(pickle.dumps(value))

    overwrite("model", Calls(ctypes.string_at, 0))
    overwrite("rule", Calls(os._exit, 3))
    overwrite("segment", Calls(shutil.rmtree, rows["segment"]["uri"]))
    (Path(rows["settings"]["uri"]) / "data.json").write_text('{"limit": 3, "na')
    shutil.rmtree(rows["region"]["uri"])
    [frame] = Path(rows["labels"]["uri"]).glob("*.parquet.gzip")
    frame.write_bytes(b"")
    elsewhere = database.parent.parent.parent / 'else"where 🦊'
    shutil.move(rows["months"]["uri"], elsewhere)
    with closing(sqlite3.connect(database)) as connection, connection:
        key = rows["months"]["id"].replace("-", "")
        connection.execute("UPDATE artifact_version SET uri = ? WHERE id = ?", (str(elsewhere), key))
        key = rows["complete"]["id"].replace("-", "")
        connection.execute("UPDATE artifact_version SET artifact_store_id = NULL WHERE id = ?", (key,))
        connection.execute("UPDATE artifact SET name = ? WHERE name = 'customers'", ('it\'s "quoted" 🦊',))


@pytest.fixture(scope="module")
def troubled(site: Callable[..., Site]) -> tuple[Site, StepResult, dict[str, dict[str, Any]], bool]:
    """A site with hostile artifacts, what its check found, the rows by name, and whether all files stayed."""
    made = site(hostile)
    before = made.content()
    result = made.reload()
    lines = (made.run.folder / check.FILE).read_text().splitlines()
    rows = {row["name"]: row for row in map(json.loads, lines)}
    return made, result, rows, made.content() == before


def test_a_sound_store_loads_as_it_was(sound: Site) -> None:
    before = sound.content()
    result = sound.reload()
    assert (result.status.value, result.findings) == ("pass", ())
    facts = result.facts
    assert (
        facts["counts"]["identical"] == facts["total"] == len((sound.run.folder / check.FILE).read_text().splitlines())
    )
    assert facts["total"] > 15
    assert facts["artifacts"] == facts["causes"] == []
    assert facts["user_modules"] == ["churn", "churn.customers"]
    assert sound.content() == before


def test_every_hostile_artifact_costs_itself_alone(
    troubled: tuple[Site, StepResult, dict[str, dict[str, Any]], bool],
) -> None:
    _, result, rows, kept = troubled
    loud = {name: row["outcome"] for name, row in rows.items() if row["outcome"] not in ("identical", "loads")}
    assert loud == {
        "model": "fails",
        "rule": "fails",
        "segment": "fails",
        "settings": "fails",
        "region": "lost",
        "labels": "fails",
    }
    assert rows['it\'s "quoted" 🦊']["outcome"] == "identical"
    assert "SIGSEGV" in rows["model"]["new"]
    assert "exit code 3" in rows["rule"]["new"]
    assert kept, "the pickle that removes its own directory removed nothing"
    assert result.status.value == "warn", "all of it was broken before the upgrade"


def test_what_was_found_is_said_by_its_cause(
    troubled: tuple[Site, StepResult, dict[str, dict[str, Any]], bool],
) -> None:
    _, result, rows, _ = troubled
    assert {rows[name]["cause"] for name in ("region",)} == {"AR607"}
    assert {rows[name]["cause"] for name in ("settings", "labels")} == {"AR608"}
    findings = {finding.id: finding for finding in result.findings}
    assert {"AR603", "AR604", "AR607", "AR608"} <= findings.keys()
    assert "outside" in findings["AR603"].message
    assert any("no longer registered" in line for line in result.not_checked)
    causes = {cause["example"]["name"]: cause for cause in result.facts["causes"]}
    assert {name for name, cause in causes.items() if not cause["broke_before"]} == {"region"}
    [step] = causes["region"]["steps"]
    assert (step["name"], step["file"], step["line"] > 0) == ("numbers", "churn/pipelines.py", True)


def test_a_check_that_was_killed_does_only_what_is_left(
    sound: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def cut(*arguments: Any, **options: Any) -> Any:
        for number, one in enumerate(whole(*arguments, **options)):
            if number == 2:
                raise KeyboardInterrupt
            yield one

    whole = workers.results
    monkeypatch.setattr(workers, "results", cut)
    with pytest.raises(KeyboardInterrupt):
        sound.reload()
    shards.close()
    done = sum(len(json.loads(path.read_text())) for path in (sound.run.work / "40_artifacts.kept").iterdir())
    assert done > 0
    ran: list[int] = []
    load = shards.run

    def counted(shard: Any, allowance: int = 0) -> Any:
        ran.append(len(shard.artifacts))
        return load(shard, allowance)

    monkeypatch.undo()
    monkeypatch.setattr(shards, "run", counted)
    sound.run.release("40_artifacts")
    result = sound.reload()
    assert sum(ran) + done == 2 * result.facts["total"]
    assert result.facts["counts"]["identical"] == result.facts["total"]
    assert not (sound.run.work / "40_artifacts.kept").exists()


def test_a_sample_says_what_it_leaves_out_and_progress_is_told(sound: Site) -> None:
    told: list[tuple[int, int]] = []
    result = sound.reload(sample=1, progress=lambda done, total, **_: told.append((done, total)))
    counts = result.facts["counts"]
    assert 0 < counts["identical"] < result.facts["total"]
    assert counts["identical"] + counts["not_checked"] == result.facts["total"]
    assert any("1 newest of its type" in line for line in result.not_checked)
    assert result.status.value == "not_checked"
    assert told[0][0] == 0
    assert told[-1] == (result.facts["total"], result.facts["total"])


def test_a_choice_that_cannot_be_is_refused_in_words(sound: Site) -> None:
    with pytest.raises(BadPlan, match=r"parameters of the artifact check[\s\S]*scheduler"):
        sound.reload(scheduler="somewhere")
    sound.run.release("40_artifacts")


def test_a_static_look_executes_nothing(sound: Site) -> None:
    result = sound.reload(static_only=True)
    assert result.facts["counts"]["not_checked"] == result.facts["total"]
    assert result.facts["user_modules"] == []
    assert any("only their files were looked at" in line for line in result.not_checked)


def test_limits_on_bytes_are_kept_and_told(sound: Site) -> None:
    result = sound.reload(max_bytes=1000, max_total_bytes=200)
    assert any("larger than max_bytes" in line for line in result.not_checked)
    assert any("max_total_bytes was used up" in line for line in result.not_checked)
    assert result.facts["bytes"] <= 200


@pytest.mark.parametrize(
    ("outcome", "identity", "loaded_before", "severity"),
    [
        ("fails", "AR604", True, "block"),
        ("fails", "AR604", False, "warn"),
        ("differs", "AR606", True, "warn"),
        ("lost", "AR607", False, "warn"),
        ("loads", "AR605", True, "block"),
        ("not_checked", "AR612", False, "info"),
    ],
)
def test_what_blocks_is_what_works_today_and_will_not(
    outcome: str, identity: str, loaded_before: bool, severity: str
) -> None:
    cause = Cause(id=identity, kind="python", blame="Python 3.10 → 3.12", remedy="Run the step again.")
    example = {"name": "model", "version": "3", "id": "1", "difference": "", "error": ""}
    group = Group(outcome=outcome, cause=cause, example=example, old={"ok": loaded_before}, count=2)
    finding = check._finding(group, "0.70.0")
    assert finding.severity.value == severity
    assert finding.subject == "model 3 (1), and 1 more artifact version"
    assert ("does not load with ZenML 0.70.0" in finding.message) is not loaded_before


def test_a_remedy_that_could_not_be_tried_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise EnvironmentFailed("the package index cannot be reached", expected="", found="", remedy="")

    monkeypatch.setattr(environments, "control", fails)
    made = object.__new__(check._Check)
    made.source = made.target = SimpleNamespace(environment=None)  # type: ignore[assignment]
    made.places, made.untried = {"store": Location(root="/stores")}, ""
    tally = Tally(io.StringIO(), lambda value: value)
    cause = Cause(id="AR604", kind="library", blame="scikit-learn 1.3.0 → 1.9.1", remedy="Pin scikit-learn==1.3.0.")
    group = Group(outcome="fails", cause=cause, row={"store_id": "store"}, old={"ok": True})
    tally.groups = {("one",): group}
    made.prove(tally)
    assert group.proven is None
    assert made.missing(tally) == ["whether the source's libraries help: the package index cannot be reached"]


def test_a_bucket_is_read_here_and_on_a_cluster_with_zenmls_own_credentials_which_appear_nowhere(
    site: Callable[..., Site],
    dask: Callable[[int], tuple[str, Any]],
    bucket: str,
    s3_server: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moved = ("features", "report", "customers", "settings", "region")

    def move(rows: dict[str, Any], database: Path) -> None:
        client, stored = boto3.client("s3"), "feedfeedfeedfeedfeedfeedfeedfeed"
        settings = {"key": "AKIACANARYCANARY", "secret": "c4n4ry-of-the-store"}  # as ZenML keeps them
        settings |= {"path": bucket, "client_kwargs": {"endpoint_url": s3_server}}  # type: ignore[dict-item]
        encoded = base64.b64encode(json.dumps(settings).encode()).decode()
        with closing(sqlite3.connect(database)) as connection, connection:
            columns = [row[1] for row in connection.execute("PRAGMA table_info(stack_component)")]
            own = {"id": f"'{stored}'", "name": "'bucket'", "flavor": "'s3'", "configuration": f"'{encoded}'"}
            listed = ", ".join(own.get(column, f'"{column}"') for column in columns)
            connection.execute(
                f"INSERT INTO stack_component SELECT {listed} FROM stack_component WHERE type = 'artifact_store'"
            )
            for name in moved:
                folder, uri = Path(rows[name]["uri"]), f"{bucket}/{name}/it's 🦊"
                for file in folder.rglob("*") if name != "region" else ():
                    key = f"{uri}/{file.relative_to(folder)}".removeprefix(f"{bucket}/")
                    client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=file.read_bytes())
                shutil.rmtree(folder)
                connection.execute(
                    "UPDATE artifact_version SET uri = ?, artifact_store_id = ? WHERE id = ?",
                    (uri, stored, rows[name]["id"].replace("-", "")),
                )
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            monkeypatch.delenv(name)

    made = site(move)
    address, _ = dask(2)
    for scheduler in ("", address):
        result = made.reload(scheduler=scheduler)
        lines = map(json.loads, (made.run.folder / check.FILE).read_text().splitlines())
        outcomes = {row["name"]: row["outcome"] for row in lines if row["name"] in moved}
        assert outcomes == {**dict.fromkeys(moved, "identical"), "region": "lost"}
        assert result.facts["bandwidth"] > 0
        assert "churn.customers" in result.facts["user_modules"]
        files = [path for path in made.run.folder.rglob("*") if path.is_file() and path.suffix not in (".db", ".zst")]
        assert len(files) > 10
        assert [path for path in files if b"c4n4ry" in path.read_bytes()] == []
