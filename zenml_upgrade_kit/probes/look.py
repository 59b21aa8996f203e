"""A static look at an artifact's files: what would be imported and what is carried by value; nothing is executed.

Why not a library such as fickling: the look happens in an environment as the user has it, on Python 3.8 too, where
only the standard library is certain. Why not ``pickletools.genops`` alone: it has no stack, without which the names of
STACK_GLOBAL are guesses, and it copies and decodes every payload, a large array too. Its table of opcodes is used.
"""

import ast
import functools
import importlib.machinery
import io
import json
import mmap
import os
import pickletools
import re
import sys
import time
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

SECONDS = 5.0  # for all files of one artifact; what is left then is named under "limit"
MEMOIZED = 1000000  # objects of one pickle that are kept to be referred to; more take hundreds of megabytes
LONGEST_NAME = 1000  # bytes; longer texts are content
LARGEST_JSON = 16 << 20  # bytes that are parsed

COMPRESSED = re.compile(b"\x1f\x8b|BZh|\xfd7zXZ|]\0\0|\x04\x22M\x18|x[\x01\x5e\x9c\xda]")  # as joblib does it
KINDS = ("pickle", "npy", "parquet", "json", "csv", "other")  # the first one found is the artifact's
OWN = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter, importlib.machinery.PathFinder)
RESUME = {b"\x97\0": "3.11 to 3.12", b"\x95\0": "3.13", b"\x80\0": "3.14"}  # where a function's code begins
LAZY = importlib.machinery.ModuleSpec("lazy", None, origin="made by its parent when that is imported")


class Bad(Exception):
    """Why a file is not what it should be; follows its name in a sentence."""


class Limit(Exception):
    """Why the rest of a file was not read; likewise."""


class Global(str):
    """The name of what a pickle imports; plain text is a str."""


class Span(tuple):
    """Where bytes begin and end inside a pickle; they are left there."""


class Code:
    """A code object carried by value, from the arguments of ``types.CodeType``: 16 up to Python 3.10, 18 since.

    python: the minor that made it, as far as its shape tells. names: None when they cannot be read.
    """

    def __init__(self, arguments, data):
        self.name, self.names, self.inner, self.python = "a function", None, set(), ""
        if len(arguments) in (16, 18):
            code, consts, names, name = (*arguments[6:9], arguments[-6 if len(arguments) == 18 else -5])
            self.name = name if isinstance(name, str) and name else self.name
            self.inner = {id(const) for const in consts} if isinstance(consts, tuple) else set()
            self.names = names if isinstance(names, tuple) and set(map(type, names)) <= {str} else None
            starts = {data[at : at + 2] for at in range(code[0], code[0] + 64, 2)} if isinstance(code, Span) else ()
            shape = next((shape for start, shape in RESUME.items() if start in starts), "")
            self.python = shape if len(arguments) == 18 else "3.8 to 3.10"


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


def table():
    """For each byte that is an opcode: what to do, where its argument is, what it takes off the stack and puts there.

    What it takes: a number of items, and whether all above the last mark comes first.
    """
    rows = [None] * 256
    for opcode in pickletools.opcodes:
        before, name = list(opcode.stack_before), opcode.name
        marked = pickletools.markobject in before
        before = before[: before.index(pickletools.markobject)] if marked else before
        kinds = (("TUPLE", "TUPLE"), ("BYTE", "BYTES"), ("UNICODE|STRING", "TEXT"), ("GET$", "GET"), ("PUT$", "PUT"))
        action = next((kind for pattern, kind in kinds if re.search(pattern, name)), name)
        argument = opcode.arg.n if opcode.arg else 0
        rows[ord(opcode.code)] = (action, argument, len(before), marked, len(opcode.stack_after))
    return rows


TABLE = table()
WIDTHS = {-2: 1, -3: 4, -4: 4, -5: 8}  # bytes that hold the length, by pickletools.TAKEN_FROM_…


def read_pickle(data, start, end, found):
    """Go through one pickle with a symbolic stack: text, tuples, Span, Global, Code, and None for anything else."""
    stack, marks, memo, protocol, position = [], [], {}, 0, start
    try:
        while True:
            if time.monotonic() > found.deadline or len(memo) > MEMOIZED:
                raise Limit("is too long to be read to its end")
            for _ in range(16384):
                if position >= end:
                    raise EOFError
                action, width, takes, marked, puts = TABLE[data[position]]
                begin = position = position + 1
                if width > 0:
                    position += width
                elif width == pickletools.UP_TO_NEWLINE:
                    for _ in range(2 if action in ("GLOBAL", "INST") else 1):
                        position = data.find(b"\n", position, end) + 1 or end + 1
                elif width:
                    begin += WIDTHS[width]
                    position = begin + int.from_bytes(data[position:begin], "little")
                if position > end:
                    raise EOFError
                items = ()
                if takes or marked:
                    if action == "POP" and marks and marks[-1] == len(stack):
                        marks.pop()
                        continue
                    below = (marks.pop() if marked else len(stack)) - takes
                    items = stack[max(below, 0) :]
                    if len(items) < takes:
                        raise IndexError
                    del stack[below:]

                if action == "TEXT":
                    text = data[begin:position] if position - begin <= LONGEST_NAME else b""
                    text = text.strip(b"\n'\"") if width == pickletools.UP_TO_NEWLINE else text
                    stack.append(text.decode("utf-8", "replace"))
                    found.pydantic1 |= text == b"__fields_set__"  # in the state of pydantic 1's models
                elif action == "MEMOIZE":
                    stack += items
                    memo[len(memo)] = items[0]
                elif action == "GET" or action == "PUT":
                    index = data[begin:position]
                    index = int(index) if width < 0 else int.from_bytes(index, "little")
                    if action == "PUT":
                        memo[index] = stack[-1]
                    else:
                        stack.append(memo[index])
                elif action == "MARK":
                    marks.append(len(stack))
                elif action == "BYTES":
                    stack.append(Span((begin, position)))
                elif action == "TUPLE":
                    stack.append(tuple(items))
                elif action == "GLOBAL" or action == "INST":
                    names = data[begin : position - 1].decode("utf-8", "replace").split("\n")
                    if protocol < 3:  # these use the names of Python 2
                        names = NAME_MAPPING.get(tuple(names), names)
                        names = IMPORT_MAPPING.get(names[0], names[0]), names[1]
                    stack.append(found.imported(*names))
                elif action == "STACK_GLOBAL":
                    stack.append(found.imported(*items))
                elif action == "REDUCE":
                    stack.append(found.called(items[0], items[1], data))
                elif action == "STOP":
                    return
                else:
                    protocol = data[begin] if action == "PROTO" else protocol
                    stack += items * 2 if action == "DUP" else items[:puts] or [None] * puts
    except EOFError:
        raise Bad("ends after {:,} bytes, before its pickle does".format(end - start))
    except (IndexError, KeyError, ValueError, TypeError):  # no opcode, not enough on the stack, nothing memoized
        if any(name.startswith("joblib.numpy_pickle") for name in found.globals):
            raise Limit("holds joblib's arrays; what follows the first of them was not read")
        raise Bad("is no pickle" if position - start < 3 else "is damaged at byte {:,}".format(position - start))


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
