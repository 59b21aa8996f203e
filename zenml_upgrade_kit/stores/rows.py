"""The content identity of a SQLite table; run as a program, of every table that is named on its standard input.

As a program it needs the standard library alone, so that it starts at once: Python reads rows on one core only.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import sqlite3
import sys
from itertools import repeat
from typing import Any

_HASH = type(hashlib.sha256())


def fingerprint(connection: sqlite3.Connection, table: str) -> str:
    """The same rows and column names give the same value, in whatever order; one row is in memory at a time.

    It is made of the sum of the rows' hashes, so doubled rows do not cancel. A row is hashed as ``marshal`` writes it,
    which keeps types, lengths and bytes apart; its version 2 depends on values alone, and is the same in every Python.
    """

    def total() -> tuple[list[str], int]:  # as a chain of built-in functions: no line of Python runs for a row
        cursor = connection.cursor()
        cursor.row_factory = None
        name = table.replace('"', '""')
        cursor.execute(f'SELECT * FROM "{name}"')
        columns = [column[0] for column in cursor.description]
        number: Any = int.from_bytes
        hashes = map(hashlib.sha256, map(marshal.dumps, cursor, repeat(2)))
        return columns, sum(map(number, map(_HASH.digest, hashes), repeat("little")))

    kept: Any = connection.text_factory
    try:
        columns, found = total()
    except sqlite3.OperationalError:  # text that is not UTF-8, or an error that comes again
        connection.text_factory = lambda text: text.decode(errors="surrogateescape")  # same value for any other text
        columns, found = total()
    finally:
        connection.text_factory = kept
    return hashlib.sha256(f"{columns} {found}".encode()).hexdigest()[:32]


if __name__ == "__main__":
    opened = sqlite3.connect(f"{sys.argv[1]}?mode=ro", uri=True)
    for line in sys.stdin:
        print(fingerprint(opened, json.loads(line)), flush=True)
