"""The two releases of a check: the environment of each, its copy of the database, and how its shards are loaded."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.artifacts import shards, workers
from zenml_upgrade_kit.artifacts.locations import Location
from zenml_upgrade_kit.artifacts.shards import Loaded, Settings, Shard
from zenml_upgrade_kit.artifacts.workers import Job, Lane
from zenml_upgrade_kit.choices import ArtifactChoices
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.stores.address import Server

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Side:
    """One release, ``source`` or ``target``. lane: where artifacts of remote stores are loaded, with the code there."""

    name: str
    environment: Environment
    settings: Settings
    lane: str = "here"
    code: str = ""

    @classmethod
    def begin(
        cls,
        name: str,
        environment: Environment,
        database: Path | Server,
        folder: Path,
        chosen: ArtifactChoices,
        code: Path | None,
        lanes: dict[str, Lane],
        stack: ExitStack,
    ) -> Side:
        """A side, and the lane of its cluster where the user named one; the stack ends what was started.

        database: of a file, loading processes get a copy that a ZenML client may write to; of a server nothing, for
        that would take the password. folder: for that copy, and for a folder for the processes.
        """
        scheduler = chosen.scheduler if name == "target" else chosen.source_scheduler
        lane, there = "here", ""
        if scheduler:
            lane = name
            lanes[lane], there = stack.enter_context(workers.cluster(scheduler, environment.version, code))
        own = "" if isinstance(database, Server) else str(shutil.copy2(database, folder / f"{name}.db"))
        settings = Settings(
            python=str(environment.python),
            version=environment.version,
            folder=str(folder / name),
            code=str(code or ""),
            database=own,
            timeout=chosen.timeout,
            memory=int(chosen.memory) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2,
            max_bytes=int(chosen.max_bytes),
            look=name == "target",
            load=not chosen.static_only,
        )
        return cls(name=name, environment=environment, settings=settings, lane=lane, code=there)

    def job(self, rows: Sequence[Row], paths: Mapping[str, str], location: Location) -> Job:
        """Rows of one artifact store, to be loaded. A store on this machine's disk is read by this machine."""
        lane, settings = self.lane if location.url else "here", self.settings
        if lane != "here":
            settings = replace(settings, python="", folder="", database="", memory=0, code=self.code)
        asked = tuple(question(row, paths[row["id"]]) for row in rows)
        shard = Shard(artifacts=asked, settings=settings, url=location.url, options=location.options)
        packages = json.dumps([self.environment.version, dict(self.environment.packages)])
        return Job(side=self.name, lane=lane, shard=shard, environment=hashlib.sha256(packages.encode()).hexdigest())


def question(row: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """What is asked about an artifact version; path: the folder of its files, "" where they are fetched."""
    asked = {key: row[key] for key in ("id", "uri", "materializer", "data_type")} | {"root": row["store_root"]}
    return {**asked, "path": path} if path else asked


def load(rows: Iterable[Mapping[str, Any]], settings: Settings) -> dict[str, Loaded]:
    """Artifact versions of local stores by id, loaded."""
    wanted = tuple(question(row, row["uri"]) for row in rows)
    found = shards.run(Shard(artifacts=wanted, settings=settings)) if wanted else []
    return {one["id"]: loaded(one) for one in found}


def loaded(result: Mapping[str, Any] | None) -> Loaded:
    """What a shard's result says of one artifact version; one that was not loaded says why."""
    if result and result["loaded"]:
        return Loaded(**result["loaded"])
    return Loaded(error=result["why"] if result else "")
