"""The static look, on pickles that real Pythons wrote: nothing missed, no false alarm, and never an exception."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import pickle
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zenml_upgrade_kit import demo, environments, pythons
from zenml_upgrade_kit.environments import Environment

PROBE = Path(demo.__file__).parent / "probes" / "look.py"
MINORS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def module() -> Any:
    spec = importlib.util.spec_from_file_location("zenml_upgrade_look", PROBE)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


probe = module()


def look(path: Path) -> dict[str, Any]:
    """What a look tells, which can be written as JSON."""
    found: dict[str, Any] = json.loads(json.dumps(probe.look(str(path), sys.path)))
    return found


def pickled(folder: Path, content: bytes, name: str = "artifact.pkl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return folder


WRITER = """
import dataclasses, enum, json, os, pickle, sys
folder, minor = sys.argv[1:3]
sys.path.insert(0, sys.argv[3])
import cloudpickle

def area(width, height=3):
    return abs(width) * len(os.path.join("a", "b")) + max(height, 0)

def limited(limit):
    def over(value):
        return sorted([value, limit])
    return over

def with_inner(values):
    def key(value):
        return hash(value)
    return json.dumps(sorted(values, key=key))

def waiting(values):
    yield from map(str, values)

class Point:
    def distance(self):
        return round(self.x)
    @classmethod
    def at(cls, x):
        point = cls()
        point.x = x
        return point

@dataclasses.dataclass
class Order:
    number: int
    names: list = dataclasses.field(default_factory=list)

class Colour(enum.Enum):
    RED = 1

class Empty:
    pass

values = {
    "function": area, "lambda": lambda x: divmod(x, 2), "closure": limited(3), "inner": with_inner,
    "generator": waiting, "instance": Point.at(3), "dataclass": Order(1), "enum": Colour.RED, "empty": Empty(),
    "several": [area, Point, area], "plain": {"a": [1, 2.5, "x" * 300, b"y", None, {3}]}, "module": json,
}
for name, value in values.items():
    os.makedirs(os.path.join(folder, name))
    with open(os.path.join(folder, name, "artifact.pkl"), "wb") as file:
        cloudpickle.dump(value, file)
"""


@pytest.fixture(scope="module")
def written(
    environment: Callable[[str], Environment], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """``written("3.8", "2")``: what this Python wrote with cloudpickle 2.2.1 or 3.1.2."""
    found = {python.minor: python for python in reversed(pythons.find())}
    releases = {"2": "0.70.0", "3": "0.98.0"}
    made: dict[tuple[str, str], Path] = {}

    def write(minor: str, cloudpickle: str) -> Path:
        if minor not in found:
            pytest.skip(f"no Python {minor} on this machine")
        if (minor, cloudpickle) not in made:
            folder = tmp_path_factory.mktemp(f"python-{minor}-{cloudpickle}-")
            [library] = environment(releases[cloudpickle]).python.parent.parent.glob("lib/*/site-packages/cloudpickle")
            shutil.copytree(library, folder / "libraries" / "cloudpickle")
            arguments = [folder / "written", minor, folder / "libraries"]
            (folder / "main.py").write_text(WRITER)
            subprocess.run([found[minor].path, folder / "main.py", *map(str, arguments)], check=True)
            made[minor, cloudpickle] = folder / "written"
        return made[minor, cloudpickle]

    return write


@pytest.mark.parametrize("cloudpickle", ["2", "3"])
@pytest.mark.parametrize("minor", MINORS)
def test_what_is_carried_by_value_is_named_with_the_python_it_is_bound_to(
    minor: str, cloudpickle: str, written: Callable[[str, str], Path]
) -> None:
    folder = written(minor, cloudpickle)
    found = {path.name: look(path) for path in folder.iterdir()}
    assert [(name, one["problem"], one["limit"]) for name, one in found.items() if one["problem"] or one["limit"]] == []
    qualified = minor not in ("3.8", "3.9", "3.10")
    assert found["dataclass"]["by_value"].pop(0) == "Order"  # then, on 3.8, what dataclasses wraps its methods in
    assert {name: one["by_value"] for name, one in found.items() if name != "dataclass"} == {
        "function": ["area"],
        "lambda": ["<lambda>"],
        "closure": ["limited.<locals>.over" if qualified else "over"],
        "inner": ["with_inner"],
        "generator": ["waiting"],
        "instance": ["Point"] if qualified else ["Point", "at", "distance"],
        "enum": ["Colour"],
        "empty": ["Empty"],
        "several": ["Point", "area"] if qualified else ["Point", "area", "at", "distance"],
        "plain": [],
        "module": [],
    }
    for name, used in {
        "function": {"abs", "len", "max", "os", "path", "join"},
        "lambda": {"divmod"},
        "closure": {"sorted"},
        "inner": {"dumps", "sorted", "json", "hash"},
        "generator": {"map", "str"},
        "instance": {"round", "x"},
    }.items():
        assert used <= set(found[name]["code_names"]), name
        bound = found[name]["python"]
        shapes = {"3.11": {"3.11", "3.11 to 3.12"}, "3.12": {"3.12", "3.11 to 3.12"}, "3.13": {"3.13"}}
        assert bound in shapes.get(minor, {"3.8 to 3.10"}), name
    assert found["lambda"]["code_names"] == ["divmod"]
    assert found["plain"]["code_names"] == []
    assert "json" in found["module"]["roots"]


def test_the_version_that_zenml_wrote_down_is_believed(tmp_path: Path, written: Callable[[str, str], Path]) -> None:
    folder = shutil.copytree(written("3.10", "2") / "function", tmp_path / "artifact")
    (folder / "python_version.txt").write_text("3.10.13")
    assert look(folder)["python"] == "3.10"


def test_what_a_function_is_handed_counts_as_what_its_code_can_reach(tmp_path: Path) -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    handed: Any = eval("lambda remove=shutil.rmtree: remove('x')", {"shutil": shutil})
    assert "rmtree" in look(pickled(tmp_path, cloudpickle.dumps(handed)))["code_names"]


class Named:
    """Pickled by reference, several times under the same name."""


@pytest.mark.parametrize("protocol", range(6))
def test_names_are_found_in_every_protocol_and_memoized_ones_too(protocol: int, tmp_path: Path) -> None:
    value = [Named, Named(), numpy.dtype("f8"), Path("x"), {Named: (Named(), sys.exit)}]
    found = look(pickled(tmp_path, pickle.dumps(value, protocol)))
    assert {f"{__name__}.Named", "numpy.dtype", "sys.exit"} <= set(found["globals"])
    assert {"numpy", "pathlib", __name__} <= set(found["roots"])
    assert (found["kind"], found["problem"], found["missing"], found["by_value"]) == ("pickle", "", [], [])


class Loads:
    """Pickles to a call that loads another pickle, or imports a module."""

    def __init__(self, function: Any, argument: Any) -> None:
        self.call = (function, (argument,))

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.call


def test_a_pickle_in_a_pickle_is_read_and_one_that_is_only_kept_is_not(tmp_path: Path) -> None:
    inner = b"cgone_for_good\nGone\n."
    assert look(pickled(tmp_path, pickle.dumps(Loads(pickle.loads, inner))))["missing"] == ["gone_for_good"]
    assert look(pickled(tmp_path, pickle.dumps([inner])))["missing"] == []
    called = Loads(importlib.import_module, "gone_too")
    assert look(pickled(tmp_path, pickle.dumps(called)))["missing"] == ["gone_too"]


def test_names_of_python_2_mean_those_of_python_3(tmp_path: Path) -> None:
    found = look(pickled(tmp_path, b"ccopy_reg\n_reconstructor\n0c__builtin__\nxrange\n0cStringIO\nStringIO\n."))
    assert found["globals"] == ["builtins.range", "copyreg._reconstructor", "io.StringIO"]
    assert found["missing"] == []


def test_large_payloads_are_skipped(tmp_path: Path) -> None:
    pickled(tmp_path, pickle.dumps([numpy.zeros(8_000_000), numpy.arange(3)]))
    numpy.save(tmp_path / "data.npy", numpy.zeros(8_000_000))
    look(tmp_path)
    began = time.perf_counter()
    found = look(tmp_path)
    assert time.perf_counter() - began < 0.05
    assert (found["problem"], found["limit"], "numpy" in found["roots"]) == ("", "", True)


def test_a_pickle_that_takes_too_long_says_that_the_rest_was_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "SECONDS", 0.05)
    found = look(pickled(tmp_path, pickle.dumps([(str(number), {number}) for number in range(500_000)])))
    assert found["limit"] == "artifact.pkl is too long to be read to its end"


def test_what_is_not_read_of_joblibs_files_is_said(tmp_path: Path, environment: Callable[[str], Environment]) -> None:
    script = "import joblib, numpy, sys; value = {'weights': numpy.arange(1000.0), 'name': numpy.dtype('f8')}\n"
    script += "for way in (0, 3, 'gzip', 'bz2', 'lzma', 'xz'):\n"
    script += "    joblib.dump(value, f'{sys.argv[1]}/{way}.joblib', compress=way if way in (0, 3) else (way, 3))"
    subprocess.run([environment("0.98.0").python, "-I", "-c", script, tmp_path], check=True)
    for path in sorted(tmp_path.iterdir()):
        found = look(path)
        assert (found["kind"], found["problem"], found["missing"]) == (
            "pickle",
            "",
            [] if path.stem != "0" else ["joblib.numpy_pickle"],
        )
        assert "not read" in found["limit"]
    assert len(list(tmp_path.iterdir())) == 6


def test_a_truncated_file_is_a_problem_at_every_length(tmp_path: Path, written: Callable[[str, str], Path]) -> None:
    contents = [path.read_bytes() for path in written("3.11", "2").glob("*/artifact.pkl")]
    contents += [pickle.dumps([Named(), "text", 2**70, numpy.arange(9)], protocol) for protocol in range(6)]
    for content in contents:
        for length in range(0, len(content), 7):
            problem = look(pickled(tmp_path, content[:length]))["problem"]
            said = f"ends after {length:,} bytes" if length else "is empty"
            assert said in problem, (length, problem)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("artifact.pkl", b"", "artifact.pkl is empty"),
        ("artifact.pkl", b"PAR1\n no pickle", "artifact.pkl is damaged at byte 5"),
        ("artifact.pkl", b"\xff\xff", "artifact.pkl is no pickle"),
        ("data.json", b"", "data.json is empty"),
        ("data.json", b'{"a": ', "data.json is no valid JSON: Expecting value"),
        ("data.json", b"\xff\xfe", "data.json is no valid JSON: not UTF-8"),
        ("df.parquet", b"PAR1" + bytes(100), "df.parquet has no parquet footer"),
        ("df.parquet.gzip", b"PAR1", "df.parquet.gzip has no parquet footer"),
        ("data.npy", b"\x93NUMPY\1\0", "data.npy is damaged: its header cannot be read"),
        ("data.npy", b"text", "data.npy is no NumPy file"),
        ("df.csv", b"", "df.csv is empty"),
        ("entire_model.pt", b"PK\3\4" + bytes(50), "entire_model.pt is damaged: a zip archive that ends early"),
        ("data.txt", b"", ""),  # what an empty value of type bytes is kept as
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_a_problem(
    name: str, content: bytes, problem: str, tmp_path: Path
) -> None:
    assert look(pickled(tmp_path, content, name))["problem"].startswith(problem)
    assert bool(look(tmp_path)["problem"]) == bool(problem)


def test_whole_files_of_every_kind_are_no_problem(tmp_path: Path, environment: Callable[[str], Environment]) -> None:
    script = (
        "import pandas, sys; frame = pandas.DataFrame({'a': [1, 2]}); frame.to_csv(sys.argv[1] + '/describe.csv')\n"
    )
    script += "frame.to_parquet(sys.argv[1] + '/df.parquet.gzip', compression='gzip')"
    subprocess.run([environment("0.98.0").python, "-I", "-W", "ignore", "-c", script, tmp_path], check=True)
    assert (look(tmp_path)["kind"], look(tmp_path)["problem"]) == ("parquet", "")
    assert look(tmp_path / "describe.csv")["kind"] == "csv"
    (tmp_path / "data.json").write_text('{"a": [1, NaN]}')
    assert (look(tmp_path / "data.json")["kind"], look(tmp_path)["problem"]) == ("json", "")
    for array in (
        numpy.arange(5),
        numpy.array("text"),
        numpy.zeros((0, 3)),
        numpy.zeros(3, "f4,U5"),
        numpy.zeros(2, "M8[ns]"),
    ):
        numpy.save(tmp_path / "data.npy", array)
        assert (look(tmp_path)["kind"], look(tmp_path)["problem"]) == ("npy", "")
    numpy.save(tmp_path / "data.npy", numpy.arange(1000))
    (tmp_path / "data.npy").write_bytes((tmp_path / "data.npy").read_bytes()[:-1])
    assert look(tmp_path)["problem"] == "data.npy ends after 8,127 of 8,128 bytes"


def test_objects_in_an_array_and_in_a_pytorch_archive_are_pickles(tmp_path: Path) -> None:
    numpy.save(tmp_path / "data.npy", numpy.array([Named(), None], dtype=object), allow_pickle=True)
    assert f"{__name__}.Named" in look(tmp_path)["globals"]
    with zipfile.ZipFile(tmp_path / "entire_model.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"cgone_for_good\nGone\n.")
    assert look(tmp_path)["missing"] == ["gone_for_good"]


def test_the_elements_of_a_container_are_looked_at(tmp_path: Path) -> None:
    elements = [{"path": "x", "type": "gone_types.Gone", "materializer": "builtins.int"}]
    (tmp_path / "metadata.json").write_text(json.dumps(elements))
    pickled(tmp_path / "0", b"cgone_inside\nGone\n.")
    pickled(tmp_path / "other", b"")
    found = look(tmp_path)
    assert (found["kind"], found["missing"], found["problem"]) == ("pickle", ["gone_inside", "gone_types"], "")


def test_what_cannot_be_read_is_a_problem(tmp_path: Path) -> None:
    assert "No such file" in look(tmp_path / "gone")["problem"]
    (tmp_path / "artifact.pkl").symlink_to(tmp_path / "nowhere")
    assert look(tmp_path)["problem"] == "artifact.pkl cannot be read: No such file or directory"


@pytest.mark.parametrize(("state", "old"), [("__fields_set__", True), ("__pydantic_fields_set__", False)])
def test_models_of_pydantic_1_are_recognised_by_their_state(state: str, old: bool, tmp_path: Path) -> None:
    for protocol in range(6):
        assert look(pickled(tmp_path, pickle.dumps({"__dict__": {}, state: set()}, protocol)))["pydantic1"] is old


@given(st.binary(max_size=300))
def test_no_bytes_make_it_raise(content: bytes) -> None:
    found = probe.Found()
    for data in (content, b"\x80\4" + content, b"(((" + content + b"ttR."):
        with contextlib.suppress(probe.Bad, probe.Limit):
            probe.read_pickle(data, 0, len(data), found)
        for read in (probe.read_npy, probe.read_zip, probe.read_parquet, probe.read_json, probe.read_metadata):
            with contextlib.suppress(probe.Bad, probe.Limit):
                read(data, found)
    found.by_value()
    found.code_names()


def test_tuples_that_grow_beyond_all_bounds_cost_nothing(tmp_path: Path) -> None:
    grown = b"\x8c\1x\x8c\1x\x86" + b"2\x86" * 200
    hostile = b"ctypes\nCodeType\n(" + b"K\0" * 8 + b"(" + grown + b"t" + b"K\0" * 7 + b"tR" + b"."
    began = time.perf_counter()
    found = look(pickled(tmp_path, hostile))
    assert time.perf_counter() - began < 1
    assert (found["code_names"], found["by_value"]) == (None, ["a function"])


# What really happens on a load, in the environment and on the path that the look is asked about.
LOADER = """
import importlib.util, json, os, pickle, sys
probe, code, folder = sys.argv[1:4]
sys.path.insert(0, code)
spec = importlib.util.spec_from_file_location("look", probe)
look = importlib.util.module_from_spec(spec)
spec.loader.exec_module(look)
before = set(sys.modules)
looks = {name: look.look(os.path.join(folder, name), sys.path) for name in sorted(os.listdir(folder))}
imported = [name for name in set(sys.modules) - before if name.startswith(("sklearn", "pandas", "churn", "team"))]
loads = {}
for name in looks:
    loads[name] = ["", ""]
    try:
        with open(os.path.join(folder, name, "artifact.pkl"), "rb") as file:
            pickle.load(file)
    except Exception as error:
        loads[name] = [type(error).__name__ + ": " + str(error), getattr(error, "name", "") or ""]
print(json.dumps([looks, loads, imported]))
"""


def compared(environment: Environment, code: Path, folder: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    command = [environment.python, "-I", "-W", "ignore", "-c", LOADER, PROBE, code, folder]
    ended = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    looks, loads, imported = json.loads(ended.stdout)
    assert imported == []
    return looks, loads


MODELS = """
import os, pickle, sys
import numpy, pandas
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
x, y = numpy.arange(20.0).reshape(10, 2), numpy.arange(10) % 2
models = [GradientBoostingClassifier(n_estimators=2), RandomForestClassifier(2), LogisticRegression()]
models = [model.fit(x, y) for model in [*models, make_pipeline(StandardScaler(), LogisticRegression())]]
values = {"gradient": models[0], "forest": models[1], "logistic": models[2], "pipeline": models[3]}
values.update(array=x, frame=pandas.DataFrame(x), index=pandas.Index([1, 2]), when=pandas.Timestamp("2024-01-01"))
for name, value in values.items():
    os.makedirs(os.path.join(sys.argv[1], name))
    with open(os.path.join(sys.argv[1], name, "artifact.pkl"), "wb") as file:
        pickle.dump(value, file)
"""


def test_exactly_the_modules_that_a_load_would_miss_are_missing(
    tmp_path: Path, environment: Callable[[str], Environment], written: Callable[[str, str], Path]
) -> None:
    target, folder = environment("0.98.0"), tmp_path / "artifacts"
    source = environments.ensure("0.43.0", requirements=demo.SAMPLE / "requirements.txt")
    subprocess.run([source.python, "-I", "-W", "ignore", "-c", MODELS, folder], check=True)
    for path in written("3.11", "2").iterdir():
        shutil.copytree(path, folder / f"by-value-{path.name}")
    code = tmp_path / "code"
    shutil.copytree(demo.SAMPLE / "churn", code / "churn")
    (code / "team" / "parts").mkdir(parents=True)  # a namespace package, in another one
    (code / "team" / "parts" / "made.py").write_text("class Made: pass\n")
    named = {
        "own": ("churn.customers", "Rule"), "own-gone": ("churn.orders", "Order"), "part": ("team.parts.made", "Made"),
        "part-gone": ("team.parts.lost", "Lost"), "absent": ("gone_for_good", "Gone"),
        "absent-below": ("gone_for_good.deep.down", "Gone"), "below-a-module": ("churn.customers.inside", "X"),
        "extension": ("sklearn.tree._tree", "Tree"), "c": ("_csv", "reader"), "builtin": ("_thread", "allocate_lock"),
        "lazy": ("six.moves.urllib.parse", "quote"), "lazy-gone": ("six.moving", "x"), "path": ("os.path", "join"),
        "numpy-2": ("numpy._core.multiarray", "_reconstruct"), "main": ("__main__", "Gone"),
        "inner-extension": ("pandas._libs.tslibs.timestamps", "Timestamp"), "name": ("churn.customers", "Renamed"),
    }  # fmt: skip
    for name, (where, attribute) in named.items():
        (folder / name).mkdir()
        (folder / name / "artifact.pkl").write_bytes(f"c{where}\n{attribute}\n.".encode())
    looks, loads = compared(target, code, folder)
    failing = {name: module for name, (said, module) in loads.items() if said.startswith("ModuleNotFoundError")}
    flagged = {name: one["missing"] for name, one in looks.items() if one["missing"]}
    assert flagged.pop("main") == ["__main__"]
    assert loads["main"][0].startswith("AttributeError")
    assert flagged.keys() == failing.keys()
    for name, gone in failing.items():
        assert any(f"{one}.".startswith(f"{gone}.") for one in flagged[name]), (name, gone, flagged[name])
    assert flagged["gradient"] == ["sklearn.ensemble._gb_losses"]
    assert {"own-gone", "part-gone", "absent", "absent-below", "below-a-module", "lazy-gone"} <= flagged.keys()
    by_reference = {name for name, one in looks.items() if not one["by_value"]}
    assert {name for name in looks if name.startswith("by-value")} & by_reference == {
        "by-value-plain",
        "by-value-module",
    }
    assert {name for name in looks if not name.startswith("by-value")} <= by_reference


def test_modules_of_an_environment_and_of_a_zip_are_found_as_a_load_finds_them(
    tmp_path: Path, environment: Callable[[str], Environment]
) -> None:
    target, folder, code = environment("0.98.0"), tmp_path / "artifacts", tmp_path / "code.zip"
    (tmp_path / "tree" / "team" / "parts").mkdir(parents=True)
    (tmp_path / "tree" / "team" / "parts" / "made.py").write_text("class Made: pass\n")
    shutil.copytree(demo.SAMPLE / "churn", tmp_path / "tree" / "churn")
    shutil.make_archive(str(tmp_path / "code"), "zip", tmp_path / "tree")
    packages = next(target.python.parent.parent.glob("lib/*/site-packages"))
    modules = [
        ".".join(path.relative_to(packages).with_suffix("").parts).removesuffix(".__init__").split(".cpython")[0]
        for pattern in ("sklearn/[a-m]*/*.*", "scipy/stats/*.*", "yaml/*.*", "dateutil/*/*.*", "pyarrow/*.*")
        for path in sorted(packages.glob(pattern))
        if path.suffix in (".py", ".so") and "conftest" not in path.name
    ]
    modules += [f"{one}x" for one in modules[::9]]
    modules += ["churn.customers", "churn.orders", "team.parts.made", "team.parts", "team.lost"]
    for module in modules:
        (folder / module).mkdir(parents=True, exist_ok=True)
        (folder / module / "artifact.pkl").write_bytes(f"c{module}\n__name__\n.".encode())
    assert len(modules) > 200
    looks, loads = compared(target, code, folder)
    gone = {
        name
        for name, (said, missing) in loads.items()
        if said.startswith("ModuleNotFoundError") and f"{name}.".startswith(f"{missing}.")  # not what it imports itself
    }
    assert {name for name, one in looks.items() if one["missing"]} == gone
    assert {"churn.orders", "team.lost"} <= gone
    assert not gone & {"churn.customers", "team.parts.made", "team.parts"}


def test_ten_thousand_small_pickles_are_quick(tmp_path: Path) -> None:
    pickled(tmp_path, pickle.dumps({"a": [Named(), {"limit": 3, "names": list("abc")}]}))
    (tmp_path / "python_version.txt").write_text("3.11.7")
    began = time.process_time()
    for _ in range(1000):
        probe.look(str(tmp_path), sys.path)
    assert time.process_time() - began < 0.5  # 0.1 s on an idle machine
