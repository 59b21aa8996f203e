"""Where the metadata database is: every form a user may name it in, resolved by reading files only."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import platformdirs
import yaml

from zenml_upgrade_kit.errors import BadPlan, KitError, StoreUnreadable

FORMS = "sqlite:////abs/path/zenml.db, the path of a .db file, a ZenML config directory, or env:NAME"
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
    if "://" in given:
        return _named(_file(given))
    path = Path(os.path.abspath(os.path.expanduser(given)))
    return _configured(path) if path.is_dir() else _named(path)


def _own() -> Store:
    """As ZenML does it: its config folder, then ``ZENML_STORE_URL``, then ``config.yaml``, then the default place."""
    folder = Path(
        os.environ.get("ZENML_CONFIG_PATH") or platformdirs.user_config_dir("zenml", appauthor=False, roaming=True)
    )
    stores = Path(os.environ.get("ZENML_LOCAL_STORES_PATH") or folder / "local_stores")
    config = folder / "config.yaml"
    if url := os.environ.get("ZENML_STORE_URL"):
        path, named = _file(url), config.is_file() and _same(_database(config, stores), _file(url))
    else:
        path, named = (_database(config, stores), True) if config.is_file() else (stores / DEFAULT, False)
    remedy = f"name the store with --store: {FORMS}"
    return _checked(path, config if named else None, Path(os.path.abspath(stores)), remedy)


def _configured(folder: Path) -> Store:
    config = folder / "config.yaml"
    if not config.is_file():
        raise StoreUnreadable(
            f"{folder} is not a ZenML config directory",
            expected="a folder with config.yaml",
            found="no config.yaml in it",
            remedy=f"give one of: {FORMS}",
        )
    path = _database(config, folder / "local_stores")
    return _checked(path, config, _stores_of(path, folder / "local_stores"), f"correct store.url in {config}")


def _named(path: Path) -> Store:
    """A database given by itself; the config.yaml at the usual place counts only when it names this very file."""
    config = path.parent.parent.parent / "config.yaml"
    try:
        named = config.is_file() and _same(_database(config, config.parent / "local_stores"), path)
    except KitError:
        named = False
    return _checked(path, config if named else None, _stores_of(path, path.parent), f"give one of: {FORMS}")


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _stores_of(path: Path, otherwise: Path) -> Path:
    return path.parent.parent if path.parent.name == DEFAULT.parent.name else otherwise


def _database(config: Path, stores: Path) -> Path:
    """The SQLite file that a config.yaml names; without a store section it is ZenML's default one."""
    try:
        value: Any = yaml.safe_load(config.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        # A YAML error quotes the line, and the line may be a password: only its kind is told.
        found = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise _unusable(config, "a readable YAML file", found or "an error while reading") from None
    if not isinstance(value, dict):
        raise _unusable(config, "key: value lines", "an empty or different document")
    section = value.get("store")
    if section is None:
        return Path(os.path.abspath(stores / DEFAULT))
    if not isinstance(section, dict) or not isinstance(section.get("url"), str):
        raise _unusable(config, "store.url", "a store section without it")
    return _file(section["url"])


def _unusable(config: Path, expected: str, found: str) -> StoreUnreadable:
    remedy = "correct it, or name the database itself: --store sqlite:////abs/path/zenml.db"
    return StoreUnreadable(f"{config} does not tell where the store is", expected=expected, found=found, remedy=remedy)


def _file(url: str) -> Path:
    """The path in a ``sqlite:///`` URL; messages never repeat a URL, which may hold a password."""
    scheme = urlsplit(url).scheme.split("+")[0].lower()
    if scheme in {"mysql", "mariadb"}:
        raise BadPlan(
            "MySQL and MariaDB stores are not supported yet",
            expected="a SQLite store",
            found=f"a {scheme}:// URL",
            remedy="wait for a release of the kit that rehearses MySQL, or rehearse with a SQLite store",
        )
    if scheme in {"http", "https"}:
        raise BadPlan(
            "the store is a ZenML server",
            expected="the address of the server's database",
            found=f"its REST address ({scheme}://)",
            remedy="run the kit where the server's database can be reached and name that database with --store",
        )
    path = unquote(url[len("sqlite:///") :].split("?")[0]) if url.startswith("sqlite:///") else ""
    if not path or not os.path.isabs(path):
        raise BadPlan(
            "the store's URL cannot be used",
            expected="sqlite:////abs/path/zenml.db (four slashes)",
            found=f"a {scheme or 'strange'} URL" if scheme != "sqlite" else "a sqlite URL without an absolute path",
            remedy=f"give one of: {FORMS}",
        )
    return Path(os.path.abspath(path))


def _checked(path: Path, config: Path | None, stores: Path, remedy: str) -> Store:
    problem = f"the store {path} cannot be read"
    if not path.is_file():
        found = "a directory" if path.is_dir() else "something else" if path.exists() else "no such file"
        raise StoreUnreadable(problem, expected="a SQLite database file", found=found, remedy=remedy)
    if not os.access(path, os.R_OK):
        remedy = "run the kit as a user who may read it; it needs no write access"
        raise StoreUnreadable(problem, expected="a file you may read", found="no read permission", remedy=remedy)
    return Store(engine="sqlite", path=path, config_yaml=config, local_stores=stores)
