"""What may be chosen of each step of an upgrade, validated: the sections of a plan."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from zenml_upgrade_kit.errors import BadPlan

_Model = TypeVar("_Model", bound=BaseModel)
_Section = TypeVar("_Section", bound="Section")


class Section(BaseModel):
    """Choices that refuse unknown keys and never change. called: the parameters of the step that they are of."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    called: ClassVar[str] = ""

    def but(self: _Section, values: Mapping[str, Any]) -> _Section:
        """These with other values, of which the empty ones do not count; raises :class:`BadPlan`."""
        given = {key: value for key, value in values.items() if value}
        return validated(type(self), {**self.model_dump(), **given}, self.called)


def validated(model: type[_Model], values: Mapping[str, Any], origin: str) -> _Model:
    """The model of these values; raises :class:`BadPlan` for the first that is wrong. origin: where they come from."""
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


def absolute(value: str) -> str:
    """A path from here; what is empty, a URL or ``env:NAME`` stays as it is."""
    if not value or "://" in value or value.startswith("env:"):
        return value
    return os.path.abspath(os.path.expanduser(value))


def absolute_path(value: Any) -> Path | None:
    """A path from here, None for an empty one."""
    return Path(os.path.abspath(Path(value).expanduser())) if value else None


class SmokeRun(Section):
    """One pipeline to run under the target release: ``target: module:pipeline`` or ``command: python run.py``."""

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


class Keep(Section):
    """Which backups stay in a place, in restic's words: the last ones, the newest of so many days, weeks, months."""

    last: int = Field(default=0, ge=0)
    daily: int = Field(default=0, ge=0)
    weekly: int = Field(default=0, ge=0)
    monthly: int = Field(default=0, ge=0)


class BackupChoices(Section):
    """How the store is backed up.

    place: a folder or an fsspec URL (``s3://bucket/folder``); empty means inside the run. tool: ``mydumper``,
    ``mariadb-dump`` or ``mysqldump``; empty means the best that is installed. with_artifacts: files of local artifact
    stores, too. encrypt_to: age recipients. identity: the file with the age key that reads the backup again.
    drill: restore into a scratch database and compare. server: where, when not beside the store: ``env:NAME`` with a
    ``mysql://`` URL. managed: the instance behind a host name of its own, as in ``aws:eu-west-1/zenml``. snapshot:
    have the provider take one as well. keep: what stays in the place afterwards; nothing is removed when it is empty.
    """

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

    _place_is_absolute = field_validator("place")(absolute)
    _identity_is_absolute = field_validator("identity", mode="before")(absolute_path)


def _of_text(value: Any) -> Any:
    """A list that was written as ``one, another``."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class ArtifactChoices(Section):
    """Which artifact versions are loaded, and how.

    sample: the newest so many of each type, 0 for all. stages: only those of model versions in these stages, as in
    ``[production]``. used_days: only those that a step read in the last days. static_only: files are looked at, nothing
    is loaded. timeout: seconds for one artifact. memory: bytes that a loading process may take, 0 for half of this
    machine's. max_bytes, max_total_bytes: larger artifacts, and what is beyond so much in all, are not loaded; 0 for
    no limit. Sizes may be written ``500MB``. workers: processes at a time, 0 for one a core. scheduler: a Dask cluster
    whose workers have the target's environment, source_scheduler: one that has the source's; empty for this machine.
    """

    called = "the parameters of the artifact check"

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


class RehearsalChoices(Section):
    """Where the migration is rehearsed, and how.

    server: another server for the copies of a MySQL or MariaDB store: ``env:NAME`` with a ``mysql://`` URL; empty means
    beside the store where its grants allow it, else in a private MariaDB. private: always in a private MariaDB.
    timeout: seconds that one migration may take; 1.9 million rows took six to nine minutes. via: releases to stop at.
    try_remedy: ids of findings whose remedy is applied to the copies first, as in ``[DC107]``. keep_copy: the copies
    stay after the decision. bisect: after a failure, name the first release that fails and the last that works.
    """

    called = "the parameters of the rehearsal"

    server: str = Field(default="", pattern=r"^(|env:\w+)$")
    private: bool = False
    timeout: float = Field(default=6 * 3600, gt=0)
    via: list[str] = []
    try_remedy: list[str] = []
    keep_copy: bool = False
    bisect: bool = True

    _lists_of_text = field_validator("via", "try_remedy", mode="before")(_of_text)
