"""A real MariaDB that is reached over TCP and TLS by an account with a password that is hard to pass on."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from zenml_upgrade_kit.stores import mysql, private
from zenml_upgrade_kit.stores.address import Server

PASSWORD = "p%@:/#?'\"\\ ;é=w"
HOST = "127.0.0.1"


def _openssl(folder: Path, *arguments: str) -> None:
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    """As the account ``odd``, which must use TLS and may do all in ``test_…`` databases; ``ca.pem`` in the folder.

    The certificate is for :data:`HOST`, not for ``localhost``; ``other.pem`` is of an authority that signed nothing.
    """
    assert shutil.which("openssl")
    new = ("req", "-newkey", "rsa:2048", "-nodes")
    for name in ("ca", "other"):
        _openssl(
            folder, *new, "-x509", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.pem"
        )
    _openssl(folder, *new, "-subj", f"/CN={HOST}", "-keyout", "server.key", "-out", "server.csr")
    (folder / "names").write_text(f"subjectAltName=IP:{HOST}")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
    _openssl(folder, "x509", "-req", "-in", "server.csr", *signed, "-out", "server.pem")
    files = {"ssl-ca": "ca.pem", "ssl-cert": "server.pem", "ssl-key": "server.key"}
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    with private.server({name: str(folder / file) for name, file in files.items()}, port=port) as root:
        with closing(mysql.connect(root, write=True)) as connection:
            connection.execute("CREATE USER odd@'%%' IDENTIFIED BY %s REQUIRE SSL", [PASSWORD])
            connection.execute(r"GRANT ALL ON `test\_%`.* TO odd@'%'".replace("`", '"'))
            connection.execute("CREATE DATABASE test_tls CHARACTER SET utf8mb4")
        ca = str(folder / "ca.pem")
        yield replace(root, user="odd", password=PASSWORD, socket="", database="test_tls", ssl=True, ssl_ca=ca)
