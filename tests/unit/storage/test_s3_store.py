"""A store in a bucket of a real server: as the local one, and what only servers can do to it."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from effnet_core.errors import Conflict, StoreError
from effnet_core.storage import Entry, S3Access, S3Url, open_store, s3_client
from effnet_core.storage import client as client_module
from effnet_core.storage.s3 import S3Store
from tests.support.s3 import SeaweedFS

ROUNDS = 20


@pytest.fixture
def store(seaweedfs: SeaweedFS, bucket: str) -> S3Store:
    found = open_store(f"s3://{bucket}/models/", seaweedfs.access)
    assert isinstance(found, S3Store)
    return found


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """5 MiB is the least that servers take."""
    monkeypatch.setattr(client_module, "PART_BYTES", 5 << 20)


def test_the_address(store: S3Store, bucket: str) -> None:
    assert store.uri == f"s3://{bucket}/models"
    assert repr(store) == f"S3Store('s3://{bucket}/models')"


def test_bytes_come_back(store: S3Store) -> None:
    etag = store.put_bytes("m/production.json", b"one")
    assert store.get_bytes("m/production.json") == (b"one", etag)
    assert store.put_bytes("m/production.json", b"two") != etag
    assert store.head("m/production.json") == Entry("m/production.json", 3)


@pytest.mark.parametrize("size", [0, 1, 300_000, (11 << 20) + 17])
def test_files_come_back(
    store: S3Store, tmp_path: Path, small_parts: None, size: int, bucket: str
) -> None:
    source = tmp_path / "model.ckpt"
    source.write_bytes(os.urandom(size))
    store.put_file(source, "m/versions/1/model.ckpt")
    target = tmp_path / "new" / "folder" / "model.ckpt"
    store.get_file("m/versions/1/model.ckpt", target)
    assert target.read_bytes() == source.read_bytes()
    assert [path.name for path in target.parent.iterdir()] == ["model.ckpt"]
    facts = store.client.head_object(Bucket=bucket, Key="models/m/versions/1/model.ckpt")
    assert ("-" in facts["ETag"]) == (size > 5 << 20)


def test_a_file_that_is_there_is_not_sent_again(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"one")
    store.put_file(source, "m/a")
    with monkeypatch.context() as patch:
        patch.setattr(store.client, "upload_file", lambda *_, **__: pytest.fail("sent again"))
        store.put_file(source, "m/a")
    source.write_bytes(b"two")  # as long, but other bytes
    store.put_file(source, "m/a")
    assert store.get_bytes("m/a")[0] == b"two"


def test_listing_is_by_prefix_and_sorted(store: S3Store) -> None:
    assert store.list("") == ()
    for key in ("m/versions/2/a", "m/versions/10/a", "m/production.json", "mm/x", "z é+%20"):
        store.put_bytes(key, key.encode())
    store.put_bytes("created", b"", if_none_match=True)  # leaves no probe behind
    assert [entry.key for entry in store.list("m/versions/")] == [
        "m/versions/10/a",
        "m/versions/2/a",
    ]
    assert [entry.key for entry in store.list("m")][-1] == "mm/x"
    assert len(store.list("")) == 6


def test_two_stores_in_one_bucket_do_not_see_each_other(
    store: S3Store, seaweedfs: SeaweedFS, bucket: str
) -> None:
    store.put_bytes("a", b"1")
    other = S3Store(S3Url(bucket, "models-2"), seaweedfs.access)
    whole = S3Store(S3Url(bucket, ""), seaweedfs.access)
    assert other.list("") == ()
    assert [entry.key for entry in whole.list("")] == ["models/a"]


def test_missing_objects(store: S3Store, tmp_path: Path) -> None:
    assert store.head("m/none") is None
    store.delete("m/none")
    with pytest.raises(StoreError, match="has no m/none"):
        store.get_bytes("m/none")
    with pytest.raises(StoreError, match="m/none does not exist"):
        store.get_file("m/none", tmp_path / "out")
    with pytest.raises(StoreError, match=r"absent\.bin does not exist"):
        store.put_file(tmp_path / "absent.bin", "m/none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["", "a/../b", "/a", "a//b", "a\nb", "s" * 256])
def test_bad_keys_are_refused_before_the_server_sees_them(store: S3Store, key: str) -> None:
    for call in (
        lambda: store.put_bytes(key, b"x"),
        lambda: store.get_bytes(key),
        lambda: store.head(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(StoreError, match="is not allowed: "):
            call()


def test_create_only_and_compare_and_swap(store: S3Store) -> None:
    first = store.put_bytes("m/p", b"1", if_none_match=True)
    with pytest.raises(Conflict, match="m/p exists already and is never overwritten"):
        store.put_bytes("m/p", b"other", if_none_match=True)
    second = store.put_bytes("m/p", b"2", if_match=first)
    with pytest.raises(Conflict, match="m/p was changed by somebody else"):
        store.put_bytes("m/p", b"3", if_match=first)
    assert store.get_bytes("m/p") == (b"2", second)
    store.delete("m/p")
    with pytest.raises(Conflict):
        store.put_bytes("m/p", b"3", if_match=second)
    with pytest.raises(ValueError, match="exclude each other"):
        store.put_bytes("m/p", b"3", if_match=second, if_none_match=True)


def test_a_lost_answer_is_no_conflict(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server wrote, its answer was lost, boto3 sent the same again and was refused."""
    plain, sent = store._put, []

    def twice(place: S3Url, data: bytes, condition: dict[str, str]) -> str:
        sent.append(data)
        plain(place, data, condition)
        return plain(place, data, condition)

    first = store.put_bytes("m/p", b"1", if_none_match=True)
    monkeypatch.setattr(store, "_put", twice)
    assert store.put_bytes("m/p", b"2", if_match=first) == store.get_bytes("m/p")[1]
    assert store.put_bytes("m/q", b"2", if_none_match=True) == store.get_bytes("m/q")[1]
    assert sent == [b"2", b"2"]


def test_a_server_that_ignores_conditions_is_refused(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = S3Store._put
    monkeypatch.setattr(S3Store, "_put", lambda self, place, data, _: plain(self, place, data, {}))
    with pytest.raises(StoreError, match=r"ignores conditional writes .*two publishers could both"):
        store.put_bytes("m/p", b"1", if_none_match=True)
    assert store.list("") == ()
    assert store.put_bytes("m/p", b"1")  # without a condition it can still be used


def test_no_bucket(moto: S3Access, tmp_path: Path) -> None:
    store = S3Store(S3Url("no-such-bucket", "m"), moto)
    (tmp_path / "file").write_bytes(b"x")
    for call in (
        lambda: store.put_bytes("a", b"x"),
        lambda: store.put_bytes("a", b"x", if_none_match=True),
        lambda: store.put_file(tmp_path / "file", "a"),
        lambda: store.list(""),
        store.sweep,
    ):
        with pytest.raises(StoreError, match="the bucket does not exist; create it") as caught:
            call()
        assert not caught.value.retryable


def test_a_full_disk_on_this_side(
    store: S3Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_bytes("m/a", b"content")

    def full(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("effnet_core.storage.bulk.os.pwrite", full)
    with pytest.raises(StoreError, match=r"m/a cannot be copied to .*\(no space left on device\)"):
        store.get_file("m/a", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_damage_on_the_way_is_noticed_by_the_server(store: S3Store, tmp_path: Path) -> None:
    """What is sent carries a checksum that the server compares."""
    seen: list[str] = []

    def look(request, **_: object) -> None:  # type: ignore[no-untyped-def]
        names = {name.lower() for name in request.headers}
        seen.extend(
            names & {"x-amz-checksum-crc32", "x-amz-trailer", "x-amz-sdk-checksum-algorithm"}
        )

    store.client.meta.events.register("before-send.s3.PutObject", look)
    (tmp_path / "file").write_bytes(b"x" * 1000)
    store.put_file(tmp_path / "file", "m/a")
    store.client.meta.events.unregister("before-send.s3.PutObject", look)
    assert seen


def test_unfinished_uploads_are_swept(store: S3Store, bucket: str) -> None:
    for key in ("models/m/big", "other/big"):
        store.client.create_multipart_upload(Bucket=bucket, Key=key)
    assert store.sweep(3600) == 0
    assert store.sweep(0) == 1
    left = store.client.list_multipart_uploads(Bucket=bucket)["Uploads"]
    assert [upload["Key"] for upload in left] == ["other/big"]
    assert store.sweep(0) == 0


def race(endpoint: str, bucket: str, name: str, barrier, wins) -> None:  # type: ignore[no-untyped-def]
    """One of two contenders: creates a key and then swaps another, each round at the same time."""
    store = S3Store(S3Url(bucket, "race"), S3Access(endpoint_url=endpoint))
    for number in range(ROUNDS):
        for kind in ("create", "swap"):
            key, data = f"{kind}/{number}", f"{name} {kind} {number}".encode()
            etag = store.get_bytes(key)[1] if kind == "swap" else None
            barrier.wait()
            try:
                store.put_bytes(key, data, if_match=etag, if_none_match=etag is None)
            except Conflict:
                continue
            wins.put((kind, number, data))
    barrier.wait()


@pytest.mark.parametrize("threads", [False, True])
def test_two_race_and_one_wins_each_round(seaweedfs: SeaweedFS, bucket: str, threads: bool) -> None:
    store = S3Store(S3Url(bucket, "race"), seaweedfs.access)
    for number in range(ROUNDS):
        store.put_bytes(f"swap/{number}", b"start")
    context = multiprocessing.get_context("spawn")
    barrier = threading.Barrier(2, timeout=60) if threads else context.Barrier(2, timeout=60)
    wins = context.Queue()
    kind = threading.Thread if threads else context.Process
    runners = [
        kind(target=race, args=(seaweedfs.endpoint_url, bucket, name, barrier, wins))
        for name in ("left", "right")
    ]
    for runner in runners:
        runner.start()
    found = [wins.get(timeout=60) for _ in range(2 * ROUNDS)]
    for runner in runners:
        runner.join(30)
    for what in ("create", "swap"):
        assert sorted(n for k, n, _ in found if k == what) == list(range(ROUNDS)), what
    for what, number, data in found:
        assert store.get_bytes(f"{what}/{number}")[0] == data
    assert wins.empty()
    wins.close()
    wins.join_thread()
    assert s3_client(seaweedfs.access) is store.client
