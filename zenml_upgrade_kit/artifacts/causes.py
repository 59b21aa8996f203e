"""Why an artifact version fails or differs: what is to blame, what would fix it; alike for all that share a cause."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from packaging.utils import canonicalize_name

from zenml_upgrade_kit import releases
from zenml_upgrade_kit.artifacts.shards import Loaded
from zenml_upgrade_kit.errors import KitError
from zenml_upgrade_kit.probing import Environment
from zenml_upgrade_kit.recipes import LIBRARIES

RESTORE = "Restore the file from a backup: a copy of the artifact store."
INSIDE = "Use the original local stores folder, or rewrite uris and nested metadata.json files."
READ = "Run the kit as a user who may read the artifact store."
AGAIN = "Run the step again under the new release."
BEFORE = "Give your --code and --requirements if it loads for you; otherwise it was broken before the upgrade."

_MODULE = re.compile(r"No module named '([^']+)'")
_NAMES = (  # a module and what it lacks
    re.compile(r"attribute '(?P<name>[^']+)' on <module '(?P<module>[^']+)'"),
    re.compile(r"module '(?P<module>[^']+)' has no attribute '(?P<name>[^']+)'"),
    re.compile(r"cannot import name '(?P<name>[^']+)' from '(?P<module>[^']+)'"),
)
_BYTECODE = re.compile(r"\bcode\(\) |code expected|_DataclassParams|bad marshal data|unknown opcode|^SystemError")
_CUT = re.compile(
    r"(EOFError|UnpicklingError|JSONDecodeError|ArrowInvalid|BadZipFile|BadGzipFile|EmptyDataError|error):"
)
_OF_PANDAS = re.compile(r"datetime64|category|\bcolumn|\bindex|\b(object|str|float64|int64) (with \w+ )?became")
_STANDARD = {*sys.stdlib_module_names, "asynchat", "asyncore", "cgi", "crypt", "distutils", "imp", "lib2to3", "pipes"}
_LIMITS = {
    "did not load within": ("the time limit of one artifact", "Raise artifacts: timeout: in the plan."),
    "MemoryError": ("the memory limit of a loading process", "Raise artifacts: memory: in the plan."),
    "the loading process ended by SIGKILL": ("it was killed, for want of memory", "Load it on a larger machine."),
}


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Equal for all artifact versions that fail or differ for the same reason.

    id: of the catalogue of checks. kind: ``python``, ``library``, ``module``, ``zenml``, ``file``, ``store``,
    ``limit`` or ``unknown``. blame: ``scikit-learn 1.3.0 → 1.9.1``. pins: requirement lines that would make it load.
    """

    id: str
    kind: str
    blame: str
    remedy: str
    pins: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Case:
    row: Mapping[str, Any]
    look: Mapping[str, Any]
    old: Loaded
    new: Loaded
    outcome: str
    difference: str
    source: Environment
    target: Environment

    @property
    def id(self) -> str:
        missing = {"materializer": "AR601", "data type": "AR602"}
        return "AR606" if self.outcome == "differs" else missing.get(self.new.missing, "AR604")

    @property
    def fails(self) -> bool:
        """Also of what only the static look was at."""
        return self.outcome in ("fails", "not_checked")

    @property
    def ended(self) -> str:
        """The signal or the exit code that a load or a call ended with."""
        found = re.search(r"ended (?:by|with) (.+)", self.new.error or self.new.called)
        return found[1] if found else ""

    @property
    def python(self) -> str:
        return bound(self.look, self.source, self.target)

    def library(self, module: str) -> tuple[str, str, str] | None:
        """Distribution, version there was and version there is ("": not installed); None where these are the same."""
        root, data_type = module.split(".")[0], self.row["data_type"]
        name, recorded = LIBRARIES.get(root, root), ""
        if _root(data_type) == root:
            name, recorded = data_type.get("package_name") or name, str(data_type.get("version") or "")
        name = str(canonicalize_name(name))
        was, now = self.source.packages.get(name, ""), self.target.packages.get(name, "")
        was = was if self.old.ok and was else recorded or was
        return (name, was, now) if was and was != now and root not in ("zenml", "cloudpickle") else None

    def suspect(self) -> tuple[str, str, str] | None:
        """The likeliest library to be blamed, of those that changed."""
        told = [self.new.where, self.row["data_type"]["module"], self.new.type]
        told += ["pandas"] if _OF_PANDAS.search(self.difference) else []
        roots = sorted(self.look.get("roots", ()), key=lambda root: (root in ("numpy", "pandas"), root))
        return next((found for module in [*told, *roots] if (found := self.library(str(module)))), None)


def cause(
    row: Mapping[str, Any],
    look: Mapping[str, Any],
    old: Loaded,
    new: Loaded,
    outcome: str,
    difference: str,
    source: Environment,
    target: Environment,
) -> Cause | None:
    """Why an artifact version has this outcome; None when it loads and nothing speaks against it.

    row: as of the selection. look: what the static look found, may be empty. old, new: what both environments made of
    it. difference: of the comparison.
    """
    case = _Case(
        row=row, look=look, old=old, new=new, outcome=outcome, difference=difference, source=source, target=target
    )
    judges = (_files, _missing, _bytecode, _pydantic, _changed_library, _python, _skew)
    found = next((found for judge in judges if (found := judge(case))), None)
    if not found and outcome in ("identical", "loads"):
        return None
    found = found or _remaining(case)
    if outcome == "fails" and not old.ok and found.kind in ("module", "library", "unknown", "zenml"):
        return replace(found, remedy=BEFORE)
    return found


def proven(cause: Cause, helped: bool, source: Environment, target: Environment) -> Cause:
    """The cause after a load by the target with the source's libraries: its pins help, or others are to blame."""
    if helped:
        said = f"with the source's libraries ZenML {target.version} loads it as before"
        return replace(cause, remedy=f"{cause.remedy.rstrip('.')}; {said}.")
    if _minor(source) != _minor(target):
        return _of_python(cause.id, _minor(source), target)
    return _of_zenml(cause.id, source, target)


def bound(look: Mapping[str, Any], source: Environment, target: Environment) -> str:
    """The Python that code by value is bound to (``3.10``, ``3.8 to 3.10``); "" when it is the target's."""
    written = look.get("python") or _minor(source)
    first, _, last = written.partition(" to ")
    among = _number(first) <= _number(_minor(target)) <= _number(last or first)
    return "" if among or not look.get("by_value") else written


def _files(case: _Case) -> Cause | None:
    """Files that are gone, damaged or out of reach, and the kit's own limits."""
    problem, error = case.look.get("problem", ""), case.new.error
    name, _, what = problem.partition(" ")
    damage = "is cut short" if what.startswith("ends") else re.split(r" at |:", what)[0]
    broken = case.fails and not case.old.ok  # else the source could read it
    judged: tuple[tuple[object, str, str, str, str], ...] = (
        (case.outcome == "lost" or "No such file" in problem, "AR607", "file", "its files are gone", RESTORE),
        ("artifact store bounds" in error, "AR603", "store", "it lies outside its artifact store", INSIDE),
        ("cannot be read: " in problem, "AR612", "store", "its files cannot be read", READ),
        ("recorded content hash" in error, "AR608", "file", "a file is not the one that was written", RESTORE),
        (problem and (broken or not case.fails), "AR608", "file", f"{name} {damage}", RESTORE),
        (broken and error.startswith("FileNotFoundError"), "AR607", "file", "some of its files are gone", RESTORE),
        (broken and _CUT.match(error), "AR608", "file", "a file is cut or damaged", RESTORE),
        *((error.startswith(start), "AR604", "limit", *said) for start, said in _LIMITS.items()),
    )
    found = next((said for holds, *said in judged if holds), None)
    return Cause(id=found[0], kind=found[1], blame=found[2], remedy=found[3]) if found else None


def _missing(case: _Case) -> Cause | None:
    """A module, or a name in one, that the target does not have: a library's, Python's, ZenML's or the user's."""
    if not case.fails:
        return None
    error, look = case.new.error, case.look.get("missing") or [""]
    gone, name = _MODULE.search(error), next((found for one in _NAMES if (found := one.search(error))), None)
    role = str(case.row[case.new.missing.replace(" ", "_")]["module"]) if case.new.missing else ""
    module = gone[1] if gone else name["module"] if name else role or ("" if error else look[0].split(".")[0])
    root = module.split(".")[0]
    changed = case.library(module) or (case.suspect() if root.startswith("_") and root != "__main__" else None)
    if changed:  # a compiled part of scikit-learn calls itself _loss
        return _of_library(case, *changed)
    if root == "zenml":
        return _of_zenml(case.id, case.source, case.target)
    if root == "__main__":
        remedy = "Move its class from the script that runs into a module, give --code, and run the step again."
        return Cause(id=case.id, kind="module", blame="its class was in the script that ran", remedy=remedy)
    if root in _STANDARD:
        return _of_python(case.id, _minor(case.source), case.target) if _minors_differ(case) else None
    if not root or (not gone and canonicalize_name(LIBRARIES.get(root, root)) in case.target.packages):
        return None
    remedy = f"Give --code with the directory that holds {root}, or --requirements if it is a package."
    blame = f"{module} has no {name['name']}" if name and not gone else f"{module} cannot be imported"
    return Cause(id=case.id, kind="module", blame=blame, remedy=remedy)


def _bytecode(case: _Case) -> Cause | None:
    """Code that this Python refuses, or that ends the process."""
    if not case.fails or case.outcome == "not_checked":
        return None
    if (_BYTECODE.search(case.new.error) and _minors_differ(case)) or (case.python and (case.ended or case.new.ok)):
        return _of_python("AR605", case.python or _minor(case.source), case.target)
    return None


def _pydantic(case: _Case) -> Cause | None:
    changed = case.library("pydantic") if case.look.get("pydantic1") and case.outcome in ("differs", "fails") else None
    if not changed or changed[1].split(".")[0] == changed[2].split(".")[0]:
        return None
    remedy = "Write it again as JSON with the old release: zenml-upgrade rescue."
    return Cause(id="AR610", kind="library", blame=_change(*changed), remedy=remedy)


def _changed_library(case: _Case) -> Cause | None:
    changed = case.suspect() if case.outcome in ("fails", "differs") else None
    return _of_library(case, *changed) if changed else None


def _python(case: _Case) -> Cause | None:
    """Code by value that nothing else is wrong with; loading it is not enough, but a call that returned is."""
    if not case.python or (case.outcome == "identical" and case.new.called.startswith("returned")):
        return None
    return _of_python("AR605", case.python, case.target)


def _skew(case: _Case) -> Cause | None:
    """It loads, its content could not be compared, and its library was of another major version, or of none known."""
    data_type = case.row["data_type"]
    name = str(canonicalize_name(data_type.get("package_name") or LIBRARIES.get(_root(data_type), _root(data_type))))
    was, now = str(data_type.get("version") or ""), case.target.packages.get(name, "")
    if case.outcome != "loads" or not now or name == "zenml" or was.split(".")[0] == now.split(".")[0]:
        return None
    blame = _change(name, was or "of unknown version", now)
    return Cause(id="AR609", kind="library", blame=blame, remedy="Look at the value yourself before you rely on it.")


def _remaining(case: _Case) -> Cause:
    if case.outcome == "not_checked" and not (case.new.error.partition(":")[0].endswith("Error") or case.new.missing):
        remedy = "Raise the limit that left it out, or load it by hand."
        return Cause(id="AR612", kind="limit", blame="it was not loaded", remedy=remedy)
    if case.ended:
        blame = f"it ends the process that {'uses' if case.new.ok else 'loads'} it ({case.ended})"
        return Cause(id=case.id, kind="unknown", blame=blame, remedy=AGAIN)
    if case.old.ok and case.outcome == "fails" and not case.new.where and not case.new.ok:
        return _of_zenml(case.id, case.source, case.target)
    blame = f"{case.new.error.partition(':')[0] or 'another value'}{f' in {case.new.where}' * bool(case.new.where)}"
    return Cause(id=case.id, kind="unknown", blame=blame, remedy=AGAIN)


def _of_library(case: _Case, name: str, was: str, now: str) -> Cause:
    pin = f"{name}=={was}"
    remedy = f"Pin {pin}, or accept the difference and note it." if case.outcome == "differs" else ""
    remedy = remedy or (f"Pin {pin}, or run the step again." if now else f"Add {pin} to the requirements.")
    return Cause(id=case.id, kind="library", blame=_change(name, was, now), remedy=remedy, pins=(pin,))


def _of_python(identity: str, written: str, target: Environment) -> Cause:
    try:
        keeps = releases.get(target.version).supports_python(written.rpartition(" ")[2])
    except KitError:
        keeps = True
    keep = f"Keep Python {written}" if keeps else f"ZenML {target.version} does not run on Python {written}: rescue it"
    blame = f"Python {written} → {_minor(target)}"
    return Cause(id=identity, kind="python", blame=blame, remedy=f"{keep}, or run the step again.")


def _of_zenml(identity: str, source: Environment, target: Environment) -> Cause:
    remedy = "Save it with the old release in another format: zenml-upgrade rescue; or run the step again."
    return Cause(id=identity, kind="zenml", blame=f"ZenML {source.version} → {target.version}", remedy=remedy)


def _change(name: str, was: str, now: str) -> str:
    return f"{name} {was} → {now or 'not installed'}"


def _root(source: Mapping[str, Any]) -> str:
    return str(source["module"]).split(".")[0]


def _minors_differ(case: _Case) -> bool:
    return bool(case.python) or _minor(case.source) != _minor(case.target)


def _minor(environment: Environment) -> str:
    return ".".join(environment.python_version.split(".")[:2])


def _number(minor: str) -> tuple[int, ...]:
    return tuple(int(part) for part in minor.split(".") if part.isdigit())
