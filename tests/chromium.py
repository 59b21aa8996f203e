"""Chromium for tests; where it is not installed they are skipped, but not in CI."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

QUIET = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


@contextmanager
def launched() -> Iterator[Any]:
    """A headless browser of Playwright, with a profile of its own."""
    chromium = shutil.which("chromium")
    if chromium is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("there is no chromium on PATH: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIET.split())
        yield browser
        browser.close()
