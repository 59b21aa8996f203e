"""Artifact reload: every artifact version is loaded by the old and by the new release, and the values are compared."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import environments, releases, stores, words
from zenml_upgrade_kit.artifacts import causes, comparison, locations, selection, sides, steps, workers
from zenml_upgrade_kit.artifacts.locations import Location
from zenml_upgrade_kit.artifacts.shards import Loaded
from zenml_upgrade_kit.artifacts.sides import Side
from zenml_upgrade_kit.artifacts.tally import MOST_ROWS, QUIET, Group, Tally
from zenml_upgrade_kit.artifacts.workers import Job, Lane
from zenml_upgrade_kit.choices import ArtifactChoices
from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.findings import Finding, Severity, StepResult
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import Step
from zenml_upgrade_kit.stores import Reader

BOUNDS = "0.55.5"
"""From this release on ZenML refuses to read outside the root of an artifact store (measured)."""
FILE = "artifacts.jsonl"
"""One line an artifact version, in the run's folder."""

Row = dict[str, Any]
Progress = Callable[..., None]


def reload(step: Step, progress: Progress | None = None, **choices: Any) -> StepResult:
    """Load the artifact versions that are chosen in both environments and compare; the artifact stores are only read.

    choices: what wins over the plan's, see :meth:`ArtifactChoices.but`. progress: called as ``progress(done=…,
    total=…, bytes=…, seconds=…)``. What a killed check had done is not done again.
    """
    chosen = step.plan.artifacts.but(choices)
    kept = step.run.work / f"{step.name}.kept"
    with ExitStack() as stack:
        check = _Check.begin(step, chosen, stack)
        began = time.monotonic()
        file = stack.enter_context((step.work / FILE).open("w", encoding="utf-8"))
        tally = Tally(file, step.run.redactor.json)
        check.carry_out(tally, kept, lambda **now: progress and progress(**now, seconds=time.monotonic() - began))
        check.prove(tally)
        facts = {**tally.facts(), "loaded_seconds": time.monotonic() - began, "steps": check.writers(tally)}
        findings = [*check.findings(tally), *check.outside()]
    (step.work / FILE).replace(step.run.folder / FILE)
    shutil.rmtree(kept, ignore_errors=True)
    return step.result(findings, facts, check.missing(tally))


@dataclass(kw_only=True)
class _Check:
    """One check in progress."""

    step: Step
    chosen: ArtifactChoices
    source: Side
    target: Side
    lanes: dict[str, Lane]
    rows: Reader
    migrated: Reader
    local_stores: Path
    places: dict[str | None, Location]
    moved: list[tuple[str, str]] = field(default_factory=list)
    outside_count: int = 0
    untried: str = ""

    @classmethod
    def begin(cls, step: Step, chosen: ArtifactChoices, stack: ExitStack) -> _Check:
        before, migrated = stack.enter_context(copies.reopen(step.run))
        folder = step.empty_work()
        code, lanes = step.run.code_copy(), {"here": stack.enter_context(workers.here(chosen.workers))}
        environment = dict(zip(("source", "target"), environments.of_run(step.run), strict=True))
        source, target = (
            Side.begin(name, environment[name], database, folder, chosen, code, lanes, stack)
            for name, database in (("source", before), ("target", migrated))
        )
        rows = stack.enter_context(closing(stores.connect(before)))
        local_stores = Path(step.run.needs("00_start").facts["store"]["local_stores"])
        places = locations.locations(rows, local_stores)
        step.run.redactor.hide(secret for place in places.values() for secret in place.secrets)
        return cls(
            step=step,
            chosen=chosen,
            source=source,
            target=target,
            lanes=lanes,
            rows=rows,
            migrated=stack.enter_context(closing(stores.connect(migrated))),
            local_stores=local_stores,
            places=places,
        )

    def carry_out(self, tally: Tally, kept: Path, progress: Callable[..., Any]) -> None:
        """Load, compare and count everything."""
        waiting: dict[str, tuple[dict[str, Row], dict[str, dict[str, Any]]]] = {}
        total = selection.count(self.rows)
        progress(done=0, total=total, bytes=0)
        most = int(self.chosen.max_total_bytes)
        for job, found in workers.results(self._jobs(tally, waiting), self.lanes, kept, most_bytes=most):
            group = job.shard.artifacts[0]["id"]
            halves = waiting[group][1]
            halves[job.side] = {one["id"]: one for one in found}
            if len(halves) == (1 if self.chosen.static_only else 2):
                for key, row in waiting.pop(group)[0].items():
                    self._settle(tally, row, halves.get("source", {}).get(key), halves["target"][key])
            progress(done=tally.total, total=total, bytes=tally.bytes)

    def _jobs(self, tally: Tally, waiting: dict[str, Any]) -> Iterator[Job]:
        """Shards of both sides, as the database gives them; what is not loaded is counted with its reason."""
        for rows in selection.groups(self._reachable(tally)):
            location = self.places[rows[0]["store_id"]]
            others = selection.by_ids(self.migrated, self.local_stores, [row["id"] for row in rows])
            held = [row for row in rows if row["id"] in others]
            for row in rows:
                if row["id"] not in others:
                    tally.leave(row, "not in the migrated store")
            if not held:
                continue
            paths = {}
            for row in held:
                path, note = locations.place(row, location)
                paths[row["id"]] = "" if location.url else path
                self.outside_count += bool(note)
                if note and len(self.moved) < MOST_ROWS:
                    self.moved.append((row["id"], note))
            waiting[held[0]["id"]] = ({row["id"]: row for row in held}, {})
            if not self.chosen.static_only:
                yield self.source.job(held, paths, location)
            target = [others[row["id"]] for row in held]
            yield self.target.job(target, paths, location)

    def _reachable(self, tally: Tally) -> Iterator[Row]:
        sample = selection.Sample(
            per_type=self.chosen.sample, stages=tuple(self.chosen.stages), used_days=self.chosen.used_days
        )
        problems = {key: place.problem or locations.reachable(place) for key, place in self.places.items()}
        for page in selection.pages(self.rows, self.local_stores, sample):
            for row in page:
                problem = problems.get(row["store_id"], "their artifact store is no longer registered")
                if not row["chosen"] or problem:
                    tally.leave(row, row["reason"] if not row["chosen"] else problem)
                else:
                    yield row

    def _settle(self, tally: Tally, row: Row, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> None:
        """Compare both sides of one artifact version and count it."""
        look, source, target = new["look"] or {}, self.source.environment, self.target.environment
        if look:
            tally.look(look, causes.bound(look, source, target))
        before, after = sides.loaded(old), sides.loaded(new)
        if new["state"] == "loaded" and old and old["state"] == "loaded":
            outcome, difference = comparison.compare(before, after)
        else:
            outcome, difference = "lost" if new["state"] == "lost" else "not_checked", ""
        cause = None
        if outcome != "identical" or look.get("by_value") or look.get("problem"):
            cause = causes.cause(row, look, before, after, outcome, difference, source, target)
        if outcome == "not_checked":
            tally.because(_why(new, old))
        tally.add(row, outcome, difference, cause, old and old["loaded"], new["loaded"], new)

    def prove(self, tally: Tally) -> None:
        """Load one example of each cause in the target release with the source's library versions."""
        groups = [group for group in tally.groups.values() if group.cause.kind == "library" and not group.broke_before]
        groups = [group for group in groups if not self.places[group.row["store_id"]].url]
        if not groups:
            return
        try:
            control = environments.control(self.source.environment, self.target.environment, log=_silent)
        except KitError as error:
            self.untried = f"whether the source's libraries help: {error.problem}"
            return
        if not control:  # the target has them already
            return
        folder, python = str(self.step.work / "control"), str(control.python)
        found = sides.load([group.row for group in groups], replace(self.target.settings, folder=folder, python=python))
        for group in groups:
            again, _ = comparison.compare(Loaded(**group.old), found[group.row["id"]])
            group.proven = again in ("identical", "loads")
            group.cause = causes.proven(group.cause, group.proven, self.source.environment, self.target.environment)

    def writers(self, tally: Tally) -> list[dict[str, Any]]:
        """Steps whose outputs should get another materializer; each cause also gets the steps that wrote it."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for group in tally.groups.values():
            written = steps.writers(self.rows, group.ids, self.step.plan.code)
            for writer in written.values():
                told = {key: getattr(writer, key) for key in ("name", "pipeline", "source", "file", "line")}
                same = next((one for one in group.steps if one["source"] == told["source"]), None)
                if same is None:
                    group.steps.append(same := {**told, "count": 0})
                same["count"] += 1
                if group.cause.kind in ("python", "library") and group.outcome != "lost":
                    entry = found.setdefault((told["source"], group.cause.kind), {**told, "outputs": 0})
                    entry["outputs"] += 1
                    entry["why"] = group.cause.blame
        return list(found.values())

    def findings(self, tally: Tally) -> Iterator[Finding]:
        """One finding a cause."""
        for group in tally.groups.values():
            yield _finding(group, self.source.environment.version)

    def outside(self) -> Iterator[Finding]:
        """Artifact versions that ZenML refuses to read because they lie outside their store."""
        if not self.moved:
            return
        bound = releases.crosses(self.source.environment.version, self.target.environment.version, BOUNDS)
        yield Finding(
            id="AR603",
            severity=Severity.BLOCK if bound else Severity.WARN,
            subject=words.count(self.outside_count, "artifact version"),
            message=f"{self.moved[0][1]} ZenML {BOUNDS} and later refuse to read there.",
            remedy="Use the original local stores folder, or rewrite uris and nested metadata.json files.",
            data={"ids": [key for key, _ in self.moved]},
        )

    def missing(self, tally: Tally) -> list[str]:
        """What was not checked, in sentences."""
        told = [f"{words.count(count, 'artifact version')}: {why}" for why, count in tally.reasons.most_common()]
        if alike := tally.counts["loads"]:
            told.append(
                f"{words.count(alike, 'artifact version')} load, but only their type and text could be compared"
            )
        if tally.asked:
            told.append(
                f"{words.count(tally.asked, 'artifact version')}: the code that loads them asks ZenML's client,"
                " and where they were loaded its store is empty"
            )
        return [*told, *filter(None, [self.untried])]


def _finding(group: Group, source: str) -> Finding:
    """A cause blocks when what loads today does not any more, or will not last: see AR605 in the catalogue."""
    example, cause = group.example, group.cause
    unsafe = cause.id == "AR605" and group.outcome in QUIET
    severity = Severity.INFO if cause.id == "AR612" else Severity.WARN
    if (group.outcome == "fails" or unsafe) and not group.broke_before:
        severity = Severity.BLOCK
    told = example["difference"] if group.outcome == "differs" else example["error"] or cause.blame
    if unsafe:
        told = f"It loads, but its code was pickled by value ({cause.blame}), and may end the process that uses it"
    before = f" It does not load with ZenML {source} here either." if group.broke_before else ""
    more = f", and {words.count(group.count - 1, 'more artifact version')}" if group.count > 1 else ""
    return Finding(
        id=cause.id,
        severity=severity,
        subject=f"{example['name']} {example['version']} ({example['id']}){more}",
        message=f"{told.rstrip('.')}.{before}",
        remedy=cause.remedy,
        data={"count": group.count, "ids": group.ids, "kind": cause.kind, "pins": list(cause.pins)},
    )


def _why(new: Mapping[str, Any], old: Mapping[str, Any] | None) -> str:
    """Why an artifact version was not checked, alike for all that share the reason."""
    said = {
        "looked": "only their files were looked at",
        "too large": "larger than max_bytes",
        "deferred": "max_total_bytes was used up",
        "loaded": "neither environment can import what they need",
    }
    return next(
        (said.get(one["state"], one["why"]) for one in (new, old or new) if one["state"] != "loaded"), said["loaded"]
    )


def _silent(_: str) -> None:
    """A note that nobody needs: the control environment is an answer, not a step."""
