"""Azure Database for MySQL flexible server through azure-mgmt-mysqlflexibleservers, with azure-identity's credentials.

A host names the server alone: its subscription is ``AZURE_SUBSCRIPTION_ID``. Source:
https://learn.microsoft.com/rest/api/mysql/flexibleserver (Servers, Long Running Backups, version 2024-12-30).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from zenml_upgrade_kit.managed import PAUSE, Managed, Refusal, moment

TITLE = "Azure Database for MySQL"
KIND = "Microsoft.DBforMySQL/flexibleServers"
NEEDS = f"{KIND}/read, {KIND}/backupsV2/read and, for a snapshot, {KIND}/backupsV2/write"


def console(where: Sequence[str]) -> str:
    """The page of the server, or of all servers where its group is not known."""
    subscription, group, name = where
    if not group:
        return f"https://portal.azure.com/#browse/{KIND.replace('/', '%2F')}"
    resource = f"subscriptions/{subscription}/resourceGroups/{group}/providers/{KIND}/{name}"
    return f"https://portal.azure.com/#@/resource/{resource}/overview"


def look(where: Sequence[str]) -> Managed:
    """Ask about a server; Azure tells the first moment that can be restored, not the last."""
    client, where = _server(where)
    server = client.servers.get(*where[1:])
    done = [backup for backup in client.long_running_backups.list(*where[1:]) if backup.completed_time]
    newest = max(done, key=lambda backup: backup.completed_time, default=None)
    return Managed(
        provider=TITLE,
        instance="/".join(where),
        console=console(where),
        automated=bool(server.backup.backup_retention_days),
        retention_days=server.backup.backup_retention_days,
        latest_restorable=f"any moment since {moment(server.backup.earliest_restore_date)}",
        newest_snapshot=f"{newest.name}, {moment(newest.completed_time)}" if newest else "",
    )


def snapshot(where: Sequence[str], name: str, timeout: float) -> None:
    """Make a backup on demand, which is kept as long as an automated one."""
    client, where = _server(where)
    asked = client.long_running_backup.begin_create(*where[1:], name)
    asked.wait(timeout)
    if not asked.done():
        raise Refusal(f"it is {asked.status()} after {timeout:.0f} s")
    asked.result()


def _server(where: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """The client, and the subscription, group and name of the server."""
    from azure.identity import DefaultAzureCredential
    from azure.mgmt.mysqlflexibleservers import MySQLManagementClient

    given, group, name = where
    subscription = given or os.environ.get("AZURE_SUBSCRIPTION_ID", "")
    if not subscription:
        raise Refusal("AZURE_SUBSCRIPTION_ID is not set, and the host names the server alone")
    client: Any = MySQLManagementClient(
        DefaultAzureCredential(), subscription, polling_interval=PAUSE, retry_total=2, connection_timeout=10
    )
    if not group:
        group = next((one.id.split("/")[4] for one in client.servers.list() if one.name == name), "")
    if not group:
        raise Refusal(f"the subscription {subscription} has no server {name}")
    return client, (subscription, group, name)
