"""Where shards run: kept results, the limit on what is read, and a real Dask cluster whose workers may be killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import boto3
import pytest

from zenml_upgrade_kit.artifacts import shards, workers
from zenml_upgrade_kit.artifacts.shards import Settings, Shard
from zenml_upgrade_kit.artifacts.workers import Job, Lane
from zenml_upgrade_kit.errors import ClusterUnusable, ToolMissing

INT = {"module": "builtins", "attribute": "int", "type": "builtin"}
BUILT_IN = {"module": "zenml.materializers.built_in_materializer", "attribute": "BuiltInMaterializer"}
ZENML = version("zenml")
"""The release beside the kit: its environment is the one of the Dask workers."""


def stored(folder: Path, value: int) -> dict[str, Any]:
    """An integer as ZenML stores it, and the question about it."""
    folder.mkdir(parents=True)
    (folder / "data.json").write_text(json.dumps(value))
    return {"id": folder.name, "uri": str(folder), "root": str(folder.parent), "path": str(folder)} | {
        "materializer": BUILT_IN,
        "data_type": INT,
    }


def here(folder: Path, **values: Any) -> Settings:
    return Settings(python=sys.executable, version=ZENML, folder=str(folder), **values)


@contextmanager
def local_lanes() -> Iterator[dict[str, Lane]]:
    with workers.here(2) as lane:
        yield {"here": lane}


def jobs(tmp_path: Path, groups: int, size: int = 3, **settings: Any) -> list[Job]:
    made = []
    for group in range(groups):
        asked = tuple(stored(tmp_path / "store" / f"{group}-{number}", number) for number in range(size))
        shard = Shard(artifacts=asked, settings=here(tmp_path / "work", **settings))
        made.append(Job(side="target", lane="here", shard=shard))
    return made


class Counting(Executor):
    """Counts what is handed to a real executor."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.handed = executor, 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.handed += 1
        return self.executor.submit(fn, *args, **kwargs)


def test_a_check_that_was_stopped_goes_on_where_it_was(tmp_path: Path) -> None:
    made, kept = jobs(tmp_path, 4), tmp_path / "kept"
    with ThreadPoolExecutor(1) as pool:
        counting = Counting(pool)
        lanes = {"here": Lane(executor=counting, width=1)}
        first = workers.results(made, lanes, kept)
        before = [next(first) for _ in range(2)]
        first.close()
        pool.submit(int).result()  # what was handed out has ended
        handed = counting.handed
        after = {job.key: found for job, found in workers.results(made, lanes, kept)}
    shards.close()
    assert [after[job.key] for job, _ in before] == json.loads(json.dumps([found for _, found in before]))
    assert len(after) == 4
    assert counting.handed - handed == 2, "two were kept, two were done"
    assert all(one["loaded"]["ok"] for found in after.values() for one in found)


def test_results_of_another_environment_are_not_taken(tmp_path: Path) -> None:
    [job] = jobs(tmp_path, 1)
    assert job.key == Job(side="target", lane="here", shard=job.shard).key
    assert job.key != Job(side="target", lane="here", shard=job.shard, environment="pandas 3").key
    assert job.key != Job(side="source", lane="here", shard=job.shard).key
    there = replace(job.shard, settings=replace(job.shard.settings, code="zenml-upgrade-code-4711.zip"))
    assert job.key == Job(side="target", lane="target", shard=there).key, "another process names the code otherwise"


def test_no_more_is_read_than_was_allowed(tmp_path: Path) -> None:
    made = jobs(tmp_path, 6, 4)
    for job in made:
        for one in job.shard.artifacts:
            (Path(one["path"]) / "data.json").write_text("7" + " " * 999)
    with local_lanes() as lanes:
        found = [one for _, done in workers.results(made, lanes, tmp_path / "kept", most_bytes=10_500) for one in done]
    states = [one["state"] for one in found]
    assert states.count("loaded") == 10, "ten of 1,000 bytes fit"
    assert states.count("deferred") == 14


def in_bucket(bucket: str, number: int) -> list[dict[str, Any]]:
    """Integers in a bucket, as ZenML stores them, and the questions about them."""
    client, asked = boto3.client("s3"), []
    for value in range(number):
        uri = f"{bucket}/step/output/{value}"
        client.put_object(
            Bucket=bucket.removeprefix("s3://"), Key=f"step/output/{value}/data.json", Body=str(value).encode()
        )
        asked.append({"id": str(value), "uri": uri, "root": bucket, "materializer": BUILT_IN, "data_type": INT})
    return asked


def on_cluster(asked: list[dict[str, Any]], bucket: str, size: int = 5) -> list[Job]:
    settings = Settings(python="", version=ZENML, folder="")
    return [
        Job(
            side="target",
            lane="target",
            shard=Shard(artifacts=tuple(asked[at : at + size]), settings=settings, url=bucket),
        )
        for at in range(0, len(asked), size)
    ]


def test_a_dask_cluster_does_the_same_shards_and_a_killed_worker_costs_none(
    dask: Callable[[int], tuple[str, list[subprocess.Popen[bytes]]]], bucket: str, tmp_path: Path
) -> None:
    address, processes = dask(2)
    made = on_cluster(in_bucket(bucket, 60), bucket)
    with workers.cluster(address, ZENML, None) as (lane, code):
        found, began = [], workers.results(made, {"target": lane}, tmp_path / "kept")
        found += next(began)[1]
        os.killpg(processes[0].pid, signal.SIGKILL)
        found += [one for _, done in began for one in done]
    assert code == ""
    assert sorted(int(one["id"]) for one in found) == list(range(60))
    assert {(one["state"], one["why"], bool(one["loaded"]) and one["loaded"]["ok"]) for one in found} == {
        ("loaded", "", True)
    }


def test_the_users_code_travels_to_the_workers(
    dask: Callable[[int], tuple[str, list[subprocess.Popen[bytes]]]], bucket: str, tmp_path: Path
) -> None:
    address, _ = dask(1)
    (tmp_path / "code" / "team").mkdir(parents=True)
    (tmp_path / "code" / "team" / "__init__.py").write_text("class Count(int):\n    pass\n")
    [asked] = in_bucket(bucket, 1)
    asked["data_type"] = {"module": "team", "attribute": "Count", "type": "user"}
    [job] = on_cluster([asked], bucket)
    with workers.cluster(address, ZENML, tmp_path / "code") as (lane, code):
        shard = Shard(
            artifacts=job.shard.artifacts, settings=Settings(python="", version=ZENML, folder="", code=code), url=bucket
        )
        jobs = [Job(side="target", lane="target", shard=shard)]
        [(_, [one])] = list(workers.results(jobs, {"target": lane}, tmp_path / "kept"))
    assert one["loaded"], one
    assert one["loaded"]["missing"] == ""
    assert one["loaded"]["modules"] == ["team"]


def test_a_cluster_with_another_release_is_refused(dask: Callable[[int], tuple[str, Any]]) -> None:
    address, _ = dask(1)
    with (
        pytest.raises(ClusterUnusable, match=r"cannot load with ZenML 0\.70\.0"),
        workers.cluster(address, "0.70.0", None),
    ):
        pass


def test_what_goes_wrong_elsewhere_is_not_the_clusters_fault(dask: Callable[[int], tuple[str, Any]]) -> None:
    address, _ = dask(1)
    with pytest.raises(OSError, match="no space left"), workers.cluster(address, ZENML, None):
        raise OSError("no space left on device")


def test_a_cluster_without_workers_is_refused(dask: Callable[[int], tuple[str, Any]]) -> None:
    address, _ = dask(0)
    with pytest.raises(ClusterUnusable, match="has no worker"), workers.cluster(address, ZENML, None):
        pass


def test_a_cluster_that_is_not_there_is_refused() -> None:
    with pytest.raises(ClusterUnusable, match="does not answer"), workers.cluster("tcp://127.0.0.1:9", ZENML, None):
        pass


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ToolMissing, match=r"\[dask\]"), workers.cluster("tcp://127.0.0.1:9", ZENML, None):
        pass
