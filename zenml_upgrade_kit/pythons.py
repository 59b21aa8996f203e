"""Finds the Python interpreters of this machine: on PATH, uv's own, conda's, pyenv's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

PLACES = "on PATH, in uv's, conda's and pyenv's folders"
"""Where :func:`find` looks, for messages."""


@dataclass(frozen=True, kw_only=True)
class Python:
    """A CPython that answers, and is none of a virtual environment."""

    path: Path
    version: str

    @property
    def minor(self) -> str:
        """``3.11``: what compatibility of pickles and of wheels depends on."""
        return ".".join(self.version.split(".")[:2])


def find() -> list[Python]:
    """Every usable interpreter, newest first; uv executes each, since a pyenv shim may be dead.

    Left out: free-threaded and debug builds, which old libraries have no wheels for, and pre-releases.
    """
    import uv

    path = os.pathsep.join([*map(str, _folders()), os.environ.get("PATH", "")])
    command = [uv.find_uv_bin(), "python", "list", "--only-installed", "--no-config", "--output-format", "json"]
    try:
        ended = subprocess.run(
            command, check=False, env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=120
        )
        listed = json.loads(ended.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    usable = [
        Python(path=Path(one["path"]), version=one["version"])
        for one in listed
        if (one["implementation"], one["variant"]) == ("cpython", "default")
        and not Version(one["version"]).is_prerelease
    ]
    return sorted(usable, key=lambda python: Version(python.version), reverse=True)


def _folders() -> Iterator[Path]:
    """Folders that uv would not look into, before PATH, so that pyenv's own interpreters win over its shims."""
    home, conda = Path.home(), os.environ.get("CONDA_EXE")
    condas = [Path(conda).parent.parent] if conda else []
    condas += [home / name for name in ("miniconda3", "miniforge3", "anaconda3", "mambaforge")]
    roots = sorted(Path(os.environ.get("PYENV_ROOT") or home / ".pyenv").glob("versions/*"))
    for root in condas:
        roots += [root, *sorted(root.glob("envs/*"))]
    yield Path(getattr(sys, "_base_executable", "") or sys.executable).parent
    yield from (folder for root in roots for folder in (root / "bin", root) if folder.is_dir())
