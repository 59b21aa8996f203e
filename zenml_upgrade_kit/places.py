"""A place holds backups: a local folder, or a bucket or other file system behind an fsspec URL."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractBufferedFile

from zenml_upgrade_kit import redact
from zenml_upgrade_kit.errors import BadPlan, KitError, PlaceUnusable, ToolMissing

EXTRAS = {"s3": "aws", "s3a": "aws", "gs": "gcp", "gcs": "gcp", "az": "azure", "abfs": "azure", "abfss": "azure"}
"""Which optional extra of the kit has the file system of a protocol."""
PART = 16 << 20
"""Bytes of one part of an upload, which is held in memory; S3 takes 10,000 of them: files up to 160 GB."""
_CAUSES = (
    (r"credential|access ?key|account_name|authenticat|signature", "credentials it accepts"),
    (
        r"NoSuchBucket|bucket does not exist|ContainerNotFound|/upload/storage/",
        "a bucket that exists; the kit makes none",
    ),
    (r"denied|forbidden|permission|\b40[13]\b", "permission to {} there"),
    (r"no space|quota|file too large", "room for the backup"),
    (r"\b50\d\b|internal ?(server ?)?error|slow ?down|unavailable", "a service in order: try again later"),
    (r"connect|timed? ?out|resolve|network|unreachable", "a service that answers: check the network and the endpoint"),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A folder, local or remote; names are relative to it, with ``/`` between their parts.

    Every method raises :class:`PlaceUnusable` when the place does not allow it or does not answer.
    """

    url: str
    """The path or URL in words: absolute, without credentials."""
    root: str
    """The folder's path inside the file system."""
    fs: Any
    """Of fsspec, which has no types."""

    @property
    def local(self) -> Path | None:
        """The folder, when it is on this machine's own file system."""
        return Path(self.root) if isinstance(self.fs, LocalFileSystem) else None

    def above(self) -> tuple[Place, str]:
        """The place that this one is a folder of, and its name there."""
        (url, _, _), (root, _, name) = self.url.rpartition("/"), self.root.rpartition("/")
        return Place(url=url, root=root, fs=self.fs), name

    def folders(self) -> list[str]:
        """Names of the folders here, sorted; none when the place was not made yet."""
        with self.asked():
            try:
                found = self.fs.ls(self.root, detail=True)
            except FileNotFoundError:
                if not self.local:
                    self._bucket()
                return []
        return sorted(entry["name"].rstrip("/").rpartition("/")[2] for entry in found if entry["type"] == "directory")

    def exists(self, name: str) -> bool:
        """Whether there is such a file or folder."""
        with self.asked():
            return bool(self.fs.exists(self._path(name)))

    def open(self, name: str) -> BinaryIO:
        """A file's bytes, to be read from the beginning to the end; a missing one is a :class:`PlaceUnusable`."""
        with self.asked():
            try:
                file = self.fs.open(self._path(name), "rb", block_size=PART)
            except FileNotFoundError:
                raise FileNotFoundError(f"there is no {name}") from None  # each file system names it in another way
        return cast(BinaryIO, _Asking(file, self.asked, close=True))

    @contextmanager
    def write(self, name: str) -> Iterator[BinaryIO]:
        """A new file, seen by others whole or not at all, and not at all when the block ends with an exception.

        Locally it has mode 0600, in folders of mode 0700, and is safely on disk when the block has ended.
        """
        with self.asked():
            file = self._new(name)
        try:
            yield cast(BinaryIO, _Asking(file, self.asked, close=False))
            with self.asked():
                if self.local:
                    os.fsync(file.fileno())
                    os.replace(file.name, self._path(name))
                    _settle(os.path.dirname(self._path(name)))
                file.close()
        except BaseException:
            with suppress(Exception):
                if self.local:
                    os.unlink(file.name)
                    file.close()
                else:
                    file.discard()
            if isinstance(file, AbstractBufferedFile):
                file.closed = True  # closing it would complete the upload
            raise

    def remove(self, folder: str) -> None:
        """Remove a folder and everything in it; one that is not there is no error."""
        with self.asked(), suppress(FileNotFoundError):
            self.fs.rm(self._path(folder), recursive=True)

    def _bucket(self) -> None:
        """The bucket must exist: an empty folder in it and a bucket that does not exist are listed alike."""
        bucket = self.root.partition("/")[0]
        try:
            with suppress(PermissionError):
                self.fs.ls(bucket)
        except FileNotFoundError:
            raise FileNotFoundError(f"NoSuchBucket: {bucket}") from None

    def _path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def _new(self, name: str) -> Any:
        if not self.local:
            return self.fs.open(self._path(name), "wb", block_size=PART)
        path = Path(self._path(name))
        for folder in reversed(Path(name).parents):
            (self.local / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(
            "wb", 0, dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False
        )

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Whatever a file system raises becomes one message; the file systems share no class of errors."""
        try:
            yield
        except KitError:
            raise
        except Exception as error:
            raise _unusable(self.url, error) from error


def open_place(given: str | Path, options: Mapping[str, Any] | None = None) -> Place:
    """The place at a path or an fsspec URL; nothing is asked of it yet, nothing is made.

    options: of the URL's file system, such as credentials; what is not given comes from the environment.
    Raises :class:`BadPlan` for a protocol that fsspec does not know, :class:`ToolMissing` when the package for it is
    not installed, and :class:`PlaceUnusable` when it cannot even be addressed, such as for want of an account's name.
    """
    given = str(given)
    shown, protocol = _shown(given), given.partition("://")[0] if "://" in given else "file"
    if not given.strip():
        raise BadPlan(
            "a place for backups has no name",
            expected="a folder, or a URL such as s3://bucket/backups",
            found="nothing",
            remedy="name one with --place",
        )
    try:
        if protocol not in fsspec.available_protocols() and "::" not in protocol:
            raise BadPlan(
                f"nothing is known of places such as {shown}",
                expected="a folder, or a URL that begins with s3://, gs://, az:// or another protocol of fsspec",
                found=f"{protocol}://",
                remedy="correct the place",
            )
        # listings are not remembered: others write there, too
        fs, root = fsspec.url_to_fs(
            given if "://" in given else str(Path(given).expanduser()), use_listings_cache=False, **(options or {})
        )
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        raise ToolMissing(
            f"the package for {protocol}:// places is not installed",
            expected=f"the kit's extra [{extra}]" if extra else f"the package that fsspec wants for {protocol}://",
            found=str(error),
            remedy=f"pip install 'zenml-upgrade-kit[{extra}]'" if extra else "install it beside the kit",
        ) from None
    except KitError:
        raise
    except Exception as error:
        raise _unusable(shown, error) from error
    root = root.rstrip("/")
    return Place(url=root if isinstance(fs, LocalFileSystem) else shown.rstrip("/"), root=root, fs=fs)


def room(folder: Path, wanted: float) -> None:
    """Raises :class:`PlaceUnusable` when a local folder has not so many bytes left, before anything is written."""
    with suppress(OSError):
        free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
        if free < wanted:
            raise PlaceUnusable(
                f"there is no room in {folder}",
                expected=f"{wanted:,.0f} bytes",
                found=f"{free:,} bytes free",
                remedy="make room there, or choose another place",
            )


def _settle(folder: str) -> None:
    """A renamed file keeps its name through a power cut once its folder is on disk, too."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class _Asking(io.RawIOBase):
    """A file of a place: what goes wrong with it is told in the place's words."""

    def __init__(self, file: Any, asked: Callable[[], Any], *, close: bool) -> None:
        self._file, self._asked, self._close = file, asked, close

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with self._asked():
            return int(self._file.readinto(buffer))

    def write(self, data: Any) -> int:
        with self._asked():
            view = memoryview(data)
            while view:  # an unbuffered file may take less than it was given
                view = view[self._file.write(view) :]
            return len(data)

    def close(self) -> None:
        if self._close and not self.closed:
            self._file.close()
        super().close()


def _shown(url: str) -> str:
    """Without a password, and without the query, which may be a signature."""
    return re.sub(r"[?]\S+", "", redact.url(url))


def lacking(error: BaseException, use: str = "list, read, write and delete") -> tuple[str, str]:
    """What a file system that raised this would need, as a phrase, and what it said; use: what it was asked for."""
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    asked = f"{said} {getattr(error, 'status_code', '')}"  # Azure's messages do not always name it
    expected = next((words for pattern, words in _CAUSES if re.search(pattern, asked, re.IGNORECASE)), "a usable place")
    return expected.format(use), _shown(said)[:300]


def _unusable(url: str, error: Exception) -> PlaceUnusable:
    expected, found = lacking(error)
    return PlaceUnusable(
        f"the place {url} cannot be used",
        expected=expected,
        found=found,
        remedy="correct that, or name another --place",
    )
