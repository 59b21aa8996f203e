"""The house: who may import whom, what the package ships, and that its two lists of dependencies agree."""

import ast
import re
import sys
from pathlib import Path

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "zenml_upgrade_kit"
FLOORS = [
    {"choices", "errors", "findings", "redact", "words"},
    {"packing", "places", "plan", "releases", "runs"},
    {"archive", "checks", "environments", "managed", "probing", "proof", "pythons", "recipes", "schedule", "stores"},
    {"artifacts", "backup", "decision", "demo", "drill", "inventory", "preflight", "rehearsal", "restore", "retention"}
    | {"smoke", "upgrade"},
    {"tables"},
    {"artifact_views", "rehearsal_views"},
    {"report", "show", "terminal"},
    {"workbook"},
    {"artifact_commands", "backup_commands", "copy_commands"},
    {"cli", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def rooms_imported(module: Path) -> set[str]:
    """First names below zenml_upgrade_kit that a module imports, at any depth of its code."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE.name:
            below = (node.module or "").split(".")[1:]
            found |= set(below[:1]) if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith(f"{PACKAGE.name}.")}
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module}: relative import"
    return found - {"__version__"}


MODULES = [path for path in PACKAGE.rglob("*.py") if not {"probes", "sample"} & set(path.relative_to(PACKAGE).parts)]


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_up_the_house(module: Path) -> None:
    room = module.relative_to(PACKAGE).with_suffix("").parts[0]
    if room == "__init__":
        assert not rooms_imported(module)
        return
    assert {other for other in rooms_imported(module) if FLOOR[other] > FLOOR[room]} == set()


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_probes_import_zenml(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not [name for name in names if name.split(".")[0] == "zenml"]


@pytest.mark.parametrize("probe", sorted((PACKAGE / "probes").glob("*.py")), ids=lambda path: path.stem)
def test_a_probe_is_python_3_8_and_starts_from_the_standard_library(probe: Path) -> None:
    tree = ast.parse(probe.read_text(encoding="utf-8"), feature_version=(3, 8))
    top = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = {alias.name.split(".")[0] for node in top if isinstance(node, ast.Import) for alias in node.names}
    names |= {(node.module or "").split(".")[0] for node in top if isinstance(node, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names)


def requirements() -> dict[str, str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return dict(line.split(">=") for line in project["dependencies"])


def test_conda_users_get_the_same_floors() -> None:
    listed = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))["dependencies"]
    pip = next(item["pip"] for item in listed if isinstance(item, dict))
    floors = dict(item.split(">=") for item in [*listed, *pip] if isinstance(item, str) and ">=" in item)
    assert floors.pop("python") == "3.10,<3.14"
    assert floors.pop("nbval") == "0.11"
    assert floors == requirements()


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in requirements():
        assert re.search(rf'"{re.escape(name)}>=[^"]+",\s+# \w+', text), name
