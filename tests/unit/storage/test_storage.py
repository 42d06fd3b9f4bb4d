"""The local object store: whole or absent, created once, changed only by who has seen the last state."""

import errno
import multiprocessing
import os
import queue
import threading
import time
from pathlib import Path

import pytest

from effnet_core.errors import ConfigError, Conflict, StoreError
from effnet_core.storage import PRIVATE_NAME, Entry, LocalStore, Store, local, open_store

ROUNDS = 20


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def files_below(root: Path) -> list[str]:
    return sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())


def test_bytes_come_back_with_the_etag_of_their_content(store: LocalStore) -> None:
    typed: Store = store
    etag = typed.put_bytes("m/production.json", b"one")
    assert typed.get_bytes("m/production.json") == (b"one", etag)
    assert typed.put_bytes("m/production.json", b"one") == etag
    assert typed.put_bytes("m/production.json", b"two") != etag


def test_files_come_back(store: LocalStore, tmp_path: Path) -> None:
    source = tmp_path / "model.ckpt"
    source.write_bytes(os.urandom(300_000))
    store.put_file(source, "m/versions/1/model.ckpt")
    target = tmp_path / "new" / "folder" / "model.ckpt"
    store.get_file("m/versions/1/model.ckpt", target)
    assert target.read_bytes() == source.read_bytes()
    source.write_bytes(b"changed")  # the store has a copy, not a link
    assert store.head("m/versions/1/model.ckpt") == Entry("m/versions/1/model.ckpt", 300_000)


def test_listing_is_by_prefix_sorted_and_without_the_stores_own_files(store: LocalStore) -> None:
    assert store.list("") == ()
    for key in ("m/versions/2/a", "m/versions/10/a", "m/production.json", "mm/x", "z"):
        store.put_bytes(key, key.encode())
    assert [entry.key for entry in store.list("m/versions/")] == [
        "m/versions/10/a",
        "m/versions/2/a",
    ]
    assert [entry.key for entry in store.list("m")][-1] == "mm/x"
    assert [entry.key for entry in store.list("m/versions/1")] == ["m/versions/10/a"]
    assert len(store.list("")) == 5
    assert store.list("z/below/a/file") == ()
    assert store.list("m/production.json") == (Entry("m/production.json", 17),)


def test_missing_objects(store: LocalStore, tmp_path: Path) -> None:
    assert store.head("m/none") is None
    store.delete("m/none")
    with pytest.raises(StoreError, match="has no m/none"):
        store.get_bytes("m/none")
    with pytest.raises(StoreError, match="has no m/none"):
        store.get_file("m/none", tmp_path / "out")
    with pytest.raises(StoreError, match=r"absent\.bin does not exist"):
        store.put_file(tmp_path / "absent.bin", "m/none")
    assert not (tmp_path / "out").exists()
    assert store.list("") == ()


def test_delete(store: LocalStore) -> None:
    store.put_bytes("m/a", b"1")
    store.delete("m/a")
    assert store.head("m/a") is None


def test_create_only(store: LocalStore) -> None:
    store.put_bytes("m/manifest.json", b"first", if_none_match=True)
    with pytest.raises(Conflict, match=r"m/manifest\.json exists already .* never overwritten"):
        store.put_bytes("m/manifest.json", b"second", if_none_match=True)
    assert store.get_bytes("m/manifest.json")[0] == b"first"


def test_compare_and_swap(store: LocalStore) -> None:
    first = store.put_bytes("m/p", b"1", if_none_match=True)
    second = store.put_bytes("m/p", b"2", if_match=first)
    with pytest.raises(Conflict, match=f"had etag {first}, now it has etag {second}"):
        store.put_bytes("m/p", b"3", if_match=first)
    assert store.get_bytes("m/p") == (b"2", second)
    store.delete("m/p")
    with pytest.raises(Conflict, match="now it is gone"):
        store.put_bytes("m/p", b"3", if_match=second)
    assert store.head("m/p") is None
    with pytest.raises(ValueError, match="exclude each other"):
        store.put_bytes("m/p", b"3", if_match=second, if_none_match=True)


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "/etc/passwd",
        "a//b",
        "a/",
        ".",
        "..",
        "a/../b",
        "../outside",
        "a/./b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x7fb",
        "a\x85b",
        "\ud800",
        f"{PRIVATE_NAME}/lock",
        "s" * 256,
        "/".join(["s" * 100] * 11),
    ],
)
def test_bad_keys_are_refused_everywhere(store: LocalStore, tmp_path: Path, key: str) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x")
    for call in (
        lambda: store.put_bytes(key, b"x"),
        lambda: store.put_file(source, key),
        lambda: store.get_bytes(key),
        lambda: store.get_file(key, tmp_path / "out"),
        lambda: store.head(key),
        lambda: store.delete(key),
    ):
        with pytest.raises(StoreError, match=r"is not allowed: .*; use names joined by"):
            call()
    assert files_below(tmp_path) == ["file"]


@pytest.mark.parametrize("key", ["a b+c%20?#", "é", "日本/モデル", "...", ".hidden/x", "s" * 255])
def test_unusual_keys_that_are_fine(store: LocalStore, key: str) -> None:
    store.put_bytes(key, b"x")
    assert store.get_bytes(key)[0] == b"x"
    assert [entry.key for entry in store.list("")] == [key]


def test_symbolic_links_do_not_lead_out(store: LocalStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store.put_bytes("m/a", b"1")
    (store.root / "m" / "link").symlink_to(outside)
    (store.root / "m" / "file").symlink_to(outside / "secret")
    for key in ("m/link/secret", "m/link/new", "m/file"):
        with pytest.raises(StoreError, match="leads out of model store"):
            store.get_bytes(key)
        with pytest.raises(StoreError, match="leads out of model store"):
            store.put_bytes(key, b"x")
    assert [entry.key for entry in store.list("m/")] == ["m/a"]
    assert files_below(outside) == ["secret"]


def test_a_failed_write_leaves_the_old_content_and_no_rest(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    store.put_bytes("m/a", b"old")
    source = tmp_path / "new"
    source.write_bytes(b"new")

    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"ne")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local.shutil, "copyfile", full)
    with pytest.raises(
        StoreError, match=r"m/a cannot be written .*\(no space left on device\); set"
    ):
        store.put_file(source, "m/a")
    with pytest.raises(StoreError, match=r"cannot be copied .* \(no space left on device\)"):
        store.get_file("m/a", tmp_path / "out")
    assert store.get_bytes("m/a")[0] == b"old"
    assert files_below(store.root) == ["m/a"]
    assert not (tmp_path / "out").exists()


def test_what_killed_writers_left_is_swept_after_a_day(store: LocalStore) -> None:
    store.put_bytes("m/a", b"1")
    folder = store.root / PRIVATE_NAME / "tmp"
    for name, age_s in (("old", local.ABANDONED_S + 60), ("young", 60)):
        (folder / name).write_bytes(b"rest")
        os.utime(folder / name, (time.time() - age_s,) * 2)
    store.put_bytes("m/a", b"2")
    assert [path.name for path in folder.iterdir()] == ["young"]


def test_a_root_that_is_a_file_gives_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(tmp_path / "file")
    with pytest.raises(StoreError, match=r"file is a file; set storage\.root to a folder"):
        store.list("")
    with pytest.raises(StoreError, match=r"m/a cannot be written .*; set storage\.root"):
        store.put_bytes("m/a", b"x")
    assert store.head("m/a") is None


def test_a_key_below_a_file_and_a_key_that_is_a_folder(store: LocalStore) -> None:
    store.put_bytes("m/a", b"x")
    for key in ("m/a/b", "m"):
        with pytest.raises(StoreError, match=f"{key} cannot be written"):
            store.put_bytes(key, b"y")
    with pytest.raises(StoreError, match="has no m"):
        store.get_bytes("m")


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_create_only_where_there_are_no_hard_links(
    store: LocalStore, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(local.os, "link", refuse)
    store.put_bytes("m/a", b"first", if_none_match=True)
    with pytest.raises(Conflict):
        store.put_bytes("m/a", b"second", if_none_match=True)
    assert store.get_bytes("m/a")[0] == b"first"


def test_other_link_errors_are_reported(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(local.os, "link", refuse)
    with pytest.raises(StoreError, match="input/output error"):
        store.put_bytes("m/a", b"first", if_none_match=True)


class SlowStore(LocalStore):
    """Takes its time between look and leap, where only the lock keeps the other one out."""

    def _require_unchanged(self, target: Path, key: str, etag: str) -> None:
        super()._require_unchanged(target, key, etag)
        time.sleep(0.01)


def race(root: str, name: str, barrier, wins) -> None:  # type: ignore[no-untyped-def]
    """One of two contenders: creates a key and then swaps another, each round at the same time."""
    store = SlowStore(Path(root))
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


def check_race(store: LocalStore, wins) -> None:  # type: ignore[no-untyped-def]
    found = [wins.get(timeout=30) for _ in range(2 * ROUNDS)]
    for kind in ("create", "swap"):
        assert sorted(n for k, n, _ in found if k == kind) == list(range(ROUNDS)), kind
    for kind, number, data in found:
        assert store.get_bytes(f"{kind}/{number}")[0] == data


def prepare_race(store: LocalStore) -> None:
    for number in range(ROUNDS):
        store.put_bytes(f"swap/{number}", b"start")


@pytest.mark.costly
def test_two_processes_race_and_one_wins_each_round(store: LocalStore) -> None:
    prepare_race(store)
    context = multiprocessing.get_context("spawn")
    barrier, wins = context.Barrier(2, timeout=60), context.Queue()
    runners = [
        context.Process(target=race, args=(str(store.root), name, barrier, wins))
        for name in ("left", "right")
    ]
    for runner in runners:
        runner.start()
    check_race(store, wins)
    for runner in runners:
        runner.join(30)
        assert runner.exitcode == 0
    assert wins.empty()
    wins.close()
    wins.join_thread()


def test_two_threads_race_and_one_wins_each_round(store: LocalStore) -> None:
    prepare_race(store)
    barrier, wins = threading.Barrier(2, timeout=60), queue.Queue()
    runners = [
        threading.Thread(target=race, args=(str(store.root), name, barrier, wins))
        for name in ("left", "right")
    ]
    for runner in runners:
        runner.start()
    check_race(store, wins)
    for runner in runners:
        runner.join(30)
    assert wins.empty()


def test_no_update_is_lost_between_threads(store: LocalStore) -> None:
    store = SlowStore(store.root)
    store.put_bytes("counter", b"0")

    def count() -> None:
        done = 0
        while done < 10:
            data, etag = store.get_bytes("counter")
            try:
                store.put_bytes("counter", str(int(data) + 1).encode(), if_match=etag)
                done += 1
            except Conflict:
                continue

    runners = [threading.Thread(target=count) for _ in range(4)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join(60)
    assert store.get_bytes("counter")[0] == b"40"


def test_open_store_takes_paths_and_file_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_store("store").uri == str(tmp_path / "store")
    assert open_store("~/store").uri == str(tmp_path / "home" / "store")
    assert open_store("a:b/store").uri == str(tmp_path / "a:b" / "store")
    assert open_store(f"file://{tmp_path}/my%20store").uri == str(tmp_path / "my store")
    assert open_store(f"file://localhost{tmp_path}/s").uri == str(tmp_path / "s")
    assert open_store(f"file:{tmp_path}/s").uri == str(tmp_path / "s")
    assert not (tmp_path / "store").exists()
    assert "LocalStore" in repr(open_store("store"))


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("s3:/bucket", "is not an address of the form s3://bucket/key"),
        ("s3://", "has no usable bucket: ''"),
        ("s3:///key", "has no usable bucket: ''"),
        ("s3://b/key", "has no usable bucket: 'b' is not 3-63"),
        ("gs://bucket", "unknown scheme 'gs'; allowed are a path"),
        ("file://server/share", "names the machine 'server'"),
        ("file://", "is not an absolute path"),
        ("file:///", "is not an absolute path"),
        ("", "is not a place; give a folder"),
        ("  ", "is not a place"),
        ("a\0b", "is not a place"),
        ("~no-such-user-here/x", "home folder that is not known"),
    ],
)
def test_open_store_refuses_what_it_does_not_know(uri: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        open_store(uri)


def test_open_store_does_not_repeat_credentials() -> None:
    with pytest.raises(ConfigError) as caught:
        open_store("s3://key:hush@bucket/models")
    assert "hush" not in str(caught.value)
    assert "bucket/models" in str(caught.value)
