"""Save artifact versions again in formats that no version of a library owns, with the ZenML of this interpreter.

Called as ``python -I rescue_artifacts.py request.json reply.json``. Request: ``{"act", "artifacts", "code": directory
or null, "writable": folders, "timeout": seconds for one artifact}``. Reply: by id what the act found, or ``{"problem":
sentence}``. All but saving is done in a child process for each artifact, which can write to those folders only.

load: as ``load_artifacts.py``: ``{"described"}``, what ``values.py`` says of the value. write: also saves it in the
folder ``to``: ``{"format", "folder", "file", "reading", "data_type", "described", "again"}``; again: described after it
was read back. read: such a file: ``{"again"}``. save: makes of such a file a new version of the artifact ``name``
through ZenML's own API: ``{"id", "version", "uri", "root", "materializer", "data_type", "described"}``. private: the
folder that its artifact store must lie in; "" means the store of the old version.
"""

import dataclasses
import importlib
import importlib.util
import inspect
import json
import os
import pathlib
import signal
import sys
import tempfile
import types
import uuid

ENDINGS = {"Parquet": "parquet", "npy": "npy", "skops": "skops", "ONNX": "onnx", "JSON": "json", "text": "txt"}
CASTS = {"tuple": tuple, "set": set, "frozenset": frozenset}


class Impossible(Exception):
    """It cannot be done; the text says why, and what would help."""


def beside(name):
    """Another file of this folder as a module."""
    path = pathlib.Path(__file__).with_name(name + ".py")
    spec = importlib.util.spec_from_file_location("zenml_upgrade_" + name, str(path))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed(name):
    return importlib.util.find_spec(name) is not None


def need(name, what, otherwise=""):
    if not installed(name):
        wanted = "{} needs {}{}: name it in a file for --requirements, and start a new run"
        raise Impossible(wanted.format(what, name, otherwise))


def form(value):
    """The format for a value, what reading it back needs to know, what is compared, and what writes it to a file."""
    kind = type(value)
    known = [(cls.__module__.split(".")[0], cls.__name__) for cls in kind.__mro__]
    if known[0] in (("pandas", "DataFrame"), ("pandas", "Series")):
        need("pyarrow", "Parquet")
        if kind.__name__ == "DataFrame":
            return "Parquet", {}, value, lambda file: value.to_parquet(file, engine="pyarrow")
        if type(value.name) not in (str, type(None)):
            raise Impossible("no version-agnostic format: the name of the Series is no text")
        frame = value.to_frame("series" if value.name is None else value.name)
        return "Parquet", {"series": value.name}, value, lambda file: frame.to_parquet(file, engine="pyarrow")
    if known[0] == ("numpy", "ndarray"):
        import numpy

        if value.dtype.hasobject:
            raise Impossible("no version-agnostic format: an array of Python objects can only be pickled")
        return "npy", {}, value, lambda file: numpy.save(file, value, allow_pickle=False)
    if ("sklearn", "BaseEstimator") in known:
        return of_model(value)
    if ("pydantic", "BaseModel") in known:
        new = hasattr(value, "model_dump_json")
        text = value.model_dump_json(by_alias=True) if new else value.json(by_alias=True)
        given = sorted(value.model_fields_set if new else value.__fields_set__)
        return "JSON", {"model": True, "set": given}, value, lambda file: file.write(text.encode("utf-8"))
    if kind in (str, bytes):
        data = value if kind is bytes else value.encode("utf-8", "surrogatepass")
        return "bytes" if kind is bytes else "text", {}, value, lambda file: file.write(data)
    if dataclasses.is_dataclass(kind):
        value = dataclasses.asdict(value)
    content, reading = (list(value), {"cast": kind.__name__}) if kind in CASTS.values() else (value, {})
    only_json(content)
    return "JSON", reading, value, lambda file: file.write(json.dumps(content, indent=1).encode("ascii"))


def of_model(model):
    """A scikit-learn model: by skops, or by ONNX, which keeps no more than how it predicts."""
    if installed("skops"):
        import skops.io

        return "skops", {}, model, lambda file: skops.io.dump(model, file)
    if not installed("skl2onnx"):
        need("skops", "a scikit-learn model", " (or skl2onnx, for ONNX)")
    import numpy
    from skl2onnx import to_onnx
    from sklearn.base import is_classifier

    kind = "float32" if is_classifier(model) else "float64"  # what the operators of ONNX take
    rows = numpy.zeros((1, model.n_features_in_), kind)
    made, predicted = to_onnx(model, rows), numpy.ravel(model.predict(rows))
    reading = {"columns": model.n_features_in_, "dtype": kind}
    return "ONNX", reading, predicted, lambda file: file.write(made.SerializeToString())


def only_json(value):
    """Raise :class:`Impossible` for what JSON would not give back as it was."""
    if type(value) is dict and all(type(key) is str for key in value):
        for item in value.values():
            only_json(item)
    elif type(value) is list:
        for item in value:
            only_json(item)
    elif not (value is None or type(value) in (bool, int, float, str)):
        name = "{}.{}".format(type(value).__module__, type(value).__qualname__)
        raise Impossible("no version-agnostic format for {}".format(name.replace("builtins.", "")))


def read(artifact):
    """What a file holds: the value, the fields of a dataclass, or the prediction of an ONNX model for zeros."""
    path, reading = os.path.join(artifact["folder"], artifact["file"]), artifact["reading"]
    if artifact["format"] == "Parquet":
        need("pyarrow", "Parquet")
        import pandas

        frame = pandas.read_parquet(path, engine="pyarrow")
        return frame.iloc[:, 0].rename(reading["series"]) if "series" in reading else frame
    if artifact["format"] == "npy":
        import numpy

        return numpy.load(path, allow_pickle=False)
    if artifact["format"] == "skops":
        need("skops", "reading it")
        import skops.io

        return skops.io.load(path, trusted=skops.io.get_untrusted_types(file=path))  # written a moment ago, by us
    if artifact["format"] == "ONNX":
        need("onnxruntime", "reading it")
        import numpy
        import onnxruntime

        model = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        rows = numpy.zeros((1, reading["columns"]), reading["dtype"])
        return numpy.ravel(model.run(None, {"X": rows})[0])
    data = pathlib.Path(path).read_bytes()
    if artifact["format"] in ("text", "bytes"):
        return data if artifact["format"] == "bytes" else data.decode("utf-8", "surrogatepass")
    if "model" not in reading:
        content = json.loads(data)
        return CASTS[reading["cast"]](content) if "cast" in reading else content
    model = loader.thing("data type", artifact["data_type"])
    new = hasattr(model, "model_validate_json")
    value = model.model_validate_json(data) if new else model.parse_raw(data)
    object.__setattr__(value, "__pydantic_fields_set__" if new else "__fields_set__", set(reading["set"]))
    return value


def write(artifact):
    value = loader.load(artifact, {})
    chosen, reading, compared, dump = form(value)
    done = {"format": chosen, "file": "data." + ENDINGS.get(chosen, "bin"), "folder": artifact["to"]}
    done.update(reading=reading, data_type=source_of(type(value)))
    os.makedirs(done["folder"])
    with open(os.path.join(done["folder"], done["file"]), "wb") as file:
        dump(file)
    return {**done, "described": values.describe(compared), "again": values.describe(read(done))}


def save(artifact):
    import zenml
    from zenml.client import Client
    from zenml.enums import StackComponentType
    from zenml.stack import StackComponent

    if not hasattr(zenml, "save_artifact"):  # before 0.53
        raise Impossible("ZenML {} can save artifacts in steps only, not by themselves".format(zenml.__version__))
    client = Client()
    old = client.zen_store.get_artifact_version(uuid.UUID(artifact["id"]))
    for name in ("project", "workspace"):  # what it belongs to; workspaces became projects in 0.80
        if getattr(old, name, None):
            os.environ["ZENML_ACTIVE_{}_ID".format(name.upper())] = str(getattr(old, name).id)
    wanted = "default" if artifact["private"] else old.artifact_store_id
    store = StackComponent.from_model(client.get_stack_component(StackComponentType.ARTIFACT_STORE, wanted))
    private = artifact["private"] and os.path.join(os.path.realpath(artifact["private"]), "")
    if not os.path.realpath(store.path).startswith(private):
        raise Impossible("the default artifact store is {}, which is not private".format(store.path))
    Client.active_stack = property(lambda _: types.SimpleNamespace(artifact_store=store))  # all that saving asks of it
    file = pathlib.Path(artifact["folder"], artifact["file"])
    data = file.read_bytes() if artifact["format"] in ("skops", "ONNX") else read(artifact)
    materializer = own_materializer(data)
    more = {"has_custom_name": old.artifact.has_custom_name} if hasattr(old.artifact, "has_custom_name") else {}
    uri = os.path.join("custom_artifacts", "rescued-" + artifact["id"])  # refused when a version has it already
    made = zenml.save_artifact(
        data, artifact["name"], uri=uri, materializer=materializer, include_visualizations=False, **more
    )
    lineage = {"rescued_from": artifact["id"], "format": artifact["format"]}
    log = getattr(zenml, "log_metadata", None)
    if log and "artifact_version_id" in inspect.signature(log).parameters:
        log(metadata=lineage, artifact_version_id=made.id)
    else:
        zenml.log_artifact_metadata(lineage, artifact["name"], str(made.version))
    done = {"id": str(made.id), "version": str(made.version), "uri": made.uri, "root": store.path}
    sources = {"materializer": source_of(materializer), "data_type": source_of(type(data))}
    return {**done, **sources, "described": values.describe(data)}


def own_materializer(data):
    """ZenML's own materializer for what :func:`read` gives: each writes Parquet, npy, JSON or plain bytes."""
    from zenml.materializers import built_in_materializer as built_in

    if type(data).__module__ == "builtins":
        inside = built_in.BuiltInContainerMaterializer if isinstance(data, (dict, list, tuple, set)) else None
        return built_in.BytesMaterializer if type(data) is bytes else inside or built_in.BuiltInMaterializer
    library = type(data).__module__.split(".")[0]
    name = library if library in ("pandas", "numpy") else "pydantic"
    module = importlib.import_module("zenml.materializers.{}_materializer".format(name))
    return getattr(module, name.capitalize() + "Materializer")


def source_of(cls):
    return {"module": cls.__module__, "attribute": cls.__qualname__}


def attempt(act, artifact):
    """What an act finds, or the problem."""
    try:
        return act(artifact)
    except (Impossible, loader.NotImportable) as error:
        return {"problem": str(error.args[-1])}
    except BaseException as error:  # SystemExit in a user's module is that artifact's failure, not the probe's
        return {"problem": loader.words(error)}


def in_child(act, artifact, request, answer):
    """What an act finds, in a forked process that may write to some folders, and leaves it in the file ``answer``."""
    answer.write_text("{}", encoding="utf-8")
    child = os.fork()
    if not child:
        try:
            me = os.getpid()
            os.setsid()
            loader.call_kernel("prctl", 1, signal.SIGKILL)  # it ends with this probe
            signal.alarm(int(request["timeout"]) + 1)
            os.environ["TMPDIR"] = tempfile.tempdir = request["writable"][0]
            loader.guard("", request["writable"])
            found = json.dumps(attempt(act, artifact))
            if os.getpid() == me:  # not a process that a pickle forked
                answer.write_text(found, encoding="utf-8")
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    loader.kill(os.killpg, child)  # what it left behind
    if os.WIFSIGNALED(status):
        ended = signal.Signals(os.WTERMSIG(status))
        late = "did not end within {:g} seconds".format(request["timeout"])
        return {"problem": late if ended == signal.SIGALRM else "its process was ended by {}".format(ended.name)}
    return json.loads(answer.read_text(encoding="utf-8")) or {"problem": "its process ended itself"}


def main(request_path, reply_path):
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    needed = {one["data_type"]["module"].split(".")[0] for one in request["artifacts"]} & {"numpy", "pandas", "sklearn"}
    for name in ("zenml.client", *needed):  # once, for all children
        attempt(importlib.import_module, name)
    if request["code"]:
        sys.path.insert(0, request["code"])
        os.chdir(request["code"])
    sys.modules["__main__"] = types.ModuleType("__main__")  # not this file: classes in it are the user's
    sys.modules["__main__"].__file__ = os.path.join(os.getcwd(), "run.py")  # whose folder is ZenML's source root
    act, answer = ACTS[request["act"]], pathlib.Path(request["writable"][0], "answer.json")
    found = {}
    for one in request["artifacts"]:
        found[one["id"]] = attempt(act, one) if act is save else in_child(act, one, request, answer)
    with open(reply_path, "w", encoding="utf-8") as file:
        json.dump(found, file)


ACTS = {
    "load": lambda one: {"described": values.describe(loader.load(one, {}))},
    "write": write,
    "read": lambda one: {"again": values.describe(read(one))},
    "save": save,
}
loader, values = beside("load_artifacts"), beside("values")

if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
