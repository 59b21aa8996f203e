"""The nightly backup as a job of cron, systemd, Kubernetes or GitHub Actions, printed or installed; never a secret."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zenml_upgrade_kit import __version__
from zenml_upgrade_kit.errors import BadPlan, KitError, ToolMissing
from zenml_upgrade_kit.runs import write_whole

KINDS = ("cron", "systemd", "kubernetes", "github")
FOLDER = ".config/zenml-upgrade-kit"
"""Below the home directory: where cron and systemd read the variables of a job, ``NAME.env``."""
IMAGE = "python:3.12.12-slim-bookworm"
EXTRAS = {"s3://": "aws", "gs://": "gcp", "az://": "azure", "--encrypt-to": "encrypt"}
EXTRAS |= {" aws:": "aws", " gcp:": "gcp", " azure:": "azure"}
"""Optional packages by what in a command needs them."""
PACKAGES = {"": "mariadb-client", "--drill": "mariadb-server", "mydumper": "mydumper"}
"""Debian packages by the word in a command that needs them; a drill may take a private MariaDB."""
BY_HAND = "or leave out --install and put in what is printed by hand"


@dataclass(frozen=True, kw_only=True)
class Job:
    """A command that runs every day; :class:`BadPlan` for what a scheduler would not take.

    command: the program and its arguments, each option and its value apart. at: ``HH:MM``, local time for cron and
    systemd, UTC for Kubernetes and GitHub. variables: names of the environment variables that the command needs.
    name: of the job, its files and its secret.
    """

    command: tuple[str, ...]
    at: str = "02:30"
    variables: tuple[str, ...] = ()
    name: str = "zenml-upgrade-backup"

    def __post_init__(self) -> None:
        words = " ".join(self.command)
        for what, fine, expected, found in (
            ("time", re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", self.at), "HH:MM, 00:00 to 23:59", self.at),
            ("name", re.fullmatch(r"[a-z]([-a-z0-9]{0,50}[a-z0-9])?", self.name), "a-z, 0-9, -, at most 52", self.name),
            ("variables", all(re.fullmatch(r"[A-Za-z_]\w*", name, re.A) for name in self.variables), "names", "values"),
            ("command", not re.search(r"://[^/\s]*:.*@", words), "env:NAME for a URL with a password", "a password"),
            ("command", words and words.isprintable(), "a program and arguments without line breaks", repr(words)),
        ):
            if not fine:
                problem = f"the {what} of the nightly job cannot be used"
                raise BadPlan(problem, expected=expected, found=found, remedy="change it")

    @property
    def cron(self) -> str:
        """When it runs, in cron's five fields."""
        hour, minute = self.at.split(":")
        return f"{int(minute)} {int(hour)} * * *"

    @property
    def local(self) -> list[str]:
        """The command on this machine, with absolute paths: a scheduler neither searches nor works where a shell does.

        The program is the one on ``PATH``, else the one beside this interpreter.
        """
        search = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
        words = [shutil.which(self.command[0], path=search) or self.command[0], *self.command[1:]]
        for at, option in enumerate(words[:-1], start=1):
            if option in ("--store", "--place", "--out") and not re.match(r"env:|\w+://", words[at]):
                words[at] = os.path.abspath(os.path.expanduser(words[at]))
        return words

    def value(self, option: str) -> str:
        """What the command gives for an option, "" for nothing."""
        return dict(zip(self.command, (*self.command[1:], ""), strict=True)).get(option, "")


def render(kind: str, job: Job) -> dict[str, str]:
    """The text of each file of a job: what :func:`install` writes or hands over."""
    if kind not in KINDS:
        raise BadPlan("there is no such scheduler", expected=", ".join(KINDS), found=kind, remedy="choose one of these")
    if kind == "cron":
        return {f"{job.name}.cron": _crontab(job), f"{job.name}.env": _variables(job)}
    if kind == "systemd":
        service, timer = _fill("service", job, folder=FOLDER, command=_exec_start(job)), _fill("timer", job)
        return {f"{job.name}.service": service, f"{job.name}.timer": timer, f"{job.name}.env": _variables(job)}
    setup, (program, *arguments) = _setup(job, volume=kind == "kubernetes"), job.command
    command = [Path(program).name, *arguments]
    if kind == "kubernetes":
        setup = json.dumps(f'{setup} && exec "$@"')
        words = json.dumps([word.replace("$", "$$") for word in command], ensure_ascii=False)  # no $(VAR) to expand
        return {f"{job.name}.yaml": _fill("cronjob", job, image=IMAGE, setup=setup, command=words)}
    words = json.dumps(shlex.join(command).replace("${{", "${{ '${{' }}"), ensure_ascii=False)
    out = job.value("--out") or "runs"
    return {f"{job.name}.yml": _fill("workflow", job, image=IMAGE, setup=json.dumps(setup), command=words, out=out)}


def install(kind: str, job: Job) -> list[str]:
    """Install the job, or replace it; returns what was done and what is left to do, in sentences.

    Raises :class:`ToolMissing` without the program of the scheduler, :class:`KitError` when that refuses the job.
    """
    files = render(kind, job)
    if kind == "cron":
        old, block = _run("crontab", "-l", unless="no crontab"), files[f"{job.name}.cron"]
        begin = rf"^# BEGIN {job.name}\n"
        new, found = re.subn(rf"{begin}((?!{begin}).*\n)*?# END {job.name}\n", lambda _: block, old, flags=re.M)
        _run("crontab", "-", given=new if found else f"{old.rstrip()}\n{block}".lstrip())
        return [f"crontab: {job.name} runs every day at {job.at}", _keep_variables(job)]
    if kind == "systemd":
        _run("systemctl", "--user", "show-environment")  # refuses before anything is written
        units = Path.home() / ".config" / "systemd" / "user"
        for name in (f"{job.name}.service", f"{job.name}.timer"):
            write_whole(units / name, files[name])
        left = _keep_variables(job)
        _run("systemctl", "--user", "daemon-reload")
        _run("systemctl", "--user", "enable", "--now", f"{job.name}.timer")
        done = f"{units}/{job.name}.timer is enabled and runs every day at {job.at}"
        return [done, left, "so that it runs while you are logged out: loginctl enable-linger"]
    if kind == "kubernetes":
        done = _run("kubectl", "apply", "-f", "-", given=files[f"{job.name}.yaml"])
        values = "".join(f" --from-literal={name}=…" for name in job.variables)
        left = f"put in its secrets: kubectl create secret generic {job.name}{values}"
        return [*done.splitlines(), *([left] if values else [])]
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
    file = root / ".github" / "workflows" / f"{job.name}.yml"
    write_whole(file, files[file.name])
    return [f"{file} is written: commit it", *(f"put in a secret: gh secret set {name}" for name in job.variables)]


def _crontab(job: Job) -> str:
    words = shlex.join(job.local)
    if "\\" in words:
        raise BadPlan(
            "cron cannot be given a backslash: each cron reads it differently",
            expected="a command without a backslash",
            found=words,
            remedy="rename the file, or use systemd",
        )
    line = f'{job.cron} set -a; . "$HOME/{FOLDER}/{job.name}.env"; {words}'.replace("%", "\\%")
    return f"# BEGIN {job.name}\n{line}\n# END {job.name}\n"


def _exec_start(job: Job) -> str:
    escaped = [re.sub(r'(["\\])', r"\\\1", word).replace("%", "%%") for word in job.local]
    escaped[1:] = [word.replace("$", "$$") for word in escaped[1:]]  # in the path of the program $ is nothing special
    return " ".join(f'"{word}"' for word in escaped)


def _setup(job: Job, *, volume: bool) -> str:
    """How a new container gets the kit; refuses a store that is not there, a place that is gone with the container."""
    if not re.match(r"env:|mysql|mariadb", store := job.value("--store")):
        raise BadPlan(
            "a container cannot reach this store",
            expected="--store env:NAME, the variable with the URL of a database on a server",
            found=store or "no --store",
            remedy="name such a variable, or use cron or systemd on the machine where the file is",
        )
    place = job.value("--place")
    if not (re.match(r"(?!file:|memory:)\w+://", place) or (volume and re.match(r"[^/~:]+(/|$)", place))):
        raise BadPlan(
            "the backups would be gone with the container",
            expected="--place s3://…, gs://… or az://…" + (", or a folder on the volume: backups" if volume else ""),
            found=place or "no --place",
            remedy="give such a place",
        )
    extras = ",".join(sorted({extra for sign, extra in EXTRAS.items() if sign in " ".join(job.command)}))
    kit = f"zenml-upgrade-kit[{extras}]=={__version__}".replace("[]", "")
    programs = [program for word, program in PACKAGES.items() if not word or word in job.command]
    client = f"apt-get update -qq && apt-get install -qq -y --no-install-recommends {' '.join(programs)}"
    return f"{client} && pip install -q '{kit}'"


def _fill(name: str, job: Job, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        variable_start_string="<<",  # GitHub has {{ and }} of its own
        variable_end_string=">>",
        block_start_string="<%",
        block_end_string="%>",
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(f"nightly.{name}.j2").render(job=job, **values)


def _variables(job: Job) -> str:
    path = f"PATH={shlex.quote(os.environ.get('PATH', os.defpath))}"
    about = f"# The variables of {job.name}. Fill in the values, in single quotes, and remove the #."
    return "\n".join([about, path, *(f"# {name}=''" for name in job.variables), ""])


def _keep_variables(job: Job) -> str:
    """Write the file of the variables if there is none; says what is to be filled in."""
    file = Path.home() / FOLDER / f"{job.name}.env"
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as new:
            new.write(_variables(job))
    except FileExistsError:
        file.chmod(0o600)
    text = file.read_text(encoding="utf-8")
    missing = [name for name in job.variables if not re.search(rf"^(export )?{name}=", text, re.M)]
    return f"fill in {', '.join(missing)}: {file}" if missing else f"its variables are in {file}"


def _run(*command: str, given: str = "", unless: str = "") -> str:
    """What a scheduler's program answers; unless: words of a failure that is none."""
    try:
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        name = command[0]
        raise ToolMissing(
            f"{name} is not installed", expected=f"{name} on PATH", found="none", remedy=f"install it, {BY_HAND}"
        ) from error
    if done.returncode and not (unless and unless in done.stderr.lower()):
        raise KitError(
            f"{' '.join(command)} failed, and the job is not installed",
            expected="exit code 0",
            found=(done.stderr or done.stdout).strip()[-400:] or f"exit code {done.returncode}",
            remedy=f"see the message, {BY_HAND}",
        )
    return done.stdout
