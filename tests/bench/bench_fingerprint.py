"""Fingerprints against ``CHECKSUM TABLE``: ``python tests/bench/bench_fingerprint.py [--scale 0.1|1]``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import make_store
from measure import Way, apart, compare, inside, options, server

from zenml_upgrade_kit.stores import mysql, sqlite
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.mysql import Connection


def on(store: Server, work: Callable[[list[Connection]], object], *, connections: int = 1) -> Way:
    """Something done in sessions of their own, as a backup opens them."""

    def run(_: Path) -> None:
        with ExitStack() as open_now:
            work([open_now.enter_context(closing(mysql.connect(store))) for _ in range(connections)])

    return run


def checksum(connections: list[Connection]) -> None:
    names = ", ".join(map(mysql.quoted, mysql.tables(connections[0])))
    assert all(row[1] is not None for row in connections[0].execute(f"CHECKSUM TABLE {names}"))


def of_sqlite(file: Path) -> Way:
    def run(_: Path) -> None:
        with closing(sqlite.connect(file)) as connection:
            sqlite.contents(connection)

    return run


def main() -> None:
    given = options(__doc__)
    with inside(given.folder) as text, server(Path(text)) as (root, _):
        store, file = root.using("big"), Path(text, "big.db")
        apart(lambda: make_store.mariadb_store(store, given.scale))
        apart(lambda: make_store.sqlite_store(file, given.scale))
        ways = {
            "CHECKSUM TABLE of all tables": on(store, checksum),
            "kit, one connection, as beside mariadb-dump": on(store, mysql.contents),
            "kit, two connections, as beside mydumper": on(store, mysql.contents, connections=2),
            "kit, the same store in SQLite": of_sqlite(file),
        }
        targets = {"kit, two connections, as beside mydumper": 1.5}
        title = f"Fingerprints, scale {given.scale:g}"
        compare(title, ways, repeat=given.repeat, folder=Path(text), targets=targets)


if __name__ == "__main__":
    main()
