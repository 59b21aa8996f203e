"""Backups by the kit against the same tools by hand, and against ZenML's own.

``python tests/bench/bench_backup.py [--scale 0.1|1] [--only sqlite|dump|mydumper|zenml]``
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import make_store
from measure import Way, apart, compare, inside, options, program, server, shell, zenml_url

from zenml_upgrade_kit import archive, backup, demo, environments, places
from zenml_upgrade_kit.choices import BackupChoices
from zenml_upgrade_kit.probing import run_command
from zenml_upgrade_kit.stores import Store
from zenml_upgrade_kit.stores.address import Server


def kit(tool: str = "", *, file: Path | None = None, on: Server | None = None) -> Way:
    """What ``zenml-upgrade backup`` does: a copy or a dump, fingerprints, compression, hashes, hashing again."""
    store = Store(file=file, server=on, config_yaml=None, local_stores=Path())

    def run(folder: Path) -> None:
        made = backup.make(store, places.open_place(str(folder)), BackupChoices(tool=tool))
        assert archive.verify(made) == []

    return run


def zenml(store: Server) -> Way:
    """The command of the release itself, its start included."""
    environment = environments.ensure(make_store.RELEASE, requirements=demo.SAMPLE / "requirements.txt")

    def run(folder: Path) -> None:
        command = [str(environment.python.parent / "zenml"), "backup-database", "--strategy", "dump-file"]
        variables = {"ZENML_STORE_TYPE": "sql", "ZENML_STORE_URL": zenml_url(store)}
        command += ["--location", str(folder / "dump.json"), "--overwrite"]
        ended = run_command(environment, command, folder=folder / "scratch", variables=variables, timeout=3600)
        assert ended.returncode == 0, ended.last_lines()
        assert (folder / "dump.json").stat().st_size

    return run


def of_sqlite(store: Path) -> Mapping[str, Way]:
    copy = f'sqlite3 {store} ".backup $OUT/copy.db"'
    return {"sqlite3 .backup, then zstd -1": shell(f"{copy}; zstd -q -1 $OUT/copy.db"), "kit": kit(file=store)}


def of_dump(store: Server) -> Mapping[str, Way]:
    dump = program("mariadb-dump", store, "--single-transaction", store.database)
    return {
        "mariadb-dump --single-transaction | zstd -1": shell(f"{dump} | zstd -q -1 > $OUT/dump.sql.zst"),
        "kit with mariadb-dump": kit("mariadb-dump", on=store),
    }


def of_mydumper(store: Server) -> Mapping[str, Way]:
    """mydumper 0.10 has no zstd: by hand the files are compressed after it, by as many threads."""
    dump = program("mydumper", store, f"--database={store.database}", "--threads=2", "--outputdir=$OUT/dump")
    return {
        "mydumper, then zstd -1": shell(f"{dump}; zstd -q -1 -T2 --rm $OUT/dump/*"),
        "mydumper alone": shell(dump),
        "kit with mydumper": kit("mydumper", on=store),
    }


def main() -> None:
    given = options(__doc__, only="")

    def wanted(name: str) -> bool:
        return given.only in ("", name)

    with inside(given.folder) as text:
        folder = Path(text)
        how = {"repeat": given.repeat, "folder": folder}
        if wanted("sqlite"):
            file = folder / "big.db"
            apart(lambda: make_store.sqlite_store(file, given.scale))
            title = f"SQLite, {file.stat().st_size / 1e6:,.0f} MB"
            compare(title, of_sqlite(file), targets={"kit": 2}, **how)
            file.unlink()
        if given.only == "sqlite":
            return
        with server(folder) as (root, reachable):
            store = root.using("big")
            apart(lambda: make_store.mariadb_store(store, given.scale))
            if wanted("dump"):
                compare(
                    f"MariaDB, scale {given.scale:g}", of_dump(store), targets={"kit with mariadb-dump": 1.25}, **how
                )
            if wanted("mydumper"):
                compare(
                    f"MariaDB, scale {given.scale:g}", of_mydumper(store), targets={"kit with mydumper": 1.5}, **how
                )
            if wanted("zenml") and given.scale <= 0.1:  # ZenML pages with OFFSET: the whole store would take hours
                ways = {"zenml backup-database": zenml(reachable.using("big")), "kit": kit(on=store)}
                compare(f"ZenML's dump-file, scale {given.scale:g}", ways, targets={"kit": 0.1}, **how)


if __name__ == "__main__":
    main()
