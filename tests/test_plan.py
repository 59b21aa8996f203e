"""The plan: validated once, in the user's words."""

from pathlib import Path

import pytest

from zenml_upgrade_kit import plan
from zenml_upgrade_kit.errors import BadPlan


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in plan.VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)


def test_the_template_is_a_valid_plan_once_it_is_written(tmp_path: Path) -> None:
    plan.write_template(tmp_path / "plan.yaml")
    read = plan.read(tmp_path / "plan.yaml")
    assert read.out == tmp_path / "runs"
    assert read.store == ""
    assert read.pipelines == []


def test_the_template_does_not_replace_a_file(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("to: 0.98.0\n")
    with pytest.raises(BadPlan, match="cannot be written"):
        plan.write_template(tmp_path / "plan.yaml")
    assert (tmp_path / "plan.yaml").read_text() == "to: 0.98.0\n"


def test_paths_in_a_plan_start_from_its_folder_and_overrides_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "code").mkdir(parents=True)
    (tmp_path / "a" / "plan.yaml").write_text("code: code\nstore: deployment\nout: archive\n")
    monkeypatch.chdir(tmp_path)
    read = plan.read(Path("a/plan.yaml"), {"out": "elsewhere"})
    assert read.code == tmp_path / "a" / "code"
    assert read.store == str(tmp_path / "a" / "deployment")
    assert read.out == tmp_path / "elsewhere"


def test_a_store_named_by_a_variable_or_url_is_kept_as_given() -> None:
    assert plan.make({"store": "env:PRODUCTION"}).store == "env:PRODUCTION"
    assert plan.make({"store": "sqlite:////srv/zenml.db"}).store == "sqlite:////srv/zenml.db"


def test_environment_variables_stand_in_for_what_is_given_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZENML_UPGRADE_TO", "0.80.2")
    assert plan.make({}).to == "0.80.2"
    assert plan.make({"to": "0.98.0"}).to == "0.98.0"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"targt": "0.98.0"}, "targt"),
        ({"code": "/nowhere/at/all"}, "is not there"),
        ({"artifacts": {"timeout": -1}}, "artifacts.timeout"),
        ({"pipelines": [{"target": "no colon"}]}, "pipelines.0.target"),
        ({"pipelines": [{"target": "a:b", "command": "python run.py"}]}, "exactly one of target"),
        ({"pipelines": [{}]}, "exactly one of target"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(values: dict[str, object], words: str) -> None:
    with pytest.raises(BadPlan, match=words) as raised:
        plan.make(values)
    assert "expected:" in str(raised.value)
    assert "do this:" in str(raised.value)


@pytest.mark.parametrize("text", ["- a list\n", "key: [unclosed\n", "\xff\xfe"])
def test_a_file_that_is_no_plan_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(BadPlan):
        plan.read(tmp_path / "plan.yaml")


def test_a_password_in_a_file_that_is_no_yaml_is_not_told(tmp_path: Path) -> None:
    (tmp_path / "plan.yaml").write_text("store: mysql://root:c4nary@host/zenml : [\n")
    with pytest.raises(BadPlan, match="mysql://root:") as raised:
        plan.read(tmp_path / "plan.yaml")
    assert "c4nary" not in str(raised.value)


def test_the_plan_knows_which_variables_are_secret() -> None:
    made = plan.make({"store": "env:STORE_URL", "pipelines": [{"command": "true", "environment": ["TOKEN"]}]})
    assert made.secret_variables == ["STORE_URL", "TOKEN"]
