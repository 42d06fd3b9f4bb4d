"""Folders to and from buckets: every object once, whole, and only where its name may lead."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from effnet_core.errors import DataError, StoreError
from effnet_core.events import Event
from effnet_core.storage import S3Access, S3Url, ranged, s3_client, trees
from effnet_core.storage.bulk import Bulk
from effnet_core.storage.objects import StoredObject
from effnet_core.storage.trees import STATE_NAME, download_tree, list_tree, upload_tree
from effnet_core.system import files
from tests.support.s3 import SeaweedFS, new_bucket

NAMES = ["a.jpg", "cat/a b+%20?#.jpg", "cat/é.jpg", "日本/モデル.jpg", "x/y/z.jpg", "x/.hidden"]


def fill(folder: Path) -> Path:
    for number, name in enumerate(NAMES):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(1000 + number))
    (folder / "empty").write_bytes(b"")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != STATE_NAME
    }


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything above a kilobyte is large, so that both ways are taken."""
    monkeypatch.setattr(trees, "SMALL_BYTES", 1002)
    monkeypatch.setattr(ranged, "PART_BYTES", 400)


@pytest.mark.parametrize("native", [True, False])
def test_a_folder_there_and_back(
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_files: None,
    events: list[Event],
    native: bool,
) -> None:
    if not native:
        monkeypatch.setattr("effnet_core.storage.bulk._native_store", lambda *_: None)
    source, place = fill(tmp_path / "source"), S3Url(bucket, "data/set")
    assert upload_tree(source, place, seaweedfs.access) == 7
    assert upload_tree(source, place, seaweedfs.access) == 0
    assert download_tree(place, tmp_path / "out", seaweedfs.access) == 7
    assert contents(tmp_path / "out") == contents(source)
    assert download_tree(place, tmp_path / "out", seaweedfs.access) == 0
    lines = [event.message for event in events if event.message]
    assert lines[0].startswith(f"stored s3://{bucket}/data/set: 7 file(s), 6.0 kB, ")
    assert lines[0].endswith(" MB/s")


def test_a_changed_file_of_the_same_size_is_sent_again(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path
) -> None:
    source, place = fill(tmp_path / "source"), S3Url(bucket, "data/set")
    upload_tree(source, place, seaweedfs.access)
    path = next(
        path for path in sorted(source.rglob("*")) if path.is_file() and path.stat().st_size
    )
    path.write_bytes(bytes(byte ^ 1 for byte in path.read_bytes()))  # within the same second
    assert upload_tree(source, place, seaweedfs.access) == 1
    path.touch()  # a new time alone
    assert upload_tree(source, place, seaweedfs.access) == 0
    download_tree(place, tmp_path / "out", seaweedfs.access)
    assert contents(tmp_path / "out") == contents(source)


def test_the_native_client_is_really_used(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bulk = Bulk(bucket, seaweedfs.access)
    monkeypatch.setattr("effnet_core.storage.bulk.s3_client", lambda *_: pytest.fail("boto3"))
    monkeypatch.setattr("effnet_core.storage.bulk.read_object", lambda *_: pytest.fail("boto3"))
    bulk.put("a b/é+%", b"data")
    assert bulk.get(StoredObject("a b/é+%", 4, "8d777f385d3dfec8815d20f7496026dc")) == b"data"


def test_what_the_native_client_gets_wrong_is_asked_of_boto3(
    seaweedfs: SeaweedFS, bucket: str
) -> None:
    bulk = Bulk(bucket, seaweedfs.access)
    bulk.put("a", b"data")
    assert bulk.get(StoredObject("a", 4, "0" * 32)) == b"data"  # an etag that is no MD5 of it
    with pytest.raises(StoreError, match="has 4 bytes, 5 when it was listed; it is being changed"):
        bulk.get(StoredObject("a", 5, "0" * 32))
    with pytest.raises(StoreError, match=f"s3://{bucket}/none cannot be read: the object does not"):
        bulk.get(StoredObject("none", 5, "0" * 32))


def test_wrong_credentials_are_told_by_both(
    seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fill(tmp_path / "source")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    for call in (
        lambda: Bulk(bucket, seaweedfs.access).put("a", b"x"),
        lambda: upload_tree(tmp_path / "source", S3Url(bucket, "x"), seaweedfs.access),
        lambda: download_tree(S3Url(bucket, "x"), tmp_path / "out", seaweedfs.access),
    ):
        with pytest.raises(StoreError, match="secret access key does not belong") as caught:
            call()
        assert "planted" not in str(caught.value)


def test_what_changed_is_fetched_again(seaweedfs: SeaweedFS, bucket: str, tmp_path: Path) -> None:
    source, place, out = fill(tmp_path / "source"), S3Url(bucket, "set"), tmp_path / "out"
    upload_tree(source, place, seaweedfs.access)
    download_tree(place, out, seaweedfs.access)
    (out / "a.jpg").unlink()
    (out / "x/y/z.jpg").write_bytes(b"cut")
    s3_client(seaweedfs.access).put_object(Bucket=bucket, Key="set/empty", Body=b"full")
    assert download_tree(place, out, seaweedfs.access) == 3
    assert contents(out) == contents(source) | {"empty": b"full"}


def test_a_cut_download_goes_on(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, place, out = fill(tmp_path / "source"), S3Url(bucket, "set"), tmp_path / "out"
    upload_tree(source, place, seaweedfs.access)
    plain, count = Bulk.get, []

    def failing(self: Bulk, found: StoredObject) -> bytes:
        count.append(found.key)
        if len(count) == 4:
            raise StoreError("cut")
        return plain(self, found)

    monkeypatch.setattr(trees, "THREADS", 1)
    monkeypatch.setattr(Bulk, "get", failing)
    with pytest.raises(StoreError, match="cut"):
        download_tree(place, out, seaweedfs.access)
    assert len(count) == 4
    assert download_tree(place, out, seaweedfs.access) == 4
    assert contents(out) == contents(source)


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("p/../../outside", r"a key with '..' in its name"),
        ("p//etc/passwd", "a key with an absolute name"),
        ("p/a/./b", "a key with an empty part"),
        ("p/a//b", "a key with an empty part"),
        ("p/a\\..\\b", "a key with a backslash"),
        ("p/C:/x", "a key with a drive letter"),
        ("p/" + "s" * 300, "a part of more than 255 bytes"),
        ("p/a/", "a slash at its end, but content"),
    ],
)
def test_a_key_that_cannot_be_a_file_costs_one_object(
    moto: S3Access, tmp_path: Path, key: str, words: str, events: list[Event]
) -> None:
    bucket = new_bucket(moto)
    for name in ("p/good.jpg", key):
        s3_client(moto).put_object(Bucket=bucket, Key=name, Body=b"x")
    out = tmp_path / "deep" / "out"
    assert download_tree(S3Url(bucket, "p"), out, moto) == 1
    assert [path.name for path in tmp_path.rglob("*.jpg")] == ["good.jpg"]
    assert not (tmp_path / "outside").exists()
    [told] = [event.message for event in events if event.message.startswith("left out")]
    assert f"1 object(s) of s3://{bucket}/p" in told and words in told
    s3_client(moto).delete_object(Bucket=bucket, Key="p/good.jpg")
    with pytest.raises(DataError, match="is refused: it has a key with"):
        download_tree(S3Url(bucket, "p"), tmp_path / "other", moto)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["p/e\u0301.jpg", "p/é.jpg"], "are one name to file systems"),
        (["p/f", "p/f/g"], "'f' is a key and the folder of 'f/g'"),
    ],
)
def test_keys_that_are_one_file_stop_everything(
    moto: S3Access, tmp_path: Path, keys: list[str], words: str
) -> None:
    bucket = new_bucket(moto)
    for key in ["p/good.jpg", *keys]:
        s3_client(moto).put_object(Bucket=bucket, Key=key, Body=b"x")
    out = tmp_path / "deep" / "out"
    with pytest.raises(DataError, match=rf"^s3://{bucket}/p is refused: .*{words}"):
        download_tree(S3Url(bucket, "p"), out, moto)
    assert not (tmp_path / "deep").exists()


def test_long_keys_arrive_and_go(moto: S3Access, tmp_path: Path) -> None:
    bucket = new_bucket(moto)
    names = [f"{'n' * 250}{n}.jpg" for n in range(2)]
    for name in names:
        s3_client(moto).put_object(Bucket=bucket, Key=f"p/{name}", Body=name.encode())
    assert download_tree(S3Url(bucket, "p"), tmp_path / "out", moto) == 2
    assert [(tmp_path / "out" / name).read_text() for name in names] == names
    assert upload_tree(tmp_path / "out", S3Url(bucket, "q"), moto) == 3  # and the state


def test_links_to_folders_travel_and_loops_end(
    moto: S3Access, tmp_path: Path, events: list[Event]
) -> None:
    for name in ("source/a.jpg", "elsewhere/b.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"x")
    source = tmp_path / "source"
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "loop").symlink_to("..")
    (source / "self").symlink_to("self")
    (source / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"x")
    bucket = new_bucket(moto)
    assert upload_tree(source, S3Url(bucket, "p"), moto) == 2
    keys = [item.key for item in list_tree(S3Url(bucket, "p"), moto)]
    assert keys == ["p/a.jpg", "p/linked/b.jpg"]
    [told] = [event.message for event in events if event.message.startswith("left out")]
    assert "2 of" in told


def test_markers_of_folders_are_left_out(moto: S3Access, tmp_path: Path) -> None:
    bucket = new_bucket(moto)
    for key in ("p/", "p/cat/", "p/cat/a.jpg"):
        s3_client(moto).put_object(Bucket=bucket, Key=key, Body=b"x" if key[-1] != "/" else b"")
    assert [item.key for item in list_tree(S3Url(bucket, "p"), moto)] == ["p/cat/a.jpg"]


def test_an_empty_prefix(moto: S3Access) -> None:
    bucket = new_bucket(moto)
    with pytest.raises(DataError, match=f"s3://{bucket}/none has no objects; correct the address"):
        list_tree(S3Url(bucket, "none"), moto)


# --- room -----------------------------------------------------------------------------------------


def test_room_is_asked_for_before_the_first_byte(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = S3Url(bucket, "set")
    upload_tree(fill(tmp_path / "source"), place, seaweedfs.access)
    usage = shutil.disk_usage(tmp_path)._replace(free=files.RESERVE_BYTES + 5000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match=r"needs 6\.0 kB, but .* has 200\.0 MB free and 200\.0 MB"):
        download_tree(place, tmp_path / "out", seaweedfs.access)
    assert not (tmp_path / "out").exists()


def test_a_disk_that_fills_up_all_the_same(
    seaweedfs: SeaweedFS, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = S3Url(bucket, "set")
    upload_tree(fill(tmp_path / "source"), place, seaweedfs.access)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("effnet_core.storage.trees.os.replace", full)
    with pytest.raises(DataError, match=r"cannot be fetched into .* \(no space left on device\)"):
        download_tree(place, tmp_path / "out", seaweedfs.access)
    assert contents(tmp_path / "out") == {}


def test_an_upload_of_nothing(tmp_path: Path, moto: S3Access) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match="has no files to upload"):
            upload_tree(folder, S3Url("bucket", "x"), moto)
    (tmp_path / "a.jpg").write_bytes(b"x")
    with pytest.raises(
        DataError, match=f"a.jpg is a file; give the folder that it is in: {tmp_path}"
    ):
        upload_tree(tmp_path / "a.jpg", S3Url("bucket", "x"), moto)


def test_a_public_bucket_is_read_without_credentials(
    moto: S3Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = new_bucket(moto)
    s3_client(moto).put_object(Bucket=bucket, Key="p/a.jpg", Body=b"x", ACL="public-read")
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(StoreError, match="credentials"):
        download_tree(S3Url(bucket, "p"), tmp_path / "out", moto)
    public = replace(moto, anonymous=True)
    assert download_tree(S3Url(bucket, "p"), tmp_path / "out", public) == 1
