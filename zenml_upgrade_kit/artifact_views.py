"""What the check of the artifacts looks like: while it runs, and afterwards.

Every view takes the :class:`StepResult` of ``40_artifacts`` and returns a :class:`Shown`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

from zenml_upgrade_kit import tables, words
from zenml_upgrade_kit.findings import StepResult
from zenml_upgrade_kit.tables import Shown, chip, folded, listing, pairs, sentence, table

TROUBLE = ("fails", "lost", "differs", "not_checked", "loads", "identical")
"""Outcomes of an artifact version, worst first."""
MOST_TYPES = 25
"""Types in the picture; the table beside it has more."""
MOST_OPEN = 5
"""Causes and steps that are shown without a click."""
MOST_TEXT = 400
"""Characters of an error or a difference that are shown."""
NEW_MATERIALIZER = (
    "Derive a class from ZenML's BaseMaterializer that names your type in ASSOCIATED_TYPES and whose save and load keep"
    " it below self.uri in a format that no library version owns, such as Parquet, npy or JSON. Name the class at the"
    " step, @step(output_materializers=…), and run the pipeline once more: artifacts that exist stay as they are."
)
_KINDS = {
    "python": "the version of Python",
    "library": "the version of a library",
    "module": "a module that is missing",
    "zenml": "ZenML itself",
    "file": "the file",
    "store": "the artifact store",
    "limit": "a limit that was set",
}
_PROVEN = {
    True: "✓ yes: with it, the example loads in the target release",
    False: "✗ no: it was tried, and it does not help",
    None: "? not tried",
}


class Progress:
    """Tells how far the check is: in a notebook in one place, and with tell in a line every few seconds.

    Call it once before the first artifact: what was done by then, by a try that was interrupted, is no speed.
    """

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._tell = tell
        self._pause = 5.0 if tell else 0.5  # seconds between two updates
        self._begun: tuple[int, int, float] | None = None
        self._told = -math.inf
        self._place: Any = None

    def __call__(self, done: int, total: int, bytes: int, seconds: float, note: str = "") -> None:  # noqa: A002
        """done of total artifact versions, with so many bytes read since the start, seconds ago."""
        self._begun = self._begun or (done, bytes, seconds)
        ended = done >= total
        if seconds - self._told < self._pause and not ended:
            return
        self._told = seconds
        before, bytes_before, started = self._begun
        past = seconds - started
        rate, bandwidth = ((done - before) / past, (bytes - bytes_before) / past) if past > 0 else (0, 0)
        share = f"{math.floor(100 * done / total)} %" if total else ""
        parts = [share, f"{done:,} of {words.count(total, 'artifact version')}"]
        parts += [f"{rate:,.{0 if rate >= 10 else 1}f} a second" if rate else ""]
        parts += [f"{words.size(bandwidth)} a second" if bandwidth else ""]
        left = f"about {words.duration((total - done) / rate)} left" if rate else ""
        parts += [f"done in {words.duration(seconds)}" if ended else left, note]
        self._show(words.plain(" · ".join(filter(None, parts))), 1 if ended else done / total)

    def _show(self, line: str, share: float) -> None:
        if self._tell:
            self._tell(line)
            return
        from IPython import display

        bar = f'<progress max="1" value="{share:.3f}" aria-label="{share:.0%}"></progress> ' if share < 1 else ""
        shown = Shown(f"<p>{bar}{escape(line)}</p>", line)
        if self._place:
            self._place.update(shown)
        else:
            self._place = display.display(shown, display_id=True)  # type: ignore[no-untyped-call]


def summary(result: StepResult) -> Shown:
    """How many artifact versions came to which outcome, how long loading took, how much was read how fast."""
    facts, counts = result.facts, result.facts.get("counts") or {}
    total = words.count(facts.get("total") or sum(counts.values()), "artifact version")
    found = [word for word in reversed(TROUBLE) if counts.get(word)]
    cost = [f"loading took {words.duration(facts['loaded_seconds'])}" if facts.get("loaded_seconds") else ""]
    cost += [f"{words.size(facts['bytes'])} read" if facts.get("bytes") else ""]
    cost += [f"{words.size(facts['bandwidth'])} a second" if facts.get("bandwidth") else ""]
    after = ", ".join(filter(None, cost))
    chips = " &nbsp; ".join(f"<b>{counts[word]:,}</b> {chip(word)}" for word in found)
    text = ", ".join(f"{counts[word]:,} {words.mark(word)}" for word in found)
    return Shown(
        f'<p style="line-height:2">{total}: {chips or "none"}{after and f"<br>{after}"}</p>',
        f"{total}: {text or 'none'}{after and f'; {after}'}",
    )


def matrix(result: StepResult) -> Shown:
    """Types and outcomes, the types with most trouble first: a picture, and the same numbers as a table."""
    rows = [{**row, "all": sum(row[word] for word in TROUBLE)} for row in result.facts.get("matrix") or []]
    if not rows:
        return sentence("There are no artifact versions to look at.")
    rows.sort(key=lambda row: (-row["fails"] - row["lost"], -row["differs"], -row["not_checked"], -row["all"]))
    columns = {"type": "Type", **{word: words.mark(word) for word in TROUBLE}, "all": "All"}
    twin = table(rows, columns, "Artifact versions by type and outcome")
    html = _picture(rows[:MOST_TYPES], len(rows)) + folded("The same numbers as a table", twin).html
    return Shown(html, twin.text)


def _picture(rows: Sequence[Mapping[str, Any]], types: int) -> str:
    """The matrix as SVG that needs no script; a cell says its number and its glyph, the shade is a third hint."""
    left, wide, high, top = 230, 92, 28, 46
    most = max(row[word] for row in rows for word in TROUBLE)
    drawn = []
    for column, word in enumerate(TROUBLE):
        x, colour = left + column * wide, words.COLOURS[words.tone(word)]
        total = sum(row[word] for row in rows)
        drawn.append(f'<text x="{x + wide / 2}" y="16" text-anchor="middle">{escape(words.mark(word))}</text>')
        drawn.append(f'<text x="{x + wide / 2}" y="34" text-anchor="middle" font-weight="600">{total:,}</text>')
        for y, row in zip(range(top, top + high * len(rows), high), rows, strict=True):
            middle = f'x="{x + wide / 2}" y="{y + 17}" text-anchor="middle"'
            if not row[word]:
                drawn.append(f'<text {middle} opacity=".5">·</text>')
                continue
            shade = 0.12 + 0.33 * math.log1p(row[word]) / math.log1p(most)
            drawn.append(
                f'<rect x="{x + 2}" y="{y}" width="{wide - 4}" height="{high - 4}" rx="4" fill="{colour}"'
                f' fill-opacity="{shade:.2f}" stroke="{colour}"/>'
                f"<text {middle}>{words.mark(word)[0]} {row[word]:,}</text>"
            )
    for y, row in zip(range(top, top + high * len(rows), high), rows, strict=True):
        name = words.plain(row["type"])
        drawn.append(f'<text x="0" y="{y + 17}">{escape(_short(name))}<title>{escape(name)}</title></text>')
    caption = "Artifact versions by type and outcome, most trouble first"
    caption += f" (the first {len(rows)} of {words.count(types, 'type')})" if types > len(rows) else ""
    said = ", ".join(f"{sum(row[word] for row in rows):,} {word.replace('_', ' ')}" for word in TROUBLE)
    width, height = left + wide * len(TROUBLE), top + high * len(rows)
    return (
        f'<figure style="margin:.8em 0;overflow-x:auto" tabindex="0"><figcaption style="font-weight:600;font-size:90%">'
        f'{caption}</figcaption><svg role="img" aria-label="{caption}: {said}. The table below has the numbers."'
        f' viewBox="0 0 {width} {height}" style="width:100%;min-width:40em;max-width:{width}px" font-size="13"'
        f' fill="currentColor" font-family="inherit">{"".join(drawn)}</svg></figure>'
    )


def causes(result: StepResult) -> Shown:
    """What fails, is lost, differs or could not be checked, grouped by cause, worst first, with an example of each."""
    groups = result.facts.get("causes") or []
    shown = Shown("", "")
    for number, group in enumerate(sorted(groups, key=lambda one: (TROUBLE.index(one["outcome"]), -one["count"]))):
        told = f"{words.count(group['count'], 'artifact version')}, {group['id']}"
        line = f"{words.mark(group['outcome'])} · {_blame(group)} · {told}"
        one = folded(line, _cause(group), opened=number < MOST_OPEN and group["outcome"] != "not_checked")
        edge = f"border-left:.3em solid {words.COLOURS[words.tone(group['outcome'])]};padding-left:.8em;margin:1em 0"
        shown += Shown(f'<div style="{edge}">{one.html}</div>', one.text)
    return shown if groups else sentence("Nothing that was checked fails, is lost or differs.")


def _cause(group: Mapping[str, Any]) -> Shown:
    """One cause: what would fix it, one worked example, and the steps that wrote such artifacts."""
    pins, proven = group["pins"], group["proven"]
    tried = _PROVEN[proven] if pins or proven is not None else ""
    names = {"remedy": "What would fix it", "tried": "Proven"}
    shown = pairs({"remedy": group["remedy"], "tried": tried}, names)
    if pins:
        lines = "\n".join(map(words.plain, pins))
        shown += sentence("To pin it, add to your requirements:")
        # one click selects all of it: a page without scripts has no button that copies
        shown += Shown(f'<pre style="user-select:all">{escape(lines)}</pre>', lines)
    example = group["example"]
    told = {name: _cut(value) for name, value in example.items() if name != "new" or value != example.get("error")}
    names = {"type": "Type", "old": "In the old release", "new": "In the target release"}
    names |= {"error": "Error in the target release", "where": "Raised inside", "difference": "Difference"}
    names |= {"uri": "Files", "id": "Id"}
    shown += pairs(told, names, words.plain(f"For example {example['name']}, version {example['version']}"))
    steps = [{**step, "place": _place(step)} for step in group["steps"]]
    columns = {"name": "Step", "pipeline": "Pipeline", "place": "Where", "count": "Artifact versions"}
    caption = "Steps that wrote such artifact versions"
    if len(steps) > MOST_OPEN:
        return shown + tables.folded_table(steps, columns, "step", after=" that wrote such artifact versions")
    return shown + table(steps, columns, caption) if steps else shown


def artifacts(result: StepResult) -> Shown:
    """The artifact versions that need a look, worst first; those that could not be checked are folded."""
    listed = result.facts.get("artifacts") or []
    rows = [
        {**row, "old": _cut(row["old"]), "new": _cut(row["difference"] or row["new"])}
        for row in sorted(listed, key=lambda row: TROUBLE.index(row["outcome"]))
    ]
    columns = {"outcome": "Outcome", "name": "Artifact", "version": "Version", "data_type": "Type", "cause": "Cause"}
    columns |= {"old": "In the old release", "new": "In the target release"}
    shown = tables.loud_first(rows, columns, "Artifact versions", quiet=("not_checked",), noun="artifact version")
    counts = result.facts.get("counts") or {}
    if (troubled := sum(counts.get(word, 0) for word in TROUBLE[:4])) > len(rows):
        shown += sentence(f"These are {len(rows):,} of {troubled:,}; the causes above count all of them.")
    return shown


def costs(result: StepResult) -> Shown:
    """The artifact versions that took longest to load, and the largest."""
    shown = Shown("", "")
    for name, caption, fact in (
        ("slowest", "Slowest to load in the target release", "seconds"),
        ("largest", "Largest", "bytes"),
    ):
        rows = result.facts.get(name) or []
        shown += tables.bars([(f"{row['name']} {row['version']}", row[fact] or 0) for row in rows], caption, fact)
    return shown if shown.text else sentence("No artifact version was loaded.")


def not_checked(result: StepResult) -> Shown:
    """How many artifact versions were not checked, and why."""
    reasons = result.facts.get("not_checked_reasons") or []
    if not reasons:
        return sentence("Every artifact version was checked.")
    return table(reasons, {"count": "Artifact versions", "reason": "Why"}, "Not checked: none of this counts as passed")


def user_modules(result: StepResult) -> Shown:
    """Which modules of the user's code loading has imported, and thereby executed."""
    modules = result.facts.get("user_modules") or []
    if not modules:
        return sentence("Loading imported none of your own modules.")
    return listing("Modules of your code that loading has imported; importing executes them", modules)


def static_look(result: StepResult) -> Shown:
    """What reading the files alone showed: modules that are missing, and code that only one Python can run."""
    found = result.facts.get("static") or {}
    missing, by_value = found.get("missing") or [], found.get("by_value") or []
    if not missing and not by_value:
        return sentence("The files name no module that is missing, and hold no code.")
    shown = Shown("", "")
    if missing:
        columns = {"module": "Module", "count": "Artifact versions"}
        shown += table(missing, columns, "Modules that the files need and the target environment does not have")
    if by_value:
        columns = {"python": "Written by Python", "count": "Artifact versions", "name": "For example"}
        shown += table(by_value, columns, "Functions and classes carried by value: bound to the Python that wrote them")
    return shown


def steps(result: StepResult) -> Shown:
    """The steps whose outputs should get another materializer, with file and line, and how to write one."""
    rows = [{**step, "place": _place(step)} for step in result.facts.get("steps") or []]
    if not rows:
        return sentence("No step needs another materializer.")
    columns = {"name": "Step", "pipeline": "Pipeline", "place": "Where", "outputs": "Artifact versions", "why": "Why"}
    return table(rows, columns, "Steps whose outputs should get another materializer") + sentence(NEW_MATERIALIZER)


def _blame(group: Mapping[str, Any]) -> str:
    """What is to blame, in words: ``scikit-learn 1.3.0 → 1.9.1``."""
    return words.plain(group["blame"]) or _KINDS.get(group["kind"], "cause unknown")


def _place(step: Mapping[str, Any]) -> str:
    """Where a step is written: ``churn/train.py:12``, or how ZenML names it when its file was not found."""
    return f"{step['file']}:{step['line']}" if step.get("file") else step.get("source", "")


def _short(name: str) -> str:
    """Package and class of a dotted name, short enough for a picture."""
    package, _, rest = name.partition(".")
    short = f"{package} … {rest.rpartition('.')[2]}" if "." in rest else name
    return short if len(short) <= 32 else f"…{short[-31:]}"


def _cut(value: Any) -> str:
    """The beginning of a long text, without empty lines."""
    text = "\n".join(filter(str.strip, words.plain("" if value is None else value).splitlines()))
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT].rstrip()} …"
