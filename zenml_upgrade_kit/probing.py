"""Runs a probe or a command inside an environment, shut off from the user's ZenML, and leaves nothing running."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import redact
from zenml_upgrade_kit.errors import EnvironmentFailed, ProbeFailed

WINDOWS = os.name == "nt"
_SERVER = re.compile(r"(mysql|mariadb)[+\w]*://", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Environment:
    """An interpreter that imports one ZenML release.

    origin: ``built``, ``cached`` (built earlier) or ``given`` (the user's own interpreter).
    packages: version of every installed distribution, by normalized name. notes: what was chosen and why, in sentences.
    """

    version: str
    python: Path
    python_version: str
    packages: Mapping[str, str]
    origin: str
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As in the facts of the preflight."""
        return {**asdict(self), "python": str(self.python)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Environment:
        """Inverse of :meth:`to_json`."""
        return cls(**{**value, "python": Path(value["python"]), "notes": tuple(value["notes"])})


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a process ended. returncode is negative for a signal; log holds stdout and stderr."""

    returncode: int
    timed_out: bool
    seconds: float
    log: Path

    def last_lines(self, lines: int = 15) -> str:
        """The end of what the process printed."""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def run_probe(
    environment: Environment,
    probe: str,
    request: Mapping[str, Any],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    timeout: float,
) -> dict[str, Any]:
    """The reply of ``probes/<probe>.py`` to a JSON request; raises :class:`ProbeFailed` when there is none.

    folder: see :func:`run_command`; also keeps ``<probe>.request.json`` and ``<probe>.reply.json``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    asked, reply = folder / f"{probe}.request.json", folder / f"{probe}.reply.json"
    asked.write_text(json.dumps(request), encoding="utf-8")
    reply.unlink(missing_ok=True)
    ended = run_probe_process(
        environment, probe, [str(asked), str(reply)], folder=folder, variables=variables, timeout=timeout
    )
    try:
        if ended.returncode == 0:
            value: dict[str, Any] = json.loads(reply.read_text(encoding="utf-8"))
            return value
        found = f"no answer in {timeout:g} s" if ended.timed_out else f"exit code {ended.returncode}"
    except (OSError, ValueError):
        found = "no readable reply"
    raise ProbeFailed(
        f"the probe {probe} of ZenML {environment.version} failed; its log is {ended.log}",
        expected=f"an answer within {timeout:g} s",
        found=f"{found}; it said last: {redact.url(ended.last_lines())}",
        remedy="read the log; if the interpreter is broken, delete its environment and try again",
    )


def run_probe_process(
    environment: Environment,
    probe: str,
    arguments: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    timeout: float,
) -> Ended:
    """Run ``probes/<probe>.py``; for a probe that may die, or that writes its reply line by line."""
    script = Path(__file__).parent / "probes" / f"{probe}.py"
    command = [str(environment.python), "-I", str(script), *arguments]
    return run_command(environment, command, folder=folder, variables=variables, timeout=timeout, log=f"{probe}.log")


def run_command(
    environment: Environment,
    command: Sequence[str],
    *,
    folder: Path,
    variables: Mapping[str, str] | None = None,
    timeout: float,
    cwd: Path | None = None,
    log: str = "command.log",
) -> Ended:
    """Run a command, the environment first on PATH, shut off from the user's ZenML; the one place that does so.

    folder: scratch for its ZenML configuration, stores and HOME, and for the log that stdout and stderr are appended
    to. variables: added to, and winning over, what is inherited. timeout: seconds; then the whole process group is
    killed. The child gets its own process group, which ends with it, so that nothing stays behind; when this process
    is killed, the child ends with it where Linux can do that. Of a store on a server no configuration is kept.
    """
    (folder / "home").mkdir(parents=True, exist_ok=True)
    path = folder / log
    began = time.monotonic()
    timed_out = False
    with path.open("ab") as output:
        surroundings = {**_surroundings(environment.python, folder), **(variables or {})}
        streams = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        process = _start(environment.version, command, cwd or folder, surroundings, **streams)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:  # also when we are interrupted
            end(process)
            if _SERVER.match(surroundings.get("ZENML_STORE_URL", "")):
                shutil.rmtree(folder / "config", ignore_errors=True)  # ZenML writes the password into it
    return Ended(returncode=process.returncode, timed_out=timed_out, seconds=time.monotonic() - began, log=path)


def start(
    version: str, command: Sequence[str], *, folder: Path, log: Path, variables: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """A process that is asked on its stdin and answers on its stdout; otherwise as :func:`run_command` starts one.

    version: ZenML release, for messages. command: the interpreter first. Credentials are not among its environment
    variables. When the thread that calls this ends, Linux ends the process.
    """
    (folder / "home").mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in _surroundings(Path(command[0]), folder).items() if not _secret(name, value)}
    with log.open("ab") as output:
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": output}
        return _start(version, command, folder, {**kept, **variables}, **streams)


def _secret(name: str, value: str) -> bool:
    return name.startswith(("AWS_", "AZURE_", "GOOGLE_")) or bool(redact.secrets_in(value, name))


def _start(
    version: str, command: Sequence[str], cwd: Path, variables: Mapping[str, str], **streams: Any
) -> subprocess.Popen[bytes]:
    found = shutil.which(command[0], path=variables["PATH"])  # what does not start shall say so itself
    arguments = guarded(command) if found else list(command)
    try:
        return subprocess.Popen(arguments, cwd=cwd, env=variables, start_new_session=not WINDOWS, **streams)
    except OSError as error:
        raise EnvironmentFailed(
            f"{command[0]} does not start",
            expected=f"a command that runs with ZenML {version}",
            found=error.strerror or str(error),
            remedy="correct the command; if it is the interpreter, run 10_preflight again: it builds environments",
        ) from None


def guarded(command: Sequence[str]) -> list[str]:
    """The command, as one that is killed when this process ends, however that happens, where Linux can do it."""
    guard = _guard()
    if not guard:
        return list(command)
    # this process may end before the guard stands: then the command has another parent by now, and does not begin
    return [*guard, "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid()), *command]


@cache
def _guard() -> tuple[str, ...]:
    guard = (shutil.which("setpriv") or "", "--pdeathsig", "KILL", "--")
    works = guard[0] and subprocess.run([*guard, "true"], capture_output=True, check=False).returncode == 0
    return guard if works else ()


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill what is left of the process and of its group."""
    with suppress(ProcessLookupError, PermissionError):
        if WINDOWS:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _surroundings(python: Path, folder: Path) -> dict[str, str]:
    """Environment variables without a trace of the user's ZenML, Python or notebook.

    One that holds the URL of a metadata store (``env:NAME``) is left out under any name: a probe only gets a copy's.
    """
    ours = re.compile(r"ZENML_|PYTHON|VIRTUAL_ENV|JUPYTER|JPY_|IPY|XDG_|DISABLE_DATABASE_MIGRATION$")
    store = re.compile(r"(sqlite|mysql|mariadb)[+\w]*://", re.IGNORECASE)
    kept = {name: value for name, value in os.environ.items() if not ours.match(name) and not store.match(value)}
    return {
        **kept,
        "PATH": os.pathsep.join([str(python.parent), kept.get("PATH", "")]),
        "HOME": str(folder / "home"),
        "ZENML_CONFIG_PATH": str(folder / "config"),
        "ZENML_LOCAL_STORES_PATH": str(folder / "stores"),
        "ZENML_ANALYTICS_OPT_IN": "false",
        "ZENML_LOGGING_COLORS_DISABLED": "true",
        "AUTO_OPEN_DASHBOARD": "false",
        "MPLBACKEND": "Agg",
    }
