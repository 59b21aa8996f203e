"""Where the files of an artifact store are and with which credentials they are read, as ZenML itself would find out.

Settings of ZenML's artifact stores s3, gcp and azure, of their secrets and of service connectors, have had the same
names from 0.43.0 to 0.98.0; b2 and digitalocean are S3 elsewhere. Options are those of s3fs, gcsfs and adlfs.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import inventory, redact, stores
from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.places import lacking, open_place
from zenml_upgrade_kit.stores import Reader

GONE = "its artifact store is no longer registered"
CONNECT, READ = 10, 60
"""Seconds to wait for a connection, and for an answer."""
METHODS = {"secret-key", "sts-token", "session-token", "federation-token", "service-principal"}
METHODS |= {"service-account", "user-account", "oauth2-token"}
"""Authentication methods of service connectors whose credentials are in the database and work as they are."""
_S3 = {
    "key": ("aws_access_key_id", "access_key_id", "key"),
    "secret": ("aws_secret_access_key", "secret_access_key", "secret"),
    "token": ("aws_session_token", "session_token", "token"),
}
_AZURE = {
    **{name: (name,) for name in ("account_key", "connection_string", "sas_token")},
    **{name: (name,) for name in ("client_id", "client_secret", "tenant_id")},
    "account_name": ("account_name", "storage_account"),
}
_REFERENCE = re.compile(r"\{\{\s*(\S+?)\.(\S+?)\s*\}\}")


@dataclass(frozen=True, kw_only=True)
class Location:
    """The root of one artifact store.

    root: a folder, or a URL; "" for folders that each artifact's row names. url: the same URL, "" for a folder.
    options: for fsspec, with credentials. problem: why its files cannot be looked at, "" when nothing is known against
    it. note: where its credentials come from when it is not where ZenML has them. secrets: values that must be masked
    in all that is written.
    """

    root: str = ""
    url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    problem: str = ""
    note: str = ""
    secrets: tuple[str, ...] = field(default=(), repr=False)


class _Sealed(Exception):
    """Credentials that are not to be had from the database; says why."""


def locations(connection: Reader, local_stores: Path) -> dict[str | None, Location]:
    """By id, every artifact store that is registered or that an artifact version names; None where that is unknown.

    local_stores: as :func:`inventory.artifacts`. Nothing is asked of the stores yet.
    """
    held = stores.tables(connection)
    versions = inventory.versions_table(held)
    named = connection.execute(f"SELECT DISTINCT artifact_store_id FROM {versions}")
    found = {None: Location(problem=GONE), **{inventory.dashed(row[0]): Location(problem=GONE) for row in named}}
    places = inventory.artifact_stores(connection, local_stores)
    registered = _Registered(connection, held)
    query = "SELECT id, name, flavor, configuration, connector_id FROM stack_component WHERE type = 'artifact_store'"
    for key, name, flavor, configuration, connector in connection.execute(query):
        root = str(places[key]["store_root"] or "").strip("'\"`").rstrip("/")
        if not root and places[key]["store_root"] != "":
            found[inventory.dashed(key)] = Location(problem=f"its artifact store {name} has no path")
            continue
        if "://" not in root:
            found[inventory.dashed(key)] = Location(root=root)
            continue
        config, given, note = _object(inventory.decoded(configuration)), dict[str, Any](), ""
        try:
            config = registered.resolved(config)
            given = registered.credentials(config, connector)
        except _Sealed as why:
            note = f"{why}; the environment's credentials are used"
        options = _options(root.partition("://")[0], str(flavor), config, given)
        found[inventory.dashed(key)] = Location(
            root=root, url=root, options=options, note=note, secrets=tuple(sorted(set(_secrets(options))))
        )
    return found


class _Registered:
    """Secrets and service connectors of a database; a secret's values are looked at when they are asked for."""

    def __init__(self, connection: Reader, held: Mapping[str, list[str]]) -> None:
        # of two secrets with one name ZenML takes the user's own until 0.75 (scope), since 0.80.0 the shared one
        order = "private" if "private" in held["secret"] else "scope"
        rows = list(connection.execute(f'SELECT id, name, "values" FROM secret ORDER BY {order}'))
        self._secrets = {row[1]: row for row in reversed(rows)} | {row[0]: row for row in rows}
        query = "SELECT id, name, auth_method, configuration, secret_id FROM service_connector"
        self._connectors = {row[0]: row for row in connection.execute(query)}

    def secret(self, key: str) -> dict[str, Any]:
        """The values of a secret, by its id or name."""
        _, name, values = self._secrets.get(key, (None, key, None))
        if key not in self._secrets:
            raise _Sealed(f"its secret {name} is not registered")
        if not values:
            raise _Sealed(f"its secret {name} is in another secrets store than the database")
        decoded = inventory.decoded(values)
        if not isinstance(decoded, dict):
            raise _Sealed(f"its secret {name} is encrypted")
        return decoded

    def resolved(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """A component's configuration with the values that its references ``{{secret.key}}`` stand for."""
        found = dict(config)
        for setting, value in config.items():
            if reference := _REFERENCE.fullmatch(value) if isinstance(value, str) else None:
                name, key = reference.groups()
                if key not in (values := self.secret(name)):
                    raise _Sealed(f"its secret {name} has no {key}")
                found[setting] = values[key]
        return found

    def credentials(self, config: Mapping[str, Any], connector: str | None) -> dict[str, Any]:
        """What ZenML would log in with: the service connector's, else those of the secret, else the configuration's."""
        if connector:
            _, name, method, configuration, secret = self._connectors.get(connector, (None, connector, "", None, None))
            if method not in METHODS:
                raise _Sealed(f"its service connector {name} authenticates by {method or 'something unknown'}")
            return {**(inventory.decoded(configuration) or {}), **(self.secret(secret) if secret else {})}
        if name := config.get("authentication_secret"):
            return self.secret(name)
        return dict(config)


def _options(protocol: str, flavor: str, config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the protocol's file system. Without credentials it looks for them in the environment, as ever."""
    if protocol in ("gs", "gcs"):
        token = given.get("service_account_json") or given.get("user_account_json") or given.get("token")
        return {**_waiting(), **({"token": _object(token) or inventory.decoded(token) or token} if token else {})}
    if protocol in ("az", "abfs", "abfss"):
        return {"anon": False, "connection_timeout": CONNECT, "read_timeout": READ, **_renamed(_AZURE, given)}
    if protocol not in ("s3", "s3a"):
        return {}
    client: dict[str, Any] = {"region_name": given["region"]} if given.get("region") else {}
    if flavor == "b2":
        client = {"endpoint_url": "https://s3.us-west-004.backblazeb2.com"}
        found = {"key": os.environ.get("B2_APPLICATION_KEY_ID"), "secret": os.environ.get("B2_APPLICATION_KEY")}
        given = {**found, **given}
    elif flavor == "digitalocean":
        client = {"endpoint_url": f"https://{config.get('region')}.digitaloceanspaces.com"}
    return {
        **_renamed(_S3, given),
        "client_kwargs": {**client, **_object(config.get("client_kwargs"))},
        "config_kwargs": {"connect_timeout": CONNECT, "read_timeout": READ, **_object(config.get("config_kwargs"))},
        "s3_additional_kwargs": _object(config.get("s3_additional_kwargs")),
    }


def _waiting() -> dict[str, Any]:
    """gcsfs waits forever unless it is told otherwise, in terms of what it is made of."""
    with suppress(ImportError):
        from aiohttp import ClientTimeout

        return {"requests_timeout": ClientTimeout(total=None, sock_connect=CONNECT, sock_read=READ)}
    return {}


def _renamed(names: Mapping[str, tuple[str, ...]], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options from settings, of which the first that has a value counts."""
    found = {option: next(filter(None, map(given.get, settings)), None) for option, settings in names.items()}
    return {option: str(value) for option, value in found.items() if value}


def _object(value: Any) -> dict[str, Any]:
    """A JSON object, which old releases also kept as its text; empty for anything else."""
    with suppress(TypeError, ValueError):
        value = json.loads(value)
    return dict(value) if isinstance(value, Mapping) else {}


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    yield from (value for value in redact.secrets_in(options) if not value.startswith("http"))  # no token_uri
    for name in ("key", "account_key", "connection_string", "sas_token"):
        if value := options.get(name):
            yield value
            yield from re.findall(r"(?:AccountKey|sig)=([^;&]+)", value)


def place(row: Mapping[str, Any], location: Location) -> tuple[str, str]:
    """Where the files of an artifact version lie, and a note when that is where ZenML refuses to read since 0.55.5.

    That is so in copied stores: the uris name the old folder. Where that is gone, the files are found in the copy.
    """
    uri, root = str(row["uri"]), location.root or str(row["store_root"])
    if uri.startswith(f"{root}/") and "/../" not in uri:
        return uri, ""
    if location.url:
        return uri, f"ZenML refuses to read outside {root}; it is read at {uri}"
    if Path(os.path.realpath(uri)).is_relative_to(os.path.realpath(root)):
        return uri, ""
    if os.path.exists(uri):
        return uri, f"ZenML refuses to read outside {root}; it is read at {uri}, as its uri says"
    _, named, rest = uri.partition(f"/{row['store_id']}/")
    if named and os.path.exists(copy := f"{root}/{rest}"):
        return copy, f"ZenML refuses to read outside {root}, and its uri says {uri}; it is read at {copy}"
    return uri, ""


def reachable(location: Location) -> str:
    """Why the files of an artifact store cannot be read, in words without secrets; "" when its root can be listed.

    Asks once, for some seconds more than a minute at most. Folders are not asked: each file tells for itself.
    """
    if location.problem or not location.url:
        return location.problem
    answers: list[str] = []

    def ask() -> None:
        try:
            open_place(location.url, location.options).folders()
            answers.append("")
        except KitError as error:
            expected, found = lacking(error.__cause__, "list and read") if error.__cause__ else (error.expected, "")
            answers.append(f"it wants {expected}" + (f" ({found})" if found else ""))

    asking = threading.Thread(target=ask, daemon=True)  # a library may try again for long: it is left behind
    asking.start()
    asking.join(CONNECT + READ)
    why = answers[0] if answers else f"it did not answer within {CONNECT + READ} seconds"
    if not why:
        return ""
    said = f"its artifact store {location.url} cannot be read: {why}" + (f"; {location.note}" if location.note else "")
    return redact.Redactor(location.secrets).text(said)
