"""Loading artifact versions: what a pickle does costs one artifact, files stay as they are, no secret goes along."""

import ctypes
import hashlib
import importlib
import json
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
import numpy
import pytest

from zenml_upgrade_kit import inventory
from zenml_upgrade_kit.artifacts import nursery, shards
from zenml_upgrade_kit.artifacts.shards import Settings, Shard
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import EnvironmentFailed, ProbeFailed
from zenml_upgrade_kit.stores import sqlite

Row = dict[str, Any]
Load = Callable[..., dict[str, Row]]

PICKLE = {"module": "zenml.materializers.cloudpickle_materializer", "attribute": "CloudpickleMaterializer"}
BUILT_IN = {"module": "zenml.materializers.built_in_materializer", "attribute": "BuiltInMaterializer"}
CONTAINER = {"module": "zenml.materializers.built_in_materializer", "attribute": "BuiltInContainerMaterializer"}
OBJECT = {"module": "builtins", "attribute": "object"}
OLD, NEW = "0.55.5", "0.98.0"


class Calls:
    """Pickles to a call of a function: what unpickling does is up to the pickle."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def runs(code: str) -> bytes:
    """A pickle that runs Python code when it is loaded; it is then loaded as None."""
    return pickle.dumps(Calls(exec, code))


FINE = pickle.dumps({"answer": 42})


@pytest.fixture(autouse=True)
def no_nursery_is_left() -> Iterator[None]:
    yield
    shards.close()


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., Row]:
    """``stored("model", pickle)``: an artifact version with this file, and the question about it."""

    def store(name: str, content: bytes, file: str = "artifact.pkl", materializer: Row = PICKLE) -> Row:
        folder = tmp_path / "artifacts" / name
        folder.mkdir(parents=True)
        (folder / file).write_bytes(content)
        return question(name, str(folder), str(folder.parent), materializer)

    return store


def question(name: str, uri: str, root: str, materializer: Row = PICKLE, data_type: Row = OBJECT) -> Row:
    return {"id": name, "uri": uri, "root": root, "path": uri, "materializer": materializer, "data_type": data_type}


@pytest.fixture
def load(environment: Callable[[str], Environment], tmp_path: Path) -> Load:
    """``load(questions)``: results by id, of the newest release; options are those of Settings and of Shard."""

    def run(questions: list[Row], version: str = NEW, allowance: int = 0, **options: Any) -> dict[str, Row]:
        where = {name: options.pop(name) for name in ("url", "options") if name in options}
        (tmp_path / "work").mkdir(exist_ok=True)
        settings = Settings(
            **{
                "python": str(environment(version).python),
                "version": version,
                "folder": str(tmp_path / "work"),
                "timeout": 30,
                **options,
            }
        )
        found = shards.run(Shard(artifacts=tuple(questions), settings=settings, **where), allowance)
        assert [one["id"] for one in found] == [one["id"] for one in questions]
        json.dumps(found)
        return {one["id"]: one for one in found}

    return run


def nurseries(tmp_path: Path) -> int:
    """How many were started."""
    return len(list((tmp_path / "work").glob("load-*")))


def errors(found: dict[str, Row]) -> dict[str, str]:
    return {key: one["loaded"]["error"] for key, one in found.items() if not one["loaded"]["ok"]}


def state_of(folder: Path) -> list[tuple[Any, ...]]:
    """All that a load could change below a folder, access times apart."""
    found: list[tuple[Any, ...]] = []
    for path in sorted([folder, *folder.rglob("*")]):
        stat = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found.append((str(path), stat.st_mtime_ns, stat.st_mode, stat.st_uid, stat.st_nlink, content))
    return found


@pytest.mark.parametrize("version", [OLD, "0.70.0", NEW])
def test_every_way_to_die_costs_one_artifact(
    version: str, load: Load, stored: Callable[..., Row], tmp_path: Path
) -> None:
    ends = {
        "segfault": pickle.dumps(Calls(ctypes.string_at, 0)),
        "exit 0": pickle.dumps(Calls(os._exit, 0)),
        "exit 3": pickle.dumps(Calls(os._exit, 3)),
        "hangs": pickle.dumps(Calls(time.sleep, 3600)),
        "disarms": runs("import signal, time; signal.signal(14, 1); signal.setitimer(0, 0); time.sleep(6)"),
        "killed": runs("import os; os.kill(os.getpid(), 9)"),
        "aborts": pickle.dumps(Calls(os.abort)),
    }
    asked = [stored("first", FINE)]
    for name, content in ends.items():
        asked += [stored(name, content), stored(f"after {name}", FINE)]
    found = load(asked, version, timeout=4)
    assert errors(found) == {
        "segfault": "the loading process ended by SIGSEGV",
        "exit 0": "the loading process ended with exit code 0",
        "exit 3": "the loading process ended with exit code 3",
        "hangs": "did not load within 4 s",
        "killed": "the loading process ended by SIGKILL",
        "aborts": "the loading process ended by SIGABRT",
    }
    assert {one["loaded"]["type"] for key, one in found.items() if "first" in key or "after" in key} == {"dict"}
    assert found["segfault"]["look"]["kind"] == "pickle", "the look survives the load"
    assert nurseries(tmp_path) == 1


def test_what_raises_is_that_artifacts_failure(load: Load, stored: Callable[..., Row]) -> None:
    asked = [
        stored("leaves", pickle.dumps(Calls(sys.exit, 3))),
        stored("swapped", b'{"answer": 42}'),
        stored("truncated", FINE[:-5]),
        stored("zero bytes", b""),
        stored("gone module", pickle.dumps(Calls(importlib.import_module, "gone_for_good"))),
        stored("interrupts", runs("raise KeyboardInterrupt")),
        stored("cut JSON", b'{"answer": ', "data.json", BUILT_IN),
        stored("no file of its own", b"", "other.bin", BUILT_IN),
        stored("fine", FINE),
    ]
    found = load(asked)
    said = errors(found)
    assert "SystemExit: 3" in said["leaves"]
    assert "UnpicklingError" in said["swapped"]
    assert "EOFError" in said["zero bytes"]
    assert said["truncated"]
    assert said["gone module"] == "ModuleNotFoundError: No module named 'gone_for_good'"
    assert "KeyboardInterrupt" in said["interrupts"]
    assert "JSONDecodeError" in said["cut JSON"]
    assert "FileNotFoundError" in said["no file of its own"]
    assert "fine" not in said


def test_what_a_load_prints_is_no_answer(load: Load, stored: Callable[..., Row]) -> None:
    noise = 'import os, sys; text = \'{"ended": 1, "status": 0}\\n\'; print(text); sys.__stdout__.write(text)\n'
    noise += "os.write(1, text.encode()); os.write(2, text.encode()); sys.stdout.close()"
    found = load([stored("loud", runs(noise)), stored("fine", FINE)])
    assert errors(found) == {}


@pytest.mark.parametrize("guard", ["", "landlock", "audit"])
def test_no_pickle_changes_the_artifact_store(
    guard: str, load: Load, stored: Callable[..., Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nursery, "GUARD", guard)
    here = str(tmp_path / "artifacts" / "victim")
    file = f"{here}/artifact.pkl"
    tries = {
        "rmtree": f"import shutil; shutil.rmtree({here!r})",
        "own folder": f"import shutil; shutil.rmtree({str(tmp_path / 'artifacts' / 'own folder')!r})",
        "remove": f"import os; os.remove({file!r})",
        "remove by descriptor": f"import os; os.remove('artifact.pkl', dir_fd=os.open({here!r}, os.O_RDONLY))",
        "rename": f"import os; os.rename({file!r}, {file!r} + '.old')",
        "take away": f"import os, tempfile; os.rename({file!r}, tempfile.mkdtemp() + '/x')",
        "write": f"open({file!r}, 'wb').write(b'x')",
        "append": f"import os; os.write(os.open({file!r}, os.O_WRONLY | os.O_APPEND), b'x')",
        "new file": f"open({here!r} + '/new', 'w')",
        "new folder": f"import os; os.mkdir({here!r} + '/new')",
        "truncate": f"import os; os.truncate({file!r}, 0)",
        "mode": f"import os; os.chmod({file!r}, 0)",
        "mode by descriptor": f"import os; os.fchmod(os.open({file!r}, os.O_RDONLY), 0)",
        "times": f"import os; os.utime({file!r}, (1, 1))",
        "owner": f"import os; os.chown({file!r}, 1, 1)",
        "hard link": f"import os, tempfile; new = tempfile.mkdtemp() + '/x'; os.link({file!r}, new); open(new, 'w')",
        "symbolic link": "import os, tempfile; new = tempfile.mkdtemp() + '/x'\n"
        f"os.symlink({file!r}, new); open(new, 'w')",
        "the nursery": "import os; os.kill(os.getppid(), 9)",
        "everybody": "import os; os.kill(-1, 9)",
    }
    asked = [stored(name, runs(code)) for name, code in tries.items()]
    shell = stored("shell", runs(f"import os; os.system('rm -rf {here} 2>/dev/null'); os.listdir({here!r})"))
    allowed = stored("allowed", runs("import tempfile\nwith tempfile.NamedTemporaryFile() as file: file.write(b'x')"))
    victim = stored("victim", FINE)
    before = state_of(tmp_path / "artifacts")
    found = load([*asked, shell, allowed, victim])
    said = errors(found)
    assert {name for name in said if name in tries} == set(tries)
    assert {text.partition(":")[0] for name, text in said.items() if name in tries} <= {"PermissionError", "OSError"}
    assert "allowed" not in said
    assert "victim" not in said
    assert ("shell" in said) == (guard == "audit"), "a program runs where the kernel binds it, too"
    assert state_of(tmp_path / "artifacts") == before
    assert nurseries(tmp_path) == 1


def running(text: str) -> list[str]:
    """Process ids whose command line has the text."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(path.parent.name)
    return found


def test_a_pickle_that_forks_has_one_answer_and_leaves_nothing_running(
    load: Load, stored: Callable[..., Row], tmp_path: Path
) -> None:
    number = "98765.4321"
    away = "import os\nif os.fork() == 0:\n  os.setsid()\n  if os.fork() == 0:\n    os.setsid()\n"
    asked = [
        stored("forks", pickle.dumps(Calls(os.fork))),
        stored("fine", FINE),
        stored("leaves a program", runs(f"import subprocess; subprocess.Popen(['sleep', '{number}'])")),
        stored("leaves a daemon", runs(f"{away}    os.execvp('sleep', ['sleep', '{number}'])\n  os._exit(0)")),
        stored("also fine", FINE),
    ]
    found = load(asked)
    assert errors(found) == {}
    deadline = time.monotonic() + 10
    while running(number) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(number) == []
    assert len(running(str(tmp_path / "work"))) == 1, "the nursery"
    shards.close()
    assert running(str(tmp_path / "work")) == []


def test_the_memory_limit_is_named(load: Load, stored: Callable[..., Row]) -> None:
    asked = [stored("100 GB", pickle.dumps(Calls(bytearray, 100 << 30))), stored("fine", FINE)]
    asked.append(stored("100 MB", pickle.dumps(Calls(bytearray, 100 << 20))))
    found = load(asked, memory=1 << 30)
    assert errors(found) == {
        "100 GB": "MemoryError: it needs more than the 1,073,741,824 bytes that one loading process may allocate"
    }


def test_lost_and_too_large_artifacts_are_not_loaded(load: Load, stored: Callable[..., Row], tmp_path: Path) -> None:
    (tmp_path / "artifacts" / "empty" / "below").mkdir(parents=True)
    asked = [
        question("missing", str(tmp_path / "artifacts" / "missing"), str(tmp_path)),
        question("empty", str(tmp_path / "artifacts" / "empty"), str(tmp_path)),
        stored("large", FINE + b" " * 5000),
        stored("first", FINE),
        stored("second", FINE),
    ]
    found = load(asked, max_bytes=5000, allowance=len(FINE) + 1)
    assert {key: one["state"] for key, one in found.items()} == {
        "missing": "lost",
        "empty": "lost",
        "large": "too large",
        "first": "loaded",
        "second": "deferred",
    }
    assert found["missing"]["why"].startswith(f"there is no {asked[0]['uri']}")
    assert f"{len(FINE) + 5000:,} bytes" in found["large"]["why"]
    assert (found["first"]["bytes"], found["first"]["files"]) == (len(FINE), 1)
    assert found["second"]["loaded"] is None
    assert load(asked[3:4], load=False)["first"] == {**found["first"], "state": "looked", "loaded": None}


DENIED = """
import dataclasses, json, sys
from zenml_upgrade_kit.artifacts import shards
asked, settings = json.loads(sys.argv[1])
found = shards.run(shards.Shard(artifacts=tuple(asked), settings=shards.Settings(**settings)))
shards.close()
print(json.dumps(found))
"""


def test_permission_denied_is_unreadable(
    stored: Callable[..., Row], environment: Callable[[str], Environment], tmp_path: Path
) -> None:
    asked = [stored("file", FINE), stored("folder", FINE), stored("fine", FINE)]
    (Path(asked[0]["path"]) / "artifact.pkl").chmod(0)
    Path(asked[1]["path"]).chmod(0)
    settings = {"python": str(environment(NEW).python), "version": NEW, "folder": str(tmp_path)}
    without = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"] if os.geteuid() == 0 else []
    command = [*without, sys.executable, "-c", DENIED, json.dumps([asked, settings])]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {one["id"]: one for one in json.loads(ended.stdout)}
    assert [found[name]["state"] for name in ("file", "folder", "fine")] == ["unreadable", "unreadable", "loaded"]
    assert re.search(r"permission .*denied", found["file"]["why"], re.IGNORECASE)
    assert "Permission denied" in found["folder"]["why"]


def test_any_name_and_the_same_files_twice(load: Load, stored: Callable[..., Row]) -> None:
    odd = stored('\N{GRINNING FACE} it\'s "quoted" \\ \u2028 %s {0}', FINE)
    found = load([odd, {**odd, "id": "again"}])
    assert errors(found) == {}
    first, second = (one["loaded"]["digest"] for one in found.values())
    assert first == second


@pytest.mark.parametrize(("writer", "version"), [(OLD, OLD), ("0.70.0", "0.70.0"), ("0.70.0", NEW)])
def test_a_load_writes_nothing_into_a_real_artifact_store(
    writer: str, version: str, deployment: Callable[..., Path], load: Load, tmp_path: Path
) -> None:
    local_stores = deployment(writer) / "local_stores"
    database = local_stores / "default_zen_store" / "zenml.db"
    sqlite.online_backup(database, tmp_path / "copy.db")
    with closing(sqlite.connect(database)) as connection:
        rows = inventory.artifacts(connection, local_stores)
    code = local_stores.parent.parent / "code"
    asked = [question(row["id"], row["uri"], row["store_root"], row["materializer"], row["data_type"]) for row in rows]
    before = state_of(local_stores), state_of(code)
    found = load(asked, version, code=str(code), database=str(tmp_path / "copy.db"))
    assert errors(found) == {}
    assert (state_of(local_stores), state_of(code)) == before
    assert "churn.customers" in {name for one in found.values() for name in one["loaded"]["modules"]}


def test_a_class_that_cannot_be_imported_is_told_apart(load: Load, stored: Callable[..., Row]) -> None:
    gone = {"module": "gone.for_good", "attribute": "Gone"}
    asked = [stored("one", FINE) | {"materializer": gone}, stored("two", FINE) | {"data_type": gone}]
    asked += [stored("three", FINE) | {"data_type": {}}, stored("four", FINE) | {"materializer": {"module": "a\0b"}}]
    found = load(asked)
    roles = ["materializer", "data type", "data type", "materializer"]
    assert [one["loaded"]["missing"] for one in found.values()] == roles
    assert "gone.for_good" in found["one"]["loaded"]["error"]


def test_the_look_alone_names_the_modules_that_a_load_needs_and_that_are_missing(
    load: Load, stored: Callable[..., Row]
) -> None:
    gone = {"module": "gone.for_good", "attribute": "Gone"}
    asked = [stored("one", FINE) | {"materializer": gone}, stored("two", b"cgone\nGone\n.") | {"data_type": gone}]
    asked += [stored("three", FINE) | {"data_type": {}}, stored("four", FINE)]
    found = load(asked, load=False)
    assert [one["state"] for one in found.values()] == ["looked"] * 4
    missing = [["gone.for_good"], ["gone", "gone.for_good"], [], []]
    assert [one["look"]["missing"] for one in found.values()] == missing


def test_what_floats_round_to_is_told_where_it_is_wanted(load: Load, stored: Callable[..., Row]) -> None:
    asked = [stored("one", pickle.dumps(0.1 + 0.2)), stored("other", pickle.dumps(0.3))]
    for wanted, kinds in ((False, {None}), (True, {str})):
        loaded = [one["loaded"] for one in load(asked, near=wanted).values()]
        assert len({one["digest"] for one in loaded}) == 2
        assert {one["near"] and type(one["near"]) for one in loaded} == kinds
        assert len({one["near"] for one in loaded}) == 1


KILLS = "import os\nfrom zenml.materializers.cloudpickle_materializer import CloudpickleMaterializer\n"


@pytest.fixture
def own_environment(environment: Callable[[str], Environment], tmp_path: Path) -> tuple[str, Path]:
    """An interpreter with everything that the newest release's has, and its folder for more modules."""
    parent = environment(NEW).python
    ask = "import sysconfig, sys; print(sysconfig.get_path('purelib')); print(sys._base_executable)"
    installed, base = subprocess.run([parent, "-Ic", ask], capture_output=True, text=True, check=True).stdout.split()
    subprocess.run([base, "-m", "venv", "--without-pip", tmp_path / "own"], check=True)
    [packages] = (tmp_path / "own" / "lib").glob("python3*/site-packages")
    (packages / "parent.pth").write_text(installed)
    return str(tmp_path / "own" / "bin" / "python"), packages


def test_a_module_that_ends_the_nursery_is_left_out(
    own_environment: tuple[str, Path],
    load: Load,
    stored: Callable[..., Row],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    python, packages = own_environment
    (packages / "deadly.py").write_text(f"{KILLS}os.kill(os.getpid(), 11)\n")
    (packages / "endless.py").write_text(f"{KILLS}import time\ntime.sleep(3600)\n")
    (packages / "fussy.py").write_text(f"{KILLS}class Own(CloudpickleMaterializer): pass\n")
    asked = [
        stored(name, FINE) | {"materializer": {"module": name, "attribute": "Own"}}
        for name in ("fussy", "deadly", "endless")
    ]
    monkeypatch.setattr(nursery, "START_UP", 20)
    found = load([*asked, stored("fine", FINE)], python=python, timeout=5)
    assert errors(found) == {
        "deadly": "the loading process ended by SIGSEGV",
        "endless": "did not load within 5 s",
    }
    assert nurseries(tmp_path) == 3


def test_an_environment_that_does_not_start_is_the_kits_failure(
    load: Load, stored: Callable[..., Row], tmp_path: Path
) -> None:
    broken = tmp_path / "python"
    with pytest.raises(EnvironmentFailed, match="does not start"):
        load([stored("one", FINE)], python=str(broken))
    broken.write_text("#!/bin/sh\necho no libraries here >&2\nexit 1\n")
    broken.chmod(0o755)
    with pytest.raises(ProbeFailed, match="no libraries here"):
        load([stored("two", FINE)], python=str(broken))


TEAM = """
class Model(BaseEstimator):
    n_features_in_ = 2
    def predict(self, rows):
        return self.how(rows)
"""


@pytest.mark.parametrize("zipped", [False, True])
def test_what_calling_does_is_told_apart_from_loading(
    zipped: bool, load: Load, stored: Callable[..., Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hows = {"segfault": "ctypes.string_at(0)", "leaves": "os._exit(0)", "hangs": "time.sleep(60)", "works": "[1, 2]"}
    code = tmp_path / "code"
    code.mkdir()
    for name, how in hows.items():
        (code / f"{name}.py").write_text(
            f"import ctypes, os, time\nfrom sklearn.base import BaseEstimator\n{TEAM.replace('self.how(rows)', how)}"
        )
    if zipped:
        with zipfile.ZipFile(tmp_path / "code.zip", "w") as archive:
            for file in code.iterdir():
                archive.write(file, file.name)
        shutil.rmtree(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        code = Path("code.zip")  # as on a Dask worker
    monkeypatch.setattr(shards, "CALL", 2)
    found = load([stored(name, f"c{name}\nModel\n)R.".encode()) for name in hows], code=str(code))
    assert errors(found) == {}
    called = {key: one["loaded"]["called"] for key, one in found.items()}
    assert called.pop("works").startswith("returned")
    assert called == {
        "segfault": "ended by SIGSEGV",
        "leaves": "ended with exit code 0",
        "hangs": "did not return within 2 s",
    }
    assert all(one["loaded"]["type"] == f"{key}.Model" for key, one in found.items())
    assert {key: list(one["loaded"]["modules"]) for key, one in found.items()} == {name: [name] for name in hows}
    assert load([stored("not called", b"cworks\nModel\n)R.")], code=str(code), call=False)["not called"]["loaded"]["ok"]


@pytest.mark.parametrize("uri", ["/gone/store/list/7", "s3://gone/store/list/7"])
@pytest.mark.parametrize("version", ["0.43.0", OLD, "0.70.0", NEW])
def test_a_container_of_other_artifacts_loads_from_a_copy(version: str, uri: str, load: Load, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    arrays = "zenml.materializers.numpy_materializer.NumpyMaterializer"
    members = [{"path": f"{uri}/{at}", "type": "numpy.ndarray", "materializer": arrays} for at in range(2)]
    for at in range(2):
        (copy / str(at)).mkdir(parents=True)
        numpy.save(copy / str(at) / "data.npy", numpy.arange(at + 3))
    (copy / "metadata.json").write_text(json.dumps(members))
    root = uri.partition("/list")[0]
    kind = {"module": "builtins", "attribute": "list"}
    found = load([question("list", uri, root, CONTAINER, kind) | {"path": str(copy)}], version)
    assert errors(found) == {}
    assert (found["list"]["loaded"]["summary"], found["list"]["files"]) == ("list of 2", 3)


def test_several_threads_share_one_nursery(load: Load, stored: Callable[..., Row], tmp_path: Path) -> None:
    asked = [[stored(f"{shard} {number}", FINE) for number in range(5)] for shard in range(6)]
    asked[2].insert(2, stored("dies", pickle.dumps(Calls(os._exit, 1))))
    for _ in range(2):  # the threads of the first round have ended
        with ThreadPoolExecutor(3) as pool:
            found = {key: one for part in pool.map(load, asked) for key, one in part.items()}
        assert errors(found) == {"dies": "the loading process ended with exit code 1"}
        assert len(found) == 31
    assert nurseries(tmp_path) == 1


def test_a_nursery_that_somebody_ends_costs_nothing(load: Load, stored: Callable[..., Row], tmp_path: Path) -> None:
    def end() -> None:
        while not (found := running(str(tmp_path / "work"))):
            time.sleep(0.01)
        time.sleep(8)
        os.kill(int(found[0]), signal.SIGKILL)

    slow = [stored(str(number), runs("import time; time.sleep(1)")) for number in range(15)]
    ending = threading.Thread(target=end)
    ending.start()
    assert errors(load(slow)) == {}
    ending.join()
    assert nurseries(tmp_path) == 2


SECRET = "a-secret-for-tests"
SPY = """
import glob, os
secret = {!r}[::-1]
for name in ("environ", "cmdline"):
    for path in ("/proc/self/" + name, "/proc/%d/%s" % (os.getppid(), name)):
        if secret in open(path, errors="replace").read():
            raise ValueError("the secret is in " + path)
here = os.path.dirname(os.environ["TMPDIR"])
for path in glob.glob(os.path.dirname(here) + "/**", recursive=True):
    if os.path.isfile(path) and not path.endswith(".pkl") and secret in open(path, errors="replace").read():
        raise ValueError("the secret is in " + path)
"""


def s3(endpoint: str, **more: Any) -> Row:
    return {"key": "AKIATEST", "secret": SECRET, "client_kwargs": {"endpoint_url": endpoint}, **more}


def test_files_in_a_bucket_are_fetched_loaded_and_removed(
    bucket: str, s3_server: str, load: Load, tmp_path: Path
) -> None:
    contents = {"spies": runs(SPY.format(SECRET[::-1])), "fine": FINE, "dies": pickle.dumps(Calls(os._exit, 1))}
    asked = [question("lost", f"{bucket}/zenml/lost", bucket)]
    for name, content in contents.items():
        boto3.client("s3").put_object(Bucket=bucket[5:], Key=f"zenml/{name}/1/artifact.pkl", Body=content)
        asked.append(question(name, f"{bucket}/zenml/{name}/1", bucket))
    for one in asked:
        del one["path"]
    found = load(asked, url=bucket, options=s3(s3_server))
    assert {key: one["state"] for key, one in found.items()} == dict.fromkeys(contents, "loaded") | {"lost": "lost"}
    assert (found["fine"]["bytes"], found["fine"]["files"]) == (len(FINE), 1)
    assert found["fine"]["fetch_seconds"] > 0
    del found["lost"]
    assert errors(found) == {"dies": "the loading process ended with exit code 1"}
    assert [path.name for path in (tmp_path / "work").iterdir() if not path.name.startswith("load-")] == []
    assert not list((tmp_path / "work").rglob("artifact.pkl"))
    assert SECRET not in repr(Shard(artifacts=(), settings=None, options=s3(s3_server)))  # type: ignore[arg-type]


@pytest.fixture
def answering() -> Iterator[Callable[[int], str]]:
    """``answering(403)``: the address of a server that answers everything so; 0: late."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int) -> str:
        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                if not status:
                    time.sleep(4)
                self.send_response(status or 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_HEAD = answer  # noqa: N815 the names that the base class wants

            def log_message(self, *_: Any) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return "http://{}:{}".format(*servers[-1].server_address[:2])

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [
        (403, "unreadable", "permission to list and read"),
        (404, "lost", "there is no s3://bucket/zenml/1"),
        (500, "unreadable", "a service in order"),
        (0, "unreadable", "a service that answers"),
    ],
)
def test_a_bucket_in_trouble_is_told_in_words(
    status: int,
    state: str,
    said: str,
    answering: Callable[[int], str],
    bucket: str,
    load: Load,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shards, "PATIENCE", 0.5)
    short = {"read_timeout": 1, "connect_timeout": 1, "retries": {"max_attempts": 0}}
    asked = [question(str(at), f"s3://bucket/zenml/{at}", "s3://bucket") for at in range(1, 9)]
    began = time.monotonic()
    found = load(asked, url="s3://bucket", options=s3(answering(status), config_kwargs=short))
    assert {one["state"] for one in found.values()} == {state}
    assert said in found["1"]["why"]
    assert SECRET not in json.dumps(found)
    assert "AKIATEST" not in json.dumps(found)
    if not status:
        assert time.monotonic() - began < 20, "a store that does not answer is not asked for each artifact"
