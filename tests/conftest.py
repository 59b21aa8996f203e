"""Real deployments for tests: built once by real old releases, copied for every test."""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import adlfs
import azure_blobs
import boto3
import databases
import gcp_storage_emulator.server as gcs
import gcsfs
import pytest
import s3fs
import zstandard
from moto.server import ThreadedMotoServer

from zenml_upgrade_kit import demo, environments
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.probing import run_command
from zenml_upgrade_kit.stores import private
from zenml_upgrade_kit.stores.address import Server


@contextmanager
def _kept(version: str) -> Iterator[Path]:
    """The folder of what a release made of the sample, beside the environments; one test process at a time."""
    content = [path.read_bytes() for path in sorted(demo.SAMPLE.rglob("*")) if path.suffix in (".py", ".txt")]
    key = hashlib.sha256(b"\0".join(content)).hexdigest()[:12]
    folder = environments.cache_folder().parent / "samples" / f"{version}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder


def _sample(version: str) -> Path:
    """The folder of a sample built with a release."""
    with _kept(version) as folder:
        done = folder / "done.json"
        if not done.exists():
            shutil.rmtree(folder / f"sample-{version}", ignore_errors=True)
            done.write_text(json.dumps(demo.build(folder, version)), encoding="utf-8")
    return folder / f"sample-{version}"


@pytest.fixture(scope="session")
def deploy() -> Callable[[str, Path], Path]:
    """``deploy("0.70.0", folder)``: a ZenML config directory that this release filled, with ``code`` beside it.

    A whole copy of its own in a new folder: absolute paths in config.yaml and in the database are rewritten to it,
    artifacts included.
    """

    def copy(version: str, own: Path) -> Path:
        original = _sample(version)
        shutil.copytree(original, own)
        config = own / "deployment" / "config.yaml"
        config.write_text(config.read_text().replace(str(original), str(own)))
        database = own / "deployment" / "local_stores" / "default_zen_store" / "zenml.db"
        with closing(sqlite3.connect(database)) as connection, connection:
            tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                for column in [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]:
                    connection.execute(
                        f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE "{column}" LIKE ?',
                        (str(original), str(own), f"%{original}%"),
                    )
        return own / "deployment"

    return copy


@pytest.fixture
def deployment(deploy: Callable[[str, Path], Path], tmp_path: Path) -> Callable[..., Path]:
    """``deployment("0.70.0")``: the same, in this test's own folder."""

    def copy(version: str = "0.70.0", name: str = "") -> Path:
        return deploy(version, tmp_path / (name or f"deployment-{version}"))

    return copy


@pytest.fixture(scope="session")
def environment() -> Callable[[str], Environment]:
    """``environment("0.98.0")``: a release with one set of libraries, on a Python that old and new ones share."""
    libraries = {"numpy": "1.26.4", "pandas": "2.2.1", "pyarrow": "15.0.1", "scikit-learn": "1.4.1.post1"}

    @cache
    def find(version: str) -> Environment:
        return environments.ensure(version, libraries=libraries, companions=("0.55.5", "0.98.0"))

    return find


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    """A private MariaDB for the whole session, listening on its socket alone; account ``root`` without a password."""
    with private.server() as server:
        yield server


@pytest.fixture(scope="session")
def zenml_mariadb() -> Iterator[Server]:
    """Another one, that ZenML can reach: on a port of 127.0.0.1, account ``zenml`` with a password."""
    with databases.for_zenml() as server:
        yield server


@pytest.fixture(scope="session")
def mysql_store(mariadb: Server) -> Callable[..., Server]:
    """``mysql_store("0.55.5")``: a new database that this release filled with the sample's runs.

    On ``mariadb``, or on the server given as ``on``. There are no artifact files and no config.yaml to it.
    """
    numbers = itertools.count(1)

    def load(version: str, on: Server = mariadb) -> Server:
        own = on.using(f"store_{next(numbers)}")
        databases.client(on, f"CREATE DATABASE {own.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        databases.client(own, zstandard.decompress(_dump(version).read_bytes()).decode())
        return own

    return load


def _dump(version: str) -> Path:
    """What mariadb-dump wrote of the database that a release filled."""
    with _kept(version) as folder:
        dump, part = folder / "mysql.sql.zst", folder / "mysql.sql.part"
        if not dump.exists():
            environment = environments.ensure(version, requirements=demo.SAMPLE / "requirements.txt")
            with databases.for_zenml() as server, tempfile.TemporaryDirectory() as scratch:
                code = shutil.copytree(demo.SAMPLE, Path(scratch, "code"))
                ended = run_command(
                    environment,
                    [str(environment.python), "-B", "run.py"],
                    folder=Path(scratch),
                    variables={
                        "ZENML_STORE_TYPE": "sql",
                        "ZENML_STORE_URL": databases.zenml_url(server.using("zenml")),
                    },
                    timeout=900,
                    cwd=code,
                )
                assert ended.returncode == 0, ended.last_lines()
                part.write_bytes(zstandard.compress(databases.run("mariadb-dump", server, "zenml")))
            part.rename(dump)
    return dump


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of a server on loopback that speaks Amazon's S3 protocol."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """``s3://…``: a new bucket of its own; the credentials are in the environment, as Amazon's tools want them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-for-tests")
    s3fs.S3FileSystem.clear_instance_cache()  # one made by another test has its credentials
    name = f"bucket-{secrets.token_hex(4)}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"


@pytest.fixture(scope="session")
def gs_server() -> Iterator[str]:
    """The address of a server on loopback that speaks Google Cloud Storage's protocol."""

    def cancelled(_request: object, response: Any, _storage: object) -> None:
        response.status = SimpleNamespace(value=499, phrase="cancelled")  # as Google; the emulator lacks this request

    upload = next(methods for path, methods in gcs.HANDLERS if "/upload/" in path and path.endswith("/o$"))
    upload["DELETE"] = cancelled
    server = gcs.create_server("127.0.0.1", 0, in_memory=True)
    server.start()
    yield "http://{}:{}".format(*server._api._httpd.server_address)
    server.stop()


@pytest.fixture
def gs_bucket(gs_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """``gs://…``: a new bucket of its own."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", gs_server)
    monkeypatch.setenv("NO_GCE_CHECK", "true")  # nobody waits for a metadata server
    gcsfs.GCSFileSystem.clear_instance_cache()
    name = f"bucket-{secrets.token_hex(4)}"
    gcsfs.GCSFileSystem().mkdir(name)
    return f"gs://{name}"


@pytest.fixture
def az_container(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """``az://…``: a new container in a stand-in for Azure Blob Storage."""
    with azure_blobs.service() as connection:
        monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
        adlfs.AzureBlobFileSystem.clear_instance_cache()
        adlfs.AzureBlobFileSystem(connection_string=connection).mkdir("backups")
        yield "az://backups"


@pytest.fixture
def dask(tmp_path: Path) -> Iterator[Callable[[int], tuple[str, list[subprocess.Popen[bytes]]]]]:
    """``dask(4)``: the address of a new scheduler and its worker processes, with the kit's own environment."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        log = (tmp_path / f"dask-{len(started)}.log").open("wb")
        command = [sys.executable, "-m", "dask", *arguments]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, start_new_session=True)
        started.append(process)
        return process

    def cluster(number: int) -> tuple[str, list[subprocess.Popen[bytes]]]:
        file = tmp_path / "scheduler.json"
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        deadline = time.monotonic() + 60
        while not file.exists() or not file.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        address = json.loads(file.read_text())["address"]
        options = ("--nthreads", "1", "--no-nanny", "--no-dashboard", "--local-directory", str(tmp_path))
        made = [start("worker", address, *options) for _ in range(number)]
        import distributed

        with distributed.Client(address, set_as_default=False) as client:
            if number:
                client.wait_for_workers(number, timeout=60)
        return address, made

    yield cluster
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
