"""Where the metadata database is: every form a user may name it in, resolved by reading files only."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import platformdirs
import yaml

from zenml_upgrade_kit.errors import BadPlan, KitError, StoreUnreadable

FORMS = "sqlite:////abs/path/zenml.db, the path of a .db file, a ZenML config directory, or env:NAME"
OTHERWISE = f"give one of: {FORMS}"
DEFAULT = Path("default_zen_store", "zenml.db")
"""Where ZenML keeps its own database, under the local stores folder."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """One metadata database and what belongs to it.

    engine: ``sqlite``. path: the database file, absolute. config_yaml: the ZenML configuration that names this very
    database, if known. local_stores: holds ``<component uuid>/`` of local artifact stores that were given no path.
    """

    engine: str
    path: Path
    config_yaml: Path | None
    local_stores: Path

    @property
    def url(self) -> str:
        """As ZenML writes it: ``sqlite:////abs/path/zenml.db``."""
        return f"sqlite:///{self.path}"


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
    path = _file(given) if "://" in given else Path(os.path.abspath(os.path.expanduser(given)))
    if path.is_dir():
        config, stores = path / "config.yaml", path / "local_stores"
        path = _database(config, stores)
        return _checked(path, config, _stores_of(path, stores), f"correct store.url in {config}")
    config = path.parent.parent.parent / "config.yaml"  # its usual place; it may be that of another database
    stores = _stores_of(path, path.parent)
    return _checked(path, _naming(path, config, config.parent / "local_stores"), stores, OTHERWISE)


def _own() -> Store:
    """As ZenML does it: its config folder, then ``ZENML_STORE_URL``, then ``config.yaml``, then the default place."""
    usual = platformdirs.user_config_dir("zenml", appauthor=False, roaming=True)
    folder = Path(os.environ.get("ZENML_CONFIG_PATH") or usual)
    stores = Path(os.path.abspath(os.environ.get("ZENML_LOCAL_STORES_PATH") or folder / "local_stores"))
    config, url = folder / "config.yaml", os.environ.get("ZENML_STORE_URL")
    path = _file(url) if url else _database(config, stores) if config.is_file() else stores / DEFAULT
    return _checked(path, _naming(path, config, stores), stores, f"name the store with --store: {FORMS}")


def _naming(path: Path, config: Path, stores: Path) -> Path | None:
    """The config.yaml, when there is one and it names this very database."""
    with suppress(KitError):
        if os.path.realpath(_database(config, stores)) == os.path.realpath(path):
            return config
    return None


def _stores_of(path: Path, otherwise: Path) -> Path:
    return path.parent.parent if path.parent.name == DEFAULT.parent.name else otherwise


def _database(config: Path, stores: Path) -> Path:
    """The SQLite file that a config.yaml names; without a store section it is ZenML's default one."""
    expected, found = "readable YAML, key: value lines", "an empty or different document"
    try:
        value: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            section = value.get("store")
            if section is None:
                return Path(os.path.abspath(stores / DEFAULT))
            if isinstance(section, dict) and isinstance(section.get("url"), str):
                return _file(section["url"])
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
    problem, expected = "the store's URL cannot be used", "sqlite:////abs/path/zenml.db (four slashes)"
    remedy = OTHERWISE
    if scheme in {"mysql", "mariadb"}:
        problem, expected = "MySQL and MariaDB stores are not supported yet", "a SQLite store"
        remedy = "wait for a release of the kit that rehearses MySQL, or rehearse with a SQLite store"
    if scheme in {"http", "https"}:
        problem, expected = "the store is a ZenML server", "the address of the server's database"
        remedy = "run the kit where the server's database can be reached and name that database with --store"
    raise BadPlan(problem, expected=expected, found=f"a {scheme or 'strange'}: URL", remedy=remedy)


def _checked(path: Path, config: Path | None, stores: Path, remedy: str) -> Store:
    if path.is_file() and os.access(path, os.R_OK):
        return Store(engine="sqlite", path=path, config_yaml=config, local_stores=stores)
    found = "no such file" if not path.exists() else "no file" if not path.is_file() else "no read permission"
    remedy = "run the kit as a user who may read it" if path.is_file() else remedy
    raise StoreUnreadable(
        f"the store {path} cannot be read", expected="a SQLite database that you may read", found=found, remedy=remedy
    )
