"""What columns of a metadata store hold, and how they are grouped, on either engine."""

from __future__ import annotations

import base64
import json
import uuid
from typing import Any

from zenml_upgrade_kit import stores
from zenml_upgrade_kit.stores import Reader, mysql


def decoded(value: str | bytes | None) -> Any:
    """What base64 of JSON holds; None for anything else, an encrypted value for example."""
    try:
        return json.loads(base64.b64decode(value or b"", validate=True))
    except ValueError:
        return None


def dashed(value: str | None) -> str | None:
    """A UUID as ZenML's API writes it; the database keeps 32 hex characters."""
    try:
        return str(uuid.UUID(value)) if value else None
    except ValueError:
        return value


def parsed(text: str | bytes | None) -> dict[str, Any] | None:
    """A JSON object; None for anything else."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def source_of(text: str | None) -> dict[str, Any]:
    """A stored source; plain dotted names, as very old releases wrote them, become the same shape."""
    value = parsed(text)
    if value is None:
        module, _, attribute = str(text).rpartition(".")
        value = {"module": module, "attribute": attribute, "type": "unknown"}
    return value


def time_of(value: Any) -> str | None:
    """A time as text: SQLite gives that, MySQL a datetime."""
    return None if value is None else str(value)


def exactly(connection: Reader, column: str) -> str:
    """What to group a column by, so that each value counts by its bytes.

    On a server, a collation would join what differs in case alone, and a sort looks at the start of long texts.
    """
    return f"MD5({stores.quoted(column)})" if isinstance(connection, mysql.Connection) else stores.quoted(column)
