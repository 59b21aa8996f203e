"""MySQL and MariaDB: every URL that ZenML takes, one moment, fingerprints that miss nothing, errors in words."""

import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import tls

from zenml_upgrade_kit.errors import BadPlan, StoreUnreadable
from zenml_upgrade_kit.stores import address, mysql
from zenml_upgrade_kit.stores.address import Server
from zenml_upgrade_kit.stores.mysql import Connection

Make = Callable[..., Connection]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with tls.server(tmp_path_factory.mktemp("tls")) as server:
        yield server


@pytest.fixture
def database(mariadb: Server) -> Iterator[Make]:
    """``database("CREATE TABLE …", …)``: a connection that may write to a new database of this test's own."""
    made: list[Connection] = []

    def make(*statements: str) -> Connection:
        own = mariadb.using(f"test_{secrets.token_hex(4)}")
        with closing(mysql.connect(mariadb, write=True)) as connection:
            connection.execute(f"CREATE DATABASE {own.database} CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci")
        made.append(mysql.connect(own, write=True))
        for statement in statements:
            made[-1].execute(statement)
        return made[-1]

    yield make
    for connection in made:
        connection.execute(f"DROP DATABASE {connection.server.database}")
        connection.close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mysql://u:p@h/d", Server(user="u", password="p", host="h", database="d")),
        ("mariadb://u@h:3307/d", Server(user="u", host="h", port=3307, database="d")),
        ("mysql+pymysql://u:p@[::1]:3307/d", Server(user="u", password="p", host="::1", port=3307, database="d")),
        ("MySQL://u%40x:p%2F%25@h/d", Server(user="u@x", password="p/%", host="h", database="d")),
        ("mysql://u:a:b/c#d?e@h/d", Server(user="u", password="a:b/c#d?e", host="h", database="d")),
        ("mysql://u:p+q@h/d?ssl=true", Server(user="u", password="p+q", host="h", database="d", ssl=True)),
        ("mysql://u@/d?unix_socket=/run/s", Server(user="u", socket="/run/s", database="d")),
        ("mysql://h", Server(user="me", password="x", host="h", database="b")),
        ("mysql://u:p@h/d?ssl=0", Server(user="u", password="p", host="h", database="d")),
    ],
)
def test_a_url_means_what_it_means_to_zenml(url: str, expected: Server) -> None:
    assert (
        address.parse(url, {"username": "me", "password": "x", "database": "b"} if url == "mysql://h" else {})
        == expected
    )


def test_certificates_are_files_and_switch_tls_on(tmp_path: Path) -> None:
    pem = tmp_path / "a b.pem"
    pem.touch()
    found = address.parse(f"mysql://u:p@h/d?ssl_ca={quote(str(pem))}&ssl_verify_server_cert=True", {"ssl": False})
    assert (found.ssl, found.ssl_ca, found.ssl_verify) == (True, str(pem), True)
    assert address.parse("mysql://u:p@h/d", {"ssl_ca": str(pem), "ssl": True}) == replace(found, ssl_verify=False)


@pytest.mark.parametrize(
    ("url", "section", "found"),
    [
        ("mysql:/u:hunter22@h/d", {}, "something else"),
        ("mysql://u:hunter22@h", {}, "no database name"),
        ("mysql://h/d", {"password": "hunter22"}, "no user name"),
        ("mysql://u:hunter22@h:33o6/d", {}, "something else"),
        ("mysql://u:hunter22@h:70000/d", {}, "something else"),
        ("mysql://u:hunter22@h/d?charset=utf8", {}, "the unknown option charset"),
        ("mysql://u:hunter22@h/d?ssl=maybe", {}, "something else"),
        ("mysql://u:hunter22@h/d?ssl_ca=/nowhere/ca.pem", {}, "no such file: /nowhere/ca.pem"),
        ("mysql://u:hunter22@h/d", {"ssl_key": "-----BEGIN PRIVATE KEY-----\nhunter22"}, "the text of one"),
        ("mysql://u:hunter22@h/d", {"auth_mode": "aws_rds_iam"}, "auth_mode: aws_rds_iam"),
    ],
)
def test_nonsense_in_a_url_is_named_without_the_password(url: str, section: dict[str, Any], found: str) -> None:
    with pytest.raises(BadPlan, match=r"MySQL URL") as raised:
        address.parse(url, section)
    assert raised.value.found == found
    assert "hunter22" not in str(raised.value)


def test_a_password_is_not_in_the_name_nor_in_repr() -> None:
    server = address.parse("mysql://u:hunter22@h/d")
    assert server.name == "mysql://u@h:3306/d"
    assert "hunter22" not in repr(server)


def test_an_account_with_an_odd_password_gets_in_over_tls(secured: Server) -> None:
    user, password = quote(secured.user), quote(secured.password)
    url = f"mysql://{user}:{password}@{secured.host}:{secured.port}/test_tls?ssl_ca={quote(secured.ssl_ca)}"
    assert address.parse(url) == secured
    for one in (secured, replace(secured, ssl_verify=True), replace(secured, ssl_ca="")):
        with closing(mysql.connect(one)) as connection:
            assert mysql.facts(connection)["tls"].startswith("TLS_")


@pytest.mark.parametrize(
    ("change", "expected", "found"),
    [
        ({"ssl_ca": "other.pem"}, "TLS that both sides agree on", "certificate verify failed"),
        ({"ssl_verify": True, "host": "localhost"}, "TLS that both sides agree on", "'localhost'"),
        ({"ssl": False}, "a user and password that it accepts", "Access denied"),
        ({"password": "hunter22"}, "a user and password that it accepts", "Access denied"),
        ({"user": "nobody"}, "a user and password that it accepts", "Access denied"),
        ({"port": 1}, "a server that answers", "Connection refused"),
        ({"host": "no-such-host.invalid"}, "a host name that can be looked up", "no-such-host"),
        ({"socket": "/nowhere/s", "ssl": False}, "a server that answers", "No such file"),
        ({"database": "test_none"}, "the database test_none", "Unknown database"),
        ({"database": "mysql"}, "the grant SELECT", "Access denied for user"),
    ],
)
def test_why_a_server_cannot_be_reached_is_said_in_words(
    secured: Server, change: dict[str, Any], expected: str, found: str
) -> None:
    if "ssl_ca" in change:
        change = {**change, "ssl_ca": str(Path(secured.ssl_ca).with_name("other.pem"))}
    with pytest.raises(StoreUnreadable) as raised:
        mysql.connect(replace(secured, **change))
    assert raised.value.expected == expected
    assert found in raised.value.found
    assert tls.PASSWORD not in str(raised.value)
    assert "hunter22" not in str(raised.value)


def test_tls_that_is_wanted_is_never_done_without(mariadb: Server) -> None:
    with pytest.raises(StoreUnreadable, match="a server without TLS"):
        mysql.connect(replace(mariadb, ssl=True))


def test_a_missing_grant_is_named_with_the_statement_that_gives_it(secured: Server) -> None:
    with closing(mysql.connect(secured)) as connection, pytest.raises(StoreUnreadable) as raised:
        connection.execute("SELECT * FROM mysql.user")
    assert raised.value.expected == "the grant SELECT"
    assert raised.value.remedy == "GRANT SELECT ON `test_tls`.* TO the user odd"
    assert mysql.missing_grant("you need (at least one of) the RELOAD privilege(s)") == "RELOAD"
    assert mysql.missing_grant("SHOW VIEW command denied to user") == "SHOW VIEW"
    assert mysql.grant(secured, "PROCESS") == "GRANT PROCESS ON *.* TO the user odd"


def test_a_connection_that_is_lost_is_said_to_be(database: Make) -> None:
    connection = database()
    with closing(mysql.connect(connection.server)) as other:
        other.stop()
        with pytest.raises(StoreUnreadable, match="a server that stays"):
            other.execute("SELECT 1")


def test_reading_never_writes(database: Make) -> None:
    made = database("CREATE TABLE t (a INT)")
    with closing(mysql.connect(made.server)) as connection:
        for statement in ("INSERT INTO t VALUES (1)", "DROP TABLE t", "CREATE TABLE u (a INT)"):
            with pytest.raises(StoreUnreadable, match="READ ONLY"):
                connection.execute(statement)


def test_rows_are_read_by_position_and_by_name(database: Make) -> None:
    connection = database(
        'CREATE TABLE "user" ("index" INT, "values" TEXT)', "INSERT INTO \"user\" VALUES (7, '😀 100%')"
    )
    (row,) = connection.execute('SELECT * FROM "user" WHERE "index" = %s', [7])
    assert (row[0], row["values"], row[-1:]) == (7, "😀 100%", ("😀 100%",))
    assert dict(row) == {"index": 7, "values": "😀 100%"}
    assert connection.execute("DO 1") == []
    assert connection.execute("SELECT 'a' LIKE '%'")[0][0] == 1


def test_times_are_utc_whatever_the_server_thinks(database: Make) -> None:
    connection = database("CREATE TABLE t (a TIMESTAMP)", "SET time_zone = '+05:00'")
    connection.execute("INSERT INTO t VALUES ('2024-01-01 05:00:00')")
    with closing(mysql.connect(connection.server)) as reader:
        assert str(reader.execute("SELECT a FROM t")[0][0]) == "2024-01-01 00:00:00"


def test_a_snapshot_stays_as_it_was(database: Make) -> None:
    writer = database("CREATE TABLE alembic_version (version_num VARCHAR(32))", "CREATE VIEW seen AS SELECT 1 AS one")
    with closing(mysql.connect(writer.server)) as reader:
        mysql.begin(reader)
        writer.execute("INSERT INTO alembic_version VALUES ('0.70.0')")
        assert mysql.stamps(reader) == []
        mysql.begin(reader)
        assert mysql.stamps(reader) == ["0.70.0"]
        assert mysql.sizes(reader).keys() == {"alembic_version"}
    assert mysql.tables(writer) == {"alembic_version": ["version_num"]}
    assert mysql.stamps(database()) == []


def fingerprint(connection: Connection) -> str:
    return str(mysql.contents([connection])["t"]["fingerprint"])


CHANGES = [
    "UPDATE t SET a = a + 1 WHERE id = 1",
    "UPDATE t SET b = NULL WHERE id = 1",
    "UPDATE t SET b = ' ' WHERE id = 1",
    "UPDATE t SET b = c, c = '' WHERE id = 2",
    "UPDATE t SET b = 'X' WHERE id = 2",
    "UPDATE t SET e = 0x00 WHERE id = 1",
    "UPDATE t SET f = 1.1000000000000003 WHERE id = 1",
    "UPDATE t SET g = '2024-01-01 00:00:00.000001' WHERE id = 1",
    "UPDATE t SET h = b'011' WHERE id = 1",
    "UPDATE t SET i = 'é' WHERE id = 1",
    "UPDATE t x JOIN t y ON x.id = 3 AND y.id = 4 SET x.a = y.a, y.a = x.a",
    "DELETE FROM t WHERE id = 1",
    "DELETE FROM t",
    "INSERT INTO t (id) VALUES (9)",
    "INSERT INTO t SELECT id + 10, a, b, c, e, f, g, h, i FROM t",
    "ALTER TABLE t RENAME COLUMN a TO aa",
    "ALTER TABLE t MODIFY COLUMN c VARCHAR(20) AFTER id",
    "ALTER TABLE t MODIFY COLUMN c VARCHAR(20) CHARACTER SET utf16",
]


def test_any_change_gives_another_fingerprint(database: Make) -> None:
    table = (
        "CREATE TABLE t (id INT PRIMARY KEY, a INT, b VARCHAR(20), c VARCHAR(20), e LONGBLOB, f DOUBLE,"
        " g DATETIME(6), h BIT(3), i ENUM('a', 'é'))"
    )
    row = "'', '', '', 1.1, '2024-01-01', b'111', 'a'"
    rows = f"INSERT INTO t VALUES (1, 1, {row}), (2, 1, '', 'x', '', 0, NULL, NULL, NULL), (3, 3, {row}), (4, 4, {row})"
    untouched = fingerprint(database(table, rows))
    found = [fingerprint(database(table, rows, change)) for change in CHANGES]
    assert untouched not in found
    assert len(set(found)) == len(CHANGES)


def test_rows_that_are_doubled_do_not_cancel(database: Make) -> None:
    row = "INSERT INTO t VALUES (5), (5)"
    found = {fingerprint(database("CREATE TABLE t (a INT)", *[row] * times)) for times in range(3)}
    assert len(found) == 3


def test_columns_that_swap_their_values_are_seen_in_wide_tables_too(database: Make) -> None:
    names = [f"c{number}" for number in range(70)]
    table = f"CREATE TABLE t ({', '.join(f'{name} INT' for name in names)})"
    rows = [list(range(70)), *([*range(at), at + 1, at, *range(at + 2, 70)] for at in (0, 29, 30, 31, 61, 68))]
    rows.append([31, *range(1, 31), 0, *range(32, 70)])
    found = {fingerprint(database(table, f"INSERT INTO t VALUES ({', '.join(map(str, row))})")) for row in rows}
    assert len(found) == len(rows)


def test_small_numbers_in_several_columns_never_make_the_same_row(database: Make) -> None:
    """CRC-32 is linear: shifted and combined by XOR, (0, 0) and (1, 2) would be one."""
    rows = [(a, b, c) for a in range(6) for b in range(6) for c in range(3)]
    tables = [f"CREATE TABLE t{number} (a INT, b INT, c INT)" for number in range(len(rows))]
    found = mysql.contents([database(*tables, *(f"INSERT INTO t{n} VALUES {row}" for n, row in enumerate(rows)))])
    assert len({one["fingerprint"] for one in found.values()}) == len(rows)


def test_the_order_of_rows_and_the_number_of_connections_do_not_matter(database: Make) -> None:
    values = [f"({number}, 'é{number % 7}')" for number in range(500)]
    tables = [f"CREATE TABLE {name} (a INT, b VARCHAR(9) CHARACTER SET latin1)" for name in "xyz"]
    one = database(*tables, *(f"INSERT INTO {name} VALUES {', '.join(values)}" for name in "xyz"))
    two = database(*tables, *(f"INSERT INTO {name} VALUES {', '.join(reversed(values))}" for name in "xyz"))
    with closing(mysql.connect(two.server)) as second:
        found = mysql.contents([two, second])
    assert mysql.contents([one]) == found
    assert found["x"] == found["y"] == found["z"]
    assert (list(found), found["x"]["rows"]) == (["x", "y", "z"], 500)


KEYS = {
    "CHAR(36)": ["", "0", "10", "44", "8", "7f", "a", "C", "cc", "é"],
    "VARCHAR(9) CHARACTER SET latin1 COLLATE latin1_bin": ["0", "4", "8", "C", "c", "é"],
    "INT": ["-1", "0", "4", "5", "8", "40"],
    "DATETIME(6)": ["2024-01-01", "2024-08-08"],
    "VARBINARY(9)": ["0", "4", "8", "c"],
}


@pytest.mark.parametrize("primary", ["PRIMARY KEY (a)", "PRIMARY KEY (a, b)", "KEY (a)"])
@pytest.mark.parametrize("kind", KEYS)
def test_a_large_table_in_parts_is_the_same_as_in_one(
    database: Make, monkeypatch: pytest.MonkeyPatch, kind: str, primary: str
) -> None:
    rows = ", ".join(f"('{key}', {number}, NULL)" for number, key in enumerate(KEYS[kind]))
    one = database(f"CREATE TABLE t (a {kind}, b INT, c LONGTEXT, {primary})", f"INSERT INTO t VALUES {rows}")
    monkeypatch.setattr(mysql, "LARGE", -1)
    with closing(mysql.connect(one.server)) as second:
        found = mysql.contents([one, second])
    assert found == mysql.contents([one])
    assert found["t"]["rows"] == len(KEYS[kind])


def test_values_longer_than_a_packet_are_fingerprinted(database: Make) -> None:
    connection = database("CREATE TABLE t (a LONGTEXT, b LONGBLOB)", "SET GLOBAL max_allowed_packet = 16 << 20")
    try:
        with closing(mysql.connect(connection.server, write=True)) as small:
            small.execute("INSERT INTO t VALUES (REPEAT('x', 15 << 20), REPEAT('y', 15 << 20))")
            before = mysql.contents([small])["t"]
            small.execute("UPDATE t SET b = REPLACE(b, 'y', 'z')")
            after = mysql.contents([small])["t"]
    finally:
        connection.execute("SET GLOBAL max_allowed_packet = 1 << 30")
    assert before["longest"] == after["longest"] == 30 << 20
    assert before["fingerprint"] != after["fingerprint"]


def test_facts_are_what_a_copy_must_have_in_common(database: Make) -> None:
    connection = database(
        "CREATE TABLE t (a VARCHAR(9) CHARACTER SET latin1, b INT) COLLATE utf8mb4_unicode_ci",
        "CREATE VIEW v AS SELECT 1 AS one",
        "CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW SET NEW.b = 1",
    )
    found = mysql.facts(connection)
    assert (found["flavour"], found["version"].split(".")[0]) == ("MariaDB", "10")
    assert (found["charset"], found["collation"]) == ("utf8mb4", "utf8mb4_general_ci")
    assert found["collations"] == ["latin1_swedish_ci", "utf8mb4_unicode_ci"]
    assert (found["charsets"], found["engines"], found["tls"]) == (["latin1"], ["InnoDB"], "")
    assert found["objects"] == {"views": 1, "triggers": 1, "routines": 0, "events": 0}
    assert found["tables"]["t"] > 0
    assert "STRICT_TRANS_TABLES" in found["sql_mode"]
    with closing(mysql.connect(connection.server.using(""))) as nowhere:
        assert mysql.facts(nowhere)["charset"] == "utf8mb4"


def test_definitions_do_not_count_rows(database: Make) -> None:
    table = "CREATE TABLE t (a INT AUTO_INCREMENT PRIMARY KEY COMMENT 'not AUTO_INCREMENT=5') COMMENT 'c'"
    one, two = database(table), database(table, "INSERT INTO t VALUES (7)")
    assert mysql.definitions(one) == mysql.definitions(two)
    assert "AUTO_INCREMENT=5'" in mysql.definitions(one)["t"]
    assert mysql.definitions(database(table.replace("'c'", "'d'"))) != mysql.definitions(one)
