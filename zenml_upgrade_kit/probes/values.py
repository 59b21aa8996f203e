"""Describes a value without showing it, and calls models and functions that are safe to call.

Loaded by file into the probes. A description is the same in every Python and in every version of a library that holds
the same value: what depends on hash order, memory layout, byte order, addresses, storage or on the module that a
library keeps a class in is left out. Nothing is imported: a value brought its libraries along.
"""

import array
import builtins
import copyreg
import functools
import hashlib
import inspect
import json
import os
import pathlib
import re
import struct
import sys
import sysconfig
import tempfile
import types

DEEPEST = 100  # containers in containers; below, the type counts
NOTED = 2  # levels of parts that are told one by one
MOST = 200  # parts
FEW = 100  # items that are always looked at one by one; more are hashed as one, where they are alike
TINY = 1e-14  # what rounding leaves of a difference: near 0
CUT, NUDGE = 27, 55593071  # bits of a float that do not count as near; the nudge keeps round numbers off the edge
CUT_SINGLE, NUDGE_SINGLE = 7, 53
BLOCK = 8192  # 64-bit words that are mixed at once
SHARED = 5  # references to an object that only its container has
HARMLESS = {
    "abs", "all", "any", "bool", "chr", "complex", "dict", "divmod", "enumerate", "filter", "float", "frozenset",
    "int", "isinstance", "len", "list", "map", "max", "min", "ord", "pow", "range", "repr", "reversed", "round",
    "set", "slice", "sorted", "str", "sum", "tuple", "zip",
}  # fmt: skip
PICKLING = ("__reduce_ex__", "__reduce__", "__getstate__", "__getnewargs__", "__getnewargs_ex__")
PLAIN = (type(None), bool, int, float, str, bytes)
BARE = (
    (int, int.__int__),
    (float, float.__float__),
    (str, str.__str__),
    (bytes, lambda value: bytes.__add__(value, b"")),
    (bytearray, bytes),
)


def describe(value, near=True):
    """Type, summary, digest, near, parts and basis of a value; no code of the user's is called.

    digest: identity of the content; near: the same with floats rounded to about 8 digits; both None when the walk
    through the value failed. parts: readable name to digest and fact, of columns, fields, keys, parameters and files.
    basis: ``content``, or what was compared where there is no content to compare. Without near, it is the digest.
    """
    found = {"type": name_of(type(value)), "summary": "", "digest": None, "near": None, "parts": {}, "basis": ""}
    walk = Walk(near)
    try:
        found["summary"] = fact_of(value)
        exact, rounded = walk.code(value)
        found["summary"] = summary_of(value, walk.parts)
    except MemoryError:
        raise
    except Exception:  # a damaged object: it has a type, but no content
        return found
    basis = (
        "type and repr" if walk.opaque else "content" + ", but " * bool(walk.limits) + " and ".join(sorted(walk.limits))
    )
    return dict(found, digest=short(exact, 32), near=short(rounded, 32), parts=walk.parts, basis=basis)


def call(value, by_value, names):
    """What happens when the value is used: ``{"called": "returned ndarray", "parts": {…}}``, or ``{}``: not called.

    Called are ``predict`` of fitted scikit-learn estimators and of other libraries' models, with one row of zeros, and
    functions that were pickled by value and use harmless builtins alone, with zeros. A class of the user's is called
    only if it derives from scikit-learn's BaseEstimator. by_value: the pickle holds code objects; names: all that
    these use, None when unknown. A part holds the near digest: it was computed. The caller sets the time limit.
    """
    try:
        function, arguments, label = _prediction(value) or (by_value and _computation(value, names)) or (None, (), "")
    except Exception:  # not fitted, or no signature
        return {}
    if not function:
        return {}
    try:
        answer = function(*arguments)
    except BaseException as error:
        return {"called": "raised " + type(error).__name__, "parts": {}}
    near = describe(answer)["near"]
    return {
        "called": "returned " + type(answer).__name__,
        "parts": {label: [near[:16], fact_of(answer)]} if near else {},
    }


def _prediction(value):
    kind = type(value)
    if not hasattr(kind, "predict") or not ("sklearn.BaseEstimator" in names_of(kind) or is_library(kind)):
        return None
    width, labels = int(value.n_features_in_), getattr(value, "feature_names_in_", None)
    numpy, pandas = sys.modules.get("numpy"), sys.modules.get("pandas")
    if isinstance(value, type) or not numpy or width > 1000000:
        return None
    row = numpy.zeros((1, width))
    return value.predict, [row if labels is None or not pandas else pandas.DataFrame(row, columns=labels)], "prediction"


def _computation(value, names):
    """A function that can reach nothing but harmless builtins and plain data, and zeros for what it needs."""
    if type(value) is not types.FunctionType or names is None:
        return None
    reach = set(names).union(*(code.co_names for code in codes_of(value.__code__)))
    known = value.__globals__.get("__builtins__", builtins)
    data = [cell.cell_contents for cell in value.__closure__ or ()]
    data += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
    shadowed = reach & set(value.__globals__) or known not in (builtins, vars(builtins))
    needed = [one for one in inspect.signature(value).parameters.values() if one.default is one.empty]
    if shadowed or not reach <= HARMLESS or any(type(item) not in PLAIN for item in data):
        return None
    if any(one.kind is one.KEYWORD_ONLY for one in needed):
        return None
    return value, [0 for one in needed if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)], "result"


def codes_of(code):
    """A code object and those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_of(constant)


# -- classes, names and facts


def name_of(cls):
    return cls.__qualname__ if cls.__module__ == "builtins" else "{}.{}".format(cls.__module__, cls.__qualname__)


def lasting(thing):
    """The name of a class or function without the modules between, which libraries rearrange."""
    return "{}.{}".format(str(thing.__module__).partition(".")[0], thing.__qualname__)


@functools.lru_cache(maxsize=None)
def names_of(kind):
    """The lasting names of a class and of those that it derives from."""
    return [lasting(cls) for cls in kind.__mro__]


@functools.lru_cache(maxsize=None)
def way_of(kind):
    """How values of a class are walked through."""
    return next((way for name, way in WAYS.items() if name in names_of(kind)), Walk.state)


@functools.lru_cache(maxsize=None)
def is_library(kind):
    """Whether a class is Python's or an installed package's, not the user's own."""
    root = str(kind.__module__).partition(".")[0]
    module = sys.modules.get(root)
    file = getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "")
    installed = {"site-packages", "dist-packages"}.intersection(file.split(os.sep))
    if root == "__main__":  # the probe itself, and what was pickled from a script
        return False
    return root in sys.builtin_module_names or bool(installed) or file.startswith(sysconfig.get_paths()["stdlib"])


@functools.lru_cache(maxsize=None)
def slots_of(kind):
    members = [slot for cls in kind.__mro__ if "__slots__" in vars(cls) for slot in vars(cls).values()]
    return [slot for slot in members if isinstance(slot, types.MemberDescriptorType)]


def attributes(value):
    """What an object keeps in its dictionary and its slots."""
    found = {}
    for slot in slots_of(type(value)):
        try:
            found[slot.__name__] = slot.__get__(value)
        except AttributeError:  # nothing was put there
            continue
    if type(value).__dictoffset__:
        found.update(object.__getattribute__(value, "__dict__"))
    return found


def is_importable(thing):
    """Whether a class or function is found under its name; nothing is imported for that."""
    found = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
    return found is thing


def dtype_name(dtype):
    return _usual(str(dtype if getattr(dtype, "isnative", True) is not False else dtype.newbyteorder("=")))


@functools.lru_cache(maxsize=1000)
def _usual(text):
    """A dtype as NumPy 1 and 2 and pandas 1 to 3 would all call it."""
    text = re.sub(r"^Sparse\[(.*?), .*\]$", r"Sparse[\1]", text)
    text = re.sub(r"^interval\[([^,]*)\]$", r"interval[\1, right]", text)
    text = re.sub(r"^period\[(?:A|Y)E?\b", "period[Y", text)
    offset = re.search(r"pytz\.FixedOffset\((-?)(\d+)\)", text)
    if offset:
        sign, minutes = offset.group(1) or "+", int(offset.group(2))
        text = text.replace(offset.group(), "UTC{}{:02}:{:02}".format(sign, *divmod(minutes, 60)))
    return re.sub(r"tzutc\(\)|UTC\+00:00", "UTC", text)


def fact_of(value):
    """Type and size."""
    kind, names = type(value), names_of(type(value))
    if kind in (str, bytes, list, tuple, set, frozenset, dict):
        return "{} of {}".format(kind.__name__, len(value))
    if "numpy.generic" in names:
        return "numpy scalar " + dtype_name(value.dtype)
    if names[0].startswith(("numpy.", "pandas.")) and getattr(value, "shape", ()):
        dtype = [dtype_name(value.dtype)] if hasattr(value, "dtype") else []
        return " ".join([kind.__name__, *dtype, " × ".join(map(str, value.shape))])
    return "None" if value is None else names[0].replace("builtins.", "")


def summary_of(value, parts):
    """What people need to see of a value, never its content: type, size, column types."""
    columns = [label[7:] + " " + fact for label, (_, fact) in parts.items() if label.startswith("column ")]
    if not columns or "pandas.DataFrame" not in names_of(type(value)):
        return fact_of(value)
    more = ", … {} more".format(value.shape[1] - 12) if value.shape[1] > 12 else ""
    return "{}: {}{}".format(fact_of(value), ", ".join(columns[:12]), more)


def _label(name):
    return (str(name) if isinstance(name, (str, int, float, tuple)) else type(name).__name__)[:60]


# -- codes: bytes that are equal exactly when two values are, and that say where they end


def leaf(tag, data):
    """The codes of a value without parts, exact and near."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if len(data) > 1000:
        tag, data = tag + b"#", hashlib.sha256(data).digest()
    code = b"%b%d:%b" % (tag, len(data), data)
    return code, code


def hashed(tag, data):
    tag = tag.encode("utf-8", "surrogatepass")
    found = hashlib.sha256(b"%d:%b" % (len(tag), tag))
    found.update(data)
    return b"#" + found.digest()


def joined(tag, codes):
    exact, near = b"".join([code[0] for code in codes]), b"".join([code[1] for code in codes])
    one = hashed(tag, exact)
    return one, one if near == exact else hashed(tag, near)


def short(code, length=16):
    return hashlib.sha256(code).hexdigest()[:length]


def texts(items):
    """Texts as one, in a tenth of the time that coding each would take."""
    whole = "\0".join(items)
    return whole.encode("utf-8", "surrogatepass") if whole.count("\0") < len(items) else json.dumps(items).encode()


def rounded(number):
    """The bits of a float that count as near."""
    bits = struct.pack("<d", number if abs(number) >= TINY or number != number else 0.0)
    return (struct.unpack("<q", bits)[0] + NUDGE) >> CUT


def mixed(flat):
    """The bytes of an array without gaps, or what is as good in a quarter of the time that their SHA-256 takes.

    Each block of words gives one sum, of products with odd random factors, modulo 2**64: two contents that were not
    made to have one sum have it in one of 10**15 cases. Words are folded first, since their low halves may all be 0.
    """
    data = flat.view("u1") if flat.nbytes else b""
    if len(data) < BLOCK * 8:
        return data
    words, factors = data[: len(data) // 8 * 8].view("u8"), _factors(sys.modules["numpy"])
    sums = []
    for start in range(0, len(words), BLOCK):
        block = words[start : start + BLOCK]
        block = block ^ (block >> 32)
        sums.append(int(block.dot(factors[: len(block)])))
    return array.array("Q", sums).tobytes() + data[len(words) * 8 :].tobytes()


@functools.lru_cache(maxsize=None)
def _factors(numpy):
    return numpy.frombuffer(hashlib.shake_128(b"").digest(BLOCK * 8), dtype="u8") | numpy.uint64(1)


class Walk:
    """One walk through a value. Where nothing else is said, methods give a pair of codes, exact and near."""

    def __init__(self, near=True):
        self.near = near
        self.path = {}  # id of the objects that this one is part of, and their depth
        self.known = {}  # id to codes and object: kept alive, its id is not used again
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
            return self.number(value)
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

    def number(self, value):
        exact = leaf(b"f", struct.pack("<d", value) if value == value else b"nan")
        return (exact[0], leaf(b"f", b"%x" % rounded(value))[0]) if self.near and value == value else exact

    def part(self, label, value):
        """Label, codes and fact of a part."""
        noting = self.noting()
        self.trail.append(label)
        code = self.code(value)
        self.trail.pop()
        return label, code, fact_of(value) if noting else ""

    def noting(self):
        return len(self.path) - 1 == len(self.trail) < NOTED

    def named(self, tag, parts):
        """The codes of a value made of parts: their labels, codes, facts."""
        codes = []
        for label, code, fact in parts:
            codes += [leaf(b"n", label), code]
            if self.noting() and len(self.parts) < MOST:
                label = ", ".join([*self.trail, label])
                while label in self.parts:  # columns of one name
                    label += "'"
                self.parts[label] = [short(code[0]), fact]
        return joined(tag, codes)

    def many(self, tag, values):
        """The codes of a list of values; as one where many are alike, since a million calls take seconds."""
        kinds = set(map(type, values)) if len(values) > FEW else ()
        if kinds == {int}:
            try:
                return (hashed(tag + " int", array.array("q", values)),) * 2
            except OverflowError:
                pass
        elif kinds == {float}:
            exact = array.array("d", [value if value == value else float("nan") for value in values])
            one = hashed(tag + " float", exact)
            return one, hashed(tag + " float", array.array("q", map(rounded, exact))) if self.near else one
        elif kinds == {str}:
            return (hashed(tag + " str", texts(values)),) * 2
        return joined(tag, [self.code(value) for value in values])

    # -- Python's own types

    def sequence(self, value):
        kind, base = type(value), list if isinstance(value, list) else tuple
        tag, items = names_of(kind)[0], list(base.__iter__(value))
        if len(items) > 20 or not self.noting():
            return self.many(tag, items) if kind is base else self.with_attributes(self.many(tag, items), value)
        names = getattr(kind, "_fields", None) or map(str, range(len(items)))
        label = "field " if hasattr(kind, "_fields") else "item "
        parts = [self.part(label + name, item) for name, item in zip(names, items)]
        self.named("", parts)
        inner = joined(tag, [code for _, code, _ in parts])
        return inner if kind is base else self.with_attributes(inner, value)

    def mapping(self, value):
        keys = list(dict.keys(value))
        tag, alike = names_of(type(value))[0], set(map(type, keys)) == {str}
        keys.sort(key=None if alike else lambda key: self.code(key)[0])
        items = [dict.__getitem__(value, key) for key in keys]
        if alike and len(keys) <= FEW:
            inner = self.named(tag, (self.part("key " + key[:60], item) for key, item in zip(keys, items)))
        else:
            inner = self.many(tag, items)
        inner = joined(tag, [self.many("keys", keys), inner])
        return inner if type(value) is dict else self.with_attributes(inner, value)

    def collection(self, value):
        items = list((set if isinstance(value, set) else frozenset).__iter__(value))
        if len(items) > FEW and set(map(type, items)) in ({int}, {str}):
            return self.many(names_of(type(value))[0], sorted(items))
        return joined(names_of(type(value))[0], sorted(map(self.code, items)))

    def derived(self, value):
        """A number or text of another class, with what that adds."""
        if isinstance(value, complex):
            inner = joined("complex", [self.number(value.real), self.number(value.imag)])
        else:
            inner = self.code(next(bare(value) for base, bare in BARE if isinstance(value, base)))
        return self.with_attributes(joined(names_of(type(value))[0], [inner]), value)

    def with_attributes(self, code, value):
        own = attributes(value)
        return joined("with", [code, self.mapping(own)]) if own else code

    def member(self, value):
        return joined("enum " + lasting(type(value)), [self.code(value._value_)])

    def moment(self, value):
        """A time with its offset and its region, whatever library the time zone is of."""
        region = getattr(value.tzinfo, "zone", None) or getattr(value.tzinfo, "key", None)
        region = region if region and "/" in region else None  # UTC goes by many names
        return joined(lasting(type(value)), [self.code(value.isoformat()), self.code(region)])

    def text(self, value):
        return leaf(b"t", lasting(type(value)) + " " + str(value))

    def files(self, value):
        """A directory that a materializer unpacked is its files; any other path is its text."""
        unpacked = len(self.path) == 1 and pathlib.Path(tempfile.gettempdir()) in value.parents
        if not unpacked or not os.path.exists(str(value)):
            return leaf(b"path", os.fsencode(str(value)))
        inside = sorted(value.rglob("*")) if value.is_dir() else [value]
        return self.named("files", (self.file(path, value) for path in inside if path.is_file()))

    def file(self, path, root):
        found, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                found.update(block)
                size += len(block)
        label = path.relative_to(root).as_posix() if path != root else "content"
        return "file " + label, leaf(b"file", found.digest()), "{} bytes".format(size)

    def reference(self, value):
        if isinstance(value, types.ModuleType):
            return leaf(b"module", value.__name__)
        if isinstance(value, types.BuiltinFunctionType) and not isinstance(
            value.__self__, (types.ModuleType, type(None))
        ):
            return self.state(value)
        if isinstance(value, types.BuiltinFunctionType) or is_importable(value):
            return leaf(b"named", lasting(value))
        self.limits.add("code as it is on Python {}.{}".format(*sys.version_info))
        if isinstance(value, type):
            return leaf(b"named", lasting(value))
        seen = [value.__qualname__, value.__defaults__, value.__kwdefaults__]
        seen += [cell.cell_contents for cell in value.__closure__ or ()]
        for code in codes_of(value.__code__):  # not the instructions: reading them changes some of another Python
            constants = [item for item in code.co_consts if not isinstance(item, types.CodeType)]
            seen += [code.co_name, code.co_varnames[: code.co_argcount], code.co_names, constants]
        return joined("function", [self.code(item) for item in seen])

    def state(self, value):
        """An object is its class and its fields, or what pickle would keep where a library's class decides that."""
        kind, own = type(value), attributes(value)
        deciding = [cls for cls in kind.__mro__[:-1] if any(name in vars(cls) for name in PICKLING)]
        if not all(map(is_library, deciding)) or (own and not deciding):
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
        text = re.sub(r"\b0x[0-9a-fA-F]+", "", repr(value)[:1000]) if is_library(type(value)) else ""
        return leaf(b"opaque", lasting(type(value)) + text)

    # -- libraries' types

    def model(self, value):
        """A pydantic model of either generation: its fields, and those that were set.

        Of private attributes only the names are told: many are made anew whenever a model is.
        """
        kind, own = type(value), attributes(value)
        were_set = own.pop("__pydantic_fields_set__", own.pop("__fields_set__", ()))
        private, extra = own.pop("__pydantic_private__", None), own.pop("__pydantic_extra__", None)
        private = private or [name for name in getattr(kind, "__private_attributes__", ()) if name in own]
        declared = getattr(kind, "__pydantic_fields__", None) or getattr(kind, "model_fields", None)
        fields = {name: own[name] for name in own if name not in private and (declared is None or name in declared)}
        fields.update(extra or {})  # what else the second generation holds are cached properties
        parts = [self.part("field " + name, fields[name]) for name in sorted(fields)]
        count = "{} fields".format(len(were_set)) if were_set else "none"
        parts.append(("fields that were set", self.code(sorted(were_set)), count))
        self.named("", [("private attribute " + name, leaf(b"", b""), "") for name in sorted(private)])
        return self.named(lasting(kind), parts)

    def estimator(self, value):
        """A scikit-learn estimator: parameters and public results; the rest of its state is the library's own."""
        own, parts = attributes(value), []
        for name in sorted(own):
            fitted = name.endswith("_")
            plain = type(own[name]) in PLAIN or {"sklearn.BaseEstimator", "numpy.generic"} & {
                *names_of(type(own[name]))
            }
            if "numpy.ndarray" in names_of(type(own[name])):
                plain = not own[name].dtype.hasobject or set(map(type, own[name].ravel().tolist())) <= {str}
            if not name.startswith("_") and (plain or not fitted):
                parts.append(self.part(("fitted " if fitted else "parameter ") + name, own[name]))
            elif fitted:  # trees, for example: a prediction tells more about them
                self.limits.add("not all that {} learned".format(lasting(type(value))))
        return self.named(lasting(type(value)), parts)

    def array(self, value):
        return joined(names_of(type(value))[0], [self.elements(value)])

    def scalar(self, value):
        return joined("scalar", [self.elements(value.reshape(1))])

    def masked(self, value):
        hidden = value.mask if value.mask.any() else None
        plain = value.data if hidden is None or value.dtype.kind not in "biufc" else value.filled(0)
        return joined("masked", [self.elements(plain), self.code(None) if hidden is None else self.elements(hidden)])

    def elements(self, values):
        """The elements of an array in C order and in this machine's byte order."""
        dtype = values.dtype
        tag = "{} {}".format(dtype_name(dtype), values.shape)
        if dtype.names:  # field by field: what lies between them is not content
            return joined(tag, [self.elements(values[name]) for name in dtype.names])
        if dtype.hasobject or dtype.kind == "T":
            return joined(tag, [self.objects(values.ravel().tolist())[0]])
        if dtype.kind == "c":
            return joined(tag, [self.elements(values.real), self.elements(values.imag)])
        flat = (values if dtype.isnative else values.astype(dtype.newbyteorder("="))).ravel()
        if dtype.kind == "f" and dtype.itemsize > 8:  # long doubles are padded with anything
            whole = flat.astype("f8")
            return joined(tag, [self.elements(whole), self.elements((flat - whole).astype("f8"))])
        if dtype.kind == "f":
            missing = flat != flat
            if missing.any():  # not a number, in one of its many ways
                flat = flat.copy()
                flat[missing] = float("nan")
        exact = hashed(tag, mixed(flat))
        if not self.near or dtype.kind != "f" or dtype.itemsize < 4 or not flat.size:
            return exact, exact
        tiny = abs(flat) < TINY
        if tiny.any():
            flat = flat.copy()
            flat[tiny] = 0
        bits = flat.view("i8") + NUDGE >> CUT if dtype.itemsize == 8 else flat.view("i4") + NUDGE_SINGLE >> CUT_SINGLE
        return exact, hashed(tag, mixed(bits))

    def objects(self, items):
        """Codes of the objects in an array or column, and words for what is not text among them."""
        kinds = set(map(type, items))
        empty = float in kinds and all(item != item for item in items if type(item) is float)
        names = {kind.__name__ for kind in kinds - ({str, type(None), float} if empty else {str, type(None)})}
        gone = ["None"] * (type(None) in kinds) + ["nan"] * empty
        gone += [name[:-4] for name in ("NAType", "NaTType") if name in names]
        others = ", ".join(sorted(names - {"NAType", "NaTType"})[:3])
        fact = (" of " + others if others else "") + (" with " + " and ".join(gone) if gone else "")
        if len(kinds) > 1 and kinds <= {str, type(None), *[float] * empty}:
            return (hashed("text", json.dumps(items).encode()),) * 2, fact
        return self.many("objects", items), fact

    def frame(self, value):
        labels = value.columns.tolist()  # their dtype is no content: text is object before pandas 3, and str after
        parts = [("index", *self.index_of(value.index))]
        parts += [("column " + _label(name), *self.column(column)) for name, (_, column) in zip(labels, value.items())]
        names = [self.many("labels", labels), self.code(list(value.columns.names))]
        return joined("frame", [*names, self.named(lasting(type(value)), parts)])

    def series(self, value):
        if hasattr(value, "names"):
            return self.named("index", [("values", *self.index_of(value))])
        parts = [("index", *self.index_of(value.index))] if "pandas.Series" in names_of(type(value)) else []
        inner = self.named("series", [*parts, ("values", *self.column(value))])
        return joined("series", [self.code(value.name), inner]) if parts else inner

    def index_of(self, index):
        """Codes and words of an index, whatever class keeps it: numbers in steps are the same as a range."""
        names = self.code(list(index.names))
        if hasattr(index, "levels"):
            levels = [self.column(index.get_level_values(level)) for level in range(index.nlevels)]
            facts = "levels of " + ", ".join(fact for _, fact in levels)
            return joined("levels", [names, *[code for code, _ in levels]]), facts
        if str(index.dtype) == "int64":
            is_range = hasattr(index, "step")
            values = index if is_range else index.to_numpy()
            first, second = (
                [*map(int, values[:2]), 0, 1][:2] if len(values) != 1 else (int(values[0]), int(values[0]) + 1)
            )
            if is_range or len(values) < 3 or (values[1:] - values[:-1] == second - first).all():
                return joined("range", [names, *map(self.code, (first, second, len(values)))]), "int64"
        code, fact = self.column(index)
        return joined("index", [names, code]), fact

    def column(self, column):
        """Codes and words of a column, whatever keeps its data."""
        dtype, name = column.dtype, dtype_name(column.dtype)
        if not hasattr(dtype, "na_value"):  # NumPy's
            values = column.to_numpy()
            if values.dtype.hasobject:
                code, fact = self.objects(values.tolist())
                return joined(name, [code]), name + fact
            return self.elements(values), name + " with nan" * (dtype.kind == "f" and bool((values != values).any()))
        keeper = getattr(column, "array", column)
        if name == "category":
            code, fact = self.column(keeper.categories)
            parts = [code, self.elements(keeper.codes.astype("i8")), self.code(bool(keeper.ordered))]
            return joined(name, parts), "category of " + fact
        if hasattr(keeper, "asi8"):  # times and periods
            return joined(name, [self.elements(keeper.asi8)]), name
        if hasattr(keeper, "sp_values"):
            places = self.elements(keeper.sp_index.indices.astype("i8"))
            return joined(
                name,
                [self.elements(keeper.sp_values), places, self.code(len(keeper)), self.code(float(keeper.fill_value))],
            ), name
        if hasattr(keeper, "closed"):  # intervals
            return joined(name, [self.column(keeper.left)[0], self.column(keeper.right)[0]]), name
        gone, kind = keeper.isna(), getattr(dtype, "numpy_dtype", None)
        lacking = bool(gone.any())
        fact = name + (" with nan" if isinstance(dtype.na_value, float) else " with NA") * lacking
        if kind is not None and kind.kind in "biuf":
            values = keeper.to_numpy(dtype=kind, na_value=kind.type(0))
            return joined(name, [self.elements(values), self.elements(gone)]), fact
        held = keeper.to_numpy(dtype=object)
        items = held[~gone].tolist() if lacking else held.tolist()
        return joined(name, [self.many("objects", items), self.elements(gone)]), fact

    def sparse(self, value):
        found = value.tocoo()
        parts = [
            self.elements(found.row.astype("i8")),
            self.elements(found.col.astype("i8")),
            self.elements(found.data),
        ]
        return joined("{} {}".format(lasting(type(value)), tuple(map(int, value.shape))), parts)

    def random_state(self, value):
        state = value.get_state(legacy=False) if hasattr(value, "get_state") else value.bit_generator.state
        return joined(lasting(type(value)), [self.code(state)])

    def dtype(self, value):
        return leaf(b"dtype", dtype_name(value))


WAYS = {  # the first that a class derives from
    name: way
    for way, names in (
        (Walk.estimator, "sklearn.BaseEstimator"),
        (Walk.member, "enum.Enum"),
        (Walk.model, "pydantic.BaseModel"),
        (Walk.masked, "numpy.MaskedArray"),
        (Walk.array, "numpy.ndarray"),
        (Walk.scalar, "numpy.generic"),
        (Walk.dtype, "numpy.dtype"),
        (Walk.random_state, "numpy.RandomState numpy.Generator"),
        (Walk.frame, "pandas.DataFrame"),
        (Walk.series, "pandas.Series pandas.Index pandas.ExtensionArray"),
        (Walk.text, "pandas.Timedelta pandas.Period pandas.NaTType pandas.NAType"),
        (Walk.text, "pydantic_core.Url pydantic.AnyUrl fractions.Fraction"),
        (Walk.sparse, "scipy.spmatrix scipy._spbase"),
        (Walk.moment, "datetime.datetime datetime.time"),
        (Walk.files, "pathlib.PurePath"),
        (Walk.sequence, "builtins.list builtins.tuple"),
        (Walk.mapping, "builtins.dict"),
        (Walk.collection, "builtins.set builtins.frozenset"),
        (Walk.derived, "builtins.int builtins.float builtins.complex builtins.str builtins.bytes builtins.bytearray"),
        (Walk.reference, "builtins.function builtins.type builtins.module builtins.builtin_function_or_method"),
    )
    for name in names.split()
}
