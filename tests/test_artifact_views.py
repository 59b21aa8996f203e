"""What the check of the artifacts looks like: the worst first, never colour alone, and progress in one place."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import examples
import nbformat
import pytest
from test_show import contrast

from zenml_upgrade_kit import artifact_views, plan, report, show, words, workbook
from zenml_upgrade_kit.artifact_views import TROUBLE, Progress
from zenml_upgrade_kit.findings import Status, StepResult
from zenml_upgrade_kit.runs import Run

NOTHING = StepResult(step="40_artifacts", status=Status.PASS)


def result(**facts: Any) -> StepResult:
    """The example with other facts."""
    example = examples.artifacts()
    return replace(example, facts={**example.facts, **facts})


def row(name: str, **outcomes: int) -> dict[str, Any]:
    return {"type": name, **dict.fromkeys(TROUBLE, 0), **outcomes}


def test_the_summary_tells_counts_time_size_and_bandwidth() -> None:
    assert artifact_views.summary(examples.artifacts()).text == (
        "7 artifact versions: 1 ✗ fails, 1 ✗ lost, 1 ! differs, 1 ? not checked, 1 ✓ loads, 2 ✓ identical;"
        " loading took 2.5 s, 1.4 MB read, 569 kB a second"
    )


def test_the_picture_has_a_name_and_numbers_with_glyphs() -> None:
    html = artifact_views.matrix(result(matrix=[row("a.b.Model", fails=1200, identical=3)])).html
    picture = html.partition("</svg>")[0]
    assert 'role="img"' in picture
    assert 'aria-label="Artifact versions by type and outcome, most trouble first: 1,200 fails, 0 lost' in picture
    for cell in ("✗ 1,200", "✓ 3", "·", "a … Model", "<title>a.b.Model</title>"):
        assert cell in picture
    assert "<table" in html.partition("</svg>")[2]


@pytest.mark.parametrize("word", TROUBLE)
@pytest.mark.parametrize(("page", "text"), [("#ffffff", "#1f2328"), ("#0d1117", "#e6edf3")], ids=["light", "dark"])
def test_every_shade_is_readable_in_both_themes(word: str, page: str, text: str) -> None:
    rows = [row(str(number), **{word: 10**number}) for number in range(5)]
    shades = re.findall(r'fill="(#\w+)" fill-opacity="([\d.]+)"', artifact_views.matrix(result(matrix=rows)).html)
    assert len({opacity for _, opacity in shades}) == len(shades) == 5
    for colour, opacity in shades:
        assert contrast(blended(colour, page, float(opacity)), text) >= 4.5


def blended(colour: str, page: str, opacity: float) -> str:
    parts = [(int(colour[at : at + 2], 16), int(page[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(top * opacity + below * (1 - opacity)):02x}" for top, below in parts)


def test_types_with_most_trouble_come_first() -> None:
    rows = [
        row("fine", identical=9000), row("unseen", not_checked=800), row("other", differs=70), row("gone", lost=2),
        row("broken", fails=3),
    ]  # fmt: skip
    lines = artifact_views.matrix(result(matrix=rows)).text.splitlines()[2:]
    assert [line.split()[0] for line in lines] == ["broken", "gone", "other", "unseen", "fine"]


def test_the_picture_says_how_many_types_it_leaves_out_and_the_table_has_them() -> None:
    shown = artifact_views.matrix(result(matrix=[row(f"type{number:02}", identical=1) for number in range(40)]))
    assert "the 25 types on top of 40" in shown.html.partition("</svg>")[0]
    assert "type39" not in shown.html.partition("</svg>")[0]
    assert "type39" in shown.html.partition("</svg>")[2]
    assert "40 identical" in shown.html, "the sums are those of all types"


def test_causes_come_worst_first_and_what_was_not_checked_is_folded() -> None:
    shown = artifact_views.causes(result(causes=examples.artifacts().facts["causes"][::-1]))
    assert re.findall(r"<details [^>]*?( open)?><summary><b[^>]*>(.*?)</b>", shown.html) == [
        (" open", "✗ fails"), (" open", "✗ lost"), (" open", "! differs"), ("", "? not checked"),
    ]  # fmt: skip


def test_a_cause_tells_blame_remedy_pins_proof_an_example_and_its_steps() -> None:
    shown = artifact_views.causes(result(causes=examples.artifacts().facts["causes"][:1]))
    for said in (
        "[✗ fails · scikit-learn 1.3.0 → 1.9.1 · 1 artifact version, AR604]",
        "What would fix it: Pin scikit-learn, or run the step again.",
        "\nscikit-learn==1.3.0\n",
        "Proven? ✓ yes",
        "For example fails <script>",
        "In the old release           GradientBoostingClassifier of 3 features",
        "Error in the target release  ModuleNotFoundError: No module named 'sklearn._loss'",
        ".py:12",
    ):
        assert said in shown.text
    assert re.search(r"<pre [^>]*user-select:all[^>]*>scikit-learn==1.3.0\n", shown.html)
    assert re.search(r"unbroken\w* …", shown.html), "a long error is cut"


@pytest.mark.parametrize(("proven", "said"), [(True, "✓ yes"), (False, "✗ no"), (None, "? not tried")])
def test_a_remedy_is_proven_or_says_that_it_is_not(proven: bool | None, said: str) -> None:
    cause = {**examples.artifacts().facts["causes"][0], "proven": proven}
    assert f"Proven? {said}" in artifact_views.causes(result(causes=[cause])).text


def test_what_was_broken_before_the_upgrade_is_told_apart() -> None:
    cause = examples.artifacts().facts["causes"][0]
    told = [artifact_views.causes(result(causes=[{**cause, "broke_before": before}])).text for before in (True, False)]
    assert ["it was broken before" in text for text in told] == [True, False]


def test_many_steps_of_one_cause_are_folded() -> None:
    cause = examples.artifacts().facts["causes"][0]
    shown = artifact_views.causes(result(causes=[{**cause, "steps": cause["steps"] * 6}]))
    assert "<summary>6 steps that wrote such artifact versions</summary>" in shown.html


def test_a_cause_without_blame_is_named_by_its_kind() -> None:
    cause = {**examples.artifacts().facts["causes"][0], "blame": "", "kind": "python"}
    assert "✗ fails · cause: python · " in artifact_views.causes(result(causes=[cause])).text


def test_artifacts_that_need_a_look_are_open_and_those_not_checked_folded() -> None:
    shown = show.artifacts(examples.artifacts())
    opened, folded = shown.html.split("<details>")
    assert [word in opened for word in ("✗ fails", "✗ lost", "! differs")] == [True, True, True]
    assert "00000000-0000-4000-8000-000000000000" in opened, "a rescue asks for the id"
    assert "? not checked: 1 artifact version</summary>" in folded
    assert "column name: object became str" in opened


def test_a_list_that_is_not_all_of_them_says_so() -> None:
    counts = {**examples.artifacts().facts["counts"], "fails": 12_000}
    assert "These are 4 of 12,003; artifacts.jsonl" in show.artifacts(result(counts=counts)).text
    assert "These are" not in show.artifacts(examples.artifacts()).text


def test_the_slowest_and_the_largest_are_bars() -> None:
    shown = artifact_views.costs(examples.artifacts())
    assert shown.html.count("<svg") == 2
    assert "30.0 kB" in shown.text


def test_a_step_is_named_with_file_and_line_or_as_zenml_names_it() -> None:
    step = examples.artifacts().facts["steps"][0]
    shown = artifact_views.steps(result(steps=[{**step, "file": "churn/a.py"}, {**step, "file": "", "line": None}]))
    assert "churn/a.py:12" in shown.text
    assert "churn.train" in shown.text
    assert "BaseMaterializer" in shown.text


def test_a_check_without_trouble_is_told_in_sentences() -> None:
    views = ("matrix", "causes", "artifacts", "costs", "not_checked", "user_modules", "static_look", "steps")
    said = "\n".join(getattr(artifact_views, view)(NOTHING).text for view in views)
    assert "Nothing that was checked fails, is lost or differs." in said
    assert "Not checked, which is not the same as passed: none" in said
    assert "BaseMaterializer" not in said


def test_every_outcome_has_a_glyph_and_a_tone() -> None:
    said = {word: (words.mark(word), words.tone(word)) for word in TROUBLE}
    assert said == {
        "fails": ("✗ fails", "bad"), "lost": ("✗ lost", "bad"), "differs": ("! differs", "warn"),
        "not_checked": ("? not checked", "dim"), "loads": ("✓ loads", "good"), "identical": ("✓ identical", "good"),
    }  # fmt: skip


def test_a_terminal_gets_a_line_every_few_seconds_and_the_last_one() -> None:
    lines: list[str] = []
    progress = Progress(tell=lines.append)
    for tenth in range(201):
        progress(tenth * 5, 1000, tenth * 1_000_000, tenth / 10, note="with ZenML 0.98.0")
    assert lines == [
        "0 % · 0 of 1,000 artifact versions · with ZenML 0.98.0",
        *(
            f"{share} % · {share * 10} of 1,000 artifact versions · 50 a second · 10.0 MB a second · about {left} left"
            " · with ZenML 0.98.0"
            for share, left in ((25, "15 s"), (50, "10 s"), (75, "5.0 s"))
        ),
        "100 % · 1,000 of 1,000 artifact versions · 50 a second · 10.0 MB a second · done in 20 s · with ZenML 0.98.0",
    ]


def test_what_an_interrupted_check_had_done_is_no_speed() -> None:
    lines: list[str] = []
    progress = Progress(tell=lines.append)
    progress(900, 1000, 0, 0.0)
    progress(920, 1000, 0, 10.0)
    assert lines[-1] == "92 % · 920 of 1,000 artifact versions · 2.0 a second · about 40 s left"


def test_a_store_without_artifacts_is_done_at_once() -> None:
    lines: list[str] = []
    Progress(tell=lines.append)(0, 0, 0, 0.0)
    assert lines == ["0 of 0 artifact versions · done in 0.0 s"]


def test_a_notebook_shows_progress_in_one_place_and_keeps_its_last_line(tmp_path: Path) -> None:
    v4: Any = nbformat.v4
    run = Run.create(plan.make({"out": str(tmp_path)}), "0.60.0", "0.98.0")
    code = "from zenml_upgrade_kit import show\nprogress = show.progress()\n"
    code += "for done in range(2001):\n    progress(done, 2000, done * 1000, done / 100, '<b>')"
    notebook = v4.new_notebook(
        cells=[v4.new_markdown_cell("# Artifacts"), v4.new_code_cell(code)],
        metadata={"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
    )
    made = run.folder / "notebooks" / "40_artifacts.ipynb"
    made.parent.mkdir()
    (tmp_path / "in.ipynb").write_text(v4.writes(notebook), encoding="utf-8")
    workbook.execute(tmp_path / "in.ipynb", made, {}, tmp_path)
    outputs = nbformat.read(made, as_version=4).cells[-1].outputs  # type: ignore[no-untyped-call]
    line = "100 % · 2,000 of 2,000 artifact versions · 100 a second · 100 kB a second · done in 20 s · "
    assert [output.data["text/plain"] for output in outputs] == [f"{line}<b>"]
    report.write(run)
    assert f"<p>{line}&lt;b&gt;</p>" in (run.folder / "40_artifacts.html").read_text(encoding="utf-8")
