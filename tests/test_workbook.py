"""The workbook: real papermill and real kernels, with notebooks small enough to read here."""

import json
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

from zenml_upgrade_kit import plan, runs, workbook
from zenml_upgrade_kit.errors import BadPlan, RunUnusable
from zenml_upgrade_kit.findings import Status
from zenml_upgrade_kit.runs import REHEARSAL, Run

PASSES = "step.finish(step.result(facts={'by': 'notebook'}))"
BLOCKS = (
    "from zenml_upgrade_kit.findings import Finding, Severity\n"
    "step.finish(step.result([Finding(id='DB004', severity=Severity.BLOCK, subject='run', message='half')]))"
)
CANNOT = (
    "from zenml_upgrade_kit.errors import KitError\n"
    "raise KitError('no disk', expected='space', found='none', remedy='make some')"
)
CRASHES = "1 / 0"
ENDS_EARLY = "pass"

Book = Callable[..., Run]


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Book:
    """A run with a workbook whose notebooks pass, but for those that are given."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    monkeypatch.setattr(workbook, "notebooks", lambda: folder)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))

    def write(**bodies: str) -> Run:
        for name in REHEARSAL:
            parameters = nbformat.v4.new_code_cell(
                '# Fill in\nrun: str = ""  # folder', metadata={"tags": ["parameters"]}
            )
            begin = f"from zenml_upgrade_kit import runs\nstep = runs.begin('{name}', run)"
            body = bodies.get(f"s{name[:2]}", PASSES)
            cells = [parameters, *map(nbformat.v4.new_code_cell, (begin, body))]
            kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
            nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / f"{name}.ipynb")
        return Run.create(plan.make({"out": str(tmp_path / "runs"), "store": "env:CANARY"}), "0.70.0", "0.98.0")

    return write


def silent(line: str) -> None:
    """Nobody listens."""


def statuses(run: Run) -> dict[str, str]:
    return {result.step[:2]: result.status.value for result in run.results()}


def test_every_step_is_carried_out_in_order(book: Book) -> None:
    run, told = book(), list[str]()
    workbook.rehearse(run, tell=told.append)
    assert statuses(run) == dict.fromkeys(["00", "10", "20", "30", "40", "50", "60"], "pass")
    assert [line.split()[0] for line in told] == list(REHEARSAL)
    assert sorted(path.stem for path in (run.folder / "notebooks").iterdir()) == list(REHEARSAL)


def test_a_step_that_blocks_stops_the_workbook_but_not_the_decision(book: Book) -> None:
    run = book(s20=BLOCKS)
    workbook.rehearse(run, tell=silent)
    assert statuses(run) == {"00": "pass", "10": "pass", "20": "block", "60": "pass"}


def test_keep_going_carries_out_the_later_steps(book: Book) -> None:
    run = book(s10=BLOCKS, s20=CANNOT)
    workbook.rehearse(run, keep_going=True, tell=silent)
    assert statuses(run) == {**dict.fromkeys(["00", "30", "40", "50", "60"], "pass"), "10": "block", "20": "error"}


@pytest.mark.parametrize(
    ("body", "words"),
    [(CANNOT, "no disk"), (CRASHES, "division by zero"), (ENDS_EARLY, "ended without a result")],
)
def test_a_step_that_cannot_be_carried_out_leaves_a_result_that_says_so(book: Book, body: str, words: str) -> None:
    run = book(s10=body)
    workbook.rehearse(run, tell=silent)
    result = run.result("10_preflight")
    assert result is not None
    assert result.status is Status.ERROR
    assert words in result.facts["error"]
    assert run.result("20_backup") is None


def test_a_kernel_that_dies_is_a_step_that_could_not_be_carried_out(book: Book) -> None:
    run = book(s10="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    workbook.rehearse(run, tell=silent)
    result = run.result("10_preflight")
    assert result is not None
    assert result.status is Status.ERROR


def test_a_resumed_run_keeps_what_is_done_and_goes_on_from_there(book: Book) -> None:
    run = book(s20=BLOCKS)
    workbook.rehearse(run, tell=silent)
    first = run.needs("10_preflight").started
    book()
    workbook.rehearse(run, tell=silent)
    assert run.needs("10_preflight").started == first
    assert statuses(run) == dict.fromkeys(["00", "10", "20", "30", "40", "50", "60"], "pass")


def test_a_resumed_run_carries_out_again_what_follows_a_missing_step(book: Book) -> None:
    run = book()
    workbook.rehearse(run, tell=silent)
    (run.folder / "results" / "30_rehearsal.json").unlink()
    (run.folder / "results" / "40_artifacts.json").write_text(json.dumps({"stale": True}))
    workbook.rehearse(run, tell=silent)
    assert run.needs("40_artifacts").facts["by"] == "notebook"


def test_a_step_whose_result_is_damaged_is_carried_out_again(book: Book) -> None:
    run = book()
    workbook.rehearse(run, tell=silent)
    (run.folder / "results" / "10_preflight.json").write_text("{")
    workbook.rehearse(run, tell=silent)
    assert run.needs("10_preflight").facts["by"] == "notebook"


def test_a_kernel_that_does_not_start_is_a_step_that_could_not_be_carried_out(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_kernel(*_: object) -> None:
        raise RuntimeError("Kernel didn't respond in 60 seconds")

    monkeypatch.setattr(workbook, "execute", no_kernel)
    result = workbook.carry_out(book(), "00_start")
    assert (result.status, "60 seconds" in result.facts["error"]) == (Status.ERROR, True)


def test_a_rehearsal_that_ends_with_an_error_lets_others_in(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    run = book()
    monkeypatch.setattr(workbook, "carry_out", interrupted)
    with pytest.raises(KeyboardInterrupt):
        workbook.rehearse(run, tell=silent)
    assert run.work / "rehearsal.lock" not in runs._HELD


def test_secrets_do_not_stay_in_the_executed_notebook(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY", "s3cr3t-canary")
    run = book(s00="import os\nprint(os.environ['CANARY'])\nraise ValueError(os.environ['CANARY'])")
    workbook.rehearse(run, tell=silent)
    files = [path for path in run.folder.rglob("*") if path.is_file()]
    assert not [path for path in files if "s3cr3t-canary" in path.read_text(encoding="utf-8")]
    assert "[redacted]" in (run.folder / "notebooks" / "00_start.ipynb").read_text(encoding="utf-8")


def test_a_parameter_that_the_notebook_does_not_have_is_refused(book: Book, tmp_path: Path) -> None:
    run = book()
    with pytest.raises(BadPlan, match="has no parameter targt"):
        workbook.carry_out(run, "00_start", {"targt": "0.98.0"})
    assert not (run.folder / "notebooks").exists()


def test_a_notebook_that_is_not_there_is_named(book: Book) -> None:
    with pytest.raises(RunUnusable, match="no notebook 85_other"):
        workbook.carry_out(book(), "85_other")


def test_the_kernel_takes_nothing_from_the_users_jupyter(
    book: Book, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("raise SystemExit('the user\\'s start-up file was run')")
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({"argv": ["/bin/false"], "display_name": "x", "language": "python"}))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "jupyter"))
    assert workbook.carry_out(book(), "00_start").status is Status.PASS


LATE = "import atexit, logging\natexit.register(logging.getLogger('tornado.general').error, 'a socket was closed')"


def test_a_kernel_that_complains_while_it_ends_is_not_heard(book: Book, capfd: pytest.CaptureFixture[str]) -> None:
    assert workbook.carry_out(book(s00=f"{LATE}\n{PASSES}"), "00_start").status is Status.PASS
    assert capfd.readouterr().err == ""


def test_runs_begin_from_a_notebook_without_a_name_is_the_newest(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    run = book()
    monkeypatch.delenv("ZENML_UPGRADE_RUN", raising=False)
    monkeypatch.setenv("ZENML_UPGRADE_OUT", str(run.plan.out))
    assert runs.begin("10_preflight").run.folder == run.folder
