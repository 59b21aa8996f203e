"""A static look at an artifact's files: what would be imported and what is carried by value; nothing is executed.

Why not a library such as fickling: the look happens in an environment as the user has it, on Python 3.8 too, where
only the standard library is certain.
"""

import ast
import functools
import importlib.machinery
import importlib.util
import io
import json
import mmap
import os
import pathlib
import re
import sys
import time
import zipfile


def beside(name):
    """Another file of this folder as a module."""
    path = pathlib.Path(__file__).with_name(name + ".py")
    spec = importlib.util.spec_from_file_location("zenml_upgrade_" + name, str(path))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pickles = beside("pickles")
Bad, Code, Global, Limit, Span = pickles.Bad, pickles.Code, pickles.Global, pickles.Limit, pickles.Span
read_pickle = pickles.read_pickle

SECONDS = 5.0  # for all files of one artifact; what is left then is named under "limit"
LARGEST_JSON = 16 << 20  # bytes that are parsed

COMPRESSED = re.compile(b"\x1f\x8b|BZh|\xfd7zXZ|]\0\0|\x04\x22M\x18|x[\x01\x5e\x9c\xda]")  # as joblib does it
KINDS = ("pickle", "npy", "parquet", "json", "csv", "other")  # the first one found is the artifact's
OWN = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, importlib.machinery.PathFinder)
LAZY = importlib.machinery.ModuleSpec("lazy", None, origin="made by its parent when that is imported")


class Found:
    """What was found in the files of one artifact."""

    def __init__(self):
        self.deadline = time.monotonic() + SECONDS
        self.kinds, self.problems, self.limits = set(), [], []
        self.globals, self.modules, self.classes = set(), set(), set()
        self.codes, self.python, self.pydantic1 = [], "", False

    def imported(self, module, attribute):
        if not (isinstance(module, str) and isinstance(attribute, str)):
            return None
        self.modules.add(module)
        self.globals.add("{}.{}".format(module, attribute))
        return Global("{}.{}".format(module, attribute))

    def called(self, function, arguments, data):
        """What a call gives, as far as it matters here."""
        if not (isinstance(function, Global) and isinstance(arguments, tuple) and arguments):
            return None
        name, first = function.rpartition(".")[2], arguments[0]
        if name == "_builtin_type" and isinstance(first, str):
            return Global("types." + first)
        if name in ("CodeType", "_create_code") or function == "marshal.loads":  # cloudpickle, dill
            self.codes.append(Code(arguments if name == "CodeType" else (), data))
            return self.codes[-1]
        if name in ("_make_skeleton_class", "_make_skeleton_enum", "_create_type"):
            self.classes.add(arguments[1] if len(arguments) > 1 and isinstance(arguments[1], str) else "a class")
        elif name in ("subimport", "import_module", "__import__") and isinstance(first, str):
            self.modules.add(first)
        elif function in ("_pickle.loads", "pickle.loads") and isinstance(first, Span):  # a pickle in a pickle
            read_pickle(data, first[0], first[1], self)
        return None

    def by_value(self):
        """Names of functions and classes; the methods of these classes go without saying."""
        inner = set().union(*(code.inner for code in self.codes))
        outer = {code.name for code in self.codes if id(code) not in inner and not code.name.endswith("__")}
        outer = {name for name in outer if name.rpartition(".")[0] not in self.classes}
        return sorted(outer | self.classes or {"a function"} if self.codes else self.classes)

    def code_names(self):
        """What the code can reach: the names in it, and what the pickle hands it as defaults and in closures."""
        if any(code.names is None for code in self.codes):
            return None
        ours = ("cloudpickle.", "types.")
        handed = {name.rpartition(".")[2] for name in self.globals if not name.startswith(ours)} if self.codes else ()
        return sorted(set(handed).union(*(code.names for code in self.codes)))


def look(path, sys_path):
    """What the files at ``path`` (a folder or a file) tell; ``sys_path`` is where their environment finds modules.

    kind: of the files that hold the value. problem, limit: sentences, or "". python: minor that wrote it ("3.8"; "3.8
    to 3.10" when only code objects tell; ""). by_value: names. code_names: None when they cannot be read.
    """
    found = Found()
    examine(path, found)
    return {
        "kind": next((kind for kind in KINDS if kind in found.kinds), "other"),
        "problem": (found.problems or [""])[0],
        "limit": (found.limits or [""])[0],
        "python": found.python or min(({code.python for code in found.codes} - {""}) or [""], key=len),
        "by_value": found.by_value(),
        "code_names": found.code_names(),
        "globals": sorted(found.globals)[:200],
        "roots": sorted({module.split(".")[0] for module in found.modules}),
        "missing": sorted(module for module in found.modules if not importable(module, sys_path)),
        "pydantic1": found.pydantic1,
    }


def examine(path, found):
    """A file, or the files of a folder; of the folders in it only those that hold the elements of a container."""
    name = os.path.basename(path)
    try:
        if os.path.isdir(path):
            container = os.path.exists(os.path.join(path, "metadata.json"))
            for entry in sorted(os.scandir(path), key=lambda entry: entry.name):
                if not entry.is_dir() or (container and entry.name.isdigit()):
                    examine(entry.path, found)
            return
        with open(path, "rb") as file:
            data = file.read(65536)
            if len(data) == 65536:  # a larger one is not copied
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        kind, read = reader(name, data)
        found.kinds.add(kind)
        if read and not data:
            raise Bad("is empty")
        if read:
            read(data, found)
    except Bad as error:
        found.problems.append("{} {}".format(name, error))
    except (Limit, RecursionError) as limit:
        found.limits.append("{} {}".format(name, limit))
    except OSError as error:
        found.problems.append("{} cannot be read: {}".format(name, error.strerror or error))


def reader(name, data):
    """The kind of a file, and what reads it."""
    ending = re.search(r"\.(npy|parquet|json|csv|pkl|pickle|cloudpickle|joblib|dill)\b", name)
    kind = ending.group(1) if ending else "other"
    if data[:4] == b"PK\3\4":
        return "pickle" if name.endswith((".pt", ".pth")) else "other", read_zip
    if (ending and kind not in KINDS) or (re.match(b"\x80[\2-\5]", data) and data[-1:] == b"."):
        return "pickle", read_pickle_file
    readers = {"python_version.txt": read_version, "metadata.json": read_metadata, "csv": lambda *_: None}
    readers.update(npy=read_npy, parquet=read_parquet, json=read_json)
    return kind, readers.get(name, readers.get(kind))


def read_version(data, found):
    """ZenML writes it beside a pickle: 3.10.13."""
    found.python = ".".join(data[:20].decode("utf-8", "replace").strip().split(".")[:2])


def read_pickle_file(data, found):
    if COMPRESSED.match(data):
        raise Limit("is compressed, as joblib does it; what it imports was not read")
    read_pickle(data, 0, len(data), found)


def read_zip(data, found):
    """PyTorch keeps a pickle in a zip archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(data) if isinstance(data, bytes) else data) as archive:
            inside = [archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl")]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError):
        raise Bad("is damaged: a zip archive that ends early")
    for content in inside:
        read_pickle(content, 0, len(content), found)


def read_npy(data, found):
    start = 10 if data[6:7] == b"\1" else 12
    begin = start + int.from_bytes(data[8:start], "little")
    try:
        header = ast.literal_eval(data[start:begin].decode("latin1"))
        kind = re.match(r"([<>|=]\w)(\d+)", str(header["descr"]))  # none for objects and for several fields
        width = int(kind.group(2)) * (4 if kind.group(1)[1] == "U" else 1) if kind else 0
        for length in header["shape"]:
            width *= length
    except (ValueError, SyntaxError, KeyError, TypeError):
        raise Bad("is no NumPy file" if data[:6] != b"\x93NUMPY" else "is damaged: its header cannot be read")
    if "|O" in str(header["descr"]):
        read_pickle(data, begin, len(data), found)
    if len(data) < begin + width:
        raise Bad("ends after {:,} of {:,} bytes".format(len(data), begin + width))


def read_parquet(data, _found):
    footer, magic = int.from_bytes(data[-8:-4], "little"), data[-4:]
    if magic not in (b"PAR1", b"PARE") or footer > len(data) - 12:
        raise Bad("has no parquet footer")


def read_json(data, _found):
    if len(data) > LARGEST_JSON:
        raise Limit("is too large to be parsed")
    try:
        return json.loads(bytes(data[:]).decode("utf-8"))
    except ValueError as error:
        raise Bad("is no valid JSON: {}".format(getattr(error, "msg", "not UTF-8")))


def read_metadata(data, found):
    """Of a container: the class and the materializer of each element."""
    value = read_json(data, found)
    for element in value if isinstance(value, list) else ():
        for role in ("type", "materializer"):
            module, _, attribute = str(element.get(role) if isinstance(element, dict) else "").rpartition(".")
            if module:
                found.imported(module, attribute)


def importable(module, sys_path):
    """Whether a module is there, looked for file by file: neither it nor its parents are imported.

    ``__main__`` is not: the program that it was has ended.
    """
    return module != "__main__" and (module in sys.modules or spec_of(module, tuple(sys_path)) is not None)


@functools.lru_cache(maxsize=None)
def spec_of(module, sys_path):
    """A module's spec; None when there is none, LAZY for one that its parent may make when it is imported."""
    parent, _, name = module.rpartition(".")
    path_finder = OWN[-1]
    try:
        if not parent:
            # An environment's own finders (editable installations, setuptools) are asked last: asking may run code
            for finder in sorted(sys.meta_path, key=lambda finder: finder not in OWN):
                spec = finder.find_spec(name, list(sys_path) if finder is path_finder else None)
                if spec:
                    return spec if finder in OWN or spec.submodule_search_locations else LAZY
            return None
        above = spec_of(parent, sys_path)
        if above is None or above is LAZY or isinstance(above.loader, importlib.machinery.ExtensionFileLoader):
            return above and LAZY
        # The last name alone: with all of it, a namespace package wants its parent to be imported
        places = above.submodule_search_locations
        spec = path_finder.find_spec(name, list(places)) if places else None
        source = (above.loader.get_source(above.name) or "") if not spec and hasattr(above.loader, "get_source") else ""
        elsewhere = re.search(r"extend_path|declare_namespace", source)  # parts of the package, perhaps
        made = re.search(r"sys\.modules|meta_path", source) and re.search(r"\b{}\b".format(re.escape(name)), source)
        return LAZY if elsewhere or made else spec  # such as six.moves
    except Exception:  # an import hook of the environment: it would raise in a load, too
        return None
