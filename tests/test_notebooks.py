"""The notebooks in git: stripped, without logic, explained, and with parameters that papermill understands."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest

from zenml_upgrade_kit import workbook
from zenml_upgrade_kit.findings import Verdict
from zenml_upgrade_kit.runs import REHEARSAL, Run

NOTEBOOKS = sorted(workbook.notebooks().glob("*.ipynb"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
LOGIC = (
    ast.For, ast.While, ast.If, ast.IfExp, ast.Try, ast.With, ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.ListComp,
    ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.BoolOp, ast.Compare, ast.Assert, ast.Raise,
)  # fmt: skip


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]


def cells(path: Path, kind: str = "") -> list[Any]:
    return [cell for cell in read(path).cells if cell.cell_type == kind or not kind]


def parameters(path: Path) -> Any:
    return next(cell for cell in cells(path) if "parameters" in cell.metadata.get("tags", ()))


def test_there_is_a_notebook_for_every_step() -> None:
    assert {*REHEARSAL, "90_rollback"} <= {path.stem for path in NOTEBOOKS}


def test_notebooks_are_stripped() -> None:
    command = [sys.executable, "-m", "nbstripout", "--keep-id", "--verify", *map(str, NOTEBOOKS)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@each_notebook
def test_a_cell_asks_and_the_package_does(path: Path) -> None:
    for cell in cells(path, "code"):
        assert len(cell.source.splitlines()) <= 10 or "parameters" in cell.metadata.get("tags", [])
        assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, LOGIC)], cell.source


@each_notebook
def test_every_verb_that_a_notebook_asks_for_is_there(path: Path) -> None:
    nodes = [node for cell in cells(path, "code") for node in ast.walk(ast.parse(cell.source))]
    imports = [node for node in nodes if isinstance(node, ast.ImportFrom)]
    modules = {name.name: f"{node.module}.{name.name}" for node in imports for name in node.names}
    assert modules
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            assert callable(getattr(importlib.import_module(modules[node.value.id]), node.attr))


@each_notebook
def test_words_come_before_every_cell(path: Path) -> None:
    first, *others = cells(path)
    assert first.source.startswith("# ")
    for before, cell in zip([first, *others], others, strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown"
            assert before.source.startswith("## ")
            assert len(before.source.split()) > 12


@each_notebook
def test_every_parameter_has_a_type_a_default_and_help(path: Path) -> None:
    first = cells(path, "code")[0]
    assert first == parameters(path)
    named = [ast.unparse(node.target) for node in ast.parse(first.source).body if isinstance(node, ast.AnnAssign)]
    understood = papermill.inspect_notebook(str(path))
    assert list(understood) == named
    assert "run" in named
    for found in understood.values():
        assert found["inferred_type_name"] in {"str", "bool", "int"}
        assert len(found["help"]) > 20
        assert found["default"] in {'""', "False", "0"}


@each_notebook
def test_ipython_takes_parameters_for_what_they_are(path: Path) -> None:
    """``run: str = ""`` alone in a cell would be IPython's magic ``%run``."""
    code = "import sys; from IPython.core.interactiveshell import InteractiveShell as Shell; "
    code += "sys.exit(not Shell.instance().run_cell(sys.stdin.read()).success)"
    ended = subprocess.run(
        [sys.executable, "-c", code], input=parameters(path).source, text=True, capture_output=True, check=False
    )
    assert ended.returncode == 0, ended.stdout


@each_notebook
def test_any_jupyter_can_open_it(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)


@each_notebook
def test_the_last_cell_keeps_the_result(path: Path) -> None:
    assert cells(path, "code")[-1].source == "step.finish(result)"


def test_the_notebooks_run_by_hand_with_their_defaults(deployment: Callable[..., Path], tmp_path: Path) -> None:
    """As in JupyterLab: one after the other, in a kernel each, choices from environment variables; 90 only looks."""
    store = deployment("0.70.0")
    database = store / "local_stores" / "default_zen_store" / "zenml.db"
    before = database.read_bytes()
    choices = {"STORE": store, "CODE": store.parent / "code", "TO": "0.98.0", "OUT": tmp_path / "runs"}
    options = (
        f"-p no:cacheprovider --rootdir {tmp_path} --nbval-lax --nbval-current-env --nbval-cell-timeout=1800".split()
    )
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, *map(str, NOTEBOOKS)],
        env={**os.environ, **{f"ZENML_UPGRADE_{name}": str(value) for name, value in choices.items()}},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:]
    run = Run.newest(tmp_path / "runs")
    assert {*REHEARSAL, "90_rollback"} == {result.step for result in run.results()}
    assert run.verdict() in {Verdict.GO, Verdict.GO_WITH_WARNINGS}
    assert database.read_bytes() == before
