"""Saves artifacts again in formats that no version of a library owns; old artifacts are never touched."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import fsspec

from zenml_upgrade_kit import drill, environments, inventory, probing, recipes, redact, releases
from zenml_upgrade_kit.artifacts.comparison import compare
from zenml_upgrade_kit.artifacts.locations import Location, locations, place
from zenml_upgrade_kit.artifacts.shards import Loaded
from zenml_upgrade_kit.backup import of_run
from zenml_upgrade_kit.errors import RunUnusable
from zenml_upgrade_kit.findings import now
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.runs import Run, write_whole
from zenml_upgrade_kit.stores import locate, sqlite

START_UP = 300.0
"""Seconds that a probe may take beyond its artifacts: the first import of ZenML took 22 s on a loaded machine."""
WELL = ("identical", "loads")
"""Outcomes of a comparison that let an artifact go on."""
_RECORD = "work/rescue.json"
_TOLD = (*recipes.LIBRARIES.values(), "onnx", "pydantic", "skl2onnx", "skops")


@dataclass(frozen=True, kw_only=True)
class Rescue:
    """One artifact version and what became of it.

    sidecar: what the probe said of the file that it wrote, with ``format``, ``folder``, ``file`` and ``sha256``; empty
    when there is no format. problem: in a sentence, what could not be done. outcome, difference: what the target
    release reads in the file against what the source release loaded (see :func:`compare`; ``not_checked``: the target
    lacks what reads it). copy, production: the new version there, with ``id``, ``version`` and ``uri``; on the copy
    with ``outcome`` and ``difference`` of loading it in the target release.
    """

    id: str
    name: str = ""
    version: str = ""
    sidecar: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""
    outcome: str = ""
    difference: str = ""
    copy: Mapping[str, Any] = field(default_factory=dict)
    production: Mapping[str, Any] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """As people know it."""
        return " ".join([*filter(None, (self.name, self.version)), f"({self.id})"])


def rescue(
    run: Run, ids: Sequence[str] = (), *, to: Path | None = None, keep: bool = False, as_version: bool = False
) -> list[Rescue]:
    """Write artifact versions of a run, by default those that fail or differ, in version-agnostic formats.

    The source release writes, the target release reads back. keep: leave the files in ``to``, below the id, with their
    lineage in ``rescue.json``; otherwise they were only tried. as_version: through ZenML's own API save them as new
    versions, too, in a copy of the database with a private artifact store.
    """
    _in_a_file(run)
    source, target = environments.of_run(run)
    run.hold("rescue")
    try:
        folder = run.work / "rescue"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        database = drill.unpack(of_run(run), "database", folder / "copy.db", run.plan.backup.identity)
        rows, places = _rows(run, database, ids)
        to = (to or run.folder / "rescued").absolute()
        if foreign := [to / key for key in rows if (to / key).exists() and not (to / key / "rescue.json").exists()]:
            raise RunUnusable(
                f"{foreign[0]} is in the way",
                expected="no such folder, or what an earlier rescue of this artifact version left",
                found="a folder without rescue.json",
                remedy="choose another folder with --to",
            )
        asked = {key: _question(row, places[row["store_id"]], folder) for key, row in rows.items()}
        written = _ask(run, source, "write", [one for one in asked.values() if not one["problem"]])
        done = [_written(row, written.get(key, asked[key])) for key, row in rows.items()]
        again = _ask(run, target, "read", [{**one.sidecar, "id": one.id} for one in done if one.sidecar])
        done = [_read(one, again[one.id]) if one.sidecar else one for one in done]
        if keep:
            done = [_kept(one, rows[one.id], to, source, target) if one.sidecar else one for one in done]
            done = _on_the_copy(run, source, target, done, database) if as_version else done
            _record(run, done)
        return done
    finally:
        run.release("rescue")


def apply(run: Run, ids: Sequence[str] = (), *, yes: bool = False) -> list[Rescue]:
    """Save as new versions in production, once, what this run saved on the copy; without ``yes`` only say what.

    Raises :class:`RunUnusable` unless it went well there, the file is still the same, the store still of the release
    that was backed up, and the backup verified. Nothing is unpickled: what is saved comes from the files.
    """
    _in_a_file(run)
    source, _ = environments.of_run(run)
    store, recorded = locate(run.plan.store), _recorded(run)
    worked = [key for key, one in recorded.items() if one.copy.get("outcome") in WELL]
    chosen = [recorded.get(key, Rescue(id=key)) for key in ids or worked]
    with closing(sqlite.connect(store.path)) as connection:
        stamp = inventory.stamp(connection)
        there = {row["uri"].rpartition("/")[2]: row for row in inventory.artifacts(connection, store.local_stores)}
    if problems := [*_not_yet(chosen), *_not_the_same(run, source, store.path, stamp)]:
        raise RunUnusable(
            "nothing was saved in production",
            expected="what this run saved on the copy before, and a store as it was backed up",
            found="; ".join(problems[:5]),
            remedy=f"zenml-upgrade rescue {run.folder} --as-version --yes before the upgrade, then again with --apply",
        )
    chosen = [replace(one, production=_named(there.get(f"rescued-{one.id}", {}))) for one in chosen]
    left = [one for one in chosen if not one.production]
    if not (yes and left):
        return chosen
    folder = run.work / "rescue" / "production"
    variables = {"ZENML_LOCAL_STORES_PATH": str(store.local_stores), "DISABLE_DATABASE_MIGRATION": "true"}
    if store.config_yaml:  # production's settings, in a copy of the file: a client may write to the one it reads
        write_whole(folder / "config" / "config.yaml", store.config_yaml.read_bytes())
    else:
        variables["ZENML_STORE_URL"] = store.url
    try:
        saved = _ask(run, source, "save", [_saving(one) for one in left], folder=folder, variables=variables)
    finally:
        shutil.rmtree(folder / "config", ignore_errors=True)  # it may hold a password
    done = [
        replace(one, problem=new.get("problem", ""), production=_named(new)) if (new := saved.get(one.id)) else one
        for one in chosen
    ]
    _record(run, done)
    return done


def _in_a_file(run: Run) -> None:
    """Raises :class:`RunUnusable` for a run of a server's database."""
    store = run.needs("00_start").facts["store"]
    if store["engine"] != "sqlite":
        raise RunUnusable(
            "artifacts of a MySQL or MariaDB store cannot be rescued yet",
            expected="a run of a SQLite store",
            found=store["url"],
            remedy="load them with the source release and save them in another format, or run their steps again",
        )


def _not_yet(chosen: Sequence[Rescue]) -> Iterator[str]:
    """Why artifact versions are not to be saved in production."""
    for one in chosen:
        if one.copy.get("outcome") not in WELL:
            yield f"{one.label} was not saved on the copy, or did not load there"
            continue
        file = Path(one.sidecar["folder"], one.sidecar["file"])
        if not file.is_file() or sqlite.digest(file) != one.sidecar["sha256"]:
            yield f"the file of {one.label} has changed: {file}"
    if not chosen:
        yield "nothing was saved on the copy"


def _not_the_same(run: Run, source: Environment, database: Path, stamp: str) -> Iterator[str]:
    """Why the production store must not be opened with the source's release."""
    backup = of_run(run)
    if backup.verified["problem"] or not (backup.verified["hashed"] or backup.verified["restored"]):
        yield f"the backup {backup.where} is not verified {backup.verified['problem']}".rstrip()
    if not stamp == backup.manifest["stamp"] == releases.get(source.version).stamp:
        yield f"{database} is at {stamp}, the backup at {backup.manifest['stamp']}, ZenML {source.version} is used"


def _rows(
    run: Run, database: Path, ids: Sequence[str]
) -> tuple[dict[str, Mapping[str, Any]], dict[str | None, Location]]:
    """The artifact versions to look at and the artifact stores, from the copy of the source's database."""
    local_stores = Path(run.needs("00_start").facts["store"]["local_stores"])
    with closing(sqlite.connect(database)) as connection:
        known = {row["id"]: row for row in inventory.artifacts(connection, local_stores)}
        places = locations(connection, local_stores)
    if not ids:
        checked = run.needs("40_artifacts").facts["artifacts"]
        ids = [row["id"] for row in checked if row["outcome"] in ("fails", "differs")]
    if unknown := [key for key in ids if key not in known]:
        raise RunUnusable(
            f"the backup of the run has no artifact version {', '.join(unknown[:5])}",
            expected="ids as in the report of 40_artifacts",
            found=f"none of its {len(known)}",
            remedy="correct --artifact, or leave it out: then it is all that fail or differ",
        )
    return {key: known[key] for key in ids}, places


def _question(row: Mapping[str, Any], location: Location, folder: Path) -> dict[str, Any]:
    """What the probe needs to load an artifact version, its files fetched if they are not here; or the problem."""
    asked = {name: row[name] for name in ("id", "uri", "materializer", "data_type")}
    path, _ = place(row, location)
    if location.url and not location.problem:
        try:
            files, there = fsspec.core.url_to_fs(path, **location.options)
            path = str(folder / "fetched" / row["id"])
            files.get(there, path, recursive=True)
        except Exception as error:  # noqa: BLE001 - whatever the client of a store may raise
            why = redact.Redactor(location.secrets).text(f"{type(error).__name__}: {error}")
            return {**asked, "problem": f"its files cannot be fetched: {why}"}
    to = {"path": path, "root": location.root, "to": str(folder / "files" / row["id"])}
    return {**asked, **to, "problem": location.problem}


def _ask(
    run: Run,
    environment: Environment,
    act: str,
    artifacts: Sequence[Mapping[str, Any]],
    *,
    folder: Path | None = None,
    variables: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """What ``probes/rescue_artifacts.py`` answers, by id."""
    if not artifacts:
        return {}
    code, timeout = run.code_copy(), run.plan.artifacts.timeout
    folder, files = folder or run.work / "rescue" / act, run.work / "rescue" / "files"
    for one in (folder, files):
        one.mkdir(exist_ok=True)
    request = {"act": act, "artifacts": artifacts, "code": code and str(code), "timeout": timeout}
    return probing.run_probe(
        environment,
        "rescue_artifacts",
        {**request, "writable": [str(folder), str(files)]},
        folder=folder,
        variables=variables,
        timeout=START_UP + timeout * len(artifacts),
    )


def _compare(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, str]:
    return compare(Loaded(ok=True, **old), Loaded(ok=True, **new))


def _written(row: Mapping[str, Any], answer: Mapping[str, Any]) -> Rescue:
    """What the source release made of an artifact; a file that it does not read back as it was itself is none."""
    one = Rescue(id=row["id"], name=row["name"], version=row["version"], problem=answer.get("problem", ""))
    if one.problem:
        return one
    outcome, difference = _compare(answer["described"], answer["again"])
    if outcome not in WELL:
        return replace(one, problem=f"{answer['format']} does not keep it as it is: {difference}")
    return replace(one, sidecar={**answer, "sha256": sqlite.digest(Path(answer["folder"], answer["file"]))})


def _read(one: Rescue, answer: Mapping[str, Any]) -> Rescue:
    if "problem" in answer:
        return replace(one, outcome="not_checked", difference=answer["problem"])
    outcome, difference = _compare(one.sidecar["described"], answer["again"])
    return replace(one, outcome=outcome, difference=difference)


def _kept(one: Rescue, row: Mapping[str, Any], to: Path, source: Environment, target: Environment) -> Rescue:
    """The file in its place, with its lineage; what an earlier rescue left there goes."""
    own, part = to / one.id, to / f".{one.id}.part"
    lineage = {
        "rescued_from": {name: row[name] for name in ("id", "name", "version", "uri", "data_type", "materializer")},
        **{name: one.sidecar[name] for name in ("format", "file", "sha256", "reading")},
        "type": one.sidecar["data_type"],
        "zenml": source.version,
        "python": source.python_version,
        "libraries": {name: source.packages[name] for name in sorted(_TOLD) if name in source.packages},
        "read_by": {"zenml": target.version, "outcome": one.outcome, "difference": one.difference},
        "made": now(),
    }
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(one.sidecar["folder"], part)
    write_whole(part / "rescue.json", json.dumps(lineage, indent=1) + "\n")
    shutil.rmtree(own, ignore_errors=True)
    part.rename(own)
    return replace(one, sidecar={**one.sidecar, "folder": str(own)})


def _on_the_copy(
    run: Run, source: Environment, target: Environment, done: Sequence[Rescue], database: Path
) -> list[Rescue]:
    """New versions in the copy of the database and a private artifact store, each loaded by the target release."""
    folder = run.work / "rescue" / "save"
    wanted = [_saving(one, str(folder / "stores")) for one in done if one.outcome in WELL]
    variables = {"ZENML_STORE_URL": f"sqlite:///{database}"}
    saved = _ask(run, source, "save", wanted, folder=folder, variables=variables)
    made = [{**new, "path": new["uri"], "id": key} for key, new in saved.items() if "problem" not in new]
    loaded = _ask(run, target, "load", made)
    found = []
    for one in done:
        new, answer = saved.get(one.id, {}), loaded.get(one.id, {})
        outcome, difference = "fails", answer.get("problem", "")
        if "described" in answer:
            outcome, difference = _compare(new["described"], answer["described"])
        copy = {**_named(new), "outcome": outcome, "difference": difference} if answer else {}
        found.append(replace(one, problem=one.problem or new.get("problem", ""), copy=copy))
    return found


def _saving(one: Rescue, private: str = "") -> dict[str, Any]:
    return {**one.sidecar, "id": one.id, "name": one.name, "private": private}


def _named(version: Mapping[str, Any]) -> dict[str, Any]:
    return {name: version[name] for name in ("id", "version", "uri") if name in version}


def _recorded(run: Run) -> dict[str, Rescue]:
    path = run.folder / _RECORD
    return {key: Rescue(**one) for key, one in json.loads(path.read_text()).items()} if path.exists() else {}


def _record(run: Run, done: Sequence[Rescue]) -> None:
    run.write_json(
        _RECORD, {key: asdict(one) for key, one in {**_recorded(run), **{one.id: one for one in done}}.items()}
    )
