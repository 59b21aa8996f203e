"""Where artifact stores are: as real ZenML was told, with its credentials and no others, which nobody gets to see."""

import base64
import json
import os
import shutil
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import boto3
import gcsfs
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcsfs.extended_gcsfs import BucketType, ExtendedGcsFileSystem

from zenml_upgrade_kit import inventory
from zenml_upgrade_kit.artifacts import locations
from zenml_upgrade_kit.artifacts.locations import GONE, Location, place, reachable
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.places import open_place
from zenml_upgrade_kit.probing import run_command
from zenml_upgrade_kit.stores import Store, locate, sqlite

Deployment = Callable[..., Path]
Environments = Callable[[str], Environment]
CANARY = "canary-that-nobody-may-see"
ACCOUNT_KEY = base64.b64encode(CANARY.encode()).decode()
RELEASES = ["0.43.0", "0.60.0", "0.80.2", "0.98.0"]


@contextmanager
def serving(status: int, body: str = "", seen: list[str] | None = None) -> Iterator[str]:
    """The address of a server that answers everything in one way, or, with status 0, not at all."""
    closing_time = Event()

    class Answers(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            if seen is not None:
                seen.append(f"{self.path} {self.headers} {sent}")
            if not status:
                closing_time.wait()
                return
            answer = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json" if body.startswith("{") else "application/xml")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer)

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 as http.server wants them

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        closing_time.set()
        server.shutdown()
        server.server_close()


@contextmanager
def checking_requests(s3_server: str) -> Iterator[None]:
    """Meanwhile the S3 server knows who may do what."""

    def after(count: bytes) -> None:
        call = urllib.request.Request(f"{s3_server}/moto-api/reset-auth", data=count, headers={"Content-Type": "text"})
        urllib.request.urlopen(call).close()

    after(b"0")
    try:
        yield
    finally:
        after(b"inf")


@pytest.fixture(autouse=True)
def one_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """With credentials gcsfs asks Google for the kind of a bucket over gRPC, which no server of ours speaks."""

    async def unknown(*_: Any) -> BucketType:
        return BucketType.UNKNOWN

    monkeypatch.setattr(ExtendedGcsFileSystem, "_get_bucket_type", unknown)


@pytest.fixture
def registered(environment: Environments, tmp_path: Path) -> Callable[..., dict[str, Location]]:
    """``registered("0.60.0", secrets, connectors, stores)``: what we find after ZenML has registered that, by name."""

    def make(
        version: str,
        secrets: Mapping[str, Any] | None = None,
        connectors: Mapping[str, Any] | None = None,
        stores: Mapping[str, Any] | None = None,
    ) -> dict[str, Location]:
        wanted = tmp_path / "wanted.json"
        wanted.write_text(
            json.dumps({"secrets": secrets or {}, "connectors": connectors or {}, "stores": stores or {}})
        )
        database = tmp_path / "zenml.db"
        script = Path(__file__).parent / "register_stores.py"
        ended = run_command(
            environment(version),
            [str(environment(version).python), str(script), str(wanted)],
            folder=tmp_path / "scratch",
            variables={"ZENML_STORE_TYPE": "sql", "ZENML_STORE_URL": f"sqlite:///{database}"},
            timeout=300,
        )
        assert ended.returncode == 0, ended.last_lines()
        return found(database)

    return make


def found(database: Path, local_stores: Path = Path("/nowhere")) -> dict[str, Location]:
    with closing(sqlite.connect(database)) as connection:
        by_id = locations.locations(connection, local_stores)
        names = connection.execute("SELECT id, name FROM stack_component WHERE type = 'artifact_store'").fetchall()
    return {name: by_id[inventory.dashed(key)] for key, name in names}


def read(location: Location) -> bytes:
    with open_place(location.url, location.options).open("step/output/file") as file:
        return file.read()


@pytest.mark.parametrize("version", RELEASES)
def test_files_are_read_with_the_credentials_that_zenml_was_given(
    version: str,
    registered: Callable[..., dict[str, Location]],
    bucket: str,
    s3_server: str,
    gs_bucket: str,
    az_container: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iam = boto3.client("iam")
    user = f"reader-of-{bucket[5:]}"
    iam.create_user(UserName=user)
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    iam.put_user_policy(UserName=user, PolicyName="reading", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=user)["AccessKey"]
    good = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    bad = {**good, "aws_access_key_id": f"AKIA{CANARY}"}
    account = os.environ["AZURE_STORAGE_CONNECTION_STRING"]
    for url in (bucket, gs_bucket, az_container):
        with open_place(f"{url}/root").write("step/output/file") as file:
            file.write(url.encode())
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name)
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    logins: list[str] = []
    token = json.dumps({"access_token": CANARY, "expires_in": 3600, "token_type": "Bearer"})
    with serving(200, token, logins) as google:
        service_account = {
            "type": "service_account",
            "client_email": "reader@project.example",
            "private_key": pem.decode(),
            "private_key_id": f"{CANARY}-id",
            "project_id": "project",
            "token_uri": f"{google}/token",
        }
        s3 = {"path": f"{bucket}/root", "client_kwargs": json.dumps({"endpoint_url": s3_server})}
        aws = {"connector_type": "aws", "resource_types": ["s3-bucket"], "auth_method": "secret-key"}
        stores = registered(
            version,
            {
                "good": good,
                "bad": bad,
                "gcp": {"token": json.dumps(service_account)},
                "azure": {"connection_string": account},
            },
            {
                "aws": {**aws, "configuration": {"region": "us-east-1"}, "secrets": good},
                "gcp": {
                    "connector_type": "gcp",
                    "auth_method": "service-account",
                    "resource_types": ["gcs-bucket"],
                    "configuration": {"project_id": "project"},
                    "secrets": {"service_account_json": json.dumps(service_account)},
                },
                "azure": {
                    "connector_type": "azure",
                    "auth_method": "service-principal",
                    "resource_types": ["blob-container"],
                    "configuration": {
                        "client_id": "00000000-0000-0000-0000-000000000001",
                        "tenant_id": "00000000-0000-0000-0000-000000000002",
                        "storage_account": "account",
                    },
                    "secrets": {"client_secret": CANARY},
                },
                "role": {
                    **aws,
                    "auth_method": "iam-role",
                    "configuration": {"region": "us-east-1", "role_arn": "arn:aws:iam::1:role/x"},
                    "secrets": good,
                },
            },
            {
                "secret": {"flavor": "s3", "configuration": {**s3, "authentication_secret": "good"}},
                "references": {
                    "flavor": "s3",
                    "configuration": {
                        **s3,
                        "key": "{{good.aws_access_key_id}}",
                        "secret": "{{ good.aws_secret_access_key }}",
                    },
                },
                "plain": {
                    "flavor": "s3",
                    "configuration": {**s3, "key": key["AccessKeyId"], "secret": key["SecretAccessKey"]},
                },
                "connector": {"flavor": "s3", "configuration": s3, "connector": "aws"},
                "bad": {"flavor": "s3", "configuration": {**s3, "authentication_secret": "bad"}},
                "role": {"flavor": "s3", "configuration": s3, "connector": "role"},
                "gcp secret": {
                    "flavor": "gcp",
                    "configuration": {"path": f"{gs_bucket}/root", "authentication_secret": "gcp"},
                },
                "gcp connector": {
                    "flavor": "gcp",
                    "configuration": {"path": f"{gs_bucket}/root"},
                    "connector": "gcp",
                },
                "azure secret": {
                    "flavor": "azure",
                    "configuration": {"path": f"{az_container}/root", "authentication_secret": "azure"},
                },
                "azure connector": {
                    "flavor": "azure",
                    "configuration": {"path": "az://backups/root"},
                    "connector": "azure",
                },
            },
        )
        with checking_requests(s3_server):
            for name in ("secret", "references", "plain", "connector"):
                assert reachable(stores[name]) == "", name
                assert read(stores[name]) == bucket.encode()
            assert "credentials it accepts" in reachable(stores["bad"])
            without = reachable(stores["role"])
        for name, number in {"gcp secret": 1, "gcp connector": 2}.items():
            gcsfs.GCSFileSystem.clear_instance_cache()
            assert reachable(stores[name]) == ""
            assert read(stores[name]) == gs_bucket.encode()
            assert len(logins) == number
    assert reachable(stores["azure secret"]) == ""
    assert read(stores["azure secret"]) == az_container.encode()
    assert without.endswith(
        "its service connector role authenticates by iam-role; the environment's credentials are used"
    )
    assert "credentials it accepts" in without
    assert stores["azure connector"].options == {
        "anon": False,
        "connection_timeout": 10,
        "read_timeout": 60,
        "account_name": "account",
        "client_id": "00000000-0000-0000-0000-000000000001",
        "client_secret": CANARY,
        "tenant_id": "00000000-0000-0000-0000-000000000002",
    }
    for name in ("connector", "gcp connector", "azure connector", "default"):
        assert stores[name].note == stores[name].problem == ""
    assert {key["AccessKeyId"], key["SecretAccessKey"]} == set(stores["connector"].secrets)
    assert {pem.decode(), f"{CANARY}-id"} == set(stores["gcp secret"].secrets)
    assert {account, account.split("AccountKey=")[1].split(";")[0]} == set(stores["azure secret"].secrets)
    assert {CANARY} == set(stores["azure connector"].secrets)
    for location in stores.values():
        told = repr(location) + location.problem + location.note
        assert not [secret for secret in location.secrets if secret in told]


@pytest.mark.parametrize("version", ["0.60.0", "0.98.0"])
def test_a_secret_that_cannot_be_read_leaves_it_to_the_environment(
    version: str, registered: Callable[..., dict[str, Location]], bucket: str, tmp_path: Path
) -> None:
    keys = {"aws_access_key_id": CANARY, "aws_secret_access_key": CANARY}
    registered(
        version,
        {"keys": keys},
        None,
        {
            "secret": {"flavor": "s3", "configuration": {"path": f"{bucket}/root", "authentication_secret": "keys"}},
            "reference": {"flavor": "s3", "configuration": {"path": f"{bucket}/root", "key": "{{keys.nothing}}"}},
        },
    )
    with closing(sqlite3.connect(tmp_path / "zenml.db")) as connection, connection:
        encrypted = base64.b64encode(os.urandom(100))  # what AES-GCM makes, with its nonce and tag
        connection.execute('UPDATE secret SET "values" = ?', [encrypted])
    stores = found(tmp_path / "zenml.db")
    used = "; the environment's credentials are used"
    assert stores["secret"].note == f"its secret keys is encrypted{used}"
    assert "key" not in stores["secret"].options
    assert stores["secret"].secrets == ()
    assert reachable(stores["secret"]) == ""  # the fixture's credentials are in the environment
    for change, reason in {
        'UPDATE secret SET "values" = NULL': "its secret keys is in another secrets store than the database",
        "UPDATE secret SET \"values\" = 'e30='": "",
        "DELETE FROM secret": "its secret keys is not registered",
    }.items():
        with closing(sqlite3.connect(tmp_path / "zenml.db")) as connection, connection:
            connection.execute(change)
        stores = found(tmp_path / "zenml.db")
        assert stores["secret"].note == (reason and reason + used)
        assert stores["reference"].note == (reason or "its secret keys has no nothing") + used
    assert reachable(stores["secret"]) == ""


def remote(url: str, protocol: str, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Location:
    """An artifact store at an endpoint of our own, whose credentials are canaries."""
    if protocol == "s3":
        client = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        given = {"key": f"AKIA{CANARY}", "secret": CANARY}
        options = locations._options("s3", "s3", {"client_kwargs": client}, given)
    elif protocol == "gs":
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
        monkeypatch.setenv("FETCH_RAW_TOKEN_EXPIRY", "false")
        options = locations._options("gs", "gcp", {}, {"token": CANARY})
    else:
        account = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey={ACCOUNT_KEY};BlobEndpoint={endpoint}/a"
        options = locations._options("az", "azure", {}, {"connection_string": account})
    return Location(root=url, url=url, options=options, secrets=tuple(locations._secrets(options)))


@pytest.mark.parametrize("protocol", ["s3", "gs", "az"])
@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "permission to list and read there"),
        (404, "a bucket that exists"),
        (500, "try again later"),
        (0, "it did not answer within 5 seconds"),
    ],
)
def test_trouble_is_told_in_words_without_secrets(
    protocol: str, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if status == 500 and protocol == "az":
        pytest.skip("the library tries again for longer than a minute: like a server that does not answer")
    if status == 0:
        monkeypatch.setattr(locations, "CONNECT", 1)
        monkeypatch.setattr(locations, "READ", 4)
    leaked = ACCOUNT_KEY if protocol == "az" else f"AKIA{CANARY} {CANARY}"
    code = {403: "AccessDenied", 404: "NoSuchBucket"}.get(status, "InternalError")
    words_of_aws = {403: "Access Denied", 404: "The bucket does not exist"}.get(
        status, "We encountered an internal error."
    )
    body = f"<Error><Code>{code}</Code><Message>{words_of_aws} {leaked}</Message></Error>"
    with serving(status, body) as endpoint:
        location = remote(f"{protocol}://bucket/root", protocol, endpoint, monkeypatch)
        began = time.monotonic()
        said = reachable(location)
    assert time.monotonic() - began < 65
    assert said.startswith(f"its artifact store {protocol}://bucket/root cannot be read: it ")
    assert words in said
    assert location.secrets
    for secret in (*location.secrets, CANARY):
        assert secret not in said + repr(location)


def test_a_bucket_that_is_gone(bucket: str, gs_bucket: str, az_container: str) -> None:
    for url in (bucket, gs_bucket, az_container):
        assert reachable(Location(root=url, url=url)) == ""
        assert "a bucket that exists" in reachable(Location(root=f"{url}-gone/root", url=f"{url}-gone/root"))


def test_a_protocol_that_nobody_knows() -> None:
    assert "it wants a folder, or a URL" in reachable(Location(root="nope://x", url="nope://x"))


@pytest.mark.parametrize(
    ("flavor", "config", "endpoint"),
    [
        ("b2", {}, "https://s3.us-west-004.backblazeb2.com"),
        ("b2", {"client_kwargs": {"endpoint_url": "https://other"}}, "https://other"),
        ("digitalocean", {"region": "fra1"}, "https://fra1.digitaloceanspaces.com"),
    ],
)
def test_flavors_that_are_s3_elsewhere(
    flavor: str, config: dict[str, Any], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("B2_APPLICATION_KEY_ID", "key")
    options = locations._options("s3", flavor, config, config)
    assert options["client_kwargs"] == {"endpoint_url": endpoint}
    assert options.get("key") == ("key" if flavor == "b2" else None)


def test_a_store_that_is_gone_is_told(deployment: Deployment) -> None:
    store = locate(str(deployment("0.70.0")))
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("DELETE FROM stack_component WHERE type = 'artifact_store'")
    with closing(sqlite.connect(store.path)) as connection:
        by_id = locations.locations(connection, store.local_stores)
        rows = inventory.artifacts(connection, store.local_stores)
    assert {by_id[row["store_id"]].problem for row in rows} == {by_id[None].problem} == {GONE}
    assert reachable(by_id[None]) == GONE


def placed(store: Store) -> dict[str, tuple[str, str]]:
    with closing(sqlite.connect(store.path)) as connection:
        by_id = locations.locations(connection, store.local_stores)
        rows = inventory.artifacts(connection, store.local_stores)
    assert rows
    assert {reachable(location) for location in by_id.values()} == {"", GONE}
    return {row["uri"]: place(row, by_id[row["store_id"]]) for row in rows}


@pytest.mark.parametrize("version", ["0.43.0", "0.70.0"])
def test_a_copied_deployment_is_read_where_its_files_are(version: str, deployment: Deployment, tmp_path: Path) -> None:
    original = deployment(version)
    assert {uri: (uri, "") for uri in placed(locate(str(original)))} == placed(locate(str(original)))

    copy = shutil.copytree(original, tmp_path / "copy")
    store = Store(
        file=copy / "local_stores" / "default_zen_store" / "zenml.db",
        config_yaml=None,
        local_stores=copy / "local_stores",
    )
    for uri, (path, note) in placed(store).items():
        assert path == uri
        assert note.startswith(f"ZenML refuses to read outside {copy}")
        assert note.endswith(f"it is read at {uri}, as its uri says")

    original.rename(tmp_path / "away")
    for uri, (path, note) in placed(store).items():
        assert path == uri.replace(str(original), str(copy))
        assert Path(path).is_dir()
        assert note.endswith(f"and its uri says {uri}; it is read at {path}")

    shutil.rmtree(copy / "local_stores" / next(iter(placed(store))).split("/local_stores/")[1].split("/")[0])
    assert {uri: (uri, "") for uri in placed(store)} == placed(store)  # lost, which is another matter


def test_a_root_behind_a_link_and_a_way_out_of_it(tmp_path: Path) -> None:
    (tmp_path / "real" / "step").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "link").symlink_to("real")
    location = Location(root=str(tmp_path / "link"))
    for uri, inside in {"real/step": True, "link/step": True, "link/../outside": False, "real-other": True}.items():
        path, note = place({"uri": f"{tmp_path}/{uri}", "store_id": "x"}, location)
        assert path == f"{tmp_path}/{uri}"
        assert (note == "") is inside


def test_a_uri_in_another_bucket_is_told() -> None:
    location = Location(root="s3://bucket/root", url="s3://bucket/root")
    assert place({"uri": "s3://bucket/root/step", "store_id": "x"}, location) == ("s3://bucket/root/step", "")
    path, note = place({"uri": "s3://bucket/root-2/step", "store_id": "x"}, location)
    assert path == "s3://bucket/root-2/step"
    assert note.startswith("ZenML refuses to read outside s3://bucket/root")
