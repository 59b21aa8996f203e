"""The command line: a contract that people script against."""

import importlib.metadata
import json
import os
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from zenml_upgrade_kit import cli, plan, preflight, report
from zenml_upgrade_kit.runs import Run

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No plan in the environment, no ZenML configuration of the person who runs the tests."""
    for name in [name for name in os.environ if name.startswith("ZENML_") and name != "ZENML_UPGRADE_CACHE"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path / "no-config"))
    monkeypatch.chdir(tmp_path)


def database(deployment: Path) -> Path:
    return deployment / "local_stores" / "default_zen_store" / "zenml.db"


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The message of a command that must end with 2: expected, found and what to do, and no traceback."""
    assert cli.main([str(argument) for argument in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    for word in ("expected:", "found:", "do this:"):
        assert word in printed.err
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize("verb", ["check", "rehearse"])
def test_bad_input_is_refused_with_one_clear_message(
    verb: str, capsys: pytest.CaptureFixture[str], deployment: Callable[..., Path], tmp_path: Path
) -> None:
    store = deployment("0.70.0")
    before = database(store).read_bytes()
    assert "nowhere.db" in refused(capsys, verb, "--store", tmp_path / "nowhere.db", "--to", "0.98.0")
    assert "nowhere.db" in refused(capsys, verb, "--store", f"sqlite:///{tmp_path}/nowhere.db", "--to", "0.98.0")
    assert "NOT_SET" in refused(capsys, verb, "--store", "env:NOT_SET", "--to", "0.98.0")
    assert "no-config" in refused(capsys, verb, "--to", "0.98.0")
    assert "0.99.7" in refused(capsys, verb, "--store", store, "--to", "0.99.7")
    assert "already at" in refused(capsys, verb, "--store", store, "--to", "0.70.0")
    assert not list(tmp_path.glob("runs/*/plan.json")), "no run was begun"
    assert not (tmp_path / "nowhere.db").exists()
    assert database(store).read_bytes() == before


def test_a_password_in_a_url_is_not_kept_and_never_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = "mysql://root:hunter2@127.0.0.1:1/zenml"
    told = refused(capsys, "rehearse", "--store", store, "--to", "0.98.0", "--out", tmp_path)
    assert "env:NAME" in told
    assert cli.main(["check", "--store", store, "--to", "0.98.0"]) == 1
    seen = capsys.readouterr()
    assert "DB011" in seen.out
    assert "hunter2" not in told + seen.out + seen.err
    assert not list(tmp_path.iterdir()), "no run was begun"


@pytest.mark.parametrize(
    ("content", "identity"), [(b"", "DB006"), (b"no database at all" * 100, "DB007"), (None, "DB003")]
)
def test_a_file_that_is_no_store_blocks_the_check_and_is_refused_by_the_rehearsal(
    content: bytes | None, identity: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "zenml.db"
    if content is None:
        with closing(sqlite3.connect(file)) as connection, connection:
            connection.execute("CREATE TABLE stack (id TEXT)")
    else:
        file.write_bytes(content)
    before = file.read_bytes()
    assert cli.main(["check", "--store", str(file), "--to", "0.98.0", "--format", "json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["status"] == "block"
    assert [finding["id"] for finding in found["findings"] if finding["severity"] == "block"] == [identity]
    refused(capsys, "rehearse", "--store", file, "--to", "0.98.0")
    assert file.read_bytes() == before
    assert not (tmp_path / "runs").exists()


def test_a_downgrade_names_both_versions(capsys: pytest.CaptureFixture[str], deployment: Callable[..., Path]) -> None:
    assert cli.main(["check", "--store", str(deployment("0.70.0")), "--to", "0.60.0"]) == 1
    said = capsys.readouterr().out
    assert "DB001" in said
    assert "0.70.0" in said
    assert "0.60.0" in said
    assert "downgrade" in said


def test_no_python_that_fits_says_which_would(
    capsys: pytest.CaptureFixture[str],
    deployment: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = deployment("0.70.0")
    monkeypatch.setattr("zenml_upgrade_kit.pythons.find", list)
    from zenml_upgrade_kit import environments
    from zenml_upgrade_kit.errors import EnvironmentFailed

    with pytest.raises(EnvironmentFailed) as raised:
        environments.pair(plan.make({"store": str(store)}), {}, "0.70.0", "0.98.0")
    assert ">=3.9,<3.13" in str(raised.value)


def test_a_folder_that_cannot_be_written_is_named(
    capsys: pytest.CaptureFixture[str], deployment: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    message = refused(
        capsys, "rehearse", "--store", deployment("0.70.0"), "--to", "0.98.0", "--out", tmp_path / "file" / "runs"
    )
    assert str(tmp_path / "file" / "runs") in message


@pytest.mark.parametrize("form", ["json", "junit", "markdown", "text"])
def test_a_check_answers_in_every_format(
    form: str, capsys: pytest.CaptureFixture[str], deployment: Callable[..., Path]
) -> None:
    assert cli.main(["check", "--store", str(deployment("0.70.0")), "--to", "0.98.0", "--format", form]) == 0
    said = capsys.readouterr().out
    expected = {"json": '"step": "10_preflight"', "junit": "<testcase", "markdown": "No findings", "text": "checks:"}
    assert expected[form] in said


def test_the_users_own_configuration_is_found_and_only_read(
    capsys: pytest.CaptureFixture[str], deployment: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = deployment("0.70.0")
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(store))
    before = {path: path.read_bytes() for path in store.rglob("*") if path.is_file()}
    assert cli.main(["check", "--to", "0.98.0", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["facts"]["store"]["path"] == str(database(store))
    assert {path: path.read_bytes() for path in store.rglob("*") if path.is_file()} == before


def test_a_run_remembers_the_store_that_was_found(
    deployment: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store = deployment("0.70.0")
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(store))
    run = preflight.start(plan.make({"to": "0.98.0", "out": str(tmp_path / "runs")}))
    assert Run.open(run.folder).plan.store == str(store)
    monkeypatch.delenv("ZENML_CONFIG_PATH")
    monkeypatch.setenv("ZENML_STORE_URL", f"sqlite:///{database(store)}")
    monkeypatch.setenv("ZENML_CONFIG_PATH", str(tmp_path / "no-config"))
    run = preflight.start(plan.make({"to": "0.98.0", "out": str(tmp_path / "runs")}))
    assert Run.open(run.folder).plan.store == f"sqlite:///{database(store)}"


def test_resume_takes_no_plan_and_only_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "--resume" in refused(capsys, "rehearse", "--resume", tmp_path, "--to", "0.98.0")
    assert "is not a run" in refused(capsys, "rehearse", "--resume", tmp_path)
    assert "is not a run" in refused(capsys, "report", tmp_path)
    assert "is not a run" in refused(capsys, "rollback", tmp_path)


def test_an_error_in_json_mode_is_one_json_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["rehearse", "--to", "0.98.0", "--format", "json"]) == 2
    assert "expected:" in json.loads(capsys.readouterr().out)["error"]


def test_init_writes_a_plan_and_does_not_replace_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["init"]) == 0
    assert plan.read(tmp_path / "plan.yaml").to == ""
    capsys.readouterr()
    refused(capsys, "init")


def test_a_report_can_be_written_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run = Run.create(plan.make({"out": str(tmp_path / "runs")}), "0.70.0", "0.98.0")
    assert cli.main(["report", str(run.folder)]) == 0
    page = Path(capsys.readouterr().out.strip())
    assert page == report.write(run)
    assert "unfinished" in page.read_text()


def test_help_does_not_pay_for_what_it_does_not_use() -> None:
    code = (
        "import sys; from zenml_upgrade_kit import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print([name for name in ('pandas', 'papermill', 'nbconvert', 'zenml') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import uv

    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([uv.find_uv_bin(), "build", "--wheel", "--quiet", "--out-dir", folder, ROOT], check=True)
    [built] = folder.glob("*.whl")
    return built


def test_the_notebooks_travel_with_the_package(wheel: Path, tmp_path: Path, deployment: Callable[..., Path]) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "installed")
    store = deployment("0.70.0")
    values = {"store": str(store), "to": "0.98.0", "out": str(tmp_path / "runs")}
    code = (
        "from zenml_upgrade_kit import plan, preflight, report, workbook\n"
        f"run = preflight.start(plan.make({values!r}))\n"
        "print(workbook.__file__)\n"
        "print(workbook.carry_out(run, '00_start').status.value)\n"
        "print(report.write(run).exists())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "installed")},
    )
    assert ended.returncode == 0, ended.stderr
    module, status, written = ended.stdout.splitlines()
    assert module.startswith(str(tmp_path / "installed"))
    assert (status, written) == ("pass", "True")


def test_each_notebook_runs_alone_with_plain_papermill(deployment: Callable[..., Path], tmp_path: Path) -> None:
    papermill = [sys.executable, "-m", "papermill", "--no-progress-bar", "-k", "python3"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    notebooks = ROOT / "notebooks"

    def run(name: str, *parameters: str) -> int:
        command = [*papermill, str(notebooks / f"{name}.ipynb"), str(tmp_path / f"{name}.ipynb"), *parameters]
        return subprocess.run(command, capture_output=True, check=False, cwd=tmp_path, env=surroundings).returncode

    store = deployment("0.70.0")
    assert run("00_start", "-p", "store", str(store), "-p", "to", "0.60.0") == 0
    assert run("10_preflight") == 1, "a downgrade blocks, and plain papermill fails"
    assert Run.newest(tmp_path / "runs").needs("10_preflight").findings[0].id == "DB001"
    assert run("30_rehearsal") == 1, "a step without the one before it fails, too"


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out.strip() == importlib.metadata.version("zenml-upgrade-kit")
