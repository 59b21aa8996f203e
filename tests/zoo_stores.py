"""Real stores with one artifact of every kind, made once by real releases on their own Pythons, copied for a test."""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import environments, inventory, probing
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.stores import sqlite

CODE = Path(__file__).parent / "zoo"
"""The project that fills a store, and its requirements; ``visiting.py`` is the module that goes away."""

NEWEST = "0.98.0"

PYTHONS = {"0.43.0": "3.8", "0.55.5": "3.9", "0.60.0": "3.10", "0.85.0": "3.11", "0.97.0": "3.12"}
"""Source releases and the Python that each ran on."""


@dataclass(frozen=True, kw_only=True)
class Zoo:
    """A copy of a store. database: as the source left it; migrated: after :data:`NEWEST` migrated it."""

    code: Path
    database: Path
    migrated: Path
    local_stores: Path

    def rows(self, *, migrated: bool = False) -> dict[str, dict[str, Any]]:
        """The artifact versions by name, as the kit reads them from one of the databases."""
        with closing(sqlite.connect(self.migrated if migrated else self.database)) as connection:
            return {row["name"]: row for row in inventory.artifacts(connection, self.local_stores)}


@cache
def source(version: str) -> Environment:
    """The environment that filled a store."""
    return environments.ensure(version, prefer=PYTHONS[version], requirements=CODE / "requirements.txt")


@cache
def target(python: str) -> Environment:
    """The newest release on a Python, with the newest libraries."""
    return environments.ensure(NEWEST, prefer=python, requirements=CODE / "newest.txt")


def copy(version: str, own: Path) -> Zoo:
    """A store of its own in a new folder: absolute paths are rewritten, in the databases and beside the artifacts."""
    original = _original(version)
    shutil.copytree(original, own, ignore=shutil.ignore_patterns("lock"))
    stores = own / "stores"
    for file in stores.rglob("metadata.json"):  # a collection names the folders of its members
        file.write_text(file.read_text().replace(str(original), str(own)))
    zoo = Zoo(
        code=own / "code",
        database=stores / "default_zen_store" / "zenml.db",
        migrated=own / "migrated.db",
        local_stores=stores,
    )
    for database in (zoo.database, zoo.migrated):
        _rewrite(database, {str(original): str(own)})
    return zoo


def _rewrite(database: Path, texts: Mapping[str, str]) -> None:
    """Replace texts in every column of every table."""
    with closing(sqlite3.connect(database)) as connection, connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            for column in [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]:
                for old, new in texts.items():
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?',
                        (old, new, f"%{old}%"),
                    )


@contextmanager
def _kept(version: str) -> Iterator[Path]:
    """The folder of what a release made of the zoo, beside the environments; one test process at a time."""
    content = [path.read_bytes() for path in sorted(CODE.rglob("*")) if path.suffix in (".py", ".txt")]
    key = hashlib.sha256(b"\0".join(content)).hexdigest()[:12]
    folder = environments.cache_folder().parent / "samples" / f"zoo-{version}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _original(version: str) -> Path:
    """The kept store of a release; made when it is not there yet, and migrated on a copy."""
    with _kept(version) as folder:
        done = folder / "done.json"
        if not done.exists():
            for part in ("stores", "code", "build"):
                shutil.rmtree(folder / part, ignore_errors=True)
            code = shutil.copytree(CODE, folder / "code", ignore=shutil.ignore_patterns("__pycache__"))
            environment = source(version)
            (folder / "build").mkdir()
            ended = probing.run_command(
                environment,
                [str(environment.python), "-B", "run.py"],
                folder=folder / "build",
                variables={"ZENML_LOCAL_STORES_PATH": str(folder / "stores"), "TMPDIR": str(folder / "build")},
                timeout=900,
                cwd=code,
            )
            assert ended.returncode == 0, ended.last_lines(60)
            database = folder / "stores" / "default_zen_store" / "zenml.db"
            sqlite.online_backup(database, folder / "migrated.db")
            variables = {"ZENML_STORE_URL": f"sqlite:///{folder / 'migrated.db'}"}
            reply = probing.run_probe(
                target("3.12"), "migrate", {}, folder=folder / "build", variables=variables, timeout=900
            )
            assert "error" not in reply, reply
            shutil.rmtree(folder / "build")
            done.write_text(json.dumps({"python": environment.python_version}), encoding="utf-8")
    return folder
