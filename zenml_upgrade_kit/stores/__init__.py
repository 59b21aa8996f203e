"""Where the metadata database is: every form a user may name it in, resolved by reading files only."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit

import platformdirs
import yaml

from zenml_upgrade_kit.errors import BadPlan, KitError, StoreUnreadable
from zenml_upgrade_kit.stores import address, mysql, sqlite
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.sqlite import quoted as quoted

FORMS = (
    "sqlite:////abs/path/zenml.db, mysql://user:password@host/database, a .db file, a ZenML config directory, env:NAME"
)
OTHERWISE = f"give one of: {FORMS}"
DEFAULT = Path("default_zen_store", "zenml.db")
"""Where ZenML keeps its own database, under the local stores folder."""
Reader: TypeAlias = "sqlite3.Connection | mysql.Connection"
"""An open connection to either engine; SQL with double-quoted identifiers and no parameters works on both."""
NETWORKED = ("mysql", "mariadb")
SECTION = ("username", "password", "database", "ssl", "ssl_ca", "ssl_cert", "ssl_key", "ssl_verify_server_cert")
"""Keys of the store section of config.yaml, and with ``ZENML_STORE_`` of the environment, that reach a server."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """One metadata database and what belongs to it: a SQLite ``file``, absolute, or a database on a ``server``.

    config_yaml: the ZenML configuration that names this very database, if known. local_stores: holds
    ``<component uuid>/`` of local artifact stores that were given no path.
    """

    file: Path | None = None
    server: Server | None = None
    config_yaml: Path | None
    local_stores: Path

    @property
    def engine(self) -> str:
        """``sqlite`` or ``mysql``, which MariaDB is too."""
        return "sqlite" if self.file else "mysql"

    @property
    def path(self) -> Path:
        """The file of a SQLite store; raises :class:`BadPlan` for a server's database."""
        if self.file:
            return self.file
        raise BadPlan(
            "this needs a SQLite store",
            expected="a database that is a file",
            found=self.url,
            remedy="name a SQLite store",
        )

    @property
    def database(self) -> Path | Server:
        """What holds it."""
        return self.server or self.path

    @property
    def url(self) -> str:
        """As ZenML writes it, without a password: ``sqlite:////abs/path/zenml.db`` or ``mysql://user@host:3306/db``."""
        return self.server.name if self.server else f"sqlite:///{self.file}"


def locate(given: str) -> Store:
    """The store that ``given`` names (:data:`FORMS`); empty means the user's own, found as ZenML finds it.

    ZenML itself is never opened: it would migrate the store. Raises :class:`BadPlan` for what no store can be, and
    :class:`StoreUnreadable` for a file that is missing or cannot be read; nothing is ever created.
    """
    if not given:
        return _own()
    if given.startswith("env:"):
        name = given.removeprefix("env:")
        value = os.environ.get(name, "")
        if not value or value.startswith("env:"):
            raise BadPlan(
                f"the store env:{name} cannot be looked up",
                expected=f"the environment variable {name} with the store's URL",
                found="another env: name in it" if value else "no such variable, or an empty one",
                remedy=f"export {name}=sqlite:////abs/path/zenml.db",
            )
        return locate(value)
    if urlsplit(given).scheme.split("+")[0].lower() in NETWORKED:
        return Store(server=address.parse(given), config_yaml=None, local_stores=Path())
    path = _file(given) if "://" in given else Path(os.path.abspath(os.path.expanduser(given)))
    if path.is_dir():
        return _of_config(path / "config.yaml", path / "local_stores")
    config = path.parent.parent.parent / "config.yaml"  # its usual place; it may be that of another database
    return _checked(path, _naming(path, config, config.parent / "local_stores"), _stores_of(path, path.parent))


def lasting(store: Store) -> str:
    """A name for the store that was found: that is the one when the run goes on, in another shell.

    Empty for a server that only the whole environment names: the same environment must be there then.
    """
    config = str(store.config_yaml.parent) if store.config_yaml else ""
    if not store.server:
        return config or store.url
    for name in (config, "env:ZENML_STORE_URL"):
        with suppress(KitError):
            if name and locate(name).server == store.server:
                return name
    return ""


def connect(database: Path | Server, *, write: bool = False) -> Reader:
    """A connection to either engine, read-only unless ``write``: then each statement is a transaction of its own.

    Writing is for copies alone. Raises :class:`StoreUnreadable`; nothing is ever created.
    """
    if isinstance(database, Server):
        return mysql.connect(database, write=write)
    if not write:
        return sqlite.connect(database)
    try:
        uri = f"{database.absolute().as_uri()}?mode=rw"
        connection = sqlite3.connect(uri, uri=True, timeout=sqlite.PATIENCE, isolation_level=None)
    except sqlite3.Error as error:
        raise sqlite.unreadable(database, error) from None
    connection.row_factory = sqlite3.Row
    return connection


@contextmanager
def moment(database: Path | Server) -> Iterator[Reader]:
    """A connection that sees one moment of a database, whatever is written meanwhile."""
    with closing(connect(database)) as connection:
        if isinstance(connection, mysql.Connection):
            mysql.begin(connection)
        else:
            connection.execute("BEGIN")
        yield connection


def identity(database: Path | Server) -> str:
    """The same as long as nothing in the database changes: of a file its bytes, on a server rows of every table."""
    if isinstance(database, Path):
        return sqlite.digest(database)
    with closing(mysql.connect(database)) as connection:
        mysql.begin(connection)
        found = mysql.contents([connection])
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def tables(connection: Reader) -> dict[str, list[str]]:
    """Columns of every table, in stored order."""
    return mysql.tables(connection) if isinstance(connection, mysql.Connection) else sqlite.tables(connection)


def stamps(connection: Reader) -> list[str]:
    """The revisions in ``alembic_version``: one in a healthy store, none when the table is missing or empty."""
    return mysql.stamps(connection) if isinstance(connection, mysql.Connection) else sqlite.stamps(connection)


def destination(given: str) -> Path | Server:
    """Where a restored database goes: as :func:`locate`, but the file or the schema need not be there."""
    if given.startswith("env:") and os.environ.get(given.removeprefix("env:"), "").partition(":")[0] != "env":
        given = os.environ.get(given.removeprefix("env:"), "")
    if urlsplit(given).scheme.split("+")[0].lower() in NETWORKED:
        return address.parse(given)
    if not given:
        raise BadPlan("there is nothing to restore into", expected=FORMS, found="nothing", remedy="name it with --into")
    path = _file(given) if "://" in given else Path(os.path.abspath(os.path.expanduser(given)))
    if not path.is_dir():
        return path
    config, stores = path / "config.yaml", path / "local_stores"
    return _database(config, stores) if config.is_file() else stores / DEFAULT


def _own() -> Store:
    """As ZenML does it: its config folder, then ``ZENML_STORE_URL``, then ``config.yaml``, then the default place."""
    usual = platformdirs.user_config_dir("zenml", appauthor=False, roaming=True)
    folder = Path(os.environ.get("ZENML_CONFIG_PATH") or usual)
    stores = Path(os.path.abspath(os.environ.get("ZENML_LOCAL_STORES_PATH") or folder / "local_stores"))
    config, url = folder / "config.yaml", os.environ.get("ZENML_STORE_URL")
    if url and urlsplit(url).scheme in NETWORKED:
        section = {key: os.environ.get(f"ZENML_STORE_{key.upper()}") for key in SECTION}
        server = address.parse(url, {key: value for key, value in section.items() if value})
        return Store(server=server, config_yaml=config if config.is_file() else None, local_stores=stores)
    if config.is_file() and not url:
        return _of_config(config, stores)
    path = _file(url) if url else stores / DEFAULT
    return _checked(path, _naming(path, config, stores), stores, f"name the store with --store: {FORMS}")


def _of_config(config: Path, stores: Path) -> Store:
    """The store that a config.yaml names."""
    named = _database(config, stores)
    if isinstance(named, Server):
        return Store(server=named, config_yaml=config, local_stores=stores)
    return _checked(named, config, _stores_of(named, stores), f"correct store.url in {config}")


def _naming(path: Path, config: Path, stores: Path) -> Path | None:
    """The config.yaml, when there is one and it names this very database."""
    with suppress(KitError):
        named = _database(config, stores)
        if isinstance(named, Path) and os.path.realpath(named) == os.path.realpath(path):
            return config
    return None


def _stores_of(path: Path, otherwise: Path) -> Path:
    return path.parent.parent if path.parent.name == DEFAULT.parent.name else otherwise


def _database(config: Path, stores: Path) -> Path | Server:
    """The database that a config.yaml names; without a store section it is ZenML's default file."""
    expected, found = "readable YAML, key: value lines", "an empty or different document"
    try:
        value: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            section = value.get("store")
            if section is None:
                return Path(os.path.abspath(stores / DEFAULT))
            if isinstance(section, dict) and isinstance(section.get("url"), str):
                url = section["url"]
                return address.parse(url, section) if urlsplit(url).scheme in NETWORKED else _file(url)
            expected, found = "store.url", "a store section without it"
    except FileNotFoundError:
        expected, found = "a ZenML config directory, with a config.yaml", "no config.yaml in it"
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        found = type(error).__name__  # a YAML error quotes the line, and the line may be a password
    raise StoreUnreadable(
        f"{config} does not tell where the store is", expected=expected, found=found, remedy=OTHERWISE
    )


def _file(url: str) -> Path:
    """The path in a ``sqlite:///`` URL; messages never repeat a URL, which may hold a password."""
    scheme = urlsplit(url).scheme.split("+")[0].lower()
    path = unquote(url.removeprefix("sqlite:///").split("?")[0])
    if url.startswith("sqlite:///") and os.path.isabs(path):
        return Path(os.path.abspath(path))
    problem, expected = "the store's URL cannot be used", "sqlite:////abs/path/zenml.db (four slashes), or mysql://"
    remedy = OTHERWISE
    if scheme in {"http", "https"}:
        problem, expected = "the store is a ZenML server", "the address of the server's database"
        remedy = "run the kit where the server's database can be reached and name that database with --store"
    raise BadPlan(problem, expected=expected, found=f"a {scheme or 'strange'}: URL", remedy=remedy)


def _checked(path: Path, config: Path | None, stores: Path, remedy: str = OTHERWISE) -> Store:
    if path.is_file() and os.access(path, os.R_OK):
        return Store(file=path, config_yaml=config, local_stores=stores)
    found = "no such file" if not path.exists() else "no file" if not path.is_file() else "no read permission"
    remedy = "run the kit as a user who may read it" if path.is_file() else remedy
    raise StoreUnreadable(
        f"the store {path} cannot be read", expected="a SQLite database that you may read", found=found, remedy=remedy
    )
