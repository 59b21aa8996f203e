"""Describes a value without showing it, and calls models and functions that are safe to call.

Loaded by file into the probes. A description is the same in every Python and in every version of a library that holds
the same value: what depends on hash order, memory layout, byte order, addresses, storage or on the module that a
library keeps a class in is left out. Nothing is imported: a value brought its libraries along.
"""

import builtins
import copyreg
import functools
import hashlib
import importlib.util
import marshal
import os
import pathlib
import re
import struct
import sys
import tempfile
import types


def beside(name):
    """Another file of this folder as a module."""
    path = pathlib.Path(__file__).with_name(name + ".py")
    spec = importlib.util.spec_from_file_location("zenml_upgrade_" + name, str(path))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


codes, libraries = beside("codes"), beside("libraries")
joined, lasting, leaf, names_of, short = codes.joined, codes.lasting, codes.leaf, codes.names_of, codes.short

DEEPEST = 100  # containers in containers; below, the type counts
NOTED = 2  # levels of parts that are told one by one
MOST = 200  # parts
FEW = 100  # items that are always looked at one by one; more are hashed as one, where they are plain
NAN = float("nan")
SHARED = 5  # references to an object that only its container has
HARMLESS = {
    "abs", "all", "any", "bool", "chr", "complex", "dict", "divmod", "enumerate", "filter", "float", "frozenset",
    "int", "isinstance", "len", "list", "map", "max", "min", "ord", "pow", "range", "repr", "reversed", "round",
    "set", "slice", "sorted", "str", "sum", "tuple", "zip",
}  # fmt: skip
PICKLING = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")


def describe(value, near=True):
    """Type, summary, digest, near, parts and basis of a value; no code of the user's is called.

    digest: identity of the content; near: where it is wanted, the same with floats rounded to about 8 digits; None when
    the walk through the value failed. parts: readable name to digest and fact, of columns, fields, keys, parameters and
    files. basis: ``content``, or what was compared where there is no content to compare.
    """
    found = {"type": codes.name_of(type(value)), "summary": "", "digest": None, "near": None, "parts": {}, "basis": ""}
    walk = Walk()
    try:
        found["summary"] = fact_of(value)
        digest = short(walk.code(value), 32)
        rounded = short(Walk(near=True).code(value), 32) if near else None
        found["summary"] = summary_of(value, walk.parts)
    except MemoryError:
        raise
    except Exception:  # a damaged object: it has a type, but no content
        return found
    basis = "content" + ", but " * bool(walk.limits) + " and ".join(sorted(walk.limits))
    return dict(found, digest=digest, near=rounded, parts=walk.parts, basis="type and repr" if walk.opaque else basis)


def call(value, by_value, names):
    """What happens when the value is used: ``{"called": "returned ndarray", "parts": {…}}``, or ``{}``: not called.

    Called are ``predict`` of fitted scikit-learn estimators and of other libraries' models, with one row of zeros, and
    functions that were pickled by value and use harmless builtins alone, with zeros. A class of the user's is called
    only if it derives from scikit-learn's BaseEstimator. by_value: the pickle holds code objects; names: all that
    these use, None when unknown. A part holds the near digest: it was computed. The caller sets the time limit.
    """
    try:
        function, arguments, label = prediction(value) or (by_value and computation(value, names)) or (None, (), "")
    except Exception:  # not fitted
        return {}
    if not function:
        return {}
    try:
        answer = function(*arguments)
    except BaseException as error:
        return {"called": "raised " + type(error).__name__, "parts": {}}
    near = describe(answer)["near"]
    parts = {label: [near[:16], fact_of(answer)]} if near else {}
    return {"called": "returned " + type(answer).__name__, "parts": parts}


def prediction(value):
    kind = type(value)
    if not hasattr(kind, "predict") or not ("sklearn.BaseEstimator" in names_of(kind) or codes.is_library(kind)):
        return None
    width, labels = int(value.n_features_in_), getattr(value, "feature_names_in_", None)
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if isinstance(value, type) or not numpy or width > 1000000:
        return None
    row = numpy.zeros((1, width))
    if labels is not None and pandas:
        row = pandas.DataFrame(row, columns=labels)
    # probabilities say more: those of a forest of scikit-learn 1.3 are wrong in 1.9, its classes are not (measured)
    return getattr(value, "predict_proba", value.predict), [row], "prediction"


def computation(value, names):
    """A function that can reach nothing but harmless builtins and plain data, and zeros for what it needs."""
    if type(value) is not types.FunctionType or names is None:
        return None
    reach = set(names).union(*(code.co_names for code in codes.within(value.__code__)))
    known = value.__globals__.get("__builtins__", builtins)
    data = [cell.cell_contents for cell in value.__closure__ or ()]
    data += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    shadowed = reach & set(value.__globals__) or known not in (builtins, vars(builtins))
    if shadowed or not reach <= HARMLESS or any(type(item) not in codes.PLAIN for item in data):
        return None
    if value.__code__.co_kwonlyargcount > len(value.__kwdefaults__ or ()):
        return None
    return value, [0] * (value.__code__.co_argcount - len(value.__defaults__ or ())), "result"


def fact_of(value):
    """Type and size."""
    kind, names = type(value), names_of(type(value))
    if kind in (str, bytes, list, tuple, set, frozenset, dict):
        return "{} of {}".format(kind.__name__, len(value))
    if names[0].startswith(("numpy.", "pandas.")) and getattr(value, "shape", ()):
        dtype = [libraries.dtype_name(value.dtype)] if hasattr(value, "dtype") else []
        return " ".join([kind.__name__, *dtype, " × ".join(map(str, value.shape))])
    return "None" if value is None else names[0].replace("builtins.", "")


def summary_of(value, parts):
    """What people need to see of a value, never its content: type, size, column types."""
    columns = [label[7:] + " " + fact for label, (_, fact) in parts.items() if label.startswith("column ")]
    more = [", … {} more".format(value.shape[1] - 12)] if columns[12:] else []
    return fact_of(value) + ": " * bool(columns) + ", ".join(columns[:12]) + "".join(more)


@functools.lru_cache(maxsize=None)
def way_of(kind):
    """How values of a class are walked through."""
    return next((way for name, way in WAYS.items() if name in names_of(kind)), Walk.state)


class Walk:
    """One walk through a value. Where nothing else is said, methods give a code. near: of what floats round to."""

    def __init__(self, near=False):
        self.near = near
        self.path = {}  # id of the objects that this one is part of, and their depth
        self.known = {}  # id to code and object: kept alive, its id is not used again
        self.trail = []  # labels of the parts that this one is part of
        self.parts = {}
        self.limits = set()
        self.opaque = False

    def code(self, value):
        kind = type(value)
        if kind is str:
            return leaf(b"s", value)
        if kind is int:
            return leaf(b"i", b"%x" % value)  # not decimal: that takes long for long numbers, and may be refused
        if kind is float:
            if value != value:
                return leaf(b"f", b"nan")
            return leaf(b"f", b"%x" % codes.rounded(value) if self.near else struct.pack("<d", value))
        if kind is bool or value is None:
            return leaf(b"c", repr(value))
        if kind is bytes:
            return leaf(b"y", value)
        key, depth = id(value), len(self.path)
        if key in self.path:
            return leaf(b"cycle", b"%d" % (depth - self.path[key]))
        if key in self.known:
            return self.known[key][0]
        if depth == DEEPEST:
            self.limits.add("type alone below {} levels".format(DEEPEST))
            return leaf(b"deep", lasting(kind))
        self.path[key] = depth
        found = way_of(kind)(self, value)
        del self.path[key]
        if sys.getrefcount(value) > SHARED:  # without this, parts within shared parts take exponential time
            self.known[key] = found, value
        return found

    def part(self, label, value):
        """Label, code and fact of a part."""
        noting = self.noting()
        self.trail.append(label)
        code = self.code(value)
        self.trail.pop()
        return label, code, fact_of(value) if noting else ""

    def noting(self):
        return len(self.path) - 1 == len(self.trail) < NOTED

    def named(self, tag, parts):
        """The code of a value made of parts: their labels, codes, facts."""
        found = []
        for label, code, fact in parts:
            found += [leaf(b"n", label), code]
            if self.noting() and len(self.parts) < MOST:
                label = ", ".join([*self.trail, label])
                while label in self.parts:  # columns of one name
                    label += "'"
                self.parts[label] = [short(code), fact]
        return joined(tag, found)

    def many(self, tag, values, kinds=None):
        """The code of a list of values; as one where it is long and plain, since a million calls take seconds."""
        kinds = kinds or set(map(type, values)) if len(values) > FEW else {object}
        if not kinds <= {int, float, str, bool, type(None)}:
            return joined(tag, map(self.code, values))
        if kinds == {str}:
            text = "\0".join(values)
            if text.count("\0") < len(values):
                return codes.hashed(tag, text.encode("utf-8", "surrogatepass"))
        if float in kinds:
            if self.near:
                values = [codes.rounded(value) if type(value) is float else value for value in values]
            values = [value if value == value else NAN for value in values]
        return codes.hashed(tag, marshal.dumps(values, 2))  # of all Pythons alike; later versions tell how it is shared

    def sequence(self, value):
        kind, base = type(value), list if isinstance(value, list) else tuple
        tag, items = names_of(kind)[0], list(base.__iter__(value))
        if self.noting() and len(items) <= 20:
            names = getattr(kind, "_fields", None) or map(str, range(len(items)))
            label = "field " if hasattr(kind, "_fields") else "item "
            parts = [self.part(label + name, item) for name, item in zip(names, items)]
            self.named("", parts)
            inner = joined(tag, [code for _, code, _ in parts])
        else:
            inner = self.many(tag, items)
        return inner if kind is base else self.with_attributes(inner, value)

    def mapping(self, value):
        keys = list(dict.keys(value))
        tag, alike = names_of(type(value))[0], set(map(type, keys)) == {str}
        keys.sort(key=None if alike else self.code)
        items = [dict.__getitem__(value, key) for key in keys]
        if alike and len(keys) <= FEW:
            inner = self.named(tag, (self.part("key " + key[:60], item) for key, item in zip(keys, items)))
        else:
            inner = self.many(tag, items)
        inner = joined(tag, [self.many("keys", keys), inner])
        return inner if type(value) is dict else self.with_attributes(inner, value)

    def collection(self, value):
        items = (set if isinstance(value, set) else frozenset).__iter__(value)
        return joined(names_of(type(value))[0], sorted(map(self.code, items)))

    def derived(self, value):
        """A number or text of another class, with what that adds."""
        base = next(base for base in DERIVED if isinstance(value, base))
        code = joined(names_of(type(value))[0], [self.code(plain) for plain in base.__getnewargs__(value)])
        return self.with_attributes(code, value)

    def with_attributes(self, code, value):
        own = codes.attributes(value)
        return joined("with", [code, self.mapping(own)]) if own else code

    def member(self, value):
        return joined("enum " + lasting(type(value)), [self.code(value._value_)])

    def moment(self, value):
        """A time with its offset and its region."""
        return joined(lasting(type(value)), map(self.code, (value.isoformat(), libraries.zone_of(value.tzinfo))))

    def files(self, value):
        """A directory that a materializer unpacked is its files; any other path is its text."""
        unpacked = len(self.path) == 1 and pathlib.Path(tempfile.gettempdir()) in value.parents
        if not unpacked or not os.path.exists(str(value)):
            return leaf(b"path", os.fsencode(str(value)))
        inside = sorted(value.rglob("*")) if value.is_dir() else [value]
        return self.named("files", (self.file(path, value) for path in inside if path.is_file()))

    def file(self, path, root):
        found = hashlib.sha256()
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                found.update(block)
            size = "{} bytes".format(file.tell())
        label = path.relative_to(root).as_posix() if path != root else "content"
        return "file " + label, leaf(b"file", found.digest()), size

    def reference(self, value):
        if isinstance(value, types.ModuleType):
            return leaf(b"module", value.__name__)
        if isinstance(value, types.BuiltinFunctionType):
            bound = not isinstance(value.__self__, (types.ModuleType, type(None)))
            return self.state(value) if bound else leaf(b"named", lasting(value))
        if codes.is_importable(value):
            return leaf(b"named", lasting(value))
        self.limits.add("code as it is on Python {}.{}".format(*sys.version_info))
        if isinstance(value, type):
            return leaf(b"named", lasting(value))
        seen = [value.__qualname__, value.__defaults__, value.__kwdefaults__]
        seen += [cell.cell_contents for cell in value.__closure__ or ()]
        for code in codes.within(value.__code__):  # not the instructions: reading them changes some of another Python
            constants = [item for item in code.co_consts if not isinstance(item, types.CodeType)]
            seen += [code.co_name, code.co_varnames[: code.co_argcount], code.co_names, constants]
        return joined("function", [self.code(item) for item in seen])

    def state(self, value):
        """An object is its class and its fields, or what pickle would keep where a library's class decides that."""
        kind, own = type(value), codes.attributes(value)
        deciding = [cls for cls in kind.__mro__[:-1] if any(name in vars(cls) for name in PICKLING)]
        if not all(map(codes.is_library, deciding)) or (own and not deciding):
            return self.named(lasting(kind), (self.part("field " + name, own[name]) for name in sorted(own)))
        try:
            registered = copyreg.dispatch_table.get(kind)  # that of patterns, for example
            reduced = registered(value) if registered else value.__reduce_ex__(2)
        except Exception:
            return self.unknown(value)
        if isinstance(reduced, str):
            return leaf(b"named", reduced)
        pieces = [self.code(piece) for piece in reduced[:3]]
        pieces += [self.code(piece if piece is None else list(piece)) for piece in reduced[3:5]]
        return joined(lasting(kind), pieces)

    def unknown(self, value):
        self.opaque = self.opaque or len(self.path) == 1
        self.limits.add("type and repr of " + lasting(type(value)))
        text = re.sub(r"\b0x[0-9a-fA-F]+", "", repr(value)[:1000]) if codes.is_library(type(value)) else ""
        return leaf(b"opaque", lasting(type(value)) + text)


DERIVED = (int, float, complex, str, bytes)
OWN_WAYS = (
    (Walk.moment, "datetime.datetime datetime.time"),
    (Walk.files, "pathlib.PurePath"),
    (Walk.sequence, "builtins.list builtins.tuple"),
    (Walk.mapping, "builtins.dict"),
    (Walk.collection, "builtins.set builtins.frozenset"),
    (Walk.derived, "builtins.int builtins.float builtins.complex builtins.str builtins.bytes"),
    (Walk.reference, "builtins.function builtins.type builtins.module builtins.builtin_function_or_method"),
)
WAYS = {  # the first that a class derives from
    name: way for way, names in ((Walk.member, "enum.Enum"), *libraries.WAYS, *OWN_WAYS) for name in names.split()
}
