"""Copies the database and what belongs to it into a place, and proves the copy equal to the source."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sqlite3
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

from zenml_upgrade_kit import archive, inventory, managed, packing, places, retention, stores
from zenml_upgrade_kit import plan as plans
from zenml_upgrade_kit.archive import Backup, New
from zenml_upgrade_kit.choices import BackupChoices
from zenml_upgrade_kit.drill import definition_digest, drill, server_at
from zenml_upgrade_kit.errors import BackupUnusable, KitError, RunUnusable
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.plan import Plan, refuse_password
from zenml_upgrade_kit.runs import Run, Step
from zenml_upgrade_kit.runs import begin as begin_step
from zenml_upgrade_kit.stores import Store, dumping, locate, mysql, sqlite

PLACE = "backups"
"""Where backups go that were asked for without a place."""


class NotProven(BackupUnusable):
    """The copy differs from the source, or is damaged: it must not become a backup."""

    def __init__(self, store: Store, problems: list[str]) -> None:
        super().__init__(
            f"no proven backup can be made of {store.url}",
            expected="a copy that is whole and equal to the store",
            found="; ".join(problems[:5]),
            remedy="try again; if it happens again, check the disk",
        )
        self.problems = problems


def start(plan: Plan) -> Run:
    """A new run that is a backup alone; raises a :class:`KitError` for a store that cannot be read."""
    refuse_password(plan)
    store = locate(plan.store)
    if not plan.store:
        plan = plan.model_copy(update={"store": stores.lasting(store)})
    place = plan.backup.place or PLACE
    chosen = BackupChoices.model_validate({**plan.backup.model_dump(), "place": place})
    with stores.moment(store.database) as connection:
        version = inventory.written_by(connection) or "unknown"
    return Run.create(plan.model_copy(update={"backup": chosen}), version, "", store.config_yaml)


def begin(*, run: str = "", out: str = "", store: str = "", code: str = "", keep: str = "", **choices: Any) -> Step:
    """Begin 20_backup: of the named run; of a new backup alone when a store or a place is given; else of the newest.

    keep: as in ``daily 7, weekly 5``. choices: of :class:`BackupChoices`; lists are separated by blanks.
    """
    chosen: dict[str, Any] = {name: value for name, value in choices.items() if value}
    if isinstance(chosen.get("encrypt_to"), str):
        chosen["encrypt_to"] = chosen["encrypt_to"].split()
    if keep:
        chosen["keep"] = dict([*part.split(), ""][:2] for part in keep.split(","))
    if not run and (store or chosen.get("place")):
        values = {"store": store, "code": code, "out": out, "backup": chosen}
        return start(plans.make(values, origin="the parameters")).begin("20_backup")
    step = begin_step("20_backup", run, out)
    given = step.plan.model_dump()
    given |= {"backup": {**given["backup"], **chosen}, "code": code or step.plan.code}
    plan = plans.make(given, origin="the parameters")
    return dataclasses.replace(step, run=dataclasses.replace(step.run, plan=plan))


def back_up(step: Step) -> StepResult:
    """Back up the plan's store; the source may be in use, is only read, and is seen at one moment.

    facts: ``where``, ``manifest``, ``verified``, ``removed`` (unfinished and outdated backups), ``managed``. A copy
    that differs from the source is a BK302 finding and no backup. A complete backup inside a run is never changed.
    """
    choices, store = step.plan.backup, locate(step.plan.store)
    place = places.open_place(choices.place or step.work)
    facts: dict[str, Any] = {"removed": [f"unfinished backup {name}" for name in archive.clean(place)]}
    if not choices.place:
        _keep_what_matters(store, place)
    findings, not_checked = [], []
    try:
        backup = make(store, place, choices, code=step.plan.code)
    except NotProven as error:
        return step.result([_not_proven(store, error.problems)], facts)
    problems = archive.verify(backup)
    if choices.drill and not problems:
        server = server_at(choices.server) if choices.server else store.server
        done = drill(backup, server=server, identity=choices.identity)
        problems = list(done.problems)
        not_checked += [f"the drill: {done.not_checked}"] if done.not_checked else []
    findings += [_not_proven(store, problems)] if problems else []
    not_checked += [f"contents of {name}: written to all the time" for name in backup.manifest["unsettled"]]
    findings += _same_disk(store, place) if choices.place else []
    hosted, also = _managed(store, choices, backup.name)
    findings += also
    if hosted:
        facts["managed"] = dataclasses.asdict(hosted)
        not_checked += [f"{hosted.provider}: {hosted.problem}; look at {hosted.console}"] if hosted.problem else []
    if any(choices.keep.model_dump().values()) and not problems:
        policy = retention.Policy(**{f"keep_{name}": number for name, number in choices.keep.model_dump().items()})
        choices_made = retention.forget(place, policy, apply=True)
        facts["removed"] += [f"outdated backup {one.backup.name}" for one in choices_made if not one.keep]
    kept = archive.open_backup(backup.where)
    facts |= {"where": kept.where, "manifest": dict(kept.manifest), "verified": kept.verified}
    return step.result(findings, facts, not_checked)


def of_run(run: Run) -> Backup:
    """The newest complete backup that a run made; raises :class:`BackupUnusable` when there is none."""
    with suppress(RunUnusable):
        made = run.result("20_backup")
        if made and "where" in made.facts:
            return archive.open_backup(made.facts["where"])
    return archive.open_backup(run.work / "20_backup")


def make(store: Store, place: places.Place, choices: BackupChoices, *, code: Path | None = None) -> Backup:
    """One backup of a store, complete with its manifest. Raises :class:`NotProven` and leaves nothing otherwise."""
    with stores.moment(store.database) as connection:
        stamp = inventory.stamp(connection)
    with archive.create(place, stamp or "no-stamp", encrypt_to=choices.encrypt_to) as new:
        own = place.local / new.name if place.local else None
        with tempfile.TemporaryDirectory(prefix="staging-", dir=own) as staging:
            copied = (_copy_file if store.file else _dump)(store, new, choices, Path(staging))
        if copied["stamp"] != stamp:
            raise BackupUnusable(
                "the store was migrated while it was backed up",
                expected=f"a store that stays at {stamp}",
                found=copied["stamp"],
                remedy="find out who upgrades it, then make the backup again",
            )
        belongings = copied.pop("belongings")
        not_included = _belongings(store, new, choices, code, belongings)
        facts = {"engine": store.engine, "source": store.url, "secrets": belongings["secrets"], **copied}
        return new.finish({**facts, "not_included": not_included})


def _copy_file(store: Store, new: New, _: BackupChoices, folder: Path) -> dict[str, Any]:
    """SQLite: copied by the backup API, compared, compressed.

    In rollback-journal mode writers wait while the copy is made and its bytes are compared with the file; in WAL mode,
    where nobody waits, rows and contents of every table are compared.
    """
    copy = folder / "zenml.db"
    try:
        with store.path.open("rb") as file, closing(sqlite.connect(store.path)) as source:
            places.room(folder, store.path.stat().st_size * 1.5)
            source.execute("BEGIN")
            stamp = inventory.stamp(source)  # a transaction begins, and its lock is taken, with the first thing read
            sqlite.copy_from(source, copy)
            expected = None if sqlite.same_pages(file, copy) else sqlite.contents(source)
        with ThreadPoolExecutor(2) as pool, closing(sqlite.connect(copy)) as connection, copy.open("rb") as plain:
            packed = pool.submit(new.add, "zenml.db", plain, role="database", restore_to=str(store.path))
            looked = pool.submit(_look, copy, store.local_stores)
            contents = sqlite.contents(connection, copy=copy)
            problems, belongings, version = looked.result()
            packed.result()
    except sqlite3.Error as error:
        raise sqlite.unreadable(store.path, error) from None
    wanted = expected or contents
    names = sorted(name for name in wanted.keys() | contents.keys() if wanted.get(name) != contents.get(name))
    if problems or names:
        raise NotProven(store, [*problems, *(f"table {name} differs from the source" for name in names)])
    how = "rows and contents of every table" if expected else "every byte of every page"
    return {
        "stamp": stamp,
        "source_version": version,
        "tool": f"SQLite {sqlite3.sqlite_version} backup API",
        "compared": f"{how}, in the read transaction in which they were copied",
        "tables": contents,
        "unsettled": [],
        "belongings": belongings,
    }


def _look(copy: Path, local_stores: Path) -> tuple[list[str], dict[str, Any], str]:
    """Damage, belongings and the release: SQLite's own work, on another core than Python's."""
    with closing(sqlite.connect(copy)) as connection:
        belongings = inventory.belongings(connection, local_stores)
        return sqlite.damage(connection), belongings, inventory.written_by(connection)


def _dump(store: Store, new: New, choices: BackupChoices, folder: Path) -> dict[str, Any]:
    """MySQL and MariaDB: dumped in one transaction, fingerprinted in the same snapshot."""
    assert store.server
    with closing(mysql.connect(store.server)) as connection:
        mysql.begin(connection)
        sizes = mysql.sizes(connection)
        belongings = inventory.belongings(connection, store.local_stores)
        stamp, version = inventory.stamp(connection), inventory.written_by(connection)
    places.room(folder, sum(sizes.values()) * 0.7)  # the plain dump of 2.8 GB in InnoDB has 1.5 GB
    with dumping.dump(store.server, tool=choices.tool, staging=folder) as dump:
        for name, source in dump.files():
            new.add(name, source, role="database")
    return {
        "stamp": stamp,
        "source_version": version,
        "tool": dump.tool,
        "dump_format": dump.format,
        "server": dump.server,
        "definitions": {name: definition_digest(text) for name, text in dump.definitions.items()},
        "compared": "rows and contents of every table, in the snapshot that was dumped",
        "tables": {name: {**found, "bytes": sizes.get(name)} for name, found in dump.contents.items()},
        "unsettled": list(dump.unsettled),
        "belongings": belongings,
    }


def _belongings(
    store: Store, new: New, choices: BackupChoices, code: Path | None, found: Mapping[str, Any]
) -> list[str]:
    """Add what belongs to the database; returns what is not inside, in sentences."""
    left_out = []
    new.add("stacks.json", _text(json.dumps(found["stacks"], indent=1, default=str)), role="stacks")
    if store.config_yaml:
        with store.config_yaml.open("rb") as file:
            new.add("config.yaml", file, role="config_yaml", compress=False, restore_to=str(store.config_yaml))
    else:
        left_out.append("config.yaml: it is not known which one belongs to this database")
    if code and (code / ".zen").is_dir():
        with packing.tar([code / ".zen"]) as stream:
            new.add("zen.tar", stream, role="zen", restore_to=str(code / ".zen"))
    else:
        left_out.append("the .zen folders of projects" + ("" if code else ": name the code directory with --code"))
    roots = [Path(one["root"]) for one in found["artifact_stores"] if one["flavor"] == "local" and one["root"]]
    local = [root for root in roots if root.is_dir()]
    if choices.with_artifacts and local:
        with packing.tar(local) as stream:
            new.add("artifacts.tar", stream, role="artifacts", restore_to=os.path.commonpath(local))
    for one in found["artifact_stores"]:
        if not (choices.with_artifacts and one["root"] and Path(one["root"]) in local):
            count = f"{one['versions']:,} artifact version{'' if one['versions'] == 1 else 's'}"
            root = (
                one["root"]
                if one["root"] and (os.path.isabs(one["root"]) or "://" in one["root"])
                else "on the machines of its users"
            )
            left_out.append(f"files of {count} in the {one['flavor']} store {one['name']}: {root}")
    if found["images"]:
        left_out.append(f"{found['images']:,} container image builds, in their registries")
    left_out.append(_secrets_elsewhere(store))
    return left_out


def _secrets_elsewhere(store: Store) -> str:
    with suppress(OSError, ValueError, KitError):
        kind = inventory.secrets_store(store.config_yaml) if store.config_yaml else ""
        if kind and kind != "sql":
            return f"secrets in the external secrets store ({kind})"
    return "secrets in an external secrets store, where the server uses one"


def _text(text: str) -> BinaryIO:
    return io.BytesIO(text.encode())


def _managed(store: Store, choices: BackupChoices, name: str) -> tuple[managed.Managed | None, list[Finding]]:
    """What the provider of the host says of its own backups, nothing where there is no provider."""
    if not store.server:
        return None, []
    place, findings = (store.server.host, store.server.socket, choices.managed), []
    if choices.snapshot:
        try:
            hosted: managed.Managed | None = managed.snapshot(*place, name=name)
        except KitError as error:
            message = f"The snapshot that was asked for was not taken: {error.problem}: {error.found}."
            subject = store.server.name
            findings.append(
                Finding(id="BK902", severity=Severity.BLOCK, subject=subject, message=message, remedy=error.remedy)
            )
            hosted = managed.look(*place)
    else:
        hosted = managed.look(*place)
    if hosted and hosted.automated is False:
        message = f"{hosted.provider} makes no automated backups of this instance."
        subject, remedy = f"{hosted.provider} {hosted.instance}", f"Switch them on: {hosted.console}"
        findings.append(Finding(id="BK901", severity=Severity.WARN, subject=subject, message=message, remedy=remedy))
    return hosted, findings


def _keep_what_matters(store: Store, place: places.Place) -> None:
    """Raises :class:`BackupUnusable` rather than let a backup from after an upgrade come before the one from before."""
    with stores.moment(store.database) as connection:
        stamp = held = inventory.stamp(connection)
    with suppress(BackupUnusable):
        held = archive.open_backup(place.url).manifest["stamp"]
    if held != stamp:
        raise BackupUnusable(
            f"this run holds the backup of the store from before it was changed, and keeps it: {place.url}",
            expected=f"a store that is still at {held}",
            found=f"a store at {stamp or 'no stamp'}",
            remedy="start a new run for the store as it is now, or go back with 90_rollback",
        )


def _not_proven(store: Store, problems: list[str]) -> Finding:
    return Finding(
        id="BK302",
        severity=Severity.BLOCK,
        subject=store.url,
        message=f"No proven backup of this database: {'; '.join(problems[:5])}.",
        remedy="Run the backup step again; if it happens again, check the disk.",
        data={"problems": problems},
    )


def _same_disk(store: Store, place: places.Place) -> list[Finding]:
    if not store.file or not place.local or store.file.stat().st_dev != place.local.stat().st_dev:
        return []
    message = "Backup and store share a disk: one failure takes both."
    remedy = "Choose another place: a folder on another disk, or a bucket."
    return [Finding(id="BK307", severity=Severity.WARN, subject=place.url, message=message, remedy=remedy)]
