"""Values as a run may keep them: no secret, however a store wraps it."""

import base64
import json
from typing import Any

import pytest

from zenml_upgrade_kit.proof import exports

CANARY = "c4nary-of-a-service"


def wrapped(value: Any) -> str:
    return base64.b64encode(json.dumps(value).encode()).decode()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("secret", "values", CANARY),
        ("stack", "environment", wrapped({"PGPASS": CANARY})),
        ("trigger", "action", wrapped({"steps": [{"api_key": CANARY}]})),
        ("service", "config", wrapped({"token": CANARY}).encode()),
        ("code_repository", "config", json.dumps({"token": CANARY, "url": f"https://me:{CANARY}@host"})),
        ("artifact", "uri", f"s3://me:{CANARY}@host/bucket"),
    ],
)
def test_a_secret_is_not_in_what_is_written(table: str, column: str, value: str | bytes) -> None:
    written = str(exports.text(table, column, value))
    told = {CANARY, CANARY.encode().hex(), wrapped(CANARY)[1:-4], value if isinstance(value, str) else value.hex()}
    assert not [one for one in told if one in written]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, None),
        (7, 7),
        (b"\x00\xff", "00ff"),
        ("every word", "every word"),
        (wrapped({"name": "press"}), wrapped({"name": "press"})),
        (wrapped({"name": "press"}).encode(), wrapped({"name": "press"}).encode().hex()),
    ],
)
def test_what_is_no_secret_is_written_as_it_is(value: Any, written: Any) -> None:
    assert exports.text("service", "config", value) == written
