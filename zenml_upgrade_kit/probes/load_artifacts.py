"""Load artifact versions with the ZenML of this interpreter and describe each value without showing it.

Called as ``python -I load_artifacts.py request.json reply.jsonl``. Request: ``{"artifacts": [{"id", "uri", "root",
"materializer": {"module", "attribute"}, "data_type": {…}}], "code": directory or null, "timeout": seconds}``.
Reply, one JSON object a line: ``{"start": id}`` before a load, then ``{"id", "ok", "type", "summary", "digest",
"near", "error", "missing", "seconds"}``. A start without its second line names the artifact that ended the process.
``ok`` with an error: the value loads, but its content cannot be compared. ``missing``: which class cannot be imported.
"""

import dataclasses
import datetime
import decimal
import enum
import faulthandler
import hashlib
import importlib
import inspect
import json
import math
import os
import pathlib
import sys
import time
import types
import uuid

DEEPEST = 60


class Opaque(Exception):
    """A value whose content cannot be told apart from its address."""


class Digest:
    """A content identity that is the same in every Python and library that holds the same value.

    Every piece is written with its type and length, so that ``["a", "b"]`` and ``["ab"]`` differ. With ``rounded``,
    floats count by their first 26 bits (about 8 digits): what computing a value a second time leaves alone.
    """

    def __init__(self, rounded=False, parent=None):
        self.hash = hashlib.sha256()
        self.rounded = rounded
        self.path = parent.path if parent else []  # ids of the objects that this one is part of
        self.known = parent.known if parent else {}  # id to digest and object: kept alive, its id is not used again

    def of(self, value):
        """The digest of any value, alone."""
        part = Digest(self.rounded, self)
        part.add(value)
        return part.hash.hexdigest()

    def put(self, tag, data=b""):
        data = data if isinstance(data, bytes) else str(data).encode("utf-8", "surrogatepass")
        self.hash.update("{}:{}:".format(tag, len(data)).encode())
        self.hash.update(data)

    def add(self, value):
        if value is None or (isinstance(value, (bool, int, str, bytes)) and type(value).__module__ == "builtins"):
            self.put(type(value).__name__, value if isinstance(value, bytes) else repr(value))
        elif type(value) is float:
            mantissa, exponent = math.frexp(value)
            finite = self.rounded and math.isfinite(value)
            self.put("float", repr(math.ldexp(round(math.ldexp(mantissa, 26)), exponent - 26) if finite else value))
        elif isinstance(value, enum.Enum):
            self.put("enum", name_of(type(value)) + self.of(value.value))
        elif isinstance(value, (types.FunctionType, types.BuiltinFunctionType, type)):
            self.put("named", "{}.{}".format(value.__module__, value.__qualname__))
        elif isinstance(value, types.ModuleType):
            self.put("module", value.__name__)
        elif isinstance(value, (datetime.date, datetime.time, datetime.timedelta, uuid.UUID, decimal.Decimal)):
            self.put(name_of(type(value)), str(value))
        elif id(value) in self.path:
            self.put("cycle", len(self.path) - self.path.index(id(value)))
        elif id(value) in self.known:
            self.put("content", self.known[id(value)][0])
        elif len(self.path) == DEEPEST:
            raise Opaque("nested more than {} deep".format(DEEPEST))
        else:
            self.path.append(id(value))
            part = Digest(self.rounded, self)
            part.add_content(value)
            self.path.pop()
            self.known[id(value)] = (part.hash.hexdigest(), value)
            self.put("content", part.hash.hexdigest())

    def add_content(self, value):
        root = type(value).__module__.split(".")[0]
        if isinstance(value, pathlib.PurePath):
            self.add_files(pathlib.Path(value))
        elif isinstance(value, (list, tuple)):
            self.put(name_of(type(value)), len(value))
            for item in value:
                self.add(item)
        elif isinstance(value, (set, frozenset)):
            self.put(type(value).__name__, "".join(sorted(map(self.of, value))))
        elif isinstance(value, dict):
            pairs = sorted(self.of(key) + self.of(item) for key, item in value.items())
            self.put(name_of(type(value)), "".join(pairs))
        elif root == "numpy" and hasattr(value, "dtype") and hasattr(value, "tobytes"):
            self.put("numpy", "{} {} {}".format(type(value).__name__, value.dtype.str, getattr(value, "shape", ())))
            if value.dtype.hasobject:
                for item in value.ravel().tolist():
                    self.add(item)
            else:
                self.put("data", self.bytes_of(value))
        elif root == "pandas" and hasattr(value, "columns"):
            self.put("frame", "x".join(map(str, value.shape)))
            self.add(value.columns)
            self.add(value.index)
            for position in range(value.shape[1]):
                self.add_column(value.iloc[:, position])
        elif root == "pandas" and hasattr(value, "dtype") and hasattr(value, "to_numpy"):
            self.put("pandas", type(value).__name__)
            self.add_column(value)
            if hasattr(value, "index"):
                self.add(value.index)
        else:
            self.add_state(value)

    def add_column(self, column):
        self.put("dtype", str(column.dtype))
        self.add(getattr(column, "name", None))
        values = column.to_numpy()
        if values.dtype.hasobject:
            for item in values.tolist():
                self.add("missing" if item is None or item != item else item)
                self.put("is", type(item).__name__)
        else:
            self.put("data", self.bytes_of(values))

    def bytes_of(self, array):
        if self.rounded and array.dtype.kind == "f":
            import numpy

            mantissa, exponent = numpy.frexp(array)
            array = numpy.ldexp(numpy.round(mantissa * 2.0**26), exponent - 26)
        return array.tobytes()

    def add_files(self, path):
        if not path.is_dir():
            raise Opaque("a path that is not a directory")
        for file in sorted(path.rglob("*")):
            if file.is_file():
                self.put("file", file.relative_to(path).as_posix())
                self.put("data", file.read_bytes())

    def add_state(self, value):
        """An object is its class and its state: fields where it has them, else what pickle would keep."""
        self.put("object", name_of(type(value)))
        pydantic = hasattr(type(value), "model_fields") or hasattr(type(value), "__fields__")
        if pydantic or dataclasses.is_dataclass(value):
            self.add(dict(vars(value)))
            return
        reduced = value.__reduce_ex__(2)
        if isinstance(reduced, str):
            self.put("named", reduced)
            return
        made_by_class = reduced[0].__module__ == "copyreg"
        arguments = reduced[1][1:] if made_by_class else reduced[1]
        state, *items = [*reduced[2:5], None, None, None][:3]
        if made_by_class and not (arguments or hasattr(value, "__dict__")) and [state, *items] == [None] * 3:
            raise Opaque("no state to compare")
        self.add(arguments)
        self.add(state)
        for part in items:
            self.add(None if part is None else list(part))


def name_of(cls):
    return cls.__qualname__ if cls.__module__ == "builtins" else "{}.{}".format(cls.__module__, cls.__qualname__)


def summary_of(value):
    """What people need to see of a value, never its content: type, size, column types."""
    root = type(value).__module__.split(".")[0]
    if root == "pandas" and hasattr(value, "columns"):
        columns = ["{} {}".format(name, kind) for name, kind in zip(value.columns[:12], value.dtypes[:12])]
        more = ", … {} more".format(value.shape[1] - 12) if value.shape[1] > 12 else ""
        return "DataFrame {} × {}: {}{}".format(value.shape[0], value.shape[1], ", ".join(columns), more)
    if root in ("pandas", "numpy") and hasattr(value, "dtype"):
        shape = " × ".join(map(str, getattr(value, "shape", ()))) or "scalar"
        return "{} {} {}".format(type(value).__name__, value.dtype, shape)
    if isinstance(value, (str, bytes, list, tuple, set, frozenset, dict)):
        return "{} of {}".format(type(value).__name__, len(value))
    return name_of(type(value))


def artifact_store(root):
    """A local artifact store with this root, as this release builds one; nothing is read from a database."""
    from zenml.artifact_stores import LocalArtifactStore, LocalArtifactStoreConfig
    from zenml.enums import StackComponentType

    now = datetime.datetime.now()
    known = {
        "name": "rehearsal",
        "id": uuid.uuid4(),
        "config": LocalArtifactStoreConfig(path=root),
        "flavor": "local",
        "type": StackComponentType.ARTIFACT_STORE,
        "user": None,
        "workspace": uuid.uuid4(),
        "created": now,
        "updated": now,
    }
    accepted = inspect.signature(LocalArtifactStore.__init__).parameters
    if "name" not in accepted:  # the signature of the base class is hidden behind *args, **kwargs
        from zenml.stack import StackComponent

        accepted = inspect.signature(StackComponent.__init__).parameters
    return LocalArtifactStore(**{key: value for key, value in known.items() if key in accepted})


class NotImportable(Exception):
    """A class that a stored source names cannot be imported; the first argument is its role."""


def thing(role, source):
    """The class that a stored source names."""
    try:
        found = importlib.import_module(source["module"])
        for part in source["attribute"].split("."):
            found = getattr(found, part)
    except Exception as error:
        raise NotImportable(role, "{}.{}: {}".format(source["module"], source["attribute"], words(error)))
    return found


def load(artifact, stores):
    """The artifact's value through its materializer, read from the store that holds it.

    Materializers before 0.56 (and containers in some later releases) take the artifact store from the client's active
    stack, whatever that is; here it is the one that the artifact belongs to. A client is built only when one is asked
    for, and then on the copy that ``ZENML_STORE_URL`` names.
    """
    from zenml.client import Client

    if artifact["root"] not in stores:
        stores[artifact["root"]] = artifact_store(artifact["root"])
    store = stores[artifact["root"]]
    Client.active_stack = property(lambda _: types.SimpleNamespace(artifact_store=store))
    materializer = thing("materializer", artifact["materializer"])
    data_type = thing("data type", artifact["data_type"])
    if "artifact_store" in inspect.signature(materializer.__init__).parameters:
        reader = materializer(uri=artifact["uri"], artifact_store=store)
    else:
        reader = materializer(uri=artifact["uri"])
    return reader.load(data_type)


def words(error):
    return "{}: {}".format(type(error).__name__, error)[:2000]


def describe(artifact, stores):
    """The value's type, size and content identity, or why there is no value."""
    found = {"ok": False, "type": "", "summary": "", "digest": None, "near": None, "error": "", "missing": ""}
    try:
        value = load(artifact, stores)
        found.update(ok=True, type=name_of(type(value)), summary=summary_of(value))
        for name, digest in (("digest", Digest()), ("near", Digest(rounded=True))):
            digest.add(value)
            found[name] = digest.hash.hexdigest()
    except NotImportable as error:
        found.update(missing=error.args[0], error=error.args[1])
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # SystemExit in a user's module is that artifact's failure, not the probe's
        found["error"] = words(error)
    return found


def main(request_path, reply_path):
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    if request["code"]:
        sys.path.insert(0, request["code"])
        os.chdir(request["code"])
    stores = {}
    with open(reply_path, "a", encoding="utf-8") as reply:
        for artifact in request["artifacts"]:
            print(json.dumps({"start": artifact["id"]}), file=reply, flush=True)
            faulthandler.dump_traceback_later(request["timeout"], exit=True)  # ends loads that hold the GIL, too
            began = time.monotonic()
            found = describe(artifact, stores)
            faulthandler.cancel_dump_traceback_later()
            found.update(id=artifact["id"], seconds=round(time.monotonic() - began, 4))
            print(json.dumps(found), file=reply, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
