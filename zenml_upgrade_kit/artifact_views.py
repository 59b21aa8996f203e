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
_PROVEN = {
    True: "✓ yes: with it, the example is as before in the target release",
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
        self._shown: Any = None

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
        from IPython.display import display

        bar = f'<progress max="1" value="{share:.3f}" aria-label="{share:.0%}"></progress> ' if share < 1 else ""
        shown = Shown(f"<p>{bar}{escape(line)}</p>", line)
        if self._shown:
            self._shown.update(shown)
        else:
            self._shown = display(shown, display_id=True)  # type: ignore[no-untyped-call]


def summary(result: StepResult) -> Shown:
    """How many artifact versions came to which outcome, how long loading took, how much was read how fast."""
    facts, counts = result.facts, result.facts.get("counts") or {}
    found = {word: f"{counts[word]:,}" for word in TROUBLE if counts.get(word)}
    total = words.count(facts.get("total", 0), "artifact version")
    costs = [("loaded_seconds", "loading took {}", words.duration), ("bytes", "{} read", words.size)]
    costs += [("bandwidth", "{} a second", words.size)]
    after = ", ".join(form.format(told(facts[fact])) for fact, form, told in costs if facts.get(fact))
    chips = [f'<span style="white-space:nowrap"><b>{number}</b> {chip(word)}</span>' for word, number in found.items()]
    text = ", ".join(f"{number} {words.mark(word)}" for word, number in found.items())
    return Shown(
        f'<p style="line-height:2">{total}: {" &nbsp; ".join(chips) or "none"}<br>{after}</p>',
        "; ".join(filter(None, [f"{total}: {text or 'none'}", after])),
    )


def matrix(result: StepResult) -> Shown:
    """Types and outcomes, the types with most trouble first: a picture, and the same numbers as a table."""
    rows = [{**row, "all": sum(row[word] for word in TROUBLE)} for row in result.facts.get("matrix") or []]
    if not rows:
        return sentence("There are no artifact versions to look at.")
    rows.sort(key=lambda row: (-row["fails"] - row["lost"], -row["differs"], -row["not_checked"], -row["all"]))
    columns = {"type": "Type", **{word: words.mark(word) for word in TROUBLE}, "all": "All"}
    twin = table(rows, columns, "Artifact versions by type and outcome")
    return Shown(_picture(rows) + folded("The same numbers as a table", twin).html, twin.text)


def _picture(rows: Sequence[Mapping[str, Any]]) -> str:
    """The matrix as SVG that needs no script; a cell says its number and its glyph, the shade is a third hint."""
    left, wide, high, top = 262, 92, 28, 46
    sums = {word: sum(row[word] for row in rows) for word in TROUBLE}
    caption = "Artifact versions by type and outcome, most trouble first"
    if len(rows) > MOST_TYPES:
        caption += f"; the {MOST_TYPES} types on top of {len(rows):,}"
    lines = dict(enumerate(rows[:MOST_TYPES]))
    most = math.log1p(max(row[word] for row in rows for word in TROUBLE) or 1)
    drawn = []
    for x, (word, total) in zip(range(left, left + wide * len(TROUBLE), wide), sums.items(), strict=True):
        glyph, colour, at = words.mark(word)[0], words.COLOURS[words.tone(word)], f'x="{x + wide // 2}" y='
        drawn.append(f'<text text-anchor="middle" {at}"16">{words.mark(word)}</text>')
        drawn.append(f'<text text-anchor="middle" {at}"34" font-weight="600">{total:,}</text>')
        for line, row in lines.items():
            y, number = top + high * line, row[word]
            if number:
                shade = f'fill="{colour}" fill-opacity="{0.12 + 0.33 * math.log1p(number) / most:.2f}"'
                place = f'x="{x + 2}" y="{y}" width="{wide - 4}" height="{high - 4}" rx="4"'
                drawn.append(f'<rect {place} {shade} stroke="{colour}"/>')
            told = f"{glyph} {number:,}" if number else "·"
            drawn.append(f'<text text-anchor="middle" {at}"{y + 17}">{told}</text>')
    for line, row in lines.items():
        name = words.plain(row["type"])
        drawn.append(f'<text y="{top + high * line + 17}">{escape(_short(name))}<title>{escape(name)}</title></text>')
    said = ", ".join(f"{total:,} {word.replace('_', ' ')}" for word, total in sums.items())
    width, height = left + wide * len(TROUBLE), top + high * len(lines)
    look = f'style="width:100%;min-width:44em;max-width:{width}px" font-size="13" fill="currentColor"'
    svg = f'<svg role="img" aria-label="{caption}: {said}. The table has all." viewBox="0 0 {width} {height}" {look}>'
    title = f'<figcaption style="font-weight:600;font-size:90%">{caption}</figcaption>'
    return f'<figure style="margin:.8em 0;overflow-x:auto" tabindex="0">{title}{svg}{"".join(drawn)}</svg></figure>'


def causes(result: StepResult) -> Shown:
    """What fails, is lost, differs or could not be checked, grouped by cause, worst first, with an example of each."""
    groups = result.facts.get("causes") or []
    shown = Shown("", "")
    for number, group in enumerate(sorted(groups, key=lambda one: (TROUBLE.index(one["outcome"]), -one["count"]))):
        outcome, blame = group["outcome"], words.plain(group["blame"] or f"cause: {group['kind']}")
        told = f"{words.count(group['count'], 'artifact version')}, {group['id']}"
        opened = number < MOST_OPEN and outcome != "not_checked"
        content = _cause(group)
        text = folded(f"{words.mark(outcome)} · {blame} · {told}", content, opened=opened).text
        edge = f"border-left:.3em solid {words.COLOURS[words.tone(outcome)]};padding-left:.8em;margin:1em 0"
        line = f"<summary>{chip(outcome)} <b>{escape(blame)}</b> · {escape(told)}</summary>"
        shown += Shown(f'<details style="{edge}"{" open" * opened}>{line}{content.html}</details>', text)
    return shown if groups else sentence("Nothing that was checked fails, is lost or differs.")


def _cause(group: Mapping[str, Any]) -> Shown:
    """One cause: what would fix it, one worked example, and the steps that wrote such artifacts."""
    pins, example = "\n".join(map(words.plain, group["pins"])), group["example"]
    shown = sentence(f"What would fix it: {group['remedy']}")
    if pins:
        # one click selects all of it: a page without scripts has no button that copies
        copied = f'<pre style="user-select:all;width:fit-content;min-width:20em">{escape(pins)}</pre>'
        shown += sentence("To pin it, add to your requirements:") + Shown(copied, pins)
    if pins or group["proven"] is not None:
        shown += sentence(f"Proven? {_PROVEN[group['proven']]}")
    if group.get("broke_before") and group["outcome"] == "fails":
        shown += sentence("The old release cannot load it here either: it was broken before, or needs your own code.")
    told = {name: _cut(value) for name, value in example.items() if value != example.get("error") or name == "error"}
    names = {"type": "Type", "old": "In the old release", "new": "In the target release"}
    names |= {"error": "Error in the target release", "where": "Raised inside", "difference": "Difference"}
    shown += sentence(f"For example {example['name']}, version {example['version']}:")
    shown += pairs(told, {**names, "uri": "Files", "id": "Id"})
    steps = [{**step, "place": _place(step)} for step in group["steps"]]
    columns = {"name": "Step", "pipeline": "Pipeline", "place": "Where", "count": "Artifact versions"}
    if len(steps) > MOST_OPEN:
        return shown + tables.folded_table(steps, columns, "step", after=" that wrote such artifact versions")
    return shown + table(steps, columns, "Steps that wrote such artifact versions") if steps else shown


def artifacts(result: StepResult) -> Shown:
    """The artifact versions that need a look, worst first; those that could not be checked are folded."""
    rows = [
        {**row, "name": f"{row['name']} {row['version']}", "data_type": _short(row["data_type"]),
         "old": _cut(row["old"]), "new": _cut(row["difference"] or row["new"])}
        for row in sorted(result.facts.get("artifacts") or [], key=lambda row: TROUBLE.index(row["outcome"]))
    ]  # fmt: skip
    columns = {"outcome": "Outcome", "name": "Artifact", "data_type": "Type", "cause": "Cause"}
    columns |= {"old": "In the old release", "new": "In the target release", "id": "Id"}
    shown = tables.loud_first(rows, columns, "Artifact versions", quiet=("not_checked",), noun="artifact version")
    counts = result.facts.get("counts") or {}
    if (troubled := sum(counts.get(word, 0) for word in TROUBLE[:4])) > len(rows):
        shown += sentence(f"These are {len(rows):,} of {troubled:,}; artifacts.jsonl of this run has every one.")
    return shown


def costs(result: StepResult) -> Shown:
    """The artifact versions that took longest to load, and the largest."""
    shown = Shown("", "")
    for name, caption, fact in (("slowest", "Slowest to load", "seconds"), ("largest", "Largest", "bytes")):
        rows = result.facts.get(name) or []
        shown += tables.bars([(f"{row['name']} {row['version']}", row[fact] or 0) for row in rows], caption, fact)
    return shown if shown.text else sentence("No artifact version was loaded.")


def not_checked(result: StepResult) -> Shown:
    """How many artifact versions were not checked, and why."""
    columns = {"count": "Artifact versions", "reason": "Why"}
    return table(result.facts.get("not_checked_reasons") or [], columns, "Not checked, which is not the same as passed")


def user_modules(result: StepResult) -> Shown:
    """Which modules of the user's code loading has imported, and thereby executed."""
    modules = result.facts.get("user_modules") or ["none"]
    return listing("Modules of your code that loading has imported; importing executes them", modules)


def static_look(result: StepResult) -> Shown:
    """What reading the files alone showed: modules that are missing, and code that only one Python can run."""
    found = result.facts.get("static") or {}
    missing = {"module": "Module", "count": "Artifact versions"}
    by_value = {"python": "Written by Python", "count": "Artifact versions", "name": "For example"}
    return table(
        found.get("missing") or [], missing, "Modules that the files need and the target environment does not have"
    ) + table(found.get("by_value") or [], by_value, "Functions and classes carried by value, bound to one Python")


def steps(result: StepResult) -> Shown:
    """The steps whose outputs should get another materializer, with file and line, and how to write one."""
    rows = [{**step, "place": _place(step)} for step in result.facts.get("steps") or []]
    columns = {"name": "Step", "pipeline": "Pipeline", "place": "Where", "outputs": "Artifact versions", "why": "Why"}
    shown = table(rows, columns, "Steps whose outputs should get another materializer")
    return shown + sentence(NEW_MATERIALIZER) if rows else shown


def _place(step: Mapping[str, Any]) -> str:
    """Where a step is written: ``churn/train.py:12``, or how ZenML names it when its file was not found."""
    return f"{step['file']}:{step['line']}" if step.get("file") else step.get("source", "")


def _short(name: str) -> str:
    """Package and class of a dotted name, short enough for a picture."""
    package, _, rest = name.partition(".")
    short = f"{package} … {rest.rpartition('.')[2]}" if "." in rest else name
    return short if len(short) <= 36 else f"…{short[-35:]}"


def _cut(value: Any) -> str:
    """The beginning of a long text, without empty lines."""
    text = "\n".join(filter(str.strip, words.plain("" if value is None else value).splitlines()))
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT].rstrip()} …"
