"""Findings and facts as tables with a plain-text twin; the only module that knows pandas.

Every function takes a :class:`StepResult` (or rows) and returns a :class:`Shown`. Names, values and messages come from
stores that nobody vetted: all of them are escaped. Colours carry their own background, so that they read in light and
dark themes alike, and a glyph and a word always say the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from zenml_upgrade_kit import words
from zenml_upgrade_kit.findings import Severity, StepResult

MOST_ROWS = 500
"""A table longer than this says how many rows it leaves out; the step's JSON has all of them."""

MARKED = {"Status", "Outcome", "Severity", "Expected"}
"""Headings of columns that hold words of :func:`words.mark`."""

_CELLS = [
    ("", "border-collapse:collapse;font-size:90%;margin:0;border:0"),
    ("caption", "caption-side:top;text-align:left;font-weight:600;padding:.3em 0;white-space:nowrap"),
    ("th, td", "text-align:left;vertical-align:top;white-space:nowrap;overflow-wrap:anywhere"),
    ("th, td", "padding:.35em 1.2em .35em 0;border:0;max-width:60ch"),
    ("td", "border-top:1px solid rgba(128,128,128,.35)"),
]


@dataclass(frozen=True)
class Shown:
    """Something to display: HTML for a notebook, text that says the same for a terminal."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text

    def __add__(self, other: Shown) -> Shown:
        return Shown(f"{self.html}\n{other.html}", f"{self.text}\n\n{other.text}")


def table(
    rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], caption: str = "", empty: str = "Nothing to list."
) -> Shown:
    """Rows as a table; columns maps a row's key to its heading.

    Words in the columns :data:`MARKED` get glyph and colour, numbers are aligned right, missing values are a dash.
    """
    import pandas

    given = list(rows)
    if not given:
        return sentence(f"{caption}: {empty}" if caption else empty)
    listed, headings = given[:MOST_ROWS], list(columns.values())
    if len(given) > len(listed):
        caption = f"{caption} (the first {len(listed):,} of {len(given):,}; the JSON of this step has all)".strip()
    numbers = [columns[key] for key in columns if {_is_number(row.get(key)) for row in listed} - {None} == {True}]
    cells = [[_text_of(row.get(key)) for key in columns] for row in listed]
    marks = [heading for heading in headings if heading in MARKED]
    numbers += [heading for heading in headings if heading == "Time"]
    styles, long = [{"selector": selector, "props": props} for selector, props in _CELLS], []
    for number, (heading, *column) in enumerate(zip(headings, *cells, strict=True)):
        if heading in numbers:
            styles.append({"selector": f".col{number}", "props": "text-align:right"})
        elif len(max(column, key=len)) > 24:
            styles.append({"selector": f".col{number}", "props": "white-space:normal;min-width:11em"})
            long.append(heading)
    styler = pandas.DataFrame(cells, columns=headings, dtype=object).style.set_table_styles(styles)
    styler = styler.format(escape="html").format(_breakable, subset=long).format(_chip, subset=marks)
    styler = styler.format_index(escape="html", axis="columns")
    styler = styler.hide(axis="index").set_caption(escape(caption)).set_uuid(_stable_id(caption, headings, cells))
    label = escape(caption or ", ".join(headings), quote=True)
    html = f'<div style="overflow-x:auto;margin:.6em 0" role="region" tabindex="0" aria-label="{label}">'
    return Shown(f"{html}{styler.to_html()}</div>", _aligned(caption, headings, marks, numbers, cells))


def sentence(text: str) -> Shown:
    """One line of prose."""
    return Shown(f"<p>{escape(words.plain(text))}</p>", words.plain(text))


def folded(summary: str, content: Shown) -> Shown:
    """Content behind a line that opens it; the text twin shows the line only."""
    line = escape(words.plain(summary))
    return Shown(f"<details><summary>{line}</summary>{content.html}</details>", f"[{words.plain(summary)}]")


def log(lines: str | Sequence[str], summary: str = "The end of the log") -> Shown:
    """Log lines, folded, wrapped, without terminal colours."""
    text = words.plain(lines if isinstance(lines, str) else "\n".join(lines)).strip()
    if not text:
        return sentence("There is no log.")
    html = f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere;font-size:85%">{escape(text)}</pre>'
    return folded(f"{summary} ({words.count(text.count(chr(10)) + 1, 'line')})", Shown(html, text))


def pairs(values: Mapping[str, Any], caption: str = "") -> Shown:
    """Names and values, one a row; empty values are left out."""
    rows = [{"name": name, "value": value} for name, value in values.items() if value not in (None, "", [], {})]
    return table(rows, {"name": "What", "value": "Value"}, caption)


def banner(result: StepResult) -> Shown:
    """How the step ended, in one coloured line: status, findings, time."""
    word = result.facts.get("verdict") or result.status.value
    found = ", ".join(
        words.count(number, noun)
        for severity, noun in (
            (Severity.BLOCK, "blocking finding"),
            (Severity.WARN, "warning"),
            (Severity.INFO, "note"),
        )
        if (number := sum(finding.severity is severity for finding in result.findings))
    )
    details = [found or "no findings", words.duration(result.seconds), words.when(result.started)]
    if result.not_checked:
        details.insert(1, words.count(len(result.not_checked), "thing") + " not checked")
    name, line = words.title(result.step), " · ".join(details)
    edge = f"margin:.6em 0;padding:.6em .8em;border-left:.5em solid {words.COLOURS[words.tone(word)]}"
    return Shown(
        f'<p style="{edge};background:rgba(128,128,128,.12)">{_chip(word)} <b>{escape(name)}</b> {escape(line)}</p>',
        f"{words.mark(word)}  {name}: {line}",
    )


def findings(result: StepResult) -> Shown:
    """What the step found, worst first, and below it what it could not look at."""
    order = list(Severity)
    rows = [
        {**finding.to_json(), "subject": finding.subject or "–"}
        for finding in sorted(result.findings, key=lambda finding: order.index(finding.severity))
    ]
    columns = {
        "severity": "Severity",
        "id": "Id",
        "subject": "About",
        "message": "What was seen",
        "remedy": "What to do",
    }
    if any(finding.url for finding in result.findings):
        columns["url"] = "More"
    shown = table(rows, columns, f"Findings ({len(rows):,})") if rows else sentence("No findings.")
    missing = result.not_checked
    if missing:
        shown += _listed(f"? Not checked ({len(missing):,}): none of this counts as passed", missing)
    return shown


def inventory(result: StepResult) -> Shown:
    """What is in the store: the release that wrote it, its size, runs, pipelines, artifacts, stacks."""
    facts = result.facts
    held, store = facts.get("inventory") or {}, facts.get("store") or {}
    tables, runs = held.get("tables") or {}, held.get("runs_by_status") or {}
    summary = {
        "Store": store.get("path") or store.get("url"),
        "ZenML configuration": store.get("config_yaml"),
        "Written by": f"ZenML {facts.get('source_version')} (stamp {facts.get('stamp')})",
        "To be upgraded to": f"ZenML {facts.get('target_version')}",
        "Database size": words.size(held.get("database_bytes")),
        "SHA-256 of the database": facts.get("source_sha256"),
        "Runs": ", ".join(f"{number:,} {status}" for status, number in sorted(runs.items())) or "none",
        "Users": ", ".join(map(_text_of, held.get("users") or [])),
        "Schedules": len(held.get("schedules") or []),
        "ZenML versions recorded": [f"{release} ({n})" for release, n in (held.get("zenml_versions") or {}).items()],
        "Python versions recorded": [f"{python} ({n})" for python, n in (held.get("python_versions") or {}).items()],
        "Libraries recorded": held.get("libraries"),
    }
    pipelines = table(
        [{**pipeline, "last_run": _time(pipeline.get("last_run"))} for pipeline in held.get("pipelines") or []],
        {"name": "Pipeline", "runs": "Runs", "last_run": "Last run", "last_status": "Status"},
        "Pipelines",
        empty="none",
    )
    artifacts_by_type = table(
        [{**row, "materializer": _class_name(row.get("materializer"))} for row in held.get("artifacts_by_type") or []],
        {"type": "Type", "materializer": "Materializer", "count": "Artifact versions"},
        "Artifact versions by type",
        empty="none",
    )
    stacks = table(
        [
            {**stack, "components": [f"{part['type']}: {part['flavor']}" for part in stack.get("components") or []]}
            for stack in held.get("stacks") or []
        ],
        {"name": "Stack", "components": "Components"},
        "Stacks",
        empty="none",
    )
    rows = [{"table": name, "rows": number} for name, number in sorted(tables.items())]
    every = table(rows, {"table": "Table", "rows": "Rows"})
    counted = f"All {words.count(len(tables), 'table')}, {words.count(sum(tables.values()), 'row')}"
    return pairs(summary, "The store") + pipelines + artifacts_by_type + stacks + folded(counted, every)


def checks(result: StepResult) -> Shown:
    """Every check of the catalogue that was considered; those that found nothing are folded."""
    rows = sorted(result.facts.get("checks") or [], key=lambda check: str(check.get("id")))
    rows = [
        {**check, "outcome": check["severity"] if check.get("outcome") == "found" else check.get("outcome")}
        for check in rows
    ]
    columns = {"outcome": "Outcome", "id": "Id", "title": "Check", "reason": "Why"}
    return _interesting_first(rows, columns, "Checks", quiet={"passed", "not_applicable"}, what="check")


def environments(result: StepResult) -> Shown:
    """The two isolated environments, and what was chosen for them and why."""
    shown, made = sentence("Two isolated environments stand in for the old and the new installation."), False
    for side, found in (result.facts.get("environments") or {}).items():
        if not found:
            continue
        made, packages = True, found.get("packages") or {}
        values = {key: found.get(key) for key in ("version", "python_version", "python", "origin")}
        names = {"version": "ZenML", "python_version": "Python", "python": "Interpreter", "origin": "How it was made"}
        shown += pairs({names[key]: value for key, value in values.items()}, f"{side.capitalize()} environment")
        if found.get("notes"):
            shown += _listed("Chosen, and why", found["notes"])
        versions = [{"name": name, "version": version} for name, version in sorted(packages.items())]
        installed = table(versions, {"name": "Package", "version": "Version"})
        shown += folded(words.count(len(packages), "package"), installed)
    return shown if made else sentence("No environment was made: the store may not be upgraded as it is.")


def backup(result: StepResult) -> Shown:
    """What was copied where, and how the copy was proven to be whole."""
    held = result.facts
    manifest = held.get("manifest") or {}
    files = [manifest[key] for key in ("database", "config_yaml") if manifest.get(key)]
    files = [{**file, "bytes": words.size(file.get("bytes"))} for file in files]
    columns = {"file": "File", "bytes": "Size", "sha256": "SHA-256", "restore_to": "Goes back to"}
    summary = {
        "Folder": held.get("folder"),
        "Release stamp": manifest.get("stamp"),
        "Begun": _time(manifest.get("started")),
        "Finished": _time(manifest.get("finished")),
        **{_heading(key): value for key, value in (held.get("verified") or {}).items()},
    }
    shown = pairs(summary, "The backup") + table(files, columns, "Files", empty="none")
    return shown + _listed("Not part of this backup", held["not_included"]) if held.get("not_included") else shown


def migration(result: StepResult) -> Shown:
    """What the target release made of the copy: revisions, time, rows of each table before and after."""
    facts = result.facts
    rows = [{**row, "change": _change(row.get("before"), row.get("after"))} for row in facts.get("tables") or [] if row]
    columns = {"table": "Table", "before": "Rows before", "after": "Rows after", "change": "Change", "note": "Note"}
    changed = [row for row in rows if row["before"] != row["after"] or row.get("note")]
    same = [row for row in rows if row not in changed]
    summary = {
        "Copy": facts.get("copy"),
        "Revision before": facts.get("revision_before"),
        "Revision after": facts.get("revision_after"),
        "Time of the migration": words.duration(facts.get("seconds")),
        "Source unchanged": facts.get("source_unchanged"),
    }
    shown = pairs(summary, "The rehearsed migration")
    shown += table(changed, columns, "Tables whose rows changed", empty="none")
    if same:
        listing = table(same, {"table": "Table", "after": "Rows"})
        shown += folded(f"{words.count(len(same), 'table')} with as many rows as before", listing)
    return shown + log(facts.get("log_tail") or "")


def artifacts(result: StepResult) -> Shown:
    """Every artifact version: does it load in the target release, and is it the same value."""
    rows = [
        {
            **row,
            "data_type": _class_name(row.get("data_type")),
            "in_old": _loaded(row.get("old")),
            "in_new": _loaded(row.get("new")),
        }
        for row in result.facts.get("artifacts") or []
    ]
    columns = {
        "outcome": "Outcome",
        "name": "Artifact",
        "version": "Version",
        "data_type": "Type",
        "in_old": "In the old release",
        "in_new": "In the target release",
    }
    counts = result.facts.get("counts") or {}
    line = ", ".join(f"{number:,} {words.mark(word)}" for word, number in counts.items() if number)
    shown = sentence(f"{words.count(len(rows), 'artifact version')}: {line or 'none'}.")
    return shown + _interesting_first(rows, columns, "Artifacts", quiet={"same", "loads"}, what="artifact version")


def smoke_runs(result: StepResult) -> Shown:
    """Every pipeline that was run under the target release, beside its latest run in the store."""
    runs = result.facts.get("runs") or []
    if not runs:
        return sentence("No pipeline was run: the plan names none.")
    rows = [{**run, "seconds": words.duration(run.get("seconds"))} for run in runs]
    columns = {"outcome": "Outcome", "name": "Run", "status": "Status", "expected": "Expected", "seconds": "Time"}
    shown = table(rows, columns, "Runs under the target release")
    for run in runs:
        steps = table(
            run.get("steps") or [], {"name": "Step", "status": "Status", "expected": "Expected"}, "Steps", empty="none"
        )
        outputs = table(
            [
                {**row, "old": _loaded(row.get("old")), "new": _loaded(row.get("new"))}
                for row in run.get("outputs") or []
            ],
            {"outcome": "Outcome", "step": "Step", "output": "Output", "old": "Latest run", "new": "Under the target"},
            "Outputs",
            empty="none",
        )
        content = steps + outputs + log(run.get("log_tail") or "")
        if run.get("error"):
            content = sentence(f"Error: {run['error']}") + content
        shown += folded(f"{words.mark(str(run.get('outcome')))} · {run.get('name')}: steps, outputs and log", content)
    return shown


def decision(result: StepResult) -> Shown:
    """The verdict with its reasons, and what each step contributed."""
    facts = result.facts
    shown = (
        _listed("Reasons", facts.get("reasons") or [])
        if facts.get("reasons")
        else sentence("Nothing speaks against it.")
    )
    rows = [
        {**row, "step": words.title(str(row.get("step"))), "seconds": words.duration(row.get("seconds"))}
        for row in facts.get("steps") or []
    ]
    columns = {"status": "Status", "step": "Step", "findings": "Findings", "seconds": "Time"}
    return shown + table(rows, columns, "Steps of this run")


def facts(result: StepResult, caption: str = "What was done") -> Shown:
    """All of a step's facts, for steps without tables of their own: values in a table, lists below it."""
    values = {_heading(key): value for key, value in result.facts.items() if key != "not_checked"}
    lists = {heading: value for heading, value in values.items() if value and isinstance(value, (list, tuple))}
    shown = pairs({heading: value for heading, value in values.items() if heading not in lists}, caption)
    for heading, lines in lists.items():
        shown += _listed(heading, [_text_of(line) for line in lines])
    return shown


def _interesting_first(
    rows: list[dict[str, Any]], columns: Mapping[str, str], caption: str, *, quiet: set[str], what: str
) -> Shown:
    """Rows that need a look in the open, the quiet ones folded with their count."""
    loud = [row for row in rows if row.get("outcome") not in quiet]
    shown = table(loud, columns, f"{caption} that need a look ({len(loud):,})", empty="none")
    for word in sorted(quiet, reverse=True):
        rest = [row for row in rows if row.get("outcome") == word]
        if rest:
            shown += folded(f"{words.mark(word)}: {words.count(len(rest), what)}", table(rest, columns))
    return shown


def _listed(heading: str, lines: Sequence[Any], most: int = 20) -> Shown:
    """A list of sentences; a long one is folded after its beginning."""
    items = [words.plain(line) for line in lines]
    html = "".join(f"<li>{escape(item)}</li>" for item in items[:most])
    title = f"<p><b>{escape(heading)}</b></p>" if heading else ""
    shown = Shown(f'{title}<ul style="overflow-wrap:anywhere">{html}</ul>', "\n  - ".join([heading, *items[:most]]))
    return (
        shown + folded(f"{len(items) - most:,} more", _listed("", items[most:], len(items))) if items[most:] else shown
    )


def _is_number(value: Any) -> bool | None:
    """None for a missing value, which fits both kinds of column."""
    return None if value is None else isinstance(value, (int, float)) and not isinstance(value, bool)


def _breakable(text: str) -> str:
    """Escaped text that may go on in the next line after the dots of a dotted name."""
    return re.sub(r"(?<=[A-Za-z_])\.(?=[A-Za-z_])", ".<wbr>", escape(text))


def _chip(word: str) -> str:
    """A status as white text on its own background, readable in light and dark themes."""
    colour = f"background:{words.COLOURS[words.tone(word)]};color:#fff"
    style = f"{colour};padding:.1em .5em;border-radius:.3em;white-space:nowrap"
    return word if word == "–" else f'<b style="{style}">{escape(words.mark(word))}</b>'


def _text_of(value: Any) -> str:
    """Any JSON value as one readable piece of text."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{words.plain(key)} {_text_of(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_text_of, value))
    return words.plain(value)


def _heading(key: str) -> str:
    return key.replace("_", " ").capitalize().replace("sha256", "SHA-256").replace("Sha256", "SHA-256")


def _class_name(value: Any) -> str:
    """``pandas.core.frame.DataFrame`` of a ZenML source, given as a mapping or a dotted name."""
    if isinstance(value, Mapping):
        return ".".join(str(value[key]) for key in ("module", "attribute") if value.get(key))
    return _text_of(value)


def _loaded(side: Any) -> str:
    """What became of one value: its summary, or the first line of its error."""
    if not isinstance(side, Mapping):
        return _text_of(side)
    text = words.plain(side.get("summary") if side.get("ok") else side.get("error") or "").strip()
    first = text.partition("\n")[0]
    return (first[:299] + "…" if len(first) > 300 else first) or "–"


def _change(before: Any, after: Any) -> str:
    if not (_is_number(before) and _is_number(after)):
        return "new" if before is None else "gone"
    return f"{after - before:+,}" if after != before else "–"


def _time(moment: Any) -> str:
    return words.when(moment) if moment else "–"


def _stable_id(*content: Any) -> str:
    return hashlib.blake2b(repr(content).encode("utf-8", "replace"), digest_size=5).hexdigest()


def _aligned(
    caption: str, headings: Sequence[str], marks: Sequence[str], numbers: Sequence[str], cells: Sequence[Sequence[str]]
) -> str:
    """The same table for a terminal: padded columns, long cells left long."""
    rows = [
        [
            words.mark(cell) if heading in marks and cell != "–" else cell.replace("\n", " ")
            for heading, cell in zip(headings, row, strict=True)
        ]
        for row in cells
    ]
    widths = [min(40, max(map(len, column))) for column in zip(headings, *rows, strict=True)]
    sides = [">" if heading in numbers else "<" for heading in headings]
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip()
        for line in [headings, *rows]
    ]
    return "\n".join([caption, *lines] if caption else lines)
