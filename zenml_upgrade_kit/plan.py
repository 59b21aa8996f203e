"""What the user wants upgraded, validated once, from YAML, parameters and environment variables."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from zenml_upgrade_kit.errors import BadPlan

_Model = TypeVar("_Model", bound=BaseModel)

VARIABLES = {
    "store": "ZENML_UPGRADE_STORE",
    "to": "ZENML_UPGRADE_TO",
    "code": "ZENML_UPGRADE_CODE",
    "out": "ZENML_UPGRADE_OUT",
}
"""Environment variables that stand in for a value that is given nowhere else."""


class SmokeRun(BaseModel):
    """One pipeline to run under the target release: ``target: module:pipeline`` or ``command: python run.py``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(default="", pattern=r"^$|^[\w.]+:\w+$")
    command: str = ""
    parameters: dict[str, Any] = {}
    environment: list[str] = []
    timeout: float = Field(default=600, gt=0)

    @model_validator(mode="after")
    def _one_way_to_run(self) -> SmokeRun:
        if bool(self.target) == bool(self.command):
            raise ValueError("give exactly one of target (module:pipeline) and command")
        shlex.split(self.command)  # raises ValueError for a quotation that does not end
        return self

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.target or self.command


class Keep(BaseModel):
    """Which backups stay in a place, in restic's words: the last ones, the newest of so many days, weeks, months."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    last: int = Field(default=0, ge=0)
    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)


class BackupChoices(BaseModel):
    """How the store is backed up.

    place: a folder or an fsspec URL (``s3://bucket/folder``); empty means inside the run. tool: ``mydumper``,
    ``mariadb-dump`` or ``mysqldump``; empty means the best that is installed. with_artifacts: files of local artifact
    stores, too. encrypt_to: age recipients. identity: the file with the age key that reads the backup again.
    drill: restore into a scratch database and compare. server: where, when not beside the store: ``env:NAME`` with a
    ``mysql://`` URL. managed: the instance behind a host name of its own, as in ``aws:eu-west-1/zenml``. snapshot:
    have the provider take one as well. keep: what stays in the place afterwards; nothing is removed when it is empty.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    place: str = ""
    tool: str = Field(default="", pattern="^(|mydumper|mariadb-dump|mysqldump)$")
    with_artifacts: bool = False
    encrypt_to: list[str] = []
    identity: Path | None = None
    drill: bool = False
    server: str = Field(default="", pattern=r"^(|env:\w+)$")
    managed: str = ""
    snapshot: bool = False
    keep: Keep = Keep()

    @field_validator("place")
    @classmethod
    def _place_is_absolute(cls, value: str) -> str:
        return value if not value or "://" in value else os.path.abspath(os.path.expanduser(value))

    @field_validator("identity", mode="before")
    @classmethod
    def _identity_is_absolute(cls, value: Any) -> Any:
        return Path(os.path.abspath(Path(value).expanduser())) if value else None


def _of_text(value: Any) -> Any:
    """A list that was written as ``one, another``."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _but(choices: BaseModel, values: Mapping[str, Any]) -> dict[str, Any]:
    return {**choices.model_dump(), **{key: value for key, value in values.items() if value}}


class ArtifactChoices(BaseModel):
    """Which artifact versions are loaded, and how.

    sample: the newest so many of each type, 0 for all. stages: only those of model versions in these stages, as in
    ``[production]``. used_days: only those that a step read in the last days. static_only: files are looked at, nothing
    is loaded. timeout: seconds for one artifact. memory: bytes that a loading process may take, 0 for half of this
    machine's. max_bytes, max_total_bytes: larger artifacts, and what is beyond so much in all, are not loaded; 0 for
    no limit. Sizes may be written ``500MB``. workers: processes at a time, 0 for one a core. scheduler: a Dask cluster
    whose workers have the target's environment, source_scheduler: one that has the source's; empty for this machine.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sample: int = Field(default=0, ge=0)
    stages: list[str] = []
    used_days: int = Field(default=0, ge=0)
    static_only: bool = False
    timeout: float = Field(default=120, gt=0)
    memory: ByteSize = ByteSize(0)
    max_bytes: ByteSize = ByteSize(0)
    max_total_bytes: ByteSize = ByteSize(0)
    workers: int = Field(default=0, ge=0)
    scheduler: str = Field(default="", pattern=r"^$|^(tcp|tls|ws|wss)://")
    source_scheduler: str = Field(default="", pattern=r"^$|^(tcp|tls|ws|wss)://")

    _stages_of_text = field_validator("stages", mode="before")(_of_text)

    def but(self, values: Mapping[str, Any]) -> ArtifactChoices:
        """These with other values, of which the empty ones do not count; raises :class:`BadPlan`."""
        return _validated(ArtifactChoices, _but(self, values), "the parameters of the artifact check")


class RehearsalChoices(BaseModel):
    """Where the migration is rehearsed, and how.

    server: another server for the copies of a MySQL or MariaDB store: ``env:NAME`` with a ``mysql://`` URL; empty means
    beside the store where its grants allow it, else in a private MariaDB. private: always in a private MariaDB.
    timeout: seconds that one migration may take; 1.9 million rows took six to nine minutes. via: releases to stop at.
    try_remedy: ids of findings whose remedy is applied to the copies first, as in ``[DC107]``. keep_copy: the copies
    stay after the decision. bisect: after a failure, name the first release that fails and the last that works.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    server: str = Field(default="", pattern=r"^(|env:\w+)$")
    private: bool = False
    timeout: float = Field(default=6 * 3600, gt=0)
    via: list[str] = []
    try_remedy: list[str] = []
    keep_copy: bool = False
    bisect: bool = True

    _lists_of_text = field_validator("via", "try_remedy", mode="before")(_of_text)

    def but(self, values: Mapping[str, Any]) -> RehearsalChoices:
        """These with other values, of which the empty ones do not count; raises :class:`BadPlan`."""
        return _validated(RehearsalChoices, _but(self, values), "the parameters of the rehearsal")


class Plan(BaseModel):
    """One upgrade. Paths are absolute after validation; the store is kept as given, so that ``env:NAME`` stays a name.

    store: see :func:`zenml_upgrade_kit.stores.locate`; empty means the user's own ZenML configuration.
    to: target release; empty means the zenml installed beside the kit.
    source: the release that wrote the store, where its stamp cannot tell; empty means the one the stamp names.
    code: directory with the user's pipelines. requirements: their requirements file.
    target_requirements: what will be installed beside the new release, where that is another file.
    source_python, target_python: interpreters that have the releases installed, instead of built environments.
    artifacts: see :class:`ArtifactChoices`. backup: see :class:`BackupChoices`. rehearsal: :class:`RehearsalChoices`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    store: str = ""
    to: str = ""
    source: str = ""
    code: Path | None = None
    requirements: Path | None = None
    target_requirements: Path | None = None
    source_python: Path | None = None
    target_python: Path | None = None
    out: Path = Path("runs")
    pipelines: list[SmokeRun] = []
    artifacts: ArtifactChoices = ArtifactChoices()
    backup: BackupChoices = BackupChoices()
    rehearsal: RehearsalChoices = RehearsalChoices()

    @field_validator(
        "code", "requirements", "target_requirements", "source_python", "target_python", "out", mode="before"
    )
    @classmethod
    def _absolute(cls, value: Any) -> Any:
        return Path(os.path.abspath(Path(value).expanduser())) if value else None

    @field_validator("store")
    @classmethod
    def _store_is_absolute(cls, value: str) -> str:
        scheme = value.split(":", 1)[0]
        if not value or "://" in value or scheme == "env":
            return value
        return os.path.abspath(os.path.expanduser(value))

    @property
    def _stores(self) -> tuple[str, ...]:
        return self.store, self.backup.server, self.rehearsal.server

    @property
    def secret_variables(self) -> list[str]:
        """Names of the environment variables whose values must never be written."""
        stores = [name.removeprefix("env:") for name in self._stores if name.startswith("env:")]
        return stores + [name for smoke in self.pipelines for name in smoke.environment]


def make(values: Mapping[str, Any], *, origin: str = "the plan", folder: Path | None = None) -> Plan:
    """A validated plan from keys of :class:`Plan`; empty ones fall back to the environment (:data:`VARIABLES`).

    folder: what relative paths start from; the current directory when not given.
    Raises :class:`BadPlan` for unknown keys, values of the wrong kind and paths that do not exist.
    """
    given = {key: value for key, value in values.items() if value not in (None, "", {})}
    for key, variable in VARIABLES.items():
        if key not in given and os.environ.get(variable):
            given[key] = os.environ[variable]
    if folder:
        given = {key: _from(folder, key, value) for key, value in given.items()}
    plan = _validated(Plan, {"out": "runs", **given}, origin)
    _exists("code", plan.code, Path.is_dir, "a directory with your pipelines")
    _exists("requirements", plan.requirements, Path.is_file, "a requirements file")
    _exists("target_requirements", plan.target_requirements, Path.is_file, "a requirements file")
    _exists("source_python", plan.source_python, Path.is_file, "a Python interpreter")
    _exists("target_python", plan.target_python, Path.is_file, "a Python interpreter")
    return plan


def _validated(model: type[_Model], values: Mapping[str, Any], origin: str) -> _Model:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the plan"
        raise BadPlan(
            f"{origin} cannot be used",
            expected=f"keys {', '.join(model.model_fields)}",
            found=f"{where}: {first['msg']}",
            remedy=f"correct {where}; zenml-upgrade init writes a commented plan",
        ) from None


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Plan:
    """The plan in a YAML file; relative paths in it start from its folder, non-empty overrides win."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadPlan(
            f"the plan {path} cannot be read",
            expected="a readable YAML file",
            found=str(error).replace("\n", " "),
            remedy="correct the file, or write a new one with: zenml-upgrade init",
        ) from None
    if not isinstance(values, dict):
        raise BadPlan(
            f"the plan {path} cannot be used",
            expected="key: value lines, such as  to: 0.98.0",
            found=f"{type(values).__name__} at the top level",
            remedy="write a commented plan with: zenml-upgrade init",
        )
    folder = path.resolve().parent
    own = {key: _from(folder, key, value) for key, value in values.items()}
    winning = {key: value for key, value in (overrides or {}).items() if value not in (None, "", {})}
    for key, value in winning.items():
        own[key] = {**own[key], **value} if isinstance(value, dict) and isinstance(own.get(key), dict) else value
    return make(own, origin=f"the plan {path}")


def _from(folder: Path, key: str, value: Any) -> Any:
    if key == "backup" and isinstance(value, dict):
        return {name: _from(folder, name, one) for name, one in value.items()}
    if key not in {
        "store",
        "code",
        "identity",
        "place",
        "requirements",
        "target_requirements",
        "source_python",
        "target_python",
        "out",
    } or not isinstance(value, str):
        return value
    if not value or "://" in value or value.startswith("env:"):
        return value
    return str(folder / Path(value).expanduser())


def _exists(key: str, path: Path | None, test: Any, what: str) -> None:
    if path is not None and not test(path):
        raise BadPlan(
            f"{key} cannot be used",
            expected=what,
            found=f"{path} is {'something else' if path.exists() else 'not there'}",
            remedy=f"correct {key}, or leave it out",
        )


TEMPLATE = """\
# What to upgrade. Paths are relative to this file. Run it with: zenml-upgrade rehearse {name}

# The metadata store, opened read-only: sqlite:////abs/path/zenml.db, a ZenML config directory, or env:NAME
# (the URL is in that environment variable). Empty: the ZenML configuration of this user.
store: ""

# The ZenML release to upgrade to. Empty: the one installed beside the kit.
to: ""

# Your pipeline code and requirements. Without them, artifacts of your own classes may not load in the rehearsal.
# code: .
# requirements: requirements.txt
# target_requirements: requirements-new.txt   # where the new release will have other libraries beside it

# Existing interpreters with the old and the new ZenML, instead of environments built for you.
# source_python: /path/to/old/bin/python
# target_python: /path/to/new/bin/python

# Where runs are archived.
out: runs

# Pipelines to run under the new release, against a migrated copy and with local storage.
# Give module:pipeline, or a command that is run in a copy of your code directory.
pipelines: []
#  - target: pipelines.training:training_pipeline
#    parameters: {{epochs: 1}}
#  - command: python run.py --smoke
#    environment: [DATA_TOKEN]     # names of variables to pass on; values are never written
#    timeout: 600                  # seconds

# Which artifacts are loaded, and how. Left out: all of them, in processes of this machine.
# artifacts:
#   sample: 5                      # the newest 5 of each type
#   stages: [production]           # only those of model versions in these stages
#   used_days: 30                  # only those that a step read in the last 30 days
#   max_bytes: 2GB                 # larger artifacts are not loaded
#   timeout: 120                   # seconds for one artifact
#   scheduler: tcp://dask:8786     # a Dask cluster whose workers have the target's environment

# How the migration is rehearsed. Left out: straight to the target; copies of a server's database go beside it.
# rehearsal:
#   via: [0.54.0]                  # releases to stop at on the way
#   try_remedy: [DC107]            # remedies that are applied to the copies first, to see them work
#   server: env:SCRATCH_URL        # another server for the copies, mysql://
#   timeout: 21600                 # seconds for one migration
#   keep_copy: true                # leave the copies after the decision

# Where the backup goes and how. Left out: into the run's own folder.
# backup:
#   place: s3://bucket/zenml       # or a folder; needs: pip install 'zenml-upgrade-kit[aws]'
#   drill: true                    # restore it into a scratch database, and compare
#   encrypt_to: [age1...]          # recipients in the age format
#   keep: {{daily: 7, weekly: 5, monthly: 12}}
"""


def write_template(path: Path) -> None:
    """Write a commented plan; refuses to replace a file."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATE.format(name=path.name))
    except OSError as error:
        raise BadPlan(
            f"{path} cannot be written",
            expected="a new file in a writable folder",
            found=error.strerror or str(error),
            remedy="name another file: zenml-upgrade init other.yaml",
        ) from None
