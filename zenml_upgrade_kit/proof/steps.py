"""Step configurations: a JSON object of a deployment became a row for each step, which takes more than common SQL.

Source: revision 3d7e39f3ac92 (0.83.1) of ZenML 0.98.0, read: a row for each item, numbered in order, its value as
``json.dumps`` writes it. Before it, 1d8f30c54477 (0.68.0) wrote some values anew, see :func:`_renamed_models`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.proof import exports
from zenml_upgrade_kit.proof.changes import Table
from zenml_upgrade_kit.stores.pair import Kind, Pair
from zenml_upgrade_kit.stores.sqlite import quoted

AT_ONCE = 50
"""Deployments that are in memory at a time, with their configurations."""
EXAMPLES = 5

Wrong = tuple[str, str, dict[str, Any], Any, Any]
"""Column, kind, key, value before and after."""


def nothing(_pair: Pair, _table: Table) -> tuple[int, list[dict[str, Any]]]:
    """No check."""
    return 0, []


def step_configurations(pair: Pair, table: Table) -> tuple[int, list[dict[str, Any]]]:
    """How many rows were compared, and what is wrong with them, as ``Proof.unexplained`` has it."""
    assert table.by
    _, query, columns = table.by
    owner, *names = (columns[name].name for name in ("deployment_id", "index", "name", "config"))
    full = f"{quoted(pair.after.name)}.{quoted(table.name)} AS c"
    later = {name: one for name, one in table.columns.items() if name not in {one.name for one in columns.values()}}
    tests = [f"({pair.differ(one.sql, f'c.{quoted(name)}', Kind(), Kind())})" for name, one in later.items()]
    cells = [*(f"c.{quoted(name)}" for name in (owner, *names)), f"JSON_VALID(c.{quoted(names[2])})"]
    selected = ", ".join([*cells, *tests])
    found: dict[tuple[str, str], dict[str, Any]] = {}
    compared = 0
    for deployments in _some(pair, query):
        rows: dict[str, list[Sequence[Any]]] = defaultdict(list)
        listed = ", ".join(map(_literal, deployments))
        for row in pair.rows(f"SELECT {selected} FROM {full} WHERE c.{quoted(owner)} IN ({listed})"):
            rows[row[0]].append(row[1:])  # index, name, config, whether it is JSON, differences
            compared += 1
        for identity, text in deployments.items():
            for column, kind, key, before, after in _wrong(text, rows[identity], list(later)):
                _note(found, column, kind, {owner: identity, **key}, before, after)
    total = pair.first(f"SELECT COUNT(*) FROM {full}")[0]
    if total != compared:
        unowned = (
            f"FROM {full} WHERE c.{quoted(owner)} IS NULL OR c.{quoted(owner)} NOT IN (SELECT d.id FROM ({query}) AS d)"
        )
        for identity, name in pair.rows(f"SELECT c.{quoted(owner)}, c.{quoted(names[1])} {unowned} LIMIT {EXAMPLES}"):
            _note(found, "", "extra", {owner: identity, "name": name}, None, "a row")
        found[("", "extra")]["count"] += max(0, total - compared - EXAMPLES)
    return compared, list(found.values())


CHECKS = {"step_configurations": step_configurations}


def _some(pair: Pair, query: str) -> Iterator[dict[str, str]]:
    """Deployments by id, with their configurations, some at a time."""
    last = ""
    while True:
        page = f"WHERE d.id > {_literal(last)} ORDER BY d.id LIMIT {AT_ONCE}"
        found = dict(pair.rows(f"SELECT d.id, d.step_configurations FROM ({query}) AS d {page}"))
        if not found:
            return
        yield found
        last = list(found)[-1]


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "").replace("'", "''") + "'"  # ids are hexadecimal


def _wrong(text: str, rows: Sequence[Sequence[Any]], later: Sequence[str]) -> Iterator[Wrong]:
    """What is wrong with the rows of one deployment."""
    for row in rows:
        for name, differs in zip(later, row[4:], strict=True):
            if differs:
                yield name, "differs", {"name": row[1]}, None, "a value"
    ordered = sorted(rows, key=lambda row: row[0])
    if _same(text, ordered):
        return
    try:
        wanted = json.loads(text)
    except ValueError:
        raise StoreUnreadable(
            "step configurations cannot be read", expected="JSON", found="something else", remedy="look at them"
        ) from None
    there = {row[1]: row for row in ordered}
    for place, (name, value) in enumerate(wanted.items()):
        if name not in there:
            yield "", "missing", {"name": name}, "a row", None
            continue
        row = there.pop(name)
        if row[0] != place:
            yield "index", "differs", {"name": name}, place, row[0]
        before = json.dumps(value)
        if row[2] not in (before, json.dumps(_renamed_models(value))):
            yield "config", "differs", {"name": name}, before, row[2]
    surplus = [name for name in there for row in ordered if row[1] == name]
    surplus += [row[1] for row in ordered if row[1] in wanted and row is not _last(ordered, row[1])]
    for name in surplus:
        yield "", "extra", {"name": name}, None, "a row"


def _last(rows: Sequence[Sequence[Any]], name: str) -> Sequence[Any]:
    return next(row for row in reversed(rows) if row[1] == name)


def _same(text: str, rows: Sequence[Sequence[Any]]) -> bool:
    """Whether the rows, put together, are the very text; it is enough, for each value is JSON by itself."""
    if [row[0] for row in rows] != list(range(len(rows))) or len({row[1] for row in rows}) != len(rows):
        return False
    if not all(row[3] for row in rows):
        return False
    return "{" + ", ".join([f"{json.dumps(row[1])}: {row[2]}" for row in rows]) + "}" == text


def _renamed_models(step: Any) -> Any:
    """A step's configuration as 1d8f30c54477 writes it: a model that is loaded later by name and version alone."""
    config = step.get("config") if isinstance(step, Mapping) else None
    inputs = config.get("model_artifacts_or_metadata") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(inputs, Mapping):
        return step

    def renamed(one: Any) -> Any:
        if not isinstance(one, Mapping) or not isinstance(model := one.get("model"), Mapping) or not model:
            return one
        rest = {key: value for key, value in one.items() if key != "model"}
        return {**rest, "model_name": model.get("name"), "model_version": str(model.get("version"))}

    new = {name: renamed(one) for name, one in inputs.items()}
    return {**step, "config": {**config, "model_artifacts_or_metadata": new}}


def _note(
    found: dict[tuple[str, str], dict[str, Any]], column: str, kind: str, key: dict[str, Any], *pair: Any
) -> None:
    one = found.setdefault((column, kind), {"column": column, "kind": kind, "count": 0, "examples": []})
    one["count"] += 1
    if len(one["examples"]) < EXAMPLES:
        before, after = exports.shown("step_configuration", column, *pair)
        one["examples"].append({"key": key, "before": before, "after": after})
