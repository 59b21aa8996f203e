"""Compares what two environments made of one artifact version: the outcome, and the difference in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from zenml_upgrade_kit.artifacts.shards import Loaded

LISTED = 8
"""Differences that are told one by one."""

_LIBRARYS_OWN = ("parameter ", "fitted ")
_COMPUTED = ("prediction", "result")


def compare(old: Loaded, new: Loaded) -> tuple[str, str]:
    """The outcome and the difference in words, which is empty for what is identical.

    identical: the content is equal. loads: the new environment loads it, but not all content could be compared.
    differs: it loads as another value. fails: it does not load, or cannot be used any more as it can be in the old
    environment. not_checked: neither environment can import what it needs.
    """
    if not new.ok:
        return "not_checked" if _lacks_a_module(old) and _lacks_a_module(new) else "fails", new.error
    if _harm(new) > _harm(old):
        return "fails", f"loads, but {new.called} when called" + (f", which {old.called} before" if old.called else "")
    if not old.ok:
        return "loads", f"it did not load before: {old.error}" if old.error else "it did not load before"
    if differences := list(_differences(old, new)):
        more = f"; and {len(differences) - LISTED} more" if len(differences) > LISTED else ""
        return "differs", "; ".join(differences[:LISTED]) + more
    if not (old.digest and new.digest):
        return "loads", "its content could not be compared"
    unseen = "learned" in new.basis and "prediction" not in new.parts
    if old.basis != new.basis or "type and repr" in new.basis or unseen:
        return "loads", "compared: " + (new.basis if new.basis == old.basis else f"{old.basis}; now {new.basis}")
    return "identical", ""


def _lacks_a_module(loaded: Loaded) -> bool:
    return bool(loaded.missing) or loaded.error.startswith(("ModuleNotFoundError", "ImportError"))


def _harm(loaded: Loaded) -> int:
    """What a call did: nothing bad, an exception, the end of the process."""
    if not loaded.called or loaded.called.startswith("returned"):
        return 0
    return 1 if loaded.called.startswith("raised") else 2


def _differences(old: Loaded, new: Loaded) -> Iterator[str]:
    if _lasting(old.type) != _lasting(new.type):
        yield f"{old.type} became {new.type}"
        return
    changed = {name for name in old.parts if name in new.parts and old.parts[name][0] != new.parts[name][0]}
    alone = (set(old.parts) ^ set(new.parts)) - {*_COMPUTED}
    other_kinds = {name for name in changed if _kind(old.parts[name]) != _kind(new.parts[name])}
    for name in dict.fromkeys([*old.parts, *new.parts]):
        if any(name.startswith(f"{whole}, ") for whole in other_kinds | alone):
            continue
        if name in alone and not _is_librarys_own(name):
            yield f"{name} is lost" if name in old.parts else f"{name} is new"
        elif name in other_kinds or (name in changed and not any(x.startswith(f"{name}, ") for x in changed | alone)):
            yield f"{name}: " + _became(old.parts[name][1], new.parts[name][1])
    if old.digest and new.digest and old.digest != new.digest and not changed - {*_COMPUTED} and not alone:
        if old.near and old.near == new.near:
            yield f"{new.summary}: numbers differ, but not in their first 8 digits"
        else:
            yield _became(old.summary, new.summary)


def _became(old: str, new: str) -> str:
    return f"{old} became {new}" if old != new else f"{new}, other content"


def _kind(part: Sequence[str]) -> str:
    return part[1].partition(" ")[0]


def _is_librarys_own(part: str) -> bool:
    """Whether a part comes and goes with the versions of scikit-learn."""
    return part.rpartition(", ")[2].startswith(_LIBRARYS_OWN)


def _lasting(name: str) -> str:
    """A class without the modules between its library and its name, and as NumPy 1 and 2 would both call it."""
    root, _, rest = name.partition(".")
    return f"{root}.{rest.rpartition('.')[2].rstrip('_')}"
