"""Places: a folder and a bucket behave alike, nobody sees half a file, and trouble is told in one message."""

import gc
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import boto3
import pytest
import s3fs
from fsspec.spec import AbstractBufferedFile

from zenml_upgrade_kit.errors import BadPlan, PlaceUnusable, ToolMissing
from zenml_upgrade_kit.places import PART, Place, open_place


@pytest.fixture(params=["a folder", "file", "memory", "s3", "gs", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place that nobody has written to."""
    urls: dict[str, Callable[[], str]] = {
        "a folder": lambda: f"{tmp_path}/not/made yet",
        "file": lambda: f"file://{tmp_path}/place",
        "memory": lambda: f"memory://{tmp_path.name}/place",
        "s3": lambda: request.getfixturevalue("bucket") + "/some/prefix",
        "gs": lambda: request.getfixturevalue("gs_bucket") + "/some/prefix",
        "az": lambda: request.getfixturevalue("az_container") + "/some/prefix",
    }
    return open_place(urls[request.param]())


def put(place: Place, name: str, data: bytes = b"data") -> None:
    with place.write(name) as file:
        file.write(data)


def get(place: Place, name: str) -> bytes:
    with place.open(name) as file:
        return file.read()


def test_what_was_written_is_listed_and_read_and_removed(place: Place) -> None:
    assert place.folders() == []
    put(place, "one/a file", b"first")
    put(place, "one/below/other", b"second")
    put(place, "two/empty", b"")
    put(place, "at the top")
    assert place.folders() == ["one", "two"]
    assert [get(place, name) for name in ("one/a file", "one/below/other", "two/empty")] == [b"first", b"second", b""]
    assert place.exists("one")
    assert place.exists("one/below/other")
    assert not place.exists("one/below/another")
    put(place, "one/a file", b"replaced")
    assert get(place, "one/a file") == b"replaced"
    place.remove("one")
    place.remove("two/empty")
    place.remove("never made")
    assert not place.exists("one/below/other")
    assert not place.exists("two/empty")


def test_the_place_above_knows_the_folder(place: Place) -> None:
    put(place, "one/file")
    above, name = open_place(f"{place.url}/one/").above()
    assert (above.url, name) == (place.url, "one")
    assert get(above, f"{name}/file") == b"data"


def test_a_file_of_many_parts_is_read_as_it_was_written(place: Place) -> None:
    data = bytes(range(256)) * (PART // 256) + b"the rest"
    with place.write("large") as file:
        for start in range(0, len(data), 1_000_000):
            file.write(data[start : start + 1_000_000])
    assert get(place, "large") == data


@pytest.mark.parametrize("place", ["a folder", "file", "s3", "gs", "az"], indirect=True)
@pytest.mark.parametrize("size", [10, PART + 10])
def test_an_unfinished_file_is_seen_by_nobody_and_leaves_nothing(place: Place, size: int) -> None:
    with pytest.raises(ZeroDivisionError), place.write("one/file") as file:  # noqa: PT012 the point is in between
        file.write(b"x" * size)
        assert not place.exists("one/file")
        raise ZeroDivisionError
    del file
    assert not place.exists("one/file")
    if place.local:
        assert list((place.local / "one").iterdir()) == []
    elif place.url.startswith("s3:"):
        bucket = place.root.partition("/")[0]
        assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=bucket)


def test_an_unfinished_upload_is_not_completed_where_it_cannot_be_discarded(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in Azure, where blocks that nobody names are forgotten by themselves."""
    monkeypatch.setattr(s3fs.core.S3File, "discard", AbstractBufferedFile.discard)
    place = open_place(bucket)
    with pytest.raises(ZeroDivisionError), place.write("one/file") as file:  # noqa: PT012 the point is in between
        file.write(b"x")
        raise ZeroDivisionError
    del file
    gc.collect()
    assert not place.exists("one/file")


@pytest.mark.parametrize("place", ["a folder", "file"], indirect=True)
def test_local_files_are_for_their_user_alone(place: Place) -> None:
    put(place, "one/below/file")
    assert place.local
    for path, mode in {"": 0o700, "one": 0o700, "one/below": 0o700, "one/below/file": 0o600}.items():
        assert (place.local / path).stat().st_mode & 0o777 == mode


def test_a_missing_file_is_named(place: Place) -> None:
    with pytest.raises(PlaceUnusable) as raised:
        get(place, "one/missing")
    assert "one/missing" in raised.value.found


def test_a_place_inside_a_file_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    place = open_place(tmp_path / "file" / "place")
    with pytest.raises(PlaceUnusable, match="file/place"):
        put(place, "one/file")


def refused(url: str) -> PlaceUnusable:
    """What a place says that can be neither written to nor listed."""
    place = open_place(url)
    with pytest.raises(PlaceUnusable):
        place.folders()
    with pytest.raises(PlaceUnusable) as raised:
        put(place, "one/file")
    assert raised.value.problem == f"the place {url} cannot be used"
    return raised.value


@pytest.mark.parametrize("kind", ["bucket", "gs_bucket", "az_container"])
def test_a_bucket_that_does_not_exist(kind: str, request: pytest.FixtureRequest) -> None:
    place = f"{request.getfixturevalue(kind)}-other/prefix"
    with pytest.raises(PlaceUnusable) as raised:
        open_place(place).folders()
    assert "a bucket that exists" in raised.value.expected
    assert "a bucket that exists" in refused(place).expected


def test_no_credentials(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "credentials" in refused(bucket).expected


def test_credentials_that_are_not_known(bucket: str, s3_server: str) -> None:
    def check_requests_after(count: bytes) -> None:
        call = urllib.request.Request(f"{s3_server}/moto-api/reset-auth", data=count, headers={"Content-Type": "text"})
        urllib.request.urlopen(call).close()

    check_requests_after(b"0")
    try:
        assert "credentials" in refused(bucket).expected
    finally:
        check_requests_after(b"inf")


def test_a_network_that_does_not_answer(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    s3fs.S3FileSystem.clear_instance_cache()
    assert "check the network" in refused(bucket).expected


@pytest.mark.parametrize("given", ["", "nope://somewhere", "C-drive://x"])
def test_a_place_that_is_none(given: str) -> None:
    with pytest.raises(BadPlan):
        open_place(given)


@pytest.mark.parametrize(
    ("url", "package", "extra"),
    [("s3://b/x", "s3fs", "aws"), ("gs://b/x", "gcsfs", "gcp"), ("az://b/x", "adlfs", "azure")],
)
def test_a_missing_package_is_named_by_its_extra(url: str, package: str, extra: str) -> None:
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from zenml_upgrade_kit import places\n"
        f"try: places.open_place({url!r})\n"
        "except places.ToolMissing as error: print(error.remedy)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"pip install 'zenml-upgrade-kit[{extra}]'"


@pytest.mark.parametrize(
    "given",
    [
        "s3://{bucket}-not/x?sig=pa55word",
        "s3://me:pa55word@{bucket}-not/x",
        "az://x/y?sv=1&sig=pa55word",
        "q://m:pa55word@h/",
    ],
)
def test_credentials_in_a_url_are_never_repeated(given: str, bucket: str) -> None:
    with pytest.raises((BadPlan, PlaceUnusable, ToolMissing)) as raised:
        put(open_place(given.format(bucket=bucket.removeprefix("s3://"))), "one/file")
    assert "pa55word" not in str(raised.value)
