"""Secrets are masked wherever they turn up."""

import base64
import json
from urllib.parse import quote

import pytest

from zenml_upgrade_kit.redact import MASK, Redactor, secrets_in, secrets_of_environment, url

SECRET = 'p@ss/w"ord\\1'


@pytest.mark.parametrize(
    "form",
    [SECRET, quote(SECRET, safe=""), base64.b64encode(SECRET.encode()).decode(), json.dumps(SECRET)[1:-1]],
    ids=["plain", "percent-encoded", "base64", "in JSON"],
)
def test_every_written_form_of_a_secret_is_masked(form: str) -> None:
    assert Redactor([SECRET]).text(f"before {form} after") == f"before {MASK} after"


def test_json_is_masked_in_depth_with_its_keys() -> None:
    value = {"a": [SECRET, {"b": f"x{SECRET}"}], SECRET: 1, "n": 2.5, "none": None}
    masked = Redactor([SECRET]).json(value)
    assert masked == {"a": [MASK, {"b": f"x{MASK}"}], MASK: 1, "n": 2.5, "none": None}


def test_a_password_in_a_url_is_masked_without_being_known() -> None:
    assert url("mysql://root:hunter2@db:3306/zenml") == f"mysql://root:{MASK}@db:3306/zenml"
    assert url("mysql://root:a@b:c@db/zenml") == f"mysql://root:{MASK}@db/zenml"
    assert url("https://example.org/a:b@c") == "https://example.org/a:b@c"


def test_short_values_do_not_blank_out_the_report() -> None:
    assert Redactor(["a", ""]).text("a banana") == "a banana"


def test_secrets_are_found_by_the_name_of_their_key() -> None:
    config = {"store": {"url": "mysql://u:in-url@h/db", "password": "one"}, "jwt_secret_key": "two", "user_id": "three"}
    assert sorted(secrets_in(config)) == ["in-url", "one", "two"]


def test_named_variables_are_secret_and_paths_in_urls_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLAIN", "value-of-plain")
    monkeypatch.setenv("STORE_URL", "sqlite:////srv/zenml.db")
    monkeypatch.setenv("MY_API_KEY", "0123456789")
    known = secrets_of_environment(["PLAIN", "STORE_URL", "NOT_SET"])
    assert "value-of-plain" in known
    assert "0123456789" in known
    assert not any("zenml.db" in value for value in known)
