"""Finds the Python interpreters of this machine: on PATH, uv's own, conda's, pyenv's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

PLACES = "on PATH, in uv's, conda's and pyenv's folders"
"""Where :func:`find` looks, for messages."""

_ASK = (
    "import sys; v = sys.version_info; "
    "usable = v[3] == 'final' and sys.implementation.name == 'cpython' and getattr(sys, 'abiflags', '') in ('', 'm'); "
    "print('%d.%d.%d' % v[:3], getattr(sys, '_base_executable', '') or sys.executable, sep='\\t') if usable else None"
)
"""Left out: free-threaded and debug builds, which old libraries have no wheels for, and pre-releases."""


@dataclass(frozen=True, kw_only=True)
class Python:
    """A working CPython. path: the interpreter itself, never a shim or one of a virtual environment."""

    path: Path
    version: str

    @property
    def minor(self) -> str:
        """``3.11``: what compatibility of pickles and of wheels depends on."""
        return ".".join(self.version.split(".")[:2])


def find() -> list[Python]:
    """Every interpreter that answers, newest first. Candidates are executed: a pyenv shim may be dead."""
    found: dict[Path, Python] = {}
    for candidate in dict.fromkeys(_candidates()):
        if (python := ask(candidate)) and python.path.resolve() not in found:
            found[python.path.resolve()] = python
    return sorted(found.values(), key=lambda python: Version(python.version), reverse=True)


def ask(interpreter: Path) -> Python | None:
    """The Python behind an interpreter, or None when it does not run or cannot carry an environment."""
    try:
        ended = subprocess.run(
            [interpreter, "-I", "-S", "-c", _ASK],
            check=False,
            capture_output=True,
            text=True,
            timeout=20,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    version, _, path = ended.stdout.strip().partition("\t")
    return Python(path=Path(path), version=version) if ended.returncode == 0 and path else None


def _candidates() -> Iterator[Path]:
    """Paths that may be interpreters, the kit's own first."""
    yield Path(sys.executable)
    for folder in map(Path, os.environ.get("PATH", "").split(os.pathsep)):
        yield from (folder / name for name in ("python3", "python") if (folder / name).is_file())
        yield from (path for path in sorted(folder.glob("python3.*")) if path.name[8:].isdigit())
    for folder in _folders():
        yield from (path for path in (folder / "bin" / "python3", folder / "python.exe") if path.is_file())


def _folders() -> Iterator[Path]:
    """Roots of installations: ``<root>/bin/python3``."""
    home = Path.home()
    yield from sorted(_uv_pythons().glob("cpython-*"))
    roots = [home / name for name in ("miniconda3", "miniforge3", "anaconda3", "mambaforge")]
    if executable := os.environ.get("CONDA_EXE"):
        roots.insert(0, Path(executable).parent.parent)
    if prefix := os.environ.get("CONDA_PREFIX"):
        yield Path(prefix)
    for root in roots:
        yield root
        yield from sorted((root / "envs").glob("*"))
    yield from sorted((Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions").glob("*"))


def _uv_pythons() -> Path:
    """The folder of interpreters that uv installed, as uv itself says."""
    import uv

    try:
        ended = subprocess.run(
            [uv.find_uv_bin(), "python", "dir"], check=False, capture_output=True, text=True, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return Path(os.devnull)
    return Path(ended.stdout.strip() or os.devnull)
