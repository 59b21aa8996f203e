"""Finds or builds (uv) an environment with one ZenML version.

One Python minor serves the old and the new release where the machine has one that both support: functions pickled by
value do not survive another minor. What is installed beside ZenML is decided in :mod:`recipes`. Every choice and every
fallback is a sentence in :attr:`Environment.notes`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from zenml_upgrade_kit import pythons, recipes, redact, releases
from zenml_upgrade_kit.errors import EnvironmentFailed, RunUnusable
from zenml_upgrade_kit.plan import Plan
from zenml_upgrade_kit.probing import WINDOWS, run_command
from zenml_upgrade_kit.probing import Environment as Environment
from zenml_upgrade_kit.releases import Release
from zenml_upgrade_kit.runs import Run

Log = Callable[[str], None]


def pair(
    plan: Plan, inventory: Mapping[str, Any], source_version: str, target_version: str, log: Log = print
) -> tuple[Environment, Environment]:
    """The environments of the release that wrote the store and of the target, as alike as they can be.

    inventory: as :func:`zenml_upgrade_kit.inventory.take` made it; its ``libraries`` and ``python_versions`` decide
    what the user's requirements and interpreters leave open.
    """
    libraries: Mapping[str, str] = inventory.get("libraries") or {}
    counted: Mapping[str, int] = inventory.get("python_versions") or {}
    written = _minor(max(counted, key=lambda version: counted[version])) if counted else ""
    given = plan.source_python or plan.target_python
    source = ensure(
        source_version,
        interpreter=plan.source_python,
        requirements=plan.requirements,
        libraries=libraries,
        companions=() if given else (target_version,),
        prefer=_minor(_inspect(given).python_version) if given else written,
        log=log,
    )
    names = [line.partition("==")[0] for line in recipes.wanted(libraries)]
    target = ensure(
        target_version,
        interpreter=plan.target_python,
        requirements=plan.target_requirements or plan.requirements,
        libraries={name: source.packages[name] for name in names if name in source.packages},
        companions=() if given else (source_version,),
        prefer=_minor(source.python_version),
        log=log,
    )
    old, new = source.python_version, target.python_version
    if written and not given and written != _minor(old):
        note = f"The store was written on Python {written}: what was pickled by value may load in neither release."
        source = replace(source, notes=(*source.notes, note))
    if _minor(old) != _minor(new):
        note = (
            f"ZenML {source_version} runs on Python {old} and {target_version} on {new}: what was pickled by value may "
            "not load for that reason alone."
        )
        target = replace(target, notes=(*target.notes, note))
    return source, target


def control(source: Environment, target: Environment, log: Log = print) -> Environment | None:
    """The target's release with the source's data libraries; None where the target has those versions already."""
    names = [line.partition("==")[0] for line in recipes.wanted(dict.fromkeys(recipes.LIBRARIES.values(), ""))]
    libraries = {name: source.packages[name] for name in names if name in source.packages}
    if all(target.packages.get(name) == version for name, version in libraries.items()):
        return None
    return ensure(target.version, libraries=libraries, prefer=_minor(target.python_version), log=log)


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
    prefer: the minor to take if it fits (``3.11``). An environment is kept under what uv resolved for it, so that it
    is used again exactly when a new one would hold the same; one with local packages never is, since they can change.
    Raises :class:`EnvironmentFailed`, with nothing half-built left.
    """
    release = releases.get(version)
    if interpreter:
        found = _usable(interpreter, version)
        note = f"ZenML {version} runs in the interpreter that was given, {interpreter} (Python {found.python_version})."
        return replace(found, notes=(note,))
    python, why = _choose(release, [releases.get(other) for other in companions], prefer)
    if requirements:
        wanted = recipes.of_requirements(release, python, requirements)
    else:
        wanted = recipes.of_libraries(release, python, libraries or {})
    recipe = json.dumps([2, version, str(python.path), python.version, wanted.text, wanted.options])
    key = hashlib.sha256(recipe.encode()).hexdigest()[:20] + (f"-{time.time_ns()}" if wanted.changeable else "")
    folder = cache_folder() / f"{version}-{key}"
    notes = (why, *wanted.notes)
    if environment := _cached(folder):
        log(f"ZenML {version}: using the environment in {folder}")
        return replace(environment, notes=notes)
    log(f"ZenML {version}: building an environment on Python {python.version} (about a minute)")
    return replace(_build(version, python.path, wanted, folder), notes=notes)


def _build(version: str, python: Path, wanted: recipes.Resolution, folder: Path) -> Environment:
    """A new environment, made beside its place and moved there when it is whole."""
    cache = folder.parent
    building = cache / f"{folder.name}.{os.getpid()}.building"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _sweep(cache)
        shutil.rmtree(building, ignore_errors=True)
        recipes.uv(["venv", "--quiet", "--relocatable", "--python", str(python), str(building)], cwd=cache)
        wanted.install(_interpreter(building))
        environment = replace(_usable(_interpreter(building), version), python=_interpreter(folder), origin="built")
        (building / "environment.json").write_text(json.dumps(environment.to_json(), indent=1), encoding="utf-8")
        if not _cached(folder):  # another process may have been faster, and may be using it
            shutil.rmtree(folder, ignore_errors=True)
            building.rename(folder)
    except OSError as error:
        if ready := _cached(folder):
            return ready
        raise EnvironmentFailed(
            f"an environment with ZenML {version} cannot be kept in {cache}",
            expected="a folder that you may write to, with 1 GB of free space",
            found=error.strerror or str(error),
            remedy="name another folder in ZENML_UPGRADE_CACHE",
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return environment


def cache_folder() -> Path:
    """Where built environments are kept: ``$ZENML_UPGRADE_CACHE``, or the user's cache folder."""
    import platformdirs

    root = os.environ.get("ZENML_UPGRADE_CACHE") or platformdirs.user_cache_path("zenml-upgrade-kit")
    return Path(root).expanduser().absolute() / "environments"


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
            found=f"{', '.join(dict.fromkeys(python.version for python in found)) or 'none'} ({pythons.PLACES})",
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


def _cached(folder: Path) -> Environment | None:
    """The complete environment in a folder, or None; a marker is there only in a whole one."""
    try:
        value = json.loads((folder / "environment.json").read_text(encoding="utf-8"))
        environment = Environment.from_json({**value, "origin": "cached"})
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return environment if _inspect(environment.python).python_version == environment.python_version else None


def _sweep(cache: Path) -> None:
    """Remove what builds that were killed left behind."""
    for leftover in cache.glob("*.building"):
        with suppress(OSError):  # its builder has just ended
            if time.time() - leftover.stat().st_mtime > 86400:
                shutil.rmtree(leftover, ignore_errors=True)


def _inspect(interpreter: Path) -> Environment:
    """What an interpreter has installed; its versions are empty when it has no ZenML, or does not answer."""
    ask = (
        "import importlib.metadata as m, json, sys; "
        "packages = {d.metadata['Name']: d.version for d in m.distributions()}; "
        "print(json.dumps([packages, '%d.%d.%d' % sys.version_info[:3]]))"
    )
    packages, python = {}, ""
    with suppress(OSError, ValueError, subprocess.TimeoutExpired):
        ended = subprocess.run([interpreter, "-I", "-c", ask], check=False, capture_output=True, text=True, timeout=60)
        packages, python = json.loads(ended.stdout)
    packages = {str(canonicalize_name(name)): version for name, version in sorted(packages.items()) if name}
    return Environment(
        version=packages.get("zenml", ""),
        python=interpreter.absolute(),
        python_version=python,
        packages=packages,
        origin="given",
    )


def _usable(interpreter: Path, version: str) -> Environment:
    """What an interpreter has installed, if it imports the release and its SQL store as every probe will."""
    environment = _inspect(interpreter)
    found = (
        f"ZenML {environment.version}" if environment.version else "no ZenML" if environment.packages else "no answer"
    )
    if environment.version == version:
        command = [str(environment.python), "-I", "-c", "import zenml, zenml.zen_stores.sql_zen_store"]
        with tempfile.TemporaryDirectory(prefix="zenml-upgrade-") as scratch:
            ended = run_command(environment, command, folder=Path(scratch), timeout=600)
            found = redact.url(ended.last_lines())
        if ended.returncode == 0:
            return environment
    raise EnvironmentFailed(
        f"{interpreter} cannot be used for ZenML {version}",
        expected=f"a Python that imports ZenML {version} and its SQL store",
        found=found,
        remedy="give another interpreter, or a requirements file that names what is missing",
    )
