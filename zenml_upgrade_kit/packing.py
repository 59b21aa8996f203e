"""How a file of a backup is stored: compressed by zstd, perhaps encrypted by age, and hashed as it lies there."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from zenml_upgrade_kit.errors import BackupUnusable, BadPlan, ToolMissing

LEVEL = 1
"""Of zstd, the fastest of its usual ones: a nightly backup is always written and rarely read."""
THREADS = 2
"""That compress one file, beside the thread that reads, hashes and writes."""
CHUNK = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Packed:
    """What was stored: bytes and SHA-256 of it, and bytes of the original."""

    bytes: int
    sha256: str
    original_bytes: int


def pack(source: BinaryIO, target: BinaryIO, *, compress: bool, keys: Sequence[Any] = ()) -> Packed:
    """Store a stream to its end, in little memory whatever its size; raises what either stream raises.

    keys: from :func:`recipient`; any one of their private keys opens it, none means that it is not encrypted.
    """
    original, stored = _Tap(source, hashed=False), _Tap(target)
    packed: Any = original
    if compress:
        packed = zstandard.ZstdCompressor(level=LEVEL, threads=THREADS).stream_reader(
            cast(BinaryIO, original), read_size=CHUNK
        )
    try:
        if keys:
            _pyrage().encrypt_io(packed, stored, keys)
        else:
            shutil.copyfileobj(packed, stored, CHUNK)
    except Exception as error:  # noqa: BLE001 pyrage keeps only the text of what a stream raised
        raise (original.error or stored.error or error) from None
    return Packed(bytes=stored.size, sha256=stored.sha256.hexdigest(), original_bytes=original.size)


def unpack(stored: BinaryIO, name: str, sha256: str, *, packing: str, keys: Sequence[Any] = ()) -> BinaryIO:
    """The original stream of what :func:`pack` stored as ``name``, with suffixes such as ``.zst.age`` as its packing.

    At its end it raises :class:`BackupUnusable` when what was stored has another hash. keys: of :func:`identities`.
    """
    return io.BufferedReader(_Original(_Tap(stored), name, sha256, packing, keys), CHUNK)


def digest(stored: BinaryIO) -> tuple[int, str]:
    """Bytes and SHA-256 of a stream."""
    tap = _Tap(stored)
    while tap.read(CHUNK):
        pass
    return tap.size, tap.sha256.hexdigest()


@contextmanager
def tar(folders: Iterable[Path]) -> Iterator[BinaryIO]:
    """Folders as one tar stream, names from the file system's root, made while it is read."""
    reading, writing = os.pipe()

    def write() -> None:
        with suppress(BrokenPipeError), os.fdopen(writing, "wb") as pipe, tarfile.open(mode="w|", fileobj=pipe) as tar:
            for folder in folders:
                tar.add(folder)

    with ThreadPoolExecutor(1) as pool, os.fdopen(reading, "rb") as stream:
        made = pool.submit(write)
        yield stream
        made.result()


def recipient(text: str) -> Any:
    """The public key to encrypt to, in the form of age or of SSH; raises :class:`BadPlan` for anything else."""
    pyrage = _pyrage()
    try:
        return (pyrage.x25519 if text.startswith("age1") else pyrage.ssh).Recipient.from_str(text)
    except pyrage.RecipientError:
        raise BadPlan(
            "a backup cannot be encrypted to this",
            expected="a public key: age1… as age-keygen prints it, or a line ssh-ed25519 … or ssh-rsa …",
            found="a private key" if "SECRET" in text.upper() or "PRIVATE" in text else text[:80] or "nothing",
            remedy="correct --encrypt-to",
        ) from None


def identities(path: Path) -> list[Any]:
    """The private keys in a file of age-keygen or ssh-keygen; raises :class:`BadPlan` when there is none."""
    pyrage, found = _pyrage(), "no key in it"
    try:
        text = path.read_text(encoding="utf-8")
        if "-----BEGIN" in text:
            return [pyrage.ssh.Identity.from_buffer(text.encode())]
        lines = [line.strip() for line in text.splitlines()]
        if keys := [pyrage.x25519.Identity.from_str(line) for line in lines if line.startswith("AGE-SECRET-KEY-")]:
            return keys
    except OSError as error:
        found = error.strerror or str(error)
    except (ValueError, pyrage.IdentityError):
        found = "a damaged or unknown key"
    raise BadPlan(
        f"no private key can be read from {path}",
        expected="a file of age-keygen, or an SSH private key without a passphrase",
        found=found,
        remedy="correct --identity",
    )


class _Tap:
    """A stream that counts and hashes what is read from it or written to it, and keeps the error it ended with."""

    def __init__(self, stream: BinaryIO, *, hashed: bool = True) -> None:
        self.stream, self.size, self.sha256 = stream, 0, hashlib.sha256()
        self.error: BaseException | None = None
        self._hashed = hashed

    def read(self, size: int = -1) -> bytes:
        with self._kept():
            return self._noted(self.stream.read(size))

    def write(self, data: bytes) -> int:
        with self._kept():
            return self.stream.write(self._noted(data))

    def _noted(self, data: bytes) -> bytes:
        self.size += len(data)
        if self._hashed:
            self.sha256.update(data)
        return data

    @contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self.error = error
            raise


class _Original(io.RawIOBase):
    """A stored stream, unpacked while it is read."""

    def __init__(self, stored: _Tap, name: str, sha256: str, packing: str, keys: Sequence[Any]) -> None:
        self._stored, self._name, self._sha256 = stored, name, sha256
        self._failed: Exception | None = None
        self._pipe: BinaryIO | None = None
        self._top: Any = stored
        if packing.endswith(".age"):
            # pyrage pushes and a reader pulls: a pipe and a thread stand between them
            out, into = os.pipe()
            self._top = self._pipe = cast(BinaryIO, open(out, "rb"))  # noqa: SIM115 closed with this stream
            self._thread = threading.Thread(target=self._decrypt, args=(into, keys), daemon=True)
            self._thread.start()
        if packing.startswith(".zst"):
            self._top = zstandard.ZstdDecompressor().stream_reader(self._top, read_size=CHUNK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = b""
        try:
            data = self._top.read(len(buffer))
        except zstandard.ZstdError as error:
            self._failed = error
        if not data:
            self._compare()
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._end_thread()
            self._stored.stream.close()
        super().close()

    def _decrypt(self, into: int, keys: Sequence[Any]) -> None:
        with open(into, "wb", 0) as pipe:
            try:
                _pyrage().decrypt_io(self._stored, pipe, keys)
            except Exception as error:  # noqa: BLE001 told by the thread that reads
                self._failed = error

    def _end_thread(self) -> None:
        if self._pipe:
            self._pipe.close()  # it can write no more
            self._thread.join()

    def _compare(self) -> None:
        """At the end, or where it cannot be unpacked: the hash tells damage from a wrong key."""
        self._end_thread()
        while not self._stored.error and self._stored.read(CHUNK):
            pass
        if self._stored.error:
            raise self._stored.error
        damaged = self._stored.sha256.hexdigest() != self._sha256
        if damaged or self._failed:
            raise BackupUnusable(
                f"the stored file {self._name} cannot be used",
                expected="the content that its manifest names" if damaged else "a private key that opens it",
                found="another content" if damaged else str(self._failed),
                remedy="use another backup" if damaged else "name the right key file with --identity",
            )


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError:
        raise ToolMissing(
            "the package for encrypted backups is not installed",
            expected="pyrage",
            found="none",
            remedy="pip install 'zenml-upgrade-kit[encrypt]'",
        ) from None
    return pyrage
