"""Writes zenml_upgrade_kit/data/schemas.json: the tables and columns behind every alembic revision since 0.43.0.

Needed for each new ZenML release, beside data/releases.json. Run it with the Python of an environment that has the
newest ``zenml[local]``, on the database of a store made by ZenML 0.43.0 (a copy is migrated, revision by revision):

    NEWEST_ENV/bin/python tests/make_schemas.py STORE_OF_0.43.0/zenml.db zenml_upgrade_kit/data/schemas.json

The file holds the base schema and, per revision that changes it, the columns added and dropped; a table without
columns is gone. With a third argument, a folder, the database at every revision is kept there: the tests hold the
inventory and the checks against them.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

Schema = dict[str, set[str]]


def schema(path: Path) -> Schema:
    """Columns of every table."""
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table'"
        )
        found: Schema = {}
        for table, column in rows:
            found.setdefault(table, set()).add(column)
        return found


def missing(wanted: Schema, found: Schema) -> dict[str, list[str]]:
    """Columns of ``wanted`` that ``found`` lacks."""
    pairs = ((table, sorted(columns - found.get(table, set()))) for table, columns in sorted(wanted.items()))
    return {table: columns for table, columns in pairs if columns}


def migrations(copy: Path) -> Iterator[str]:
    """Migrate a database one revision at a time; yields each revision when it is reached, its own first."""
    os.environ.update(ZENML_CONFIG_PATH=str(copy.parent), ZENML_LOCAL_STORES_PATH=str(copy.parent))
    from sqlalchemy import create_engine
    from zenml.zen_stores.migrations.alembic import Alembic

    alembic = Alembic(create_engine(f"sqlite:///{copy}"))
    chain = [script.revision for script in alembic.script_directory.walk_revisions()][::-1]
    with closing(sqlite3.connect(copy)) as connection:
        start: str = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
    yield start
    for revision in chain[chain.index(start) + 1 :]:
        alembic.upgrade(revision)
        yield revision


def main(base: str, target: str, keep: str = "") -> None:
    """See above."""
    os.environ["ZENML_ANALYTICS_OPT_IN"] = "false"
    changes: dict[str, dict[str, dict[str, list[str]]]] = {}
    before: Schema = {}
    first: Schema = {}
    start = ""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copyfile(base, Path(folder, "zenml.db")))
        for revision in migrations(copy):
            after = schema(copy)
            change = {"add": missing(after, before), "drop": missing(before, after)}
            if not first:
                first, start = after, revision
            elif any(change.values()):
                changes[revision] = {key: value for key, value in change.items() if value}
            before = after
            if keep:
                shutil.copyfile(copy, Path(keep, f"{revision}.db"))
    tables = ",\n".join(f"  {json.dumps(name)}: {json.dumps(sorted(first[name]))}" for name in sorted(first))
    steps = ",\n".join(f"  {json.dumps(revision)}: {json.dumps(change)}" for revision, change in changes.items())
    text = f'{{"base": {json.dumps(start)},\n "tables": {{\n{tables}\n }},\n "changes": {{\n{steps}\n }}\n}}\n'
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
