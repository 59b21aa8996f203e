"""Replaces known secret values in text, JSON and notebooks."""

from __future__ import annotations

import base64
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote

MASK = "[redacted]"
SHORTEST = 4
"""Shorter values are left alone: replacing every ``a`` would hide the report, not the secret."""

_SECRET_NAME = re.compile(
    r"(?i)password|passwd|secret|token|api_?key|access_?key|private_?key|credential|encryption_key"
)
_URL_PASSWORD = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.-]*://[^:/@\s]*:)(?P<password>[^/\s]+)@")


class Redactor:
    """Masks a set of secret values, also where they were percent-encoded, base64-encoded or JSON-escaped."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values: set[str] = set()
        self.hide(values)

    def hide(self, values: Iterable[str]) -> None:
        """Mask these, too, from now on."""
        self._values |= set(values)
        forms: set[str] = set()
        for value in self._values:
            if len(value) < SHORTEST:
                continue
            encoded = base64.b64encode(value.encode()).decode()
            forms |= {value, quote(value, safe=""), quote_plus(value), unquote(value), encoded, json.dumps(value)[1:-1]}
        ordered = sorted((form for form in forms if len(form) >= SHORTEST), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, ordered))) if ordered else None

    def text(self, text: str) -> str:
        """The text without known values and without passwords inside URLs."""
        return url(self._known.sub(MASK, text) if self._known else text)

    def json(self, value: Any) -> Any:
        """The same JSON value with every string masked, keys included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.json(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.json(item) for item in value]
        return value


def url(text: str) -> str:
    """The text with the password of every ``scheme://user:password@host`` masked."""
    return _URL_PASSWORD.sub(lambda match: f"{match['head']}{MASK}@", text)


def url_passwords(text: str) -> list[str]:
    """The passwords inside URLs in the text, as written."""
    return [match["password"] for match in _URL_PASSWORD.finditer(text)]


def secrets_in(value: Any, name: str = "") -> list[str]:
    """Strings inside a nested mapping whose key sounds like a secret (``password``, ``jwt_secret_key``, …)."""
    if isinstance(value, Mapping):
        return [secret for key, item in value.items() for secret in secrets_in(item, str(key))]
    if isinstance(value, (list, tuple)):
        return [secret for item in value for secret in secrets_in(item, name)]
    if isinstance(value, str) and value:
        return [value] if _SECRET_NAME.search(name) else url_passwords(value)
    return []


def secrets_of_environment(names: Iterable[str] = ()) -> list[str]:
    """Values of the named environment variables, and longer ones of all whose name sounds like a secret.

    A value that is itself a URL counts by its password: paths and host names are not secret.
    """
    named = [os.environ[name] for name in names if name in os.environ]
    plain = [value for value in named if "://" not in value]
    likely = [value for value in secrets_in(dict(os.environ)) if len(value) >= 8]
    return [*plain, *likely, *(password for value in named for password in url_passwords(value))]
