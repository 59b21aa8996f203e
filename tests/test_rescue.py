"""Rescue: artifacts are saved again in formats that every version reads, and what was there stays as it was."""

import base64
import hashlib
import importlib.util
import json
import math
import os
import pickle
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pandas
import pydantic
import pytest
import s3fs

from zenml_upgrade_kit import backup, cli, environments, inventory, plan, preflight
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.findings import Status, StepResult, now
from zenml_upgrade_kit.probing import run_command
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import sqlite

Environments = Callable[[str], Environment]
Deploy = Callable[[str, Path], Path]
EVERY_KIND = (
    "best_month",
    "fingerprint",
    "region",
    "frame",
    "labels",
    "features",
    "report",
    "segment",
    "model",
    "rule",
)
RESCUED = EVERY_KIND[:-2]
FORMATS = ("JSON", "bytes", "text", "Parquet", "Parquet", "npy", "JSON", "JSON")


class Site:
    """A deployment of a release, and a run of its upgrade whose check found that some artifacts fail."""

    def __init__(self, config: Path, source: Environment, target: Environment, failing: tuple[str, ...]) -> None:
        self.config, self.source, self.target = config, source, target
        self.database = config / "local_stores" / "default_zen_store" / "zenml.db"
        self.rows = {row["name"]: row for row in self.versions(self.database)}
        values = {"store": str(config), "code": str(config.parent / "code"), "to": target.version}
        made = plan.make({**values, "out": str(config.parent / "runs")})
        self.run = Run.create(made, source.version, target.version, config / "config.yaml")
        for name, verb in (("00_start", preflight.begin_facts), ("20_backup", backup.back_up)):
            step = self.run.begin(name)
            step.finish(verb(step))
        self.note("10_preflight", {"environments": {"source": source.to_json(), "target": target.to_json()}})
        outcomes = [{"id": self.rows[name]["id"], "outcome": "fails"} for name in failing]
        self.note("40_artifacts", {"artifacts": [*outcomes, {"id": self.rows["customers"]["id"], "outcome": "loads"}]})

    def note(self, step: str, facts: dict[str, Any]) -> None:
        """What a step found, without the time that the step takes."""
        self.run.save(StepResult(step=step, status=Status.PASS, facts=facts, started=now(), seconds=0.0))

    def versions(self, database: Path) -> list[dict[str, Any]]:
        with closing(sqlite.connect(database)) as connection:
            return inventory.artifacts(connection, self.config / "local_stores")

    def content(self) -> dict[str, str]:
        """Every file of the deployment by the digest of its bytes."""
        files = [path for path in self.config.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.config)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def old_rows(self) -> list[tuple[Any, ...]]:
        """All that the database says of the artifacts that were there from the start."""
        ids = ", ".join(f"'{row['id'].replace('-', '')}'" for row in self.rows.values())
        with closing(sqlite.connect(self.database)) as connection:
            query = "SELECT * FROM artifact_version AS v JOIN artifact AS a ON a.id = v.artifact_id"
            return [tuple(row) for row in connection.execute(f"{query} WHERE v.id IN ({ids}) ORDER BY v.id")]

    def rescue(self, *options: str) -> int:
        return cli.main(["rescue", str(self.run.folder), *options])

    def recorded(self) -> dict[str, dict[str, Any]]:
        """What the run keeps of the rescue, by name."""
        kept = json.loads((self.run.folder / "work" / "rescue.json").read_text())
        return {one["name"]: one for one in kept.values()}


@pytest.fixture(scope="module")
def site(deploy: Deploy, environment: Environments, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Site]:
    def make(version: str, *failing: str) -> Site:
        folder = tmp_path_factory.mktemp(version)
        return Site(deploy(version, folder / "own"), environment(version), environment("0.98.0"), failing)

    return make


@pytest.fixture(scope="module", params=["0.60.0", "0.70.0"])
def rescued(
    deploy: Deploy, environment: Environments, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Site, dict[str, str], int]:
    """A site where everything was rescued on the copy, its content before, and the exit code; 0.70.0 has skops."""
    folder = tmp_path_factory.mktemp("rescued")
    listed = folder / "requirements.txt"
    listed.write_text("numpy==1.26.4\npandas==2.2.1\npyarrow==15.0.1\nscikit-learn==1.4.1.post1\nskops\n")
    pair = [request.param, "0.98.0"]
    if request.param == "0.70.0":
        source, target = (environments.ensure(version, requirements=listed, companions=pair) for version in pair)
    else:
        source, target = map(environment, pair)
    own = Site(deploy(request.param, folder / "own"), source, target, EVERY_KIND)
    before = own.content()
    return own, before, own.rescue("--as-version", "--yes")


def test_what_has_a_format_is_written_and_read_alike_by_the_target(rescued: tuple[Site, dict[str, str], int]) -> None:
    own, _, code = rescued
    done = own.recorded()
    assert tuple(done) == EVERY_KIND
    assert tuple(done[name]["sidecar"]["format"] for name in RESCUED) == FORMATS
    assert {done[name]["outcome"] for name in RESCUED} == {"identical"}, done
    assert code == 1  # for what is missing, it says so
    assert "no version-agnostic format for churn.customers.Rule" in done["rule"]["problem"]


def test_a_model_is_written_by_skops_or_it_says_what_to_install(rescued: tuple[Site, dict[str, str], int]) -> None:
    own, _, _ = rescued
    model = own.recorded()["model"]
    if own.source.version == "0.60.0":
        assert "a scikit-learn model needs skops (or skl2onnx, for ONNX): name it in a file" in model["problem"]
        assert model["copy"] == {}
    else:
        assert (model["sidecar"]["format"], model["outcome"]) == ("skops", "identical"), model
        assert model["copy"]["outcome"] == "identical"


def test_each_file_lies_beside_its_lineage(rescued: tuple[Site, dict[str, str], int]) -> None:
    own, _, _ = rescued
    folder = own.run.folder / "rescued" / own.rows["frame"]["id"]
    lineage = json.loads((folder / "rescue.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["data.parquet", "rescue.json"]
    assert lineage["rescued_from"]["uri"] == own.rows["frame"]["uri"]
    assert lineage["sha256"] == hashlib.sha256((folder / "data.parquet").read_bytes()).hexdigest()
    assert (lineage["zenml"], lineage["libraries"]["pandas"]) == (own.source.version, "2.2.1")
    assert json.loads((own.run.folder / "rescued" / own.rows["segment"]["id"] / "data.json").read_text()) == {
        "name": "loyal",
        "customers": 60,
        "shares": {"north": 0.5},
    }


def test_a_rescue_leaves_the_deployment_alone(rescued: tuple[Site, dict[str, str], int]) -> None:
    own, before, _ = rescued
    assert own.content() == before


def test_the_new_versions_on_the_copy_load_in_the_target_after_the_migration(
    rescued: tuple[Site, dict[str, str], int], tmp_path: Path
) -> None:
    own, _, _ = rescued
    done, work = own.recorded(), own.run.work / "rescue"
    assert {done[name]["copy"]["outcome"] for name in RESCUED} == {"identical"}
    shutil.copy2(work / "copy.db", tmp_path / "copy.db")
    (tmp_path / "look.py").write_text(
        "from zenml.client import Client; get = Client().get_artifact_version\n"
        "frame, segment = get('frame'), get('segment')\n"
        "print(frame.version, frame.load().shape, dict(frame.run_metadata)['format'], segment.load()['customers'])\n"
        "print(get('report').load().title, dict(segment.run_metadata)['rescued_from'])\n"
    )
    stores = {"ZENML_STORE_URL": f"sqlite:///{tmp_path}/copy.db", "ZENML_LOCAL_STORES_PATH": f"{work}/save/stores"}
    variables = {**stores, "PYTHONPATH": str(own.config.parent / "code")}
    ended = run_command(
        own.target, [str(own.target.python), "look.py"], folder=tmp_path, variables=variables, timeout=300
    )
    assert ended.returncode == 0, ended.last_lines()
    assert ended.last_lines(2).split("\n") == [
        "2 (120, 3) Parquet 60",
        f"churn {own.rows['segment']['id']}",
    ]


def test_apply_adds_one_version_to_production_with_its_lineage_and_only_once(
    rescued: tuple[Site, dict[str, str], int], capsys: pytest.CaptureFixture[str]
) -> None:
    own, _, _ = rescued
    before, old_rows = own.content(), own.old_rows()
    chosen = ["--artifact", own.rows["frame"]["id"], "--apply"]
    assert own.rescue(*chosen) == 0
    assert "would be saved in production" in capsys.readouterr().out
    assert own.content() == before
    assert own.rescue(*chosen, "--yes") == 0
    assert own.rescue(*chosen, "--yes") == 0
    new = [row for row in own.versions(own.database) if row["id"] not in {one["id"] for one in own.rows.values()}]
    assert [(row["name"], row["version"]) for row in new] == [("frame", "2")]
    assert f"in production: version 2 ({new[0]['id']})" in capsys.readouterr().out
    assert Path(new[0]["uri"]).is_relative_to(own.rows["frame"]["store_root"])
    assert own.old_rows() == old_rows
    after = own.content()
    changed = [name for name in before if after.get(name) != before[name]]
    assert changed == ["local_stores/default_zen_store/zenml.db"]
    with closing(sqlite3.connect(own.database)) as connection:
        metadata = dict(connection.execute("SELECT key, value FROM run_metadata WHERE key LIKE 'rescued%'").fetchall())
    assert metadata == {"rescued_from": json.dumps(own.rows["frame"]["id"])}


class Calls:
    """Pickles to a call of a function: what unpickling does is up to the pickle."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def test_a_dry_run_says_what_would_be_written_and_leaves_nothing(
    site: Callable[..., Site], capsys: pytest.CaptureFixture[str]
) -> None:
    own = site("0.70.0", "segment", "rule", "region", "model")
    for name, call in {
        "segment": Calls(os.kill, 0, signal.SIGKILL),
        "rule": Calls(shutil.rmtree, own.rows["rule"]["uri"]),
    }.items():
        Path(own.rows[name]["uri"], "artifact.pkl").write_bytes(pickle.dumps(call))
    before, files = own.content(), sorted(path.name for path in own.run.folder.iterdir())
    assert own.rescue() == 1
    said = capsys.readouterr().out
    assert f"identical region 1 ({own.rows['region']['id']}): text, read by ZenML 0.98.0" in said
    assert "its process was ended by SIGKILL" in said
    assert "PermissionError" in said
    assert "Nothing was kept or saved." in said
    assert own.content() == before
    assert sorted(path.name for path in own.run.folder.iterdir()) == files
    assert not (own.run.work / "rescue.json").exists()


@pytest.fixture(scope="module")
def refusing(site: Callable[..., Site]) -> Site:
    """A site whose frame was rescued, as its run remembers it."""
    own = site("0.70.0", "frame")
    folder = own.run.folder / "rescued" / own.rows["frame"]["id"]
    folder.mkdir(parents=True)
    (folder / "data.parquet").write_bytes(b"PAR1")
    sidecar = {"format": "Parquet", "folder": str(folder), "file": "data.parquet"}
    frame = {"id": own.rows["frame"]["id"], "name": "frame", "version": "1", "copy": {"outcome": "identical"}}
    sidecar["sha256"] = hashlib.sha256(b"PAR1").hexdigest()
    own.run.write_json("work/rescue.json", {frame["id"]: {**frame, "outcome": "identical", "sidecar": sidecar}})
    return own


def refused(own: Site, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """The one message of a rescue that is refused."""
    before = own.content()
    assert own.rescue(*options) == 2
    assert own.content() == before
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("zenml-upgrade: ") == 1
    return captured.err


def test_what_the_run_does_not_know_is_refused(refusing: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no artifact version nonsense" in refused(refusing, capsys, "--artifact", "nonsense", "--yes")


def test_a_folder_that_is_no_rescue_is_not_replaced(refusing: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert "is in the way" in refused(refusing, capsys, "--yes")


def test_production_gets_nothing_that_was_not_tried(refusing: Site, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--artifact", refusing.rows["model"]["id"], "--apply", "--yes")
    assert "was not saved on the copy" in refused(refusing, capsys, *options)


def test_production_gets_no_other_file_than_the_copy_got(refusing: Site, capsys: pytest.CaptureFixture[str]) -> None:
    file = refusing.run.folder / "rescued" / refusing.rows["frame"]["id"] / "data.parquet"
    file.write_bytes(b"PAR2")
    assert "the file of frame 1" in refused(refusing, capsys, "--apply", "--yes")
    file.write_bytes(b"PAR1")


def test_production_is_not_opened_without_a_verified_backup(refusing: Site, capsys: pytest.CaptureFixture[str]) -> None:
    made = backup.of_run(refusing.run)
    kept = made.verified
    made.record(hashed=None, restored=None)
    assert "is not verified" in refused(refusing, capsys, "--apply", "--yes")
    made.record(**kept)


def test_production_is_not_opened_by_another_release(refusing: Site, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(sqlite3.connect(refusing.database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '0.98.0'")
    assert "is at 0.98.0, the backup at 0.70.0" in refused(refusing, capsys, "--apply", "--yes")


def test_files_in_a_bucket_are_fetched(
    site: Callable[..., Site], bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    own = site("0.70.0")
    root = str(own.rows["frame"]["store_root"])
    s3fs.S3FileSystem().put(root, f"{bucket}/", recursive=True)
    with closing(sqlite3.connect(own.database)) as connection, connection:
        connection.execute("UPDATE artifact_version SET uri = replace(uri, ?, ?)", (str(Path(root).parent), bucket))
        connection.execute(
            "UPDATE stack_component SET flavor = 's3', configuration = ? WHERE type = 'artifact_store'",
            (base64.b64encode(json.dumps({"path": f"{bucket}/{Path(root).name}"}).encode()),),
        )
    step = own.run.begin("20_backup")
    step.finish(backup.back_up(step))
    assert own.rescue("--artifact", own.rows["frame"]["id"], "--yes") == 0, capsys.readouterr().out
    assert own.recorded()["frame"]["outcome"] == "identical"


def probe() -> Any:
    """The probe as a module: what it does with values needs no ZenML."""
    path = Path(cli.__file__).parent / "probes" / "rescue_artifacts.py"
    spec = importlib.util.spec_from_file_location("rescue_probe", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@dataclass
class Shares:
    north: float
    names: list[str]


class Settings(pydantic.BaseModel):
    limit: int = pydantic.Field(default=3, alias="Limit")
    name: str = "all"


VALUES = [
    None,
    2**70,
    math.inf,
    "Zürich \ud800\r\n",
    b"\x00\xff",
    {"rates": [0.1, None, True], "deep": {"names": ["ä"]}},
    ("July", 7),
    {"north", "south"},
    frozenset({1, 2}),
    numpy.arange(6, dtype=">i2").reshape(2, 3)[:, ::-1],
    numpy.array(["2026-11-23"], dtype="datetime64[D]"),
    Settings(Limit=5),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_file_gives_back_the_value_as_it_was(value: Any, tmp_path: Path) -> None:
    rescue = probe()
    chosen, reading, compared, dump = rescue.form(value)
    with (tmp_path / "file").open("wb") as file:
        dump(file)
    kind = {"module": type(value).__module__, "attribute": type(value).__qualname__}
    question = {"folder": str(tmp_path), "file": "file", "format": chosen, "reading": reading, "data_type": kind}
    again = rescue.read(question)
    assert compared is value
    assert type(again) is type(value)
    if isinstance(value, numpy.ndarray):
        assert again.dtype == value.dtype
        assert (again == value).all()
    else:
        assert again == value
        assert getattr(again, "model_fields_set", None) == getattr(value, "model_fields_set", None)


@pytest.mark.parametrize(
    "value",
    [
        {1: "a number as key"},
        {"inside": (1, 2)},
        [numpy.float64(1)],
        numpy.array([None, "text"]),
        Shares(north=numpy.float64(1), names=[]),
        pandas.Series([1], name=3),
        Path("."),
        object(),
        Shares,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_no_format_keeps_is_said_to_have_none(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rescue = probe()
    monkeypatch.setattr(rescue, "installed", lambda name: True)
    with pytest.raises(rescue.Impossible, match="no version-agnostic format"):
        rescue.form(value)


def test_frames_without_pyarrow_are_not_written_as_csv() -> None:
    rescue = probe()
    rescue.installed = lambda name: False
    with pytest.raises(rescue.Impossible, match="Parquet needs pyarrow: name it in a file for --requirements"):
        rescue.form(pandas.DataFrame({"a": [1]}))
