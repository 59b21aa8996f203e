"""Executed notebooks to self-contained HTML, and the index, summary and JUnit file of a run.

No page holds a script or loads anything; all text is scrubbed of the run's secrets, and escaped. The same results give
the same pages: they carry no time of their own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import words
from zenml_upgrade_kit.errors import RunUnusable
from zenml_upgrade_kit.findings import Severity, Status, StepResult, Verdict
from zenml_upgrade_kit.runs import REHEARSAL, Run, write_whole

TEMPLATES = Path(__file__).parent / "templates"
MOST_IN_SUMMARY = 20
MOST_REASONS = 10
_ACTIVE = re.compile(
    r"(?i)<(script|iframe|object|embed|link|meta|base|form|style[^>]*>[^<]*(@import|url\())"
    r"|<[^>]*\b(on[a-z]+\s*=|(src|srcset|poster|background)\s*=\s*(?![\s\"']*data:))"
)
"""Parts of HTML that run or load something."""
_STILL = {"text/plain", "text/html", "text/markdown", "image/png"}
"""Kinds of output that pages show."""

_EXPLANATIONS = {
    "GO": "The rehearsal found nothing that speaks against the upgrade.",
    "GO_WITH_WARNINGS": "The upgrade works on a copy; somebody should read the warnings first.",
    "NO_GO": "Do not upgrade this store as it is.",
    "unfinished": "This run is not finished: there is no verdict.",
    "pass": "There is a complete backup, and it was compared with the store.",
    "warn": "There is a complete backup; somebody should read the warnings.",
    "not_checked": "There is a complete backup; not all of it could be checked.",
    "block": "There is no backup that can be trusted.",
    "error": "The backup could not be made.",
}


def write(run: Run) -> Path:
    """Write a page for each executed notebook, ``index.html``, ``summary.md``, ``junit.xml`` and the list of all runs.

    Works for a run that is unfinished or partly damaged too. Returns the path of ``index.html``.
    """
    results = list(_results(run))
    _write_notebooks(run, results)
    story = run.redactor.json(_story(run, results))
    index = run.folder / "index.html"
    _save(run, run.folder / "summary.md", _render("run.md.j2", story))
    _save(run, run.folder / "junit.xml", _render("junit.xml.j2", story))
    _save(run, index, _render("run.html.j2", story))
    _save(run, run.folder.parent / "index.html", _render("runs.html.j2", {"runs": list(_all_runs(run.folder.parent))}))
    return index


def junit(result: StepResult) -> str:
    """One step as JUnit XML: a test case for the step, each check, finding and thing not checked."""
    return _render("junit.xml.j2", {"title": "zenml-upgrade", "steps": [_step(result.step, result)]})


def markdown(result: StepResult) -> str:
    """One step for a chat or a pull request."""
    return _render("step.md.j2", {"step": _step(result.step, result), **_found([result])})


def _save(run: Run, path: Path, text: str) -> None:
    write_whole(path, run.redactor.text(text))


def _render(template: str, context: Mapping[str, Any]) -> str:
    """A template with values as they are in JSON: templates say how a value is told, and every text is made plain."""
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=lambda name: not (name or "").endswith(".md.j2"),
        finalize=lambda value: value if isinstance(value, Markup) else "–" if value is None else words.plain(value),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    said = (words.mark, words.tone, words.title, words.count, words.duration, words.when, _md)
    environment.filters |= {function.__name__.strip("_"): function for function in said}
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    page = environment.get_template(template).render(css=style, colours=words.COLOURS, most=MOST_IN_SUMMARY, **context)
    return page.rstrip() + "\n"


def _md(value: Any) -> str:
    """Text that markdown shows as it is: on one line, nothing in it is markup."""
    text = re.sub(r"\s+", " ", words.plain(value)).strip()
    return re.sub(r"([\\`*_{}\[\]|~#$])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# what the templates tell


def _story(run: Run, results: list[StepResult]) -> dict[str, Any]:
    """A whole run for ``run.html.j2``, ``run.md.j2`` and ``junit.xml.j2``."""
    verdict, reasons = _verdict(run)
    done = {result.step: result for result in results}
    wanted = REHEARSAL if run.target_version else ()
    steps = [_step(name, done.get(name)) for name in sorted({*wanted, *done})]
    files = [path for one in ("*.json", "results/*.json", "notebooks/*.ipynb") for path in sorted(run.folder.glob(one))]
    return {
        "title": _upgrade(run),
        "verdict": verdict,
        "explanation": _EXPLANATIONS[verdict],
        "rehearsed": bool(run.target_version),
        "reasons": reasons,
        "started": results[0].started if results else run.folder.name.partition("-")[0],
        "seconds": sum(result.seconds for result in results),
        "steps": [{**step, "page": (run.folder / f"{step['name']}.html").exists()} for step in steps],
        **_found(_told(results)),
        "files": ["summary.md", "junit.xml", *(path.relative_to(run.folder).as_posix() for path in files)],
    }


def _told(results: Iterable[StepResult]) -> list[StepResult]:
    """The results without the decision's, which says again what the other steps found; its reasons are on top."""
    return [result for result in results if result.step != REHEARSAL[-1]]


def _step(name: str, result: StepResult | None) -> dict[str, Any]:
    """One row for a step, and its test cases."""
    return {
        "name": name,
        "word": _word(result),
        "findings": len(result.findings) if result else None,
        "missing": len(result.not_checked) if result else None,
        "started": result.started if result else "",
        "seconds": result.seconds if result else None,
        "cases": list(_cases(name, result)),
    }


def _found(results: Iterable[StepResult]) -> dict[str, list[dict[str, Any]]]:
    """Findings, worst first, what was not checked, and what could not be carried out, each with its step."""
    found: dict[str, list[dict[str, Any]]] = {"findings": [], "missing": [], "errors": []}
    for result in results:
        found["findings"] += [{**finding.to_json(), "step": result.step} for finding in result.findings]
        found["missing"] += [{"step": result.step, "text": line} for line in result.not_checked]
        if result.status is Status.ERROR:
            found["errors"].append({"step": result.step, "text": result.facts.get("error", "")})
    found["findings"].sort(key=lambda finding: [severity.value for severity in Severity].index(finding["severity"]))
    return found


def _cases(step: str, result: StepResult | None) -> Iterator[dict[str, str]]:
    """A test case for the step, each check, finding and thing not checked; kind is the element inside it."""
    if result is None:
        yield {"name": step, "kind": "skipped", "text": "not carried out"}
        return
    kind = "error" if result.status is Status.ERROR else ""
    yield {"name": step, "kind": kind, "text": result.facts.get("error", "")}
    for check in result.facts.get("checks") or ():
        if check["outcome"] == "passed":
            yield {"name": f"{check['id']} {check['title']}", "kind": "", "text": ""}
    for finding in result.findings:
        kind = "failure" if finding.severity is Severity.BLOCK else "system-out"
        start = "" if kind == "failure" else f"{finding.severity.value}: "
        text = "\n".join(filter(None, [start + finding.message, finding.remedy, finding.url]))
        yield {"name": f"{finding.id} {finding.subject}", "kind": kind, "text": text}
    for line in result.not_checked if step != REHEARSAL[-1] else ():
        yield {"name": line, "kind": "skipped", "text": "not checked"}


def _results(run: Run) -> Iterator[StepResult]:
    """The results in order; a damaged one becomes an error of its step."""
    for path in sorted((run.folder / "results").glob("*.json")):
        try:
            result = run.result(path.stem)
        except RunUnusable as error:
            result = StepResult(step=path.stem, status=Status.ERROR, facts={"error": str(error)})
        if result:
            yield result


def _word(result: StepResult | None) -> str:
    """What a step is marked with: the decision with its verdict, every other step with its status."""
    return str(result.facts.get("verdict") or result.status.value) if result else "not carried out"


def _verdict(run: Run) -> tuple[str, list[str]]:
    """``verdict.json`` as word and reasons; the word is ``unfinished`` while there is none.

    A run that is a backup alone has its status instead.
    """
    if not run.target_version:
        return next((result.status.value for result in _results(run) if result.step == "20_backup"), "unfinished"), []
    try:
        value = json.loads((run.folder / "verdict.json").read_text(encoding="utf-8"))
        reasons = list(value.get("reasons", ()))
        more = [f"… and {words.count(len(reasons) - MOST_REASONS, 'more reason')}"] if reasons[MOST_REASONS:] else []
        return Verdict(value["verdict"]).value, reasons[:MOST_REASONS] + more
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "unfinished", []


def _upgrade(run: Run) -> str:
    if not run.target_version:
        return f"ZenML backup {run.source_version}"
    return f"ZenML upgrade {run.source_version} → {run.target_version}"


def _all_runs(folder: Path) -> Iterator[dict[str, Any]]:
    """One row for each run in a folder of runs, newest first; damaged ones keep their name."""
    for path in sorted(folder.glob("*/plan.json"), reverse=True):
        name = path.parent.name
        page = f"{name}/index.html" if (path.parent / "index.html").exists() else ""
        row = {"name": name, "page": page, "started": name.partition("-")[0]}
        try:
            run = Run.open(path.parent)
            yield {**row, "source": run.source_version, "target": run.target_version, "word": _verdict(run)[0]}
        except RunUnusable:
            yield {**row, "source": None, "target": None, "word": "damaged"}


# executed notebooks


def _write_notebooks(run: Run, results: list[StepResult]) -> None:
    """``<run>/NN_step.html`` for every ``<run>/notebooks/NN_step.ipynb``."""
    paths = sorted((run.folder / "notebooks").glob("*.ipynb"))
    if not paths:
        return
    import nbformat
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        template_name="executed", extra_template_basedirs=[str(TEMPLATES)], exclude_anchor_links=True
    )
    exporter.register_preprocessor(  # type: ignore[no-untyped-call]
        "nbconvert.preprocessors.CoalesceStreamsPreprocessor", enabled=True
    )
    done = {result.step: result for result in results}
    head = _render("head.html.j2", {})
    for path in paths:
        try:
            scrubbed = json.dumps(run.redactor.json(json.loads(path.read_text(encoding="utf-8"))))
            notebook = nbformat.reads(scrubbed, as_version=4)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, AttributeError):
            continue  # a notebook that was being written when the run was killed
        result = done.get(path.stem)
        word = _word(result) if result else "unfinished"
        blocking = _told(results) if path.stem == REHEARSAL[-1] else [result] if result else []
        kit = {
            "head": head,
            "stopped": _render("stopped.html.j2", run.redactor.json(_found(blocking))),
            "title": f"{words.title(path.stem)}: {_upgrade(run)}",
            "upgrade": _upgrade(run),
            "mark": words.mark(word),
            "tone": words.tone(word),
            "steps": [
                {"title": words.title(other.stem), "page": f"{other.stem}.html", "here": other == path}
                for other in paths
            ],
        }
        html, _ = exporter.from_notebook_node(_still(notebook), resources={"kit": kit})
        _save(run, path.parent.parent / f"{path.stem}.html", html)


def _still(notebook: Any) -> Any:
    """The notebook without widgets; HTML with active parts gives way to its text twin, or is shown as text."""
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and _ACTIVE.search(cell.source):
            cell.source = cell.source.replace("<", "&lt;")
        if cell.cell_type == "code":
            for output in cell.outputs:
                data = output.get("data", {})
                dead = "application/vnd.jupyter.widget-view+json" in data
                for kind in [*data]:
                    if dead or kind not in _STILL or (kind != "text/plain" and _ACTIVE.search(data[kind])):
                        del data[kind]
            cell.outputs = [output for output in cell.outputs if output.get("data") != {}]
    return notebook
