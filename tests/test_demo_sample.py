"""The sample deployment: what old releases leave behind, and that a failed build leaves nothing."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from zenml_upgrade_kit import demo, environments, plan, probing, pythons
from zenml_upgrade_kit.errors import BadPlan, EnvironmentFailed, ProbeFailed, RunUnusable
from zenml_upgrade_kit.probing import Ended, Environment

Deployment = Callable[..., Path]
BUILT_IN = {"int", "float", "bool", "str", "bytes", "dict", "list", "tuple", "set"}
OTHERS = {"ndarray", "DataFrame", "Series", "LogisticRegression", "Report", "Segment", "Rule"}


def without_zenml(monkeypatch: pytest.MonkeyPatch, returncode: int) -> None:
    """No environment is built, and the sample pipelines end at once."""

    def ended(*_: object, folder: Path, **__: object) -> Ended:
        folder.mkdir(parents=True)
        (folder / "command.log").write_text("out of luck\n")
        return Ended(returncode=returncode, timed_out=False, seconds=1.0, log=folder / "command.log")

    here = Environment(version="0.70.0", python=Path(sys.executable), python_version="", packages={}, origin="given")
    monkeypatch.setattr(environments, "ensure", lambda *_, **__: here)
    monkeypatch.setattr(probing, "run_command", ended)


def database(config: Path) -> Path:
    return config / "local_stores" / "default_zen_store" / "zenml.db"


@pytest.mark.parametrize("version", ["0.55.5", "0.70.0"])
def test_the_sample_has_completed_cached_and_failed_runs_and_every_kind_of_artifact(
    deployment: Deployment, version: str
) -> None:
    with closing(sqlite3.connect(database(deployment(version)))) as connection:
        assert connection.execute("SELECT version_num FROM alembic_version").fetchall() == [(version,)]
        runs = dict(connection.execute("SELECT status, COUNT(*) FROM pipeline_run GROUP BY status"))
        steps = dict(connection.execute("SELECT status, COUNT(*) FROM step_run GROUP BY status"))
        kinds = {row[0] for row in connection.execute("SELECT data_type ->> 'attribute' FROM artifact_version")}
        used = {row[0] for row in connection.execute("SELECT materializer ->> 'attribute' FROM artifact_version")}
    assert runs == {"completed": 4, "failed": 1}
    assert steps["failed"] == 1
    assert steps["cached"] > 0
    assert kinds == BUILT_IN | OTHERS
    assert {"PandasMaterializer", "PydanticMaterializer", "CloudpickleMaterializer", "SklearnMaterializer"} <= used


def test_a_copied_deployment_shares_nothing_with_the_original(deployment: Deployment) -> None:
    config = deployment("0.70.0")
    with closing(sqlite3.connect(database(config))) as connection:
        uris = [row[0] for row in connection.execute("SELECT uri FROM artifact_version")]
        folders = [Path(uri) for uri in uris]
    assert folders
    assert all(folder.is_dir() and config in folder.parents for folder in folders)
    assert str(database(config)) in (config / "config.yaml").read_text()


def test_the_values_of_a_sample_make_a_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_zenml(monkeypatch, returncode=0)
    made = plan.make(demo.build(tmp_path, "0.70.0", log=lambda _: None))
    assert Path(made.store).name == "deployment"
    assert made.code
    for smoke in made.pipelines:
        module, name = smoke.target.split(":")
        assert f"def {name}(" in (made.code / f"{module.replace('.', '/')}.py").read_text()


def test_a_second_sample_never_replaces_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_zenml(monkeypatch, returncode=0)
    first, second = (demo.build(tmp_path, "0.70.0", log=lambda _: None) for _ in range(2))
    assert first["store"] != second["store"]


def test_a_sample_whose_pipelines_fail_leaves_no_folder_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_zenml(monkeypatch, returncode=1)
    with pytest.raises(ProbeFailed, match="out of luck"):
        demo.build(tmp_path, "0.70.0", log=lambda _: None)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_release_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(BadPlan):
        demo.build(tmp_path / "runs", "0.42.0")
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_zenml(monkeypatch, returncode=0)
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(RunUnusable, match="runs"):
        demo.build(tmp_path / "runs", "0.70.0", log=lambda _: None)


@pytest.mark.parametrize(
    ("found", "chosen"), [(["3.13.1", "3.11.7"], "0.70.0"), (["3.13.1"], "0.91.0"), (["3.14.0"], "0.95.1")]
)
def test_the_default_release_is_one_that_a_python_here_runs(
    monkeypatch: pytest.MonkeyPatch, found: list[str], chosen: str
) -> None:
    monkeypatch.setattr(
        pythons, "find", lambda: [pythons.Python(path=Path("/py"), version=version) for version in found]
    )
    said: list[str] = []
    assert demo._default(said.append).version == chosen
    assert bool(said) == (chosen != demo.DEFAULT)


def test_a_machine_without_a_fitting_python_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythons, "find", lambda: [pythons.Python(path=Path("/py"), version="3.7.1")])
    with pytest.raises(EnvironmentFailed, match=r"3\.7\.1 \(on PATH.*pyenv"):
        demo.build(tmp_path / "runs", log=lambda _: None)
    assert not (tmp_path / "runs").exists()
