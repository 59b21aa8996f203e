"""By hand: a real JupyterLab in a real browser, stepped through like a person would."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import chromium
import nbformat
import pytest

from zenml_upgrade_kit import workbook
from zenml_upgrade_kit.findings import Status
from zenml_upgrade_kit.runs import Run

SETTINGS = {"expose_app_in_browser": True, "news_url": None, "extension_manager": "readonly"}
SETTINGS |= {"check_for_updates_class": "jupyterlab.NeverCheckForUpdate"}
IDLE = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
EXECUTED = """() => [...window.jupyterapp.shell.currentWidget.content.model.cells]
    .every(cell => cell.type !== 'code' || cell.executionCount)"""


class Lab:
    """A JupyterLab with a copy of the notebooks, and every address that its pages asked for."""

    def __init__(self, url: str, token: str, folder: Path, browser: Any) -> None:
        self.url, self.token, self.folder, self.asked = url, token, folder, list[str]()
        self.page = browser.new_page(viewport={"width": 1280, "height": 8000})  # cells out of sight are not drawn
        self.page.on("request", lambda request: self.asked.append(request.url))

    def run_all(self, notebook: str) -> None:
        """Open a notebook and run all of its cells."""
        self.page.goto(f"{self.url}/lab/tree/{notebook}?token={self.token}")
        self.page.wait_for_function(IDLE, timeout=120_000)
        assert not self.page.locator(".jp-OutputArea-output").count()
        self.page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
        self.page.wait_for_function(EXECUTED, timeout=300_000)

    def shows(self, *expected: str, seconds: int = 30) -> bool:
        """Whether outputs, not sources, hold all of these texts; they are drawn a moment after a cell has run."""
        for _ in range(seconds * 5):
            said = "\n".join(self.page.locator(".jp-OutputArea-output").all_text_contents())
            if all(text in said for text in expected):
                return True
            time.sleep(0.2)
        return False

    def hosts(self) -> set[str | None]:
        return {urlsplit(url).hostname for url in self.asked if not url.startswith(("data:", "blob:"))}


@pytest.fixture
def lab(deployment: Callable[..., Path], tmp_path: Path) -> Iterator[Lab]:
    with chromium.launched() as browser:
        token = secrets.token_hex(16)
        shutil.copytree(workbook.notebooks(), tmp_path / "notebooks")
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "jupyter_lab_config.json").write_text(json.dumps({"LabApp": SETTINGS}))
        with socket.create_server(("127.0.0.1", 0)) as free:
            url = f"http://127.0.0.1:{free.getsockname()[1]}"
        own = {f"JUPYTER_{kind}_DIR": tmp_path / kind.lower() for kind in ("CONFIG", "DATA", "RUNTIME")}
        own |= {"IPYTHONDIR": tmp_path / "ipython", "ZENML_UPGRADE_OUT": tmp_path / "runs"}
        own |= {"ZENML_UPGRADE_STORE": deployment("0.70.0")}
        environment = {**os.environ, "ZENML_UPGRADE_TO": "0.98.0", **{name: str(path) for name, path in own.items()}}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port_retries=0"]
        command += [f"--ServerApp.port={urlsplit(url).port}", f"--IdentityProvider.token={token}"]
        log = tmp_path / "lab.log"
        with log.open("w") as out, subprocess.Popen(
            command, cwd=tmp_path / "notebooks", env=environment, stdout=out, stderr=out
        ) as server:  # fmt: skip
            try:
                answers(f"{url}/api", server, log)
                yield Lab(url, token, tmp_path, browser)
            finally:
                server.terminate()


def answers(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the server answers; its kernels end with it."""
    for _ in range(600):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())


def test_the_workbook_starts_in_jupyterlab_and_nothing_leaves_the_machine(lab: Lab) -> None:
    lab.run_all("00_start.ipynb")
    assert lab.shows("✓ pass", "Start no findings", "Written by ZenML", "0.70.0", "training_pipeline")
    [folder] = (lab.folder / "runs").glob("*/results/00_start.json")
    run = Run.open(folder.parent.parent)
    assert run.needs("00_start").status is Status.PASS
    assert lab.shows(f"The folder of this run: {run.folder}")
    assert lab.hosts() == {"127.0.0.1"}


def test_words_in_the_source_of_a_cell_do_not_count(lab: Lab) -> None:
    """The test above would notice a notebook that shows nothing, and a request to another address."""
    v4: Any = nbformat.v4
    cells = [v4.new_code_cell("nothing = 'training_pipeline'"), v4.new_markdown_cell("![](http://127.0.0.2/a.png)")]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    dead = v4.writes(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}))
    (lab.folder / "notebooks" / "dead.ipynb").write_text(dead, encoding="utf-8")
    lab.run_all("dead.ipynb")
    assert "training_pipeline" in lab.page.locator(".jp-Cell").first.text_content()
    assert not lab.shows("training_pipeline", seconds=3)
    assert lab.hosts() == {"127.0.0.1", "127.0.0.2"}
