"""Finds or builds (uv) an environment with one ZenML version and runs one probe in it.

The recipe of a built environment: one Python minor for the old and the new release where the machine has one that both
support (functions pickled by value do not survive another minor); every package as of the release's date, except those
that are pinned; the user's requirements, or else the libraries that the store recorded. Only ZenML should change, so
the new release gets the libraries of the old one where they resolve. Every choice and every fallback is a sentence in
:attr:`Environment.notes`.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from zenml_upgrade_kit import pythons, redact, releases
from zenml_upgrade_kit.errors import EnvironmentFailed, ProbeFailed
from zenml_upgrade_kit.plan import Plan
from zenml_upgrade_kit.releases import Release

DISTRIBUTIONS = {
    "PIL": "pillow", "bs4": "beautifulsoup4", "cv2": "opencv-python-headless", "dateutil": "python-dateutil",
    "skimage": "scikit-image", "sklearn": "scikit-learn", "yaml": "pyyaml",
}  # fmt: skip
"""Import names whose distribution is called something else."""

COMPANIONS = {"pandas": ("pyarrow",), "polars": ("pyarrow",)}
"""Libraries that ZenML uses beside another one: frames are parquet files where pyarrow is installed."""

COMPILED = ("numpy", "pandas", "pyarrow", "scikit-learn", "scipy")
"""Never built from source: without a wheel for this Python, another version is the better answer."""

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

    def tail(self, lines: int = 15) -> str:
        """The last lines that the process printed."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


Log = Callable[[str], None]


def pair(
    plan: Plan, inventory: Mapping[str, Any], source_version: str, target_version: str, log: Log = print
) -> tuple[Environment, Environment]:
    """The environments of the release that wrote the store and of the target, as alike as they can be.

    inventory: ``libraries`` (import or distribution name to version) and ``python_versions`` (version to count), as
    the store recorded them.
    """
    recorded: dict[str, str] = inventory.get("libraries") or {}
    counted: dict[str, int] = inventory.get("python_versions") or {}
    minor = _minor(max(counted, key=lambda version: counted[version])) if counted else ""
    given = plan.source_python or plan.target_python
    if given and (python := pythons.ask(given)):
        minor = python.minor
    source = ensure(
        source_version,
        interpreter=plan.source_python,
        requirements=plan.requirements,
        libraries=recorded,
        companions=() if given else (target_version,),
        prefer=minor,
        log=log,
    )
    wanted = [name for name in distributions(recorded) if name in source.packages]
    target = ensure(
        target_version,
        interpreter=plan.target_python,
        requirements=plan.requirements,
        libraries={name: source.packages[name] for name in wanted},
        companions=() if given else (source_version,),
        prefer=_minor(source.python_version),
        log=log,
    )
    if _minor(source.python_version) != _minor(target.python_version):
        note = (
            f"ZenML {source_version} runs on Python {source.python_version} and {target_version} on "
            f"{target.python_version}: objects that were pickled by value may not load for that reason alone."
        )
        target = replace(target, notes=(*target.notes, note))
    return source, target


def distributions(libraries: Mapping[str, str]) -> dict[str, str]:
    """Distribution names with versions (``""`` = any) for recorded libraries, with what they bring along."""
    known = {str(canonicalize_name(DISTRIBUTIONS.get(name, name))): version for name, version in libraries.items()}
    extra = {other: "" for name in known for other in COMPANIONS.get(name, ()) if other not in known}
    return {**known, **extra}


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
    wanted, options, base = _wanted(requirements, libraries or {})
    key = hashlib.sha256(
        json.dumps([1, version, str(python.path), python.version, wanted, options, _indexes()]).encode()
    ).hexdigest()[:20]
    if any(line.startswith(("-e", "--editable", ".", "/", "file:")) or "@ file:" in line for line in wanted):
        key += f"-{time.time_ns()}"  # a local package can change without its requirement line
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
            environment = _build(release, python, building, wanted, options, base, why)
            environment = replace(environment, python=_interpreter(folder))
            (building / "environment.json").write_text(json.dumps(environment.to_json(), indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        if ready := _cached(folder):  # another process was faster
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
    script = Path(__file__).parent / "probes" / f"{probe}.py"
    ended = run_python(
        environment,
        ["-I", str(script), str(asked), str(reply)],
        folder=folder,
        variables=variables,
        timeout=timeout,
        log=f"{probe}.log",
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
        found=f"{found}; it said last: {redact.url(ended.tail())}",
        remedy="read the log; if the interpreter is broken, delete its environment and try again",
    )


def run_python(
    environment: Environment,
    arguments: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    timeout: float,
    cwd: Path | None = None,
    log: str = "python.log",
) -> Ended:
    """Run the environment's Python, shut off from the user's ZenML configuration; the one place that does so.

    folder: scratch for its configuration, stores and HOME, and for the log that stdout and stderr are appended to.
    variables: added to, and winning over, what is inherited. timeout: seconds, then the whole process group is killed.
    The child gets its own process group, which ends with it, so that nothing stays behind.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)
    path = folder / log
    started = time.monotonic()
    timed_out = False
    with path.open("ab") as output:
        try:
            process = subprocess.Popen(
                [str(environment.python), *arguments],
                cwd=cwd or folder,
                env={**_surroundings(environment, folder), **(variables or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=not WINDOWS,
            )
        except OSError as error:
            raise EnvironmentFailed(
                f"the interpreter {environment.python} does not start",
                expected=f"Python with ZenML {environment.version}",
                found=error.strerror or str(error),
                remedy="run the step that builds the environments (10_preflight) again",
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
            found=", ".join(python.version for python in found) or "none" + f" ({pythons.PLACES})",
            remedy="install one with uv python install, conda or pyenv, or give an interpreter that has this ZenML "
            "(--source-python, --target-python)",
        )
    shared = [python for python in fitting if all(other.supports_python(python.version) for other in companions)]
    pool = shared or fitting
    chosen = next((python for python in pool if python.minor == prefer), pool[0])
    others = " and ".join(other.version for other in companions)
    reason = "asked for" if chosen.minor == prefer else "the newest on this machine that fits"
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
        "print(json.dumps([{d.metadata['Name']: d.version for d in m.distributions()}, '%d.%d.%d' % sys.version_info[:3]]))"
    )
    try:
        ended = subprocess.run([interpreter, "-I", "-c", ask], check=False, capture_output=True, text=True, timeout=60)
        packages, version = json.loads(ended.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return {}, ""
    return {str(canonicalize_name(name)): value for name, value in sorted(packages.items()) if name}, version


class _Unresolvable(Exception):
    """uv found no set of versions; the text is its reason."""


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """What every resolution for one environment has in common.

    core: lines that ZenML needs. options: index lines from the user's file. base: what relative paths start from.
    cutoff: packages uploaded later are left out, unless pinned; empty for no cut-off.
    """

    release: Release
    python: Path
    core: tuple[str, ...]
    options: tuple[str, ...]
    base: Path | None
    cutoff: str
    tries: list[str] = field(default_factory=list)

    def resolve(self, lines: Iterable[str], *, cutoff: bool = True) -> str:
        """All packages with exact versions, as a requirements file; raises :class:`_Unresolvable`."""
        return self._uv("compile", [*self.core, *lines], cutoff, ["--quiet", "--no-header", "--no-annotate"])

    def install(self, locked: str, lines: Iterable[str], *, cutoff: bool) -> None:
        """Put the packages of a resolution of ``lines`` into the environment."""
        self._uv("install", locked.splitlines(), cutoff, ["--quiet", "--no-deps"], pinned=lines)

    def _uv(
        self, verb: str, lines: Sequence[str], cutoff: bool, arguments: Sequence[str], pinned: Iterable[str] = ()
    ) -> str:
        exempt = sorted({name for line in (*lines, *pinned) if (name := _pinned(line))}) if cutoff else []
        with tempfile.TemporaryDirectory(prefix="zenml-upgrade-") as scratch:
            source, override = Path(scratch, "in.txt"), Path(scratch, "override.txt")
            source.write_text("\n".join([*self.options, *lines]) + "\n", encoding="utf-8")
            override.write_text(self.core[0] + "\n", encoding="utf-8")
            return _uv(
                ["pip", verb, str(source) if verb == "compile" else f"--requirements={source}", *arguments]
                + ["--python", str(self.python), "--override", str(override)]
                + ([f"--exclude-newer={self.cutoff}"] if cutoff else [])
                + [f"--exclude-newer-package={name}=2100-01-01" for name in exempt]
                + [f"--only-binary={name}" for name in COMPILED],
                cwd=self.base or Path(scratch),
            )


def _build(
    release: Release,
    python: pythons.Python,
    folder: Path,
    wanted: Sequence[str],
    options: Sequence[str],
    base: Path | None,
    why: str,
) -> Environment:
    """A verified environment in a new folder."""
    _uv(["venv", "--quiet", "--relocatable", "--python", str(python.path), str(folder)], cwd=folder.parent)
    recipe = _Recipe(
        release=release,
        python=_interpreter(folder),
        core=tuple(_core(release, python)),
        options=tuple(options),
        base=base,
        cutoff=f"{release.date + timedelta(days=1)}T23:59:59Z",
    )
    notes = [why]
    try:
        lines, cutoff = _settle(recipe, wanted, notes)
        recipe.install(recipe.resolve(lines, cutoff=cutoff), lines, cutoff=cutoff)
    except _Unresolvable as error:
        raise EnvironmentFailed(
            f"ZenML {release.version} cannot be installed on Python {python.version}",
            expected="a set of packages that fit together",
            found=str(error),
            remedy="give a requirements file that installs beside this release, or an interpreter that has it",
        ) from None
    packages, version = _inspect(recipe.python)
    environment = Environment(
        version=release.version,
        python=recipe.python,
        python_version=version,
        packages=packages,
        origin="built",
        notes=tuple(notes),
    )
    _verify(environment)
    return environment


def _core(release: Release, python: pythons.Python) -> list[str]:
    """The lines that ZenML itself needs, the one for ZenML first. Rules as measured on 0.43.0 to 0.98.0."""
    before = {limit: releases.position(release.stamp) < releases.position(limit) for limit in ("0.45.5", "0.84.0")}  # type: ignore[operator]
    rules = {
        f"zenml{'[local]' if release.extras_local_required else ''}=={release.version}": True,
        "setuptools<80": before["0.84.0"],  # up to 0.83.1 ZenML imports pkg_resources, which setuptools gives up
        "sqlmodel<0.0.9": before["0.45.5"],  # newer ones satisfy the requirement and break the store
        "importlib-metadata": python.minor in ("3.8", "3.9"),  # 0.50.0 imports it there without requiring it
    }
    return [line for line, needed in rules.items() if needed]


def _settle(recipe: _Recipe, wanted: Sequence[str], notes: list[str]) -> tuple[list[str], bool]:
    """The wanted lines that resolve beside ZenML, loosened where they must be, and whether the cut-off holds."""
    for cutoff in (True, False):
        try:
            recipe.resolve(wanted, cutoff=cutoff)
        except _Unresolvable as error:
            reason = str(error)
            continue
        if not cutoff:
            notes.append(f"Packages newer than {recipe.release.date} were allowed: nothing older fits together.")
        elif wanted:
            notes.append(
                f"Beside ZenML {recipe.release.version}: {', '.join(wanted)}; all else as of {recipe.release.date}."
            )
        return list(wanted), cutoff
    cutoff = True
    try:
        recipe.resolve([])
    except _Unresolvable:
        recipe.resolve([], cutoff=False)
        cutoff = False
    notes.append(f"Not everything that was asked for fits beside ZenML {recipe.release.version}: {reason}")
    return _fit(recipe, [], wanted, notes, cutoff), cutoff


def _fit(recipe: _Recipe, kept: list[str], wanted: Sequence[str], notes: list[str], cutoff: bool) -> list[str]:
    """``kept`` and as much of ``wanted`` as resolves with it; a line that does not is tried without its version."""
    try:
        recipe.resolve([*kept, *wanted], cutoff=cutoff)
        return [*kept, *wanted]
    except _Unresolvable:
        if len(wanted) > 1:
            half = len(wanted) // 2
            return _fit(recipe, _fit(recipe, kept, wanted[:half], notes, cutoff), wanted[half:], notes, cutoff)
    line = wanted[0]
    try:
        loose = Requirement(line).name
        recipe.resolve([*kept, loose], cutoff=cutoff)
    except (_Unresolvable, InvalidRequirement):
        notes.append(f"{line} is left out: no version of it fits.")
        return kept
    notes.append(f"{line} is installed in another version, the newest that fits.")
    return [*kept, loose]


def _wanted(requirements: Path | None, libraries: Mapping[str, str]) -> tuple[list[str], list[str], Path | None]:
    """Requirement lines on top of ZenML, lines with options, and the folder that relative paths in them start from."""
    if requirements is None:
        known = distributions(libraries)
        known.pop("zenml", None)
        return [f"{name}=={version}" if version else name for name, version in sorted(known.items())], [], None
    lines = _lines(requirements)
    options = [line for line in lines if line.startswith("-") and not line.startswith(("-e", "--editable"))]
    return [line for line in lines if line not in options and not _is_zenml(line)], options, requirements.parent


def _lines(file: Path) -> list[str]:
    """Lines of a requirements file and of those it includes, without comments, continuations and hashes."""
    try:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFailed(
            f"the requirements file {file} cannot be read",
            expected="a readable text file",
            found=str(error),
            remedy="correct the file, or leave requirements out",
        ) from None
    found: list[str] = []
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*|\s--hash=\S+", "", raw).strip()
        if included := re.match(r"(-r|--requirement|-c|--constraint)[\s=]*(.+)", line):
            other = file.parent / included[2].strip()
            found += _lines(other) if included[1] in ("-r", "--requirement") else [f"-c {other.absolute()}"]
        elif line:
            found.append(line)
    return found


def _is_zenml(line: str) -> bool:
    return re.match(r"(?i)zenml\b(?!-)", line) is not None


def _pinned(line: str) -> str:
    """The name in ``name==version``; empty for any other line."""
    match = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?\s*===?\s*[^*\s]+$", line.split(";")[0].strip())
    return str(canonicalize_name(match[1])) if match else ""


def _verify(environment: Environment) -> None:
    """Import the release and its SQL store, as every probe will."""
    ask = "import sys, zenml, zenml.zen_stores.sql_zen_store; open(sys.argv[1], 'w').write(zenml.__version__)"
    with tempfile.TemporaryDirectory(prefix="zenml-upgrade-") as scratch:
        answer = Path(scratch, "version")
        ended = run_python(environment, ["-I", "-c", ask, str(answer)], folder=Path(scratch), timeout=600)
        found = answer.read_text() if answer.exists() else redact.url(ended.tail())
    if found != environment.version:
        raise EnvironmentFailed(
            f"ZenML {environment.version} was installed but cannot be imported",
            expected=f"zenml.__version__ == {environment.version}",
            found=found or "no answer",
            remedy="give a requirements file that names what is missing, or an interpreter that works",
        )


def _uv(arguments: Sequence[str], cwd: Path) -> str:
    """What uv prints; :class:`_Unresolvable` when versions do not fit, :class:`EnvironmentFailed` for all else."""
    import uv

    try:
        ended = subprocess.run(
            [uv.find_uv_bin(), *arguments],
            check=False,
            cwd=cwd,
            env={**os.environ, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"},
            capture_output=True,
            text=True,
            timeout=1800,
        )
        said, code = redact.url(ended.stderr), ended.returncode
    except subprocess.TimeoutExpired:
        said, code = "Failed to fetch: no end after 1800 s", 1
    if code == 0:
        return ended.stdout
    reason = " ".join(re.sub(r"(?m)^\s*(error:|cause:|[×╰─▶│]+)\s*", " ", said).split())
    if re.search(r"Failed to fetch|error sending request|network was disabled|dns error", said):
        raise EnvironmentFailed(
            "the package index cannot be reached",
            expected="an answer from the index that uv uses (UV_DEFAULT_INDEX, or the public one)",
            found=reason[:400],
            remedy="check the network and the index settings, or give interpreters that have both releases "
            "(--source-python, --target-python)",
        )
    if "No solution found" in said:
        reason = reason.split("No solution found when resolving dependencies", 1)[-1].lstrip(": ").split(" hint: ")[0]
        raise _Unresolvable(reason[:600])
    raise EnvironmentFailed(
        "uv could not build the environment",
        expected="packages that install on this machine",
        found=reason[-600:],
        remedy="correct what uv names, or give interpreters that have both releases",
    )
