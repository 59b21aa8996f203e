"""Copies of a backup: made where they disturb nobody, equal to it, there for later steps, gone when not needed."""

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import databases
import pytest

from zenml_upgrade_kit import archive, backup, copy_commands, drill, plan, probing, stores
from zenml_upgrade_kit.archive import Backup
from zenml_upgrade_kit.environments import Environment
from zenml_upgrade_kit.errors import (
    BackupUnusable,
    BadPlan,
    PlaceUnusable,
    RestoreRefused,
    RunUnusable,
    StoreUnreadable,
)
from zenml_upgrade_kit.findings import Severity
from zenml_upgrade_kit.rehearsal import copies, servers
from zenml_upgrade_kit.runs import Run
from zenml_upgrade_kit.stores import dumping, mysql, private, scratch
from zenml_upgrade_kit.stores.address import Server

OldStore = Callable[..., Server]
Database = Path | Server
KILLED = """
import sys
from pathlib import Path
from zenml_upgrade_kit import archive, drill
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import Run
run = Run.open(Path(sys.argv[1]))
filled = drill.fill
def fill(backup, fresh, identity):
    filled(backup, fresh, identity)
    print(fresh.database, flush=True)
    sys.stdin.read()
drill.fill = fill
step = run.begin("30_rehearsal")
with copies.site(step, archive.open_backup(sys.argv[2]), run.plan.rehearsal) as site:
    site.restore("before")
"""
REOPENED = """
import sys
from pathlib import Path
from zenml_upgrade_kit import stores
from zenml_upgrade_kit.rehearsal import copies
from zenml_upgrade_kit.runs import Run
with copies.reopen(Run.open(Path(sys.argv[1]))) as (before, migrated):
    print(stores.identity(before), stores.identity(migrated))
"""


class Rehearsal:
    """A run of a store with a backup of it; begin 30_rehearsal as often as needed."""

    def __init__(self, store: str, folder: Path, **rehearsal: Any) -> None:
        values = {"store": store, "to": "0.98.0", "out": str(folder / "runs"), "rehearsal": rehearsal}
        self.run = Run.create(plan.make(values), "0.70.0", "0.98.0")
        backup.back_up(self.run.begin("20_backup"))
        self.saved = archive.open_backup(self.run.work / "20_backup")

    @contextmanager
    def site(self, saved: Backup | None = None) -> Iterator[copies.Site]:
        step = self.run.begin("30_rehearsal")
        with copies.site(step, saved or self.saved, self.run.plan.rehearsal) as site:
            yield site

    def carry_out(self) -> copies.Site:
        """As the step does: two copies, and a result that names them."""
        step = self.run.begin("30_rehearsal")
        with copies.site(step, self.saved, self.run.plan.rehearsal) as site:
            for name in copies.NAMES:
                site.restore(name)
            step.finish(step.result([], {"copies": site.state()}))
        return site


def definitions(database: Database) -> object:
    with closing(stores.connect(database)) as connection:
        if isinstance(connection, mysql.Connection):
            return mysql.definitions(connection)
        return [tuple(row) for row in connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name")]


def setting(server: Server, *names: str) -> list[Any]:
    with closing(mysql.connect(server)) as connection:
        return list(connection.execute(f"SELECT {', '.join(names)}")[0])


def ours(server: Server) -> list[str]:
    return databases.client(server.using(""), r"SHOW DATABASES LIKE 'zenml\_upgrade\_%'").split()


@pytest.fixture
def server(mysql_store: OldStore, zenml_mariadb: Server) -> Iterator[Server]:
    """A store that ZenML can reach, on a server without a schema of ours before and after."""
    yield mysql_store("0.70.0", zenml_mariadb)
    for name in ours(zenml_mariadb):
        databases.client(zenml_mariadb, f"DROP DATABASE `{name}`")


@pytest.fixture
def beside(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """A run whose copies go beside the store."""
    monkeypatch.setenv("PRODUCTION", databases.zenml_url(server))
    return Rehearsal("env:PRODUCTION", tmp_path)


@pytest.fixture
def apart(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rehearsal:
    """A run whose copies go into a private MariaDB."""
    monkeypatch.setenv("PRODUCTION", databases.zenml_url(server))
    return Rehearsal("env:PRODUCTION", tmp_path, private=True)


@pytest.fixture
def files(deployment: Callable[..., Path], tmp_path: Path) -> Rehearsal:
    """A run of a SQLite store."""
    return Rehearsal(str(deployment("0.70.0")), tmp_path)


def in_another_process(script: str, *arguments: object) -> str:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def killed_while_it_restores(rehearsal: Rehearsal) -> str:
    """The name of the schema that is left."""
    command = [sys.executable, "-c", KILLED, str(rehearsal.run.folder), rehearsal.saved.where]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        name = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    return name


def dead(server: Server, name: str) -> None:
    """Wait until the server knows that the process was killed."""
    until = time.monotonic() + 30
    while next(one for one in scratch.leftovers(server) if one["name"] == name)["alive"]:
        assert time.monotonic() < until
        time.sleep(0.05)


# two copies


def test_two_copies_of_a_file_are_equal_and_the_source_stays(files: Rehearsal) -> None:
    source = stores.locate(files.run.plan.store).path
    before = stores.identity(source)
    site = files.carry_out()
    first, second = site.copies.values()
    assert (site.kind, site.findings, site.speed()) == ("file", (), 1.0)
    assert isinstance(first, Path)
    assert first.stat().st_mode & 0o077 == 0
    assert definitions(first) == definitions(second) == definitions(source)
    assert stores.identity(first) == stores.identity(second)
    assert stores.identity(source) == before


def test_a_file_that_is_not_the_backup_is_refused_at_every_try(files: Rehearsal) -> None:
    tables = {name: {**table, "fingerprint": "other"} for name, table in files.saved.manifest["tables"].items()}
    with files.site(replace(files.saved, manifest={**files.saved.manifest, "tables": tables})) as site:
        for name in copies.NAMES:
            with pytest.raises(BackupUnusable, match="not what the backup"):
                site.restore(name)
        assert site.copies == {}


def test_a_backup_that_was_damaged_after_the_first_copy_gives_no_second(files: Rehearsal) -> None:
    (packed,) = (files.run.work / "20_backup").glob("**/zenml.db.zst")
    with files.site() as site:
        site.restore("migrated")
        stored = bytearray(packed.read_bytes())
        stored[len(stored) // 2] ^= 1
        packed.write_bytes(stored)
        with pytest.raises(BackupUnusable):
            site.restore("before")
        assert [path.name for path in (files.run.work / "30_rehearsal").glob("**/*.db")] == ["migrated.db"]


def test_two_schemas_beside_the_store_are_equal_and_the_source_stays(beside: Rehearsal, server: Server) -> None:
    databases.client(server, "ALTER DATABASE CHARACTER SET utf8mb4 COLLATE utf8mb4_unicode_ci")
    backup.back_up(beside.run.begin("20_backup"))
    beside.saved = archive.open_backup(beside.run.work / "20_backup")
    before = stores.identity(server)
    site = beside.carry_out()
    assert (site.kind, site.findings, site.speed()) == ("schema", (), 1.0)
    for copy in site.copies.values():
        assert isinstance(copy, Server)
        assert stores.identity(copy) == before == stores.identity(server)
        assert definitions(copy) == definitions(server)
        assert setting(copy, "@@collation_database") == ["utf8mb4_unicode_ci"]
    databases.client(server, "UPDATE pipeline_run SET name = CONCAT(name, ' ') LIMIT 1")
    assert stores.identity(server) != before
    assert databases.PASSWORD not in json.dumps(site.state()) + repr(site)


def test_a_copy_that_is_not_the_backup_is_refused_and_gone(beside: Rehearsal, server: Server) -> None:
    tables = {**beside.saved.manifest["tables"]}
    tables["pipeline_run"] = {**tables["pipeline_run"], "fingerprint": "other"}
    wrong = replace(beside.saved, manifest={**beside.saved.manifest, "tables": tables})
    with beside.site(wrong) as site, pytest.raises(BackupUnusable, match="not what the backup") as raised:
        site.restore("before")
    assert raised.value.found == "table pipeline_run has other contents"
    assert ours(server) == []


def test_other_defaults_are_found_on_every_flavour(beside: Rehearsal, server: Server) -> None:
    facts = beside.saved.manifest["server"]
    assert servers.other_defaults(beside.saved, server) == []
    for kind in ("collation", "charsets", "engines"):
        other = {**facts, kind: "latin1_swedish_ci" if isinstance(facts[kind], str) else [*facts[kind], "Archive"]}
        wrong = replace(beside.saved, manifest={**beside.saved.manifest, "server": other})
        (problem,) = servers.other_defaults(wrong, server)
        assert problem.startswith(f"{kind} is ")


# where they go


def test_an_account_that_may_not_make_schemas_leads_to_a_private_mariadb(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = f"GRANT ALL ON {server.database}.* TO narrow@'127.0.0.1'"
    databases.client(server, f"CREATE USER narrow@'127.0.0.1' IDENTIFIED BY 'narrow'; {grant}")
    try:
        narrow = replace(server, user="narrow", password="narrow")
        monkeypatch.setenv("PRODUCTION", databases.zenml_url(narrow))
        rehearsal = Rehearsal("env:PRODUCTION", tmp_path)
        with rehearsal.site() as site:
            copy, _ = site.restore("before")
            assert (site.kind, stores.identity(copy)) == ("private", stores.identity(server))
            assert site.speed()
        (finding,) = site.findings
        assert (finding.id, finding.severity) == ("RH906", Severity.INFO)
        assert r"GRANT ALL ON `zenml\_upgrade\_%`.* TO the user narrow" in finding.message
        assert ours(server) == []
    finally:
        databases.client(server, "DROP USER narrow@'127.0.0.1'")


def test_a_store_behind_a_socket_or_without_a_password_is_not_for_zenml(beside: Rehearsal, mariadb: Server) -> None:
    assert "TCP" in servers.why_not(mariadb, beside.saved, 2)
    with pytest.raises(BadPlan, match="ZenML cannot use"):
        copies.variables(mariadb)


def test_a_server_that_the_plan_names_takes_the_copies(
    apart: Rehearsal, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with databases.for_zenml() as other:
        databases.client(other, "SET GLOBAL sql_mode = 'ANSI_QUOTES'")
        monkeypatch.setenv("OTHER", databases.zenml_url(other.using("mysql")))
        rehearsal = Rehearsal("env:PRODUCTION", tmp_path, server="env:OTHER")
        site = rehearsal.carry_out()
        assert (site.kind, len(ours(other)), ours(server)) == ("schema", 2, [])
        (finding,) = site.findings
        assert (finding.id, finding.severity) == ("RH906", Severity.WARN)
        assert "sql_mode is ANSI_QUOTES there" in finding.message
        with copies.reopen(rehearsal.run) as (before, _):
            assert stores.identity(before) == stores.identity(server)
        assert len(copies.end(rehearsal.run)) == 2
        assert ours(other) == []


def test_a_server_that_the_plan_names_and_that_cannot_is_no_reason_to_go_elsewhere(
    apart: Rehearsal, mariadb: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OTHER", f"mysql://root@localhost/mysql?unix_socket={mariadb.socket}")
    rehearsal = Rehearsal("env:PRODUCTION", tmp_path, server="env:OTHER")
    with pytest.raises(StoreUnreadable, match="no copy can be made"), rehearsal.site():
        pass


def test_another_flavour_or_version_is_a_warning_with_both(apart: Rehearsal, zenml_mariadb: Server) -> None:
    facts = {**apart.saved.manifest["server"], "flavour": "MySQL", "version": "8.0.36"}
    foreign = replace(apart.saved, manifest={**apart.saved.manifest, "server": facts})
    (finding,) = servers.unlike(zenml_mariadb, foreign, "as the plan says")
    (version,) = setting(zenml_mariadb, "VERSION()")
    assert finding.severity is Severity.WARN
    assert "MySQL 8.0.36" in finding.message
    assert f"MariaDB {version}" in finding.message
    assert "not by definition" in finding.message


def test_a_private_mariadb_is_like_the_stores_server(
    mysql_store: OldStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mode = "ONLY_FULL_GROUP_BY,NO_ZERO_DATE"
    options = {"sql-mode": mode, "lower-case-table-names": "1", "character-set-server": "latin1"}
    with private.server({**options, "collation-server": "latin1_german2_ci"}) as source:
        store = mysql_store("0.70.0", source)
        databases.client(store, "ALTER DATABASE CHARACTER SET latin1 COLLATE latin1_german2_ci")
        monkeypatch.setenv("PRODUCTION", f"mysql://root@localhost/{store.database}?unix_socket={store.socket}")
        rehearsal = Rehearsal("env:PRODUCTION", tmp_path, private=True)
        site = rehearsal.carry_out()
        with copies.reopen(rehearsal.run) as (before, migrated):
            assert isinstance(before, Server)
            assert isinstance(migrated, Server)
            assert setting(before, "@@GLOBAL.sql_mode", "@@lower_case_table_names") == [mode, 1]
            assert setting(migrated, "@@collation_database") == ["latin1_german2_ci"]
            assert definitions(before) == definitions(migrated) == definitions(store)
    assert [finding.severity for finding in site.findings] == [Severity.INFO]


def test_modes_of_mysql_alone_do_not_keep_a_mariadb_from_starting() -> None:
    wanted = {"sql_mode": "ANSI_QUOTES,TIME_TRUNCATE_FRACTIONAL", "lower_case_table_names": 0}
    assert servers.options(wanted) == {"sql-mode": "ANSI_QUOTES"}


# a private MariaDB


def test_a_private_mariadb_lets_nobody_in_without_the_password(tmp_path: Path) -> None:
    with servers.private_server(tmp_path / "data", {}) as server:
        assert setting(server.using("mysql"), "CURRENT_USER()") == ["zenml@127.0.0.1"]
        for user, password in (("root", ""), ("zenml", ""), ("zenml", "zenml"), ("", ""), ("mariadb.sys", "")):
            with pytest.raises(StoreUnreadable):
                mysql.connect(replace(server, user=user, password=password, database="mysql"))
        first = server.password
    with servers.private_server(tmp_path / "data", {}) as again:
        assert again.password != first
        assert setting(again.using("mysql"), "@@bind_address") == ["127.0.0.1"]


@pytest.mark.parametrize("kind", ["files", "beside", "apart"])
def test_the_copies_are_there_for_another_process_and_gone_at_the_end(
    kind: str, request: pytest.FixtureRequest, server: Server
) -> None:
    rehearsal: Rehearsal = request.getfixturevalue(kind)
    site = rehearsal.carry_out()
    with copies.reopen(rehearsal.run) as (before, migrated):
        wanted = f"{stores.identity(before)} {stores.identity(migrated)}"
        if kind == "beside":
            assert {one["state"] for one in copies.listed(server)} == {"in use"}
    assert in_another_process(REOPENED, rehearsal.run.folder) == wanted
    assert len(copies.of_run(rehearsal.run)) == (1 if kind == "apart" else 2)
    assert copies.end(rehearsal.run)
    assert copies.end(rehearsal.run) == []
    assert copies.of_run(rehearsal.run) == []
    assert ours(server) == []
    with pytest.raises(RunUnusable, match="is not there"), copies.reopen(rehearsal.run):
        pass
    assert site.kind == {"files": "file", "beside": "schema", "apart": "private"}[kind]


def test_after_an_error_nothing_stays_unless_the_plan_keeps_it(
    apart: Rehearsal, server: Server, tmp_path: Path
) -> None:
    def interrupted(rehearsal: Rehearsal) -> None:
        with pytest.raises(KeyboardInterrupt), rehearsal.site() as site:
            interrupt(site.restore("before"))

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    interrupted(apart)
    assert copies.of_run(apart.run) == []
    keeping = Rehearsal("env:PRODUCTION", tmp_path, keep_copy=True)
    interrupted(keeping)
    assert len(copies.of_run(keeping.run)) == len(ours(server)) == 1


# what is left over


def test_what_a_killed_rehearsal_left_is_listed_and_removed_by_the_next_attempt(
    beside: Rehearsal, server: Server
) -> None:
    name = killed_while_it_restores(beside)
    dead(server, name)
    (left,) = copies.of_run(beside.run)
    assert (left["name"], left["state"], left["run"]) == (name, "of a run that is there", str(beside.run.folder))
    with drill.beside(beside.saved, server, None, purpose="drill") as (fresh, problems):
        assert problems == []
        assert ours(server) == sorted([fresh.database, name]), "automatic cleaning leaves copies alone"
    site = beside.carry_out()
    assert name not in ours(server)
    assert len(ours(server)) == len(site.copies) == 2


def test_copies_in_use_those_of_others_and_foreign_schemas_are_never_removed(
    beside: Rehearsal, server: Server, tmp_path: Path
) -> None:
    databases.client(
        server,
        "CREATE DATABASE zenml_upgrade_copy_0123abcd; CREATE TABLE zenml_upgrade_copy_0123abcd.precious (a INT)",
    )
    another = Rehearsal("env:PRODUCTION", tmp_path)
    kept = another.carry_out().state()["copies"].values()
    beside.carry_out()
    with copies.reopen(beside.run) as (before, _):
        assert isinstance(before, Server)
        with pytest.raises(BadPlan, match="not removed") as raised:
            scratch.remove(server, before.database)
        assert str(os.getpid()) in raised.value.found
    copies.end(beside.run)
    assert ours(server) == sorted([*kept, "zenml_upgrade_copy_0123abcd"])
    with pytest.raises(BadPlan, match="is no copy of"):
        copies.end(beside.run, ["zenml_upgrade_copy_0123abcd"])


def test_a_leftover_that_goes_at_this_moment_is_no_reason_to_stop(
    beside: Rehearsal, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghost = {"name": "zenml_upgrade_drill_0123abcd", "purpose": "drill", "alive": False}
    seen = iter([[ghost], []])
    with monkeypatch.context() as patch:
        patch.setattr(scratch, "leftovers", lambda _: next(seen))
        with drill.beside(beside.saved, server, None, purpose="drill") as (_, problems):
            assert problems == []


def test_another_copy_of_a_name_replaces_the_first_also_at_the_second_try(
    beside: Rehearsal, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise StoreUnreadable("lost", expected="", found="", remedy="")

    with beside.site() as site:
        first, _ = site.restore("before")
        with monkeypatch.context() as patch:
            patch.setattr(scratch, "remove", lost)
            with pytest.raises(StoreUnreadable, match="lost"):
                site.restore("before")
        second, seconds = site.restore("before")
        assert isinstance(second, Server)
        assert ours(server) == [second.database]
        assert first != second
        assert seconds > 0
        site.remove(second)
        assert ours(server) == []


def test_nobody_says_that_there_are_no_copies_on_a_server_that_cannot_be_asked(
    beside: Rehearsal, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside.run.forget("30_rehearsal")  # as after a rehearsal that was killed
    monkeypatch.setenv("PRODUCTION", databases.zenml_url(replace(server, port=private.free_port())))
    with pytest.raises(StoreUnreadable):
        copies.of_run(beside.run)
    monkeypatch.delenv("PRODUCTION")
    with pytest.raises(BadPlan, match="PRODUCTION"):
        copies.end(beside.run)


def test_a_name_that_is_taken_is_left_alone(beside: Rehearsal, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    databases.client(server, "CREATE DATABASE zenml_upgrade_copy_0123abcd")
    tokens = iter(["0123abcd", "76543210"])
    facts = beside.saved.manifest["server"]
    with monkeypatch.context() as patch:
        patch.setattr(secrets, "token_hex", lambda _: next(tokens))
        fresh, session = scratch.make(server, facts, scratch.COPY, str(beside.run.folder))
    assert fresh.database == "zenml_upgrade_copy_76543210"
    taken = next(one for one in scratch.leftovers(server) if one["name"] == "zenml_upgrade_copy_0123abcd")
    assert (taken["alive"], taken["created"]) == (False, "")
    with pytest.raises(BadPlan, match="DROP DATABASE zenml_upgrade_copy_0123abcd"):
        scratch.remove(server, taken["name"])
    scratch.release(session, fresh.database)
    with monkeypatch.context() as patch:
        patch.setattr(secrets, "token_hex", lambda _: "0123abcd")
        with pytest.raises(StoreUnreadable, match="no scratch schema can be made"):
            scratch.make(server, facts, scratch.COPY)
    assert "zenml_upgrade_copy_0123abcd" in ours(server)


def command(*arguments: str) -> Callable[[pytest.CaptureFixture[str]], dict[str, Any]]:
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers()

    def add(name: str, verb: Any, text: str) -> Any:
        one = verbs.add_parser(name, help=text)
        one.set_defaults(verb=verb)
        return one

    copy_commands.add(add)
    given = parser.parse_args(["copies", *arguments])
    assert given.verb(given) == 0
    return lambda captured: dict(json.loads(captured.readouterr().out)) if "json" in arguments else {}


def test_the_command_lists_and_removes(
    beside: Rehearsal, server: Server, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = Rehearsal("env:PRODUCTION", tmp_path)
    orphan = sorted(gone.carry_out().state()["copies"].values())
    gone.run.folder.rename(tmp_path / "elsewhere")
    kept = sorted(beside.carry_out().state()["copies"].values())
    capsys.readouterr()

    told = command("--store", "env:PRODUCTION", "--format", "json")(capsys)["copies"]
    assert {one["name"] for one in told if one["state"] == "left over"} == set(orphan)
    removed = command("--store", "env:PRODUCTION", "--remove", orphan[0], "--format", "json")(capsys)["removed"]
    assert [orphan[0] in sentence for sentence in removed] == [True]
    command("--store", "env:PRODUCTION", "--remove-all")
    text = capsys.readouterr().out
    assert f"done: removed the schema {orphan[1]}" in text
    assert f"{kept[0]}  of a run that is there  made for a copy" in text
    assert ours(server) == kept

    command(str(beside.run.folder), "--remove", kept[0])
    assert f"done: removed the schema {kept[0]}" in capsys.readouterr().out
    command(str(beside.run.folder), "--remove-all")
    assert "This run has no copies." in capsys.readouterr().out
    with pytest.raises(BadPlan, match="whose copies"):
        command()


# room


def test_too_little_room_is_told_before_anything_is_loaded(files: Rehearsal, apart: Rehearsal, server: Server) -> None:
    entries = [{**file, "original_bytes": 10**18} for file in files.saved.manifest["files"]]
    huge = replace(files.saved, manifest={**files.saved.manifest, "files": entries})
    with pytest.raises(PlaceUnusable, match="no room"), files.site(huge):
        pass
    facts = {**apart.saved.manifest["server"], "tables": {"step_run": 10**18}}
    huge = replace(apart.saved, manifest={**apart.saved.manifest, "server": facts})
    with pytest.raises(PlaceUnusable, match="no room"), apart.site(huge):
        pass
    assert "2,200,000,000,000,000,256 are needed" in servers.why_not(server, huge, 2)
    assert copies.of_run(apart.run) == []


def test_a_disk_that_fills_up_while_a_copy_is_loaded_is_told_as_that(apart: Rehearsal) -> None:
    options = {"innodb-file-per-table": "0", "innodb-data-file-path": "ibdata1:12M:autoextend:max:14M"}
    with private.server(options) as small:
        facts = apart.saved.manifest["server"]
        with scratch.scratch(small, facts, "drill") as fresh, pytest.raises(PlaceUnusable, match="no room") as raised:
            drill.fill(apart.saved, fresh, None)
    assert "No more room" in raised.value.found


def test_a_server_that_is_lost_while_a_copy_is_loaded_is_no_fault_of_the_backup(
    apart: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    with private.server() as own:

        def lost(fresh: Server, **_: object) -> None:
            databases.client(own, "SHUTDOWN")
            with suppress(StoreUnreadable):
                while True:
                    mysql.connect(fresh).close()
            raise RestoreRefused("it cannot be loaded", expected="", found="ERROR 2013: Lost connection", remedy="")

        monkeypatch.setattr(dumping, "load", lost)
        done = drill.drill(apart.saved, server=own)
    assert (done.problems, apart.saved.verified["problem"]) == ((), "")
    assert "cannot be read" in done.not_checked


def test_a_drill_of_a_backup_that_can_only_be_read_has_a_result(
    files: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PlaceUnusable("read-only", expected="", found="", remedy="")

    monkeypatch.setattr(Backup, "record", refused)
    assert (drill.drill(files.saved).problems, drill.drill(files.saved).not_checked) == ((), "")


def test_sessions_are_closed_when_one_cannot_be_had(
    beside: Rehearsal, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[mysql.Connection] = []
    connect = mysql.connect

    def few(one: Server) -> mysql.Connection:
        if made:
            raise StoreUnreadable("too many connections", expected="", found="", remedy="")
        made.append(connect(one))
        return made[0]

    monkeypatch.setattr(mysql, "connect", few)
    with pytest.raises(StoreUnreadable, match="too many"):
        drill.server_differences(beside.saved, server)
    with pytest.raises(StoreUnreadable):
        made[0].execute("SELECT 1")


def test_a_private_server_that_dies_of_a_full_disk_is_told_as_that(
    apart: Rehearsal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=4096))
        raise StoreUnreadable("lost", expected="", found="", remedy="")

    monkeypatch.setattr(drill, "fill", lost)
    with apart.site() as site, pytest.raises(PlaceUnusable, match="no room"):
        site.restore("before")


# what ZenML is told


@pytest.mark.parametrize("release", ["0.55.5", "0.70.0", "0.98.0"])
def test_every_release_understands_the_variables_and_reaches_the_copy(
    release: str, environment: Callable[[str], Environment], tmp_path: Path, server: Server
) -> None:
    script = """if True:
        import os, sqlalchemy
        from zenml.zen_stores.sql_zen_store import SqlZenStoreConfiguration
        given = {name[12:].lower(): value for name, value in os.environ.items() if name.startswith("ZENML_STORE_")}
        config = SqlZenStoreConfiguration(**given)
        url, arguments, rest = config.get_sqlalchemy_config()
        with sqlalchemy.create_engine(url, connect_args=arguments).connect() as connection:
            print("stamp", connection.execute(sqlalchemy.text("SELECT version_num FROM alembic_version")).scalar())
    """
    found = environment(release)
    variables = copies.variables(server, release)
    command = [str(found.python), "-c", script]
    ended = probing.run_command(found, command, folder=tmp_path / "it", variables=variables, timeout=120)
    assert "stamp 0.70.0" in ended.last_lines()


def test_tls_is_told_in_the_words_of_the_release(tmp_path: Path) -> None:
    plain = Server(user="me@here", password="a b/c", host="::1", port=3307, database="zenml")
    assert copies.variables(plain)["ZENML_STORE_URL"] == "mysql://me%40here:a%20b%2Fc@[::1]:3307/zenml"
    tls = replace(plain, ssl=True)
    assert copies.variables(tls)["ZENML_STORE_SSL"] == copies.variables(tls, "0.74.0")["ZENML_STORE_SSL"] == "true"
    assert "ZENML_STORE_SSL" not in copies.variables(tls, "0.73.0")
    files = replace(tls, ssl_ca="/etc/a b.pem", ssl_verify=True)
    url = copies.variables(files, "0.55.5")["ZENML_STORE_URL"]
    assert url.endswith("/zenml?ssl_ca=%2Fetc%2Fa%20b.pem&ssl_verify_server_cert=true")
    assert copies.variables(tmp_path / "x.db")["ZENML_STORE_URL"] == f"sqlite:///{tmp_path}/x.db"


# secrets


def test_passwords_are_in_no_file_no_argument_and_no_environment(
    apart: Rehearsal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords, known = [databases.PASSWORD], set(processes())
    with apart.site() as site:
        assert site.server
        passwords.append(site.server.password)
        copy, _ = site.restore("before")
        assert site.server.password in copies.variables(copy)["ZENML_STORE_URL"]
        seen = [text for pid, text in processes().items() if pid not in known]
        text = repr(site) + json.dumps(site.state())
    assert any("mariadbd" in one for one in seen)
    monkeypatch.delenv("PRODUCTION")
    files = [path for path in apart.run.folder.rglob("*") if path.is_file()]
    for password in passwords:
        assert not [path for path in files if password.encode() in path.read_bytes()]
        assert password not in text
    assert not [one for one in seen if passwords[1] in one]


def processes() -> dict[int, str]:
    """Arguments and environment of every process that can be seen, by its id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            texts = [(folder / name).read_bytes().replace(b"\0", b" ") for name in ("cmdline", "environ")]
            found[int(folder.name)] = b" ".join(texts).decode(errors="replace")
        except OSError:
            continue
    return found
