"""A whole rehearsal against what it is made of by hand: restore the backup, then ``zenml migrate-database``.

``python tests/bench/bench_rehearsal.py [--scale 0.1|1] [--repeat 1] [--only sqlite|mariadb|pieces]``

The rehearsal restores twice, compares what it restored with the manifest, migrates one, compares every value, has both
releases list what people see, and checks the store itself before and after. It may take 1.3 times as long, and 300 MB.
``pieces``: the same migration of a file that was restored in small pieces, as by the kit, and in large ones.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import make_store
from bench_proof import TARGET, migrated
from measure import Way, apart, compare, inside, options, program, server, shell, zenml_url

from zenml_upgrade_kit import backup, demo, drill, environments, plan, preflight
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.findings import Severity
from zenml_upgrade_kit.rehearsal import copies, trial
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores.address import Server


def backed_up(store: str, out: Path, target: Environment) -> Run:
    """A run up to its backup."""
    source = environments.ensure(make_store.RELEASE, requirements=demo.SAMPLE / "requirements.txt")
    run = preflight.start(plan.make({"store": store, "to": TARGET, "out": str(out)}))
    run.save(preflight.begin_facts(run.begin("00_start")))
    found = {"source": source.to_json(), "target": target.to_json()}
    run.save(run.begin("10_preflight").result((), {"environments": found}))
    run.save(backup.back_up(run.begin("20_backup")))
    return run


def ways(run: Run, by_hand: Way) -> Mapping[str, Way]:
    def kit(_: Path) -> None:
        result = trial.rehearse(run.begin("30_rehearsal"))
        blocks = [finding.message for finding in result.findings if finding.severity is Severity.BLOCK]
        copies.end(run)
        if blocks or result.not_checked:
            raise SystemExit(f"not proven: {blocks} {result.not_checked}")
        parts = {**result.facts["timings"], "migration": result.facts["seconds"]}
        print("  " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in parts.items()), flush=True)

    return {"restore, zenml migrate-database": by_hand, "kit, the whole rehearsal": kit}


def of_sqlite(made: Backup, target: Environment) -> Way:
    def run(folder: Path) -> None:
        shell(f"zstd -dcq {made.place.local}/{made.name}/zenml.db.zst > $OUT/copy.db")(folder)
        migrated(target, f"sqlite:///{folder}/copy.db", folder)

    return run


def in_pieces(made: Backup, target: Environment) -> Mapping[str, Way]:
    def way(size: int, folder: Path) -> None:
        drill.BLOCK = size  # each way has a process of its own
        migrated(target, f"sqlite:///{drill.unpack(made, 'database', folder / 'copy.db')}", folder)

    return {f"restored {size >> 10} KB at a time": partial(way, size) for size in (drill.BLOCK, 1 << 20)}


def of_mariadb(made: Backup, root: Server, reached: Server, target: Environment) -> Way:
    numbers = itertools.count()

    def run(folder: Path) -> None:
        copy, dump = f"copy{next(numbers)}", f"{made.place.local}/{made.name}"
        load = program("myloader", root, f"--database={copy}", "--threads=2", "--directory=$OUT/dump")
        shell(
            f"{program('mariadb', root)} -e 'CREATE DATABASE {copy} CHARACTER SET utf8mb4'; mkdir $OUT/dump; "
            f"zstd -dq --output-dir-flat=$OUT/dump {dump}/*.sql.zst {dump}/metadata.zst; {load}; rm -r $OUT/dump"
        )(folder)
        migrated(target, zenml_url(reached.using(copy)), folder)

    return run


def main() -> None:
    given = options(__doc__, only="")
    target, goals = environments.ensure(TARGET), {"kit, the whole rehearsal": 1.3}
    with inside(given.folder) as text:
        folder = Path(text)
        if given.only != "mariadb":
            store = folder / "store.db"
            apart(lambda: make_store.sqlite_store(store, given.scale))
            run = backed_up(str(store), folder / "runs", target)
            made, size = backup.of_run(run), f"SQLite, scale {given.scale:g}"
            if given.only != "pieces":
                found = ways(run, of_sqlite(made, target))
                compare(f"Rehearsal of {size}", found, repeat=given.repeat, folder=folder, targets=goals)
            if given.only != "sqlite":
                found = in_pieces(made, target)
                compare(f"Restore and migration of {size}", found, repeat=given.repeat, folder=folder, targets={})
        if given.only in ("", "mariadb"):
            with server(folder) as (root, reached):
                apart(lambda: make_store.mariadb_store(root.using("big"), given.scale))
                os.environ["BENCH_STORE"] = zenml_url(reached.using("big"))
                run = backed_up("env:BENCH_STORE", folder / "runs", target)
                by_hand = of_mariadb(backup.of_run(run), root, reached, target)
                title = f"Rehearsal of MariaDB, scale {given.scale:g}"
                compare(title, ways(run, by_hand), repeat=given.repeat, folder=folder, targets=goals)


if __name__ == "__main__":
    main()
