"""Codes of values, bytes that are equal exactly when two values are, and the names of classes that last.

A code says where it ends, so that codes can follow one another. See ``values.py``, which loads this file.
"""

import array
import contextlib
import copyreg
import functools
import hashlib
import os
import struct
import sys
import sysconfig
import types

TINY = 1e-14  # what rounding leaves of a difference: near 0
CUT, NUDGE = 27, 55593071  # bits of a float that do not count as near; the nudge keeps round numbers off the edge
BLOCK = 8192  # 64-bit words that are mixed at once
FACTORS = hashlib.shake_128(b"").digest(BLOCK * 8)
PLAIN = (type(None), bool, int, float, str, bytes)


def leaf(tag, data):
    """The code of a value without parts."""
    if isinstance(data, str):
        data = data.encode("utf-8", "surrogatepass")
    if len(data) > 1000:
        tag, data = tag + b"#", hashlib.sha256(data).digest()
    return b"%b%d:%b" % (tag, len(data), data)


def hashed(tag, data):
    """The code of much data."""
    tag = tag.encode("utf-8", "surrogatepass")
    found = hashlib.sha256(b"%d:%b" % (len(tag), tag))
    found.update(data)
    return b"#" + found.digest()


def joined(tag, codes):
    """The code of a value from those of its parts."""
    return hashed(tag, b"".join(codes))


def short(code, length=16):
    return hashlib.sha256(code).hexdigest()[:length]


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
    whole = len(data) // (BLOCK * 8) * BLOCK * 8
    if not whole:
        return data
    factors = sys.modules["numpy"].frombuffer(FACTORS, "u8") | 1
    blocks = data[:whole].view("u8").reshape(-1, BLOCK)
    sums = array.array("Q", [int((block ^ (block >> 32)).dot(factors)) for block in blocks])
    return sums.tobytes() + data[whole:].tobytes()


# -- classes


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
def is_library(kind):
    """Whether a class is Python's or an installed package's, not the user's own."""
    name = str(kind.__module__)
    if name == "__main__":  # the probe itself, and what was pickled from a script
        return False
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    installed = {"site-packages", "dist-packages"}.intersection(file.split(os.sep))
    return bool(installed) or name in sys.builtin_module_names or file.startswith(sysconfig.get_paths()["stdlib"])


def attributes(value):
    """What an object keeps in its slots and its dictionary."""
    found = {}
    for name in copyreg._slotnames(type(value)):
        with contextlib.suppress(AttributeError):  # nothing was put there
            found[name] = object.__getattribute__(value, name)
    if type(value).__dictoffset__:
        found.update(object.__getattribute__(value, "__dict__"))
    return found


def is_importable(thing):
    """Whether a class or function is found under its name; nothing is imported for that."""
    found = sys.modules.get(thing.__module__)
    for name in thing.__qualname__.split("."):
        found = vars(found).get(name) if hasattr(found, "__dict__") else None
    return found is thing


def within(code):
    """A code object and those within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from within(constant)
