"""The nightly job: what is written is run by a real shell, held by a real crontab and read by systemd's own check."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from zenml_upgrade_kit import schedule
from zenml_upgrade_kit.errors import BadPlan, KitError, ToolMissing
from zenml_upgrade_kit.schedule import Job

SECRET = "canary-5e0c"
ODD = ("100%", "a b", "$HOME", "$(date)", "it's", 'say "x"', "${{ github.token }}", "ünï😀", "#", "", "~", "*", "`id`")
COMMAND = (
    "zenml-upgrade",
    "backup",
    "--store",
    "env:STORE_URL",
    "--place",
    "s3://backups/zenml",
    "--out",
    "nightly runs",
)
JOB = Job(command=COMMAND, variables=("STORE_URL", "AWS_SECRET_ACCESS_KEY"))
Program = Callable[[str, str], Path]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory of its own, programs in ``bin`` before the machine's, and secrets in the environment."""
    home = tmp_path / "my home"
    (home / "bin").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    for name in JOB.variables:
        monkeypatch.setenv(name, SECRET)
    monkeypatch.chdir(home)
    return home


@pytest.fixture
def program(home: Path) -> Program:
    """``program("kubectl", "exit 1")``: a shell script of that name."""

    def write(name: str, script: str) -> Path:
        path = home / "bin" / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def zenml_upgrade(home: Path, program: Program) -> Callable[[], Any]:
    """The command as a recorder; returns how it was called: its arguments and STORE_URL."""
    told = home / "told.json"
    told.parent.mkdir(exist_ok=True)
    code = f"import json,os,sys; json.dump([sys.argv[1:], os.environ.get('STORE_URL')], open({str(told)!r}, 'w'))"
    program("zenml-upgrade", f'exec {sys.executable} -c "{code}" "$@"')
    return lambda: json.loads(told.read_text())


@pytest.fixture
def crontab(program: Program, home: Path) -> Iterator[Callable[..., str]]:
    """``crontab("-l")``: root has the real one, with the jobs of nobody; others, whose own must stay, a stand-in."""
    real, file = shutil.which("crontab", path="/usr/bin:/bin"), home / "crontab"
    listed = f"cat '{file}' || {{ echo no crontab >&2; exit 1; }}"
    stand_in = f"case $1 in -r) rm -f '{file}';; -) cat > '{file}';; *) {listed};; esac"
    path = program("crontab", f'exec {real} -u nobody "$@"' if real and os.geteuid() == 0 else stand_in)

    def run(*arguments: str, given: str = "") -> str:
        return subprocess.run([path, *arguments], input=given, capture_output=True, text=True).stdout

    before = run("-l")
    run("-r")
    yield run
    run("-r")
    if before:
        run("-", given=before)


@pytest.mark.parametrize("at", ["25:99", "24:00", "2:30", "02:60", "0230", "", "02:30 * * *", "02:30\n", "١٢:٣٠"])
def test_a_time_that_does_not_exist_is_refused(at: str) -> None:
    with pytest.raises(BadPlan, match="the time of the nightly job"):
        Job(command=COMMAND, at=at)


@pytest.mark.parametrize(
    "values",
    [
        {"name": "Nightly Backup"},
        {"name": "../x"},
        {"name": "n" * 53},
        {"variables": (f"STORE_URL={SECRET}",)},
        {"variables": ("A B",)},
        {"command": ()},
        {"command": ("zenml-upgrade", "a\nb")},
        {"command": ("zenml-upgrade", "--store", f"mysql://u:{SECRET}@db/zenml")},
        {"command": ("zenml-upgrade", f"--store=mysql://u:{SECRET}/@\n@db/zenml")},
    ],
)
def test_what_a_scheduler_would_not_take_is_refused_without_telling_secrets(values: dict[str, Any]) -> None:
    with pytest.raises(BadPlan) as raised:
        Job(**{"command": COMMAND, **values})
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("kind", schedule.KINDS)
def test_no_file_holds_a_secret(kind: str) -> None:
    for name, text in schedule.render(kind, JOB).items():
        assert SECRET not in text, name
        assert "02:30" in text or "30 2 * * *" in text or name.endswith((".env", ".service"))


def test_an_unknown_scheduler_is_refused() -> None:
    with pytest.raises(BadPlan, match="no such scheduler"):
        schedule.render("windows", JOB)


# cron


def as_cron_runs_it(line: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of a crontab: five fields, ``\\%`` is a percent sign, and almost no environment (crontab(5))."""
    command = line.split(" ", 5)[5]
    assert "%" not in command.replace("\\%", ""), "cron ends the command at a bare %"
    bare = {"HOME": str(home), "PATH": "/usr/bin:/bin", "SHELL": "/bin/sh"}
    return subprocess.run(
        ["/bin/sh", "-c", command.replace("\\%", "%")], env=bare, cwd=home, capture_output=True, text=True
    )


def test_cron_runs_the_command_with_its_arguments_and_variables(
    home: Path, crontab: Callable[..., str], zenml_upgrade: Callable[[], Any]
) -> None:
    assert "fill in STORE_URL" in "".join(
        schedule.install("cron", Job(command=("zenml-upgrade", *ODD), variables=("STORE_URL",)))
    )
    variables = home / ".config/zenml-upgrade-kit/zenml-upgrade-backup.env"
    with variables.open("a") as file:
        file.write("STORE_URL='mysql://u:p%40$x@db/zenml'\n")
    line = crontab("-l").splitlines()[1]
    assert line.startswith("30 2 * * * ")
    done = as_cron_runs_it(line, home)
    assert done.returncode == 0, done.stderr
    assert zenml_upgrade() == [list(ODD), "mysql://u:p%40$x@db/zenml"]


@pytest.mark.parametrize("kind", ["cron", "systemd"])
def test_a_job_of_this_machine_means_the_folders_that_are_meant_here(
    kind: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home.parent)
    monkeypatch.setenv("PATH", str(home))  # nothing is found there: the kit beside this Python is meant
    (home.parent / "bin").mkdir()
    kit = home.parent / "bin" / "zenml-upgrade"
    kit.touch(mode=0o755)
    monkeypatch.setattr("sys.executable", str(kit.with_name("python")))
    given = ("--store", "store/zenml.db", "--place", "~/kept", "--out", "runs", "--drill")
    text = "".join(schedule.render(kind, Job(command=("zenml-upgrade", "backup", *given))).values())
    for path in (kit, home.parent / "store" / "zenml.db", Path.home() / "kept", home.parent / "runs"):
        assert str(path) in text
    remote = ("zenml-upgrade", "backup", "--store", "env:STORE_URL", "--place", "s3://backups/a")
    assert Job(command=remote).local[1:] == list(remote[1:])


def test_without_its_variables_the_command_is_not_run(
    home: Path, crontab: Callable[..., str], zenml_upgrade: Callable[[], Any]
) -> None:
    schedule.install("cron", JOB)
    (home / ".config/zenml-upgrade-kit/zenml-upgrade-backup.env").unlink()
    assert as_cron_runs_it(crontab("-l").splitlines()[1], home).returncode != 0
    assert not (home / "told.json").exists()


def test_installing_again_replaces_the_job_and_keeps_other_lines(crontab: Callable[..., str]) -> None:
    others = "MAILTO=ops@example.com\n5 4 * * * /bin/true 100\\% # BEGIN zenml-upgrade-backup\n"
    crontab("-", given=others)
    schedule.install("cron", JOB)
    once = crontab("-l")
    assert once.startswith(others)
    schedule.install("cron", JOB)
    assert crontab("-l") == once
    after = "# END zenml-upgrade-backup\n0 0 1 * * /bin/false\n"
    crontab("-", given=once + after)
    schedule.install("cron", Job(command=COMMAND, at="23:05"))
    assert crontab("-l") == once.replace("30 2 * * *", "5 23 * * *") + after
    schedule.install("cron", Job(command=COMMAND, name="weekly"))
    assert crontab("-l").count("# BEGIN ") == 3


def test_a_block_without_its_end_swallows_nothing(crontab: Callable[..., str]) -> None:
    crontab("-", given="# BEGIN zenml-upgrade-backup\n5 4 * * * /bin/true\n")
    schedule.install("cron", JOB)
    schedule.install("cron", JOB)
    assert "5 4 * * * /bin/true\n" in crontab("-l")
    assert crontab("-l").count("30 2 * * *") == 1


def test_a_crontab_that_cannot_be_read_is_not_replaced(program: Program, home: Path) -> None:
    program("crontab", f"echo called >> '{home}/calls'; echo 'You are not allowed to use this program' >&2; exit 1")
    with pytest.raises(KitError, match="the job is not installed") as raised:
        schedule.install("cron", JOB)
    assert "not allowed" in raised.value.found
    assert (home / "calls").read_text() == "called\n"
    assert not (home / ".config").exists()


def test_cron_is_not_given_a_backslash() -> None:
    with pytest.raises(BadPlan, match="backslash"):
        schedule.render("cron", Job(command=("zenml-upgrade", "a\\b")))


def test_the_file_of_the_variables_is_private_and_is_kept(home: Path, crontab: Callable[..., str]) -> None:
    schedule.install("cron", JOB)
    file = home / ".config/zenml-upgrade-kit/zenml-upgrade-backup.env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert SECRET not in file.read_text()
    file.write_text(f"STORE_URL='{SECRET}'\n")
    file.chmod(0o644)
    done = schedule.install("cron", JOB)
    assert file.read_text() == f"STORE_URL='{SECRET}'\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert f"fill in AWS_SECRET_ACCESS_KEY: {file}" in done


# systemd


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")
def test_systemd_accepts_the_units(home: Path, program: Program) -> None:
    """Its own check also looks whether the program can be run, so that the quoting of its path is checked too."""
    odd = program("100% $x y", "true")
    for name, text in schedule.render("systemd", Job(command=(str(odd), *ODD), variables=("STORE_URL",))).items():
        (home / name).write_text(text)
    units = [home / "zenml-upgrade-backup.service", home / "zenml-upgrade-backup.timer"]
    checked = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    text = units[0].read_text()
    assert r'100%% $x y" "100%%" "a b" "$$HOME" "$$(date)" "it' in text
    assert r'"say \"x\"" "$${{ github.token }}" "ünï😀" "#" "" "~"' in text
    units[0].write_text(text.replace("%%", "%n"))
    broken = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    assert broken.returncode != 0, "the check sees a wrong path"


def test_systemd_gets_its_units_and_starts_the_timer(home: Path, program: Program) -> None:
    program("systemctl", f"echo \"$@\" >> '{home}/calls'")
    done = schedule.install("systemd", JOB)
    units = home / ".config/systemd/user"
    assert {path.name for path in units.iterdir()} == {"zenml-upgrade-backup.service", "zenml-upgrade-backup.timer"}
    assert (home / "calls").read_text().splitlines()[1:] == [
        "--user daemon-reload",
        "--user enable --now zenml-upgrade-backup.timer",
    ]
    assert "fill in STORE_URL" in "".join(done)
    assert "loginctl enable-linger" in done[-1]


def test_without_a_running_systemd_nothing_is_written(home: Path, program: Program) -> None:
    program("systemctl", "echo 'Failed to connect to bus: No medium found' >&2; exit 1")
    with pytest.raises(KitError) as raised:
        schedule.install("systemd", JOB)
    assert "No medium found" in raised.value.found
    assert not (home / ".config").exists()


# Kubernetes


def cronjob(job: Job) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The claim, the CronJob and its container."""
    (text,) = schedule.render("kubernetes", job).values()
    claim, made = yaml.safe_load_all(text)
    (container,) = made["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return claim, made, container


def test_the_cronjob_runs_once_at_a_time_with_limits() -> None:
    claim, made, container = cronjob(JOB)
    spec = made["spec"]
    assert (made["apiVersion"], made["kind"]) == ("batch/v1", "CronJob")
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("30 2 * * *", "Etc/UTC", "Forbid")
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] == 6 * 3600
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert container["image"] == schedule.IMAGE
    assert container["env"][0] == {
        "name": "STORE_URL",
        "valueFrom": {"secretKeyRef": {"name": "zenml-upgrade-backup", "key": "STORE_URL"}},
    }


def test_the_container_gets_the_kit_and_the_very_arguments(
    program: Program, zenml_upgrade: Callable[[], Any], home: Path
) -> None:
    for name in ("apt-get", "pip"):
        program(name, f"echo {name} \"$@\" >> '{home}/calls'")
    where = ("--store", "env:STORE_URL", "--place", "s3://backups/a")
    arguments = ("backup", *where, "--drill", "--encrypt-to", "age1x", *ODD, "$$", "a\\b")
    _, _, container = cronjob(Job(command=("/home/me/bin/zenml-upgrade", *arguments)))
    assert "env" not in container
    given = [word.replace("$$", "$") for word in container["args"]]  # as Kubernetes does
    subprocess.run([*container["command"], *given], check=True)
    assert zenml_upgrade()[0] == list(arguments)
    calls = (home / "calls").read_text().splitlines()
    assert calls[-2].endswith(" mariadb-client mariadb-server")
    assert calls[-1].startswith("pip install -q zenml-upgrade-kit[aws,encrypt]==")


@pytest.mark.parametrize("place", ["/srv/backups", "~/backups", "file:///srv/backups", "memory://x", ""])
@pytest.mark.parametrize("kind", ["kubernetes", "github"])
def test_backups_are_not_put_where_they_are_gone_with_the_container(kind: str, place: str) -> None:
    command = ("zenml-upgrade", "backup", "--store", "env:STORE_URL", *(("--place", place) if place else ()))
    with pytest.raises(BadPlan, match="gone with the container"):
        schedule.render(kind, Job(command=command))


@pytest.mark.parametrize("store", ["/home/me/zenml.db", "sqlite:////home/me/zenml.db", "zen", ""])
@pytest.mark.parametrize("kind", ["kubernetes", "github"])
def test_a_container_is_not_sent_to_a_file_of_this_machine(kind: str, store: str) -> None:
    command = ("zenml-upgrade", "backup", "--place", "s3://b/zenml", *(("--store", store) if store else ()))
    with pytest.raises(BadPlan, match="cannot reach"):
        schedule.render(kind, Job(command=command))


def test_a_relative_place_is_on_the_volume_of_kubernetes_only() -> None:
    job = Job(command=("zenml-upgrade", "backup", "--store", "env:STORE_URL", "--place", "backups/zenml"))
    assert cronjob(job)[2]["workingDir"] == cronjob(job)[2]["volumeMounts"][0]["mountPath"]
    with pytest.raises(BadPlan):
        schedule.render("github", job)


def test_kubectl_is_handed_the_manifest(home: Path, program: Program) -> None:
    program("kubectl", f"echo \"$@\" > '{home}/calls'; cat > '{home}/given.yaml'; echo cronjob.batch/x configured")
    done = schedule.install("kubernetes", JOB)
    assert (home / "calls").read_text() == "apply -f -\n"
    assert (home / "given.yaml").read_text() == schedule.render("kubernetes", JOB)["zenml-upgrade-backup.yaml"]
    assert done[0] == "cronjob.batch/x configured"
    assert "kubectl create secret generic zenml-upgrade-backup --from-literal=STORE_URL=…" in done[1]


# GitHub


def workflow(job: Job) -> dict[Any, Any]:
    (text,) = schedule.render("github", job).values()
    read: dict[Any, Any] = yaml.safe_load(text)
    return read


def test_the_workflow_runs_the_command_with_secrets_and_a_limit(zenml_upgrade: Callable[[], Any]) -> None:
    command = (*COMMAND, *ODD)
    made = workflow(Job(command=command, variables=("STORE_URL",)))
    assert made[True]["schedule"] == [{"cron": "30 2 * * *"}]  # YAML 1.1 reads "on" so
    job = made["jobs"]["backup"]
    assert (job["container"], made["permissions"]) == (schedule.IMAGE, {})
    assert job["timeout-minutes"] <= 360
    install, back_up, _ = job["steps"]
    assert "zenml-upgrade-kit[aws]==" in install["run"]
    assert back_up["env"] == {"STORE_URL": "${{ secrets.STORE_URL }}"}
    script = back_up["run"].replace("${{ '${{' }}", "${{")  # as GitHub does
    subprocess.run(["sh", "-e", "-c", script], check=True)
    assert zenml_upgrade()[0] == list(command[1:])


def test_the_report_is_kept_but_never_the_working_files() -> None:
    (kept,) = [step for step in workflow(JOB)["jobs"]["backup"]["steps"] if "uses" in step]
    assert kept["if"] == "always()"
    paths = kept["with"]["path"].split("\n")
    assert "nightly runs/*/*.html" in paths
    assert "!nightly runs/*/work/**" in paths
    assert not [path for path in paths if path.endswith("**") and not path.startswith("!")]


def test_the_workflow_is_written_at_the_root_of_the_repository(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "repo/.git").mkdir(parents=True)
    (home / "repo/sub").mkdir()
    monkeypatch.chdir(home / "repo/sub")
    done = schedule.install("github", JOB)
    file = home / "repo/.github/workflows/zenml-upgrade-backup.yml"
    assert file.read_text() == schedule.render("github", JOB)["zenml-upgrade-backup.yml"]
    assert done == [
        f"{file} is written: commit it",
        "put in a secret: gh secret set STORE_URL",
        "put in a secret: gh secret set AWS_SECRET_ACCESS_KEY",
    ]


@pytest.mark.parametrize(("kind", "name"), [("cron", "crontab"), ("systemd", "systemctl"), ("kubernetes", "kubectl")])
def test_without_the_program_of_the_scheduler_it_is_named(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolMissing, match=f"{name} is not installed"):
        schedule.install(kind, JOB)
