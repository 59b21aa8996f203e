"""The shape of a database: tables, columns and unique rules, which do not depend on how it came to its release.

A database that releases migrated one after the other and one that the last of them made anew differ in types, defaults
and foreign keys, but not in these; measured on SQLite for 0.43.0 and 0.55.5 brought to 0.60.0 ... 0.98.0.
"""

from __future__ import annotations

import re
from sqlite3 import Connection as SQLite

from zenml_upgrade_kit.stores import Reader, mysql, sqlite, tables

_UNIQUE = re.compile(r"UNIQUE KEY [`\"].+?[`\"] \((.+)\)")
Shape = dict[str, set[str]]


def of(connection: Reader) -> Shape:
    """For each table ``column NAME`` and ``unique rule (NAME, NAME)``, the names of a rule in alphabetical order."""
    found = {table: {f"column {name}" for name in names} for table, names in tables(connection).items()}
    rules_of = _mysql(connection) if isinstance(connection, mysql.Connection) else _sqlite(connection)
    for table, rules in rules_of.items():
        found[table] |= {f"unique rule ({', '.join(sorted(rule))})" for rule in rules}
    return found


def _sqlite(connection: SQLite) -> dict[str, list[list[str]]]:
    rules: dict[str, list[list[str]]] = {}
    for table in sqlite.tables(connection):
        for row in connection.execute(f"PRAGMA index_list({sqlite.quoted(table)})").fetchall():
            if row[2] and row[3] != "pk":
                parts = connection.execute(f"PRAGMA index_info({sqlite.quoted(row[1])})").fetchall()
                rules.setdefault(table, []).append([str(part[2]) for part in parts])
    return rules


def _mysql(connection: mysql.Connection) -> dict[str, list[list[str]]]:
    definitions = mysql.definitions(connection).items()
    return {
        table: [re.findall(r"[`\"](.+?)[`\"]", rule) for rule in _UNIQUE.findall(text)] for table, text in definitions
    }


def differences(wanted: Shape, found: Shape) -> list[tuple[str, str]]:
    """(table, what is wrong in words), for the tables of ``wanted``; what else is there is somebody else's."""
    told = [(table, "is missing") for table in sorted(wanted.keys() - found.keys())]
    for table in sorted(wanted.keys() & found.keys()):
        told += [(table, f"is without the {line}") for line in sorted(wanted[table] - found[table])]
        told += [(table, f"has the {line}") for line in sorted(found[table] - wanted[table])]
    return told
