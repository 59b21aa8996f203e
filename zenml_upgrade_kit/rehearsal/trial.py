"""Proves the upgrade on copies of the backup: migration, every row, what people notice, the way back, the time.

What is found is told in :mod:`rehearsal.reasons`. Whether the source changed meanwhile is the decision's question.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from zenml_upgrade_kit import environments, preflight, releases, stores
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.backup import of_run
from zenml_upgrade_kit.checks import content
from zenml_upgrade_kit.checks.content import Offence
from zenml_upgrade_kit.choices import RehearsalChoices
from zenml_upgrade_kit.errors import BadPlan, KitError
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.proof import comparison, entries
from zenml_upgrade_kit.rehearsal import copies, entities, migration, paths, reasons, reference
from zenml_upgrade_kit.rehearsal.copies import Site
from zenml_upgrade_kit.rehearsal.migration import Hop
from zenml_upgrade_kit.runs import Step, write_whole
from zenml_upgrade_kit.stores.address import Server

LISTING = 900.0
"""Seconds for a release to open a copy and list what people see in it."""
Tell = Callable[[str], Any]


def rehearse(step: Step, *, tell: Tell = print, **choices: Any) -> StepResult:
    """Restore the backup twice, let the target migrate one of them, and compare it with the other.

    choices: of :class:`RehearsalChoices`, where they are not those of the plan; empty ones do not count.

    facts: ``site``, ``copies``, ``hops`` (as :class:`migration.Hop`), ``seconds`` (of the migrations),
    ``revision_before``, ``revision_after``, ``story`` (``release``, ``revision``, ``why``: sentences, ``seconds``),
    ``proof`` (as :class:`comparison.Proof`), ``people`` (what :func:`entities.changes` says), ``cut`` (how many of the
    kinds that are not all listed), ``drill``, ``forecast``, ``obstacles`` (conditions met), ``bisection``, ``timings``,
    ``log_tail``, ``source_unchanged`` (None: not checked).
    Raises :class:`BadPlan` for a path or a remedy that cannot be, and what making copies raises.
    """
    preflight.source_identity(step.run)  # a run of an earlier kit has none
    backup = of_run(step.run)
    environments.of_run(step.run)  # a blocked preflight leaves none
    shutil.rmtree(step.run.folder / reasons.EXPORTS, ignore_errors=True)
    chosen = step.plan.rehearsal.but(choices)
    with copies.site(step, backup, chosen) as site:
        attempt = _Attempt(step=step, backup=backup, site=site, chosen=chosen, tell=tell)
        attempt.carry_out()
        facts = {**attempt.facts, "site": site.where, "copies": site.state(), "keep_copy": chosen.keep_copy}
        facts["forecast"] = attempt.forecast()
    return step.result([*site.findings, *attempt.findings], facts, dict.fromkeys(attempt.not_checked))


@dataclass(kw_only=True)
class _Attempt:
    """One rehearsal in progress."""

    step: Step
    backup: Backup
    site: Site
    chosen: RehearsalChoices
    tell: Tell
    facts: dict[str, Any] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    not_checked: list[str] = field(default_factory=list)
    timings: dict[str, float] = field(default_factory=dict)
    statements: list[str] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        return str(self.backup.manifest["stamp"])

    @property
    def engine(self) -> str:
        return str(self.backup.manifest["engine"])

    def carry_out(self) -> None:
        """Everything; a migration that fails ends it, with its reasons."""
        run, chosen = self.step.run, self.chosen
        hops = paths.hops(self.stamp, chosen.via, run.target_version, self.engine)
        source, target = environments.of_run(run)
        stops = [self._environment(version) for version in hops[:-1]]
        self.tell("restoring the backup")
        migrated, self.timings["restore"] = self.site.restore("migrated")
        wrong, missing = reference.half_migrated(self.site, source, self.stamp, migrated, self.step.work / "reference")
        self.findings += wrong
        self.not_checked += missing
        if chosen.try_remedy:
            self._remedies(chosen.try_remedy, migrated)
            self._mend(migrated)
        done = self._migrate([*stops, target], migrated)
        self.facts |= {**_told(done, self.stamp), "timings": self.timings}
        if done[-1].error:
            self._explain(done[-1])
            self.facts["source_unchanged"] = self._source_unchanged()
            return
        before = self._before()
        self._prove(before, migrated)
        with ThreadPoolExecutor(1) as pool:  # the releases take their time to start
            met, unchanged = pool.submit(self._met, done[-1]), pool.submit(self._source_unchanged)
            self._people(source, target, before, migrated)
        self.facts["obstacles"] = [reasons.obstacle(one) for one in met.result()]
        self.facts["source_unchanged"] = unchanged.result()
        self.findings += [one.finding for one in met.result()]

    def _before(self) -> Path | Server:
        """The backup restored again, as on the way back; after the migration, which writing it would slow down."""
        self.tell("restoring the backup again, as on the way back")
        before, self.timings["restore_again"] = self.site.restore("before")
        self._mend(before)
        return before

    def _source_unchanged(self) -> bool | None:
        """Whether the store is as it was when the run began, None when it cannot be read; it is read only here."""
        try:
            located = stores.locate(self.step.plan.store)
            return stores.identity(located.database) == preflight.source_identity(self.step.run)
        except (KitError, OSError) as error:
            self.not_checked.append(f"whether the store is as it was: {getattr(error, 'found', error)}")
            return None

    def _environment(self, version: str) -> Environment:
        """A release to stop at; it only migrates, so that what is installed beside it does not matter."""
        return environments.ensure(version, log=self.tell)

    def _migrate(self, stops: Sequence[Environment], database: Path | Server) -> list[Hop]:
        done: list[Hop] = []
        for number, environment in enumerate(stops):
            self.tell(f"migrating the copy with ZenML {environment.version}")
            folder = self.step.work / "migration" / f"{number}-{environment.version}"
            variables = {**copies.variables(database, environment.version), **self.variables}
            timeout = self.chosen.timeout
            done.append(migration.migrate(environment, database, folder=folder, variables=variables, timeout=timeout))
            if done[-1].error:
                break
        return done

    def _look(self, database: Path | Server, hop: Hop | None = None) -> list[Offence]:
        """The conditions that this database meets; after a migration, what stopped it or what it does besides."""
        between = self.stamp, releases.get(self.step.run.target_version).stamp, self.engine
        with closing(stores.connect(database)) as connection:

            def query(sql: str) -> list[Any]:
                return list(connection.execute(sql))

            about = query, stores.tables(connection), *between
            if hop and hop.error:
                found = content.explain(*about, hop.stopped_at)
            else:
                found = content.offences(*about, passed=bool(hop))
        self.not_checked += [f"{one.condition.id}: {one.not_checked}" for one in found if one.not_checked]
        return [one for one in found if not one.not_checked]

    def _met(self, hop: Hop) -> list[Offence]:
        """The conditions that a migration met; none when there is no copy to look at, as after a server was lost."""
        try:
            return self._look(self.site.copies.get("before") or self._before(), hop)
        except KitError as error:
            self.not_checked.append(f"the conditions that this database meets: {error.found}")
            return []

    def _mend(self, database: Path | Server) -> None:
        """Apply the remedies that are tried, to a copy."""
        with closing(stores.connect(database, write=True)) as connection:
            for statement in self.statements:
                connection.execute(statement)

    def _remedies(self, wanted: Sequence[str], database: Path | Server) -> None:
        """Find remedies; only copies get them, the source keeps its rows, so that such a rehearsal cannot be a GO."""
        found: dict[str, list[Offence]] = {}
        for offence in self._look(database):
            if offence.statements or offence.variables:
                found.setdefault(offence.condition.id, []).append(offence)
        for identity in dict.fromkeys(wanted):
            if identity not in found:
                raise BadPlan(
                    f"the remedy of {identity} cannot be tried",
                    expected=f"one of {', '.join(found)}" if found else "a condition with a remedy in SQL",
                    found="this database does not meet it, or only you can carry its remedy out",
                    remedy="leave --try-remedy out, and follow the remedy by hand",
                )
            statements = [statement for offence in found[identity] for statement in offence.statements]
            variables = {name: value for offence in found[identity] for name, value in offence.variables.items()}
            self.findings.append(reasons.only_tried(identity, statements, variables))
            self.statements += statements
            self.variables |= variables

    def _explain(self, hop: Hop) -> None:
        """Why the migration stopped, in the words of the condition where one is known; and how far others get."""
        offences = [one for one in self._met(hop) if one.condition.severity is Severity.BLOCK]
        waited = hop.timed_out or hop.held_by
        if waited or not hop.stopped_at or hop.stopped_at not in {one.condition.revision for one in offences}:
            self.findings.append(reasons.failed(hop))
        self.facts["obstacles"] = [reasons.obstacle(one) for one in offences]
        self.findings += [one.finding for one in offences]
        if waited or not self.chosen.bisect:
            self.not_checked.append("which release fails first")
            return
        try:
            found = paths.bisect(self.stamp, hop.version, hop.stopped_at, self._works_with, self.tell, self.engine)
            self.facts["bisection"] = asdict(found)
        except KitError as error:
            self.not_checked.append(f"which release fails first: {error.problem}: {error.found}")

    def _works_with(self, version: str) -> bool | None:
        """Whether a release migrates a fresh copy; None when there is no environment for it here."""
        try:
            environment = self._environment(version)
        except KitError as error:
            self.not_checked.append(f"ZenML {version}: {error.problem}: {error.found}")
            return None
        database, _ = self.site.restore("attempt")
        try:
            self._mend(database)
            return not self._migrate([environment], database)[-1].error
        finally:
            self.site.remove(database)

    def _prove(self, before: Path | Server, migrated: Path | Server) -> None:
        self.tell("comparing every row with the backup")
        began = time.monotonic()
        target = releases.get(self.step.run.target_version).stamp
        proof = comparison.prove(before, migrated, self.stamp, target, exports=self.step.run.folder / reasons.EXPORTS)
        self.timings["proof"] = time.monotonic() - began
        dropped = [{**one, "file": one["file"] and f"{reasons.EXPORTS}/{one['file']}"} for one in proof.dropped]
        self.facts["proof"] = {**proof.to_json(), "dropped": dropped}
        self.findings += [*reasons.unexplained(proof), *reasons.by_design(dropped)]
        self.not_checked += proof.not_checked

    def _people(self, source: Environment, target: Environment, before: Path | Server, after: Path | Server) -> None:
        """What both releases list; that the source's release opens the restored backup is the drill of a rollback."""
        self.tell("listing with both releases what people see")
        sides = (("before", source, before), ("after", target, after))
        with ThreadPoolExecutor(len(sides)) as pool:
            replies = list(pool.map(lambda side: self._listed(*side), sides))
        listed = {}
        for (name, environment, _), reply in zip(sides, replies, strict=True):
            if isinstance(reply, KitError):
                why, version = f"{reply.problem}: {reply.found}", environment.version
                cannot = reasons.cannot_list("anything", why, version)
                self.findings.append(reasons.cannot_open(version, why) if name == "before" else cannot)
            else:
                listed[name] = reply
        if "before" in listed:
            for kind, why in listed["before"]["errors"].items():
                self.not_checked.append(f"{kind}, which ZenML {source.version} cannot list either: {why}")
            self.findings += reasons.drilled(listed["before"], self.backup.manifest)
            seconds = self._restoring() + self.timings["people_before"]
            kept = ("zenml", "user", "active_stack", "runs", "stacks")
            self.facts["drill"] = {**{key: listed["before"].get(key) for key in kept}, "seconds": round(seconds, 3)}
        if "after" in listed:
            known = listed["before"]["errors"] if "before" in listed else {}
            for kind, why in listed["after"]["errors"].items():
                if kind not in known:
                    self.findings.append(reasons.cannot_list(kind, why, target.version))
        if len(listed) == 2:
            self.facts["people"] = entities.changes(listed["before"], listed["after"])
            self.facts["cut"] = {**listed["before"]["cut"], **listed["after"]["cut"]}
            self.findings += reasons.noticed(self.facts["people"])

    def _listed(self, name: str, environment: Environment, database: Path | Server) -> dict[str, Any] | KitError:
        """What a release lists in a copy, or why it cannot."""
        folder, variables = self.step.work / "people" / name, copies.variables(database, environment.version)
        _as_active(self.step.run.config_yaml, folder / "config" / "config.yaml")
        began = time.monotonic()
        try:
            return entities.listed(environment, database, folder, variables, LISTING)
        except KitError as error:
            return error
        finally:
            self.timings[f"people_{name}"] = time.monotonic() - began

    def _restoring(self) -> float:
        """Seconds to restore and compare, the longer of both times: of files only the first is compared."""
        return max(self.timings["restore"], self.timings["restore_again"])

    def forecast(self) -> dict[str, Any]:
        """How long the real upgrade will take, in seconds, from what was measured here; nothing after a failure.

        speed: how much faster than the source's server this place was; None where it could not be measured.
        """
        if self.facts["hops"][-1]["error"]:
            return {}
        backup, speed = self.step.run.result("20_backup"), self.site.speed()
        parts = {
            "backup": backup.seconds if backup else 0.0,
            "migration": self.facts["seconds"] * (speed or 1.0),
            "restore": self._restoring() * (speed or 1.0),
        }
        whole = {"downtime": parts["backup"] + parts["migration"], "with_rollback": sum(parts.values())}
        return {"speed": speed, **{name: round(seconds, 3) for name, seconds in {**parts, **whole}.items()}}


def _as_active(config: Path | None, copy: Path) -> None:
    """What the user has made active, stack and project, and nothing else of a ZenML configuration."""
    try:
        held = yaml.safe_load(config.read_text(encoding="utf-8")) if config else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        held = None
    if isinstance(held, dict):
        kept = {name: value for name, value in held.items() if str(name).startswith("active_")}
        write_whole(copy, yaml.safe_dump(kept))


def _told(done: Sequence[Hop], stamp: str) -> dict[str, Any]:
    """What the migrations say of themselves."""
    log = Path(done[-1].log)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else []
    why: dict[str, list[str]] = {}
    for change in entries.load():
        why.setdefault(change.revision, []).append(change.why)
    return {
        "hops": [asdict(hop) for hop in done],
        "seconds": round(sum(hop.seconds for hop in done), 3),
        "revision_before": stamp,
        "revision_after": done[-1].reached,
        "story": [
            {"release": one.release, "revision": one.revision, "why": why.get(one.revision, []), "seconds": one.seconds}
            for hop in done
            for one in hop.revisions
        ],
        "log": str(log),
        "log_tail": "\n".join(lines[-60:]),
    }
