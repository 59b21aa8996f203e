"""Artifact checks against the loop of ZenML's own documentation, and against plain pandas and numpy.

``python tests/bench/bench_artifacts.py [--scale 0.1|1] [--only small|files|memory|dask]``

Scale 1 is 10,000 small artifacts, 400 files of a megabyte of each kind and 1,000,000 rows for the memory.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any, cast

import make_store
from measure import Way, apart, compare, inside, options

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest

from zenml_upgrade_kit import demo, environments, probing
from zenml_upgrade_kit.artifacts import check, locations, selection, shards, workers
from zenml_upgrade_kit.artifacts.shards import Settings, Shard
from zenml_upgrade_kit.artifacts.sides import Side
from zenml_upgrade_kit.artifacts.tally import Tally
from zenml_upgrade_kit.artifacts.workers import Job, Lane
from zenml_upgrade_kit.choices import ArtifactChoices
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.stores import sqlite

SOURCE, TARGET = make_store.RELEASE, "0.98.0"
PROCESSES = 2
LATENCY = 0.02
"""Seconds that are added to each answer of the stand-in for S3."""

LOOP = """
import json, sys
from zenml.client import Client
client = Client()
for key in json.load(open(sys.argv[1])):
    client.get_artifact_version(key).load()
"""

MAKE_FILES = """
import os, sys
import numpy as np, pandas as pd
random = np.random.default_rng(0)
for number in range(int(sys.argv[2])):
    for kind in ("parquet", "npy"):
        os.makedirs(os.path.join(sys.argv[1], kind, str(number)))
    frame = pd.DataFrame({"whole": random.integers(0, 10**6, 42_000), "real": random.random(42_000),
                          "text": random.integers(0, 10**4, 42_000).astype(str)})
    frame["when"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(frame["whole"], unit="s")
    frame.to_parquet(os.path.join(sys.argv[1], "parquet", str(number), "df.parquet.gzip"), compression="gzip")
    np.save(os.path.join(sys.argv[1], "npy", str(number), "data.npy"), random.random(131_072))
"""

READ_FILES = """
import json, multiprocessing, os, sys, time
import numpy as np, pandas as pd

def forget(paths):
    os.sync()
    for path in paths:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)

def read(path):
    if path.endswith("npy"):
        return np.load(path, allow_pickle=True).shape
    with open(path, "rb") as file:
        return pd.read_parquet(file).shape

paths = json.load(open(sys.argv[1]))
with multiprocessing.get_context("fork").Pool(int(sys.argv[2])) as pool:
    pool.map(read, paths[:8], chunksize=1)
    if len(sys.argv) > 3:
        forget(paths)
    started = time.perf_counter()
    pool.map(read, paths, chunksize=-(-len(paths) // 4))
    print(time.perf_counter() - started)
"""


@dataclass(frozen=True, kw_only=True)
class Many:
    """A store with many artifact versions. database: as the source left it; migrated: by the target."""

    source: Environment
    target: Environment
    database: Path
    migrated: Path
    local_stores: Path
    code: Path


def sample(folder: Path) -> Many:
    """What the source release made of the sample, and the environments of both releases with the same libraries.

    The database is a copy, the artifacts are those of the tests' own sample.
    """
    made = conftest._sample(SOURCE)
    source = environments.ensure(SOURCE, requirements=demo.SAMPLE / "requirements.txt")
    libraries = {name: source.packages[name] for name in ("numpy", "pandas", "pyarrow", "scikit-learn")}
    target = environments.ensure(TARGET, prefer=source.python_version.rpartition(".")[0], libraries=libraries)
    local_stores = made / "deployment" / "local_stores"
    return Many(
        source=source,
        target=target,
        database=Path(shutil.copy2(local_stores / "default_zen_store" / "zenml.db", folder / "zenml.db")),
        migrated=folder / "migrated.db",
        local_stores=local_stores,
        code=made / "code",
    )


def small_artifacts(folder: Path, count: int) -> Many:
    """The sample many times, with runs and steps as a real store has them, each artifact with files of its own."""
    many = sample(folder)
    make_store.sqlite_store(many.database, count / (18 * make_store.VERSIONS))
    stores = folder / "stores"
    with closing(sqlite3.connect(many.database)) as connection, connection:
        originals = str(many.local_stores)
        for number, (key, uri) in enumerate(connection.execute("SELECT id, uri FROM artifact_version").fetchall()):
            kept = Path(uri) if any(file.is_file() for file in Path(uri).glob("*")) else Path(uri).parent
            own = Path(f"{stores / kept.relative_to(originals)}-{number}")
            own.mkdir(parents=True)
            for file in kept.iterdir():
                if file.is_file():
                    shutil.copy2(file, own)
            connection.execute("UPDATE artifact_version SET uri = ? WHERE id = ?", (str(own), key))
    many = replace(many, local_stores=stores)
    migrate(many)
    return many


def rows_alone(folder: Path, count: int) -> Many:
    """The sample, and rows of so many artifact versions, in the database before and after its migration."""
    many = sample(folder)
    migrate(many)
    for database in (many.database, many.migrated):
        with closing(sqlite3.connect(database)) as connection, connection:
            names = [row[1] for row in connection.execute("PRAGMA table_info(artifact_version)")]
            made = {
                "id": "substr(id, 1, 24) || printf('%08x', n)",
                "version": "'copy ' || n",
                "version_number": "n + 9",
            }
            columns, values = ", ".join(names), ", ".join(made.get(name, name) for name in names)
            connection.execute(
                f"WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s LIMIT {-(-count // 18)})"
                f" INSERT INTO artifact_version ({columns}) SELECT {values} FROM artifact_version CROSS JOIN s"
            )
    return many


def migrate(many: Many) -> None:
    """Make the migrated database."""
    sqlite.online_backup(many.database, many.migrated)
    variables = {"ZENML_STORE_URL": f"sqlite:///{many.migrated}"}
    folder = many.migrated.parent / "migration"
    reply = probing.run_probe(many.target, "migrate", {}, folder=folder, variables=variables, timeout=3600)
    assert "error" not in reply, reply


def counted(many: Many) -> int:
    with closing(sqlite.connect(many.migrated)) as connection:
        return selection.count(connection)


def script(environment: Environment, text: str, *arguments: str, folder: Path, **variables: str) -> str:
    """What a script says last, run in an environment; the folder keeps its log."""
    (folder / "script.py").write_text(text)  # ZenML asks where the main module is
    command = [str(environment.python), "-B", str(folder / "script.py"), *arguments]
    ended = probing.run_command(environment, command, folder=folder, variables=variables, timeout=7200)
    assert ended.returncode == 0, ended.last_lines(30)
    return ended.last_lines(1)


def loop(many: Many) -> Way:
    """The documented way, in the target's environment: one artifact version after the other, nothing compared."""

    def run(folder: Path) -> None:
        database = Path(shutil.copy2(many.migrated, folder / "copy.db"))
        with closing(sqlite.connect(database)) as connection:
            ids = [str(uuid.UUID(row[0])) for row in connection.execute("SELECT id FROM artifact_version")]
        (folder / "ids.json").write_text(json.dumps(ids))
        script(
            many.target,
            LOOP,
            str(folder / "ids.json"),
            folder=folder,
            ZENML_STORE_URL=f"sqlite:///{database}",
            ZENML_LOCAL_STORES_PATH=str(many.local_stores),
            PYTHONPATH=str(many.code),
        )

    return run


def sides(many: Many, folder: Path, **chosen: Any) -> dict[str, Side]:
    """Both releases as the step has them; chosen: settings of both."""
    found = {}
    for name, environment, database in (
        ("source", many.source, many.database),
        ("target", many.target, many.migrated),
    ):
        own = folder / name
        own.mkdir()
        settings = Settings(
            python=str(environment.python),
            version=environment.version,
            folder=str(own),
            code=str(many.code),
            database=str(shutil.copy2(database, folder / f"{name}.db")),
            look=name == "target",
        )
        found[name] = Side(name=name, environment=environment, settings=replace(settings, **chosen))
    return found


def load(many: Many, folder: Path) -> int:
    """How many load in the target; nothing is looked at, called or compared."""
    target = sides(many, folder, look=False, call=False)["target"]
    with workers.here(PROCESSES) as lane, closing(sqlite.connect(many.migrated)) as rows:
        places = locations.locations(rows, many.local_stores)
        pages = selection.pages(rows, many.local_stores)
        jobs = (
            target.job(some, {row["id"]: row["uri"] for row in some}, places[some[0]["store_id"]])
            for some in selection.groups(row for page in pages for row in page)
        )
        found = workers.results(jobs, {"here": lane}, folder / "kept")
        return sum(one["loaded"]["ok"] for _, done in found for one in done)


def checked(many: Many, folder: Path) -> Tally:
    """What the step does: shards, kept results, looks, calls, comparison, causes and counts."""
    both = sides(many, folder)
    with (
        workers.here(PROCESSES) as lane,
        closing(sqlite.connect(many.database)) as rows,
        closing(sqlite.connect(many.migrated)) as migrated,
        (folder / "artifacts.jsonl").open("w") as file,
    ):
        found = check._Check(
            step=cast(Any, None),  # nothing of it is asked for here
            chosen=ArtifactChoices(),
            source=both["source"],
            target=both["target"],
            lanes={"here": lane},
            rows=rows,
            migrated=migrated,
            local_stores=many.local_stores,
            places=locations.locations(rows, many.local_stores),
        )
        tally = Tally(file, lambda value: value)
        found.carry_out(tally, folder / "kept", lambda **_: None)
    return tally


def small(folder: Path, scale: float, repeat: int) -> None:
    """Many small artifacts of mixed kinds."""
    many = small_artifacts(folder, int(10_000 * scale))
    count = counted(many)

    def load_only(folder: Path) -> None:
        assert load(many, folder) == count

    def whole(folder: Path) -> None:
        tally = checked(many, folder)
        assert tally.counts["identical"] == tally.total == count, (tally.counts, tally.reasons)

    ways = {
        "Client().get_artifact_version(id).load()": loop(many),
        "kit, load only": load_only,
        "kit, both releases, look and comparison": whole,
    }
    targets = {"kit, load only": 0.167, "kit, both releases, look and comparison": 0.333}
    compare(f"{count:,} small artifacts", ways, repeat=repeat, folder=folder, targets=targets)


def files(folder: Path, scale: float, repeat: int) -> None:
    """Files of a megabyte: seconds for each artifact beside plain reading, in as many processes that have started."""
    many, count = sample(folder), max(8, int(400 * scale))
    script(many.target, MAKE_FILES, str(folder / "files"), str(count), folder=folder)
    for kind, name, library, data_type in (
        ("parquet", "df.parquet.gzip", "pandas", ("pandas.core.frame", "DataFrame")),
        ("npy", "data.npy", "numpy", ("numpy", "ndarray")),
    ):
        materializer = {"pandas": "PandasMaterializer", "numpy": "NumpyMaterializer"}[library]
        module = f"zenml.integrations.{library}.materializers.{library}_materializer"
        asked = [
            {
                "id": str(path),
                "uri": str(path),
                "path": str(path),
                "root": str(folder / "files"),
                "materializer": {"module": module, "attribute": materializer},
                "data_type": dict(zip(("module", "attribute"), data_type, strict=True)),
            }
            for path in sorted((folder / "files" / kind).iterdir())
        ]
        paths = [str(folder / "files" / kind / str(number) / name) for number in range(count)]
        for memory in ("files in memory", "files on disk"):
            plain, ours = [], []
            for turn in range(repeat):
                own = folder / f"{kind}-{memory}-{turn}"
                own.mkdir()
                (own / "paths.json").write_text(json.dumps(paths))
                cold = ["cold"] if memory == "files on disk" else []
                asking = (str(own / "paths.json"), str(PROCESSES), *cold)
                plain.append(float(script(many.target, READ_FILES, *asking, folder=own)) / count)
                settings = Settings(python=str(many.target.python), version=TARGET, folder=str(own), look=False)
                ours.append(_in_shards(asked, settings, paths if cold else ()) / count)
            size = sum(Path(path).stat().st_size for path in paths) / count
            print(f"\n{count} {kind} {memory}, {size / 1e6:.2f} MB, medians of {repeat}, {PROCESSES} processes")
            print(f"  {'plain':44}{statistics.median(plain) * 1e3:8.2f} ms for each")
            print(f"  {'kit, load and describe':44}{statistics.median(ours) * 1e3:8.2f} ms for each")
            ratio = statistics.median(ours) / statistics.median(plain)
            print(f"  {'ratio':44}{ratio:8.2f}    target <= 1.3", flush=True)


def _in_shards(asked: Sequence[Mapping[str, Any]], settings: Settings, cold: Sequence[str] = ()) -> float:
    """Seconds that artifacts take in processes that have started; in as many shards as the plain way has.

    cold: files that are not to be in memory when the clock starts.
    """
    size = -(-len(asked) // 4)
    with ThreadPoolExecutor(PROCESSES) as threads:

        def done(some: Sequence[Mapping[str, Any]]) -> int:
            found = shards.run(Shard(artifacts=tuple(some), settings=settings))
            return sum(bool(one["loaded"] and one["loaded"]["ok"]) for one in found)

        sum(threads.map(done, [asked[:4], asked[4:8]]))
        os.sync()
        for path in cold:
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        started = time.perf_counter()
        loaded = sum(threads.map(done, [asked[at : at + size] for at in range(0, len(asked), size)]))
        seconds = time.perf_counter() - started
    shards.close()
    assert loaded == len(asked), loaded
    return seconds


def memory(folder: Path, scale: float, repeat: int) -> None:
    """Peak memory of the process that plans and counts, the loading being a stand-in."""
    del repeat
    many = rows_alone(folder, int(1_000_000 * scale))
    count = counted(many)
    own = folder / "check"
    own.mkdir()

    def work() -> None:
        shards.run = _stand_in
        tally = checked(many, own)
        assert tally.total == count, tally.counts

    started = time.perf_counter()
    peak, _ = apart(work)
    print(f"\nThe coordinator with {count:,} artifact versions, loads stood in for")
    print(f"  {'peak memory':44}{peak:8.0f} MB    target <= 300")
    print(f"  {'time':44}{time.perf_counter() - started:8.1f} s", flush=True)


def _stand_in(shard: Shard, allowance: int = 0) -> list[dict[str, Any]]:
    """Results as of frames, one in ten of which has another column type in the target release."""
    changed = ["0" * 64, "str with nan"] if shard.settings.version == TARGET else ["1" * 64, "object with None"]
    found = []
    for one in shard.artifacts:
        parts = {f"column {name}": ["2" * 64, "int64"] for name in ("months", "calls", "spent")}
        if one["id"][-1] in "0f":
            parts["column name"] = changed
        summary = "DataFrame 120 × 4: months int64, calls int64, spent float64, name " + changed[1]
        digest = parts.get("column name", parts["column calls"])[0]
        loaded = shards.Loaded(ok=True, type="pandas.core.frame.DataFrame", summary=summary, digest=digest, near=digest)
        loaded = replace(loaded, parts=parts, basis="content", seconds=0.001)
        look: dict[str, Any] = {"kind": "parquet", "problem": "", "python": "", "pydantic1": False}
        look |= {key: [] for key in ("by_value", "code_names", "globals", "roots", "missing")}
        result = {"id": one["id"], "state": "loaded", "why": "", "bytes": 5000, "files": 1, "fetch_seconds": 0.0}
        found.append({**result, "look": look if shard.settings.look else None, "loaded": vars(loaded)})
    return found


def dask(folder: Path, scale: float, repeat: int) -> None:
    """One and four Dask workers, integers in a stand-in for S3 that answers slowly."""
    import distributed

    started: Any = distributed  # it has no types
    count, medians = max(80, int(1_600 * scale)), {}
    with slow_s3() as (address, bucket):
        key = {"key": "AKIABENCH", "secret": "bench", "client_kwargs": {"endpoint_url": address}}
        asked = _in_bucket(bucket, count, key)
        for number in (1, 4):
            times = []
            for turn in range(repeat):
                with (
                    started.LocalCluster(
                        n_workers=number, threads_per_worker=1, processes=True, dashboard_address=None
                    ) as local,
                    workers.cluster(local.scheduler_address, version("zenml"), None) as (lane, _),
                    started.Client(local, set_as_default=False) as client,
                ):
                    client.run(shards.run, _remote(asked[:2], bucket, key))  # every worker starts its processes
                    times.append(_through(lane, asked, bucket, key, folder / f"kept-{number}-{turn}"))
            medians[number] = statistics.median(times)
    print(f"\n{count} artifacts in S3, {LATENCY * 1e3:g} ms added to each answer, medians of {repeat}")
    for number, seconds in medians.items():
        print(f"  {f'Dask, {number} worker(s)':44}{seconds:8.2f} s")
    print(f"  {'ratio':44}{medians[1] / medians[4]:8.2f}    target >= 3.5", flush=True)


def _through(lane: Lane, asked: Sequence[dict[str, Any]], bucket: str, options: Mapping[str, Any], kept: Path) -> float:
    """Seconds for all of them in shards of a twentieth."""
    size = len(asked) // 20
    jobs = [
        Job(side="target", lane="target", shard=_remote(asked[at : at + size], bucket, options))
        for at in range(0, len(asked), size)
    ]
    started = time.perf_counter()
    found = [one for _, done in workers.results(jobs, {"target": lane}, kept) for one in done]
    seconds = time.perf_counter() - started
    assert len(found) == len(asked)
    assert all(one["loaded"] and one["loaded"]["ok"] for one in found), found[0]
    return seconds


def _remote(asked: Sequence[dict[str, Any]], bucket: str, options: Mapping[str, Any]) -> Shard:
    settings = Settings(python="", version=version("zenml"), folder="", look=False)
    return Shard(artifacts=tuple(asked), settings=settings, url=bucket, options=options)


def _in_bucket(bucket: str, count: int, options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Integers as ZenML stores them, and the questions about them."""
    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=options["client_kwargs"]["endpoint_url"],
        aws_access_key_id=options["key"],
        aws_secret_access_key=options["secret"],
        region_name="us-east-1",
    )
    client.create_bucket(Bucket=bucket.removeprefix("s3://"))

    def put(value: int) -> dict[str, Any]:
        name = f"step/output/{value}"
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=f"{name}/data.json", Body=str(value).encode())
        return {
            "id": str(value),
            "uri": f"{bucket}/{name}",
            "root": bucket,
            "materializer": {
                "module": "zenml.materializers.built_in_materializer",
                "attribute": "BuiltInMaterializer",
            },
            "data_type": {"module": "builtins", "attribute": "int"},
        }

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(put, range(count)))


@contextmanager
def slow_s3() -> Iterator[tuple[str, str]]:
    """Address and bucket of a server on loopback, in a process of its own."""
    context = get_context("fork")
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=partial(_serve_slowly, writing), daemon=True)
    process.start()
    try:
        yield f"http://127.0.0.1:{reading.recv()}", "s3://bench"
    finally:
        process.terminate()
        process.join()


def _serve_slowly(told: Any) -> None:
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections are kept, as S3 does
    moto = DomainDispatcherApplication(create_backend_app)

    def answer(surroundings: Any, start: Any) -> Any:
        time.sleep(LATENCY)
        return moto(surroundings, start)

    server = make_server("127.0.0.1", 0, answer, threaded=True)
    told.send(server.server_port)
    server.serve_forever()


def main() -> None:
    given = options(__doc__, only="")
    with inside(given.folder) as text:
        for work in (small, files, memory, dask):
            if given.only in ("", work.__name__):
                own = Path(tempfile.mkdtemp(dir=text, prefix=f"{work.__name__}-"))
                work(own, given.scale, given.repeat)
                shutil.rmtree(own)


if __name__ == "__main__":
    main()
