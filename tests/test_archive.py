"""The archive: what goes in comes out, damage is named, and what was not finished is never taken for a backup."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, BinaryIO

import pyrage
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from zenml_upgrade_kit import archive
from zenml_upgrade_kit.archive import Backup, backups, clean, create, open_backup, verify
from zenml_upgrade_kit.errors import BackupUnusable, BadPlan, PlaceUnusable, ToolMissing
from zenml_upgrade_kit.places import Place, open_place

RANDOM = os.urandom(300_000)
FILES = {
    "database.sql": b"INSERT INTO t VALUES (1, 'a secret of the store');\n" * 50_000 + RANDOM,
    "config.yaml": b"store: {}\n",
    "zen/stacks.json": b"",
}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return open_place(tmp_path / "place")


@pytest.fixture(params=["a folder", "memory", "s3", "gs", "az"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    urls: dict[str, Callable[[], str]] = {
        "a folder": lambda: f"{tmp_path}/place",
        "memory": lambda: f"memory://{tmp_path.name}",
        "s3": lambda: request.getfixturevalue("bucket") + "/backups",
        "gs": lambda: request.getfixturevalue("gs_bucket") + "/backups",
        "az": lambda: request.getfixturevalue("az_container") + "/backups",
    }
    return open_place(urls[request.param]())


@pytest.fixture
def key(tmp_path: Path) -> tuple[str, Path]:
    """A public key, and the file with the private one, as age-keygen writes it."""
    return new_key(tmp_path / "key.txt")


def new_key(path: Path) -> tuple[str, Path]:
    identity = pyrage.x25519.Identity.generate()
    path.write_text(f"# created: 2026-11-23\n# public key: {identity.to_public()}\n{identity}\n")
    return str(identity.to_public()), path


def make(place: Place, source: str = "sqlite:////zenml.db", encrypt_to: tuple[str, ...] = ()) -> Backup:
    with create(place, "0.70.0", encrypt_to=encrypt_to) as new:
        for name, data in FILES.items():
            new.add(name, io.BytesIO(data), role=name.partition(".")[0], compress=name != "config.yaml")
        return new.finish({"engine": "sqlite", "source": source, "tables": {"run": {"rows": 2}}})


def contents(backup: Backup, identity: Path | None = None) -> dict[str, bytes]:
    found = {}
    for file in backup.files():
        with backup.open(file, identity) as stream:
            found[file["original"]] = stream.read()
    return found


def test_what_goes_in_comes_out(any_place: Place) -> None:
    made = make(any_place)
    assert verify(made) == []
    for found in (open_backup(any_place.url), open_backup(made.where), backups(any_place)[0][0]):
        assert found.manifest == made.manifest
        restored = contents(found)
        assert "sha256sum" in restored.pop("HOW_TO_RESTORE.txt").decode()
        assert restored == FILES
    assert timedelta(0) < made.age < timedelta(minutes=5)


def test_the_manifest_says_what_is_inside(place: Place) -> None:
    with create(place, "0.70.0, 0.71.0") as new:
        new.add("zenml.db", io.BytesIO(FILES["database.sql"]), role="database", restore_to="/srv/zenml.db")
        made = new.finish({"engine": "sqlite", "tables": {"run": {"rows": 2}}})
    assert place.local
    folder = place.local / made.name
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["format"], manifest["stamp"], manifest["name"]) == (2, "0.70.0, 0.71.0", folder.name)
    assert manifest["tables"] == {"run": {"rows": 2}}
    assert manifest["started"] < manifest["finished"] + "Z"
    stored = (folder / "zenml.db.zst").read_bytes()
    assert [file for file in manifest["files"] if file["role"] == "database"] == [
        {
            "name": "zenml.db.zst",
            "original": "zenml.db",
            "role": "database",
            "restore_to": "/srv/zenml.db",
            "bytes": len(stored),
            "sha256": hashlib.sha256(stored).hexdigest(),
            "original_bytes": len(FILES["database.sql"]),
        }
    ]
    assert {path.name for path in folder.iterdir()} == {"manifest.json", "zenml.db.zst", "HOW_TO_RESTORE.txt"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_it_can_be_unpacked_by_hand(place: Place) -> None:
    stored = f"{make(place).where}/database.sql.zst"
    assert subprocess.run(["zstd", "-dc", stored], capture_output=True, check=True).stdout == FILES["database.sql"]


def test_an_encrypted_backup_opens_with_its_private_key_alone(any_place: Place, key: tuple[str, Path]) -> None:
    public, private = key
    made = make(any_place, encrypt_to=(public,))
    assert {file["name"] for file in made.files() if file["role"] != "how_to"} == {
        "database.sql.zst.age",
        "config.yaml.age",
        "zen/stacks.json.zst.age",
    }
    for file in made.files():
        with any_place.open(f"{made.name}/{file['name']}") as stored:
            assert b"secret of the store" not in stored.read()
    assert verify(made) == []  # without the key
    assert {name: data for name, data in contents(made, private).items() if name in FILES} == FILES


def test_any_of_several_keys_opens_it(place: Place, tmp_path: Path) -> None:
    ssh = Ed25519PrivateKey.generate()
    (tmp_path / "id").write_bytes(ssh.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    line = ssh.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    public, private = new_key(tmp_path / "key")
    made = make(place, encrypt_to=(public, line))
    assert made.manifest["encrypted_to"] == [public, line]
    assert contents(made, private) == contents(made, tmp_path / "id")


def test_another_key_or_none_is_told_from_damage(place: Place, key: tuple[str, Path], tmp_path: Path) -> None:
    made = make(place, encrypt_to=(key[0],))
    (database,) = made.files("database")
    with pytest.raises(BackupUnusable) as raised:
        made.open(database)
    assert key[0] in raised.value.expected
    _, other = new_key(tmp_path / "other")
    with pytest.raises(BackupUnusable) as raised, made.open(database, other) as stream:
        stream.read()
    assert "--identity" in raised.value.remedy


@pytest.mark.parametrize("text", ["", "# only a comment\n", "AGE-SECRET-KEY-1NONSENSE\n", "-----BEGIN NOTHING-----\n"])
def test_a_file_without_a_private_key(place: Place, key: tuple[str, Path], text: str) -> None:
    made = make(place, encrypt_to=(key[0],))
    key[1].write_text(text)
    with pytest.raises(BadPlan, match="no private key"):
        made.open(made.files("database")[0], key[1])
    with pytest.raises(BadPlan, match="no private key"):
        made.open(made.files("database")[0], key[1].parent / "missing")


def test_a_public_key_that_is_none_begins_no_backup(place: Place, key: tuple[str, Path]) -> None:
    private = key[1].read_text().splitlines()[-1]
    for text in ("age1nonsense", "me@example.org", "", private):
        with pytest.raises(BadPlan) as raised:
            make(place, encrypt_to=(text,))
        assert private not in str(raised.value)
    assert place.folders() == []


def test_without_pyrage_the_extra_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    make(place)
    with pytest.raises(ToolMissing, match=r"zenml-upgrade-kit\[encrypt\]"):
        make(place, encrypt_to=("age1…",))


def test_a_flipped_byte_in_any_file_is_found_and_the_file_named(place: Place) -> None:
    made = make(place)
    whole = made.manifest
    for path in [path for path in Path(made.where).rglob("*") if path.is_file()]:
        data = path.read_bytes()
        for position in {0, len(data) // 3, len(data) // 2, len(data) - 2}:
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
            name = str(path.relative_to(made.where))
            if name == "manifest.json":
                with pytest.raises(BackupUnusable) as raised:
                    open_backup(made.where)
                assert "manifest.json" in raised.value.found + raised.value.expected or position == 0
            else:
                assert verify(open_backup(made.where)) == [f"{name} has another content"]
        path.write_bytes(data)
    assert verify(open_backup(made.where)) == []
    assert open_backup(made.where).manifest == whole


def test_no_number_in_a_manifest_can_change_unseen(place: Place) -> None:
    made = make(place)
    path = Path(made.where, "manifest.json")
    path.write_text(path.read_text().replace('"rows": 2', '"rows": 3'))
    with pytest.raises(BackupUnusable, match="cannot be used"):
        open_backup(made.where)


@pytest.mark.parametrize("encrypted", [False, True])
def test_reading_a_damaged_file_ends_with_its_name(place: Place, key: tuple[str, Path], encrypted: bool) -> None:
    made = make(place, encrypt_to=(key[0],) * encrypted)
    (database,) = made.files("database")
    path = Path(made.where, database["name"])
    data = path.read_bytes()
    damages = [data[: len(data) // 2], b"", data + b"x"]
    damages += [data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :] for at in range(0, len(data), len(data) // 9)]
    for damaged in damages:
        path.write_bytes(damaged)
        with pytest.raises(BackupUnusable) as raised, made.open(database, key[1]) as stream:
            shutil.copyfileobj(stream, io.BytesIO())
        assert database["name"] in raised.value.problem
        assert raised.value.found == "another content"


def test_reading_may_stop_anywhere(place: Place, key: tuple[str, Path]) -> None:
    made = make(place, encrypt_to=(key[0],))
    for length in (0, 1, 200_000):
        with made.open(made.files("database")[0], key[1]) as stream:
            assert stream.read(length) == FILES["database.sql"][:length]
    assert not [thread for thread in threading.enumerate() if "_decrypt" in thread.name]


def test_verify_names_what_is_missing_or_shorter(place: Place) -> None:
    made = make(place)
    Path(made.where, "config.yaml").unlink()
    with Path(made.where, "database.sql.zst").open("r+b") as file:
        size = file.seek(-5, 2)
        file.truncate()
    assert verify(made) == [
        "config.yaml is missing",
        f"database.sql.zst has {size:,} bytes instead of {size + 5:,}",
    ]


@pytest.mark.parametrize("any_place", ["a folder", "memory"], indirect=True)
def test_a_disk_that_cannot_be_read_is_damage_and_a_network_is_not(
    any_place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = make(any_place)

    def broken(place: Place, name: str) -> BinaryIO:
        raise PlaceUnusable("the place cannot be used", expected="", found="Input/output error", remedy="")

    with monkeypatch.context() as patch:
        patch.setattr(Place, "open", broken)
        if any_place.local:
            assert "config.yaml cannot be read: Input/output error" in verify(made)
        else:
            with pytest.raises(PlaceUnusable):
                verify(made)
    assert bool(made.verified["problem"]) == bool(any_place.local)


def test_verify_keeps_its_outcome(any_place: Place) -> None:
    made = make(any_place)
    assert (made.verified["hashed"], made.verified["problem"]) == (None, "")
    verify(made)
    assert datetime.fromisoformat(made.verified["hashed"]) >= made.started.replace(microsecond=0)
    any_place.remove(f"{made.name}/config.yaml")
    verify(made)
    assert (made.verified["hashed"], made.verified["problem"]) == (None, "stored files: config.yaml is missing")
    with any_place.write(f"{made.name}/config.yaml") as file:
        file.write(FILES["config.yaml"])
    verify(made)
    assert open_backup(made.where).verified["problem"] == ""


def test_whole_files_do_not_excuse_a_failed_drill(place: Place) -> None:
    made = make(place)
    made.record(restored="2026-11-23T02:30:00+00:00", restore_seconds=2.5, problem="table run is missing")
    assert verify(made) == []
    assert made.verified["problem"] == "table run is missing"
    assert made.verified["hashed"]
    assert made.verified["restore_seconds"] == 2.5


def test_a_damaged_record_counts_as_none(place: Place) -> None:
    made = make(place)
    for text in ("", "[1]", "{", "null"):
        Path(made.where, "verified.json").write_text(text)
        assert made.verified["hashed"] is None
    assert verify(made) == []


def test_a_backup_may_be_copied_and_renamed(place: Place, tmp_path: Path) -> None:
    made = make(place)
    copied = shutil.copytree(made.where, tmp_path / "from last week")
    assert contents(open_backup(copied)) == contents(made)
    assert open_backup(f"{copied}/").started == made.started


def test_a_place_means_its_newest_backup(any_place: Place) -> None:
    made = [make(any_place) for _ in range(3)]
    assert open_backup(any_place.url).name == made[-1].name
    assert [backup.name for backup in backups(any_place)[0]] == [backup.name for backup in reversed(made)]


def test_of_several_stores_one_must_be_chosen(place: Place) -> None:
    one = make(place, "sqlite:////one.db")
    make(place, "mysql://host/two")
    with pytest.raises(BackupUnusable) as raised:
        open_backup(place.url)
    assert "sqlite:////one.db" in raised.value.found
    assert open_backup(one.where).name == one.name


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_a_backup(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "place").mkdir() if exists else None
    with pytest.raises(BackupUnusable, match="no backup was finished here"):
        open_backup(tmp_path / "place")
    assert backups(open_place(tmp_path / "place")) == ([], [])


def test_a_manifest_of_a_newer_kit_says_which(place: Place) -> None:
    made = make(place)
    newer = {**made.manifest, "format": archive.FORMAT + 1, "kit_version": "9.1.0"}
    Path(made.where, "manifest.json").write_text(json.dumps(newer))
    with pytest.raises(BackupUnusable, match=r"use kit 9\.1\.0 or newer"):
        open_backup(made.where)


def test_a_list_goes_on_past_a_damaged_manifest(place: Place) -> None:
    made = [make(place) for _ in range(3)]
    Path(made[1].where, "manifest.json").write_text("{")
    whole, unusable = backups(place)
    assert [backup.name for backup in whole] == [made[2].name, made[0].name]
    assert [error.problem for error in unusable] == [f"the backup in {made[1].where} cannot be used"]


def test_files_may_be_added_at_the_same_time(place: Place, key: tuple[str, Path]) -> None:
    data = {f"table-{number}.sql": os.urandom(number * 1000) for number in range(40)}
    with create(place, "0.70.0", encrypt_to=(key[0],)) as new, ThreadPoolExecutor(4) as pool:
        for added in [pool.submit(new.add, name, io.BytesIO(one), role="database") for name, one in data.items()]:
            added.result()
        made = new.finish({})
    assert [file["original"] for file in made.files("database")] == sorted(data)
    found = contents(made, key[1])
    assert {name: found[name] for name in data} == data


# what is not finished


class _Failing(io.RawIOBase):
    """A source that breaks off after some blocks."""

    def __init__(self, blocks: int, fail: Callable[[], Any]) -> None:
        self._blocks, self._fail = blocks, fail

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._blocks -= 1
        if self._blocks < 0:
            self._fail()
        buffer[:] = os.urandom(len(buffer))
        return len(buffer)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("blocks", [0, 1, 40])
def test_a_source_that_fails_leaves_nothing(
    any_place: Place, key: tuple[str, Path], blocks: int, encrypted: bool
) -> None:
    def fail() -> None:
        raise BackupUnusable("the source broke", expected="", found="", remedy="")

    keys = (key[0],) * encrypted
    with (
        pytest.raises(BackupUnusable, match="the source broke"),
        create(any_place, "0.70.0", encrypt_to=keys) as new,
    ):
        new.add("database.sql", _Failing(blocks, fail), role="database")  # type: ignore[arg-type]
    assert any_place.folders() == []


def test_what_is_not_finished_leaves_nothing(any_place: Place) -> None:
    with create(any_place, "0.70.0") as new:
        new.add("database.sql", io.BytesIO(b"x"), role="database")
    assert any_place.folders() == []


def test_two_at_once_do_not_disturb_each_other(any_place: Place) -> None:
    with create(any_place, "0.70.0") as one, create(any_place, "0.70.0") as two:
        one.add("database.sql", io.BytesIO(b"one"), role="database")
        assert clean(any_place) == []
        assert backups(any_place) == ([], [])
        two.add("database.sql", io.BytesIO(b"two"), role="database")
        second = two.finish({})
        first = one.finish({})
    assert clean(any_place) == []
    assert [contents(backup)["database.sql"] for backup in (first, second)] == [b"one", b"two"]
    assert verify(first) == verify(second) == []


KILLED = """
import io, os, sys
from zenml_upgrade_kit import archive
from zenml_upgrade_kit.places import open_place

place = open_place(sys.argv[1])
TOUCHES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock", "tempfile.mkstemp"}

def make():
    with archive.create(place, "0.70.0") as new:
        new.add("database.sql", io.BytesIO(bytes(1_000_000)), role="database")
        new.add("zen/config.yaml", io.BytesIO(b"store: {}"), role="config", compress=False)
        new.finish({}).remove()

def killed_at(moment):
    child = os.fork()
    if child == 0:
        left = moment
        def count(event, arguments):
            nonlocal left
            if event in TOUCHES:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)
        sys.addaudithook(count)
        make()
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])

make()  # imports touch files, too
moment = complete = 0
while killed_at(moment):
    moment += 1
    whole, unusable = archive.backups(place)
    assert not unusable
    for backup in whole:
        complete += 1
        assert archive.verify(backup) == []
        backup.remove()
    archive.clean(place)
    assert place.folders() == []
print(moment, complete)
"""


def test_a_kill_at_any_moment_leaves_a_whole_backup_or_none(tmp_path: Path) -> None:
    """The process is killed when it touches the file system for the first time, the second, … to the last."""
    ran = subprocess.run([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True, check=True)
    moments, complete = map(int, ran.stdout.split())
    assert moments > 20
    assert 0 < complete < moments


AT_WORK = """
import io, sys
from zenml_upgrade_kit import archive
from zenml_upgrade_kit.places import open_place

with archive.create(open_place(sys.argv[1]), "0.70.0") as new:
    new.add("database.sql", sys.stdin.buffer, role="database")
    print(new.finish({}).name)
"""


@pytest.mark.parametrize("killed", [True, False])
def test_another_process_at_work_is_left_alone_and_a_killed_one_cleaned_up(place: Place, killed: bool) -> None:
    command = [sys.executable, "-c", AT_WORK, place.root]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        process.stdin.write("x" * 4_000_000)  # more than fits into pipes and buffers: it is in the middle of it
        process.stdin.flush()
        (name,) = place.folders()
        assert clean(place) == []
        assert backups(place) == ([], [])
        if killed:
            process.kill()
        process.communicate()
    assert clean(place) == ([name] if killed else [])
    assert [backup.name for backup in backups(place)[0]] == ([] if killed else [name])


def test_what_is_left_of_a_killed_removal_is_cleaned_up(place: Place) -> None:
    made = make(place)
    Path(made.where, "manifest.json").unlink()  # the removal took it first, then the marker, then it was killed
    assert clean(place) == [made.name]
    assert place.folders() == []


def test_what_is_finished_just_now_is_not_cleaned_up(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(place)
    Path(made.where, "writing").touch()
    monkeypatch.setattr(archive, "_named", lambda place: ([], [made.name]))  # as it was a moment ago
    assert clean(place) == []
    assert verify(made) == []


def test_where_no_lock_can_tell_only_old_ones_are_cleaned_up(bucket: str) -> None:
    place, moment = open_place(bucket), datetime.now(timezone.utc)
    names = [f"{moment - timedelta(hours=hours):%Y%m%dT%H%M%SZ}-0.70.0-00ff" for hours in (1, 47, 49, 1000)]
    for name in (*names, "somebody-elses"):
        with place.write(f"{name}/writing"), place.write(f"{name}/database.sql.zst"):
            pass
    assert sorted(clean(place)) == sorted(names[2:])
    assert place.folders() == sorted([*names[:2], "somebody-elses"])


FULL = """
import io, os, resource, sys
from zenml_upgrade_kit import archive
from zenml_upgrade_kit.errors import PlaceUnusable
from zenml_upgrade_kit.places import open_place

resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
try:
    with archive.create(open_place(sys.argv[1]), "0.70.0") as new:
        new.add("database.sql", io.BytesIO(os.urandom(5_000_000)), role="database")
        new.finish({})
except PlaceUnusable as error:
    print(error.expected)
"""


def test_a_full_disk_is_survived(place: Place) -> None:
    ran = subprocess.run([sys.executable, "-c", FULL, place.root], stdout=subprocess.PIPE, text=True, check=True)
    assert ran.stdout == "room for the backup\n"
    assert place.folders() == []


LARGE = """
import io, resource, sys
from pathlib import Path
from zenml_upgrade_kit import archive
from zenml_upgrade_kit.places import open_place

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

class Large(io.RawIOBase):
    left = 400 << 20
    def readable(self):
        return True
    def readinto(self, buffer):
        size = min(len(buffer), self.left)
        self.left -= size
        buffer[:size] = (random * (size // len(random) + 1))[:size]
        return size

random = __import__("os").urandom(700_000)  # further apart than zstd looks: it does not get smaller
with archive.create(open_place(sys.argv[1]), "0.70.0", encrypt_to=[sys.argv[2]]) as new:
    before = peak()
    new.add("database.sql", Large(), role="database")
    made = new.finish({})
with made.open(made.files("database")[0], Path(sys.argv[3])) as stream:
    assert sum(map(len, iter(lambda: stream.read(1 << 20), b""))) == 400 << 20
print(made.files("database")[0]["bytes"], peak() - before)
"""


def test_memory_does_not_grow_with_the_file(place: Place, key: tuple[str, Path]) -> None:
    ran = subprocess.run([sys.executable, "-c", LARGE, place.root, *key], stdout=subprocess.PIPE, text=True, check=True)
    stored, memory = map(int, ran.stdout.split())
    assert stored > 300 << 20
    assert memory < 50 << 20


def test_a_place_that_cannot_be_written_to_begins_no_backup(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlaceUnusable):
        make(open_place(tmp_path / "file" / "place"))
