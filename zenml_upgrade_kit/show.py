"""Findings and facts as tables with a plain-text twin; the only module that knows pandas.

Every view takes a :class:`StepResult` and returns a :class:`Shown`. Names, values and messages come from stores that
nobody vetted: all of them are escaped. Colours carry their own background, so that they read in light and dark themes
alike, and a glyph and a word always say the same.
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

_STYLES = [
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
        return Shown(self.html + other.html, "\n\n".join(filter(None, [self.text, other.text])))


def table(rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str], caption: str = "") -> Shown:
    """Rows as a table; columns maps a row's key to its heading.

    Words in the columns :data:`MARKED` get glyph and colour, numbers are aligned right, missing values are a dash.
    """
    import pandas

    given = list(rows)
    if not given:
        return sentence(f"{caption}: none" if caption else "none")
    listed, headings = given[:MOST_ROWS], list(columns.values())
    if len(given) > len(listed):
        caption = f"{caption} (the first {len(listed):,} of {len(given):,}; the JSON of this step has all)".strip()
    cells = [[words.told(row.get(key), key) for key in columns] for row in listed]
    right = [at for at, key in enumerate(columns) if key == "seconds" or _are_numbers(row.get(key) for row in listed)]
    marked = [heading for heading in headings if heading in MARKED]
    long = [heading for heading, *column in zip(headings, *cells, strict=True) if max(map(len, column)) > 24]
    styles = [*_STYLES, *((f".col{at}", "text-align:right") for at in right)]
    styles += [(f".col{headings.index(heading)}", "white-space:normal;min-width:11em") for heading in long]
    frame = pandas.DataFrame(cells, columns=headings, dtype=object)
    styler = frame.style.set_table_styles([{"selector": selector, "props": props} for selector, props in styles])
    styler = styler.format(escape="html").format(_breakable, subset=long).format(_chip, subset=marked)
    styler = styler.format_index(escape="html", axis="columns").hide(axis="index").set_caption(escape(caption))
    identity = hashlib.blake2b(repr((caption, headings, cells)).encode("utf-8", "replace"), digest_size=5).hexdigest()
    html = styler.set_uuid(identity).to_html()
    label = escape(caption or ", ".join(headings))
    html = f'<div style="overflow-x:auto;margin:.6em 0" role="region" tabindex="0" aria-label="{label}">{html}</div>'
    frame = frame.apply(lambda column: column.map(words.mark) if column.name in marked else column)
    return Shown(html, "\n".join([*filter(None, [caption]), *_aligned([headings, *frame.to_numpy()], right)]))


def sentence(text: str) -> Shown:
    """One line of prose."""
    return Shown(f"<p>{escape(words.plain(text))}</p>", words.plain(text))


def listing(heading: str, lines: Iterable[Any], most: int = 20) -> Shown:
    """A list of sentences under a heading, nothing when there are none; a long one is folded after its beginning."""
    items = [words.plain(line) for line in lines]
    if not items:
        return Shown("", "")
    html = "".join(f"<li>{escape(item)}</li>" for item in items[:most])
    title = f"<p><b>{escape(heading)}</b></p>" if heading else ""
    shown = Shown(f'{title}<ul style="overflow-wrap:anywhere">{html}</ul>', "\n  - ".join([heading, *items[:most]]))
    rest = items[most:]
    return shown + folded(f"{len(rest):,} more", listing("", rest, len(rest))) if rest else shown


def folded(summary: str, content: Shown, *, opened: bool = False) -> Shown:
    """Content behind a line that opens it; the text twin shows the line only, unless it is open from the start."""
    line, tag = words.plain(summary), "<details open>" if opened else "<details>"
    text = f"[{line}]\n{content.text}" if opened else f"[{line}]"
    return Shown(f"{tag}<summary>{escape(line)}</summary>{content.html}</details>", text)


def log(lines: str, *, opened: bool = False) -> Shown:
    """The end of a log, folded, wrapped, without terminal colours."""
    text = words.plain(lines).strip()
    if not text:
        return sentence("There is no log.")
    html = f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere;font-size:85%">{escape(text)}</pre>'
    length = words.count(len(text.splitlines()), "line")
    return folded(f"The end of the log ({length})", Shown(html, text), opened=opened)


def pairs(values: Mapping[str, Any], names: Mapping[str, str], caption: str = "") -> Shown:
    """Facts as names and values, one a row; names maps a fact to what it is called. Empty facts are left out."""
    rows = [{"name": name, "value": words.told(values.get(key), key)} for key, name in names.items()]
    return table([row for row in rows if row["value"] != "–"], {"name": "What", "value": "Value"}, caption)


# one view for each kind of result


def banner(result: StepResult) -> Shown:
    """How the step ended, in one coloured line: status, findings, time."""
    word = result.facts.get("verdict") or result.status.value
    nouns = {Severity.BLOCK: "blocking finding", Severity.WARN: "warning", Severity.INFO: "note"}
    numbers = {noun: sum(one.severity is severity for one in result.findings) for severity, noun in nouns.items()}
    found = ", ".join(words.count(number, noun) for noun, number in numbers.items() if number)
    missing = f"{words.count(len(result.not_checked), 'thing')} not checked" if result.not_checked else ""
    details = [found or "no findings", missing, words.duration(result.seconds), words.when(result.started)]
    name, line = words.title(result.step), " · ".join(filter(None, details))
    style = f"margin:.6em 0;padding:.6em .8em;border-left:.5em solid {words.COLOURS[words.tone(word)]}"
    return Shown(
        f'<p style="{style};background:rgba(128,128,128,.12)">{_chip(word)} <b>{escape(name)}</b> {escape(line)}</p>',
        f"{words.mark(word)}  {name}: {line}",
    )


def findings(result: StepResult) -> Shown:
    """What the step found, worst first, and below it what it could not look at."""
    order = list(Severity)
    rows = [one.to_json() for one in sorted(result.findings, key=lambda one: order.index(one.severity))]
    columns = {"severity": "Severity", "id": "Id", "subject": "About", "message": "What was seen"}
    columns |= {"remedy": "What to do", "url": "More"}
    used = {key: heading for key, heading in columns.items() if key != "url" or any(row["url"] for row in rows)}
    shown = table(rows, used, f"Findings ({len(rows):,})") if rows else sentence("No findings.")
    missing = result.not_checked
    return shown + listing(f"? Not checked ({len(missing):,}): none of this counts as passed", missing)


def inventory(result: StepResult) -> Shown:
    """What is in the store: the release that wrote it, its size, runs, pipelines, artifacts, stacks."""
    held, store = result.facts.get("inventory") or {}, result.facts.get("store") or {}
    names = {
        "path": "Store",
        "config_yaml": "ZenML configuration",
        "source_version": "Written by ZenML",
        "stamp": "Stamp",
        "target_version": "To be upgraded to ZenML",
        "database_bytes": "Database size",
        "source_sha256": "SHA-256 of the database",
        "runs_by_status": "Runs",
        "users": "Users",
        "schedules": "Schedules",
        "zenml_versions": "ZenML versions recorded (runs)",
        "python_versions": "Python versions recorded (runs)",
        "libraries": "Libraries recorded",
    }
    sums = {"runs_by_status": held.get("runs_by_status") or "none", "schedules": len(held.get("schedules") or [])}
    shown = pairs({**store, **held, **result.facts, **sums}, names, "The store")
    pipelines = {"name": "Pipeline", "runs": "Runs", "last_run": "Last run", "last_status": "Status"}
    shown += table(held.get("pipelines") or [], pipelines, "Pipelines")
    types = {"type": "Type", "materializer": "Materializer", "count": "Artifact versions"}
    shown += table(held.get("artifacts_by_type") or [], types, "Artifact versions by type")
    stacks = [
        {"name": stack["name"], "components": [f"{part['type']}: {part['flavor']}" for part in stack["components"]]}
        for stack in held.get("stacks") or []
    ]
    shown += table(stacks, {"name": "Stack", "components": "Components"}, "Stacks")
    rows = [{"table": name, "rows": number} for name, number in sorted((held.get("tables") or {}).items())]
    total = words.count(sum(row["rows"] for row in rows), "row")
    return shown + _folded_table(rows, {"table": "Table", "rows": "Rows"}, "table", after=f" with {total}")


def checks(result: StepResult) -> Shown:
    """Every check of the catalogue that was considered; those that found nothing are folded."""
    rows = [
        {**check, "outcome": check["severity"] if check["outcome"] == "found" else check["outcome"]}
        for check in sorted(result.facts.get("checks") or [], key=lambda check: str(check["id"]))
    ]
    columns = {"outcome": "Outcome", "id": "Id", "title": "Check", "reason": "Why"}
    return _loud_first(rows, columns, "Checks", quiet=("passed", "not_applicable"), noun="check")


def environments(result: StepResult) -> Shown:
    """The two isolated environments, and what was chosen for them and why."""
    made = {side: found for side, found in (result.facts.get("environments") or {}).items() if found}
    if not made:
        return sentence("No environment was made: the store may not be upgraded as it is.")
    shown = sentence("Two isolated environments stand in for the old and the new installation.")
    names = {"version": "ZenML", "python_version": "Python", "python": "Interpreter", "origin": "How it was made"}
    for side, found in made.items():
        shown += pairs(found, names, f"{side.capitalize()} environment")
        shown += listing("Chosen, and why", found.get("notes") or [])
        packages = [{"name": name, "version": version} for name, version in sorted(found["packages"].items())]
        shown += _folded_table(packages, {"name": "Package", "version": "Version"}, "package")
    return shown


def backup(result: StepResult) -> Shown:
    """What was copied where, how it was proven, how long going back takes, and what is not inside."""
    manifest = result.facts.get("manifest") or {}
    verified = result.facts.get("verified") or {}
    secrets = manifest.get("secrets") or {}
    readable = secrets.get("readable") or 0
    facts = {
        **manifest,
        "where": result.facts.get("where"),
        "hashed": words.when(verified["hashed"]) if verified.get("hashed") else None,
        "drill": f"into {verified['restored_into']}, {words.when(verified['restored'])}"
        if verified.get("restored")
        else "not done: restoring was not tried"
        if manifest
        else None,
        "seconds": verified.get("restore_seconds"),
        "held": words.count(readable, "secret") + " that anyone with this backup can read" if readable else None,
        "encrypted": words.count(secrets["encrypted"], "secret") if secrets.get("encrypted") else None,
        "flavour": " ".join(str((manifest.get("server") or {}).get(key, "")) for key in ("flavour", "version")),
        "charset": ", ".join(str((manifest.get("server") or {}).get(key, "")) for key in ("charset", "collation")),
    }
    names = {
        "where": "Backup",
        "source": "Of",
        "flavour": "Server",
        "charset": "Character set",
        "stamp": "Release stamp",
    }
    names |= {"tool": "Made with", "started": "Begun", "finished": "Finished", "compared": "Compared"}
    names |= {"hashed": "Files hashed again", "drill": "Restored to try it", "seconds": "Restoring took"}
    names |= {"encrypted_to": "Encrypted to", "held": "Readable secrets", "encrypted": "Encrypted secrets"}
    shown = pairs({name: value for name, value in facts.items() if value not in ("", ", ", " ")}, names, "The backup")
    shown += listing("Not part of this backup", manifest.get("not_included") or [])
    hosted = result.facts.get("managed") or {}
    names = {
        "provider": "Provider",
        "instance": "Instance",
        "automated": "Automated backups",
        "retention_days": "Days kept",
    }
    names |= {"latest_restorable": "Restorable up to", "newest_snapshot": "Newest snapshot", "console": "Look at"}
    shown += pairs(hosted, names, "What the provider keeps") if hosted else Shown("", "")
    tables = [{"table": name, **about} for name, about in (manifest.get("tables") or {}).items()]
    tables.sort(key=lambda row: (-(row.get("bytes") or row["rows"] or 0), row["table"]))
    sized = "bytes" if any(row.get("bytes") for row in tables) else "rows"
    shown += bars([(row["table"], row.get(sized) or 0) for row in tables[:10]], f"Largest tables by {sized}", sized)
    columns = {"table": "Table", "rows": "Rows", **({"bytes": "Size"} if sized == "bytes" else {})}
    shown += _folded_table(
        tables, {**columns, "fingerprint": "Fingerprint"}, "table", after=" with rows and fingerprints"
    )
    files = {
        "name": "File",
        "bytes": "Size",
        "original_bytes": "Unpacked",
        "sha256": "SHA-256",
        "restore_to": "Goes back to",
    }
    shown += _folded_table(manifest.get("files") or [], files, "file", after=" in the backup")
    return shown + listing("Removed", result.facts.get("removed") or [])


def backup_row(one: Any) -> dict[str, Any]:
    """One backup in a list of them."""
    verified = one.verified
    checked = "restored" if verified["restored"] else "hashed" if verified["hashed"] else "no"
    return {
        "name": one.name,
        "age": words.duration(one.age.total_seconds()),
        "bytes": sum(file["bytes"] for file in one.files()),
        "source_version": one.manifest["source_version"] or one.manifest["stamp"],
        "source": one.manifest["source"],
        "verified": verified["problem"] or checked,
        "seconds": verified["restore_seconds"],
    }


def backups(rows: Sequence[Mapping[str, Any]], caption: str) -> Shown:
    """A list of backups, newest first."""
    columns = {"name": "Backup", "age": "Age", "bytes": "Size", "source_version": "ZenML", "source": "Of"}
    return table(rows, {**columns, "verified": "Verified", "seconds": "Restored in"}, caption)


def bars(values: Sequence[tuple[str, float]], caption: str, fact: str) -> Shown:
    """A bar for each value, longest first, as a picture that needs no script; the text twin has the numbers.

    fact: what the values are, for their units, such as ``bytes``.
    """
    most = max([value for _, value in values], default=0)
    if not most:
        return Shown("", "")
    told = [(words.plain(name), words.told(value, fact), value / most) for name, value in values]
    said = f"{caption}: " + ", ".join(f"{name} {number}" for name, number, _ in told)
    drawn = [
        f'<text x="190" y="{y + 14}" text-anchor="end">{escape(name[:28])}</text>'
        f'<rect x="200" y="{y + 2}" width="{max(1, share * 330):.0f}" height="15" fill="{words.COLOURS["info"]}"/>'
        f'<text x="{206 + share * 330:.0f}" y="{y + 14}">{escape(number)}</text>'
        for y, (name, number, share) in zip(range(0, 22 * len(told), 22), told, strict=True)
    ]
    title = f'<figcaption style="font-weight:600;font-size:90%">{escape(caption)}</figcaption>'
    look = 'style="max-width:620px;width:100%" font-size="12" fill="currentColor" font-family="inherit"'
    svg = f'<svg role="img" aria-label="{escape(said)}" viewBox="0 0 620 {22 * len(told)}" {look}>'
    html = f'<figure style="margin:.8em 0">{title}{svg}{"".join(drawn)}</svg></figure>'
    return Shown(html, said)


def migration(result: StepResult) -> Shown:
    """What the target release made of the copy: revisions, time, rows of each table before and after."""
    names = {"copy": "Copy", "revision_before": "Revision before", "revision_after": "Revision after"}
    names |= {"seconds": "Time of the migration", "source_unchanged": "Source unchanged"}
    rows = [{**row, "change": _change(row["before"], row["after"])} for row in result.facts.get("tables") or []]
    changed = [row for row in rows if row["change"] or row["note"]]
    same = [row for row in rows if row not in changed]
    columns = {"table": "Table", "before": "Rows before", "after": "Rows after", "change": "Change", "note": "Note"}
    shown = pairs(result.facts, names, "The rehearsed migration")
    shown += table(changed, columns, "Tables whose rows changed")
    shown += _folded_table(same, {"table": "Table", "after": "Rows"}, "table", after=" with as many rows as before")
    return shown + log(result.facts.get("log_tail", ""))


def artifacts(result: StepResult) -> Shown:
    """Every artifact version: does it load in the target release, and is it the same value."""
    rows = [
        {**row, "old": _loaded(row["old"]), "new": _loaded(row["new"])} for row in result.facts.get("artifacts") or []
    ]
    columns = {"outcome": "Outcome", "name": "Artifact", "version": "Version", "data_type": "Type"}
    columns |= {"old": "In the old release", "new": "In the target release"}
    counts = result.facts.get("counts") or {}
    line = ", ".join(f"{number:,} {words.mark(word)}" for word, number in counts.items() if number)
    shown = sentence(f"{words.count(len(rows), 'artifact version')}: {line or 'none'}.")
    return shown + _loud_first(rows, columns, "Artifacts", quiet=("same", "loads"), noun="artifact version")


def smoke_runs(result: StepResult) -> Shown:
    """Every pipeline that was run under the target release, beside its latest run in the store."""
    runs = result.facts.get("runs") or []
    if not runs:
        return sentence("No pipeline was run: the plan names none.")
    columns = {"outcome": "Outcome", "name": "Run", "status": "Status", "expected": "Expected", "seconds": "Time"}
    steps = {"name": "Step", "status": "Status", "expected": "Expected"}
    outputs = {"outcome": "Outcome", "step": "Step", "output": "Output", "old": "Latest run", "new": "Under the target"}
    shown = table(runs, columns, "Runs under the target release")
    for run in runs:
        failed = run["outcome"] == "failed"
        content = table(run["steps"], steps, "Steps") + table(run["outputs"], outputs, "Outputs")
        content += log(run["log_tail"], opened=failed)
        if run["error"]:
            content = sentence(f"Error: {run['error']}") + content
        shown += folded(f"{words.mark(run['outcome'])} · {run['name']}: steps, outputs and log", content, opened=failed)
    return shown


def decision(result: StepResult) -> Shown:
    """The verdict with its reasons, and what each step contributed."""
    rows = [{**row, "step": words.title(row["step"])} for row in result.facts.get("steps") or []]
    columns = {"status": "Status", "step": "Step", "findings": "Findings", "seconds": "Time"}
    return listing("Reasons", result.facts.get("reasons") or []) + table(rows, columns, "Steps of this run")


def rollback(result: StepResult) -> Shown:
    """What a rollback did, or would do."""
    looked = "Nothing was changed, because apply is False. This is what would be done."
    return sentence("This was done." if result.facts.get("applied") else looked) + facts(result, "The rollback")


def facts(result: StepResult, caption: str) -> Shown:
    """All of a step's facts, for steps without tables of their own: values in a table, lists below it."""
    told = {key: value for key, value in result.facts.items() if key != "not_checked"}
    lists = {key: value for key, value in told.items() if isinstance(value, list)}
    shown = pairs(told, words.names(key for key in told if key not in lists), caption)
    for key, name in words.names(lists).items():
        shown += listing(name, map(words.told, lists[key]))
    return shown


def _loud_first(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], caption: str, *, quiet: Sequence[str], noun: str
) -> Shown:
    """Rows that need a look in the open, the quiet ones folded with their count."""
    loud = [row for row in rows if row["outcome"] not in quiet]
    shown = table(loud, columns, f"{caption} that need a look ({len(loud):,})")
    for word in quiet:
        rest = [row for row in rows if row["outcome"] == word]
        shown += _folded_table(rest, columns, noun, before=f"{words.mark(word)}: ")
    return shown


def _folded_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], noun: str, *, before: str = "", after: str = ""
) -> Shown:
    """Rows behind a line that counts them; nothing when there are none."""
    line = f"{before}{words.count(len(rows), noun)}{after}"
    return folded(line, table(rows, columns)) if rows else Shown("", "")


def _are_numbers(values: Iterable[Any]) -> bool:
    """Whether all are numbers or missing, and not all are missing."""
    return {type(value) for value in values} - {type(None)} in ({int}, {float}, {int, float})


def _change(before: int | None, after: int | None) -> str:
    """How the number of rows changed; empty when it did not."""
    if before is None or after is None:
        return "new" if before is None else "gone"
    return f"{after - before:+,}" if after != before else ""


def _loaded(side: Mapping[str, Any]) -> str:
    """What became of one value: its summary, or the first line of its error."""
    text = words.plain(side.get("summary") if side["ok"] else side["error"]).strip().partition("\n")[0]
    return f"{text[:299]}…" if len(text) > 300 else text


def _chip(word: str) -> str:
    """A status as white text on its own background, readable in light and dark themes."""
    colour = f"background:{words.COLOURS[words.tone(word)]};color:#fff"
    style = f"{colour};padding:.1em .5em;border-radius:.3em;white-space:nowrap"
    return word if word == "–" else f'<b style="{style}">{escape(words.mark(word))}</b>'


def _breakable(text: str) -> str:
    """Escaped text that may go on in the next line after the dots of a dotted name."""
    return re.sub(r"(?<=[A-Za-z_])\.(?=[A-Za-z_])", ".<wbr>", escape(text))


def _aligned(rows: Sequence[Sequence[str]], right: Sequence[int]) -> Iterable[str]:
    """Rows as lines for a terminal: padded columns, long cells left long."""
    widths = [min(40, max(map(len, column))) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [cell.replace("\n", " ") for cell in row]
        padded = [f"{cell:{'>' if at in right else '<'}{widths[at]}}" for at, cell in enumerate(cells)]
        yield "  ".join(padded).rstrip()
