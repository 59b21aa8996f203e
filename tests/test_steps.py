"""The steps that wrote artifacts, in stores of real releases and in what a migration makes of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from zenml_upgrade_kit import inventory, probing
from zenml_upgrade_kit.artifacts.steps import Step, writers
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.stores import sqlite

WRITTEN_BY = {
    "numbers": ("facts_pipeline", {"customers", "churn_rate", "complete", "region", "fingerprint"}),
    "collections": ("facts_pipeline", {"settings", "months", "best_month", "regions"}),
    "load": ("training_pipeline", {"frame", "labels"}),
    "to_array": ("training_pipeline", {"features"}),
    "train": ("training_pipeline", {"model"}),
    "evaluate": ("training_pipeline", {"accuracy", "report"}),
    "segment": ("publishing_pipeline", {"segment", "rule"}),
    "publish": ("publishing_pipeline", {"address"}),
}


def database(config: Path) -> Path:
    return config / "local_stores" / "default_zen_store" / "zenml.db"


def written(database: Path, code: Path | None) -> dict[str, Step]:
    """The steps of a sample's artifacts, by artifact name; all have one."""
    with closing(sqlite.connect(database)) as connection:
        rows = inventory.artifacts(connection, database.parent)
        found = writers(connection, [row["id"] for row in rows], code)
    assert len(rows) >= 17
    assert {row["id"] for row in rows} == set(found)
    # before 0.50.0 an artifact has the name of its step and output, as in step::output
    return {row["name"].rpartition("::")[2]: found[row["id"]] for row in rows}


def right(found: dict[str, Step], code: Path) -> None:
    lines = (code / "churn" / "pipelines.py").read_text().splitlines()
    for name, (pipeline, outputs) in WRITTEN_BY.items():
        for output in outputs:
            step = found[output]
            assert (step.name, step.pipeline, step.source) == (name, pipeline, f"churn.pipelines.{name}")
            assert step.file == "churn/pipelines.py"
            assert lines[step.line - 1].startswith(f"def {name}(")


@pytest.mark.parametrize("version", ["0.43.0", "0.60.0", "0.70.0", "0.80.2"])
def test_every_artifact_has_its_step_and_where_it_is(version: str, deployment: Callable[..., Path]) -> None:
    config = deployment(version)
    right(written(database(config), config.parent / "code"), config.parent / "code")


@pytest.mark.parametrize("version", ["0.43.0", "0.70.0"])
def test_a_migrated_store_tells_the_same(
    version: str, deployment: Callable[..., Path], environment: Callable[[str], Environment], tmp_path: Path
) -> None:
    config = deployment(version)
    copy = tmp_path / "copy.db"
    sqlite.online_backup(database(config), copy)
    variables = {"ZENML_STORE_URL": f"sqlite:///{copy}", "ZENML_STORE_BACKUP_STRATEGY": "disabled"}
    answer = probing.run_probe(
        environment("0.98.0"), "migrate", {}, folder=tmp_path / "work", variables=variables, timeout=600
    )
    assert "error" not in answer
    right(written(copy, config.parent / "code"), config.parent / "code")
    with closing(sqlite3.connect(copy)) as connection, connection:  # as a dynamic pipeline has them
        connection.execute("UPDATE step_run SET step_configuration = NULL")
        connection.execute(
            "UPDATE step_configuration SET snapshot_id = NULL, step_run_id = (SELECT s.id FROM step_run AS s"
            " WHERE s.snapshot_id = step_configuration.snapshot_id AND s.name = step_configuration.name)"
        )
    right(written(copy, config.parent / "code"), config.parent / "code")


def test_code_that_is_gone_has_no_place(deployment: Callable[..., Path], tmp_path: Path) -> None:
    config = deployment("0.70.0")
    code = config.parent / "code"
    for unusable in (None, tmp_path / "nowhere"):
        assert {(step.file, step.line) for step in written(database(config), unusable).values()} == {("", 0)}
    (code / "churn").rename(code / "kept")
    moved = written(database(config), code)
    assert {(step.file, step.line) for step in moved.values()} == {("", 0)}
    assert moved["model"].source == "churn.pipelines.train"


def test_a_renamed_step_and_code_that_does_not_parse_have_no_place(deployment: Callable[..., Path]) -> None:
    config = deployment("0.70.0")
    module = config.parent / "code" / "churn" / "pipelines.py"
    text = module.read_text()
    module.write_text(text.replace("def train(", "def trained("))
    found = written(database(config), config.parent / "code")
    assert (found["model"].file, found["frame"].file) == ("", "churn/pipelines.py")
    module.write_text("print 'Python 2'")
    assert {step.file for step in written(database(config), config.parent / "code").values()} == {""}


def test_a_step_below_a_condition_or_in_a_package_or_class_is_found(tmp_path: Path) -> None:
    from zenml_upgrade_kit.artifacts.steps import _place

    (tmp_path / "team").mkdir()
    text = "def train(): ...\n\nif True:\n    try:\n        def train(): ...\n    finally: pass\n"
    (tmp_path / "team" / "__init__.py").write_text(text + "\n\nclass Steps:\n    async def load(self): ...\n")
    assert _place(tmp_path, "team.train") == ("team/__init__.py", 5)
    assert _place(tmp_path, "team.Steps.load") == ("team/__init__.py", 10)
    assert _place(tmp_path, "team.Steps.save") == ("", 0)


def test_only_what_was_asked_for_and_what_a_step_wrote_is_told(deployment: Callable[..., Path]) -> None:
    config = deployment("0.70.0")
    with closing(sqlite3.connect(database(config))) as connection, connection:
        connection.execute("DELETE FROM step_run_output_artifact WHERE name = 'model'")
    with closing(sqlite.connect(database(config))) as connection:
        by_name = {row["name"]: row["id"] for row in inventory.artifacts(connection, config)}
        assert writers(connection, [], None) == {}
        assert set(writers(connection, [by_name["model"], by_name["frame"]], None)) == {by_name["frame"]}
        many = [f"{number:032x}" for number in range(3000)]
        assert set(writers(connection, [*many, by_name["rule"]], None)) == {by_name["rule"]}
