"""May this store be upgraded to that release? Starts a run, takes stock, runs the checks; the store is only read."""

from __future__ import annotations

import importlib.metadata
import re
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import environments, inventory, releases, stores
from zenml_upgrade_kit.checks import StoreFacts, run_checks
from zenml_upgrade_kit.errors import BadPlan, RequirementsConflict, RunUnusable, StoreUnreadable
from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult, judge, now
from zenml_upgrade_kit.plan import Plan, refuse_password
from zenml_upgrade_kit.releases import Release
from zenml_upgrade_kit.runs import Run, Step
from zenml_upgrade_kit.stores import Store, locate, sqlite

BACKUPS = "database_backup"
"""The folder beside config.yaml in which ZenML keeps its own backups of a server's database."""


def check(plan: Plan) -> StepResult:
    """All checks of a store against a target, without a run and without building anything.

    facts: ``store``, ``source_version``, ``stamp``, ``target_version``, ``checks``. What cannot be an upgrade at all
    raises a :class:`KitError`: no such file, an unknown target, a store that is too old or already at the target.
    """
    started, clock = now(), time.monotonic()
    findings, facts, not_checked = _checked(plan, target_release(plan))
    return StepResult(
        step="10_preflight",
        status=judge(findings, not_checked),
        findings=tuple(findings),
        facts={**facts, "not_checked": not_checked},
        started=started,
        seconds=time.monotonic() - clock,
    )


def start(plan: Plan) -> Run:
    """A new run for a plan; raises a :class:`KitError` for what can be no upgrade.

    The store needs a stamp that can be read, for the run's name. What else is wrong with it is for the checks to say.
    """
    target = target_release(plan)
    refuse_password(plan)
    store = locate(plan.store)
    facts = collect(store, target)
    if facts.error or not facts.stamps:
        _refuse(facts)
    _worth_it(facts, target)
    if not plan.store:
        plan = plan.model_copy(update={"store": stores.lasting(store)})
    return Run.create(plan, source_version(plan, store, facts), target.version, store.config_yaml)


def begin_facts(step: Step) -> StepResult:
    """What the run starts from: the store, its inventory, and the identity that later proves it unchanged."""
    store = locate(step.plan.store)
    held, not_checked = {}, []
    same = stores.identity(store.database)
    try:
        held = inventory.take(store)
    except StoreUnreadable as error:
        not_checked.append(f"the inventory could not be taken: {error.found}")
    facts = _stated(store, step.run.source_version, held.get("stamps", ()), step.run.target_version)
    return step.result((), {**facts, "inventory": held, "source_identity": same}, not_checked)


def source_identity(run: Run) -> str:
    """What the source was when the run started, to be compared with :func:`stores.identity`."""
    facts = run.needs("00_start").facts
    if "source_identity" not in facts:
        raise RunUnusable(
            "this run was started by an older version of the kit",
            expected="a result of 00_start with the identity of the source",
            found="none",
            remedy="run 00_start again, and the steps after it, or start a new run",
        )
    return str(facts["source_identity"])


def preflight(step: Step) -> StepResult:
    """The checks, then, when none blocks, an environment for the old and one for the new release."""
    findings, facts, not_checked = _checked(step.plan, releases.get(step.run.target_version))
    if judge(findings) is not Status.BLOCK:
        held = step.run.needs("00_start").facts["inventory"]
        try:
            source, target = environments.pair(step.plan, held, step.run.source_version, step.run.target_version)
            facts["environments"] = {"source": source.to_json(), "target": target.to_json()}
        except RequirementsConflict as error:
            findings.append(
                Finding(
                    id="EN402",
                    severity=Severity.BLOCK,
                    subject=str(step.plan.requirements),
                    message=f"{error.problem}: {error.found}",
                    remedy=error.remedy,
                    url="https://github.com/zenml-io/zenml/issues/4469",
                )
            )
    return step.result(findings, facts, not_checked)


def target_release(plan: Plan) -> Release:
    """The release to upgrade to: the plan's, else the zenml installed beside the kit."""
    if plan.to:
        return releases.get(plan.to)
    try:
        return releases.get(importlib.metadata.version("zenml"))
    except importlib.metadata.PackageNotFoundError:
        expected, remedy = "a target release, or zenml installed beside the kit", "name one, such as --to 0.98.0"
        raise BadPlan("there is no release to upgrade to", expected=expected, found="neither", remedy=remedy) from None


def source_version(plan: Plan, store: Store, facts: StoreFacts) -> str:
    """The release that wrote the store, by its oldest stamp; what no release wrote goes by the stamp itself.

    Raises :class:`BadPlan` when the plan names one that writes another stamp.
    """
    if plan.source:
        named = releases.get(plan.source).version
        wrote = [release.version for release in releases.all() if release.stamp in facts.stamps]
        if wrote and named not in wrote:
            raise BadPlan(
                f"ZenML {named} did not write this database",
                expected=f"as source {' or '.join(wrote)}, or nothing",
                found=f"the stamp {', '.join(facts.stamps)}",
                remedy="correct source in the plan, or leave it out",
            )
        return named
    stamp = min(facts.stamps, key=lambda one: (releases.position(one) is None, releases.position(one) or 0))
    return re.sub(r"[^\w.+-]", "_", inventory.source_version(stamp, inventory.recorded_versions(store)))


def collect(store: Store, target: Release) -> StoreFacts:
    """Everything the checks know, read once; an error while reading is one of the facts."""
    known: dict[str, Any] = {"target": target, "engine": store.engine, "path": str(store.file or store.url)}
    if store.file:
        known |= {
            "size": store.file.stat().st_size,
            "journal_mode": sqlite.journal_mode(store.file),
            "wal_bytes": sqlite.wal_bytes(store.file),
            "missing_bytes": sqlite.missing_bytes(store.file),
        }
    for leftover in _leftovers(store):
        changed = datetime.fromtimestamp(leftover.stat().st_mtime, timezone.utc)
        known |= {"leftover_backup": str(leftover), "leftover_backup_date": changed.date().isoformat()}
    try:
        with closing(stores.connect(store.database)) as connection:
            if isinstance(connection, sqlite3.Connection):
                known["damage"] = tuple(sqlite.damage(connection, full=True))
            known["tables"] = stores.tables(connection)
            known["stamps"] = tuple(stores.stamps(connection))
    except StoreUnreadable as error:
        known["error"] = error.found
        if store.server:
            known["remedy"] = error.remedy
        elif "malformed" in error.found:
            known["damage"] = (error.found,)
    except sqlite3.Error as error:
        known["error"] = str(error)
    return StoreFacts(**known)


def _leftovers(store: Store) -> Iterator[Path]:
    """Backups that ZenML itself left: beside a file, and of a server's database where config.yaml says (0.55.1 on)."""
    if store.file:
        places = [store.file.with_name(f"{store.file.stem}-backup.db")]
    elif store.server and store.config_yaml:
        said = inventory.store_section(store.config_yaml).get("backup_directory")
        folder = Path(said or store.config_yaml.parent / BACKUPS)
        places = [folder / f"{store.server.database}-backup{suffix}" for suffix in (".json", "")]
    else:
        places = []
    yield from (place for place in places if place.exists())


def _stated(store: Store, source: str, stamps: Iterable[str], target: str) -> dict[str, Any]:
    """The facts that every later step starts from. local_stores: "" where it is not known, as for a server's URL."""
    config, folder = str(store.config_yaml) if store.config_yaml else None, store.local_stores
    path = str(store.file or store.url)
    described = {"engine": store.engine, "path": path, "url": store.url, "config_yaml": config}
    versions = {"source_version": source, "stamp": ", ".join(stamps), "target_version": target}
    return {"store": {**described, "local_stores": str(folder) if folder != Path() else ""}, **versions}


def _checked(plan: Plan, target: Release) -> tuple[list[Finding], dict[str, Any], list[str]]:
    store = locate(plan.store)
    facts = collect(store, target)
    _worth_it(facts, target)
    findings, outcomes = run_checks(facts)
    skipped = [one for one in outcomes if one["outcome"] == "not_checked"]
    not_checked = [f"{one['id']} {one['title']}: {one['reason']}" for one in skipped]
    source = source_version(plan, store, facts) if facts.stamps else ""
    return findings, {**_stated(store, source, facts.stamps, target.version), "checks": outcomes}, not_checked


def _worth_it(facts: StoreFacts, target: Release) -> None:
    """Raises :class:`BadPlan` when there is nothing to upgrade, or the store is older than the kit knows."""
    if facts.stamp == target.stamp:
        raise BadPlan(
            f"nothing to upgrade: the database is already at ZenML {target.version}",
            expected=f"a target newer than {facts.stamp}",
            found=f"target {target.version}",
            remedy="name a newer release with --to",
        )
    oldest = releases.all()[0]
    if releases.crosses(facts.stamp, oldest.stamp, oldest.stamp):
        raise BadPlan(
            f"the database is older than ZenML {oldest.version}",
            expected=f"a store written by ZenML {oldest.version} or later",
            found=f"the stamp {facts.stamp}",
            remedy=f"let ZenML {oldest.version} migrate a copy of it, then rehearse from there",
        )


def _refuse(facts: StoreFacts) -> None:
    """The finding that blocks such a store, as an error: a run cannot even be named."""
    blocks = [finding for finding in run_checks(facts)[0] if finding.severity is Severity.BLOCK]
    message, remedy = (blocks[0].message, blocks[0].remedy) if blocks else (facts.error, "restore a backup")
    expected = "a whole ZenML database with a revision"
    raise StoreUnreadable(message.rstrip("."), expected=expected, found=facts.path, remedy=remedy)
