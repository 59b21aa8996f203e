"""What people see by name, asked from the release before and the release after, and what changed in it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import probing, releases
from zenml_upgrade_kit.errors import ProbeFailed
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.rehearsal import servers
from zenml_upgrade_kit.stores.address import Server

LIMIT = 1000
"""Of each kind, that are listed and compared by name; the totals count all."""
SINGULAR = {
    "flavors_custom": "custom flavor",
    "code_repositories": "code repository",
    "service_accounts": "service account",
    "service_connectors": "service connector",
}
"""Of kinds that are not called so without their s."""
FIELDS = {"is_admin": "may administrate", "readable": "can be read"}
Entity = Mapping[str, Any]
Rule = tuple[str, str, set[str], Callable[[Entity, Entity], bool], str]
_OWNER, _OWN_ID = re.compile(r"-[0-9a-f]{4,}"), re.compile(r"_[0-9a-f]{6}")


def _suffixed(pattern: re.Pattern[str]) -> Callable[[Entity, Entity], bool]:
    """Whether the name after is the one before with such an end."""
    return lambda old, new: bool(pattern.fullmatch(new["name"].removeprefix(old["name"])))


def _default(*types: str) -> Callable[[Entity, Entity], bool]:
    return lambda _, new: new["name"] == "default" and (not types or new.get("type") in types)


def _always(_old: Entity, _new: Entity) -> bool:
    return True


EXPECTED: tuple[Rule, ...] = (
    ("0.47.0", "renamed", {"users"}, _suffixed(_OWNER), "names that were used twice get the beginning of their id"),
    ("0.47.0", "new", {"tags"}, _always, "tags of models become entities of their own"),
    (
        "0.50.0",
        "renamed",
        {"stacks", "components", "service_connectors"},
        _suffixed(_OWNER),
        "everybody sees all of them now: default ones, and names used twice, get the beginning of their owner's id",
    ),
    ("0.50.0", "new", {"stacks"}, _default(), "one empty default stack is made for everybody"),
    ("0.50.0", "new", {"components"}, _default("orchestrator", "artifact_store"), "they make up the new default stack"),
    (
        "0.53.0",
        "gone",
        {"components", "flavors_custom"},
        lambda old, _: old.get("type") == "secrets_manager",
        "secrets managers no longer exist; secrets are kept by ZenML",
    ),
    (
        "0.56.0",
        "changed",
        {"users"},
        lambda old, new: old.get("is_admin") is None and bool(new.get("is_admin")),
        "who may administrate is told apart now; everybody starts with that right",
    ),
    ("0.63.0", "merged", {"pipelines"}, _always, "pipelines no longer have versions: those of one name become one"),
    (
        "0.70.0",
        "renamed",
        {"pipelines", "models"},
        _suffixed(_OWN_ID),
        "names must be unique: one used twice is changed",
    ),
    (
        "0.80.0",
        "renamed",
        {"artifacts", "code_repositories", "components", "flavors_custom", "projects", "schedules", "secrets"}
        | {"service_connectors", "stacks", "tags"},
        _suffixed(_OWN_ID),
        "names must be unique: one used twice gets the beginning of its id",
    ),
    (
        "0.90.0rc0",
        "new",
        {"pipelines"},
        lambda _, new: new["name"] == "unlisted",
        "what was run without a pipeline belongs to it now",
    ),
    ("0.91.0", "new", {"components"}, _default("deployer"), "a deployer joins the default stack"),
    (
        "0.91.0",
        "renamed",
        {"components"},
        lambda old, new: old.get("type") == "deployer" and new["name"].startswith("default_"),
        "the name is taken by the new default deployer",
    ),
)
"""Release, change, kinds, condition, why; from the migrations of 0.98.0, read, and measured where tests cross them."""


def listed(
    environment: Environment,
    database: Path | Server,
    folder: Path,
    variables: Mapping[str, str],
    timeout: float,
    limit: int = LIMIT,
) -> dict[str, Any]:
    """What a release lists in a copy, as ``probes/list_entities.py`` describes it; opening may write to the copy.

    folder: scratch; a ``config/config.yaml`` in it decides what is active. variables: with which any release finds the
    copy. limit: of each kind, 0 for totals alone. Raises :class:`ProbeFailed` when the copy cannot be opened at all.
    """
    hidden = servers.redactor(database, variables)
    try:
        reply = probing.run_probe(
            environment, "list_entities", {"limit": limit}, folder=folder, variables=variables, timeout=timeout
        )
    except ProbeFailed as error:
        found = hidden.text(error.found)
        raise ProbeFailed(error.problem, expected=error.expected, found=found, remedy=error.remedy) from None
    return {**reply, "errors": hidden.json(reply["errors"])}


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What differs between two listings: ``kind``, ``before``, ``after`` (names, "" for none), ``change``, ``detail``.

    change: ``renamed``, ``merged``, ``new``, ``gone``, ``changed`` or ``error``. detail: a sentence. ``expected`` says
    why a crossed release does that, and ``release`` which ("" for none); without them nobody knows why. Matched by id,
    else by name; of kinds that were cut, what has no match is left out, since it may be beyond the limit.
    """
    found = list(_errors(before, after))
    failed, cut = {**before["errors"], **after["errors"]}, {**before["cut"], **after["cut"]}
    found += _figures(before, after, failed)
    source, target = (releases.get(side["zenml"]).stamp for side in (before, after))
    crossed = [rule for rule in EXPECTED if releases.crosses(source, target, rule[0])]
    for kind in sorted((before["entities"].keys() | after["entities"].keys()) - failed.keys()):
        for old, new, change, detail in _kind(kind, before["entities"].get(kind, []), after["entities"].get(kind, [])):
            if kind in cut and change in ("new", "gone"):
                continue
            row = _row(kind, (old or {}).get("name", ""), (new or {}).get("name", ""), change, detail)
            for release, changed, kinds, fits, why in crossed:
                if changed == change and kind in kinds and fits(old or {}, new or {}):
                    row.update(expected=why, release=release)
                    break
            found.append(row)
    return found


def _row(kind: str, before: Any, after: Any, change: str, detail: str) -> dict[str, Any]:
    return {"kind": kind, "before": str(before), "after": str(after), "change": change, "detail": detail}


def _errors(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What cannot be listed; where it is not the upgrade's doing, that is expected."""
    for kind in sorted(before["errors"].keys() | after["errors"].keys()):
        sides = [side for side in (before, after) if kind in side["errors"]]
        who = " and ".join(side["zenml"] for side in sides)
        row = _row(kind, "", "", "error", f"ZenML {who} cannot list {_plural(kind)}: {sides[-1]['errors'][kind]}.")
        if before in sides:
            row.update(expected="it cannot be listed before the upgrade either", release="")
        yield row


def _figures(
    before: Mapping[str, Any], after: Mapping[str, Any], failed: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Who and what is active, and the totals of what is not compared by name."""
    for name in ("user", "active_stack", "active_project", "runs", "artifact_versions"):
        old, new = before.get(name), after.get(name)
        if old != new and name not in failed:
            detail = f"{_plural(name).capitalize()}: {_word(old)} before, {_word(new)} afterwards."
            yield _row(name, _word(old), _word(new), "changed", detail)


def _kind(kind: str, olds: list[Entity], news: list[Entity]) -> Iterator[tuple[Entity | None, Entity | None, str, str]]:
    """Entity before and after, the change and a sentence, for whatever is not the same."""
    one = SINGULAR.get(kind, kind[:-1])
    pairs, lost, added = _matched(olds, news)
    for old, new in pairs:
        if old["name"] != new["name"]:
            yield old, new, "renamed", f"The {one} {old['name']} is called {new['name']} afterwards."
        for field in sorted((old.keys() & new.keys()) - {"name", "id", "project"}):
            if old[field] != new[field]:
                what = f"{FIELDS.get(field, field)}: {_word(old[field])} before, {_word(new[field])} afterwards"
                yield old, new, "changed", f"The {one} {new['name']} changes; {what}."
    names = {new["name"]: new for new in news}
    merged = Counter(old["name"] for old in lost if kind == "pipelines" and old["name"] in names)
    for name, more in merged.items():
        yield names[name], names[name], "merged", f"{more + 1} versions of the pipeline {name} become one pipeline."
    for old in lost:
        if old["name"] not in merged:
            yield old, None, "gone", f"The {one} {_full(old)} is gone."
    for new in added:
        yield None, new, "new", f"There is a new {one}, {_full(new)}."


def _matched(olds: list[Entity], news: list[Entity]) -> tuple[list[tuple[Entity, Entity]], list[Entity], list[Entity]]:
    """Pairs of the same id, else of the same name and type; what is left of those before, and of those after."""
    by_id = {new["id"]: new for new in news if "id" in new}
    pairs = [(old, by_id.pop(old["id"])) for old in olds if old.get("id") in by_id]
    taken = {id(old) for old, _ in pairs}
    by_name: dict[Any, list[Entity]] = {}
    for new in by_id.values():
        by_name.setdefault((new["name"], new.get("type")), []).append(new)
    lost = []
    for old in (old for old in olds if id(old) not in taken):
        if same := by_name.get((old["name"], old.get("type"))):
            pairs.append((old, same.pop(0)))
        else:
            lost.append(old)
    return pairs, lost, [new for same in by_name.values() for new in same]


def _full(entity: Entity) -> str:
    return f"{entity['name']} ({entity['type']})" if entity.get("type") else str(entity["name"])


def _plural(kind: str) -> str:
    return "custom flavors" if kind == "flavors_custom" else kind.replace("_", " ")


def _word(value: Any) -> str:
    return {"None": "not told", "True": "yes", "False": "no"}.get(str(value), str(value))
