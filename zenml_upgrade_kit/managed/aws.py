"""Amazon RDS and Aurora through boto3, with the credentials and variables of that SDK.

Source: https://docs.aws.amazon.com/AmazonRDS/latest/APIReference/ (DescribeDBInstances, DescribeDBClusters,
DescribeDBSnapshots, CreateDBSnapshot and their likes for clusters).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zenml_upgrade_kit.managed import PAUSE, Managed, Refusal, moment

TITLE = "Amazon RDS"
NEEDS = "rds:DescribeDB* and, for a snapshot, rds:CreateDB*Snapshot"
SNAPSHOTS = {
    "DBInstanceIdentifier": ("db_snapshot", "DBSnapshot"),
    "DBClusterIdentifier": ("db_cluster_snapshot", "DBClusterSnapshot"),
}
"""How the operations and fields are called for what an instance, or a cluster, owns."""


def console(where: Sequence[str]) -> str:
    """The page of the instance or cluster."""
    region, named = where
    kind, _, name = named.rpartition(":")
    site = "amazonaws.cn" if region.startswith("cn-") else "aws.amazon.com"
    return (
        f"https://{region}.console.{site}/rds/home?region={region}#database:id={name};is-cluster={bool(kind)}".lower()
    )


def look(where: Sequence[str]) -> Managed:
    """Ask about an instance, or a cluster."""
    rds, owner, found = _owner(where)
    word, field = SNAPSHOTS[owner]
    pages = rds.get_paginator(f"describe_{word}s").paginate(**{owner: found[owner]})
    ready = [one for page in pages for one in page[f"{field}s"] if one["Status"] == "available"]
    newest = max(ready, key=lambda one: one["SnapshotCreateTime"], default=None)
    where = where[0], f"cluster:{found[owner]}" if "Cluster" in owner else found[owner]
    return Managed(
        provider=TITLE,
        instance="/".join(where),
        console=console(where),
        automated=found["BackupRetentionPeriod"] > 0,
        retention_days=found["BackupRetentionPeriod"],
        latest_restorable=moment(found.get("LatestRestorableTime")),
        newest_snapshot=f"{newest[f'{field}Identifier']}, {moment(newest['SnapshotCreateTime'])}" if newest else "",
    )


def snapshot(where: Sequence[str], name: str, timeout: float) -> None:
    """Take a manual snapshot, which is kept until it is deleted."""
    from botocore.exceptions import WaiterError

    rds, owner, found = _owner(where)
    word, field = SNAPSHOTS[owner]
    getattr(rds, f"create_{word}")(**{owner: found[owner], f"{field}Identifier": name})
    times = {"Delay": min(PAUSE, timeout), "MaxAttempts": max(1, round(timeout / PAUSE)) + 1}
    try:
        rds.get_waiter(f"{word}_available").wait(**{f"{field}Identifier": name}, WaiterConfig=times)
    except WaiterError as error:
        state = [one["Status"] for one in error.last_response.get(f"{field}s", [])]
        raise Refusal(f"it is {', '.join(state) or 'not there'} after {timeout:.0f} s") from error


def _owner(where: Sequence[str]) -> tuple[Any, str, dict[str, Any]]:
    """The client, what identifies the owner of the backups, and the owner: for one of Aurora it is the cluster."""
    import boto3
    from botocore.config import Config

    region, named = where
    config = Config(connect_timeout=10, read_timeout=30, retries={"max_attempts": 2})
    rds = boto3.client("rds", region_name=region, config=config)
    kind, _, name = named.rpartition(":")
    if not kind:  # asked by a filter: a name that is not there is an empty list then
        found = rds.describe_db_instances(Filters=[{"Name": "db-instance-id", "Values": [name]}])["DBInstances"]
        if found and not found[0].get("DBClusterIdentifier"):
            return rds, "DBInstanceIdentifier", found[0]
        name = found[0]["DBClusterIdentifier"] if found else name
    found = rds.describe_db_clusters(Filters=[{"Name": "db-cluster-id", "Values": [name]}])["DBClusters"]
    if not found:
        raise Refusal(f"{region} has no instance and no cluster {name}")
    return rds, "DBClusterIdentifier", found[0]
