"""Environments: which Python, which packages, what is kept, and that nothing is left running or half-built."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from zenml_upgrade_kit import environments, plan, probing, pythons, recipes, releases
from zenml_upgrade_kit.errors import EnvironmentFailed, ProbeFailed, RequirementsConflict
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.pythons import Python
from zenml_upgrade_kit.recipes import Unresolvable

HERE = Environment(version="0.0.0", python=Path(sys.executable), python_version="", packages={}, origin="given")
"""This interpreter: enough where no ZenML is needed."""

PYTHON = Python(path=Path(sys.executable), version="3.11.7")
RELEASE = releases.get("0.70.0")


def fake_pythons(monkeypatch: pytest.MonkeyPatch, *versions: str) -> None:
    found = [pythons.Python(path=Path(f"/py/{version}"), version=version) for version in versions]
    monkeypatch.setattr(pythons, "find", lambda: found)


def choose(version: str, *companions: str, prefer: str = "") -> str:
    python, _ = environments._choose(releases.get(version), [releases.get(other) for other in companions], prefer)
    return python.version


# ---- which Python


def test_the_newest_python_that_both_releases_support_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pythons(monkeypatch, "3.13.0", "3.12.1", "3.11.7", "3.10.13", "3.8.18")
    assert choose("0.98.0", "0.55.5") == "3.11.7"
    assert choose("0.55.5", "0.98.0") == "3.11.7"
    assert choose("0.98.0") == "3.13.0"


def test_the_minor_that_the_store_recorded_wins_where_both_support_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pythons(monkeypatch, "3.12.1", "3.11.7", "3.10.13", "3.9.18")
    assert choose("0.55.5", "0.98.0", prefer="3.10") == "3.10.13"
    assert choose("0.55.5", "0.98.0", prefer="3.9") == "3.11.7"
    assert choose("0.55.5", "0.60.0", prefer="3.9") == "3.9.18"


def test_without_a_common_python_each_release_gets_its_own_and_a_note_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pythons(monkeypatch, "3.13.0", "3.8.18")
    python, why = environments._choose(releases.get("0.43.0"), [releases.get("0.98.0")], "")
    assert python.version == "3.8.18"
    assert "none that 0.98.0 supports too" in why


def test_a_machine_without_a_fitting_python_gets_the_range_and_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_pythons(monkeypatch, "3.13.0", "3.7.16")
    with pytest.raises(EnvironmentFailed) as caught:
        environments.ensure("0.70.0")
    assert ">=3.9,<3.13" in caught.value.expected
    assert "3.13.0, 3.7.16" in caught.value.found
    assert "pyenv" in caught.value.found


def test_a_dead_shim_on_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = [python.path for python in pythons.find()]
    assert found
    assert shim not in found


def test_interpreters_of_conda_and_pyenv_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for root in ("conda/envs/old", "pyenv/versions/3.11"):
        (tmp_path / root / "bin").mkdir(parents=True)
        (tmp_path / root / "bin" / "python3").symlink_to(sys._base_executable)  # type: ignore[attr-defined]
    monkeypatch.setenv("CONDA_EXE", str(tmp_path / "conda" / "bin" / "conda"))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    found = {str(python.path): python.version for python in pythons.find() if tmp_path in python.path.parents}
    assert found == dict.fromkeys(
        (str(tmp_path / "conda/envs/old/bin/python3"), str(tmp_path / "pyenv/versions/3.11/bin/python3")),
        ".".join(map(str, sys.version_info[:3])),
    )


def test_the_python_of_a_virtual_environment_carries_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert Path(sys.executable).parent not in [python.path.parent for python in pythons.find()]


# ---- which packages


class Index:
    """Stands in for uv: ``pandas==1`` fits nothing, there is no torch, and polars is newer than any release."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, arguments: list[str], cwd: Path) -> str:
        self.asked.append(arguments)
        files = [Path(argument) for argument in arguments if argument.startswith("/")]
        lines = "".join(file.read_text() for file in files).split()
        dated = any(argument.startswith("--exclude-newer=") for argument in arguments)
        if "pandas==1" in lines or "torch" in " ".join(lines) or ("polars" in lines and dated):
            raise Unresolvable("Because pandas==1 needs pydantic<2, nothing fits.")
        return "\n".join(lines)


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Index:
    stand_in = Index()
    monkeypatch.setattr(recipes, "uv", stand_in)
    return stand_in


def test_only_data_libraries_are_installed_because_a_store_names_them(index: Index) -> None:
    recorded = {"sklearn": "1.5.2", "pandas": "2.2.3", "acme_secret": "1.0", "numpy": ""}
    found = recipes.of_libraries(RELEASE, PYTHON, recorded)
    assert found.text.split()[2:] == ["numpy", "pandas==2.2.3", "pyarrow", "scikit-learn==1.5.2"]
    assert "acme_secret 1.0" in found.notes[0]
    (arguments,) = index.asked
    exempt = {one for one in arguments if one.startswith("--exclude-newer-package")}
    assert exempt == {f"--exclude-newer-package={name}=2100-01-01" for name in ("zenml", "pandas", "scikit-learn")}


def test_of_what_a_store_recorded_only_what_does_not_fit_is_loosened_and_each_says_so(index: Index) -> None:
    recorded = {"numpy": "2.1.3", "pandas": "1", "torch": "3", "sklearn": "1.5.2"}
    found = recipes.of_libraries(RELEASE, PYTHON, recorded)
    assert found.text.split()[2:] == ["numpy==2.1.3", "pandas", "pyarrow", "scikit-learn==1.5.2"]
    assert "needs pydantic<2" in found.notes[0]
    assert [note.split()[0] for note in found.notes[1:-1]] == ["pandas==1", "torch==3"]


def test_packages_that_are_newer_than_the_release_are_let_in_where_no_others_fit(index: Index, tmp_path: Path) -> None:
    (tmp_path / "ours.txt").write_text("polars\n")
    found = recipes.of_requirements(RELEASE, PYTHON, tmp_path / "ours.txt")
    assert found.options == ()
    assert "let in packages newer than it" in found.notes[0]


def test_requirements_that_do_not_fit_are_an_answer_and_nothing_is_loosened(index: Index, tmp_path: Path) -> None:
    (tmp_path / "ours.txt").write_text("pandas==1\n")
    with pytest.raises(RequirementsConflict) as caught:
        recipes.of_requirements(RELEASE, PYTHON, tmp_path / "ours.txt")
    assert caught.value.problem == "ours.txt cannot be installed with ZenML 0.70.0 on Python 3.11"
    assert "needs pydantic<2" in caught.value.found
    assert len(index.asked) == 2


def test_uv_reads_the_users_file_with_all_that_it_includes(tmp_path: Path) -> None:
    """A real resolution: hashes, comments, nested files and local packages are for uv, the zenml line is ours."""
    (tmp_path / "more").mkdir()
    (tmp_path / "local").mkdir()
    (tmp_path / "local" / "pyproject.toml").write_text('[project]\nname = "ours"\nversion = "1"\n')
    (tmp_path / "more" / "base.txt").write_text(f"numpy==1.26.4 \\\n  --hash=sha256:{'0' * 64}\n-c limits.txt\n")
    (tmp_path / "more" / "limits.txt").write_text("click<8.1\n")
    file = tmp_path / "requirements.txt"
    file.write_text("# ours\nzenml[server]==0.55.5  # old\n-r more/base.txt\npandas==2.2.3\n")
    python = next(python for python in pythons.find() if RELEASE.supports_python(python.version))
    found = recipes.of_requirements(RELEASE, python, file)
    lines = found.text.splitlines()
    assert {"zenml==0.70.0", "numpy==1.26.4", "pandas==2.2.3", "click==8.0.4"} <= set(lines)
    assert not found.changeable
    (tmp_path / "more" / "limits.txt").write_text("click<8.0.4\n")
    other = recipes.of_requirements(RELEASE, python, file)
    assert "click==8.0.3" in other.text.splitlines()
    file.write_text("-e ./local\n")
    assert recipes.of_requirements(RELEASE, python, file).changeable
    file.write_text("pandas==2.2.3\npydantic==1.10.13\n")
    with pytest.raises(RequirementsConflict, match="pydantic"):
        recipes.of_requirements(RELEASE, python, file)
    file.write_text("-r nowhere.txt\n")
    with pytest.raises(EnvironmentFailed, match="nowhere"):
        recipes.of_requirements(RELEASE, python, file)


def test_rules_for_old_releases_hold_up_to_the_release_they_are_for() -> None:
    core = {version: recipes._core(releases.get(version), "3.11") for version in ("0.43.0", "0.83.1", "0.84.0")}
    assert core == {
        "0.43.0": ["zenml==0.43.0", "setuptools<80", "sqlmodel<0.0.9"],
        "0.83.1": ["zenml==0.83.1", "setuptools<80"],
        "0.84.0": ["zenml==0.84.0"],
    }
    assert recipes._core(releases.get("0.98.0"), "3.11") == ["zenml[local]==0.98.0"]
    assert "importlib-metadata" in recipes._core(releases.get("0.50.0"), "3.9")


# ---- building and keeping


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZENML_UPGRADE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "environments"


def test_a_pair_shares_its_python_and_the_recorded_libraries(cache: Path) -> None:
    inventory = {"libraries": {"numpy": "1.26.4"}, "python_versions": {"3.11.2": 3, "3.9.1": 1}}
    source, target = environments.pair(plan.make({}), inventory, "0.70.0", "0.98.0", lambda _: None)
    assert (source.packages["zenml"], target.packages["zenml"]) == ("0.70.0", "0.98.0")
    assert source.packages["numpy"] == target.packages["numpy"] == "1.26.4"
    assert source.python_version == target.python_version
    assert "numpy==1.26.4" in " ".join(source.notes)
    again, _ = environments.pair(plan.make({}), inventory, "0.70.0", "0.98.0", lambda _: None)
    assert again == replace(source, origin="cached")
    assert environments.Environment.from_json(json.loads(json.dumps(source.to_json()))) == source
    assert sorted(path.suffix for path in cache.iterdir() if path.suffix == ".building") == []
    # a marker is what makes a folder an environment
    (source.python.parent.parent / "environment.json").unlink()
    assert environments._cached(source.python.parent.parent) is None


def test_a_build_that_fails_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://user:hunter2@127.0.0.1:9/simple")
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setenv("UV_CACHE_DIR", str(cache.parent / "uv"))
    with pytest.raises(EnvironmentFailed, match="package index cannot be reached") as caught:
        environments.ensure("0.70.0", log=lambda _: None)
    assert "hunter2" not in str(caught.value)
    assert not cache.exists()


def test_without_network_an_environment_that_was_built_before_is_found_again(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(arguments: list[str], cwd: Path) -> str:
        if "--offline" not in arguments:
            raise recipes._Unreachable("the package index cannot be reached", expected="", found="", remedy="")
        return real(arguments, cwd)

    real = recipes.uv
    built = environments.ensure("0.70.0", log=lambda _: None)
    monkeypatch.setattr(recipes, "uv", no_network)
    assert environments.ensure("0.70.0", log=lambda _: None) == replace(built, origin="cached")


def test_the_users_settings_for_uv_decide_where_packages_come_from_and_not_which(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("UV_DEFAULT_INDEX", "UV_OFFLINE", "UV_SYSTEM_PYTHON", "UV_EXCLUDE_NEWER", "UV_PYTHON_DOWNLOADS"):
        monkeypatch.setenv(name, "theirs")
    kept = {name: value for name, value in recipes._settings().items() if name.startswith("UV_")}
    assert {name for name, value in kept.items() if value == "theirs"} == {"UV_DEFAULT_INDEX", "UV_OFFLINE"}
    assert kept["UV_PYTHON_DOWNLOADS"] == "never"


def test_what_a_killed_build_left_is_swept_after_a_day(cache: Path) -> None:
    for name in ("new", "old"):
        (cache / f"{name}.building").mkdir(parents=True)
    os.utime(cache / "old.building", (0, 0))
    environments._sweep(cache)
    assert [path.name for path in cache.iterdir()] == ["new.building"]


def test_an_interpreter_with_another_zenml_is_refused(environment: Callable[[str], Environment]) -> None:
    with pytest.raises(EnvironmentFailed) as caught:
        environments.ensure("0.55.5", interpreter=environment("0.70.0").python)
    assert caught.value.found == "ZenML 0.70.0"


def test_an_interpreter_that_has_the_release_is_used_as_it_is(environment: Callable[[str], Environment]) -> None:
    found = environments.ensure("0.70.0", interpreter=environment("0.70.0").python)
    assert (found.origin, found.packages["zenml"]) == ("given", "0.70.0")


def test_something_that_is_no_python_is_refused(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no")
    with pytest.raises(EnvironmentFailed, match="no answer"):
        environments.ensure("0.70.0", interpreter=tmp_path / "python")


# ---- running


def test_a_probe_sees_nothing_of_the_users_zenml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZENML_STORE_URL", "DISABLE_DATABASE_MIGRATION", "PYTHONPATH", "VIRTUAL_ENV", "ZENML_CONFIG_PATH"):
        monkeypatch.setenv(name, "/the/users")
    monkeypatch.setenv("OUR_STORE", "mysql+pymysql://root:hunter2@db/zenml")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hunter2@proxy:3128")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    code = "import json, os; json.dump(dict(os.environ), open('seen.json', 'w'))"
    probing.run_command(
        HERE,
        [str(HERE.python), "-c", code],
        folder=tmp_path,
        variables={"ZENML_STORE_URL": "sqlite:////copy"},
        timeout=60,
    )
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert [name for name, value in seen.items() if value == "/the/users"] == []
    assert seen["ZENML_STORE_URL"] == "sqlite:////copy"
    assert "OUR_STORE" not in seen
    assert seen["HTTPS_PROXY"] == "http://user:hunter2@proxy:3128"
    assert seen["ZENML_CONFIG_PATH"] == str(tmp_path / "config")
    assert seen["HOME"] == str(tmp_path / "home")
    assert seen["MPLBACKEND"] == "Agg"
    assert seen["PATH"].startswith(str(HERE.python.parent))


def test_a_probe_that_dies_is_named_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(ProbeFailed, match="no_such_probe") as caught:
        probing.run_probe(HERE, "no_such_probe", {}, folder=tmp_path, timeout=60)
    assert "exit code 2" in caught.value.found
    assert "No such file" in caught.value.found


def sleepers(tmp_path: Path) -> list[str]:
    """A command that starts a child of its own and waits for ever; it writes the child's id."""
    code = (
        "import subprocess, sys, time; sleep = 'import time; time.sleep(600)'; "
        "child = subprocess.Popen([sys.executable, '-c', sleep]);"
        f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid)); time.sleep(600)"
    )
    return [sys.executable, "-c", code]


def child_is_gone(tmp_path: Path) -> bool:
    pid = int((tmp_path / "child").read_text())
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # waits for whoever adopted it
            return True
        time.sleep(0.1)
    return False


def test_a_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    ended = probing.run_command(HERE, sleepers(tmp_path), folder=tmp_path, timeout=5)
    assert (ended.timed_out, ended.returncode) == (True, -signal.SIGKILL)
    assert child_is_gone(tmp_path)


def test_an_interruption_of_the_kit_ends_the_whole_group(tmp_path: Path) -> None:
    def interrupt() -> None:
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        probing.run_command(HERE, sleepers(tmp_path), folder=tmp_path, timeout=60)
    assert child_is_gone(tmp_path)


KIT = """
import json, sys
from pathlib import Path
from zenml_upgrade_kit.probing import Environment, run_command
folder = Path(sys.argv[2])
sleeper = f"import os, time; open({str(folder / 'child')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
run_command(Environment.from_json(json.loads(sys.argv[1])), [sys.executable, "-c", sleeper], folder=folder, timeout=600)
"""


@pytest.mark.skipif(not probing.guarded([]), reason="only Linux ends the child of a killed process")
def test_a_command_ends_with_a_kit_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KIT, json.dumps(HERE.to_json()), str(tmp_path)]) as kit:
        while not (tmp_path / "child").exists() or not (tmp_path / "child").read_text():
            assert kit.poll() is None
            time.sleep(0.05)
        kit.kill()
    assert child_is_gone(tmp_path)


def test_a_command_that_ends_leaves_no_child_behind(tmp_path: Path) -> None:
    command = sleepers(tmp_path)
    command[2] = command[2].rsplit(";", 1)[0]
    ended = probing.run_command(HERE, command, folder=tmp_path, timeout=60)
    assert (ended.timed_out, ended.returncode) == (False, 0)
    assert child_is_gone(tmp_path)


def test_importing_the_module_runs_no_uv_and_no_zenml() -> None:
    code = (
        "import sys, zenml_upgrade_kit.environments; "
        "sys.exit(', '.join({'uv', 'zenml', 'platformdirs', 'pandas'} & set(sys.modules)) or 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_uv_that_does_not_end_is_not_called_a_network_that_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipes, "PATIENCE", 0.0001)
    with pytest.raises(EnvironmentFailed, match="uv did not end") as raised:
        recipes.uv(["pip", "list"], tmp_path)
    assert "uv pip list" in raised.value.found
