"""The private server: it is there, it is empty, it goes away."""

import subprocess
from pathlib import Path

import pytest

from zenml_upgrade_kit.errors import StoreUnreadable
from zenml_upgrade_kit.stores import private
from zenml_upgrade_kit.stores.address import Server


def ask(server: Server, sql: str) -> str:
    command = [private.find("mariadb"), "--no-defaults", "-uroot", "-S", server.socket, "-N", "-e", sql]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_speaks_utf8_and_listens_on_its_socket_alone(mariadb: Server) -> None:
    assert ask(mariadb, "SELECT @@character_set_server, @@collation_server") == "utf8mb4\tutf8mb4_general_ci"
    assert ask(mariadb, "SELECT @@skip_networking") == "1"


def test_its_data_goes_with_it(tmp_path: Path) -> None:
    with private.server(folder=tmp_path) as server:
        assert ask(server, "SHOW DATABASES LIKE 'test'") == ""
        assert Path(server.socket).is_socket()
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_says_why() -> None:
    with pytest.raises(StoreUnreadable, match="no private MariaDB") as raised, private.server({"no-such-option": "1"}):
        pass
    assert "no-such-option" in raised.value.found


def test_it_starts_where_no_client_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {name: private.find(name) for name in ("mariadbd", "mariadb-install-db")}
    monkeypatch.setattr(private, "find", lambda *names: found.get(names[0], ""))
    with private.server() as server:
        assert server.socket


def test_without_mariadb_the_message_names_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(private, "PLACES", ())
    with pytest.raises(StoreUnreadable, match="apt install mariadb-server, brew install mariadb"), private.server():
        pass
