"""What the user wants upgraded, validated once, from YAML, parameters and environment variables."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, field_validator

from zenml_upgrade_kit import choices, redact
from zenml_upgrade_kit.choices import ArtifactChoices, BackupChoices, RehearsalChoices, SmokeRun
from zenml_upgrade_kit.errors import BadPlan

VARIABLES = {
    "store": "ZENML_UPGRADE_STORE",
    "to": "ZENML_UPGRADE_TO",
    "code": "ZENML_UPGRADE_CODE",
    "out": "ZENML_UPGRADE_OUT",
}
"""Environment variables that stand in for a value that is given nowhere else."""
_THERE: dict[str, tuple[Callable[[Path], bool], str]] = {
    "code": (Path.is_dir, "a directory with your pipelines"),
    "requirements": (Path.is_file, "a requirements file"),
    "target_requirements": (Path.is_file, "a requirements file"),
    "source_python": (Path.is_file, "a Python interpreter"),
    "target_python": (Path.is_file, "a Python interpreter"),
}
"""Paths to what has to be there."""


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

    _paths_are_absolute = field_validator(*_THERE, "out", mode="before")(choices.absolute_path)
    _store_is_absolute = field_validator("store")(choices.absolute)

    @property
    def secret_variables(self) -> list[str]:
        """Names of the environment variables whose values must never be written."""
        named = (self.store, self.backup.server, self.rehearsal.server)
        stores = [name.removeprefix("env:") for name in named if name.startswith("env:")]
        return stores + [name for smoke in self.pipelines for name in smoke.environment]


def make(values: Mapping[str, Any], *, origin: str = "the plan") -> Plan:
    """A validated plan from keys of :class:`Plan`; empty ones fall back to the environment (:data:`VARIABLES`).

    Raises :class:`BadPlan` for unknown keys, values of the wrong kind and paths that do not exist.
    """
    given = {key: value for key, value in values.items() if value not in (None, "", {})}
    for key, variable in VARIABLES.items():
        if key not in given and os.environ.get(variable):
            given[key] = os.environ[variable]
    plan = choices.validated(Plan, {"out": "runs", **given}, origin)
    for key, (test, what) in _THERE.items():
        path = getattr(plan, key)
        if path is not None and not test(path):
            raise BadPlan(
                f"{key} cannot be used",
                expected=what,
                found=f"{path} is {'something else' if path.exists() else 'not there'}",
                remedy=f"correct {key}, or leave it out",
            )
    return plan


def refuse_password(plan: Plan) -> None:
    """Raises :class:`BadPlan` for a store with a password in its URL: a run keeps none, and could not go on."""
    if redact.url_passwords(plan.store):
        raise BadPlan(
            "a run cannot keep the password of the store",
            expected="env:NAME of a variable with the URL, or a ZenML config directory",
            found="a URL with a password",
            remedy="export PROD='mysql://…' and name the store env:PROD",
        )


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Plan:
    """The plan in a YAML file; relative paths in it start from its folder, non-empty overrides win."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise BadPlan(
            f"the plan {path} cannot be read",
            expected="a readable YAML file",
            found=redact.url(str(error).replace("\n", " ")),  # a YAML error quotes the line
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
    is_path = key in _THERE or key in {"store", "out", "identity", "place"}
    if not is_path or not isinstance(value, str) or not value or "://" in value or value.startswith("env:"):
        return value
    return str(folder / Path(value).expanduser())


def write_template(path: Path) -> None:
    """Write a commented plan; refuses to replace a file."""
    template = Path(__file__).parent / "templates" / "plan.yaml"
    text = template.read_text(encoding="utf-8").replace("NAME", path.name, 1)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise BadPlan(
            f"{path} cannot be written",
            expected="a new file in a writable folder",
            found=error.strerror or str(error),
            remedy="name another file: zenml-upgrade init other.yaml",
        ) from None
