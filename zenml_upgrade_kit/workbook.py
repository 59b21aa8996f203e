"""The ordered notebooks: papermill, resume, stop on failure."""

from __future__ import annotations

import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import plan as plans
from zenml_upgrade_kit import preflight
from zenml_upgrade_kit.errors import BadPlan, RunUnusable, StepFailed
from zenml_upgrade_kit.findings import Status, StepResult, now
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import REHEARSAL, Run, Step, write_whole

QUIET = [
    "--IPKernelApp.log_level=50",
    "--IPKernelApp.exec_lines=__import__('logging').getLogger('tornado').setLevel('CRITICAL')",
]
"""A kernel that is told to end while it answers would complain on our stderr; what cells raise comes back anyway."""
GOOD = {Status.PASS, Status.WARN, Status.NOT_CHECKED}


def notebooks() -> Path:
    """The folder with the notebooks: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    return here / "notebooks" if (here / "notebooks").is_dir() else here.parent / "notebooks"


def start(*, run: str | Path = "", plan_file: str | Path = "", **values: Any) -> Step:
    """Begin 00_start: a new run for the plan file and the values that win over it, or an earlier run to continue."""
    chosen = run or ("" if any([plan_file, *values.values()]) else os.environ.get("ZENML_UPGRADE_RUN", ""))
    if chosen:
        return Run.open(Path(chosen)).begin("00_start")
    made = plans.read(Path(plan_file), values) if plan_file else plans.make(values, origin="the parameters")
    return preflight.start(made).begin("00_start")


def rehearse(run: Run, *, keep_going: bool = False, tell: Callable[[str], None] = print) -> list[StepResult]:
    """Carry out the rehearsal's steps that have no good result yet, and those after them; the decision always.

    Stops at the first step that blocks or cannot be carried out, unless ``keep_going``. ``tell`` gets one line a step.
    """
    run.hold("rehearsal")
    try:
        done = _done(run)
        for step in done:
            tell(f"{step:<14} kept from the earlier attempt")
        results = [result for step in done if (result := run.result(step))]
        run.forget(REHEARSAL[len(done)])
        stopped = False
        for step in REHEARSAL[len(done) :]:
            if stopped and step != REHEARSAL[-1]:
                continue
            tell(f"{step:<14} …")
            result = carry_out(run, step)
            results.append(result)
            stopped = stopped or (result.status not in GOOD and not keep_going)
    finally:
        run.release("rehearsal")
    return results


def _done(run: Run) -> tuple[str, ...]:
    """The first steps in a row that have a good result; the decision is always made again.

    A rehearsal whose copies are gone is done again where a later step needs them.
    """

    def good(step: str) -> bool:
        try:
            result = run.result(step)
        except RunUnusable:  # a damaged one; the step is carried out again
            return False
        return result is not None and result.status in GOOD

    done, rehearsed = tuple(takewhile(good, REHEARSAL[:-1])), REHEARSAL.index("30_rehearsal")
    if rehearsed < len(done) < len(REHEARSAL) - 1:
        try:
            with copies.reopen(run):
                return done
        except RunUnusable:
            return done[:rehearsed]
    return done


def carry_out(run: Run, step: str, parameters: Mapping[str, Any] | None = None) -> StepResult:
    """Execute one notebook of the workbook for a run; its outputs are archived without secrets, its result returned.

    A notebook that could not do its work leaves a result with status ``error``.
    """
    from nbclient.exceptions import DeadKernelError

    papermill = _papermill()
    archived = run.folder / "notebooks" / f"{step}.ipynb"
    executed = run.work / f"{step}.ipynb"  # private until it is scrubbed
    error, started, clock = "", now(), time.monotonic()
    try:
        execute(notebooks() / f"{step}.ipynb", executed, {"run": str(run.folder), **(parameters or {})}, run.folder)
    except papermill.exceptions.PapermillExecutionError as raised:
        if raised.ename != StepFailed.__name__:
            error = str(raised.evalue) or raised.ename
    except DeadKernelError:
        error = "the notebook's process was ended from outside, perhaps for want of memory"
    except RuntimeError as raised:  # of nbclient, when no kernel starts
        error = f"the notebook's process did not start: {raised}"
    finally:
        if executed.exists():
            text = json.dumps(run.redactor.json(json.loads(executed.read_text(encoding="utf-8"))), indent=1)
            write_whole(archived, text + "\n")
            executed.unlink()
    result = run.result(step)
    if error or result is None:
        error = error or f"the notebook {step} ended without a result"
        return run.fail(step, error, started=started, seconds=time.monotonic() - clock)
    return result


def execute(notebook: Path, output: Path, parameters: Mapping[str, Any], folder: Path) -> None:
    """Run a notebook with papermill in a folder; parameters that it does not have are refused.

    The kernel is this interpreter's, with a Jupyter and IPython configuration of its own.
    """
    from traitlets.config import Config

    papermill = _papermill()
    if not notebook.is_file():
        raise RunUnusable(
            f"there is no notebook {notebook.name}",
            expected=f"one of {', '.join(sorted(path.stem for path in notebooks().glob('*.ipynb')))}",
            found=str(notebook),
            remedy="install the kit again; the notebooks travel with the package",
        )
    known = papermill.inspect_notebook(str(notebook))
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise BadPlan(
            f"{notebook.name} has no parameter {', '.join(unknown)}",
            expected=f"one of {', '.join(known) or 'none'}",
            found=", ".join(unknown),
            remedy=f"papermill --help-notebook {notebook.name} lists them",
        )
    with _own_jupyter():
        papermill.execute_notebook(
            str(notebook),
            str(output),
            dict(parameters),
            kernel_name="python3",
            progress_bar=False,
            cwd=str(folder),
            config=Config(
                {
                    "KernelManager": {"transport": "tcp" if os.name == "nt" else "ipc"},
                    "NotebookClient": {"extra_arguments": QUIET},
                }
            ),
        )


def _papermill() -> Any:
    """It imports the clients of every cloud that are installed, and some of them print warnings then."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import papermill.exceptions
    return papermill


@contextmanager
def _own_jupyter() -> Iterator[None]:
    """Keep the user's kernels and IPython start-up files out; the runtime path stays short, as ipc needs."""
    with tempfile.TemporaryDirectory(prefix="zuk-") as folder:
        own = {f"JUPYTER_{kind}_DIR": os.path.join(folder, kind.lower()) for kind in ("DATA", "RUNTIME", "CONFIG")}
        own["IPYTHONDIR"] = os.path.join(folder, "ipython")
        before = {name: os.environ.get(name) for name in own}
        os.environ.update(own)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
