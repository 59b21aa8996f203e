"""A backup is a folder in a place: compressed, perhaps encrypted, hashed, and complete once its manifest is written."""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

from zenml_upgrade_kit import __version__
from zenml_upgrade_kit.errors import BackupUnusable, PlaceUnusable
from zenml_upgrade_kit.findings import now
from zenml_upgrade_kit.packing import digest, identities, pack, recipient, unpack
from zenml_upgrade_kit.places import Place, open_place

FORMAT = 2
DEAD = timedelta(days=2)
"""Where no lock can tell, an unfinished backup that was started longer ago than this is not being written any more."""
MANIFEST, VERIFIED, WRITING, HOW_TO = "manifest.json", "verified.json", "writing", "HOW_TO_RESTORE.txt"
_NAME = re.compile(r"\d{8}T\d{6}Z-[\w.+-]+-[0-9a-f]{4}")
_UNVERIFIED = {"hashed": None, "restored": None, "restore_seconds": None, "restored_into": "", "problem": ""}
_DAMAGED = "stored files: "
_BY_HAND = """\
A backup made by the ZenML Upgrade Kit {version}. It is whole if manifest.json is here, which was written last.

With the kit:  zenml-upgrade restore THIS_FOLDER --into STORE
By hand, with standard programs only (manifest.json names each file, its SHA-256 and where it belongs):
  1. check    sha256sum FILE
  2. unpack   zstd -d FILE.zst                                      when it was encrypted:
              age -d -i KEY_FILE FILE.zst.age | zstd -d > FILE
  3. load     mariadb DATABASE < database.sql                       a dump of mariadb-dump or mysqldump
              myloader --directory FOLDER --database DATABASE       a dump of mydumper
              cp zenml.db DESTINATION                               SQLite, while nothing uses the store
              tar -xf NAME.tar -C /                                 zen.tar and artifacts.tar, to where they were
"""


@dataclass(frozen=True, kw_only=True)
class Backup:
    """A complete backup; its manifest was read and is intact, its files are not looked at before they are opened.

    manifest: ``format``, ``kit_version``, ``name``, ``started``, ``finished``, ``stamp``, ``files`` (each ``name``,
    ``original``, ``role``, ``bytes``, ``sha256``, ``original_bytes``, ``restore_to``), ``encrypted_to``, and what the
    backup step added: ``engine``, ``source``, ``tables`` and more. ``seal`` is the SHA-256 of all that.
    """

    place: Place
    name: str
    manifest: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The backup's folder in words: a path or a URL."""
        return f"{self.place.url}/{self.name}"

    @property
    def started(self) -> datetime:
        """When it was begun, which is the moment nearest to what it holds."""
        return datetime.fromisoformat(self.manifest["started"])

    @property
    def age(self) -> timedelta:
        """How long ago it was begun."""
        return datetime.now(timezone.utc) - self.started

    def files(self, role: str = "") -> list[dict[str, Any]]:
        """The manifest's entries of one role, or of all."""
        return [file for file in self.manifest["files"] if role in ("", file["role"])]

    def open(self, file: Mapping[str, Any], identity: Path | None = None) -> BinaryIO:
        """The original bytes of a file: decrypted, decompressed.

        Read it to its end: there :class:`BackupUnusable` is raised when what is stored differs from the manifest.
        identity: a file with age or SSH private keys, for an encrypted backup.
        """
        packing, keys = file["name"].removeprefix(file["original"]), []
        if packing.endswith(".age"):
            if identity is None:
                wanted = f"the private key of {', '.join(self.manifest['encrypted_to'])}"
                raise _unusable(self.where, wanted, "none", "name the file that it is in with --identity")
            keys = identities(identity)
        path = f"{self.name}/{file['name']}"
        return unpack(self.place.open(path), f"{self.place.url}/{path}", file["sha256"], packing=packing, keys=keys)

    @property
    def verified(self) -> dict[str, Any]:
        """``hashed``, ``restored`` (times or None), ``restore_seconds``, ``restored_into`` and ``problem``."""
        try:
            with self.place.open(f"{self.name}/{VERIFIED}") as file:
                return {**_UNVERIFIED, **json.loads(file.read())}
        except (PlaceUnusable, ValueError, TypeError):
            return dict(_UNVERIFIED)

    def record(self, **changes: Any) -> None:
        """Change what :attr:`verified` says."""
        with self.place.write(f"{self.name}/{VERIFIED}") as file:
            file.write(json.dumps({**self.verified, **changes}, indent=1).encode())

    def remove(self) -> None:
        """Remove it, its manifest first: what an interruption leaves is unfinished, and :func:`clean` takes it away."""
        with self.place.write(f"{self.name}/{WRITING}"):
            pass
        self.place.remove(f"{self.name}/{MANIFEST}")
        self.place.remove(self.name)


class New:
    """A backup that is being written; :func:`create` makes it. Files may be added from several threads."""

    def __init__(self, place: Place, name: str, stamp: str, encrypt_to: Sequence[str], keys: Sequence[Any]) -> None:
        self.place, self.name = place, name
        self.finished = False
        self._about = {"name": name, "stamp": stamp, "started": _moment(), "encrypted_to": list(encrypt_to)}
        self._keys = keys
        self._files: list[dict[str, Any]] = []

    def add(self, name: str, source: BinaryIO, *, role: str, compress: bool = True, restore_to: str = "") -> None:
        """Store a stream to its end, whatever its size; ``.zst`` and ``.age`` are added to its name.

        Raises :class:`PlaceUnusable`, and whatever the source raises.
        """
        self._add(name, source, role, compress, restore_to, self._keys)

    def _add(self, name: str, source: BinaryIO, role: str, compress: bool, to: str, keys: Sequence[Any]) -> None:
        stored_as = name + ".zst" * compress + ".age" * bool(keys)
        with self.place.write(f"{self.name}/{stored_as}") as file:
            packed = pack(source, file, compress=compress, keys=keys)
        entry = {"name": stored_as, "original": name, "role": role, "restore_to": to}
        self._files.append({**entry, **dataclasses.asdict(packed)})

    def finish(self, facts: Mapping[str, Any]) -> Backup:
        """Write the manifest: from now on this is a backup."""
        files = sorted(self._files, key=lambda file: str(file["name"]))
        about = {"format": FORMAT, "kit_version": __version__, **self._about, "finished": _moment()}
        manifest = json.loads(json.dumps({**facts, **about, "files": files}))
        manifest["seal"] = _seal(manifest)
        with self.place.write(f"{self.name}/{MANIFEST}") as file:
            file.write((json.dumps(manifest, indent=1) + "\n").encode())
        self.finished = True
        self.place.remove(f"{self.name}/{WRITING}")
        return Backup(place=self.place, name=self.name, manifest=manifest)


@contextmanager
def create(place: Place, stamp: str, *, encrypt_to: Sequence[str] = ()) -> Iterator[New]:
    """Begin a backup of a store with this stamp; without :meth:`New.finish` nothing of it stays.

    encrypt_to: public keys of age (``age1…``) or SSH; any one of the private keys opens the backup. Raises
    :class:`BadPlan` for something else, :class:`ToolMissing`, :class:`PlaceUnusable`.
    """
    keys = [recipient(text) for text in encrypt_to]
    name, lock = _begin(place, re.sub(r"[^\w.+-]+", "_", stamp) or "unknown")
    new = New(place, name, stamp, encrypt_to, keys)
    try:
        new._add(HOW_TO, io.BytesIO(_BY_HAND.format(version=__version__).encode()), "how_to", False, "", ())
        yield new
    finally:
        if not new.finished:
            with suppress(PlaceUnusable):
                place.remove(name)
        if lock is not None:
            os.close(lock)


def clean(place: Place) -> list[str]:
    """Remove what killed backups left, and return the names; those that are being written now are left alone."""
    return [name for name in _named(place)[1] if _remove_dead(place, name)]


def backups(place: Place) -> tuple[list[Backup], list[BackupUnusable]]:
    """The complete backups of a place, newest first, and what is wrong with those whose manifest cannot be used."""

    def read(name: str) -> Backup | BackupUnusable:
        try:
            return _read(place, name)
        except BackupUnusable as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, _named(place)[0]))
    whole = [one for one in found if isinstance(one, Backup)]
    whole.sort(key=lambda one: str(one.manifest["started"]), reverse=True)
    return whole, [one for one in found if isinstance(one, BackupUnusable)]


def open_backup(given: str | Path) -> Backup:
    """The backup in a folder, or the newest one of a place.

    Raises :class:`BackupUnusable` when there is none, when its manifest is damaged or of a newer kit, and when the
    place holds backups of several stores, of which one must be named.
    """
    place = open_place(str(given))
    if place.exists(MANIFEST):
        return _read(*place.above())
    found, unusable = backups(place)
    sources = sorted({str(backup.manifest.get("source", "")) for backup in found})
    if len(sources) > 1:
        raise _unusable(place.url, "backups of one store", f"of {', '.join(sources)}", "name the folder of one backup")
    if not found:
        seen = unusable[0].found if unusable else "none: no backup was finished here"
        raise _unusable(place.url, "a backup with manifest.json, which is written last", seen)
    return found[0]


def verify(backup: Backup) -> list[str]:
    """Hash the stored files again; what is wrong, naming each file, or nothing. No private key is needed.

    The result is kept in :attr:`Backup.verified`.
    """
    with ThreadPoolExecutor(2) as pool:
        problems = list(filter(None, pool.map(lambda file: _damage(backup, file), backup.files())))
    earlier = str(backup.verified["problem"])
    changes: dict[str, Any] = {"hashed": now(), **({"problem": ""} if earlier.startswith(_DAMAGED) else {})}
    if problems:
        changes = {"hashed": None, "problem": _DAMAGED + "; ".join(problems[:5])}
    with suppress(PlaceUnusable):  # a backup that can only be read is as good
        backup.record(**changes)
    return problems


def _damage(backup: Backup, file: Mapping[str, Any]) -> str:
    name, path = file["name"], f"{backup.name}/{file['name']}"
    try:
        with backup.place.open(path) as stream:
            size, sha256 = digest(stream)
    except PlaceUnusable as error:
        if not backup.place.exists(path):
            return f"{name} is missing"
        if not backup.place.local:
            raise  # a network says nothing about the backup
        return f"{name} cannot be read: {error.found}"
    if size != file["bytes"]:
        return f"{name} has {size:,} bytes instead of {file['bytes']:,}"
    return "" if sha256 == file["sha256"] else f"{name} has another content"


def _read(place: Place, name: str) -> Backup:
    where = f"{place.url}/{name}"
    with place.open(f"{name}/{MANIFEST}") as file:
        text = file.read()
    try:
        manifest = json.loads(text)
        made_by, kit = manifest["format"], manifest["kit_version"]
        if made_by != FORMAT:
            raise _unusable(where, f"format {FORMAT}", f"format {made_by}", f"use kit {kit} or newer")
        if manifest["seal"] != _seal(manifest):
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise _unusable(where, "a readable manifest.json", f"{name}/manifest.json is damaged") from None
    return Backup(place=place, name=name, manifest=manifest)


def _moment() -> str:
    """Now, to the microsecond: two backups may be begun in one second."""
    return datetime.now(timezone.utc).isoformat()


def _seal(manifest: Mapping[str, Any]) -> str:
    """SHA-256 of everything else in a manifest: a flipped byte must not pass for a row count."""
    rest = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _named(place: Place) -> tuple[list[str], list[str]]:
    """Names of the finished and of the unfinished backups."""
    names = [name for name in place.folders() if _NAME.fullmatch(name)]
    with ThreadPoolExecutor(8) as pool:
        finished = dict(zip(names, pool.map(lambda name: place.exists(f"{name}/{MANIFEST}"), names), strict=True))
    return [name for name in names if finished[name]], [name for name in names if not finished[name]]


def _begin(place: Place, stamp: str) -> tuple[str, int | None]:
    """The name of a new folder that says it is being written, and locally the lock that proves it."""
    while True:
        name = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}-{stamp}-{secrets.token_hex(2)}"
        if place.exists(name):
            continue
        if not place.local:
            with place.write(f"{name}/{WRITING}"):
                return name, None
        with place.asked():
            place.local.mkdir(mode=0o700, parents=True, exist_ok=True)
            (place.local / name).mkdir(mode=0o700)
            with suppress(FileNotFoundError, BlockingIOError):  # somebody who cleans up was faster
                lock = os.open(place.local / name / WRITING, os.O_CREAT | os.O_RDWR, 0o600)
                _lock(lock)
                if os.fstat(lock).st_nlink:
                    return name, lock


def _lock(file: int) -> bool:
    """Whether locks work here; raises BlockingIOError when another process has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _remove_dead(place: Place, name: str) -> bool:
    """Remove an unfinished backup unless it is being written; the lock of a dead process is free."""
    started = datetime.strptime(name[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    dead, lock = datetime.now(timezone.utc) - started > DEAD, -1
    try:
        if place.local:
            lock = os.open(place.local / name / WRITING, os.O_RDWR)
            dead |= _lock(lock)
    except (BlockingIOError, PermissionError):  # at work, or somebody else's
        return False
    except FileNotFoundError:
        return _remove_unmarked(place, Path(place.root, name))
    try:
        if dead := dead and not place.exists(f"{name}/{MANIFEST}"):
            place.remove(name)
        return dead
    finally:
        if lock >= 0:
            os.close(lock)


def _remove_unmarked(place: Place, folder: Path) -> bool:
    """Remove a folder whose process was killed before it marked it, or while it removed it; not one just finished."""
    with suppress(OSError):
        if (left := {path.name for path in folder.iterdir()}) and not left & {MANIFEST, WRITING}:
            place.remove(folder.name)
        else:
            folder.rmdir()  # only if nobody has put anything into it
        return True
    return False


def _unusable(where: str, expected: str, found: str, remedy: str = "use another backup") -> BackupUnusable:
    return BackupUnusable(f"the backup in {where} cannot be used", expected=expected, found=found, remedy=remedy)
