"""What is installed beside a ZenML release, resolved with uv; every choice is a sentence.

Every package is as of the release's date, except those that are pinned. A requirements file holds or is a finding: a
rehearsal on other pins than the user's proves nothing. Libraries that only the store recorded give way where they must.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from zenml_upgrade_kit import redact, releases
from zenml_upgrade_kit.errors import EnvironmentFailed, RequirementsConflict
from zenml_upgrade_kit.pythons import Python
from zenml_upgrade_kit.releases import Release

_SAME_NAME = (
    "catboost", "datasets", "geopandas", "joblib", "keras", "lightgbm", "matplotlib", "networkx", "numpy", "pandas",
    "plotly", "polars", "pyarrow", "scipy", "seaborn", "shapely", "statsmodels", "tensorflow", "torch", "torchvision",
    "transformers", "xgboost",
)  # fmt: skip
_OTHER_NAME = {"PIL": "pillow", "cv2": "opencv-python-headless", "skimage": "scikit-image", "sklearn": "scikit-learn"}
LIBRARIES = {name: name for name in _SAME_NAME} | _OTHER_NAME
"""Data libraries by import name. Only these are installed because a store names them: a name of the user's own code or
of a private package may belong to somebody else in the public index."""

COMPANIONS = {"pandas": "pyarrow", "polars": "pyarrow"}
"""What ZenML uses beside a library: frames are parquet files where pyarrow is installed."""

COMPILED = ("numpy", "pandas", "pyarrow", "scikit-learn", "scipy")
"""Never built from source: without a wheel for this Python, another version is the better answer."""

PATIENCE = 1800
"""Seconds that uv may take for one thing; it gives up by itself where a network does not answer."""

_PINNED = re.compile(r"(?m)^\s*([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*={2,3}\s*[^\s*]+(?=\s|$)")
_LOCAL = re.compile(r"(?m)^(-e |[./]|\S+ @ file:)")


class Unresolvable(Exception):
    """uv found no set of versions; the text is its reason."""


class _Unreachable(EnvironmentFailed):
    """No answer from the package index."""


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """All packages of an environment.

    text: a requirements file with exact versions, their indexes and build options. options: of uv, for installing it.
    folder: what relative paths start from. notes: what was chosen and why, in sentences.
    """

    text: str
    options: tuple[str, ...]
    folder: Path
    notes: tuple[str, ...]

    @property
    def changeable(self) -> bool:
        """Whether a local package is among them, which can change while its line stays the same."""
        return bool(_LOCAL.search(self.text))

    def install(self, python: Path) -> None:
        """Put the packages into the environment of an interpreter."""
        with tempfile.TemporaryDirectory(prefix="zenml-upgrade-") as scratch:
            exact = Path(scratch, "exact.txt")
            exact.write_text(self.text, encoding="utf-8")
            to = ["--quiet", "--no-deps", f"--requirements={exact}", f"--python={python}"]
            uv(["pip", "install", *to, *self.options], cwd=self.folder)


def of_requirements(release: Release, python: Python, file: Path) -> Resolution:
    """The user's file as it is, read by uv, except that its line for zenml is overridden.

    Raises :class:`RequirementsConflict` when that does not fit beside the release.
    """
    try:
        return _resolve(release, python, (), file.absolute())
    except Unresolvable as error:
        raise RequirementsConflict(
            f"{file.name} cannot be installed with ZenML {release.version} on Python {python.minor}",
            expected="requirements that fit beside this release",
            found=str(error),
            remedy="Loosen these pins.",
        ) from None


def of_libraries(release: Release, python: Python, libraries: Mapping[str, str]) -> Resolution:
    """Data libraries that a store recorded; those that do not fit lose their version, then their place.

    Raises :class:`EnvironmentFailed` when not even the release alone can be installed.
    """
    lines, notes = wanted(libraries), []
    if others := sorted(set(libraries) - set(LIBRARIES) - set(LIBRARIES.values())):
        listed = ", ".join(f"{name} {libraries[name]}".strip() for name in others)
        notes.append(f"Recorded in the store, but only installed when a requirements file names it: {listed}.")
    try:
        found = _resolve(release, python, lines)
    except Unresolvable as error:
        notes.append(f"Not everything that the store recorded fits beside ZenML {release.version}: {error}")
        found = _fit(release, python, lines, notes)
    return replace(found, notes=(*notes, *found.notes))


def wanted(libraries: Mapping[str, str]) -> list[str]:
    """Requirement lines for the data libraries among names (import or distribution) and what ZenML uses beside them."""
    known = {LIBRARIES.get(name, name): version for name, version in libraries.items()}
    known = {name: version for name, version in known.items() if name in LIBRARIES.values()}
    beside = {COMPANIONS[name]: "" for name in known if name in COMPANIONS}
    return [f"{name}=={version}" if version else name for name, version in sorted({**beside, **known}.items())]


def _fit(release: Release, python: Python, lines: Sequence[str], notes: list[str]) -> Resolution:
    """The release with as many lines as fit beside it, each with its version if that fits."""
    try:
        found = _resolve(release, python, ())
    except Unresolvable as error:
        raise EnvironmentFailed(
            f"ZenML {release.version} cannot be installed on Python {python.minor}",
            expected="a set of packages that fit together",
            found=str(error),
            remedy="give an interpreter that has this release (--source-python, --target-python)",
        ) from None
    kept: list[str] = []
    for line in lines:
        name = line.partition("==")[0]
        for choice in dict.fromkeys((line, name)):
            try:
                found = _resolve(release, python, [*kept, choice])
            except Unresolvable:
                continue
            kept.append(choice)
            if choice != line:
                notes.append(f"{line} does not fit; {name} is installed in the newest version that does.")
            break
        else:
            notes.append(f"{line} is left out: no version of it fits.")
    return found


def _resolve(release: Release, python: Python, lines: Sequence[str], file: Path | None = None) -> Resolution:
    """The release with lines or a file beside it, as of its date if possible; raises :class:`Unresolvable`."""
    core = _core(release, python.minor)
    text = "\n".join([*core, *lines]) + "\n"
    asked = f"what {file.name} asks for" if file else ", ".join(lines) or "only what it requires"
    pinned = _PINNED.findall(text)
    with suppress(OSError):  # uv says better what is wrong with the file
        pinned += _PINNED.findall(file.read_text(encoding="utf-8", errors="replace")) if file else []
    dates = [f"--exclude-newer={release.date + timedelta(days=1)}T23:59:59Z"]
    dates += [f"--exclude-newer-package={name}=2100-01-01" for name in sorted(set(pinned))]
    folder = file.parent if file else Path(tempfile.gettempdir())
    note = f"Beside ZenML {release.version}: {asked}, as of {release.date} where no version is pinned."
    with tempfile.TemporaryDirectory(prefix="zenml-upgrade-") as scratch:
        source, override = Path(scratch, "in.txt"), Path(scratch, "override.txt")
        source.write_text(text, encoding="utf-8")
        override.write_text(core[0] + "\n", encoding="utf-8")  # also where another package requires zenml
        command = ["pip", "compile", str(source), *([str(file)] if file else []), "--quiet", "--no-header"]
        command += ["--no-annotate", "--emit-index-url", "--emit-find-links", "--emit-build-options"]
        command += [f"--python={python.path}", f"--override={override}"]
        command += [f"--only-binary={name}" for name in COMPILED]
        try:
            exact = _compile([*command, *dates], folder)
        except Unresolvable:
            exact, dates = _compile(command, folder), []
            note = (
                f"Beside ZenML {release.version}: {asked}. That let in packages newer than it, since no older ones fit."
            )
    return Resolution(text=exact, options=tuple(dates), folder=folder, notes=(note,))


def _core(release: Release, minor: str) -> list[str]:
    """The lines that ZenML itself needs, its own first; measured on 0.43.0 to 0.98.0."""
    rules = {
        f"zenml{'[local]' if release.extras_local_required else ''}=={release.version}": True,
        # 0.83.1 and before import pkg_resources, which setuptools gives up
        "setuptools<80": not releases.crosses("0.43.0", release.stamp, "0.84.0"),
        # 0.45.4 and before allow newer ones, which they do not work with
        "sqlmodel<0.0.9": not releases.crosses("0.43.0", release.stamp, "0.45.5"),
        # imported there, but not required by all releases
        "importlib-metadata": minor in ("3.8", "3.9"),
    }
    return [line for line, needed in rules.items() if needed]


def _compile(arguments: Sequence[str], cwd: Path) -> str:
    """A resolution; without network as uv's own cache remembers it, so that a kept environment is found again."""
    try:
        return uv(arguments, cwd)
    except _Unreachable as error:
        try:
            return uv([*arguments, "--offline"], cwd)
        except (Unresolvable, EnvironmentFailed):
            raise error from None


def uv(arguments: Sequence[str], cwd: Path) -> str:
    """What uv prints; :class:`Unresolvable` when versions do not fit, :class:`EnvironmentFailed` for all else."""
    import uv as binary

    command = [binary.find_uv_bin(), *arguments]
    try:
        ended = subprocess.run(
            command, check=False, cwd=cwd, env=_settings(), capture_output=True, text=True, timeout=PATIENCE
        )
    except subprocess.TimeoutExpired:
        raise EnvironmentFailed(
            "uv did not end",
            expected=f"an end within {PATIENCE} seconds",
            found=f"uv {' '.join(command[1:3])}, perhaps building a package from source",
            remedy="try again, or give interpreters that have both releases (--source-python, --target-python)",
        ) from None
    if ended.returncode == 0:
        return ended.stdout
    said = redact.url(ended.stderr)
    reason = " ".join(re.sub(r"(?m)^\s*(error:|cause:|[×╰─▶│├]+)\s*", " ", said).split())
    if re.search(r"Failed to fetch|error sending request|network was disabled|dns error", said):
        raise _Unreachable(
            "the package index cannot be reached",
            expected="an answer from the index that uv uses (UV_DEFAULT_INDEX, or the public one)",
            found=reason[:400],
            remedy="check the network and the index settings, or give interpreters that have both releases "
            "(--source-python, --target-python)",
        )
    if "No solution found" in said:
        reason = reason.split("No solution found when resolving dependencies", 1)[-1].lstrip(": ").split(" hint: ")[0]
        raise Unresolvable(reason if len(reason) <= 600 else f"{reason[:600]} …")
    raise EnvironmentFailed(
        "uv could not build the environment",
        expected="packages that install on this machine",
        found=reason[-600:],
        remedy="correct what uv names, or give interpreters that have both releases",
    )


def _settings() -> dict[str, str]:
    """The user's environment; of the settings for uv only those on how packages are reached, not on which are taken."""
    reach = re.compile(
        r"INDEX|FIND_LINKS|CACHE|CERT|CONCURRENT|CREDENTIALS|HTTP|INSECURE|KEYRING|LINK_MODE|OFFLINE|TLS"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_") or reach.search(name)}
    return {**kept, "UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1", "NO_COLOR": "1"}
