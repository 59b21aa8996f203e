"""Writes zenml_upgrade_kit/data/schemas.json: the tables and columns behind every alembic revision since 0.43.0.

Needed for each new ZenML release, beside data/releases.json. Run it with the Python of an environment that has the
newest ``zenml[local]``, on the database of a store made by ZenML 0.43.0 (a copy is migrated, revision by revision):

    NEWEST_ENV/bin/python tests/make_schemas.py STORE_OF_0.43.0/zenml.db zenml_upgrade_kit/data/schemas.json

The file holds the base schema and, per revision that changes it, the columns added and dropped; a table without
columns is gone. tests/test_checks.py holds it against stores made by the releases themselves.
"""

import json
import os
import shutil
import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path


def schema(path):
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute(
            "SELECT m.name, c.name FROM sqlite_master AS m JOIN pragma_table_info(m.name) AS c WHERE m.type = 'table'"
        )
        found = {}
        for table, column in rows:
            found.setdefault(table, set()).add(column)
        return found


def missing(wanted, found):
    """Columns of ``wanted`` that ``found`` lacks."""
    pairs = ((table, sorted(columns - found.get(table, set()))) for table, columns in sorted(wanted.items()))
    return {table: columns for table, columns in pairs if columns}


def main(base, target):
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(ZENML_CONFIG_PATH=folder, ZENML_LOCAL_STORES_PATH=folder, ZENML_ANALYTICS_OPT_IN="false")
        copy = Path(folder, "zenml.db")
        shutil.copyfile(base, copy)
        from sqlalchemy import create_engine
        from zenml.zen_stores.migrations.alembic import Alembic

        alembic = Alembic(create_engine(f"sqlite:///{copy}"))
        chain = [script.revision for script in alembic.script_directory.walk_revisions()][::-1]
        before = first = schema(copy)
        changes = {}
        for revision in chain[chain.index("0.43.0") + 1 :]:
            alembic.upgrade(revision)
            after = schema(copy)
            change = {"add": missing(after, before), "drop": missing(before, after)}
            if any(change.values()):
                changes[revision] = {key: value for key, value in change.items() if value}
            before = after
    tables = ",\n".join(f"  {json.dumps(name)}: {json.dumps(sorted(first[name]))}" for name in sorted(first))
    steps = ",\n".join(f"  {json.dumps(revision)}: {json.dumps(change)}" for revision, change in changes.items())
    text = f'{{"base": "0.43.0",\n "tables": {{\n{tables}\n }},\n "changes": {{\n{steps}\n }}\n}}\n'
    Path(target).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
