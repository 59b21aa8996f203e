"""Which steps wrote artifact versions, and where in the user's code they are; the code is read, never imported."""

from __future__ import annotations

import ast
import itertools
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any
from uuid import UUID

from zenml_upgrade_kit import inventory, stores
from zenml_upgrade_kit.stores import Reader

AT_ONCE = 500
"""Ids in one query."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """A step as a run recorded it. source: ``churn.pipelines.train``, "" where nothing was recorded.

    file: below the code directory, ``churn/pipelines.py``; line: of its ``def``. "" and 0 when it is not there (now).
    """

    name: str
    pipeline: str
    source: str
    file: str
    line: int


def writers(connection: Reader, ids: Collection[str], code: Path | None) -> dict[str, Step]:
    """The step that wrote each artifact version, by its id; those that no step wrote are left out.

    Up to 0.83.0 a source is in the deployment's (or, up to 0.44, in the step run's) JSON, since then in a table of its
    own; deployments are called snapshots since 0.90.0 (measured on 0.43.0 to 0.98.0).
    """
    tables = stores.tables(connection)
    parent = next((name for name in ("snapshot_id", "deployment_id") if name in tables["step_run"]), "")
    own = {"deployment_id": "pipeline_deployment", "snapshot_id": "pipeline_snapshot"}.get(parent, "")
    of_run = "step_run_id" in tables.get("step_configuration", ())  # of a dynamic pipeline
    configuration = "COALESCE(s.step_configuration, c.config)" if of_run else "s.step_configuration"
    joined = " LEFT JOIN step_configuration AS c ON c.step_run_id = s.id" if of_run else ""

    @cache
    def sources(key: str | None) -> dict[str, str]:
        """What a deployment recorded of its steps, by name."""
        found: dict[str, str] = {}
        if key and "step_configurations" in tables.get(own, ()):
            for (text,) in connection.execute(f"SELECT step_configurations FROM {own} WHERE id = '{UUID(key).hex}'"):
                found |= {name: _source(value) for name, value in _parsed(text).items()}
        if key and parent in tables.get("step_configuration", ()):
            query = f"SELECT name, config FROM step_configuration WHERE {parent} = '{UUID(key).hex}'"
            found |= {name: _source(_parsed(text)) for name, text in connection.execute(query)}
        return found

    place = cache(partial(_place, code)) if code else lambda _: ("", 0)
    found: dict[str, Step] = {}
    waiting = iter(sorted({UUID(one).hex for one in ids}))
    while some := list(itertools.islice(waiting, AT_ONCE)):
        listed = ", ".join(f"'{one}'" for one in some)
        query = (
            f"SELECT o.artifact_id, s.name, {f's.{parent}' if parent else 'NULL'}, {configuration}, p.name AS pipeline"
            f" FROM step_run_output_artifact AS o JOIN step_run AS s ON s.id = o.step_id{joined}"
            " LEFT JOIN pipeline_run AS r ON r.id = s.pipeline_run_id LEFT JOIN pipeline AS p ON p.id = r.pipeline_id"
            f" WHERE o.artifact_id IN ({listed})"
            # A step that was taken from the cache names the same artifacts
            " ORDER BY CASE WHEN s.original_step_run_id IS NULL THEN 0 ELSE 1 END, s.created, s.id"
        )
        for artifact, name, belongs, text, pipeline in list(connection.execute(query)):
            if (key := str(inventory.dashed(artifact))) not in found:
                source = _source(_parsed(text)) or sources(belongs).get(name, "")
                file, line = place(source)
                found[key] = Step(name=name, pipeline=pipeline or "", source=source, file=file, line=line)
    return found


def _parsed(text: str | None) -> dict[str, Any]:
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _source(configuration: Any) -> str:
    """The dotted name in a step's configuration; very old releases wrote it as text."""
    spec = configuration.get("spec") if isinstance(configuration, dict) else None
    source = spec.get("source") if isinstance(spec, dict) else None
    if isinstance(source, dict):
        return ".".join(filter(None, (source.get("module"), source.get("attribute"))))
    return str(source or "").partition("@")[0]


def _place(code: Path, source: str) -> tuple[str, int]:
    """File, below the code directory, and line of what a dotted name means."""
    parts = source.split(".")
    for length in range(len(parts) - 1, 0, -1):
        module = code.joinpath(*parts[:length])
        for path in (module.with_suffix(".py"), module / "__init__.py"):
            try:
                tree = ast.parse(path.read_bytes())
            except (OSError, SyntaxError, ValueError):
                continue
            if line := _line(tree, parts[length:]):
                return path.relative_to(code).as_posix(), line
    return "", 0


def _line(tree: ast.AST, names: list[str]) -> int:
    """Where a function or class is defined, also below an ``if`` or a ``try``; the last definition counts."""
    for node in reversed(list(ast.iter_child_nodes(tree))):
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            if line := _line(node, names):
                return line
        elif node.name == names[0]:
            return _line(node, names[1:]) if names[1:] else node.lineno
    return 0
