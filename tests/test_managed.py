"""Managed databases: RDS by moto's server, Cloud SQL and Azure by a stand-in that is reached under their real names.

The stand-in's answers are those of the public references: https://cloud.google.com/sql/docs/mysql/admin-api/rest/v1
and https://learn.microsoft.com/rest/api/mysql/flexibleserver (2024-12-30); the clients are the providers' own.
"""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import boto3
import pytest
from moto.server import ThreadedMotoServer

from zenml_upgrade_kit import managed
from zenml_upgrade_kit.errors import BadPlan, KitError, ToolMissing
from zenml_upgrade_kit.managed import aws, azure, gcp

NAMES = ["sqladmin.googleapis.com", "oauth2.googleapis.com", "management.azure.com", "login.microsoftonline.com"]
SECRET = "canary-7d1f"
RDS_HOST = "prod.c1a2b3.eu-west-1.rds.amazonaws.com"
CLUSTER_HOST = "prod.cluster-c1a2b3.eu-west-1.rds.amazonaws.com"
CLOUD_SQL_SOCKET = "/cloudsql/example.com:shop:europe-west1:prod"
AZURE_HOST = "prod.mysql.database.azure.com"
SUBSCRIPTION = "ffffffff-ffff-ffff-ffff-ffffffffffff"


@pytest.fixture(autouse=True)
def nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials but those that a test gives, and no network but the loopback."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GOOGLE_APPLICATION_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "AZURE_SUBSCRIPTION_ID"):
        monkeypatch.delenv(name, raising=False)
    real = socket.getaddrinfo

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        if host not in ("127.0.0.1", "localhost"):
            raise socket.gaierror(socket.EAI_NONAME, f"{host} is not known here")
        return real(host, *rest, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


# Amazon


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


def tell(moto: str, what: str, data: str = "") -> None:
    """Post to moto itself."""
    urlopen(Request(f"{moto}/moto-api/{what}", data.encode(), {"Content-Type": "text/plain"})).close()


@pytest.fixture
def rds(moto: str, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """``rds("eu-west-1")``: a client of an empty account."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    tell(moto, "reset")
    return lambda region: boto3.client("rds", region_name=region)


def instance(client: Any, days: int, name: str = "prod", **more: Any) -> None:
    client.create_db_instance(
        DBInstanceIdentifier=name,
        DBInstanceClass="db.t3.micro",
        BackupRetentionPeriod=days,
        **{"Engine": "mysql", **more},
    )


def cluster(client: Any, name: str = "prod") -> None:
    client.create_db_cluster(
        DBClusterIdentifier=name,
        Engine="aurora-mysql",
        MasterUsername="admin",
        MasterUserPassword=SECRET,
        BackupRetentionPeriod=14,
    )


def test_an_instance_of_rds_tells_its_retention_and_newest_snapshot(rds: Callable[[str], Any]) -> None:
    instance(rds("eu-west-1"), 7)
    rds("eu-west-1").create_db_snapshot(DBInstanceIdentifier="prod", DBSnapshotIdentifier="before-friday")
    seen = managed.look(RDS_HOST)
    assert seen is not None
    assert (seen.provider, seen.instance, seen.problem) == ("Amazon RDS", "eu-west-1/prod", "")
    assert (seen.automated, seen.retention_days) == (True, 7)
    assert seen.latest_restorable.endswith("+00:00")
    assert seen.newest_snapshot.startswith("before-friday, 20")
    assert seen.console == (
        "https://eu-west-1.console.aws.amazon.com/rds/home?region=eu-west-1#database:id=prod;is-cluster=false"
    )


def test_switched_off_backups_are_told(rds: Callable[[str], Any]) -> None:
    instance(rds("eu-west-1"), 0)
    seen = managed.look(RDS_HOST.upper())
    assert seen is not None
    assert (seen.automated, seen.retention_days) == (False, 0)


@pytest.mark.parametrize(
    ("host", "given"),
    [
        (CLUSTER_HOST, ""),
        ("prod.cluster-ro-c1a2b3.eu-west-1.rds.amazonaws.com", ""),
        ("member.c1a2b3.eu-west-1.rds.amazonaws.com", ""),
        ("db.internal", "aws:eu-west-1/prod"),
        ("db.internal", "aws:eu-west-1/cluster:prod"),
    ],
)
def test_the_backups_of_aurora_are_those_of_its_cluster(rds: Callable[[str], Any], host: str, given: str) -> None:
    cluster(rds("eu-west-1"))
    instance(rds("eu-west-1"), 1, "member", Engine="aurora-mysql", DBClusterIdentifier="prod")
    seen = managed.snapshot(host, given=given, name="upgrade")
    assert (seen.instance, seen.retention_days) == ("eu-west-1/cluster:prod", 14)
    assert seen.newest_snapshot.startswith("upgrade, ")
    listed = rds("eu-west-1").describe_db_cluster_snapshots()["DBClusterSnapshots"]
    assert "upgrade" in [one["DBClusterSnapshotIdentifier"] for one in listed]


def test_a_cluster_and_an_instance_may_have_the_same_name(rds: Callable[[str], Any]) -> None:
    cluster(rds("eu-west-1"))
    instance(rds("eu-west-1"), 3)
    of_cluster, of_instance = managed.look(CLUSTER_HOST), managed.look(RDS_HOST)
    assert of_cluster is not None
    assert of_instance is not None
    assert (of_cluster.retention_days, of_instance.retention_days) == (14, 3)


def test_the_region_is_that_of_the_host_in_china_too(rds: Callable[[str], Any]) -> None:
    instance(rds("cn-north-1"), 5)
    seen = managed.look("prod.c1a2b3.rds.cn-north-1.amazonaws.com.cn")
    assert seen is not None
    assert (seen.instance, seen.retention_days) == ("cn-north-1/prod", 5)
    assert seen.console.startswith("https://cn-north-1.console.amazonaws.cn/")


def test_a_snapshot_gets_a_name_that_amazon_takes(rds: Callable[[str], Any]) -> None:
    instance(rds("eu-west-1"), 7)
    seen = managed.snapshot(RDS_HOST, name="20261123T023000Z-0.70.0_a1")
    assert seen.newest_snapshot.startswith("zenml-20261123t023000z-0-70-0-a1, ")


def test_a_snapshot_that_exists_already_is_an_error(rds: Callable[[str], Any]) -> None:
    instance(rds("eu-west-1"), 7)
    managed.snapshot(RDS_HOST, name="upgrade")
    with pytest.raises(KitError, match="DBSnapshotAlreadyExists"):
        managed.snapshot(RDS_HOST, name="upgrade")


def test_a_snapshot_is_not_waited_for_longer_than_asked(
    rds: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance(rds("eu-west-1"), 7)
    slow = property(lambda _: "creating", lambda *_: None)
    monkeypatch.setattr("moto.rds.models.DBSnapshot.status", slow, raising=False)
    monkeypatch.setattr(aws, "PAUSE", 0.01)
    with pytest.raises(KitError, match="did not make the snapshot upgrade") as raised:
        managed.snapshot(RDS_HOST, name="upgrade", timeout=0.05)
    assert "it is creating" in raised.value.found
    assert "console.aws.amazon.com" in raised.value.remedy


def test_a_snapshot_that_was_taken_is_told_even_if_the_look_fails(
    rds: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance(rds("eu-west-1"), 7)
    without: dict[str, Any] = {}
    monkeypatch.setattr(aws, "look", lambda _: without["BackupRetentionPeriod"])
    seen = managed.snapshot(RDS_HOST, name="upgrade")
    assert seen.newest_snapshot == "upgrade"
    assert "KeyError: 'BackupRetentionPeriod'" in seen.problem


def test_an_instance_that_is_not_there_is_told(rds: Callable[[str], Any]) -> None:
    seen = managed.look(RDS_HOST)
    assert seen is not None
    assert "eu-west-1 has no instance and no cluster prod" in seen.problem
    assert (seen.automated, seen.retention_days) == (None, None)
    with pytest.raises(KitError, match="did not make the snapshot"):
        managed.snapshot(RDS_HOST, name="upgrade")


def test_without_permission_the_needed_ones_and_the_console_are_named(moto: str, rds: Callable[[str], Any]) -> None:
    instance(rds("eu-west-1"), 7)
    tell(moto, "reset-auth", "0")  # from now on the account knows no key
    try:
        seen = managed.look(RDS_HOST)
    finally:
        tell(moto, "reset-auth", "inf")
    assert seen is not None
    assert "InvalidClientTokenId" in seen.problem
    assert "rds:DescribeDB*" in seen.problem
    assert "https://eu-west-1.console.aws.amazon.com/rds/" in seen.problem
    assert SECRET not in repr(seen)


def test_without_credentials_amazon_is_not_checked(rds: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    seen = managed.look(RDS_HOST)
    assert seen is not None
    assert "Unable to locate credentials" in seen.problem


# Google and Microsoft


class Cloud:
    """A server that gives ``answers[method, path]`` (status, JSON, headers); a list is given one after the other."""

    def __init__(self, certificate: Path) -> None:
        self.answers: dict[tuple[str, str], Any] = {}
        self.asked: list[tuple[str, str, str]] = []
        cloud = self

        class Answer(BaseHTTPRequestHandler):
            def answer(self) -> None:
                path = self.path.split("?")[0]
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
                cloud.asked.append((self.command, path, body))
                missing = (404, {"error": {"code": "NotFound", "message": f"{path} was not found."}})
                answer = cloud.answers.get((self.command, path), missing)
                if isinstance(answer, list):
                    answer = answer.pop(0) if len(answer) > 1 else answer[0]
                status, content, *headers = answer
                data = json.dumps(content).encode()
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                for name, value in headers[0].items() if headers else ():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PUT = answer  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
        self.server.socket = tls.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate for the real names, in one file; it is its own authority."""
    file = tmp_path_factory.mktemp("tls") / "cloud.pem"
    names = ",".join(f"DNS:{name}" for name in NAMES)
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=cloud"]
    command += ["-addext", f"subjectAltName={names}", "-keyout", str(file), "-out", f"{file}.crt"]
    subprocess.run(command, check=True, capture_output=True)
    file.write_text(file.read_text() + Path(f"{file}.crt").read_text())
    return file


@pytest.fixture
def cloud(certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    """Google and Azure with one instance of each, and credentials for both."""
    cloud = Cloud(certificate)
    loopback, connect = socket.getaddrinfo, socket.socket.connect

    def look_up(host: Any, *rest: Any, **named: Any) -> Any:
        return loopback("127.0.0.1" if host in NAMES else host, *rest, **named)

    def connect_here(self: socket.socket, address: Any) -> None:
        connect(self, cloud.server.server_address if address[1] == 443 else address)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket.socket, "connect", connect_here)
    for name in ("REQUESTS_CA_BUNDLE", "HTTPLIB2_CA_CERTS"):
        monkeypatch.setenv(name, f"{certificate}.crt")
    key = certificate.read_text().split("-----BEGIN CERTIFICATE")[0]
    account = {"type": "service_account", "client_email": "kit@shop.iam.gserviceaccount.com", "private_key": key}
    account |= {"token_uri": "https://oauth2.googleapis.com/token", "project_id": "shop", "private_key_id": "1"}
    (tmp_path / "google.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "google.json"))
    for name, value in {
        "TENANT_ID": "t",
        "CLIENT_ID": "c",
        "CLIENT_SECRET": SECRET,
        "SUBSCRIPTION_ID": SUBSCRIPTION,
    }.items():
        monkeypatch.setenv(f"AZURE_{name}", value)
    login = "https://login.microsoftonline.com/t"
    metadata: dict[str, Any] = dict.fromkeys(("preferred_network", "preferred_cache"), NAMES[-1])
    metadata["aliases"] = [NAMES[-1]]
    token = (200, {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"})
    cloud.answers = {
        ("POST", "/token"): token,
        ("POST", "/t/oauth2/v2.0/token"): token,
        ("GET", "/t/v2.0/.well-known/openid-configuration"): (
            200,
            {
                "authorization_endpoint": f"{login}/a",
                "token_endpoint": f"{login}/oauth2/v2.0/token",
                "issuer": f"{login}/v2.0",
            },
        ),
        ("GET", "/common/discovery/instance"): (200, {"tenant_discovery_endpoint": login, "metadata": [metadata]}),
        ("GET", SQL): (
            200,
            {"kind": "sql#instance", "name": "prod", "settings": {"backupConfiguration": CONFIGURATION}},
        ),
        ("GET", f"{SQL}/backupRuns"): (200, {"kind": "sql#backupRunsList", "items": RUNS}),
        ("GET", f"{SQL}/getLatestRecoveryTime"): (
            200,
            {"kind": "sql#getLatestRecoveryTime", "latestRecoveryTime": "2026-11-23T08:55:11.094Z"},
        ),
        ("GET", SERVER.rpartition("/")[0].replace("/resourceGroups/shop", "")): (200, {"value": [AZURE_SERVER]}),
        ("GET", SERVER): (200, AZURE_SERVER),
        ("GET", f"{SERVER}/backupsV2"): (
            200,
            {"value": [azure_backup("daily_20261123T020000", "2026-11-23T02:01:00+00:00")]},
        ),
    }
    yield cloud
    cloud.server.shutdown()
    cloud.server.server_close()


SQL = "/v1/projects/example.com%3Ashop/instances/prod"
OPERATION = "/v1/projects/example.com%3Ashop/operations/op-1"
CONFIGURATION = {
    "kind": "sql#backupConfiguration",
    "startTime": "02:00",
    "enabled": True,
    "binaryLogEnabled": True,
    "transactionLogRetentionDays": 7,
    "backupRetentionSettings": {"retentionUnit": "COUNT", "retainedBackups": 8},
}
RUNS = [
    {"kind": "sql#backupRun", "id": "3", "status": "FAILED", "type": "AUTOMATED", "instance": "prod"},
    {"id": "2", "status": "SUCCESSFUL", "type": "AUTOMATED", "endTime": "2026-11-23T02:04:11.094Z", "instance": "prod"},
    {"id": "1", "status": "SUCCESSFUL", "type": "AUTOMATED", "endTime": "2026-11-22T02:03:09.112Z", "instance": "prod"},
]
SERVER = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/shop/providers/Microsoft.DBforMySQL/flexibleServers/prod"
AZURE_SERVER = {
    "id": SERVER,
    "name": "prod",
    "type": "Microsoft.DBforMySQL/flexibleServers",
    "location": "Southeast Asia",
    "properties": {
        "backup": {
            "backupIntervalHours": 24,
            "backupRetentionDays": 7,
            "earliestRestoreDate": "2026-11-16T06:11:38.4150019+00:00",
            "geoRedundantBackup": "Disabled",
        },
        "fullyQualifiedDomainName": AZURE_HOST,
        "state": "Ready",
        "version": "8.0.21",
    },
}


def azure_backup(name: str, completed: str) -> dict[str, Any]:
    properties = {"backupType": "FULL", "completedTime": completed, "provisioningState": "Ready", "source": "Automatic"}
    kind = "Microsoft.DBforMySQL/flexibleServers/backupsV2"
    return {"name": name, "type": kind, "id": f"{SERVER}/backupsV2/{name}", "properties": properties}


def test_cloud_sql_tells_its_retention_and_newest_backup(cloud: Cloud) -> None:
    seen = managed.look("localhost", CLOUD_SQL_SOCKET)
    assert seen == managed.Managed(
        provider="Cloud SQL",
        instance="example.com:shop/prod",
        console="https://console.cloud.google.com/sql/instances/prod/backups?project=example.com:shop",
        automated=True,
        retention_days=8,
        latest_restorable="2026-11-23T08:55:11.094Z",
        newest_snapshot="2, 2026-11-23T02:04:11.094Z",
    )


def test_cloud_sql_without_backups_or_recovery_of_any_moment(cloud: Cloud) -> None:
    cloud.answers["GET", SQL] = (200, {"settings": {"backupConfiguration": {"enabled": False}}})
    cloud.answers["GET", f"{SQL}/backupRuns"] = (200, {"kind": "sql#backupRunsList"})
    refused = {
        "error": {"code": 400, "message": "PITR is not enabled for this instance.", "status": "INVALID_ARGUMENT"}
    }
    cloud.answers["GET", f"{SQL}/getLatestRecoveryTime"] = (400, refused)
    seen = managed.look("10.0.0.3", given="gcp:example.com:shop/prod")
    assert seen is not None
    assert (seen.automated, seen.retention_days, seen.problem) == (False, None, "")
    assert (seen.latest_restorable, seen.newest_snapshot) == ("", "")


def operation(status: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return 200, {"kind": "sql#operation", "name": "op-1", "operationType": "BACKUP_VOLUME", "status": status, **more}


def test_a_backup_of_cloud_sql_is_waited_for(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcp, "PAUSE", 0.01)
    cloud.answers["POST", f"{SQL}/backupRuns"] = operation("PENDING")
    cloud.answers["GET", OPERATION] = [operation("PENDING"), operation("RUNNING"), operation("DONE")]
    done = {**RUNS[1], "id": "4", "type": "ON_DEMAND", "description": "upgrade", "endTime": "2026-11-23T09:00:00.000Z"}
    cloud.answers["GET", f"{SQL}/backupRuns"] = (200, {"items": [done, *RUNS]})
    seen = managed.snapshot("", CLOUD_SQL_SOCKET, name="upgrade", timeout=30)
    assert seen.newest_snapshot == "upgrade, 2026-11-23T09:00:00.000Z"
    assert ("POST", f"{SQL}/backupRuns", '{"description": "upgrade"}') in cloud.asked
    assert [path for _, path, _ in cloud.asked].count(OPERATION) == 3


def test_a_backup_of_cloud_sql_that_fails_or_takes_too_long_is_an_error(
    cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcp, "PAUSE", 0.01)
    cloud.answers["POST", f"{SQL}/backupRuns"] = operation("PENDING")
    cloud.answers["GET", OPERATION] = operation("RUNNING")
    with pytest.raises(KitError) as raised:
        managed.snapshot("", CLOUD_SQL_SOCKET, name="upgrade", timeout=0.1)
    assert "it is running after" in raised.value.found
    wrong = {"kind": "sql#operationErrors", "errors": [{"code": "INTERNAL_ERROR", "message": "disk failure"}]}
    cloud.answers["GET", OPERATION] = operation("DONE", error=wrong)
    with pytest.raises(KitError) as raised:
        managed.snapshot("", CLOUD_SQL_SOCKET, name="upgrade")
    assert raised.value.found == "Refusal: INTERNAL_ERROR: disk failure"


def test_cloud_sql_without_permission_names_the_permissions(cloud: Cloud) -> None:
    message = "The client is not authorized to make this request."
    cloud.answers["GET", SQL] = (403, {"error": {"code": 403, "message": message, "status": "PERMISSION_DENIED"}})
    seen = managed.look("", CLOUD_SQL_SOCKET)
    assert seen is not None
    assert message in seen.problem
    assert "cloudsql.backupRuns.list" in seen.problem
    assert seen.console in seen.problem


def test_azure_finds_the_server_in_the_subscription(cloud: Cloud) -> None:
    seen = managed.look(AZURE_HOST)
    assert seen == managed.Managed(
        provider="Azure Database for MySQL",
        instance=f"{SUBSCRIPTION}/shop/prod",
        console=f"https://portal.azure.com/#@/resource{SERVER}/overview",
        automated=True,
        retention_days=7,
        latest_restorable="any moment since 2026-11-16T06:11:38+00:00",
        newest_snapshot="daily_20261123T020000, 2026-11-23T02:01:00+00:00",
    )


def test_a_backup_of_azure_is_waited_for(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(azure, "PAUSE", 0.01)
    status = "/subscriptions/s/providers/Microsoft.DBforMySQL/locations/eastus/operationStatus/1"
    own = azure_backup("customer_20261123t090000_1_upgrade", "2026-11-23T09:00:00+00:00")
    poll = {"Azure-AsyncOperation": f"https://management.azure.com{status}"}
    cloud.answers["PUT", f"{SERVER}/backupsV2/upgrade"] = (202, {}, poll)
    cloud.answers["GET", f"{SERVER}/backupsV2/upgrade"] = (200, own)
    cloud.answers["GET", status] = [
        (200, {"name": "1", "status": "InProgress"}),
        (200, {"name": "1", "status": "Succeeded"}),
    ]
    cloud.answers["GET", f"{SERVER}/backupsV2"] = (200, {"value": [own]})
    seen = managed.snapshot("db.internal", given=f"azure:{SUBSCRIPTION}/shop/prod", name="upgrade", timeout=30)
    assert seen.newest_snapshot == "customer_20261123t090000_1_upgrade, 2026-11-23T09:00:00+00:00"
    cloud.answers["GET", status] = (
        200,
        {"name": "1", "status": "Failed", "error": {"code": "Busy", "message": "later"}},
    )
    with pytest.raises(KitError, match="did not make the snapshot upgrade") as raised:
        managed.snapshot(AZURE_HOST, name="upgrade", timeout=30)
    assert "later" in raised.value.found
    cloud.answers["GET", status] = (200, {"name": "1", "status": "InProgress"})
    with pytest.raises(KitError, match="did not make the snapshot upgrade") as raised:
        managed.snapshot(AZURE_HOST, name="upgrade", timeout=0.2)
    assert "it is InProgress after" in raised.value.found


def test_azure_names_what_is_missing(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = managed.look("staging.mysql.database.azure.com")
    assert absent is not None
    assert f"the subscription {SUBSCRIPTION} has no server staging" in absent.problem
    denied = {"error": {"code": "AuthorizationFailed", "message": "The client does not have authorization."}}
    cloud.answers["GET", SERVER] = (403, denied)
    seen = managed.look("", given=f"azure:{SUBSCRIPTION}/shop/prod")
    assert seen is not None
    assert "AuthorizationFailed" in seen.problem
    cloud.answers["POST", "/t/oauth2/v2.0/token"] = (
        401,
        {"error": "invalid_client", "error_description": "AADSTS7000215"},
    )
    seen = managed.look(AZURE_HOST)
    assert seen is not None
    assert "AADSTS7000215" in seen.problem
    assert SECRET not in repr(seen)
    monkeypatch.delenv("AZURE_SUBSCRIPTION_ID")
    seen = managed.look(AZURE_HOST)
    assert seen is not None
    assert "AZURE_SUBSCRIPTION_ID is not set" in seen.problem
    assert seen.console == "https://portal.azure.com/#browse/Microsoft.DBforMySQL%2FflexibleServers"


# all


@pytest.mark.parametrize("given", ["aws:eu-west-1/prod", "gcp:shop/prod", f"azure:{SUBSCRIPTION}/shop/prod"])
def test_without_network_or_credentials_nothing_is_raised(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # neither gcloud nor az gives credentials
    seen = managed.look("db.internal", given=given)
    assert seen is not None
    assert "did not tell its backups: " in seen.problem
    assert f"look by hand: {seen.console}" in seen.problem


@pytest.mark.parametrize(
    ("given", "module", "extra"),
    [
        ("aws:eu-west-1/prod", "boto3", "aws"),
        ("gcp:shop/prod", "googleapiclient.discovery", "gcp"),
        ("azure:s/g/prod", "azure.mgmt.mysqlflexibleservers", "azure"),
    ],
)
def test_without_the_optional_package_the_extra_is_named(
    given: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    seen = managed.look("db.internal", given=given)
    assert seen is not None
    assert f"pip install 'zenml-upgrade-kit[{extra}]'" in seen.problem
    assert "console" in seen.console or "portal" in seen.console
    with pytest.raises(ToolMissing):
        managed.snapshot("db.internal", given=given, name="upgrade")


@pytest.mark.parametrize(
    ("host", "path"),
    [
        ("localhost", "/run/mysqld/mysqld.sock"),
        ("mysql.example.com", ""),
        ("rds.amazonaws.com.example.com", ""),
        ("prod.mysql.database.azure.com.example.com", ""),
    ],
)
def test_a_server_of_no_known_provider_is_not_asked_about(host: str, path: str) -> None:
    assert managed.look(host, path) is None
    with pytest.raises(BadPlan, match="provider of the server is not known"):
        managed.snapshot(host, path, name="upgrade")


@pytest.mark.parametrize("given", ["aws:prod", "aws:/prod", "gcp:a/b/c", "oracle:a/b", "prod", "azure:s/g/"])
def test_a_wrong_instance_is_a_wrong_plan(given: str) -> None:
    with pytest.raises(BadPlan, match="managed server cannot be read") as raised:
        managed.look(RDS_HOST, given=given)
    assert "aws:REGION/INSTANCE" in raised.value.expected
