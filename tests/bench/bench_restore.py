"""Restores by the kit against the same tool by hand.

``python tests/bench/bench_restore.py [--scale 0.1|1] [--only mariadb-dump|mydumper]``

The kit hashes the backup, loads it beside the target, compares rows, contents and definitions of every table with the
manifest, and switches; "loading alone" is that without the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from urllib.parse import quote

import make_store
from bench_backup import kit
from measure import Way, apart, compare, inside, options, program, server, shell

from zenml_upgrade_kit import archive, restore
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.stores import dumping
from zenml_upgrade_kit.stores.address import Server


def ways(made: Backup, target: Server) -> Mapping[str, Way]:
    folder = f"{made.place.local}/{made.name}"
    new = f"DROP DATABASE IF EXISTS {target.database}; CREATE DATABASE {target.database} CHARACTER SET utf8mb4"
    fresh = f"{program('mariadb', target)} -e '{new}'"
    url = f"mysql://{target.user}@localhost/{target.database}?unix_socket={quote(target.socket)}"
    if made.manifest["dump_format"] == "sql":
        by_hand = f"zstd -dcq {folder}/database.sql.zst | {program('mariadb', target, target.database)}"
    else:
        loader = program("myloader", target, f"--database={target.database}", "--threads=2", "--directory=$OUT/dump")
        by_hand = (
            f"mkdir $OUT/dump; zstd -dq --output-dir-flat=$OUT/dump {folder}/*.sql.zst {folder}/metadata.zst; {loader}"
        )

    def load(folder: Path) -> None:
        shell(fresh)(folder)
        opened = ((file["original"], made.open(file)) for file in made.files("database"))
        dumping.load(target, format=made.manifest["dump_format"], files=opened, staging=folder)

    def whole(folder: Path) -> None:
        shell(fresh)(folder)
        restore.restore(made, url)

    return {"by hand": shell(f"{fresh}; {by_hand}"), "kit, loading alone": load, "kit": whole}


def main() -> None:
    given = options(__doc__, only="")
    with inside(given.folder) as text, server(Path(text)) as (root, _):
        folder, store = Path(text), root.using("big")
        apart(lambda: make_store.mariadb_store(store, given.scale))
        for tool in [given.only] if given.only else ["mariadb-dump", "mydumper"]:
            apart(partial(kit(tool, on=store), folder / tool))
            made = ways(archive.open_backup(folder / tool), root.using("copy"))
            title = f"Restore of what {tool} wrote, scale {given.scale:g}"
            compare(title, made, repeat=given.repeat, folder=folder, targets={"kit": 1.15})


if __name__ == "__main__":
    main()
