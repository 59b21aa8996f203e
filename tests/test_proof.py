"""Proofs of real migrations; a single cell or row that is not as it must be is found, and nothing else."""

from __future__ import annotations

import csv
import json
import random
import shutil
import sqlite3
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from databases import client, zenml_url

from zenml_upgrade_kit.errors import BadPlan, KitError
from zenml_upgrade_kit.probing import Environment, run_command
from zenml_upgrade_kit.proof import changes, comparison, entries, exports, steps
from zenml_upgrade_kit.proof.comparison import Proof
from zenml_upgrade_kit.proof.states import Expectation
from zenml_upgrade_kit.stores import mysql
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.pair import Pair
from zenml_upgrade_kit.stores.sqlite import quoted

TARGET = "0.98.0"
CANARY = "canary-5f2b8c1d"
OPEN = "from zenml.client import Client; Client().active_user"
Database = Path | Server
Execute = Callable[[str], Any]
Places = dict[tuple[str, str, str], set[str]]
"""Table, column and kind of what must be found, and its keys as JSON."""


def migrate(environment: Environment, url: str, folder: Path) -> None:
    variables = {"ZENML_STORE_TYPE": "sql", "ZENML_STORE_URL": url, "ZENML_STORE_BACKUP_STRATEGY": "disabled"}
    command = [str(environment.python), "-c", OPEN]
    ended = run_command(environment, command, folder=folder, variables=variables, timeout=600)
    assert ended.returncode == 0, ended.last_lines()


def plant(path: Path) -> None:
    """Things that a migration drops, and secrets, in a database of 0.55.5."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE user SET hub_token = '{CANARY}-hub', password = '{CANARY}-password'")
        connection.execute("UPDATE pipeline SET docstring = 'What it does, \"quoted\"'")
        settings = json.dumps({"url": f"https://me:{CANARY}@example.com", "api_key": CANARY})
        connection.execute(f"UPDATE stack_component SET configuration = CAST('{settings}' AS BLOB)")
        connection.execute(f"UPDATE run_metadata SET value = '{json.dumps({'a': 1, 'api_token': CANARY})}'")
        connection.execute("CREATE TABLE theirs (id INTEGER PRIMARY KEY, note TEXT)")
        connection.execute("INSERT INTO theirs VALUES (1, 'ours?')")
        connection.execute("CREATE TABLE keyless (note TEXT)")
        connection.executemany("INSERT INTO keyless VALUES (?)", [("a",), ("a",), ("b",), (None,)])


@pytest.fixture(scope="module", params=["0.55.5", "0.70.0"])
def migrated(
    request: pytest.FixtureRequest,
    deploy: Callable[[str, Path], Path],
    environment: Callable[[str], Environment],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, str]:
    """A real migration of the sample: the database before, the one after, and the stamp before."""
    folder = tmp_path_factory.mktemp("migrated")
    before = deploy(request.param, folder / "own") / "local_stores" / "default_zen_store" / "zenml.db"
    if request.param == "0.55.5":
        plant(before)
    after = Path(shutil.copyfile(before, folder / "after.db"))
    migrate(environment(TARGET), f"sqlite:///{after}", folder)
    return before, after, request.param


old_only = pytest.mark.parametrize("migrated", ["0.55.5"], indirect=True)
new_only = pytest.mark.parametrize("migrated", ["0.70.0"], indirect=True)


@pytest.fixture
def copy(migrated: tuple[Path, Path, str], tmp_path: Path) -> tuple[Path, Path, str]:
    """The same, with a migrated database that may be changed."""
    before, after, source = migrated
    return before, Path(shutil.copyfile(after, tmp_path / "changed.db")), source


def prove(pair: tuple[Database, Database, str], folder: Path) -> Proof:
    before, after, source = pair
    return comparison.prove(before, after, source, TARGET, exports=folder / "exports")


def found(proof: Proof) -> Places:
    return {
        (one["table"], one["column"], one["kind"]): {json.dumps(example["key"]) for example in one["examples"]}
        for one in proof.unexplained
    }


@contextmanager
def writing(database: Database) -> Iterator[Execute]:
    """Rows may be changed without regard to foreign keys."""
    if isinstance(database, Path):
        with closing(sqlite3.connect(database, isolation_level=None)) as connection:
            yield lambda sql: connection.execute(sql).fetchall()
        return
    with closing(mysql.connect(database, write=True)) as session:
        session.execute("SET foreign_key_checks = 0")
        yield session.execute


def literal(value: Any) -> str:
    return (
        str(value)
        if isinstance(value, (int, float))
        else "'" + str(value).replace("\\", "\\\\").replace("'", "''") + "'"
    )


def other(value: Any) -> Any:
    """A value of the same type and length."""
    if isinstance(value, datetime):
        return value + timedelta(seconds=1)
    if isinstance(value, str):
        return value[:-1] + ("1" if value[-1] == "0" else "0")
    return 1 - value if value in (0, 1) else value + 1


class Mutations:
    """Changes that a proof must find, in random places of a migrated database."""

    def __init__(self, before: Database, after: Database, source: str, seed: int) -> None:
        self.random, self.places, self.touched = random.Random(seed), Places(), set[str]()
        self.after = after
        with Pair(before, after) as pair:
            columns = {name: list(found) for name, found in pair.before.tables.items()}
            names = (pair.before.name, pair.after.name)
            self.expected = changes.expected(source, TARGET, pair.engine, columns, names=names)
        with Pair(before, after, views=self.expected.views) as pair:
            self.keys = {n: tuple(t.key) or pair.after.keys.get(n, ()) for n, t in self.expected.tables.items()}
            self.rows = {
                n: self._rows(pair, n) for n in self.expected.tables if self.keys[n] and n != "alembic_version"
            }
        self.keys["step_configuration"] = ("snapshot_id", "name")
        self.rows = {name: rows for name, rows in self.rows.items() if rows}
        self.depending = {
            name: {
                other_name
                for other_name, table in self.expected.tables.items()
                for sql in (*table.new_rows, *(check for column in table.columns.values() for check in column.checks))
                if f"{quoted(names[1])}.{quoted(name)}" in sql
            }
            for name in self.rows
        }

    def _rows(self, pair: Pair, name: str) -> list[dict[str, Any]]:
        """The rows of which none may be new."""
        table, columns = self.expected.tables[name], list(pair.after.tables[name])
        new = " OR ".join(table.new_rows) or "1 = 0"
        listed = ", ".join(map(quoted, columns))
        source = f"{quoted(pair.after.name)}.{quoted(name)} AS migrated"
        rows = pair.rows(f"SELECT {listed} FROM {source} WHERE ({new}) IS NOT TRUE")
        return [dict(zip(columns, row, strict=True)) for row in rows]

    def cells(self, name: str) -> list[str]:
        """Columns whose values are foretold."""
        if name == "step_configuration":
            return ["index", "config"]
        told = self.expected.tables[name].columns.values()
        return [
            one.name for one in told if one.outcome != "free" and not one.checks and one.name not in self.keys[name]
        ]

    def make(self, execute: Execute, kind: str) -> None:
        """One change, in a place that none has been in."""
        for _ in range(300):
            name = self.random.choice(sorted(self.rows))
            column = self.random.choice(self.cells(name) or [""])
            rows = self.rows[name]
            one = rows.pop(self.random.randrange(len(rows))) if rows else None
            if one is None or not self._made(execute, kind, name, column, one):
                continue
            self.touched.add(name)
            return
        raise AssertionError(f"no place for {kind}")

    def _made(self, execute: Execute, kind: str, name: str, column: str, one: Mapping[str, Any]) -> bool:
        table = quoted(name)
        if kind == "delete":
            execute(f"DELETE FROM {table} WHERE {self._where(name, one)}")
            return self._expect(name, "", "missing", one)
        if kind == "duplicate":
            if self.keys[name] != ("id",):
                return False
            new = {**one, "id": f"{self.random.getrandbits(128):032x}"}
            values = ", ".join("NULL" if value is None else literal(value) for value in new.values())
            try:
                execute(f"INSERT INTO {table} ({', '.join(map(quoted, new))}) VALUES ({values})")
            except (sqlite3.IntegrityError, KitError):
                return False  # names are unique there
            return self._expect(name, "", "extra", new)
        if not column or one[column] in (None, "") or isinstance(one[column], bytes):
            return False
        if kind == "change":
            return self._set(execute, name, column, one, other(one[column]))
        second = next((row for row in self.rows[name] if row[column] not in (None, one[column])), None)
        if second is None or not self._set(execute, name, column, one, second[column]):
            return False
        self.rows[name].remove(second)
        assert self._set(execute, name, column, second, one[column])
        return True

    def _set(self, execute: Execute, name: str, column: str, row: Mapping[str, Any], value: Any) -> bool:
        sql = f"UPDATE {quoted(name)} SET {quoted(column)} = {literal(value)} WHERE {self._where(name, row)}"
        try:
            execute(sql)
        except (sqlite3.IntegrityError, KitError):
            return False
        return self._expect(name, column, "differs", row)

    def _where(self, name: str, row: Mapping[str, Any]) -> str:
        return " AND ".join(f"{quoted(key)} = {literal(row[key])}" for key in self.keys[name])

    def _expect(self, name: str, column: str, kind: str, row: Mapping[str, Any]) -> bool:
        key = json.dumps({key: row[key] for key in self.keys[name]})
        self.places.setdefault((name, column, kind), set()).add(key)
        return True

    def check(self, proof: Proof) -> None:
        """Each was found, and nothing else, but where a check looks at a table that was changed."""
        seen = found(proof)
        for place, keys in self.places.items():
            assert seen.get(place, set()) <= keys, place
            assert len(seen.get(place, ())) == min(len(keys), comparison.EXAMPLES), place
        allowed = set().union(*(self.depending[name] for name in self.touched))
        assert {place for place in seen.keys() - self.places.keys() if place[0] not in allowed} == set()
        counts = {(one["table"], one["column"], one["kind"]): one["count"] for one in proof.unexplained}
        assert {place: counts[place] for place in self.places} == {p: len(keys) for p, keys in self.places.items()}
        wrong = {table for table, _, _ in self.places}
        assert wrong <= {one["table"] for one in proof.tables if one["outcome"] == "unexplained"}


KINDS = ["change"] * 8 + ["delete"] * 4 + ["duplicate"] * 3 + ["swap"] * 5


def test_every_row_and_cell_of_a_real_migration_is_explained(migrated: tuple[Path, Path, str], tmp_path: Path) -> None:
    proof = prove(migrated, tmp_path)
    assert proof.unexplained == []
    assert proof.not_checked == []
    with closing(sqlite3.connect(migrated[1])) as connection:
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = {name: connection.execute(f'SELECT COUNT(*) FROM "{name}"').fetchone()[0] for name in tables}
    told = [one for one in proof.tables if one["outcome"] != "dropped"]
    assert {one["table"]: one["after"] for one in told} == rows
    assert proof.totals["tables"] == len(rows)
    new = sum(one["new_rows"] for one in told)
    assert proof.totals["rows"] == sum(rows.values()) - new
    assert json.loads(json.dumps(proof.to_json())) == proof.to_json()


@new_only
def test_what_became_of_tables_and_columns_is_told(migrated: tuple[Path, Path, str], tmp_path: Path) -> None:
    proof = prove(migrated, tmp_path)
    tables = {(one["table"], one["outcome"]): one for one in proof.tables}
    assert tables["project", "renamed"]["was"] == "workspace"
    snapshot = tables["pipeline_snapshot", "renamed"]
    assert (snapshot["was"], snapshot["before"], snapshot["after"]) == ("pipeline_deployment", 5, 5)
    columns = {(one["column"], one["outcome"]): one for one in tables["pipeline_run", "changed"]["columns"]}
    assert columns["project_id", "renamed"]["was"] == "workspace_id"
    assert columns["project_id", "renamed"]["release"] == "0.80.0"
    assert columns["index", "rewritten" if ("index", "rewritten") in columns else "added"]["why"]
    assert columns["trigger_execution_id", "dropped"]["release"] == "0.94.0rc0"
    assert ("pipeline_deployment", "moved") not in tables
    moved = [one for one in snapshot["columns"] if one["outcome"] == "moved"]
    assert [one["column"] for one in moved] == ["step_configurations"]
    assert "step_configuration" in moved[0]["why"]
    assert tables["event_source", "dropped"]["why"]
    assert tables["step_configuration", "added"]["after"] == 14
    assert tables["stack_component", "changed"]["new_rows"] == 1
    assert tables["step_run_parents", "unchanged"]["columns"] == []


@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_is_changed_deleted_doubled_or_swapped_is_found(
    copy: tuple[Path, Path, str], tmp_path: Path, seed: int
) -> None:
    mutations = Mutations(*copy, seed)
    with writing(copy[1]) as execute:
        for kind in KINDS:
            mutations.make(execute, kind)
    mutations.check(prove(copy, tmp_path))


@new_only
def test_each_change_alone_is_found(copy: tuple[Path, Path, str], tmp_path: Path) -> None:
    for seed, kind in enumerate(["change", "delete", "duplicate", "swap"] * 2, start=10):
        before, _, source = copy
        after = Path(shutil.copyfile(copy[1], tmp_path / "one.db"))
        mutations = Mutations(before, after, source, seed)
        with writing(after) as execute:
            mutations.make(execute, kind)
        mutations.check(prove((before, after, source), tmp_path))


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("pipeline_run", "index"),
        ("pipeline_run", "pipeline_id"),
        ("pipeline", "run_count"),
        ("artifact_version", "type"),
        ("artifact", "name"),
        ("stack_composition", "default_for_type"),
    ],
)
@new_only
def test_values_that_a_migration_may_choose_are_looked_at_too(
    copy: tuple[Path, Path, str], tmp_path: Path, table: str, column: str
) -> None:
    with writing(copy[1]) as execute:
        ((value,),) = execute(f'SELECT "{column}" FROM "{table}" LIMIT 1')
        changed = literal(other(value))
        execute(f'UPDATE "{table}" SET "{column}" = {changed} WHERE rowid = (SELECT rowid FROM "{table}" LIMIT 1)')
    assert (table, column, "differs") in found(prove(copy, tmp_path))


@pytest.mark.parametrize(
    ("sql", "place"),
    [
        ("UPDATE step_configuration SET config = replace(config, ':', ' :')", ("config", "differs")),
        ('DELETE FROM step_configuration WHERE "index" = 1', ("", "missing")),
        ('UPDATE step_configuration SET "index" = "index" + 1', ("index", "differs")),
        ("UPDATE step_configuration SET step_run_id = 'x', snapshot_id = NULL", ("", "extra")),
        ("UPDATE step_configuration SET step_run_id = 'x'", ("step_run_id", "differs")),
        ("", ("", "extra")),  # one more
    ],
)
@new_only
def test_step_configurations_are_those_of_the_deployments(
    copy: tuple[Path, Path, str], tmp_path: Path, sql: str, place: tuple[str, str]
) -> None:
    with writing(copy[1]) as execute:
        columns = [row[1] for row in execute('PRAGMA table_info("step_configuration")')]
        other_values = {"id": "hex(randomblob(16))", "index": "99", "name": "'another'"}
        values = ", ".join(other_values.get(name, quoted(name)) for name in columns)
        sql = sql or f'INSERT INTO step_configuration SELECT {values} FROM step_configuration WHERE "index" = 0'
        execute("PRAGMA ignore_check_constraints = ON")
        execute(sql)
    assert ("step_configuration", *place) in found(prove(copy, tmp_path))


def test_a_step_is_the_same_in_other_words_that_a_migration_writes() -> None:
    model = {"name": "m", "version": 3, "suppress": True}
    step = {"config": {"name": "größe", "model_artifacts_or_metadata": {"x": {"model": model, "artifact_name": "a"}}}}
    lazy = {"artifact_name": "a", "model_name": "m", "model_version": "3"}
    after = {"config": {"name": "größe", "model_artifacts_or_metadata": {"x": lazy}}}
    text = json.dumps({"größe": step, "b": {}}, ensure_ascii=False)
    rows = [(1, "b", "{}"), (0, "größe", json.dumps(after))]
    assert list(steps._wrong(text, rows, [])) == []
    wrong = [(0, "größe", json.dumps(after).replace('"3"', '"4"')), (1, "b", '{"a": 1}')]
    assert [(column, kind, key) for column, kind, key, *_ in steps._wrong(text, wrong, [])] == [
        ("config", "differs", {"name": "größe"}),
        ("config", "differs", {"name": "b"}),
    ]


@old_only
def test_what_is_dropped_is_kept_in_files_for_the_user_alone(migrated: tuple[Path, Path, str], tmp_path: Path) -> None:
    proof = prove(migrated, tmp_path)
    dropped = {(one["table"], one["column"]): one for one in proof.dropped}
    docstring = dropped["pipeline", "docstring"]
    assert docstring["release"] == "0.63.0"
    file = tmp_path / "exports" / docstring["file"]
    with file.open(encoding="utf-8", newline="") as source:
        rows = list(csv.DictReader(source))
    assert len(rows) == docstring["rows"] > 0
    assert {row["docstring"] for row in rows} == {'What it does, "quoted"'}
    with closing(sqlite3.connect(migrated[0])) as connection:
        assert {row["id"] for row in rows} == {row[0] for row in connection.execute("SELECT id FROM pipeline")}
    assert {path.name for path in (tmp_path / "exports").iterdir()} == {one["file"] for one in proof.dropped}
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "exports").iterdir()} == {0o600}
    assert dropped["user", "hub_token"]["hidden"] == ["hub_token"]


@old_only
def test_secrets_are_neither_shown_nor_exported(copy: tuple[Path, Path, str], tmp_path: Path) -> None:
    with writing(copy[1]) as execute:
        execute("UPDATE user SET password = password || 'x'")
        execute("UPDATE stack_component SET configuration = CAST(configuration || 'x' AS BLOB)")
        execute("UPDATE run_metadata SET value = replace(value, '1', '2')")
    proof = prove(copy, tmp_path)
    assert {("user", "password", "differs"), ("stack_component", "configuration", "differs")} <= set(found(proof))
    (metadata,) = [one for one in proof.unexplained if (one["table"], one["column"]) == ("run_metadata", "value")]
    assert '"a": 1' in metadata["examples"][0]["before"]
    assert '"a": 2' in metadata["examples"][0]["after"]
    written = b"".join(path.read_bytes() for path in (tmp_path / "exports").iterdir())
    assert b"hidden (sha256 " in written
    assert CANARY.encode() not in written
    assert CANARY not in json.dumps(proof.to_json())


@old_only
def test_tables_of_somebody_else_must_stay_as_they_were(copy: tuple[Path, Path, str], tmp_path: Path) -> None:
    with writing(copy[1]) as execute:
        execute("UPDATE theirs SET note = 'Ours?'")
        execute("DELETE FROM keyless WHERE rowid = 1")
        execute("CREATE TABLE another (id INTEGER PRIMARY KEY)")
        execute("ALTER TABLE tag ADD COLUMN more TEXT")
        execute("ALTER TABLE tag DROP COLUMN color")
    seen = set(found(prove(copy, tmp_path)))
    assert ("theirs", "note", "differs") in seen
    assert {kind for table, _, kind in seen if table == "keyless"} == {"missing", "extra"}
    assert ("another", "", "extra") in seen
    assert {("tag", "more", "extra"), ("tag", "color", "missing")} <= seen
    assert len(seen) == 6


@new_only
def test_a_table_that_cannot_be_compared_is_not_checked(
    copy: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = entries.load()
    wrong = {"revision": "c7d4e8a2b5f1", "release": TARGET, "why": "w", "source": "s"}
    wrong["set"] = {"user": {"name": "NO_SUCH({name})"}}  # type: ignore[assignment]
    monkeypatch.setattr(entries, "load", lambda: (*model, *entries.read([wrong])))
    proof = prove(copy, tmp_path)
    assert [one for one in proof.not_checked if "user" in one and "NO_SUCH" in one]
    assert [one["outcome"] for one in proof.tables if one["table"] == "user"] == ["not_checked"]


def test_a_migration_on_mariadb_is_proven_and_whatever_is_changed_in_it_is_found(
    mysql_store: Callable[..., Server],
    zenml_mariadb: Server,
    environment: Callable[[str], Environment],
    tmp_path: Path,
) -> None:
    before, after = mysql_store("0.70.0", on=zenml_mariadb), mysql_store("0.70.0", on=zenml_mariadb)
    migrate(environment(TARGET), zenml_url(after), tmp_path)
    proof = prove((before, after, "0.70.0"), tmp_path)
    assert proof.unexplained == []
    assert proof.not_checked == []
    assert proof.totals["rows"] > 200

    mutations = Mutations(before, after, "0.70.0", seed=3)
    with writing(after) as execute:
        for kind in KINDS:
            mutations.make(execute, kind)
    mutations.check(prove((before, after, "0.70.0"), tmp_path))

    client(after, "UPDATE step_run SET status = UPPER(status)")  # equal to the collation
    assert ("step_run", "status", "differs") in found(prove((before, after, "0.70.0"), tmp_path))


def entry(**more: Any) -> dict[str, Any]:
    return {"revision": "c7d4e8a2b5f1", "release": TARGET, "why": "w", "source": "s", **more}


@pytest.mark.parametrize(
    ("item", "problem"),
    [
        ([], "not a mapping"),
        ({"revision": "c7d4e8a2b5f1"}, "why is missing"),
        (entry(sets={}), "sets is no key"),
        (entry(release="0.97.0"), "belongs to release 0.98.0"),
        (entry(revision="0123456789ab"), "no release since 0.43.0 adds this revision"),
        (entry(set={"user": {"name": 1}}), "not SQL in quotes"),
        (entry(add={"user": {"name": {"sqlite": "1"}}}), "not told for sqlite and mysql"),
        (entry(drop_rows={"user": "id IN (SELECT id FROM <user> AS this)"}), "an alias that is taken: this"),
        (entry(tables={"user": {"columns": {}}}), "no columns, or no from"),
        (entry(free={"user": "name"}), "not a list of columns"),
        (entry(by="magic"), "none of step_configurations"),
    ],
)
def test_an_entry_that_cannot_be_used_is_named(item: Any, problem: str) -> None:
    with pytest.raises(BadPlan, match=problem):
        entries.read([item])


def test_entries_come_in_the_order_of_the_revisions() -> None:
    older = {**entry(), "revision": "9f2b8c7d6e5a", "release": "0.97.0"}
    assert len(entries.read([older, entry(), {**entry(), "revision": "*"}])) == 3
    with pytest.raises(BadPlan, match="9f2b8c7d6e5a comes too late"):
        entries.read([entry(), older])


def composed(source: str, *items: Any, columns: Mapping[str, list[str]]) -> Expectation:
    return changes.expected(source, TARGET, "sqlite", columns, model=entries.read(items))


def test_values_are_followed_through_renamed_tables_and_columns() -> None:
    rename = entry(
        rename_tables={"user": "person"},
        rename_columns={"person": {"name": "title"}},
        set={"person": {"title": "UPPER({name})"}},
        new_rows={"person": "{title} = 'x'"},
        check={"person": {"email": "{after.email} IN (SELECT p.title FROM <after.person> AS p WHERE p.id = {id})"}},
    )
    made = composed("0.97.0", rename, columns={"user": ["id", "name", "email"]})
    person = made.tables["person"]
    assert (person.was, person.select(["id", "title"])) == (
        "user",
        'SELECT "this"."id" AS "id", (UPPER("this"."name")) AS "title" FROM "before"."user" AS "this"',
    )
    assert person.columns["title"].outcome == "rewritten"
    assert person.new_rows == ['("migrated"."title" = \'x\')']
    expected = '("migrated"."email" IN (SELECT p.title FROM "after"."person" AS p WHERE p.id = "this"."id"))'
    assert person.columns["email"].checks == [expected]


def test_a_release_that_brings_nothing_else_brings_its_stamp() -> None:
    columns = {"alembic_version": ["version_num"]}
    for source, value in (("0.97.1", f"'{TARGET}'"), (TARGET, '"this"."version_num"')):
        made = changes.expected(source, TARGET, "sqlite", columns, model=())
        assert made.tables["alembic_version"].columns["version_num"].sql == value
    made = changes.expected("0.44.0", "0.44.1", "sqlite", columns, model=())
    assert made.tables["alembic_version"].columns["version_num"].sql == "'0.44.1'"


def test_a_name_that_is_not_there_and_a_drop_that_nobody_explains_are_flaws() -> None:
    wrong = entry(
        set={"user": {"nome": "{name}"}, "tag": {"name": "{nome}"}}, drop_tables=["tag"], free={"users": ["id"]}
    )
    columns = {"user": ["id", "name"], "tag": ["id", "name"], "resource_pool": ["id"]}
    problems = "; ".join(composed("0.96.4", wrong, columns=columns).problems)
    assert "set: no column nome in user" in problems
    assert "no column {nome} in tag" in problems
    assert "tag is not dropped here" in problems
    assert "free: no table users" in problems
    assert "9f2b8c7d6e5a: nobody tells why the table resource_pool is dropped" in problems


@pytest.mark.parametrize(
    ("table", "column", "secret"),
    [
        ("secret", "values", True),
        ("user", "password", True),
        ("user", "activation_token", True),
        ("api_key", "previous_key", True),
        ("auth_devices", "user_code", True),
        ("deployment", "auth_key", True),
        ("service_connector", "configuration", True),
        ("webhook", "secret_id", False),
        ("user", "password_changed_at", False),
        ("run_metadata", "key", False),
        ("step_run", "step_configuration", False),
    ],
)
def test_secret_columns_are_known(table: str, column: str, secret: bool) -> None:
    assert exports.is_secret(table, column) is secret


def test_long_values_are_shown_from_where_they_differ() -> None:
    one, second = exports.shown("t", "c", "a" * 5000 + "b" * 900, "a" * 5000 + "c" * 900)
    assert one is not None
    assert second is not None
    assert str(one).startswith("… aaaa")
    assert len(str(one)) < 300
    assert one != second
