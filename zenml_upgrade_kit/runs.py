"""The run folder: where one upgrade's files live, how results are written (temp then rename) and read."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import yaml

from zenml_upgrade_kit.errors import RunUnusable, StepFailed
from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult, Verdict, judge, now
from zenml_upgrade_kit.plan import Plan
from zenml_upgrade_kit.redact import Redactor, secrets_in, secrets_of_environment, url_passwords

REHEARSAL = ("00_start", "10_preflight", "20_backup", "30_rehearsal", "40_artifacts", "50_smoke_runs", "60_decision")
"""The steps of a rehearsal in order; the names of the notebooks and of the results."""

PATIENCE = 5
"""Seconds that a step waits for another process to leave it: one that was killed takes its notebook along in two."""
_HELD: dict[Path, IO[str]] = {}
"""Locks of the steps that this process is carrying out; they end with it."""


def write_whole(path: Path, data: str | bytes) -> None:
    """Write the file under a temporary name, flush it to disk, then rename: readers never see half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One upgrade's folder: ``plan.json``, ``results/``, ``notebooks/``, ``work/``, the pages and ``verdict.json``.

    config_yaml: the source's ZenML configuration, where there is one; read only to know which values are secret.
    """

    folder: Path
    plan: Plan
    source_version: str
    target_version: str
    config_yaml: Path | None = None

    @classmethod
    def create(cls, plan: Plan, source_version: str, target_version: str, config_yaml: Path | None = None) -> Run:
        """A new folder ``<out>/<time>-<from>-to-<to>``; an existing one is never used again.

        Without a target the run is a backup alone: ``<out>/<time>-backup-<from>``.
        """
        stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
        name = f"{source_version}-to-{target_version}" if target_version else f"backup-{source_version}"
        name = f"{stamp}-{name}"
        try:
            plan.out.mkdir(parents=True, exist_ok=True)
            for attempt in itertools.count(1):
                folder = plan.out / (name if attempt == 1 else f"{name}-{attempt}")
                try:
                    folder.mkdir(mode=0o700)
                    break
                except FileExistsError:
                    continue
            facts = {"source_version": source_version, "target_version": target_version}
            run = cls(folder=folder, plan=plan, config_yaml=config_yaml, **facts)
            run.write_json(
                "plan.json", {"plan": json.loads(plan.model_dump_json()), "config_yaml": config_yaml, **facts}
            )
        except OSError as error:
            raise RunUnusable(
                f"no run can be archived under {plan.out}",
                expected="a folder that you may write to",
                found=error.strerror or str(error),
                remedy="choose another folder with --out, or correct its permissions",
            ) from None
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """The run in a folder made by :meth:`create`; raises :class:`RunUnusable` for anything else."""
        try:
            value = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
            return cls(
                folder=folder.resolve(),
                plan=Plan.model_validate(value["plan"]),
                source_version=value["source_version"],
                target_version=value["target_version"],
                config_yaml=Path(value["config_yaml"]) if value["config_yaml"] else None,
            )
        except (OSError, ValueError, KeyError, TypeError):
            raise RunUnusable(
                f"{folder} is not a run of this kit",
                expected="a folder with a readable plan.json",
                found="no such folder" if not folder.exists() else "no usable plan.json in it",
                remedy="give a folder that zenml-upgrade rehearse made, or start a new run",
            ) from None

    @classmethod
    def newest(cls, out: Path) -> Run:
        """The upgrade that was started last under a folder of runs."""
        folders = sorted(path.parent for path in out.glob("*/plan.json") if "-to-" in path.parent.name)
        if not folders:
            raise RunUnusable(
                f"there is no run under {out}",
                expected="a run made by notebooks/00_start.ipynb or zenml-upgrade rehearse",
                found="none",
                remedy="run 00_start first, or name the folder with the parameter run",
            )
        return cls.open(folders[-1])

    @cached_property
    def redactor(self) -> Redactor:
        """Masks this run's secrets: named variables, those in the source's config.yaml, and passwords inside URLs."""
        try:
            config = yaml.safe_load(self.config_yaml.read_text(encoding="utf-8")) if self.config_yaml else {}
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            config = {}
        variables = secrets_of_environment(self.plan.secret_variables)
        return Redactor([*secrets_in(config), *variables, *url_passwords(self.plan.store)])

    @property
    def work(self) -> Path:
        """Where copies, backups and logs live; private to the user."""
        folder = self.folder / "work"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder

    def code_copy(self) -> Path | None:
        """A copy of the user's code inside the run, made once: code is never run where it lives.

        Left out: version control, environments, caches, earlier runs, and ``.zen``, which may name a remote stack.
        """
        if self.plan.code is None:
            return None
        copy, part = self.work / "code", self.work / "code.part"
        if not copy.exists():
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(self.plan.code, part, ignore=self._not_code, ignore_dangling_symlinks=True)
            part.rename(copy)
        return copy

    def _not_code(self, folder: str, names: list[str]) -> set[str]:
        known = {".git", ".hg", ".zen", ".venv", "venv", "node_modules", "__pycache__", ".ipynb_checkpoints"}
        private = {self.plan.out, self.config_yaml.parent if self.config_yaml else self.plan.out}
        inside = {
            name for name in names if (Path(folder) / name) in private or (Path(folder) / name / "pyvenv.cfg").exists()
        }
        return (known & set(names)) | inside

    def write_json(self, name: str, value: Mapping[str, Any]) -> Path:
        """Write scrubbed JSON to a path inside the run folder."""
        path = self.folder / name
        write_whole(path, json.dumps(self.redactor.json(value), indent=1, default=str) + "\n")
        return path

    def result(self, step: str) -> StepResult | None:
        """What a step left behind, or None when it has not been carried out."""
        path = self.folder / "results" / f"{step}.json"
        try:
            return StepResult.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            raise RunUnusable(
                f"the result {path} is damaged",
                expected="the JSON of one step",
                found="something else",
                remedy=f"run {step} again",
            ) from None

    def results(self) -> list[StepResult]:
        """All results in the order of the steps."""
        names = sorted(path.stem for path in (self.folder / "results").glob("*.json"))
        return [result for name in names if (result := self.result(name))]

    def needs(self, step: str) -> StepResult:
        """The result of an earlier step that was carried out; raises :class:`RunUnusable` otherwise."""
        result = self.result(step)
        if result is None or result.status is Status.ERROR:
            raise RunUnusable(
                f"this step needs the result of {step}",
                expected=f"results/{step}.json of a step that was carried out",
                found="none" if result is None else "a step that could not be carried out",
                remedy=f"run {step} first",
            )
        return result

    def forget(self, step: str) -> None:
        """Remove the result of a step, those of the steps after it, and the verdict."""
        later = REHEARSAL[REHEARSAL.index(step) :] if step in REHEARSAL else (step,)
        for name in later:
            (self.folder / "results" / f"{name}.json").unlink(missing_ok=True)
        if step in REHEARSAL:
            (self.folder / "verdict.json").unlink(missing_ok=True)

    def begin(self, step: str) -> Step:
        """Start a step: its earlier result goes, and what was built on it, so that nothing stale can be believed.

        Raises :class:`RunUnusable` while another process carries the step out.
        """
        self.hold(step)
        self.forget(step)
        return Step(run=self, name=step, started=now(), clock=time.monotonic())

    def hold(self, what: str) -> None:
        """Keep other processes out of a step, or of the whole ``rehearsal``, until :meth:`release` or our end.

        Raises :class:`RunUnusable` when one is in it, and stays.
        """
        path, until = self.work / f"{what}.lock", time.monotonic() + PATIENCE
        if path in _HELD:
            return  # a cell that is run again
        file = path.open("a")
        with suppress(OSError):  # a file system without locks
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise RunUnusable(
                            f"{self.folder} is in use",
                            expected=f"a run whose {what} nobody else carries out",
                            found="another process that does",
                            remedy="wait for it, or end it: a notebook in JupyterLab by restarting its kernel",
                        ) from None
                time.sleep(0.05)
        _HELD[path] = file

    def release(self, what: str) -> None:
        """Let others in again."""
        if file := _HELD.pop(self.work / f"{what}.lock", None):
            file.close()

    def save(self, result: StepResult) -> None:
        """Write one step's result; what its programs printed into logs is scrubbed, too."""
        for log in self.work.rglob("*.log"):
            text = log.read_text(encoding="utf-8", errors="replace")
            if (scrubbed := self.redactor.text(text)) != text:
                write_whole(log, scrubbed)
        self.write_json(f"results/{result.step}.json", result.to_json())

    def fail(self, step: str, error: str, *, started: str, seconds: float) -> StepResult:
        """Record that a step could not be carried out."""
        facts = {"error": self.redactor.text(error), "not_checked": [f"all of {step}"]}
        result = StepResult(step=step, status=Status.ERROR, facts=facts, started=started, seconds=seconds)
        self.save(result)
        return result

    def verdict(self) -> Verdict | None:
        """The verdict that the decision left, or None while there is none."""
        try:
            value = json.loads((self.folder / "verdict.json").read_text(encoding="utf-8"))
            return Verdict(value["verdict"])
        except (OSError, ValueError, KeyError):
            return None


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step that is being carried out; verbs take it, and :meth:`finish` ends it."""

    run: Run
    name: str
    started: str
    clock: float

    @property
    def plan(self) -> Plan:
        """The run's plan."""
        return self.run.plan

    @property
    def work(self) -> Path:
        """This step's private folder inside the run."""
        folder = self.run.work / self.name
        folder.mkdir(exist_ok=True)
        return folder

    def empty_work(self) -> Path:
        """This step's folder without what an earlier attempt left there."""
        shutil.rmtree(self.work)
        return self.work

    def result(
        self, findings: Iterable[Finding] = (), facts: Mapping[str, Any] | None = None, not_checked: Iterable[str] = ()
    ) -> StepResult:
        """The step's result, timed from :meth:`Run.begin` to now, scrubbed of secrets."""
        found, missing = tuple(findings), list(not_checked)
        result = StepResult(
            step=self.name,
            status=judge(found, missing),
            findings=found,
            facts={**(facts or {}), "not_checked": missing},
            started=self.started,
            seconds=time.monotonic() - self.clock,
        )
        return StepResult.from_json(self.run.redactor.json(result.to_json()))

    def finish(self, result: StepResult) -> None:
        """Save the result; raise :class:`StepFailed` when a finding blocks, so that plain papermill exits 1 too."""
        self.run.save(result)
        self.run.release(self.name)
        blocks = [finding for finding in result.findings if finding.severity is Severity.BLOCK]
        if blocks:
            lines = [f"  {finding.id} {finding.subject}: {finding.message}" for finding in blocks[:5]]
            more = [f"  … and {len(blocks) - 5} more"] if len(blocks) > 5 else []
            raise StepFailed("\n".join([f"NO-GO: {len(blocks)} blocking finding(s) in {self.name}", *lines, *more]))


def begin(step: str, run: str | Path = "", out: str | Path = "") -> Step:
    """Start a step of a run from a notebook: ``run`` names its folder; empty means the newest one under ``out``.

    An empty ``out`` is ``$ZENML_UPGRADE_OUT``, or ``runs`` in the current directory.
    """
    chosen = run or os.environ.get("ZENML_UPGRADE_RUN", "")
    folder = Path(out or os.environ.get("ZENML_UPGRADE_OUT", "runs"))
    return (Run.open(Path(chosen)) if chosen else Run.newest(folder)).begin(step)
