"""What people see: escaped, never colour alone, the same in HTML and in plain text."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser

import examples
import pytest

from zenml_upgrade_kit import artifact_views, rehearsal_views, show, tables, words
from zenml_upgrade_kit.findings import Severity, Status, StepResult, Verdict
from zenml_upgrade_kit.tables import Shown

ARTIFACT_VIEWS = [
    artifact_views.summary,
    artifact_views.matrix,
    artifact_views.causes,
    artifact_views.artifacts,
    artifact_views.costs,
    artifact_views.not_checked,
    artifact_views.user_modules,
    artifact_views.static_look,
    artifact_views.steps,
]
REHEARSAL_VIEWS = [
    rehearsal_views.summary,
    rehearsal_views.obstacles,
    rehearsal_views.story,
    rehearsal_views.tables,
    rehearsal_views.dropped,
    rehearsal_views.people,
    rehearsal_views.time,
    rehearsal_views.way_back,
    rehearsal_views.end_of_log,
]
EVERYTHING = [
    (show.banner, examples.preflight(Severity.BLOCK, Severity.INFO)),
    (show.findings, examples.preflight(Severity.WARN, Severity.BLOCK)),
    (show.inventory, examples.start()),
    (show.checks, examples.preflight()),
    (show.environments, examples.preflight()),
    (show.backup, examples.backup()),
    *((view, examples.rehearsal()) for view in REHEARSAL_VIEWS),
    *((view, examples.artifacts()) for view in ARTIFACT_VIEWS),
    (show.smoke_runs, examples.smoke_runs()),
    (show.decision, examples.decision()),
    (show.rollback, StepResult(step="90_rollback", status=Status.PASS, facts={"actions": [examples.EVIL]})),
]
NAMELESS = {show.banner, artifact_views.summary, artifact_views.costs}
"""Views that show no names, or only their beginning."""
every_view = pytest.mark.parametrize(("view", "result"), EVERYTHING, ids=lambda value: getattr(value, "__name__", ""))
View = Callable[[StepResult], Shown]


class Tags(HTMLParser):
    """The tags of a page and the text that a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@every_view
def test_names_from_a_store_are_never_markup(view: View, result: StepResult) -> None:
    page = Tags(view(result).html)
    assert not page.tags & {"script", "img", "a"}
    assert "\x1b" not in page.text
    assert "\x00" not in page.text
    assert view in NAMELESS or "<script>alert(1)</script> | `x` red" in page.text


@every_view
def test_the_same_result_is_shown_the_same(view: View, result: StepResult) -> None:
    assert view(result) == view(result)
    assert not re.search(r"0x[0-9a-f]{6}", repr(view(result)))


@every_view
def test_a_step_that_left_no_facts_is_shown_too(view: View, result: StepResult) -> None:
    assert view(StepResult(step=result.step, status=Status.ERROR)).text


def test_every_status_is_a_glyph_and_a_word() -> None:
    said = {words.mark(word.value) for kind in (Status, Severity, Verdict) for word in kind}
    assert said == {
        "✓ pass", "! warn", "✗ block", "? not checked", "× error", "i info", "✓ GO", "! GO WITH WARNINGS", "✗ NO-GO",
    }  # fmt: skip


@pytest.mark.parametrize("tone", words.COLOURS)
def test_coloured_words_are_readable_in_both_themes(tone: str) -> None:
    assert contrast(words.COLOURS[tone], "#ffffff") >= 4.5
    assert contrast(words.COLOURS[tone], "#0d1117") >= 3


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_findings_come_worst_first_and_what_was_not_checked_below() -> None:
    lines = show.findings(examples.preflight(Severity.INFO, Severity.WARN, Severity.BLOCK)).text.splitlines()
    assert [line[:7].strip() for line in lines[2:5]] == ["✗ block", "! warn", "i info"]
    assert "Not checked (1): none of this counts as passed" in lines[6]


def test_no_findings_is_a_sentence() -> None:
    assert show.findings(examples.backup()).text == "No findings."


def test_tables_that_are_as_before_are_folded_and_what_is_not_explained_comes_first() -> None:
    opened = rehearsal_views.tables(examples.rehearsal()).html.split("<details>")[0]
    assert ["step_run" in opened, "role" in opened, ">tag<" in opened] == [True, True, False]
    assert opened.index("Not explained by any release") < opened.index("Tables that change")


def test_columns_of_a_table_that_changes_are_told_by_what_becomes_of_them() -> None:
    outcomes = {"index": "rewritten", "source": "added", "item_count": "added", "step_configurations": "moved"}
    told = {"was": "", "changed": None, "release": "0.98.0", "why": ""}
    columns = [{**told, "column": name, "outcome": outcome} for name, outcome in outcomes.items()]
    result = examples.rehearsal()
    result.facts["proof"]["tables"] = [examples.of_table("logs", "changed", columns=columns)]
    changes = "columns: index; new columns: source, item_count; kept elsewhere: step_configurations"
    assert changes in rehearsal_views.tables(result).html


def test_a_smoke_run_that_failed_is_open_down_to_its_log() -> None:
    shown = show.smoke_runs(examples.smoke_runs())
    assert shown.html.count("<details open>") == 2
    assert "[The end of the log (1 line)]" in shown.text
    assert "<script>" in shown.text.split("[The end of the log (1 line)]")[1]


@pytest.mark.parametrize(("applied", "said"), [(True, "This was done."), (False, "Nothing was changed, because")])
def test_a_rollback_that_only_looked_says_so(applied: bool, said: str) -> None:
    result = StepResult(step="90_rollback", status=Status.PASS, facts={"applied": applied, "actions": ["replace it"]})
    assert show.rollback(result).text.startswith(said)


def test_a_long_table_says_what_it_leaves_out() -> None:
    shown = tables.table([{"n": number} for number in range(tables.MOST_ROWS + 1)], {"n": "Number"}, "Runs")
    assert "the first 500 of 501" in shown.text
    assert shown.html.count("<tr>") == tables.MOST_ROWS + 1


def test_numbers_are_aligned_right_and_missing_values_are_a_dash() -> None:
    shown = tables.table(
        [{"table": "run", "rows": 1200}, {"table": "tag", "rows": None}], {"table": "Table", "rows": "Rows"}
    )
    assert shown.text.splitlines() == ["Table   Rows", "run    1,200", "tag        –"]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (words.duration(0.04), "0.0 s"),
        (words.duration(9.96), "10 s"),
        (words.duration(185), "3 min 05 s"),
        (words.duration(3725), "1 h 02 min"),
        (words.duration(float("nan")), "–"),
        (words.size(999), "999 bytes"),
        (words.size(1_421_312), "1.4 MB"),
        (words.when("2026-11-23T02:02:03+01:00"), "2026-11-23 01:02:03 UTC"),
        (words.when("2024-05-02 10:11:12.123456"), "2024-05-02 10:11:12 UTC"),
        (words.when("2026-11-23T01:02:03Z"), "2026-11-23 01:02:03 UTC"),
        (words.when("20261123T010203Z"), "2026-11-23 01:02:03 UTC"),
        (words.when("yesterday"), "yesterday"),
        (words.title("50_smoke_runs"), "Smoke runs"),
        (words.count(1, "finding"), "1 finding"),
        (words.count(2000, "finding"), "2,000 findings"),
    ],
)
def test_values_are_told_in_words(said: str, expected: str) -> None:
    assert said == expected


def test_pandas_is_not_paid_for_before_a_table_is_shown() -> None:
    code = "import sys; from zenml_upgrade_kit import show, report; "
    code += "sys.exit(bool({'pandas', 'nbconvert'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_names_that_were_not_all_listed_are_never_called_the_same_in_silence() -> None:
    quiet = examples.rehearsal()
    shown = rehearsal_views.people(replace(quiet, facts={**quiet.facts, "people": []})).text
    assert "What both releases listed has the same names" in shown
    assert "rows are compared like all others: artifact versions (20,005)." in shown


def test_a_remedy_is_shown_as_sql_to_copy() -> None:
    blocked = examples.rehearsal()
    blocked.facts["obstacles"][0] |= {"statements": ["DELETE FROM a WHERE b < 'c'", "UPDATE a SET b = 1"]}
    shown = rehearsal_views.obstacles(blocked)
    assert "DELETE FROM a WHERE b < 'c';\nUPDATE a SET b = 1;" in shown.text
    assert "DELETE FROM a WHERE b &lt; &#x27;c&#x27;;\nUPDATE a SET b = 1;</pre>" in shown.html
