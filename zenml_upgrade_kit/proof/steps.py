"""Step configurations: a JSON object of a deployment became a row for each step, which takes more than common SQL.

Source: revision 3d7e39f3ac92 (0.83.1) of ZenML 0.98.0, read: a row for each item, numbered in order, its value as
``json.dumps`` writes it. Before it, 1d8f30c54477 (0.68.0) wrote some values anew, see :func:`_renamed_models`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.proof import exports
from zenml_upgrade_kit.proof.states import Table
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
    owner, *names = (quoted(columns[name].name) for name in ("deployment_id", "index", "name", "config"))
    full = f"{quoted(pair.after.name)}.{quoted(table.name)}"
    old = {one.name for one in columns.values()}
    later = {
        name: pair.differ(one.sql, quoted(name), Kind(), Kind())
        for name, one in table.columns.items()
        if name not in old
    }
    found: dict[tuple[str, str], dict[str, Any]] = {}

    def suspects_of(session: Pair, part: str) -> list[str]:
        return [row[0] for row in session.rows(_suspects(pair, query, full, (owner, *names), [*later.values()], part))]

    with pair.other() as second, ThreadPoolExecutor(1) as pool:  # this is the longest of all tables: a half each
        half = pool.submit(suspects_of, second, "d.id < '8'")
        suspects = suspects_of(pair, "d.id >= '8'") + half.result()
    for start in range(0, len(suspects), AT_ONCE):
        listed = ", ".join(map(_literal, suspects[start : start + AT_ONCE]))
        deployments = pair.rows(f"SELECT d.id, d.step_configurations FROM ({query}) AS d WHERE d.id IN ({listed})")
        texts, rows = dict(deployments), defaultdict[str, list[Sequence[Any]]](list)
        selected = ", ".join([owner, *names, *(f"({test})" for test in later.values())])
        for row in pair.rows(f"SELECT {selected} FROM {full} WHERE {owner} IN ({listed})"):
            rows[row[0]].append(row[1:])  # index, name, config, differences
        for identity, text in texts.items():
            for column, kind, key, before, after in _wrong(text, rows[identity], list(later)):
                _note(found, column, kind, {owner.strip('"'): identity, **key}, before, after)
    unowned = f"FROM {full} AS c WHERE NOT EXISTS (SELECT 1 FROM ({query}) AS d WHERE d.id = c.{owner})"
    total, surplus = (pair.first(f"SELECT COUNT(*) {source}")[0] for source in (f"FROM {full}", unowned))
    for identity, name in pair.rows(f"SELECT c.{owner}, c.{names[1]} {unowned} LIMIT {EXAMPLES}") if surplus else ():
        _note(found, "", "extra", {owner.strip('"'): identity, "name": name}, None, "a row")
    if surplus:
        found["", "extra"]["count"] += max(0, surplus - EXAMPLES)
    return total - surplus, list(found.values())


def _suspects(pair: Pair, query: str, full: str, names: Sequence[str], tests: Sequence[str], part: str) -> str:
    """A query of the deployments, of a part, whose rows, put together in their order, are not the very text.

    Where they are, that is enough: each value is JSON by itself. Names that are not ASCII are written otherwise.
    """
    owner, index, name, config = names
    rows = f"{full} AS c WHERE c.{owner} = d.id"
    if pair.engine == "mysql":
        items = f"JSON_QUOTE(c.{name}), ': ', c.{config} ORDER BY c.{index} SEPARATOR ', '"
        same = f"CAST(CONCAT('{{', GROUP_CONCAT({items}), '}}') AS BINARY) = CAST(d.step_configurations AS BINARY)"
    else:
        rows = f"(SELECT * FROM {rows} ORDER BY c.{index}) AS c"
        same = f"'{{' || GROUP_CONCAT(JSON_QUOTE(c.{name}) || ': ' || c.{config}, ', ') || '}}' = d.step_configurations"
    conditions = [
        same,
        f"MIN(JSON_VALID(c.{config})) = 1",
        f"COUNT(*) = COUNT(DISTINCT c.{name})",
        f"COUNT(*) = COUNT(DISTINCT c.{index}) AND MIN(c.{index}) = 0 AND MAX(c.{index}) = COUNT(*) - 1",
        *(f"SUM({test}) = 0" for test in tests),
    ]
    wrong = f"(SELECT {' AND '.join(conditions)} FROM {rows}) IS NOT TRUE"
    return f"SELECT d.id FROM ({query}) AS d WHERE {part} AND {wrong}"


CHECKS = {"step_configurations": step_configurations}


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "").replace("'", "''") + "'"  # ids are hexadecimal


def _wrong(text: str, rows: Sequence[Sequence[Any]], later: Sequence[str]) -> Iterator[Wrong]:
    """What is wrong with the rows of one deployment."""
    for row in rows:
        for name, differs in zip(later, row[3:], strict=True):
            if differs:
                yield name, "differs", {"name": row[1]}, None, "a value"
    ordered = sorted(rows, key=lambda row: row[0])
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
