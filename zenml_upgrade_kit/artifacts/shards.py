"""One shard of artifact versions: find or fetch their files, load them in processes that may die, give JSON results."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import places, redact
from zenml_upgrade_kit.artifacts.nursery import close, nursery
from zenml_upgrade_kit.errors import KitError

__all__ = ["Loaded", "Settings", "Shard", "close", "release", "run"]

CALL = 10
"""Seconds that a loaded model or function may take when it is called."""
PATIENCE = 120.0
"""Seconds of one failure after the other, after which the rest of a shard is not asked for."""
HELD = 64 << 20
"""Bytes of fetched files that are loaded together and held until then; one artifact may be larger."""

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is the same for all shards of one release.

    python: interpreter; "" is the one that runs the shard. version: ZenML release, for messages. folder: scratch for
    processes and logs; "" is a temporary one. code: the user's code, a directory or a zip; the bare name of a zip is
    looked for on ``sys.path``, where Dask puts what is uploaded. database: an SQLite copy that a ZenML client may open;
    "": it makes an empty one. timeout: seconds for one artifact. memory: bytes that one loading process may allocate
    (on Linux), max_bytes: larger artifacts are not loaded; 0 is no limit. call: values that can be called safely are.
    near: :attr:`Loaded.near` is wanted.
    """

    python: str
    version: str
    folder: str
    code: str = ""
    database: str = ""
    timeout: float = 120
    memory: int = 0
    max_bytes: int = 0
    look: bool = True
    load: bool = True
    call: bool = True
    near: bool = False


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Artifact versions that are loaded together: ``id``, ``uri``, ``root``, ``materializer``, ``data_type``.

    ``path``, the folder of its files, is given where url is "". url, options: of the artifact store, for fsspec.
    """

    artifacts: tuple[Mapping[str, Any], ...]
    settings: Settings
    url: str = ""
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What one release made of one artifact version.

    type: class of the value. digest: identity of the content, None when it cannot be compared; near: where it is
    wanted, the same with floats rounded to about 8 digits. parts: digest and fact by readable name. basis: what the
    digest is of. where: the library that raised the error. missing: ``materializer`` or ``data type`` when that class
    cannot be imported. called: what became of calling the value, "" when it was not. modules: of the user's code,
    imported for it. asked: loading it asked a ZenML client for its store, which was an empty one.
    """

    ok: bool = False
    type: str = ""
    summary: str = ""
    digest: str | None = None
    near: str | None = None
    parts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    basis: str = ""
    error: str = ""
    where: str = ""
    missing: str = ""
    called: str = ""
    modules: Sequence[str] = ()
    asked: bool = False
    seconds: float = 0.0


NOTHING = asdict(Loaded())


def release() -> str:
    """The ZenML release beside this interpreter; "" when there is none."""
    try:
        return importlib.metadata.version("zenml")
    except importlib.metadata.PackageNotFoundError:
        return ""


def run(shard: Shard, allowance: int = 0) -> list[Json]:
    """One result an artifact version, in order; what an artifact does to its process is one of them.

    allowance: bytes that may be read in all, 0 for no limit. A result has ``id``, ``state``, ``why``, ``bytes`` and
    ``files`` (their number), ``fetch_seconds``, ``look`` and ``loaded`` (the fields of :class:`Loaded`), or None.
    States: loaded, looked, lost (no such folder, or no file in it), unreadable, too large (for ``max_bytes``), deferred
    (the allowance does not suffice; nothing was read). Raises :class:`ProbeFailed` when the environment does not work.
    """
    empty = {"state": "", "why": "", "bytes": 0, "files": 0, "fetch_seconds": 0.0, "look": None, "loaded": None}
    results = {one["id"]: {"id": one["id"], **empty} for one in shard.artifacts}
    settings, waiting, left, wasted, why = shard.settings, list[Json](), allowance, 0.0, ""
    if settings.folder:
        os.makedirs(settings.folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetched-", dir=settings.folder or None) as scratch:
        for number, artifact in enumerate(shard.artifacts):
            result, began = results[artifact["id"]], time.monotonic()
            if wasted > PATIENCE:  # a store that does not answer is not waited for again and again
                result.update(state="unreadable", why=why)
                continue
            try:
                store = places.open_place(shard.url, shard.options).fs if shard.url else None
                sizes = _listed(store, artifact["uri"]) if shard.url else _sizes(artifact["path"])
                size = sum(sizes.values())
                result.update(bytes=size, files=len(sizes))
                if not sizes:
                    result.update(state="lost", why=f"there is no file in {artifact['uri']}")
                elif settings.max_bytes and size > settings.max_bytes:
                    result.update(state="too large", why=f"{size:,} bytes, and {settings.max_bytes:,} are allowed")
                elif allowance and size > left:
                    result.update(
                        state="deferred", why=f"{size:,} bytes, and {left:,} are left of all that may be read"
                    )
                else:
                    path = _fetch(store, artifact["uri"], sizes, Path(scratch, str(number))) if shard.url else ""
                    waiting.append({**artifact, "path": path or artifact["path"]})
                    left -= size
                wasted = 0.0
            except FileNotFoundError as error:
                result.update(state="lost", why=f"there is no {artifact['uri']}: {_plain(error, shard)}")
            except Exception as error:  # noqa: BLE001 the file systems share no class of errors
                why = f"it cannot be read: {_plain(error, shard)}"
                result.update(state="unreadable", why=why)
                wasted += time.monotonic() - began
            if shard.url:
                result["fetch_seconds"] = round(time.monotonic() - began, 4)
                if sum(results[one["id"]]["bytes"] for one in waiting) >= HELD:
                    _load(settings, waiting, results)
                    for one in waiting:
                        shutil.rmtree(one["path"])
                    waiting = []
        _load(settings, waiting, results)
    return list(results.values())


def _sizes(path: str) -> dict[str, int]:
    """Bytes of each file in a folder and below it; raises :class:`OSError` for what may not be read."""
    sizes, folders = {}, [path]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                    continue
                sizes[entry.path] = entry.stat().st_size
                if not os.access(entry.path, os.R_OK):
                    raise PermissionError(f"permission to read {entry.path} is denied")
    return sizes


def _listed(store: Any, uri: str) -> dict[str, int]:
    """Bytes of each file below a URI, by its name there."""
    files = store.find(store._strip_protocol(uri), detail=True)
    return {name: int(found["size"] or 0) for name, found in files.items()}


def _fetch(store: Any, uri: str, names: Iterable[str], folder: Path) -> str:
    """Bring the files below a URI to a folder of their own, under the names that they have there."""
    root = store._strip_protocol(uri).rstrip("/")
    files = {name: os.path.normpath(folder / name[len(root) :].lstrip("/")) for name in names}
    if not all(file.startswith(f"{folder}{os.sep}") for file in files.values()):
        raise ValueError("a name of a file leads out of the artifact's folder")
    store.get(list(files), list(files.values()))
    return str(folder)


def _plain(error: Exception, shard: Shard) -> str:
    """What went wrong, in words, without a value of the options."""
    if isinstance(error, KitError):
        text = f"{error.problem} ({error.found})"
    elif shard.url:
        text = "it would need {} ({})".format(*places.lacking(error, "list and read"))
    else:
        text = str(error).partition("] ")[2] or str(error)
    return redact.Redactor(_strings(shard.options)).text(text)


def _strings(options: Any) -> list[str]:
    if isinstance(options, Mapping):
        return [text for value in options.values() for text in _strings(value)]
    return [options] if isinstance(options, str) and "://" not in options else []


def _load(settings: Settings, artifacts: Sequence[Json], results: Mapping[str, Json]) -> None:
    """Put the state, the look and what was loaded into the results of artifact versions whose files are at hand."""
    pending, deaths = {one["id"]: one for one in artifacts}, Counter[str]()
    where = {name: getattr(settings, name) for name in ("python", "version", "folder", "code", "database")}
    how = {name: getattr(settings, name) for name in ("timeout", "memory", "look", "load", "near")}
    while pending:
        place = nursery(**where)
        questions = list(pending.values())
        status, started, answers = place.ask({**how, "questions": questions, "call": CALL if settings.call else 0})
        left = pending.keys() - {key for key, answer in answers.items() if answer.get("done")}
        answer = answers.setdefault(started, {}) if started in left else {}
        if status is not None and started in left:
            _blame(answer, status, settings)
        elif left and not (status is None and place.culprit):
            deaths[started] += 1  # not the fault of what was started, perhaps: others were loaded at the same time
            if deaths[started] == 2 and started in left:
                answer.update(loaded={"error": "the process that loads artifacts was ended twice"}, done=True)
            elif deaths[started] == 2:
                raise place.failed()
        for key in [key for key in pending if answers.get(key, {}).get("done")]:
            loaded = answers[key].get("loaded")
            made = {**NOTHING, **loaded} if loaded else None
            results[key].update(state="loaded" if made else "looked", look=answers[key].get("look"), loaded=made)
            del pending[key]


def _blame(answer: Json, status: int, settings: Settings) -> None:
    """Put into the answer of an artifact version that ended its process how it did, from the wait status."""
    code = os.waitstatus_to_exitcode(status)
    ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    late = code == -signal.SIGALRM
    if "loaded" in answer:
        answer["loaded"]["called"] = f"did not return within {CALL} s" if late else ended
    else:
        error = f"did not load within {settings.timeout:g} s" if late else f"the loading process {ended}"
        answer["loaded"] = {"error": error}
    answer["done"] = True
