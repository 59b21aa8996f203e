"""Managed databases: what Amazon RDS, Cloud SQL and Azure tell of their own backups, and a snapshot on request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import import_module
from typing import Any

from zenml_upgrade_kit.errors import BadPlan, KitError, ToolMissing

FORMS = {"aws": "aws:REGION/INSTANCE", "gcp": "gcp:PROJECT/INSTANCE", "azure": "azure:SUBSCRIPTION/GROUP/SERVER"}
"""How to give an instance that the host does not name; a cluster of Aurora may be ``aws:REGION/cluster:NAME``."""
PAUSE = 10.0
"""Seconds between two questions whether a snapshot is finished."""
# NAME.ID.REGION.rds.amazonaws.com, in China NAME.ID.rds.REGION.amazonaws.com.cn; the ID of a cluster is cluster-… or
# cluster-ro-…, whereas cluster-custom-… is an endpoint with a name of its own
RDS = re.compile(r"([^.]+)\.(cluster-(?!custom-))?[^.]+\.(?:rds\.([^.]+)|([^.]+)\.rds)\.amazonaws\.com(?:\.cn)?")
CLOUD_SQL = re.compile(r".*/cloudsql/(.+):[^:/]+:([^:/]+)")  # a project may be example.com:project
AZURE = re.compile(r"([^.]+)\.(?:.+\.)?mysql\.database\.azure\.com")


@dataclass(frozen=True, kw_only=True)
class Managed:
    """What the provider tells of its own backups of one database server.

    instance: as in :data:`FORMS`, behind the colon. automated: whether automated backups are on; retention_days: how
    long they are kept; both None when not known. latest_restorable: a time in UTC, or words where the provider tells
    none. newest_snapshot: its name and time. console: the page to look at by hand. problem: why nothing of this was
    checked, "" when it was.
    """

    provider: str
    instance: str
    console: str
    automated: bool | None = None
    retention_days: int | None = None
    latest_restorable: str = ""
    newest_snapshot: str = ""
    problem: str = ""


class Refusal(Exception):
    """What a provider answered, in words, where its library raises nothing."""


def look(host: str, socket: str = "", given: str = "") -> Managed | None:
    """What the provider tells of its backups of the server; None when host and socket are of no known provider.

    given: one of :data:`FORMS`, for a server behind another name. Only a wrong ``given`` is an error
    (:class:`BadPlan`): without the optional package, credentials, permission or network the answer holds ``problem``.
    """
    if not (found := _found(host, socket, given)):
        return None
    try:
        told: Managed = _ask("look", *found)
    except KitError as error:
        provider, where = import_module(f"{__name__}.{found[0]}"), found[1]
        problem = f"{error.problem}: {error.found}; to do: {error.remedy}"
        instance, console = "/".join(filter(None, where)), provider.console(where)
        return Managed(provider=provider.TITLE, instance=instance, console=console, problem=problem)
    return told


def snapshot(host: str, socket: str = "", given: str = "", *, name: str, timeout: float = 3600) -> Managed:
    """Take a snapshot of the server at its provider, wait until it can be restored, and look again.

    name: made to fit (lower-case letters, digits and single hyphens). timeout: seconds; the provider goes on after it.
    Raises :class:`BadPlan` for a server of no known provider, :class:`ToolMissing` without the optional package,
    :class:`KitError` when the provider does not do it.
    """
    if not (found := _found(host, socket, given)):
        raise BadPlan(
            "the provider of the server is not known, so that no snapshot can be taken",
            expected="a host of Amazon RDS or Azure Database for MySQL, or a socket of Cloud SQL",
            found=host or socket,
            remedy=f"tell where the server is: {', '.join(FORMS.values())}",
        )
    name = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    name = name if name[:1].isalpha() else f"zenml-{name}"  # Amazon's begin with a letter
    _ask("snapshot", *found, name, timeout)
    seen = look(host, socket, given)
    assert seen
    return seen if name in seen.newest_snapshot else replace(seen, newest_snapshot=name)


def moment(time: datetime | None) -> str:
    """A time of a provider, ISO 8601 in UTC to the second, "" for none."""
    return time.astimezone(timezone.utc).isoformat(timespec="seconds") if time else ""


def _found(host: str, socket: str, given: str) -> tuple[str, Sequence[str]] | None:
    """The provider, and where it has the server: what follows the colon in :data:`FORMS`, split."""
    if given:
        key, _, rest = given.partition(":")
        where = rest.split("/")
        if key in FORMS and len(where) == len(FORMS[key].split("/")) and all(where):
            return key, where
        forms = " or ".join(FORMS.values())
        raise BadPlan(
            "the managed server cannot be read", expected=forms, found=given, remedy="write it as one of these"
        )
    if match := RDS.fullmatch(host.lower()):
        return "aws", (match[3] or match[4], f"cluster:{match[1]}" if match[2] else match[1])
    if match := CLOUD_SQL.fullmatch(socket):
        return "gcp", match.groups()
    if match := AZURE.fullmatch(host.lower()):
        return "azure", ("", "", match[1])
    return None


def _ask(what: str, key: str, where: Sequence[str], *more: Any) -> Any:
    """Call ``look`` or ``snapshot`` of a provider's module; whatever goes wrong there is a :class:`KitError`."""
    provider = import_module(f"{__name__}.{key}")
    try:
        return getattr(provider, what)(where, *more)
    except ImportError as error:
        raise ToolMissing(
            f"{provider.TITLE} cannot be asked",
            expected=f"the optional packages [{key}]",
            found=f"{error.name} is not installed",
            remedy=f"pip install 'zenml-upgrade-kit[{key}]'",
        ) from error
    except Exception as error:  # each library has its own, and a backup does not end for any of them
        raise KitError(
            f"{provider.TITLE} did not " + ("tell its backups" if what == "look" else f"make the snapshot {more[0]}"),
            expected=f"an answer for {FORMS[key]}",
            found=" ".join(f"{type(error).__name__}: {error}".split())[:300],
            remedy=f"see that the credentials may {provider.NEEDS}, or look by hand: {provider.console(where)}",
        ) from error
