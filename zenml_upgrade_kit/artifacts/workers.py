"""Where shards run: in processes of this machine, or on a Dask cluster; what each gave is kept until all is done."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Generator, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from zenml_upgrade_kit.artifacts import shards
from zenml_upgrade_kit.artifacts.shards import Shard
from zenml_upgrade_kit.errors import ClusterUnusable, ToolMissing
from zenml_upgrade_kit.runs import write_whole

Results = list[dict[str, Any]]
AHEAD = 2
"""Shards that are handed out for each worker, so that none waits for the next one."""


@dataclass(frozen=True, kw_only=True)
class Lane:
    """Where shards run. width: how many may be out at a time."""

    executor: Executor
    width: int


@dataclass(frozen=True, kw_only=True)
class Job:
    """A shard of one side, ``source`` or ``target``, and the name of the lane that it runs in.

    environment: what its results depend on beside the shard, such as the packages that are installed.
    """

    side: str
    lane: str
    shard: Shard
    environment: str = ""

    @cached_property
    def key(self) -> str:
        """A name for its results: the same for the same artifact versions, settings and environment."""
        settings = replace(self.shard.settings, folder="", database="", code="")  # a run has one copy of the code
        told = [self.side, self.environment, self.shard.url, list(self.shard.artifacts), asdict(settings)]
        return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()[:32]


@contextmanager
def here(workers: int = 0) -> Iterator[Lane]:
    """This machine: threads, each of which drives loading processes; one a core when ``workers`` is 0."""
    width = workers or os.cpu_count() or 1
    with ThreadPoolExecutor(width, thread_name_prefix="shard") as executor:
        try:
            yield Lane(executor=executor, width=AHEAD * width)
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            shards.close()


@contextmanager
def cluster(scheduler: str, version: str, code: Path | None) -> Iterator[tuple[Lane, str]]:
    """A Dask cluster whose workers have the environment of ZenML ``version``, and the name of the code there.

    What a worker needs of the kit travels to it, also to those that join later. Raises :class:`ClusterUnusable`.
    """
    try:
        import distributed
    except ImportError:
        raise ToolMissing(
            "the package for Dask clusters is not installed",
            expected="the kit's extra [dask]",
            found="no distributed",
            remedy="pip install 'zenml-upgrade-kit[dask]', or leave out the scheduler",
        ) from None
    with ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            client = stack.enter_context(distributed.Client(scheduler, timeout=10, set_as_default=False))
            lane, name = _prepared(client, scheduler, version, code, folder)
        except (OSError, TimeoutError) as error:
            raise ClusterUnusable(
                f"the Dask cluster {scheduler} does not answer",
                expected="a scheduler and its workers",
                found=str(error) or type(error).__name__,
                remedy="start it, or leave out the scheduler; a killed check goes on where it was",
            ) from None
        yield lane, name


def _prepared(client: Any, scheduler: str, version: str, code: Path | None, folder: Path) -> tuple[Lane, str]:
    """The lane of a cluster whose workers have what they need, and the name of the code there."""
    threads, expected = sum(client.nthreads().values()), f"workers whose environment has ZenML {version}"
    if not threads:
        raise ClusterUnusable(
            f"the Dask cluster {scheduler} has no worker",
            expected=expected,
            found="none",
            remedy="start some: dask worker " + scheduler,
        )
    client.upload_file(str(_zipped(folder / f"zenml_upgrade_kit-{os.getpid()}.zip", _KIT.parent, _KIT.name)))
    name = ""
    if code:
        name = f"zenml-upgrade-code-{os.getpid()}.zip"
        client.upload_file(str(_zipped(folder / name, code)), load=False)
    found = set(client.run(shards.release).values())
    if found != {version}:
        raise ClusterUnusable(
            f"the workers of {scheduler} cannot load with ZenML {version}",
            expected=expected,
            found=", ".join(sorted(one or "no ZenML" for one in found)),
            remedy="start the workers with the environment that you want to check, without other ones",
        )
    return Lane(executor=client.get_executor(), width=AHEAD * threads), name


_KIT = Path(__file__).parent.parent


def _zipped(archive: Path, folder: Path, below: str = "") -> Path:
    """The Python files of a folder, or of one of its folders, in a zip that can be imported."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted((folder / below).rglob("*")):
            if path.is_file() and (not below or path.suffix == ".py"):
                file.write(path, path.relative_to(folder))
    return archive


def results(
    jobs: Iterable[Job], lanes: Mapping[str, Lane], kept: Path, *, most_bytes: int = 0
) -> Generator[tuple[Job, Results], None, None]:
    """What each job gave, in the order in which they end; what an earlier attempt left in ``kept`` is not done again.

    most_bytes: what may be read in all, 0 for no limit. Each shard may read half of what is left; what did not fit is
    tried again when the others are done, with all of it. Raises :class:`ClusterUnusable` when a cluster goes away.
    """
    kept.mkdir(parents=True, exist_ok=True)
    out: dict[Future[Results], tuple[Job, int]] = {}
    left, again = most_bytes, list[tuple[Job, Results]]()

    def hand_out(job: Job, allowance: int) -> None:
        nonlocal left
        left -= allowance
        out[lanes[job.lane].executor.submit(shards.run, job.shard, allowance)] = (job, allowance)

    def ended() -> Iterator[tuple[Job, Results]]:
        nonlocal left
        for future in wait(out, return_when=FIRST_COMPLETED).done:
            job, allowance = out.pop(future)
            found = _answer(job, future)
            left += allowance and allowance - sum(one["bytes"] for one in found if one["state"] == "loaded")
            yield job, found

    def settled() -> Iterator[tuple[Job, Results]]:
        for job, found in ended():
            if any(one["state"] == "deferred" for one in found):
                again.append((job, found))
            else:
                yield _keep(kept, job, found)

    for job in jobs:
        if (known := _kept(kept, job)) is not None:
            yield job, known
            continue
        while sum(other.lane == job.lane for other, _ in out.values()) >= lanes[job.lane].width:
            yield from settled()
        hand_out(job, max(1, left // 2) if most_bytes else 0)
    while out:
        yield from settled()
    for job, first in again:
        missed = {one["id"] for one in first if one["state"] == "deferred"}
        rest = replace(job.shard, artifacts=tuple(one for one in job.shard.artifacts if one["id"] in missed))
        hand_out(replace(job, shard=rest), max(1, left))
        second = {one["id"]: one for _, found in ended() for one in found}
        yield _keep(kept, job, [second.get(one["id"], one) for one in first])


def _answer(job: Job, future: Future[Results]) -> Results:
    """The results of a shard; when no worker outlived it, its artifact versions are unreadable."""
    try:
        return future.result()
    except CancelledError:
        raise ClusterUnusable(
            "the Dask cluster went away",
            expected="a scheduler that stays until the check is done",
            found="a lost connection",
            remedy="start it again; the check goes on where it was",
        ) from None
    except Exception as error:
        if type(error).__name__ != "KilledWorker":
            raise
        why = "every worker that read this shard was lost"
        nothing = {"state": "unreadable", "why": why, "bytes": 0, "files": 0, "fetch_seconds": 0.0}
        return [{**nothing, "id": one["id"], "look": None, "loaded": None} for one in job.shard.artifacts]


def _keep(kept: Path, job: Job, found: Results) -> tuple[Job, Results]:
    write_whole(kept / f"{job.key}.json", json.dumps(found))
    return job, found


def _kept(kept: Path, job: Job) -> Results | None:
    try:
        found: Results = json.loads((kept / f"{job.key}.json").read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return None
