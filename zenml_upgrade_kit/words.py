"""Statuses, durations, sizes, times and other facts as people read them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

_MARKS = {
    "good": ("✓", "GO", "pass", "passed", "same", "identical", "loads", "completed", "cached", "unchanged"),
    "warn": ("!", "GO_WITH_WARNINGS", "warn", "different", "differs"),
    "bad": ("✗", "NO_GO", "block", "fails", "lost", "failed", "no run", "unexplained"),
    "broken": ("×", "error", "damaged"),
    "dim": ("?", "not_checked", "not_applicable", "not carried out", "missing", "unfinished"),
    "info": ("i", "info", "renamed", "changed", "added", "dropped"),
}
COLOURS = {
    "good": "#1a7f37",
    "warn": "#8a5a00",
    "bad": "#c21e2c",
    "broken": "#8340cf",
    "dim": "#59636e",
    "info": "#0969da",
}
"""Background of each tone under white text: at least 4.5:1, and at least 3:1 against a white or a dark page."""

_OF_WORD = {word: (tone, glyph) for tone, (glyph, *words) in _MARKS.items() for word in words}
_UNREADABLE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")


def mark(word: str) -> str:
    """A status, severity, outcome or verdict as glyph and word, never colour alone: ``✓ pass``; a dash stays one."""
    if word == "–":
        return word
    glyph = _OF_WORD.get(word, ("info", "·"))[1]
    return f"{glyph} {'NO-GO' if word == 'NO_GO' else word.replace('_', ' ')}"


def tone(word: str) -> str:
    """Which of the six colours a word has: good, warn, bad, broken, dim, info."""
    return _OF_WORD.get(word, ("info", ""))[0]


def title(step: str) -> str:
    """A step's name in words: ``50_smoke_runs`` is ``Smoke runs``."""
    return step.partition("_")[2].replace("_", " ").capitalize() or step


def count(number: int, noun: str) -> str:
    """``1 finding``, ``2,000 findings``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: Any) -> str:
    """``0.4 s``, ``12 s``, ``3 min 05 s``, ``1 h 02 min``; a dash for anything that is not a number."""
    if not isinstance(seconds, (int, float)) or math.isnan(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def size(number: Any) -> str:
    """A number of bytes: ``512 bytes``, ``1.4 MB`` (powers of 1000)."""
    if not isinstance(number, (int, float)):
        return "–"
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "bytes" or number >= 99.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def when(moment: Any) -> str:
    """An ISO 8601 time, or a run folder's ``20261123T010203Z``, as ``2026-11-23 01:02:03 UTC``; naive times are UTC."""
    try:
        text = re.sub(r"^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$", r"\1-\2-\3T\4:\5:\6Z", str(moment))
        parsed = datetime.fromisoformat(re.sub("Z$", "+00:00", text))  # Python 3.10 takes no other form
    except ValueError:
        return plain(moment) or "–"
    if parsed.tzinfo:
        parsed = parsed.astimezone(timezone.utc)
    return f"{parsed:%Y-%m-%d %H:%M:%S} UTC"


def plain(value: Any) -> str:
    """Text without terminal colours and without characters that neither HTML nor XML may hold."""
    return _UNREADABLE.sub("", str(value).replace("\r\n", "\n").replace("\r", "\n"))


_FORMATS = {"seconds": duration, "bytes": size, "database_bytes": size, "original_bytes": size}
_FORMATS |= {"memory_bytes": size, "disk_bytes": size}
_FORMATS |= {"started": when, "finished": when, "last_run": when}


def told(value: Any, fact: str = "") -> str:
    """Any JSON value as one readable piece of text; nothing is a dash. fact: its name, such as ``bytes``."""
    if value in (None, "", [], {}):
        return "–"
    if fact in _FORMATS:
        return _FORMATS[fact](value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{plain(name)}: {told(item)}" for name, item in value.items())
    return ", ".join(map(told, value)) if isinstance(value, (list, tuple)) else plain(value)
