"""Descriptions of values: equal where the content is, in every Python and in every version of the libraries."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from zenml_upgrade_kit import environments, pythons
from zenml_upgrade_kit.artifacts.comparison import compare
from zenml_upgrade_kit.artifacts.shards import Loaded
from zenml_upgrade_kit.environments import Environment

PROBE = Path(environments.__file__).parent / "probes" / "values.py"

NEWEST = {"numpy": "2.4.6", "pandas": "3.0.6", "pyarrow": "26.0.0", "scikit-learn": "1.9.1"}

START = f"""
import importlib.util, json, pickle, sys
spec = importlib.util.spec_from_file_location("zenml_upgrade_values", {str(PROBE)!r})
values = importlib.util.module_from_spec(spec)
spec.loader.exec_module(values)
describe, call = values.describe, values.call
"""


def run(python: Path | str, script: str, *arguments: Path | str, seed: str = "random") -> Any:
    """What a script prints as JSON in its last line."""
    ended = subprocess.run(
        [str(python), "-W", "ignore", "-c", START + script, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": seed},
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def old(environment: Callable[[str], Environment]) -> Path:
    """pandas 2.2, NumPy 1.26, scikit-learn 1.4, pydantic 1."""
    return environment("0.55.5").python


@pytest.fixture(scope="module")
def new() -> Path:
    """pandas 3, NumPy 2, scikit-learn 1.9, pydantic 2."""
    return environments.ensure("0.98.0", libraries=NEWEST, companions=("0.55.5", "0.98.0")).python


def outcome(was: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[str, str]:
    return compare(Loaded(ok=True, **was), Loaded(ok=True, **now))


PYTHONS_OWN = """
import collections, dataclasses, datetime, decimal, enum, fractions, pathlib, random, re, uuid
from functools import partial

class Colour(enum.Enum):
    RED = enum.auto()
    BLUE = enum.auto()

class Rights(enum.IntFlag):
    READ = 1
    WRITE = 2

@dataclasses.dataclass
class Point:
    x: int
    y: list

class Slotted:
    __slots__ = ("a", "_Slotted__b")
    def __init__(self):
        self.a, self.__b = 1, 2.5

class Plain:
    def __init__(self, value):
        self.value = value

class Hooked(Plain):
    def __getstate__(self):
        raise SystemExit("called")
    __reduce__ = __repr__ = __eq__ = __hash__ = __getattr__ = lambda self, *rest: self.__getstate__()

class Id(int): pass
class Listed(list): pass
Pair = collections.namedtuple("Pair", "left right")

def loop():
    found = [1]
    found.append({"again": found})
    return found

def deep(levels):
    found = []
    for _ in range(levels):
        found = [found]
    return found

def shared():
    found = [1]
    for _ in range(90):
        found = [found, found]
    return found

berlin = datetime.timezone(datetime.timedelta(hours=1))
ONE = {
    "none": None, "bools": [True, False], "ints": [0, -1, 10**30, 7 ** 9000], "text": "né 🫨 \\ud800",
    "long": "x" * 5000,
    "bytes": b"\\0a", "bytearray": bytearray(b"a"), "floats": [0.1, -0.0, float("nan"), float("-inf"), 5e-324],
    "complex": 1j - 2,
    "set": {"a", 1, (2, "b"), frozenset("xyz"), None}, "dict": {"b": 1, "a": [2], 3: {}}, "tuple": (1, (2,), []),
    "range": range(3),
    "many ints": list(range(1000)), "many floats": [float(i) / 3 for i in range(1000)], "many texts": list(map(str,
    range(1000))),
    "texts with nul": ["a\\0"] * 200, "mixed": [1, "a", None, 2.5] * 100, "big": [2**70] * 200,
    "words": set(map(str, range(500))),
    "ordered": collections.OrderedDict(a=1), "counter": collections.Counter("aab"), "deque": collections.deque([1,
    2], 5),
    "defaultdict": collections.defaultdict(list, a=[1]), "pair": Pair(1, [2]), "id": Id(4), "listed": Listed([1]),
    "colour": Colour.BLUE, "rights": Rights.READ | Rights.WRITE, "point": Point(1, [2]), "slotted": Slotted(),
    "plain": Plain([1]),
    "hooked": Hooked(1), "date": datetime.date(2024, 1, 1), "time": datetime.time(1, 2),
    "naive": datetime.datetime(2024, 1, 1, 2),
    "aware": datetime.datetime(2024, 1, 1, tzinfo=berlin), "delta": datetime.timedelta(1, 2, 3),
    "uuid": uuid.UUID(int=1),
    "decimal": decimal.Decimal("1.10"), "fraction": fractions.Fraction(1, 3), "path": pathlib.PurePosixPath("/a"),
    "pattern": re.compile("a+", re.I), "classes": [int, Plain, collections.OrderedDict], "functions": [len,
    re.compile, json.dumps],
    "partial": partial(int, base=2), "random": random.Random(3).getstate(), "error": ValueError("x"), "loop": loop(),
    "deep": deep(20000), "shared": shared(), "object": object(), "modules": [json],
}
print(json.dumps({name: describe(value) for name, value in ONE.items()}))
"""


def test_every_python_describes_its_own_types_alike() -> None:
    supported = [python for python in pythons.find() if Version(python.version) >= Version("3.8")]
    interpreters = {python.minor: python.path for python in reversed(supported)}
    found = {minor: run(path, PYTHONS_OWN) for minor, path in sorted(interpreters.items())}
    first = next(iter(found.values()))
    for minor, described in found.items():
        assert {name: outcome(first[name], value) for name, value in described.items()} == dict.fromkeys(
            described, ("identical", "")
        ), minor
    assert {name: value["basis"] for name, value in first.items() if value["basis"] != "content"} == {
        "deep": "content, but type alone below 100 levels"
    }


def test_a_class_of_the_users_script_is_not_taken_for_a_librarys(old: Path, tmp_path: Path) -> None:
    script = tmp_path / "site-packages" / "probe.py"
    script.parent.mkdir()
    script.write_text(
        START
        + """
class Hooked:
    a = 1
    def __getstate__(self):
        raise SystemExit("called")
    __reduce__ = __reduce_ex__ = __repr__ = __getstate__
print(describe(Hooked())["basis"])
"""
    )
    assert subprocess.run([old, script], capture_output=True, text=True, check=True).stdout == "content\n"


PAIRS = """
import collections, dataclasses, datetime, enum, threading, uuid, zoneinfo
import numpy as np, pandas as pd, scipy.sparse

class Colour(enum.Enum):
    RED = 1
    BLUE = 2

@dataclasses.dataclass
class Point:
    x: int
    y: list

class Plain:
    def __init__(self, value):
        self.value = value

payload = np.array([0x7FF8000000000001, 0xFFF8000000000000], dtype="u8").view("f8")
grid = np.arange(6.0).reshape(2, 3)
gaps = np.zeros(2, dtype=np.dtype([("a", "i1"), ("b", "f8")], align=True))
other_gaps = np.frombuffer(b"\\xff" * 32, dtype=gaps.dtype).copy()
other_gaps["a"], other_gaps["b"] = 0, 0
frame = pd.DataFrame({"a": [1, 2], "b": [0.5, 1.5], "c": [3, 4]})
blocks = pd.DataFrame({"b": [0.5, 1.5]})
blocks.insert(0, "a", [1, 2])
blocks["c"] = [3, 4]
large = np.random.default_rng(1).random(200000)
changed = large.copy()
changed[123456] += 1e-3
barely = large * (1 + 2e-16)
halves = np.repeat([0.0, 1.0], 10000)
S = pd.Series

PAIRS = {
    "equal": [
        (float("nan"), -float("nan")), (payload, np.array([np.nan, np.nan])), (grid, np.asfortranarray(grid)),
        (grid, grid.astype(">f8")), (grid[:, ::2], grid[:, ::2].copy()), (grid[::-1], grid[::-1].copy()), (gaps,
        other_gaps),
        (np.array([1.5], "g"), np.array([1.5], "g")), (np.array(["a", None], object), np.array(["a", None], object)),
        (np.ma.array([1, 2], mask=[0, 1]), np.ma.array([1, 9], mask=[0, 1])), (frame, blocks), (large, large.copy()),
        (frame, frame[["a", "b", "c"]]), (S([1, 2]), S([1, 2], index=np.array([0, 1]))), (S(range(9)), S(range(9),
        index=list(range(9)))),
        (S(["a", "b"], dtype="category"), S(["a", "b"], dtype="category")), (np.float64(1.5), np.array(1.5)[()]),
        (S(["a", None], dtype="string[python]"), S(["a", None], dtype="string[pyarrow]")),
        (S([1, None], dtype="Int64"), S([1, None], dtype="Int64")), (pd.arrays.SparseArray([0, 0, 1]),
        pd.arrays.SparseArray([0, 0, 1], kind="block")),
        (scipy.sparse.csr_matrix(grid), scipy.sparse.csr_matrix(np.asfortranarray(grid))),
        (np.random.RandomState(3), np.random.RandomState(3)), (np.random.default_rng(3), np.random.default_rng(3)),
        (datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
        datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)),
        (pd.Timestamp("2024-01-01", tz="UTC"), pd.Timestamp("2024-01-01", tz=datetime.timezone.utc)),
        ([np.dtype("f4"), np.sum, pd.NaT, pd.NA], [np.dtype("f4"), np.sum, pd.NaT, pd.NA]),
    ],
    "different": [
        (1, 1.0), (1, True), ("1", 1), (["a", "b"], ["ab"]), ([1, [2]], [[1], 2]), ((1,), [1]), (b"a", "a"), (b"a",
        bytearray(b"a")),
        (0.0, -0.0), ({"a": 1}, {"a": 2}), ({1: 2}, {"1": 2}), ({"a": None}, {}), (Colour.RED, Colour.BLUE),
        (Plain(1), Plain(2)),
        (Point(1, []), Point(1, [0])), (datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)), (list(range(200)),
        list(range(1, 201))),
        (["a", "b"] * 100, ["ab", ""] * 100), (["a\\0", "b"] * 100, ["a", "\\0b"] * 100), (uuid.UUID(int=1),
        uuid.UUID(int=2)),
        (np.arange(3), np.arange(3.0)), (np.zeros((2, 3)), np.zeros((3, 2))), (np.int32(1), np.int64(1)), (large,
        changed), (large, barely),
        (halves, halves[::-1]), (np.arange(70000), np.arange(70000)[::-1]), (np.ma.array([1, 2], mask=[0, 1]),
        np.ma.array([1, 2], mask=[1, 1])),
        (S([1, None], dtype=object), S([1, float("nan")], dtype=object)), (S(["a"]), S(["a"], name="x")),
        (frame, frame.rename(columns={"a": "x"})), (frame, frame[["b", "a", "c"]]), (frame, frame.set_index("a")),
        (frame, frame.iloc[:1]),
        (S([1, 2]), S([1, 2], index=[1, 2])), (S([1, 2]), S([1, 2], index=[0, 2])), (S([1]), S([1],
        index=pd.Index([0], name="n"))),
        (S(["a", "b"], dtype="category"), S(["b", "a"], dtype="category")), (S([1, None], dtype="Int64"), S([1, 0],
        dtype="Int64")),
        (S(["a", None, "b"], dtype="string"), S(["a", "b", None], dtype="string")),
        (S(pd.to_datetime(["2024-01-01"])).dt.tz_localize("UTC"),
        S(pd.to_datetime(["2024-01-01"])).dt.tz_localize("Europe/Berlin")),
        (S(np.array(["2024-01-01"], "M8[ns]")), S(np.array(["2024-01-01"], "M8[s]"))),
        (scipy.sparse.csr_matrix(grid), scipy.sparse.csc_matrix(grid)), (scipy.sparse.csr_matrix(grid),
        scipy.sparse.csr_matrix(grid * 2)),
        (np.random.RandomState(3), np.random.RandomState(4)),
        (datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Europe/Paris"))),
    ],
    "near": [
        (0.1 + 0.2, 0.3), (np.array([0.1 + 0.2]), np.array([0.3])), (Plain(1e300 * 3), Plain(3e300)), (0.0, -0.0),
        (1e-17, 0.0),
        (67108865.0, 67108865.00000001), (1.0, 1 - 1e-16), (np.array([0.1], "f4") * np.float32(3), np.array([0.3],
        "f4")), (large, barely), (0.1 + 0.2j, (0.3 - 0.2) + 0.2j),
        ([0.1 + 0.2] * 200, [0.3] * 200), (np.zeros(3), np.array([-0.0, 1e-16, 0])),
    ],
    "not near": [(0.1, 0.1001), (np.array([1.0]), np.array([1.00001])), (large, changed), ([0.1] * 200,
    [0.1] * 199 + [0.2])],
}

def same(pair, key):
    one, other = (describe(value)[key] for value in pair)
    return one is not None and one == other

wrong = [(kind, repr(pair)[:300]) for kind, pairs in PAIRS.items() for pair in pairs
         if same(pair, "near" if "near" in kind else "digest") != (kind in ("equal", "near"))]
for value in (threading.Lock(), (i for i in "ab")):
    found = describe(value)
    if found["basis"] != "type and repr" or found["digest"] != describe(type(value) and value)["digest"]:
        wrong.append(found)
found = describe({"lock": threading.Lock()})
if found["basis"] != "content, but type and repr of _thread.lock" or "0x" in json.dumps(found):
    wrong.append(found)
print(json.dumps(wrong))
"""


@pytest.mark.parametrize("version", ["0.55.5", "0.98.0", "newest"])
def test_values_are_the_same_exactly_when_their_content_is(
    version: str, environment: Callable[[str], Environment], new: Path
) -> None:
    assert run(new if version == "newest" else environment(version).python, PAIRS) == []


BUILT = """
import datetime, decimal
import numpy as np, pandas as pd, scipy.sparse
from sklearn.utils import Bunch

days = np.array(["2024-01-01", "NaT"], dtype="M8[ns]")
ALIKE = {
    "scalars": [np.float64(1.5), np.bool_(True), np.int64(3), np.str_("a"), np.datetime64("2024-01-01"),
    pd.Timestamp("2024-01-01T00:00:01")],
    "numbers": pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": [True, False]}),
    "wide": pd.DataFrame(np.arange(600.0).reshape(2, 300)),
    "labelled": pd.DataFrame({"a": [1, 2]}, index=pd.Index([3, 5], name="key")),
    "empty": pd.DataFrame(), "steps": pd.DataFrame({"a": [1, 2]}, index=pd.RangeIndex(4, 8, 2)),
    "objects": pd.Series([{"a": 1}, None, [1], decimal.Decimal(1)], dtype=object), "texts": pd.Series(["a", None],
    dtype=object),
    "nullable": pd.DataFrame({"i": pd.array([1, None], "Int64"), "f": pd.array([1.5, None], "Float64"),
    "b": pd.array([True, None], "boolean"),
                              "s": pd.array(["a", None], "string")}),
    "days": pd.Series(days), "zoned": pd.Series(days).dt.tz_localize("Europe/Berlin"),
    "utc": pd.Series(days).dt.tz_localize("UTC"),
    "offset": pd.Series(days).dt.tz_localize(datetime.timezone(datetime.timedelta(hours=1))),
    "moments": pd.Series([pd.Timestamp("2024-01-01", tz="Europe/Berlin"), pd.NaT, pd.Timedelta(1, "h")],
    dtype=object),
    "periods": pd.Series(pd.period_range("2024", periods=2, freq="D")), "intervals": pd.Series(pd.interval_range(0,
    2)),
    "codes": pd.Series(pd.Categorical([1, 2, 1])), "sparse": pd.Series(pd.arrays.SparseArray([0, 0, 1])),
    "levels": pd.Series([1, 2], index=pd.MultiIndex.from_product([[1], [2, 3]], names=["a", "b"])),
    "matrix": scipy.sparse.csr_matrix(np.eye(3)), "record": np.zeros(2, dtype=[("a", "i4"), ("b", "U3")]),
    "masked": np.ma.array([1.5, 2], mask=[0, 1]),
    "large": np.arange(100000) / 7, "random": [np.random.RandomState(1), np.random.default_rng(1),
    np.random.PCG64(1).state],
    "dtypes": [np.dtype("f4"), np.dtype("M8[ns]"), np.float64, np.sum, np.linalg.norm, pd.DataFrame, pd.NA, pd.NaT,
    pd.to_datetime],
    "bunch": Bunch(a=1),
}
CHANGED = {
    "frame": pd.DataFrame({"name": ["a", None], "when": pd.to_datetime(["2024-01-01", "2024-01-02"]), "n": [1, 2]},
    index=["x", "y"]),
    "group": pd.Series(["a", "b"], dtype="category"),
    "split": {"train": pd.DataFrame({"name": ["a"]}), "test": [1]},
}
print(json.dumps([{name: describe(value) for name, value in part.items()} for part in (ALIKE, CHANGED)]))
"""


def test_the_same_value_made_with_other_libraries_is_identical_or_differs_in_the_right_words(
    old: Path, new: Path
) -> None:
    (alike, changed), (alike_now, changed_now) = run(old, BUILT), run(new, BUILT)
    assert {name: outcome(alike[name], alike_now[name]) for name in alike} == dict.fromkeys(alike, ("identical", ""))
    assert {value["basis"] for value in alike.values()} == {"content"}
    assert {name: outcome(changed[name], changed_now[name]) for name in changed} == {
        "frame": (
            "differs",
            "index: object became str; column name: object with None became str with nan; "
            "column when: datetime64[ns] became datetime64[us]",
        ),
        "group": ("differs", "values: category of object became category of str"),
        "split": ("differs", "key train, column name: object became str"),
    }


LIBRARY = """
from dataclasses import dataclass
from typing import Any, List, Optional
from pydantic import BaseModel, PrivateAttr

class Customer(BaseModel):
    name: str
    months: int = 3
    tags: List[str] = []
    _seen: dict = PrivateAttr(default_factory=dict)

@dataclass
class Rule:
    limit: float
    words: list
"""

WRITTEN = """
sys.path.insert(0, sys.argv[1])
import numpy as np, pandas as pd, pytz, datetime
from library import Customer, Rule
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer
from sklearn.datasets import make_classification
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

X, y = make_classification(200, 6, random_state=0)
named = pd.DataFrame(X, columns=list("abcdef"))
colours = pd.DataFrame({"colour": ["red", "blue"] * 100, "size": X[:, 0]})
mixed = ColumnTransformer([("colour", OneHotEncoder(handle_unknown="ignore"), ["colour"])], remainder="passthrough")
WRITTEN = {
    "linear": LinearRegression().fit(X, y), "logistic": LogisticRegression(C=0.5).fit(named, y),
    "tree": DecisionTreeClassifier(max_depth=3).fit(X, y),
    "pipeline": make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y),
    "forest": RandomForestClassifier(5, random_state=0).fit(X, y),
    "grid": GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=2).fit(X, y), "kmeans": KMeans(3, n_init=2,
    random_state=0).fit(X),
    "text labels": LogisticRegression().fit(X, np.where(y, "yes", "no")), "columns": make_pipeline(mixed,
    LinearRegression()).fit(colours, y),
    "nested": {"model": LogisticRegression().fit(X, y), "scaler": StandardScaler().fit(X)},
    "unfitted": LogisticRegression(),
    "boosting": GradientBoostingClassifier(n_estimators=3).fit(X, y),
    "histogram": HistGradientBoostingRegressor(max_iter=3).fit(X, y),
    "customer": Customer(name="a", months=5), "rule": Rule(0.5, ["a"]), "zone": datetime.datetime(2024, 1, 1,
    tzinfo=pytz.utc),
    "frame": named, "times": pd.Series(pd.date_range("2024", periods=3, tz="Europe/Berlin")), "array": X.T,
}
with open(sys.argv[2], "wb") as file:
    pickle.dump({name: pickle.dumps(value) for name, value in WRITTEN.items()}, file)
print("0")
"""

READ = """
sys.path.insert(0, sys.argv[1])
with open(sys.argv[2], "rb") as file:
    written = pickle.load(file)
found = {}
for name, content in written.items():
    try:
        value = pickle.loads(content)
    except Exception as error:
        found[name] = {"error": "{}: {}".format(type(error).__name__, error)}
        continue
    described, called = describe(value), call(value, False, None)
    described["parts"].update(called.pop("parts", {}))
    found[name] = dict(described, **called, ok=True)
print(json.dumps(found))
"""


LOST = {"boosting", "histogram", "zone", "times"}
"""What the new libraries cannot load: boosting of another scikit-learn; pandas 3 brings no pytz along."""


@pytest.fixture(scope="module")
def written(old: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Arguments for READ: the folder of the user's module, and what the old libraries pickled."""
    folder = tmp_path_factory.mktemp("written")
    (folder / "library.py").write_text(LIBRARY, encoding="utf-8")
    run(old, WRITTEN, folder, folder / "written.pickle")
    return [folder, folder / "written.pickle"]


def test_what_old_libraries_pickled_is_compared_when_new_ones_load_it(
    old: Path, new: Path, written: list[Path]
) -> None:
    was, now = ({name: Loaded(**value) for name, value in run(at, READ, *written).items()} for at in (old, new))
    found = {name: compare(was[name], now[name]) for name in was}
    assert {name: found.pop(name)[0] for name in LOST} == dict.fromkeys(LOST, "fails")
    assert found.pop("customer") == (
        "differs",
        "private attribute _seen is lost; fields that were set: 2 fields became none",
    )
    assert was["columns"].called.startswith("raised")  # no colour is 0
    assert found.pop("columns") == (
        "loads",
        "compared: content, but not all that sklearn.ColumnTransformer learned",
    )
    assert found == dict.fromkeys(found, ("identical", ""))
    assert {name for name, value in was.items() if value.called.startswith("returned")} >= {"grid", "pipeline", "tree"}
    assert was["logistic"].parts["prediction"] == now["logistic"].parts["prediction"]


def test_a_control_where_nothing_changed_never_differs(old: Path, new: Path, written: list[Path]) -> None:
    for python in (old, new):
        once, again = ({n: Loaded(**v) for n, v in run(python, READ, *written).items()} for _ in "12")
        outcomes = {name: compare(once[name], again[name])[0] for name in once}
        assert {name for name, value in once.items() if not value.ok} == (LOST if python == new else set())
        assert {name for name in outcomes if outcomes[name] != "identical"} <= {*LOST, "columns"}
        assert "differs" not in outcomes.values()


CALLED = """
import os, numpy as np
from sklearn.base import BaseEstimator, RegressorMixin

class Own:
    n_features_in_ = 2
    def predict(self, rows):
        raise SystemExit("called")

class Derived(RegressorMixin, BaseEstimator):
    n_features_in_ = 2
    def predict(self, rows):
        return rows.sum(axis=1)

class Raising(Derived):
    def predict(self, rows):
        raise SystemExit("called")

def total(*numbers, step=1): return sum(numbers) + step
def needs(a, b, *, c): return a
def hidden(a, f=os.getpid): return f()
def named(a): return os.getpid()
def outer():
    f = os.getpid
    return lambda a: f()
def shadowed(a): return max(a)
shadow = type(named)(shadowed.__code__, {"max": os.getpid})
builtins_of_its_own = type(named)(shadowed.__code__, {"__builtins__": {"max": os.getpid}})
inner = lambda a: [abs(item) for item in range(a)]
names = lambda function: [name for code in values.codes.within(function.__code__) for name in code.co_names]

FUNCTIONS = [lambda a, b: a + b, lambda a: 1 / a, total, inner, needs, hidden, named, outer(), shadow,
builtins_of_its_own]
print(json.dumps({
    "models": [call(model(), False, None).get("called") for model in (Own, Derived, Raising)],
    "functions": [call(function, True, names(function)).get("called") for function in FUNCTIONS],
    "by reference": call(FUNCTIONS[0], False, []), "unread": call(FUNCTIONS[0], True, None), "others": [call(v,
    True, []) for v in (1, int, Own, os)],
    "parts": call(FUNCTIONS[0], True, []),
}))
"""


def test_only_what_is_safe_is_called(old: Path, new: Path) -> None:
    for python in (old, new):
        found = run(python, CALLED)
        assert found["models"] == [None, "returned ndarray", "raised SystemExit"]
        assert found["functions"] == [
            "returned int",
            "raised ZeroDivisionError",
            "returned int",
            "returned list",
            *[None] * 6,
        ]
        assert (found["by reference"], found["unread"], found["others"]) == ({}, {}, [{}] * 4)
        assert found["parts"]["parts"]["result"][1] == "int"


MODEL = """
from functools import cached_property
from pydantic import BaseModel, PrivateAttr
import time

class Order(BaseModel):
    number: int
    note: str = ""
    if hasattr(BaseModel, "model_fields"):
        model_config = {"extra": "allow"}
        @cached_property
        def total(self):
            return self.number * 2
    else:
        class Config:
            extra = "allow"
    _made: float = PrivateAttr(default_factory=time.perf_counter)

one, other = Order(number=1, more=2), Order(more=2, number=1)
getattr(other, "total", None)
found = [describe(value) for value in (one, other, Order(number=1), Order(number=1, note="", more=2))]
print(json.dumps(found))
"""


def test_pydantic_models_are_compared_by_fields_alone(old: Path, new: Path) -> None:
    for python in (old, new):
        one, other, less, explicit = run(python, MODEL)
        assert outcome(one, other) == ("identical", "")
        assert outcome(one, less) == (
            "differs",
            "field more is lost; fields that were set: 2 fields became 1 fields",
        )
        assert outcome(one, explicit) == ("differs", "fields that were set: 2 fields became 3 fields")
    assert outcome(run(old, MODEL)[0], run(new, MODEL)[0]) == ("identical", "")


DIRECTORY = """
import os, pathlib, tempfile
tempfile.tempdir = sys.argv[1]
top = pathlib.Path(sys.argv[1], "one")
found = [describe(top), describe([top]), describe(pathlib.Path("/usr"))]
print(json.dumps(found))
"""


def test_an_unpacked_directory_is_its_files_and_any_other_path_its_text(old: Path, tmp_path: Path) -> None:
    for name, content in (("here", "text"), ("there", "text"), ("else", "Text")):
        (tmp_path / name / "one" / "a").mkdir(parents=True)
        (tmp_path / name / "one" / "a" / "b.txt").write_text(content)
    here, there, elsewhere = (run(old, DIRECTORY, tmp_path / name) for name in ("here", "there", "else"))
    assert outcome(here[0], there[0]) == ("identical", "")
    assert outcome(here[0], elsewhere[0]) == ("differs", "file a/b.txt: 4 bytes, other content")
    assert outcome(here[1], there[1])[0] == "differs"
    assert here[2]["parts"] == {}


SPEED = """
import time, numpy as np, pandas as pd

def cost(value, times):
    describe(value)
    best = 1e9
    for _ in range(times):
        began = time.process_time()
        describe(value)
        best = min(best, time.process_time() - began)
    return best * 1000

rng = np.random.default_rng(0)
print(json.dumps({
    "int": cost(3, 50), "dict": cost({"a": 1, "b": [2.5]}, 50), "array": cost(np.arange(9.0), 50),
    "frame": cost(pd.DataFrame({"a": [1, 2], "b": ["x", "y"], "c": [0.5, 1]}), 50),
    "1 MB array": cost(rng.random(131072), 20), "1 MB frame": cost(pd.DataFrame(rng.random((16384, 8))), 20),
    "ints": cost(list(range(1000000)), 1), "dict of 1e6": cost({str(i): i for i in range(1000000)}, 1),
}))
"""


def test_a_description_costs_little(old: Path, new: Path) -> None:
    limits = {"int": 0.1, "dict": 0.2, "array": 0.2, "frame": 1.5, "1 MB array": 5, "1 MB frame": 8, "ints": 500}
    for python in (old, new):  # milliseconds of processor time; a quarter of these where nothing else runs
        found = run(python, SPEED)
        assert {name: found[name] for name, limit in limits.items() if found[name] > limit} == {}
        assert found["dict of 1e6"] < 5000
