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
from xml.etree import ElementTree

from zenml_upgrade_kit import words
from zenml_upgrade_kit.errors import RunUnusable
from zenml_upgrade_kit.findings import Finding, Severity, Status, StepResult, Verdict
from zenml_upgrade_kit.runs import REHEARSAL, Run, write_whole

TEMPLATES = Path(__file__).parent / "templates"
MOST_IN_SUMMARY = 20
MOST_REASONS = 10
_ACTIVE = re.compile(
    r"(?i)<(script|iframe|object|embed|link|meta|base|form|style[^>]*>[^<]*(@import|url\())"
    r"|<[^>]*\b(on[a-z]+\s*=|(src|srcset|poster|background)\s*=\s*(?![\s\"']*data:))"
)
"""Parts of HTML that run or load something."""

_EXPLANATIONS = {
    "GO": "The rehearsal found nothing that speaks against the upgrade.",
    "GO_WITH_WARNINGS": "The upgrade works on a copy; somebody should read the warnings first.",
    "NO_GO": "Do not upgrade this store as it is.",
    "unfinished": "This run is not finished: there is no verdict.",
}


def write(run: Run) -> Path:
    """Write a page for each executed notebook, ``index.html``, ``summary.md``, ``junit.xml`` and the list of all runs.

    Works for a run that is unfinished or partly damaged too. Returns the path of ``index.html``.
    """
    results = list(_results(run))
    _write_notebooks(run, results)
    _save(run, run.folder / "summary.md", _run_markdown(run, results))
    _save(
        run,
        run.folder / "junit.xml",
        _xml(f"ZenML {run.source_version} to {run.target_version}", _steps(results)),
    )
    index = run.folder / "index.html"
    _save(run, index, _render("run.html.j2", run.redactor.json(_run_page(run, results))))
    _save(run, run.folder.parent / "index.html", _render("runs.html.j2", {"runs": list(_all_runs(run.folder.parent))}))
    return index


def junit(result: StepResult) -> str:
    """One step as JUnit XML: a test case for the step, each check, finding and thing not checked."""
    return _xml("zenml-upgrade", {result.step: result})


def markdown(result: StepResult) -> str:
    """One step for a chat or a pull request."""
    heading = f"## {words.mark(_word(result))}: {_md(words.title(result.step))}"
    return "\n".join([heading, "", *_findings_markdown([result])]) + "\n"


def _save(run: Run, path: Path, text: str) -> None:
    write_whole(path, run.redactor.text(text))


def _results(run: Run) -> Iterator[StepResult]:
    """The results in order; a damaged one becomes an error of its step."""
    for path in sorted((run.folder / "results").glob("*.json")):
        try:
            result = run.result(path.stem)
        except RunUnusable as error:
            result = StepResult(step=path.stem, status=Status.ERROR, facts={"error": str(error)})
        if result:
            yield result


def _steps(results: Iterable[StepResult]) -> dict[str, StepResult | None]:
    """Every step of a rehearsal and every other one that left a result, in order; None where there is no result."""
    done = {result.step: result for result in results}
    return {step: done.get(step) for step in sorted({*REHEARSAL, *done})}


def _word(result: StepResult | None) -> str:
    """What a step is marked with: the decision with its verdict, every other step with its status."""
    return str(result.facts.get("verdict") or result.status.value) if result else "not carried out"


def _told(results: Iterable[StepResult]) -> list[StepResult]:
    """The results without the decision's, which says again what the other steps found; its reasons are on top."""
    return [result for result in results if result.step != REHEARSAL[-1]]


def _verdict(run: Run) -> tuple[str, list[str]]:
    """``verdict.json`` as word and reasons; the word is ``unfinished`` while there is none."""
    try:
        value = json.loads((run.folder / "verdict.json").read_text(encoding="utf-8"))
        reasons = [words.plain(reason) for reason in value.get("reasons", ())]
        more = [f"… and {words.count(len(reasons) - MOST_REASONS, 'more reason')}"] if reasons[MOST_REASONS:] else []
        return Verdict(value["verdict"]).value, reasons[:MOST_REASONS] + more
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "unfinished", []


def _upgrade(run: Run) -> str:
    return f"ZenML upgrade {run.source_version} → {run.target_version}"


# pages


def _render(template: str, context: Mapping[str, Any]) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    style = Markup((TEMPLATES / "page.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(css=style, colours=words.COLOURS, **context)


def _run_page(run: Run, results: list[StepResult]) -> dict[str, Any]:
    """What ``run.html.j2`` shows."""
    verdict, reasons = _verdict(run)
    found = [(result, finding) for result in _told(results) for finding in result.findings]
    groups = [(severity, [pair for pair in found if pair[1].severity is severity]) for severity in Severity]
    return {
        "upgrade": _upgrade(run),
        "verdict_mark": words.mark(verdict),
        "verdict_tone": words.tone(verdict),
        "explanation": _EXPLANATIONS[verdict],
        "reasons": reasons,
        "started": words.when(results[0].started) if results else words.when(run.folder.name.partition("-")[0]),
        "seconds": words.duration(sum(result.seconds for result in results)),
        "steps": [_step_row(run, step, result) for step, result in _steps(results).items()],
        "errors": [
            {"step": words.title(result.step), "text": words.plain(result.facts["error"])}
            for result in results
            if result.facts.get("error")
        ],
        "groups": [
            {
                "mark": words.mark(severity.value),
                "tone": words.tone(severity.value),
                "count": words.count(len(pairs), "finding"),
                "findings": [{**_plain(finding), "step": words.title(result.step)} for result, finding in pairs],
            }
            for severity, pairs in groups
            if pairs
        ],
        "missing": [
            f"{words.title(result.step)}: {words.plain(line)}"
            for result in _told(results)
            for line in result.not_checked
        ],
        "files": [
            path.relative_to(run.folder).as_posix()
            for pattern in (
                "summary.md",
                "junit.xml",
                "verdict.json",
                "plan.json",
                "results/*.json",
                "notebooks/*.ipynb",
            )
            for path in sorted(run.folder.glob(pattern))
        ],
    }


def _plain(finding: Finding) -> dict[str, str]:
    values = {"subject": finding.subject, "message": finding.message, "remedy": finding.remedy, "url": finding.url}
    return {"id": finding.id, **{key: words.plain(value) for key, value in values.items()}}


def _step_row(run: Run, step: str, result: StepResult | None) -> dict[str, Any]:
    page = f"{step}.html"
    return {
        "title": words.title(step),
        "page": page if (run.folder / page).exists() else "",
        **_marked(_word(result)),
        "findings": len(result.findings) if result else "–",
        "missing": len(result.not_checked) if result else "–",
        "seconds": words.duration(result.seconds) if result else "–",
    }


def _all_runs(folder: Path) -> Iterator[dict[str, str]]:
    """One row for each run in a folder of runs, newest first; damaged ones keep their name."""
    for path in sorted(folder.glob("*/plan.json"), reverse=True):
        name = path.parent.name
        row = {"name": name, "page": f"{name}/index.html", "started": words.when(name.partition("-")[0])}
        if not (path.parent / "index.html").exists():
            row["page"] = ""
        try:
            run = Run.open(path.parent)
            word = _verdict(run)[0]
            yield {**row, "source": run.source_version, "target": run.target_version, **_marked(word)}
        except RunUnusable:
            yield {**row, "source": "–", "target": "–", "mark": "× damaged", "tone": "broken"}


def _marked(word: str) -> dict[str, str]:
    return {"mark": words.mark(word), "tone": words.tone(word)}


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
    by_step = {result.step: _word(result) for result in results}
    head = _render("head.html.j2", {})
    for path in paths:
        try:
            scrubbed = json.dumps(run.redactor.json(json.loads(path.read_text(encoding="utf-8"))))
            notebook = nbformat.reads(scrubbed, as_version=4)  # type: ignore[no-untyped-call]
        except (OSError, ValueError, AttributeError):
            continue  # a notebook that was being written when the run was killed
        word = by_step.get(path.stem, "unfinished")
        kit = {
            "head": head,
            "title": f"{words.title(path.stem)}: {_upgrade(run)}",
            "upgrade": _upgrade(run),
            **_marked(word),
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
            cell.outputs = [output for output in cell.outputs if not _is_widget(output)]
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            for kind in ("text/html", "text/markdown", "image/svg+xml", "application/javascript"):
                if kind == "application/javascript" or _ACTIVE.search(data.get(kind, "")):
                    data.pop(kind, None)
    return notebook


def _is_widget(output: Mapping[str, Any]) -> bool:
    return "application/vnd.jupyter.widget-view+json" in output.get("data", {})


# summary.md


def _run_markdown(run: Run, results: list[StepResult]) -> str:
    verdict, reasons = _verdict(run)
    lines = [f"# {words.mark(verdict)}: {_md(_upgrade(run))}", "", _EXPLANATIONS[verdict], ""]
    lines += [*(f"- {_md(reason)}" for reason in reasons), *([""] if reasons else [])]
    lines += ["| Step | Status | Findings | Time |", "|---|---|--:|--:|"]
    for step, result in _steps(results).items():
        row = _step_row(run, step, result)
        lines.append(f"| {_md(row['title'])} | {row['mark']} | {row['findings']} | {row['seconds']} |")
    errors = [
        f"- **{words.mark('error')}** {_md(words.title(result.step))}: {_md(result.facts['error'])}"
        for result in results
        if result.facts.get("error")
    ]
    return "\n".join([*lines, "", *errors, *([""] if errors else []), *_findings_markdown(_told(results))]) + "\n"


def _findings_markdown(results: Iterable[StepResult]) -> list[str]:
    """The worst findings, and how many things were not checked."""
    order = list(Severity)
    results = list(results)
    found = sorted(
        (f for result in results for f in result.findings), key=lambda finding: order.index(finding.severity)
    )
    lines = []
    for finding in found[:MOST_IN_SUMMARY]:
        remedy = f" *{_md(finding.remedy)}*" if finding.remedy else ""
        start = f"- **{words.mark(finding.severity.value)}** {_md(finding.id)} {_md(finding.subject)}:"
        lines.append(f"{start} {_md(finding.message)}{remedy}")
    if len(found) > MOST_IN_SUMMARY:
        lines.append(f"- … and {words.count(len(found) - MOST_IN_SUMMARY, 'more finding')}")
    missing = [line for result in results for line in result.not_checked]
    lines += [f"- **{words.mark('not_checked')}** {_md(line)}" for line in missing[:MOST_IN_SUMMARY]]
    if len(missing) > MOST_IN_SUMMARY:
        lines.append(f"- … and {words.count(len(missing) - MOST_IN_SUMMARY, 'thing')} more not checked")
    return lines or ["No findings."]


def _md(value: Any) -> str:
    """Text that markdown shows as it is: on one line, nothing in it is markup."""
    text = re.sub(r"\s+", " ", words.plain(value)).strip()
    return re.sub(r"([\\`*_{}\[\]|~#$])", r"\\\1", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


# junit.xml


def _xml(name: str, steps: Mapping[str, StepResult | None]) -> str:
    root = ElementTree.Element("testsuites", name=words.plain(name))
    for step, result in steps.items():
        if result is None:
            suite = ElementTree.SubElement(root, "testsuite", name=step, time="0.000")
            _inside(_case(suite, step, step), "skipped", "not carried out")
            continue
        suite = ElementTree.SubElement(root, "testsuite", name=step, time=f"{result.seconds:.3f}")
        if result.started:
            suite.set("timestamp", result.started)
        case = _case(suite, step, step, result.seconds)
        if result.status is Status.ERROR:
            _inside(case, "error", result.facts.get("error", "the step could not be carried out"))
        for check in result.facts.get("checks") or ():
            if check.get("outcome") == "passed":
                _case(suite, step, f"{check['id']} {check['title']}")
        for finding in result.findings:
            case = _case(suite, step, f"{finding.id} {finding.subject}")
            text = "\n".join(filter(None, [finding.message, finding.remedy, finding.url]))
            _inside(
                case,
                "failure" if finding.severity is Severity.BLOCK else "system-out",
                text,
                kind=finding.severity.value,
            )
        for line in result.not_checked if step != REHEARSAL[-1] else ():
            _inside(_case(suite, step, line), "skipped", "not checked")
    for element in [*root, root]:
        for attribute, tag in {
            "tests": "testcase",
            "failures": "failure",
            "errors": "error",
            "skipped": "skipped",
        }.items():
            element.set(attribute, str(len(list(element.iter(tag)))))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _case(suite: ElementTree.Element, step: str, name: str, seconds: float = 0) -> ElementTree.Element:
    return ElementTree.SubElement(
        suite, "testcase", classname=f"zenml_upgrade.{step}", name=words.plain(name), time=f"{seconds:.3f}"
    )


def _inside(case: ElementTree.Element, tag: str, text: Any, kind: str = "") -> None:
    """A failure, error, skip or note inside a test case."""
    element = ElementTree.SubElement(case, tag)
    element.text = f"{kind}: {words.plain(text)}" if tag == "system-out" else words.plain(text)
    if tag != "system-out":
        element.set("message", words.plain(text).partition("\n")[0])
