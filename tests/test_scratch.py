"""Scratch schemas on the user's server, and the switch to one: nothing of the user's is ever in danger."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import replace

import pytest
from databases import client, run

from zenml_upgrade_kit.errors import BadPlan, RestoreRefused, StoreUnreadable
from zenml_upgrade_kit.stores import mysql, scratch
from zenml_upgrade_kit.stores.address import Server

Stores = Callable[..., Server]
UTF8 = {"charset": "utf8mb4", "collation": "utf8mb4_general_ci", "tables": {}}
LATIN = {"charset": "latin1", "collation": "latin1_german2_ci", "tables": {}}
PROCESS = """
import json, sys
from zenml_upgrade_kit.stores import scratch
from zenml_upgrade_kit.stores.address import Server
server, arguments = Server(**json.loads(sys.argv[1])), json.loads(sys.argv[2])
"""
USING = PROCESS + "with scratch.scratch(server, *arguments) as fresh: print(fresh.database, flush=True); input()"
MAKING = PROCESS + "print(flush=True)\nwhile True:\n with scratch.scratch(server, *arguments): pass"
SWITCHING = PROCESS + "print(flush=True); scratch.switch(server, server.using(*arguments))"


@pytest.fixture(autouse=True)
def nothing_left(mariadb: Server) -> Iterator[None]:
    yield
    for name in ours(mariadb):
        client(mariadb, f"DROP DATABASE `{name}`")


def ours(server: Server) -> list[str]:
    return client(server, r"SHOW DATABASES LIKE 'zenml\_upgrade\_%'").split()


def dump(server: Server) -> bytes:
    return run("mariadb-dump", server, "--skip-comments", server.database)


def default(server: Server) -> str:
    return client(server, "SELECT @@character_set_database, @@collation_database")


@contextmanager
def process(script: str, server: Server, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process of the kit, past its start, killed at the end."""
    command = [sys.executable, "-c", script, json.dumps(vars(server)), json.dumps(arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.send_signal(signal.SIGKILL)


@contextmanager
def account(server: Server, *grants: str) -> Iterator[Server]:
    client(server, "CREATE USER limited@localhost")
    try:
        for grant in grants:
            client(server, f"GRANT {grant} TO limited@localhost")
        yield replace(server, user="limited")
    finally:
        client(server, "DROP USER limited@localhost")


@contextmanager
def session(server: Server, *statements: str) -> Iterator[None]:
    with closing(mysql.connect(server, write=True)) as connection:
        for statement in statements:
            connection.execute(statement)
        yield


def quiet(server: Server) -> None:
    """Wait until no session of a killed process is at work any more."""
    until = time.monotonic() + 60
    while client(server, "SELECT 1 FROM information_schema.PROCESSLIST WHERE USER = 'root' AND ID <> CONNECTION_ID()"):
        assert time.monotonic() < until, "the session of the killed process stays"
        time.sleep(0.02)


@pytest.mark.parametrize("facts", [UTF8, LATIN])
def test_a_scratch_schema_has_the_charset_and_collation_of_the_facts_and_no_table(
    mariadb: Server, facts: dict[str, str]
) -> None:
    with scratch.scratch(mariadb, facts, "drill") as fresh, closing(mysql.connect(fresh)) as connection:
        assert default(fresh).split() == [facts["charset"], facts["collation"]]
        assert mysql.tables(connection) == {}
        assert replace(fresh, database="") == mariadb
    assert fresh.database not in ours(mariadb)


def test_it_is_dropped_with_what_was_loaded_into_it_after_an_error_too(mariadb: Server) -> None:
    with pytest.raises(subprocess.CalledProcessError), scratch.scratch(mariadb, UTF8, "drill") as fresh:
        client(fresh, "CREATE TABLE loaded (a INT); nonsense")
    assert ours(mariadb) == []


def test_a_collation_that_the_server_does_not_have_is_named(mariadb: Server) -> None:
    facts = {**UTF8, "collation": "utf8mb4_0900_ai_ci"}
    with pytest.raises(StoreUnreadable) as raised, scratch.scratch(mariadb, facts, "drill"):
        pass
    assert "utf8mb4_0900_ai_ci" in str(raised.value)


def test_an_account_without_the_grant_is_told_the_statement_that_gives_it(mariadb: Server, mysql_store: Stores) -> None:
    store = mysql_store("0.70.0")
    with account(mariadb, f"ALL ON {store.database}.*") as limited:
        reason = scratch.why_not(limited.using(store.database), UTF8)
        assert reason.endswith(r"GRANT ALL ON `zenml\_upgrade\_%`.* TO the user limited")
        with pytest.raises(StoreUnreadable, match="no scratch schema can be made"), scratch.scratch(limited, UTF8, "x"):
            pass
        assert ours(mariadb) == []
        client(mariadb, reason[reason.index("GRANT") :].replace("the user limited", "limited@localhost"))
        assert scratch.why_not(limited.using(store.database), UTF8) == ""


@pytest.mark.parametrize("missing", ["CREATE VIEW", "INSERT", "ALTER", "LOCK TABLES", "SELECT"])
def test_one_grant_too_few_shows_before_anything_is_loaded(mariadb: Server, missing: str) -> None:
    with account(mariadb, r"ALL ON `zenml\_upgrade\_%`.*") as limited:
        client(mariadb, rf"REVOKE {missing} ON `zenml\_upgrade\_%`.* FROM limited@localhost")
        assert "GRANT ALL" in scratch.why_not(limited, UTF8)
    assert ours(mariadb) == []


def test_too_little_room_on_this_machine_is_a_reason(mariadb: Server) -> None:
    assert scratch.why_not(mariadb, {**UTF8, "tables": {"step_run": 1000}}) == ""
    assert "1,100,000,000,000,000,128 are needed" in scratch.why_not(mariadb, {**UTF8, "tables": {"step_run": 10**18}})


def test_what_a_killed_process_leaves_is_listed_and_removed_once_it_is_dead(mariadb: Server) -> None:
    with process(USING, mariadb, UTF8, "drill") as other:
        assert other.stdout
        name = other.stdout.readline().strip()
        client(mariadb.using(name), "CREATE TABLE loaded (a INT)")
        (found,) = scratch.leftovers(mariadb)
        assert (found["name"], found["purpose"], found["pid"], found["alive"]) == (name, "drill", other.pid, True)
        with pytest.raises(BadPlan, match="not removed"):
            scratch.remove(mariadb, name)
        assert ours(mariadb) == [name]
    quiet(mariadb)
    scratch.remove(mariadb, name)
    assert ours(mariadb) == []


def test_whenever_it_is_killed_what_is_left_is_removed_by_its_marker_or_told(mariadb: Server) -> None:
    left = []
    for _ in range(12):
        with process(MAKING, mariadb, UTF8, "drill") as other:
            assert other.stdout
            other.stdout.readline()
            time.sleep(random.uniform(0, 0.05))
        quiet(mariadb)
        for one in scratch.leftovers(mariadb):
            left.append(one["name"])
            if one["created"]:
                scratch.remove(mariadb, one["name"])
                continue
            with pytest.raises(BadPlan, match=f"DROP DATABASE {one['name']}"):
                scratch.remove(mariadb, one["name"])
            client(mariadb, f"DROP DATABASE {one['name']}")
        assert ours(mariadb) == []
    assert left


@pytest.mark.parametrize("name", ["zenml", "zenml_upgrade_mine", "zenml_upgrade_drill_0123abcd"])
def test_a_schema_that_is_not_ours_is_never_removed(mariadb: Server, name: str) -> None:
    client(mariadb, f"CREATE DATABASE {name}; CREATE TABLE {name}.precious (a INT)")
    try:
        assert scratch.leftovers(mariadb) == []
        with pytest.raises(BadPlan, match="not removed"):
            scratch.remove(mariadb, name)
        assert client(mariadb, f"SHOW TABLES IN {name}") == "precious"
    finally:
        client(mariadb, f"DROP DATABASE {name}")


def test_other_sessions_in_the_database_are_named(mariadb: Server, mysql_store: Stores) -> None:
    store = mysql_store("0.70.0")
    assert scratch.in_use(store) == []
    with account(mariadb, f"ALL ON {store.database}.*") as limited, session(limited.using(store.database)):
        (found,) = scratch.in_use(store)
        assert found.startswith("limited from localhost, Sleep for ")
        with session(store):
            assert scratch.in_use(limited.using(store.database)) == [found, scratch.UNSEEN]


@pytest.mark.parametrize(("before", "after"), [("0.98.0", "0.55.5"), ("0.55.5", "0.55.5"), ("0.80.2", "0.98.0")])
def test_a_switch_moves_every_table_with_its_foreign_keys_and_can_be_undone(
    mariadb: Server, mysql_store: Stores, before: str, after: str
) -> None:
    store, fresh = mysql_store(before), mysql_store(after)
    client(store, "CREATE TABLE mine (a INT); INSERT INTO mine VALUES (1)")
    old, new = dump(store), dump(fresh)
    kept = store.using(scratch.switch(store, fresh))
    assert kept.database.startswith("zenml_upgrade_kept_")
    assert (dump(store), dump(kept)) == (new, old)
    astray = "SELECT * FROM information_schema.KEY_COLUMN_USAGE WHERE REFERENCED_TABLE_SCHEMA <> TABLE_SCHEMA"
    assert client(store, astray) == ""
    with pytest.raises(StoreUnreadable) as raised, session(store, "UPDATE pipeline_run SET user_id = 'nobody' LIMIT 1"):
        pass
    assert "foreign key constraint fails" in raised.value.found
    assert scratch.leftovers(mariadb) == []
    scratch.switch(store, kept)
    assert dump(store) == old


@pytest.mark.parametrize("there", [True, False])
def test_a_switch_to_an_empty_or_a_new_database_keeps_nothing(
    mariadb: Server, mysql_store: Stores, there: bool
) -> None:
    fresh, target = mysql_store("0.70.0"), mariadb.using("target")
    if there:
        client(mariadb, "CREATE DATABASE target CHARACTER SET latin1")
    new = dump(fresh)
    assert scratch.tables_in(target) == 0
    assert scratch.switch(target, fresh) == ""
    assert scratch.tables_in(target) == 40
    assert (dump(target), default(target)) == (new, default(fresh))
    assert ours(mariadb) == []
    client(mariadb, "DROP DATABASE target")


def test_what_is_made_after_a_switch_has_the_charset_of_the_restored_schema(
    mariadb: Server, mysql_store: Stores
) -> None:
    store = mysql_store("0.70.0")
    with scratch.scratch(mariadb, LATIN, "restore") as fresh:
        client(fresh, "CREATE TABLE restored (a INT)")
        kept = store.using(scratch.switch(store, fresh))
    assert default(store).split() == [LATIN["charset"], LATIN["collation"]]
    assert default(kept).split() == [UTF8["charset"], UTF8["collation"]]
    assert client(store, "SHOW TABLES") == "restored"
    assert ours(mariadb) == [kept.database]


def refused(store: Server, fresh: Server, as_account: Server | None = None) -> RestoreRefused:
    """The refusal of a switch that has changed nothing."""
    kept, before = ours(store), (dump(store), dump(fresh))
    with pytest.raises(RestoreRefused, match="nothing was changed") as raised:
        scratch.switch(as_account or store, fresh)
    assert (dump(store), dump(fresh)) == before
    assert ours(store) == kept
    return raised.value


def test_a_table_in_somebodys_transaction_refuses_the_switch_at_once(
    mysql_store: Stores, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mysql, "PATIENCE", 1)
    store, fresh = mysql_store("0.55.5"), mysql_store("0.55.5")
    with session(store, "START TRANSACTION", "SELECT COUNT(*) FROM pipeline_run"):
        assert "root from localhost" in refused(store, fresh).found
    assert scratch.switch(store, fresh)


@pytest.mark.parametrize(
    ("made", "named"),
    [
        ("VIEW v AS SELECT 1", "view"),
        ("TRIGGER v BEFORE INSERT ON user FOR EACH ROW SET NEW.name = 'x'", "trigger"),
        ("FUNCTION v() RETURNS INT RETURN 1", "routine"),
        ("EVENT v ON SCHEDULE EVERY 1 YEAR DO SELECT 1", "event"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_what_cannot_move_refuses_the_switch_and_is_named(
    mysql_store: Stores, made: str, named: str, place: int
) -> None:
    stores = mysql_store("0.70.0"), mysql_store("0.70.0")
    client(stores[place], f"CREATE {made}")
    assert f"the {named} {stores[place].database}.v" in refused(*stores).found


def test_an_empty_schema_is_never_switched_to(mariadb: Server, mysql_store: Stores) -> None:
    with scratch.scratch(mariadb, UTF8, "restore") as fresh:
        assert "no table" in refused(mysql_store("0.70.0"), fresh).found


def test_an_account_that_may_not_keep_the_old_tables_may_not_switch(mariadb: Server, mysql_store: Stores) -> None:
    store, fresh = mysql_store("0.70.0"), mysql_store("0.70.0")
    with account(mariadb, f"ALL ON {store.database}.*", f"ALL ON {fresh.database}.*") as limited:
        refused(store, fresh, as_account=limited.using(store.database))


def whole(store: Server, fresh: Server, old: bytes, new: bytes) -> bool:
    """Whether a switch that was killed has been done; it was done wholly, or not at all."""
    quiet(store)  # the server may still be at it
    if dump(store) == old:
        assert dump(fresh) == new
        return False
    (kept,) = [name for name in ours(store) if client(store, f"SHOW TABLES IN {name}")]
    assert (dump(store), dump(store.using(kept))) == (new, old)
    client(store, f"DROP DATABASE {kept}")
    return True


def test_a_switch_that_is_killed_has_moved_all_tables_or_none(mysql_store: Stores) -> None:
    done = set()
    for delay in (0.0, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 60.0):
        store, fresh = mysql_store("0.98.0"), mysql_store("0.55.5")
        old, new = dump(store), dump(fresh)
        with process(SWITCHING, store, fresh.database) as other:
            assert other.stdout
            other.stdout.readline()
            with suppress(subprocess.TimeoutExpired):
                other.wait(delay)
        done.add(whole(store, fresh, old, new))
    assert True in done


def test_a_switch_that_is_killed_while_it_waits_for_a_table_has_moved_all_or_none(mysql_store: Stores) -> None:
    store, fresh = mysql_store("0.98.0"), mysql_store("0.55.5")
    old, new = dump(store), dump(fresh)
    with session(store, "START TRANSACTION", "SELECT * FROM pipeline_run"):
        with process(SWITCHING, store, fresh.database):
            while "Waiting for table metadata lock" not in client(store, "SHOW PROCESSLIST"):
                time.sleep(0.02)
        (kept,) = scratch.leftovers(store)
        assert kept["alive"]  # the server does not know yet that it was killed
        with pytest.raises(BadPlan):
            scratch.remove(store, kept["name"])
    whole(store, fresh, old, new)
