"""What is installed beside a ZenML release: resolved with uv, and loosened where it does not fit.

Every package is as of the release's date, except those that are pinned. Only ZenML should change between two releases,
so pins are given up one by one and last. Every choice is a sentence.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from zenml_upgrade_kit import redact, releases
from zenml_upgrade_kit.errors import EnvironmentFailed
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


_ZENML = re.compile(r"(?i)zenml(?![\w.-])")


class Unresolvable(Exception):
    """uv found no set of versions; the text is its reason."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is wanted on top of ZenML.

    lines: requirement lines. constraints: lines of constraint files. options: lines that say where packages come from.
    base: folder that relative paths start from. note: what is not wanted although the store names it, as a sentence.
    """

    lines: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    base: Path | None = None
    note: str = ""

    @property
    def names(self) -> list[str]:
        """Names of the distributions in the lines, as far as lines name them."""
        matches = (re.match(r"[A-Za-z0-9._-]+", line) for line in self.lines)
        return [str(canonicalize_name(match[0])) for match in matches if match]

    @property
    def changeable(self) -> bool:
        """Whether a local package is among them, which can change while its line stays the same."""
        local = ("-e", "--editable", ".", "/", "file:")
        return any(line.startswith(local) or re.search(r"@\s*file:", line) for line in self.lines)


def of_file(file: Path) -> Wanted:
    """The user's requirements; a line for zenml itself is left out, since the kit decides its version."""
    lines: list[str] = []
    constraints: list[str] = []
    _read(file.absolute(), lines, constraints)
    options = [line for line in lines if line.startswith("-") and not line.startswith(("-e", "--editable"))]
    return Wanted(
        lines=tuple(line for line in lines if line not in options and not _ZENML.match(line)),
        constraints=tuple(line for line in constraints if not _ZENML.match(line)),
        options=tuple(options),
        base=file.absolute().parent,
    )


def of_libraries(libraries: Mapping[str, str]) -> Wanted:
    """Data libraries (import or distribution name to version, ``""`` for any) and what ZenML uses beside them."""
    known = {LIBRARIES.get(name, name): version for name, version in libraries.items()}
    other = {name: known.pop(name) for name in sorted(known) if name not in LIBRARIES.values()}
    beside = {COMPANIONS[name]: "" for name in known if name in COMPANIONS}
    listed = ", ".join(f"{name} {version}".strip() for name, version in other.items())
    return Wanted(
        lines=tuple(f"{name}=={version}" if version else name for name, version in sorted({**beside, **known}.items())),
        note=f"Recorded in the store, but only installed when a requirements file names it: {listed}." if other else "",
    )


def install(release: Release, python: Path, minor: str, wanted: Wanted) -> list[str]:
    """Put the release and as much of what is wanted as fits into the environment of ``python``.

    minor: of that Python, ``3.11``. Returns sentences about what was chosen. Raises :class:`EnvironmentFailed`.
    """
    recipe = _Recipe(
        python=python,
        core=tuple(_core(release, minor)),
        wanted=wanted,
        cutoff=f"{release.date + timedelta(days=1)}T23:59:59Z",
    )
    notes = [wanted.note] if wanted.note else []
    try:
        lines, cutoff = _settle(recipe, release, notes)
        recipe.install(lines, cutoff)
    except Unresolvable as error:
        if wanted.constraints:
            note = f"The constraints do not fit beside ZenML {release.version} and are left out: {error}"
            return [note, *install(release, python, minor, replace(wanted, constraints=()))]
        raise EnvironmentFailed(
            f"ZenML {release.version} cannot be installed on Python {minor}",
            expected="a set of packages that fit together",
            found=str(error),
            remedy="give a requirements file that installs beside this release, or an interpreter that has it",
        ) from None
    return notes


def uv(arguments: Sequence[str], cwd: Path) -> str:
    """What uv prints; :class:`Unresolvable` when versions do not fit, :class:`EnvironmentFailed` for all else."""
    import uv as binary

    try:
        ended = subprocess.run(
            [binary.find_uv_bin(), *arguments],
            check=False,
            cwd=cwd,
            env=_settings(),
            capture_output=True,
            text=True,
            timeout=1800,
        )
        said, code = redact.url(ended.stderr), ended.returncode
    except subprocess.TimeoutExpired:
        said, code = "Failed to fetch: no end after 1800 s", 1
    if code == 0:
        return ended.stdout
    reason = " ".join(re.sub(r"(?m)^\s*(error:|cause:|[×╰─▶│├]+)\s*", " ", said).split())
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


@dataclass(frozen=True, kw_only=True)
class _Recipe:
    """What every resolution for one environment has in common.

    core: the lines that ZenML needs, its own first. cutoff: packages uploaded later are left out, unless pinned.
    """

    python: Path
    core: tuple[str, ...]
    wanted: Wanted
    cutoff: str

    def resolve(self, lines: Iterable[str], cutoff: bool = True) -> str:
        """All packages with exact versions, as a requirements file; raises :class:`Unresolvable`."""
        lines = [*self.core, *lines]
        return self._uv("compile", lines, _pinned(lines), cutoff, "--no-header", "--no-annotate")

    def install(self, lines: Iterable[str], cutoff: bool) -> None:
        """Put the packages of a resolution into the environment."""
        lines = list(lines)
        self._uv("install", self.resolve(lines, cutoff).splitlines(), _pinned(lines), cutoff, "--no-deps")

    def _uv(self, verb: str, lines: Iterable[str], pinned: Iterable[str], cutoff: bool, *more: str) -> str:
        dates = [f"--exclude-newer={self.cutoff}", *(f"--exclude-newer-package={name}=2100-01-01" for name in pinned)]
        with tempfile.TemporaryDirectory(prefix="zenml-upgrade-") as scratch:
            source, override, limits = (Path(scratch, name) for name in ("in.txt", "override.txt", "constraints.txt"))
            source.write_text("\n".join([*self.wanted.options, *lines]) + "\n", encoding="utf-8")
            override.write_text(self.core[0] + "\n", encoding="utf-8")  # also where another package requires zenml
            limits.write_text("\n".join(self.wanted.constraints) + "\n", encoding="utf-8")
            return uv(
                ["pip", verb, str(source) if verb == "compile" else f"--requirements={source}", "--quiet", *more]
                + ["--python", str(self.python), "--override", str(override), "--constraint", str(limits)]
                + (dates if cutoff else [])
                + [f"--only-binary={name}" for name in COMPILED],
                cwd=self.wanted.base or Path(scratch),
            )


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


def _settle(recipe: _Recipe, release: Release, notes: list[str]) -> tuple[list[str], bool]:
    """The wanted lines that resolve beside ZenML, and whether only packages of its date are allowed."""
    lines = list(recipe.wanted.lines)
    for cutoff in (True, False):
        try:
            recipe.resolve(lines, cutoff)
        except Unresolvable as error:
            reason = str(error)
            continue
        if not cutoff:
            notes.append(
                f"Packages newer than ZenML {release.version} ({release.date}) were let in: no older ones fit."
            )
        elif lines:
            notes.append(f"Beside ZenML {release.version}: {', '.join(lines)}; all else as of {release.date}.")
        return lines, cutoff
    try:
        recipe.resolve([])
        cutoff = True
    except Unresolvable:
        recipe.resolve([], cutoff=False)
        cutoff = False
    notes.append(f"Not everything that was asked for fits beside ZenML {release.version}: {reason}")
    return _fit(recipe, [], lines, cutoff, notes), cutoff


def _fit(recipe: _Recipe, kept: list[str], lines: Sequence[str], cutoff: bool, notes: list[str]) -> list[str]:
    """``kept`` and as much of ``lines`` as resolves with it: halves, down to the line, which then loses its version."""
    try:
        recipe.resolve([*kept, *lines], cutoff)
        return [*kept, *lines]
    except Unresolvable:
        if len(lines) > 1:
            half = len(lines) // 2
            return _fit(recipe, _fit(recipe, kept, lines[:half], cutoff, notes), lines[half:], cutoff, notes)
    line = lines[0]
    try:
        loose = Requirement(line).name
        recipe.resolve([*kept, loose], cutoff)
    except (Unresolvable, InvalidRequirement):
        notes.append(f"{line} is left out: no version of it fits.")
        return kept
    notes.append(f"{line} does not fit; {loose} is installed in the newest version that does.")
    return [*kept, loose]


def _read(file: Path, lines: list[str], constraints: list[str]) -> None:
    """Collect the lines of a requirements file and of those it includes, without comments and hashes."""
    try:
        text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    except (OSError, UnicodeDecodeError) as error:
        raise EnvironmentFailed(
            f"the requirements file {file} cannot be read",
            expected="a readable text file",
            found=str(error),
            remedy="correct the file, or leave requirements out",
        ) from None
    for raw in text.splitlines():
        line = re.sub(r"(^|\s)#.*|\s--hash=\S+", "", raw).strip()
        if included := re.match(r"(?:-r|--requirement)[\s=]*(.+)", line):
            _read(file.parent / included[1].strip(), lines, constraints)
        elif included := re.match(r"(?:-c|--constraint)[\s=]*(.+)", line):
            _read(file.parent / included[1].strip(), constraints, constraints)
        elif line:
            lines.append(line)


def _pinned(lines: Iterable[str]) -> list[str]:
    """The names in lines of the form ``name==version``."""
    exact = re.compile(r"([A-Za-z0-9._-]+)(\[[^]]*\])?\s*===?\s*[^*\s]+$")
    matches = (exact.match(line.split(";")[0].strip()) for line in lines)
    return sorted({str(canonicalize_name(match[1])) for match in matches if match})
