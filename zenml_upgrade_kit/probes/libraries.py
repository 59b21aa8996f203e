"""How values of NumPy, pandas, scikit-learn, pydantic and SciPy are walked through; none of these is imported.

Loaded by ``values.py``. Each function takes its walk and a value and gives the value's code, which is the same for the
same content, however a version of the library stores it.
"""

import datetime
import sys

codes = sys.modules["zenml_upgrade_codes"]
hashed, joined, lasting, names_of = codes.hashed, codes.joined, codes.lasting, codes.names_of

NEAR = {8: ("i8", codes.CUT, codes.NUDGE), 4: ("i4", 7, 53)}  # by bytes of a float


def dtype_name(dtype):
    """A dtype as all versions of NumPy and pandas would call it."""
    if getattr(dtype, "tz", None) is not None:
        return "datetime64[{}, {}]".format(dtype.unit, zone_of(dtype.tz))
    name = str(dtype.newbyteorder("=") if getattr(dtype, "isnative", True) is False else dtype)
    return name.partition("[")[0] if name.startswith(("Sparse[", "interval[", "period[")) else name


def zone_of(zone):
    """A time zone, whatever library it is of: its region, or what it is ahead of UTC, which goes by many names."""
    ahead = None if zone is None else zone.utcoffset(None)
    region = getattr(zone, "zone", None) or getattr(zone, "key", None)
    return region if ahead is None else str(datetime.timezone(ahead))


def model(walk, value):
    """A pydantic model of either generation: its fields, and those that were set.

    Of private attributes only the names are told: many are made anew whenever a model is.
    """
    kind, own = type(value), codes.attributes(value)
    were_set = own.pop("__pydantic_fields_set__", own.pop("__fields_set__", ()))
    private, extra = own.pop("__pydantic_private__", None), own.pop("__pydantic_extra__", None)
    private = private or [name for name in getattr(kind, "__private_attributes__", ()) if name in own]
    declared = getattr(kind, "__pydantic_fields__", None) or getattr(kind, "model_fields", None)
    fields = {name: own[name] for name in own if name not in private and (declared is None or name in declared)}
    fields.update(extra or {})  # what else the second generation holds are cached properties
    parts = [walk.part("field " + name, fields[name]) for name in sorted(fields)]
    count = "{} fields".format(len(were_set)) if were_set else "none"
    parts.append(("fields that were set", walk.code(sorted(were_set)), count))
    walk.named("", [("private attribute " + name, codes.leaf(b"", b""), "") for name in sorted(private)])
    return walk.named(lasting(kind), parts)


def estimator(walk, value):
    """A scikit-learn estimator: parameters and public results; the rest of its state is the library's own."""
    own, parts = codes.attributes(value), []
    for name in sorted(own):
        fitted, kinds = name.endswith("_"), set(names_of(type(own[name])))
        plain = type(own[name]) in codes.PLAIN or kinds & {"sklearn.BaseEstimator", "numpy.generic"}
        if "numpy.ndarray" in kinds:
            plain = not own[name].dtype.hasobject or set(map(type, own[name].ravel().tolist())) <= {str}
        if not name.startswith("_") and (plain or not fitted):
            parts.append(walk.part(("fitted " if fitted else "parameter ") + name, own[name]))
        elif fitted:  # trees, for example: a prediction tells more about them
            walk.limits.add("not all that {} learned".format(lasting(type(value))))
    return walk.named(lasting(type(value)), parts)


def array(walk, value):
    return joined(names_of(type(value))[0], [elements(walk, value)])


def scalar(walk, value):
    return joined("scalar", [elements(walk, value.reshape(1))])


def masked(walk, value):
    hidden = value.mask if value.mask.any() else None
    plain = value.data if hidden is None or value.dtype.kind not in "biufc" else value.filled(0)
    return joined("masked", [elements(walk, plain), walk.code(None) if hidden is None else elements(walk, hidden)])


def elements(walk, values):
    """The elements of an array in C order and in this machine's byte order."""
    dtype = values.dtype
    tag = "{} {}".format(dtype_name(dtype), values.shape)
    if dtype.names:  # field by field: what lies between them is not content
        return joined(tag, [elements(walk, values[name]) for name in dtype.names])
    if dtype.hasobject or dtype.kind == "T":
        return joined(tag, [walk.many("objects", values.ravel().tolist())])
    if dtype.kind == "c":
        return joined(tag, [elements(walk, values.real), elements(walk, values.imag)])
    if dtype.kind == "f" and dtype.itemsize > 8:  # long doubles are padded with anything
        return joined(tag, [elements(walk, values.astype("f8"))])
    flat = (values if dtype.isnative else values.astype(dtype.newbyteorder("="))).ravel()
    if dtype.kind == "f":
        flat = replaced(flat, flat != flat, float("nan"))  # not a number, in one of its many ways
    if walk.near and dtype.kind == "f" and dtype.itemsize in NEAR:
        whole, cut, nudge = NEAR[dtype.itemsize]
        flat = replaced(flat, abs(flat) < codes.TINY, 0).view(whole) + nudge >> cut
    return hashed(tag, codes.mixed(flat))


def replaced(flat, places, by):
    if places.any():
        flat = flat.copy()
        flat[places] = by
    return flat


def frame(walk, value):
    labels = value.columns.tolist()  # their dtype is no content: text is object before pandas 3, and str after
    parts = [("index", *index_of(walk, value.index))]
    for label, (_, found) in zip(labels, value.items()):
        label = str(label) if isinstance(label, (str, int, float, tuple)) else type(label).__name__
        parts.append(("column " + label[:60], *column(walk, found)))
    names = [walk.many("labels", labels), walk.code(list(value.columns.names))]
    return joined("frame", [*names, walk.named(lasting(type(value)), parts)])


def series(walk, value):
    """A Series, an index, or what keeps the data of either."""
    parts = [("index", *index_of(walk, value.index))] if hasattr(value, "index") else []
    parts.append(("values", *(index_of if hasattr(value, "names") else column)(walk, value)))
    return joined("series", [walk.code(getattr(value, "name", None)), walk.named("series", parts)])


def index_of(walk, index):
    """The code and words of an index, whatever class keeps it: a range is the same as its numbers."""
    levels = range(index.nlevels) if hasattr(index, "levels") else ()
    found = [column(walk, index.get_level_values(level)) for level in levels] or [column(walk, index)]
    fact = ", ".join(fact for _, fact in found)
    names = walk.code(list(index.names))
    return joined("index", [names, *[code for code, _ in found]]), "levels of " * bool(levels) + fact


def column(walk, held):
    """The code and words of a column, whatever keeps its data."""
    dtype, name = held.dtype, dtype_name(held.dtype)
    if not hasattr(dtype, "na_value"):  # NumPy's
        values = held.to_numpy()
        if values.dtype.hasobject:
            items = values.tolist()
            kinds = set(map(type, items))
            return joined(name, [walk.many("objects", items, kinds)]), name + contents(items, kinds)
        return elements(walk, values), name + " with nan" * (dtype.kind == "f" and bool((values != values).any()))
    keeper = getattr(held, "array", held)
    if name == "category":
        code, fact = column(walk, keeper.categories)
        parts = [code, elements(walk, keeper.codes.astype("i8")), walk.code(bool(keeper.ordered))]
        return joined(name, parts), "category of " + fact
    if hasattr(dtype, "tz"):
        return joined(name, [elements(walk, keeper.asi8)]), name
    lacking = " with nan" if isinstance(dtype.na_value, float) else " with NA"
    lacking *= bool(keeper.isna().any())
    items = keeper.to_numpy(dtype=object, na_value=None).tolist()
    return joined(name, [walk.many("objects", items)]), name + lacking


def contents(items, kinds):
    """Words for what is not text in a column of objects; kinds: their types."""
    gone = {"NoneType": "None", "NAType": "NA", "NaTType": "NaT"}
    if float in kinds and all(item != item for item in items if type(item) is float):
        gone["float"] = "nan"
    names = {kind.__name__ for kind in kinds} - {"str"}
    others, lacking = sorted(names - set(gone))[:3], [word for name, word in gone.items() if name in names]
    return " of " * bool(others) + ", ".join(others) + " with " * bool(lacking) + " and ".join(lacking)


def sparse(walk, value):
    found = value.tocoo()
    places = [elements(walk, found.row.astype("i8")), elements(walk, found.col.astype("i8"))]
    tag = "{} {}".format(lasting(type(value)), tuple(map(int, value.shape)))
    return joined(tag, [*places, elements(walk, found.data)])


def random_state(walk, value):
    state = value.get_state(legacy=False) if hasattr(value, "get_state") else value.bit_generator.state
    return joined(lasting(type(value)), [walk.code(state)])


def dtype(_walk, value):
    return codes.leaf(b"dtype", dtype_name(value))


def text(_walk, value):
    return codes.leaf(b"t", lasting(type(value)) + " " + str(value))


WAYS = (
    (estimator, "sklearn.BaseEstimator"),
    (model, "pydantic.BaseModel"),
    (masked, "numpy.MaskedArray"),
    (array, "numpy.ndarray"),
    (scalar, "numpy.generic"),
    (dtype, "numpy.dtype"),
    (random_state, "numpy.RandomState numpy.Generator"),
    (frame, "pandas.DataFrame"),
    (series, "pandas.Series pandas.Index pandas.ExtensionArray"),
    (text, "pandas.Timedelta pandas.Period pandas.Interval pandas.NaTType pandas.NAType fractions.Fraction"),
    (sparse, "scipy.spmatrix scipy._spbase"),
)
