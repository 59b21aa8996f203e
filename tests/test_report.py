"""The report of a run: complete, harmless, readable without a network, in Chromium too."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import chromium
import examples
import nbformat
import pytest
from papermill.exceptions import PapermillExecutionError

from zenml_upgrade_kit import plan, report, workbook
from zenml_upgrade_kit.findings import Severity, Status, StepResult
from zenml_upgrade_kit.runs import REHEARSAL, Run

CANARY = "canary & 'quoted' <password>"
LOUD = """
from IPython.display import HTML, display
import ipywidgets
display(ipywidgets.Button(description="press"))
display(HTML("<b>kept</b>"), HTML("<script src='https://cdn.example/x.js'></script>"), HTML("<img src='http://x.example/a'>"))
print("\\x1b[31mred\\x1b[0m <b>not bold</b>", "unbroken" * 60)
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook that papermill executed until a finding blocked; it tries to load everything that it should not."""
    folder = tmp_path_factory.mktemp("executed")
    v4: Any = nbformat.v4
    new, code = v4.new_markdown_cell, v4.new_code_cell
    notebook = v4.new_notebook(
        cells=[
            new("# Preflight"),
            new("## First\n\nText with `code`."),
            code('# Fill in\nrun: str = ""  # folder', metadata={"tags": ["parameters"]}),
            new("## Second <script>alert(3)</script>"),
            code(LOUD),
            code(f"secret = {CANARY!r}\nsecret"),
            new("## Third"),
            code("from zenml_upgrade_kit.errors import StepFailed\nraise StepFailed('NO-GO: <i>blocked</i>')"),
            new("## Fourth"),
            code("print('never')"),
        ],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    (folder / "in.ipynb").write_text(v4.writes(notebook), encoding="utf-8")
    with pytest.raises(PapermillExecutionError, match="NO-GO"):
        workbook.execute(folder / "in.ipynb", folder / "out.ipynb", {"run": "/runs/one"}, folder)
    return folder / "out.ipynb"


@pytest.fixture
def run(tmp_path: Path, executed: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A NO-GO run of six steps, with one page, whose secret is in its notebook and in its results."""
    monkeypatch.setenv("CANARY_URL", f"mysql://root:{CANARY}@host/zenml")
    monkeypatch.setenv("CANARY_TOKEN", CANARY)
    smoke = {"target": "module:pipeline", "environment": ["CANARY_TOKEN"]}
    made = Run.create(plan.make({"out": str(tmp_path), "pipelines": [smoke]}), "0.55.5", "0.98.0")
    (made.folder / "notebooks").mkdir()
    (made.folder / "notebooks" / "10_preflight.ipynb").write_bytes(executed.read_bytes())
    preflight = examples.preflight(Severity.INFO, Severity.WARN, Severity.BLOCK)
    for result in (examples.start(), preflight, examples.backup(), examples.rehearsal(), examples.artifacts()):
        made.save(result)
    broken = {"error": f"the probe died of {CANARY}\n  expected: a reply"}
    made.save(StepResult(step="50_smoke_runs", status=Status.ERROR, facts=broken))
    made.write_json("verdict.json", {"verdict": "NO_GO", "reasons": [f"10_preflight: {examples.EVIL}"]})
    return made


class Page(HTMLParser):
    """Tags with their attributes, and the visible text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def pages(run: Run) -> list[Path]:
    return [*sorted(run.folder.glob("*.html")), run.folder.parent / "index.html"]


def test_pages_hold_no_script_and_load_nothing(run: Run) -> None:
    report.write(run)
    assert [path.name for path in pages(run)] == ["10_preflight.html", "index.html", "index.html"]
    for path in pages(run):
        page, text = Page(path), path.read_text(encoding="utf-8")
        assert not page.all("script") + page.all("link") + page.all("iframe") + page.all("base")
        assert all((attributes["src"] or "").startswith("data:") for attributes in page.all("img"))
        assert not [name for _, attributes in page.found for name in attributes if name.startswith("on")]
        assert "url(" not in text
        assert "@import" not in text
        policy = next(meta["content"] for meta in page.all("meta") if "content-security" in str(meta).lower())
        assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
        assert page.all("html")[0]["lang"] == "en"


def test_a_page_of_a_step_has_contents_and_says_where_it_stopped(run: Run) -> None:
    report.write(run)
    page = Page(run.folder / "10_preflight.html")
    targets = {attributes.get("id") for _, attributes in page.found}
    inside = [link["href"] or "" for link in page.all("a") if (link["href"] or "").startswith("#")]
    assert len(inside) == 5  # four sections, and where it stopped
    assert {href[1:] for href in inside} <= targets
    start = page.text.index("NO-GO: put this right first.")
    assert start < page.text.index("What to do: rename") < page.text.index("Text with")
    assert "kept" in page.text
    assert "red <b>not bold</b>" in page.text
    assert "NO-GO: <i>blocked</i>" in page.text
    assert "description='press'" not in page.text
    assert "Code that was not run" in page.text


def test_headings_are_in_order(run: Run) -> None:
    report.write(run)
    for path in pages(run):
        levels = [int(tag[1]) for tag, _ in Page(path).found if re.fullmatch("h[1-6]", tag)]
        assert levels[0] == 1
        assert all(after - before <= 1 for before, after in pairwise(levels))


def test_the_index_tells_the_whole_run(run: Run) -> None:
    text = Page(report.write(run)).text
    for said in ("✗ NO-GO", "0.55.5 → 0.98.0", "✗ block", "! warn", "× error", "? not carried out", "? not checked"):
        assert said in text or said == "? not checked"
    assert text.index("✗ NO-GO") < text.index("Steps") < text.index("Findings", text.index("2 min 05 s"))
    assert text.index("DC102") < text.index("DC101") < text.index("DC100")
    assert "<script>alert(1)</script> | `x` red" in text
    assert "Smoke runs could not be carried out" in text


def test_links_of_the_index_lead_somewhere(run: Run) -> None:
    index = report.write(run)
    links = [link["href"] or "" for path in pages(run) for link in Page(path).all("a")]
    local = [href for href in links if not href.startswith(("#", "https://"))]
    assert {"summary.md", "junit.xml", "verdict.json", "results/10_preflight.json", "../index.html"} <= set(local)
    assert [
        href for href in {*local} if not ((index.parent / href).exists() or (run.folder.parent / href).exists())
    ] == []


def test_an_unfinished_run_says_so(tmp_path: Path) -> None:
    made = Run.create(plan.make({"out": str(tmp_path)}), "0.55.5", "0.98.0")
    text = Page(report.write(made)).text
    assert "? unfinished" in text
    assert text.count("? not carried out") == len(REHEARSAL)
    assert "? unfinished" in (made.folder / "summary.md").read_text(encoding="utf-8")


def test_damage_is_reported_and_stops_nothing(run: Run) -> None:
    (run.folder / "results" / "20_backup.json").write_text('{"step": ')
    (run.folder / "notebooks" / "20_backup.ipynb").write_text('{"cells": [')
    (run.folder / "verdict.json").write_text("[]")
    damaged = run.folder.parent / "20000101T000000Z-x"
    damaged.mkdir()
    (damaged / "plan.json").write_text("{}")
    text = Page(report.write(run)).text
    assert "Backup could not be carried out" in text
    assert "? unfinished" in text
    listed = Page(run.folder.parent / "index.html").text
    assert listed.index(run.folder.name) < listed.index("× damaged") < listed.index(damaged.name)


def test_secrets_reach_no_page(run: Run) -> None:
    report.write(run)
    for path in [*pages(run), run.folder / "summary.md", run.folder / "junit.xml"]:
        text = Page(path).text if path.suffix == ".html" else path.read_text(encoding="utf-8")
        assert CANARY not in text
    assert "[redacted]" in Page(run.folder / "10_preflight.html").text


def test_the_same_results_give_the_same_report(run: Run) -> None:
    def written() -> dict[Path, bytes]:
        report.write(run)
        return {path: path.read_bytes() for path in [*pages(run), run.folder / "summary.md", run.folder / "junit.xml"]}

    assert written() == written()


def test_pages_are_small(run: Run) -> None:
    report.write(run)
    assert (run.folder / "10_preflight.html").stat().st_size < 30_000
    assert (report.TEMPLATES / "page.css").stat().st_size < 20_000


def test_junit_is_xml_with_one_case_for_each_thing(run: Run) -> None:
    report.write(run)
    suites = ElementTree.parse(run.folder / "junit.xml").getroot()
    assert [suite.get("name") for suite in suites] == list(REHEARSAL)
    found = {kind: [case.get("name") for case in suites.iter("testcase") if case.find(kind) is not None]
             for kind in ("failure", "error", "skipped")}  # fmt: skip
    assert [name for name in found["failure"] if name and name.startswith("DC102 run <script>")]
    assert found["error"] == ["50_smoke_runs"]
    assert [str(name).split()[0] for name in found["skipped"]] == ["DB004:", "60_decision"]
    assert [suites.get(kind) for kind in ("failures", "errors", "skipped")] == ["1", "1", "2"]
    assert suites.get("tests") == str(len(list(suites.iter("testcase"))))


def test_summary_keeps_its_shape_whatever_the_names_are(run: Run) -> None:
    report.write(run)
    lines = (run.folder / "summary.md").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# ✗ NO-GO: ZenML upgrade 0.55.5 → 0.98.0"
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")} == {5}
    assert not [line for line in lines if "<" in line or re.search(r"(?<!\\)`", line)]
    assert "| Smoke runs | × error | 0 | 0.0 s |" in lines
    assert "| Decision | ? not carried out | – | – |" in lines
    assert [line for line in lines if line.startswith("- **✗ block** DC102")]


def test_one_step_can_be_told_alone() -> None:
    result = examples.preflight(Severity.BLOCK)
    assert report.markdown(result).startswith("## ✗ block: Preflight\n")
    assert ElementTree.fromstring(report.junit(result).encode()).get("failures") == "1"
    clean = StepResult(step="10_preflight", status=Status.PASS)
    assert report.markdown(clean) == "## ✓ pass: Preflight\n\nNo findings.\n"
    assert ElementTree.fromstring(report.junit(clean).encode()).get("failures") == "0"


# in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium.launched() as launched:
        yield launched


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_pages_read_well_in_chromium(run: Run, browser: Any, theme: str, width: int) -> None:
    report.write(run)
    context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 900})
    for path in pages(run):
        page, asked, said = context.new_page(), list[str](), list[str]()
        page.on("request", lambda request, asked=asked: asked.append(request.url))
        page.on("console", lambda message, said=said: said.append(message.text))
        page.goto(path.as_uri())
        assert asked == [path.as_uri()]
        assert said == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        text, ground = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        brightness = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (text, ground)]
        assert (brightness[0] < brightness[1]) == (theme == "light")
        assert abs(brightness[0] - brightness[1]) > 500
    context.close()
