"""Goes through pickles with a symbolic stack; nothing is executed. Loaded by ``look.py``.

Why not ``pickletools.genops`` alone: it has no stack, without which the names of STACK_GLOBAL are guesses, and it
copies and decodes every payload, a large array too. Its table of opcodes is used.
"""

import pickletools
import re
import time
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING

MEMOIZED = 1000000  # objects of one pickle that are kept to be referred to; more take hundreds of megabytes
LONGEST_NAME = 1000  # bytes; longer texts are content
RESUME = {b"\x97\0": "3.11 to 3.12", b"\x95\0": "3.13", b"\x80\0": "3.14"}  # where a function's code begins


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
