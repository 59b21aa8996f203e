"""The life of a backup from the command line: made, listed, tried, restored, outdated; and what goes wrong."""

import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import databases
import pytest

from zenml_upgrade_kit import archive, places
from zenml_upgrade_kit.stores.address import Server

OldStore = Callable[..., Server]
COMMAND = [sys.executable, "-m", "zenml_upgrade_kit"]


def surroundings(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ZENML_", "AWS_"))}
    return {**kept, "ZENML_UPGRADE_CACHE": os.environ.get("ZENML_UPGRADE_CACHE", ""), **variables}


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run ``zenml-upgrade`` in a folder of its own."""

    def run(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        ended = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            env=surroundings(**variables),
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in ended.stderr
        return ended

    return run


Command = Callable[..., subprocess.CompletedProcess[str]]


@contextmanager
def watched_processes(secret: str) -> Iterator[list[str]]:
    """Command lines and environments, of any process but this one, that hold a secret."""
    seen: list[str] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                for name in ("cmdline", "environ"):
                    try:
                        data = (process / name).read_bytes()
                    except OSError:
                        continue
                    own = name == "environ" and b"ZENML_STORE=" in data  # the command's own variable, given by the user
                    if secret.encode() in data and not own:
                        seen.append(f"{process.name} {name}")
            time.sleep(0.01)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("version", ["0.55.5", "0.98.0"])
def test_a_server_store_is_backed_up_tried_and_restored(
    mysql_store: OldStore, zenml_mariadb: Server, command: Command, tmp_path: Path, version: str
) -> None:
    server = mysql_store(version, zenml_mariadb)
    variables = {"ZENML_STORE": databases.zenml_url(server)}
    with watched_processes(databases.PASSWORD) as seen:
        made = command("backup", "--store", "env:ZENML_STORE", "--place", "place", "--drill", **variables)
        assert made.returncode == 0, made.stderr
        assert "drill: restored into a scratch schema beside the store" in made.stdout
        tried = command("verify", "place", "--restore")
        assert tried.returncode == 0, tried.stderr
        assert "restored into a private MariaDB" in tried.stdout
        [row] = json.loads(command("backups", "place", "--format", "json").stdout)["backups"]
        assert (row["source_version"], row["verified"]) == (version, "restored")

        databases.client(server, "SET foreign_key_checks = 0; DROP TABLE pipeline_run; DELETE FROM `user`")
        refused = command("restore", "place", "--into", "env:ZENML_STORE", **variables)
        assert refused.returncode == 2
        assert "--replace" in refused.stderr
        back = command("restore", "place", "--into", "env:ZENML_STORE", "--replace", **variables)
        assert back.returncode == 0, back.stderr
        assert f"Go on with ZenML {version}" in back.stdout
    assert seen == []
    assert databases.client(server, "SELECT COUNT(*) > 0 FROM pipeline_run") == "1"
    assert databases.client(server, "SELECT version_num FROM alembic_version") == version
    printed = [made, tried, refused, back]
    forms = (databases.PASSWORD, quote(databases.PASSWORD, safe=""))
    assert not [form for form in forms for one in printed if form in one.stdout + one.stderr]
    places_to_look = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in places_to_look for form in forms if form.encode() in path.read_bytes()]


def test_what_cannot_be_reached_is_said_without_the_password(
    zenml_mariadb: Server, command: Command, tmp_path: Path
) -> None:
    url = databases.zenml_url(zenml_mariadb.using("nowhere"))
    host, _, rest = url.partition("@")[2].partition("/")
    cases = {
        "database": url,
        "password": f"mysql://zenml:wr0ng-s3cret@{host}/{rest}",
        "answers": f"mysql://zenml:wr0ng-s3cret@127.0.0.1:1/{rest}",
    }
    for word, given in cases.items():
        ended = command("backup", "--store", "env:ZENML_STORE", "--place", "place", ZENML_STORE=given)
        assert ended.returncode == 2
        assert word in ended.stderr
        assert "s3cret" not in ended.stderr
        for part in ("expected:", "found:", "do this:"):
            assert part in ended.stderr
    assert not (tmp_path / "place").exists()


def all_with(variable: str) -> list[int]:
    """Processes, of those that still run, that were given a variable."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_a_killed_backup_is_never_offered_and_the_next_one_clears_it_away(
    mysql_store: OldStore, zenml_mariadb: Server, command: Command, tmp_path: Path, delay: float
) -> None:
    server = mysql_store("0.70.0", zenml_mariadb)
    variables = {"ZENML_STORE": databases.zenml_url(server)}
    arguments = ["backup", "--store", "env:ZENML_STORE", "--place", "place"]
    killed = subprocess.Popen(
        [*COMMAND, *arguments], env=surroundings(**variables), cwd=tmp_path, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    until = time.monotonic() + 60
    while not list((tmp_path / "place").glob("*")) and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(delay)
    for process in all_with(f"ZENML_KILL_ME={tmp_path}"):  # the notebook's kernel is in a process group of its own
        os.kill(process, signal.SIGKILL)
    killed.wait()
    while all_with(f"ZENML_KILL_ME={tmp_path}"):
        time.sleep(0.01)
    place = places.open_place(str(tmp_path / "place"))
    finished = {one.name for one in archive.backups(place)[0]}
    made = command(*arguments, **variables)
    assert made.returncode == 0, made.stderr
    assert len(finished) == 1 or "removed: unfinished backup" in made.stdout
    assert {path.name for path in (tmp_path / "place").iterdir()} == {one.name for one in archive.backups(place)[0]}


def test_two_backups_at_once_do_not_disturb_each_other(
    mysql_store: OldStore, zenml_mariadb: Server, tmp_path: Path
) -> None:
    variables = surroundings(ZENML_STORE=databases.zenml_url(mysql_store("0.70.0", zenml_mariadb)))
    arguments = [*COMMAND, "backup", "--store", "env:ZENML_STORE", "--place", "place"]
    both = [subprocess.Popen(arguments, env=variables, cwd=tmp_path, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    found, _ = archive.backups(places.open_place(str(tmp_path / "place")))
    assert [archive.verify(one) for one in found] == [[], []]
    assert found[0].manifest["tables"] == found[1].manifest["tables"]


def test_backups_are_forgotten_by_rule_and_on_request_only(
    deployment: Callable[..., Path], command: Command, tmp_path: Path
) -> None:
    store = deployment("0.70.0")
    for _ in range(2):
        assert command("backup", "--store", store, "--place", "place").returncode == 0
    names = sorted(path.name for path in (tmp_path / "place").iterdir())
    looked = command("forget", "place", "--keep-last", "1")
    assert looked.returncode == 0
    assert f"would remove {names[0]}" in looked.stdout
    assert sorted(path.name for path in (tmp_path / "place").iterdir()) == names
    assert command("forget", "place").returncode == 2
    assert command("forget", "place", "--keep-last", "1", "--yes").returncode == 0
    assert [path.name for path in (tmp_path / "place").iterdir()] == names[1:]
    again = command("backup", "--store", store, "--place", "place", "--keep-last", "1")
    assert f"removed: outdated backup {names[1]}" in again.stdout


def test_a_bucket_holds_backups_as_a_folder_does(
    mysql_store: OldStore, zenml_mariadb: Server, bucket: str, command: Command, tmp_path: Path
) -> None:
    server = mysql_store("0.80.2", zenml_mariadb)
    amazon = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    variables = {"ZENML_STORE": databases.zenml_url(server), **amazon}
    place = f"{bucket}/zenml"
    made = command("backup", "--store", "env:ZENML_STORE", "--place", place, "--tool", "mariadb-dump", **variables)
    assert made.returncode == 0, made.stderr
    assert command("verify", place, "--restore", **variables).returncode == 0
    databases.client(server, "DELETE FROM run_metadata_resource")
    back = command("restore", place, "--into", "env:ZENML_STORE", "--replace", **variables)
    assert back.returncode == 0, back.stderr
    assert databases.client(server, "SELECT COUNT(*) > 0 FROM run_metadata_resource") == "1"
    assert amazon["AWS_SECRET_ACCESS_KEY"] not in made.stdout + made.stderr + back.stdout + back.stderr
    assert command("verify", "s3://no-such-bucket-here/x", **variables).returncode == 2


def test_the_notebook_alone_makes_a_backup_and_a_report(deployment: Callable[..., Path], tmp_path: Path) -> None:
    """As a schedule without the command would run it: with papermill."""
    notebook = Path(__file__).parent.parent / "notebooks" / "20_backup.ipynb"
    papermill = [sys.executable, "-m", "papermill", str(notebook), "done.ipynb", "--log-level", "ERROR"]
    parameters = {"store": deployment("0.60.0"), "place": "place", "keep": "daily 7, weekly 5", "drill": "True"}
    given = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    ended = subprocess.run([*papermill, *given], env=surroundings(), cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    [made] = archive.backups(places.open_place(str(tmp_path / "place")))[0]
    assert made.verified["restored_into"] == "a temporary file"
    [run] = (tmp_path / "runs").glob("*-backup-0.60.0")
    assert json.loads((run / "results" / "20_backup.json").read_text())["facts"]["where"] == made.where


def test_the_nightly_job_is_printed_and_is_what_runs(deployment: Callable[..., Path], command: Command) -> None:
    shown = command("schedule", "cron", "--store", "env:STORE", "--place", "s3://bucket/zenml", "--keep-daily", "7")
    assert shown.returncode == 0, shown.stderr
    [line] = [line for line in shown.stdout.splitlines() if "zenml-upgrade backup" in line]
    words = shlex.split(line)
    assert " ".join(words[-9:-3]) == "backup --store env:STORE --place s3://bucket/zenml --out"
    assert Path(words[-3]).is_absolute()
    assert words[-2:] == ["--keep-daily", "7"]
    given = ["--drill", "--server", "env:SPARE", "--tool", "mariadb-dump", "--managed", "gcp:p/i", "--with-artifacts"]
    nightly = command("schedule", "github", "--store", "env:STORE", "--place", "az://kept/zenml", *given, "--snapshot")
    assert nightly.returncode == 0, nightly.stderr
    assert "--drill --server env:SPARE --managed gcp:p/i --snapshot" in nightly.stdout
    assert "--tool mariadb-dump --with-artifacts" in nightly.stdout
    assert "[azure,gcp]" in nightly.stdout
    assert "secrets.SPARE" in nightly.stdout
    for words in (["--store", "mysql://u:hunter2@h/db"], ["--store", "env:S", "--server", "mysql://u:hunter2@h/db"]):
        secret = command("schedule", "cron", "--place", "backups", *words)
        assert secret.returncode == 2
        assert "hunter2" not in secret.stdout + secret.stderr


def test_what_is_no_backup_is_refused(command: Command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in (
        ["verify", "empty"],
        ["verify", "nowhere"],
        ["restore", "empty", "--into", "x.db"],
        ["verify", "ftp2://x"],
    ):
        ended = command(*arguments)
        assert ended.returncode == 2
        for part in ("expected:", "found:", "do this:"):
            assert part in ended.stderr
    assert not (tmp_path / "x.db").exists()
