"""Cloud SQL through google-api-python-client, with the credentials of the machine (application default credentials).

Source: https://cloud.google.com/sql/docs/mysql/admin-api/rest/v1 (instances.get, backupRuns.list and .insert,
operations.get, projects.instances.getLatestRecoveryTime).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from zenml_upgrade_kit.managed import PAUSE, Managed, Refusal

TITLE = "Cloud SQL"
NEEDS = "cloudsql.instances.get, cloudsql.backupRuns.list and, for a snapshot, cloudsql.backupRuns.create"


def console(where: Sequence[str]) -> str:
    """The page of the instance's backups."""
    project, instance = where
    return f"https://console.cloud.google.com/sql/instances/{instance}/backups?project={project}"


def look(where: Sequence[str]) -> Managed:
    """Ask about an instance; Cloud SQL counts the backups that it keeps, one a day."""
    sql, names = _client(), dict(zip(("project", "instance"), where, strict=True))
    settings = sql.instances().get(**names).execute(num_retries=2)["settings"]
    backups = settings.get("backupConfiguration", {})
    runs = sql.backupRuns().list(**names).execute(num_retries=2).get("items", [])
    newest = next((run for run in runs if run["status"] == "SUCCESSFUL"), None)  # the newest run comes first
    return Managed(
        provider=TITLE,
        instance="/".join(where),
        console=console(where),
        automated=backups.get("enabled", False),
        retention_days=backups.get("backupRetentionSettings", {}).get("retainedBackups"),
        latest_restorable=_latest(sql, names),
        newest_snapshot=f"{newest.get('description') or newest['id']}, {newest['endTime']}" if newest else "",
    )


def snapshot(where: Sequence[str], name: str, timeout: float) -> None:
    """Make a backup on demand, which is kept until it is deleted; its name is its description."""
    sql, (project, instance), until = _client(), where, time.monotonic() + timeout
    asked = sql.backupRuns().insert(project=project, instance=instance, body={"description": name}).execute()
    while asked["status"] != "DONE":
        if time.monotonic() > until:
            raise Refusal(f"it is {asked['status'].lower()} after {timeout:.0f} s")
        time.sleep(PAUSE)
        asked = sql.operations().get(project=project, operation=asked["name"]).execute(num_retries=2)
    if errors := asked.get("error", {}).get("errors"):
        raise Refusal("; ".join(f"{error.get('code')}: {error.get('message', '')}" for error in errors))


def _client() -> Any:
    from googleapiclient.discovery import build

    return build("sqladmin", "v1", cache_discovery=False)


def _latest(sql: Any, names: dict[str, str]) -> str:
    from googleapiclient.errors import HttpError

    try:
        answer = sql.projects().instances().getLatestRecoveryTime(**names).execute(num_retries=2)
    except HttpError:  # point-in-time recovery is off, or its logs are on the instance's own disk
        return ""
    return str(answer.get("latestRecoveryTime", ""))
