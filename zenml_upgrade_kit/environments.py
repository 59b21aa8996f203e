"""Finds or builds (uv) an environment with one ZenML version and runs one probe in it.

One Python minor serves the old and the new release where the machine has one that both support: functions pickled by
value do not survive another minor. What is installed beside ZenML is decided in :mod:`recipes`. Every choice and every
fallback is a sentence in :attr:`Environment.notes`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from zenml_upgrade_kit import pythons, recipes, redact, releases
from zenml_upgrade_kit.errors import EnvironmentFailed, ProbeFailed, RunUnusable
from zenml_upgrade_kit.plan import Plan
from zenml_upgrade_kit.recipes import Wanted
from zenml_upgrade_kit.releases import Release
from zenml_upgrade_kit.runs import Run

Log = Callable[[str], None]

WINDOWS = os.name == "nt"


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An interpreter that imports one ZenML release.

    origin: ``built``, ``cached`` (built earlier) or ``given`` (the user's own interpreter).
    packages: version of every installed distribution, by normalized name. notes: what was chosen and why, in sentences.
    """

    version: str
    python: Path
    python_version: str
    packages: Mapping[str, str]
    origin: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As in the facts of the preflight."""
        return {**asdict(self), "python": str(self.python)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Environment:
        """Inverse of :meth:`to_json`."""
        return cls(**{**value, "python": Path(value["python"]), "notes": tuple(value["notes"])})


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended. returncode is negative for a signal; log holds stdout and stderr."""

    returncode: int
    timed_out: bool
    seconds: float
    log: Path

    def last_lines(self, lines: int = 15) -> str:
        """The end of what the process printed."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def pair(
    plan: Plan, inventory: Mapping[str, Any], source_version: str, target_version: str, log: Log = print
) -> tuple[Environment, Environment]:
    """The environments of the release that wrote the store and of the target, as alike as they can be.

    inventory: as :func:`zenml_upgrade_kit.inventory.take` made it; its ``libraries``, ``library_packages`` and
    ``python_versions`` decide what the user's requirements and interpreters leave open.
    """
    packages: Mapping[str, str] = inventory.get("library_packages") or {}
    libraries = {packages.get(name, name): version for name, version in (inventory.get("libraries") or {}).items()}
    counted: Mapping[str, int] = inventory.get("python_versions") or {}
    minor = _minor(max(counted, key=lambda version: counted[version])) if counted else ""
    given = plan.source_python or plan.target_python
    if given and (python := pythons.ask(given)):
        minor = python.minor
    source = ensure(
        source_version,
        interpreter=plan.source_python,
        requirements=plan.requirements,
        libraries=libraries,
        companions=() if given else (target_version,),
        prefer=minor,
        log=log,
    )
    wanted = recipes.of_libraries(libraries).names
    target = ensure(
        target_version,
        interpreter=plan.target_python,
        requirements=plan.requirements,
        libraries={name: source.packages[name] for name in wanted if name in source.packages},
        companions=() if given else (source_version,),
        prefer=_minor(source.python_version),
        log=log,
    )
    if minor and not given and minor != _minor(source.python_version):
        note = (
            f"The store was written on Python {minor}: objects that were pickled by value may load in neither release."
        )
        source = replace(source, notes=(*source.notes, note))
    if _minor(source.python_version) != _minor(target.python_version):
        note = (
            f"ZenML {source_version} runs on Python {source.python_version} and {target_version} on "
            f"{target.python_version}: objects that were pickled by value may not load for that reason alone."
        )
        target = replace(target, notes=(*target.notes, note))
    return source, target


def of_run(run: Run) -> tuple[Environment, Environment]:
    """The environments, source and target, that the preflight of a run found."""
    found = run.needs("10_preflight").facts.get("environments")
    if not found:
        raise RunUnusable(
            "this step needs the environments of both releases",
            expected="a preflight that made them",
            found="a preflight that blocks the upgrade",
            remedy="do what its findings say, then start a new run",
        )
    return Environment.from_json(found["source"]), Environment.from_json(found["target"])


def ensure(
    version: str,
    *,
    interpreter: Path | None = None,
    requirements: Path | None = None,
    libraries: Mapping[str, str] | None = None,
    companions: Sequence[str] = (),
    prefer: str = "",
    log: Log = print,
) -> Environment:
    """An environment with one ZenML release: the given interpreter, one built earlier, or a new one.

    requirements: the user's file; its line for zenml is overridden. libraries: used without requirements; import or
    distribution name to version, ``""`` for any. companions: releases that should run on the same Python minor.
    prefer: the minor to take if it fits (``3.11``). Raises :class:`EnvironmentFailed`, with nothing half-built left.
    """
    release = releases.get(version)
    if interpreter:
        return _given(release, interpreter)
    python, why = _choose(release, [releases.get(other) for other in companions], prefer)
    wanted = recipes.of_file(requirements) if requirements else recipes.of_libraries(libraries or {})
    recipe = [1, version, str(python.path), python.version, asdict(wanted), _indexes()]
    key = hashlib.sha256(json.dumps(recipe, default=str).encode()).hexdigest()[:20]
    if wanted.changeable:
        key += f"-{time.time_ns()}"
    cache = cache_folder()
    folder = cache / f"{version}-{key}"
    if environment := _cached(folder):
        log(f"ZenML {version}: using the environment in {folder}")
        return environment
    log(f"ZenML {version}: building an environment on Python {python.version} (about a minute)")
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        building = cache / f"{folder.name}.{os.getpid()}.building"
        shutil.rmtree(building, ignore_errors=True)
        try:
            environment = _build(release, python, building, wanted, why)
            environment = replace(environment, python=_interpreter(folder))
            (building / "environment.json").write_text(json.dumps(environment.to_json(), indent=1), encoding="utf-8")
            if ready := _cached(folder):  # another process was faster, and may be using it
                return ready
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        if ready := _cached(folder):
            return ready
        raise EnvironmentFailed(
            f"an environment with ZenML {version} cannot be kept in {cache}",
            expected="a folder that you may write to, with 1 GB of free space",
            found=error.strerror or str(error),
            remedy="name another folder in ZENML_UPGRADE_CACHE",
        ) from None
    return environment


def cache_folder() -> Path:
    """Where built environments are kept: ``$ZENML_UPGRADE_CACHE``, or the user's cache folder."""
    import platformdirs

    root = os.environ.get("ZENML_UPGRADE_CACHE") or platformdirs.user_cache_path("zenml-upgrade-kit")
    return Path(root).expanduser().absolute() / "environments"


def run_probe(
    environment: Environment,
    probe: str,
    request: Mapping[str, Any],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    timeout: float,
) -> dict[str, Any]:
    """The reply of ``probes/<probe>.py`` to a JSON request; raises :class:`ProbeFailed` when there is none.

    folder: see :func:`run_python`; also keeps ``<probe>.request.json`` and ``<probe>.reply.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked, reply = folder / f"{probe}.request.json", folder / f"{probe}.reply.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    reply.unlink(missing_ok=True)
    ended = run_probe_process(
        environment, probe, [str(asked), str(reply)], folder=folder, variables=variables, timeout=timeout
    )
    try:
        if ended.returncode == 0:
            value: dict[str, Any] = json.loads(reply.read_text(encoding="utf-8"))
            return value
        found = f"no answer in {timeout:g} s" if ended.timed_out else f"exit code {ended.returncode}"
    except (OSError, ValueError):
        found = "no readable reply"
    raise ProbeFailed(
        f"the probe {probe} of ZenML {environment.version} failed; its log is {ended.log}",
        expected=f"an answer within {timeout:g} s",
        found=f"{found}; it said last: {redact.url(ended.last_lines())}",
        remedy="read the log; if the interpreter is broken, delete its environment and try again",
    )


def run_probe_process(
    environment: Environment,
    probe: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    timeout: float,
) -> Ended:
    """Run ``probes/<probe>.py``; for a probe that may die, or that writes its reply line by line."""
    script = Path(__file__).parent / "probes" / f"{probe}.py"
    command = [str(environment.python), "-I", str(script), *arguments]
    return run_command(environment, command, folder=folder, variables=variables, timeout=timeout, log=f"{probe}.log")


def run_command(
    environment: Environment,
    command: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    timeout: float,
    cwd: Path | None = None,
    log: str = "command.log",
) -> Ended:
    """Run a command, the environment first on PATH, shut off from the user's ZenML; the one place that does so.

    folder: scratch for its ZenML configuration, stores and HOME, and for the log that stdout and stderr are appended
    to. variables: added to, and winning over, what is inherited. timeout: seconds; then the whole process group is
    killed. The child gets its own process group, which ends with it, so that nothing stays behind.
    """
    (folder / "home").mkdir(parents=True, exist_ok=True)
    path = folder / log
    started = time.monotonic()
    timed_out = False
    with path.open("ab") as output:
        try:
            process = subprocess.Popen(
                list(command),
                cwd=cwd or folder,
                env={**_surroundings(environment, folder), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=not WINDOWS,
            )
        except OSError as error:
            raise EnvironmentFailed(
                f"{command[0]} does not start",
                expected=f"a command that runs with ZenML {environment.version}",
                found=error.strerror or str(error),
                remedy="correct the command; if it is the interpreter, run 10_preflight again: it builds environments",
            ) from None
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:  # also when we are interrupted
            _end(process)
    return Ended(returncode=process.returncode, timed_out=timed_out, seconds=time.monotonic() - started, log=path)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and of its group."""
    try:
        if WINDOWS:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass
    process.wait()


def _surroundings(environment: Environment, folder: Path) -> dict[str, str]:
    """Environment variables without a trace of the user's ZenML, Python or notebook."""
    ours = re.compile(r"ZENML_|PYTHON|VIRTUAL_ENV|JUPYTER|JPY_|IPY|XDG_|DISABLE_DATABASE_MIGRATION$")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return {
        **kept,
        "PATH": os.pathsep.join([str(environment.python.parent), kept.get("PATH", "")]),
        "HOME": str(folder / "home"),
        "ZENML_CONFIG_PATH": str(folder / "config"),
        "ZENML_LOCAL_STORES_PATH": str(folder / "stores"),
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_COLORS_DISABLED": "true",
        "AUTO_OPEN_DASHBOARD": "false",
        "MPLBACKEND": "Agg",
    }


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if WINDOWS else "bin/python")


def _choose(release: Release, companions: Sequence[Release], prefer: str) -> tuple[pythons.Python, str]:
    """A Python for the release and a sentence about why this one."""
    found = pythons.find()
    fitting = [python for python in found if release.supports_python(python.version)]
    if not fitting:
        raise EnvironmentFailed(
            f"no Python on this machine runs ZenML {release.version}",
            expected=f"Python {release.requires_python}",
            found=f"{', '.join(python.version for python in found) or 'none'} ({pythons.PLACES})",
            remedy="install one with uv python install, conda or pyenv, or give an interpreter that has this ZenML "
            "(--source-python, --target-python)",
        )
    shared = [python for python in fitting if all(other.supports_python(python.version) for other in companions)]
    pool = shared or fitting
    chosen = next((python for python in pool if python.minor == prefer), pool[0])
    others = " and ".join(other.version for other in companions)
    reason = "the minor that was used before" if chosen.minor == prefer else "the newest on this machine that fits"
    together = f", which {others} supports too" if shared and companions else ""
    alone = f"; none that {others} supports too was found" if companions and not shared else ""
    return chosen, f"ZenML {release.version} runs on Python {chosen.version} ({reason}{together}{alone})."


def _given(release: Release, interpreter: Path) -> Environment:
    """The user's interpreter, if it has the release."""
    packages, python = _inspect(interpreter)
    if packages.get("zenml") != release.version:
        found = f"ZenML {packages['zenml']}" if "zenml" in packages else "no ZenML" if packages else "no answer"
        raise EnvironmentFailed(
            f"{interpreter} cannot be used for ZenML {release.version}",
            expected=f"a Python with ZenML {release.version} installed",
            found=found,
            remedy="give another interpreter, or none: the kit then builds an environment",
        )
    note = f"ZenML {release.version} runs in the interpreter that was given, {interpreter} (Python {python})."
    return Environment(
        version=release.version,
        python=interpreter.absolute(),
        python_version=python,
        packages=packages,
        origin="given",
        notes=(note,),
    )


def _cached(folder: Path) -> Environment | None:
    """The complete environment in a folder, or None; a marker is there only in a whole one."""
    try:
        value = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        environment = Environment.from_json({**value, "origin": "cached"})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return environment if pythons.ask(environment.python) else None


def _sweep(cache: Path) -> None:
    """Remove what builds that were killed left behind."""
    for leftover in cache.glob("*.building"):
        if time.time() - leftover.stat().st_mtime > 86400:
            shutil.rmtree(leftover, ignore_errors=True)


def _indexes() -> dict[str, str]:
    """Where packages come from decides what is installed."""
    return {name: value for name, value in sorted(os.environ.items()) if re.match(r"UV_.*INDEX|UV_FIND_LINKS", name)}


def _inspect(interpreter: Path) -> tuple[dict[str, str], str]:
    """Installed distributions of an interpreter and its Python version; both empty when it does not answer."""
    ask = (
        "import importlib.metadata as m, json, sys; "
        "packages = {d.metadata['Name']: d.version for d in m.distributions()}; "
        "print(json.dumps([packages, '%d.%d.%d' % sys.version_info[:3]]))"
    )
    try:
        ended = subprocess.run([interpreter, "-I", "-c", ask], check=False, capture_output=True, text=True, timeout=60)
        packages, version = json.loads(ended.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}, ""
    return {str(canonicalize_name(name)): value for name, value in sorted(packages.items()) if name}, version


def _build(release: Release, python: pythons.Python, folder: Path, wanted: Wanted, why: str) -> Environment:
    """A verified environment in a new folder."""
    recipes.uv(["venv", "--quiet", "--relocatable", "--python", str(python.path), str(folder)], cwd=folder.parent)
    interpreter = _interpreter(folder)
    notes = recipes.install(release, interpreter, python.minor, wanted)
    packages, version = _inspect(interpreter)
    environment = Environment(
        version=release.version,
        python=interpreter,
        python_version=version,
        packages=packages,
        origin="built",
        notes=(why, *notes),
    )
    _verify(environment)
    return environment


def _verify(environment: Environment) -> None:
    """Import the release and its SQL store, as every probe will."""
    ask = "import sys, zenml, zenml.zen_stores.sql_zen_store; open(sys.argv[1], 'w').write(zenml.__version__)"
    with tempfile.TemporaryDirectory(prefix="zenml-upgrade-") as scratch:
        answer = Path(scratch, "version")
        command = [str(environment.python), "-I", "-c", ask, str(answer)]
        ended = run_command(environment, command, folder=Path(scratch), timeout=600)
        found = answer.read_text() if answer.exists() else redact.url(ended.last_lines())
    if found != environment.version:
        raise EnvironmentFailed(
            f"ZenML {environment.version} was installed but cannot be imported",
            expected=f"zenml.__version__ == {environment.version}",
            found=found or "no answer",
            remedy="give a requirements file that names what is missing, or an interpreter that works",
        )
