"""Writes what an upgrade drops to CSV files, and values as they may be shown: secrets never are."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import redact
from zenml_upgrade_kit.proof.states import Lost
from zenml_upgrade_kit.stores.pair import Pair

SECRET = re.compile(
    r"(?i)password|passwd|secret|token|api_?key|auth_?key|private_?key|credential|_code$|^(configuration|environment)$"
)
SECRETS = {("secret", "values"), ("api_key", "key"), ("api_key", "previous_key")}
"""Columns that hold secrets, beside those whose names match :data:`SECRET`, which are settings of components, too."""
HARMLESS = re.compile(r"_id$|_at$|^retain_period$")
LONGEST = 240
"""Characters of a value that are shown."""


def is_secret(table: str, column: str) -> bool:
    """Whether values of a column must not be seen."""
    return (table, column) in SECRETS or bool(SECRET.search(column) and not HARMLESS.search(column))


def hidden(value: object) -> str:
    """What stands for a secret: equal ones look alike."""
    raw = value if isinstance(value, bytes) else str(value).encode(errors="surrogateescape")
    return f"hidden (sha256 {hashlib.sha256(raw).hexdigest()[:8]})"


def text(table: str, column: str, value: Any) -> str | int | float | None:
    """A value as a file may hold it: secrets hidden, also those inside JSON and URLs; bytes as hexadecimal digits."""
    if value is None:
        return None
    if is_secret(table, column) or _wraps_secrets(value):
        return hidden(value)
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, bytes):
        return value.hex()
    found = str(value).encode(errors="backslashreplace").decode()
    if found[:1] in ("{", "["):
        with suppress(ValueError, RecursionError):
            for secret in sorted(set(redact.secrets_in(json.loads(found))), key=len, reverse=True):
                for written in (json.dumps(secret)[1:-1], secret):
                    found = found.replace(written, hidden(secret)) if len(written) >= redact.SHORTEST else found
    return redact.url(found)


def _wraps_secrets(value: Any) -> bool:
    """Whether it is base64 of JSON, as ZenML keeps the settings of services and triggers, with a secret inside."""
    if not isinstance(value, (str, bytes)) or value[:1] not in ("e", "W", b"e", b"W"):  # of a brace or a bracket
        return False
    try:
        return bool(redact.secrets_in(json.loads(base64.b64decode(value, validate=True))))
    except (ValueError, RecursionError):
        return False


def shown(table: str, column: str, *values: Any) -> list[str | int | float | None]:
    """Values of one column beside each other, as people see them: long ones from where they begin to differ."""
    texts = [text(table, column, value) for value in values]
    long = [one for one in texts if isinstance(one, str) and len(one) > LONGEST]
    strings = [one for one in texts if isinstance(one, str)]
    same = next((n for n, pair in enumerate(zip(*strings, strict=False)) if len(set(pair)) > 1), 0)
    start = max(0, same - 40)
    return [_cut(one, start) if isinstance(one, str) and long else one for one in texts]


def _cut(whole: str, start: int) -> str:
    part = whole[start : start + LONGEST]
    return ("… " if start else "") + part + (" …" if start + LONGEST < len(whole) else "")


def write(pair: Pair, lost: Lost, folder: Path) -> dict[str, Any]:
    """Write rows, a column or a table that is dropped to a new file that only this user may read, if there are any.

    The answer is as ``Proof.dropped`` has it.
    """
    names = lost.names
    part = {"columns": ".".join(lost.columns), "rows": f"rows-{lost.release}", "table": "table"}[lost.kind]
    file = folder / f"{lost.was}.{part}.csv"
    number = _written(pair.rows(lost.select), names, lost, file)
    secret = sorted(name for name in names if is_secret(lost.table, name) or is_secret(lost.was, name))
    return {
        "table": lost.was,
        "column": ", ".join(lost.columns),
        "rows": number,
        "file": file.name if number else "",
        "release": lost.release,
        "why": lost.why,
        "hidden": secret if number else [],
    }


def _written(rows: Iterator[tuple[Any, ...]], names: Sequence[str], lost: Lost, file: Path) -> int:
    """How many rows; the file is made with the first of them."""
    first = next(rows, None)
    if first is None:
        return 0
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    number = 0
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(names)
        tables = [lost.was if is_secret(lost.was, name) else lost.table for name in names]
        for number, row in enumerate(chain([first], rows), start=1):  # noqa: B007 - the last one is how many
            writer.writerow(map(text, tables, names, row))
    return number
