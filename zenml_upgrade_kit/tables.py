"""Tables, lists and bars that escape what they show, each with a plain-text twin; the only module that knows pandas.

Names, values and messages come from stores that nobody vetted. Colours carry their own background, so that they read
in light and dark themes alike, and a glyph and a word always say the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from zenml_upgrade_kit import words

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
    styler = styler.format(escape="html").format(_breakable, subset=long).format(chip, subset=marked)
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
    length = words.count(len(text.splitlines()), "line")
    return folded(f"The end of the log ({length})", _as_it_is(text), opened=opened)


def code(heading: str, lines: Iterable[str]) -> Shown:
    """Lines to copy, each whole, under a heading; nothing when there are none."""
    text = "\n".join(map(words.plain, lines))
    return sentence(heading) + _as_it_is(text) if text else Shown("", "")


def _as_it_is(text: str) -> Shown:
    return Shown(f'<pre style="white-space:pre-wrap;overflow-wrap:anywhere;font-size:85%">{escape(text)}</pre>', text)


def pairs(values: Mapping[str, Any], names: Mapping[str, str], caption: str = "") -> Shown:
    """Facts as names and values, one a row; names maps a fact to what it is called. Empty facts are left out."""
    rows = [{"name": name, "value": words.told(values.get(key), key)} for key, name in names.items()]
    return table([row for row in rows if row["value"] != "–"], {"name": "What", "value": "Value"}, caption)


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


def loud_first(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], caption: str, *, quiet: Sequence[str], noun: str
) -> Shown:
    """Rows that need a look in the open, the quiet ones folded with their count."""
    loud = [row for row in rows if row["outcome"] not in quiet]
    shown = table(loud, columns, f"{caption} that need a look ({len(loud):,})")
    for word in quiet:
        rest = [row for row in rows if row["outcome"] == word]
        shown += folded_table(rest, columns, noun, before=f"{words.mark(word)}: ")
    return shown


def folded_table(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str], noun: str, *, before: str = "", after: str = ""
) -> Shown:
    """Rows behind a line that counts them; nothing when there are none."""
    line = f"{before}{words.count(len(rows), noun)}{after}"
    return folded(line, table(rows, columns)) if rows else Shown("", "")


def chip(word: str) -> str:
    """A status as white text on its own background, readable in light and dark themes."""
    colour = f"background:{words.COLOURS[words.tone(word)]};color:#fff"
    style = f"{colour};padding:.1em .5em;border-radius:.3em;white-space:nowrap"
    return word if word == "–" else f'<b style="{style}">{escape(words.mark(word))}</b>'


def _are_numbers(values: Iterable[Any]) -> bool:
    """Whether all are numbers or missing, and not all are missing."""
    return {type(value) for value in values} - {type(None)} in ({int}, {float}, {int, float})


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
