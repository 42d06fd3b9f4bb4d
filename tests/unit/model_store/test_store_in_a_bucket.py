"""Publishing into a bucket of a real server: the whole story, care of the store, two at once."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import Conflict, StoreError
from effnet_core.model_store import production, publication
from effnet_core.model_store.maintenance import Garbage, collect_garbage, verify
from effnet_core.model_store.production import promote, rollback
from effnet_core.model_store.registry import Registry
from effnet_core.model_store.versions import fetch_model, list_versions, resolve_version
from tests.support.images import class_folders
from tests.support.s3 import SeaweedFS
from tests.unit.model_store.test_publication import put

OPEN = EvaluateConfig()
ROUNDS = 50


@pytest.fixture
def storage(seaweedfs: SeaweedFS, bucket: str) -> StorageConfig:
    return StorageConfig(
        root=f"s3://{bucket}/models", name="animals", endpoint_url=seaweedfs.endpoint_url
    )


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.store)])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> StorageConfig:
    if request.param == "folder":
        return StorageConfig(root=str(tmp_path / "store"), name="animals")
    found: StorageConfig = request.getfixturevalue("storage")
    return found


def test_the_whole_story(tmp_path: Path, storage: StorageConfig, bucket: str) -> None:
    assert list_versions(storage) == []
    first = put(tmp_path, storage, "first", correct=80)
    assert first.uri == f"s3://{bucket}/models/animals/versions/first"
    assert first.promoted
    assert not put(tmp_path, storage, "worse", correct=70).promoted
    assert put(tmp_path, storage, "second", correct=85).promoted
    assert [(v["version"], v["production"]) for v in list_versions(storage)] == [
        ("second", True),
        ("worse", False),
        ("first", False),
    ]
    checkpoint = fetch_model(storage, "production", tmp_path / "out")
    assert checkpoint.read_bytes() == b"second" * 100
    assert rollback(storage)["version"] == "first"
    assert put(tmp_path, storage, "second", correct=85).reused
    assert resolve_version(storage, "production")["version"] == "second"


def test_an_upload_that_died_is_invisible_and_completed(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "v1")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publication, "_put_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, storage, "v2", correct=95)
    assert resolve_version(storage, "production")["version"] == "v1"
    with pytest.raises(StoreError, match="was not uploaded to its end"):
        fetch_model(storage, "v2", tmp_path / "out")
    assert put(tmp_path, storage, "v2", correct=95).promoted
    assert fetch_model(storage, "production", tmp_path / "out").read_bytes() == b"v2" * 100


# --- verify and gc --------------------------------------------------------------------------------


def test_verify_finds_what_was_changed(tmp_path: Path, either: StorageConfig) -> None:
    with pytest.raises(StoreError, match="has no model 'animals'"):
        verify(either)
    put(tmp_path, either, "v1")
    put(tmp_path, either, "v2", correct=95)
    assert verify(either) == verify(either, "production") == []
    registry = Registry.open(either)
    key = registry.key("v1", "model.ckpt")
    data = registry.store.get_bytes(key)[0]
    registry.store.put_bytes(key, b"X" + data[1:])
    (problem,) = verify(either)
    assert "version 'v1' of 'animals' is damaged: model.ckpt is not what was published" in problem
    assert verify(either, "v2") == []
    registry.store.delete(key)
    assert "model.ckpt is missing" in verify(either, "v1")[0]
    with pytest.raises(StoreError, match="has no version 'v3'"):
        verify(either, "v3")


def test_gc_deletes_what_died_and_nothing_else(
    tmp_path: Path, either: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, either, "v1")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(publication, "_put_manifest", die)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, either, "dead")
    registry = Registry.open(either)
    before = registry.store.list("")
    assert collect_garbage(either) == Garbage((), 0)  # it is young
    assert collect_garbage(either, older_than_s=0, dry_run=True) == Garbage(("dead",), 0)
    assert registry.store.list("") == before
    assert collect_garbage(either, older_than_s=0) == Garbage(("dead",), 0)
    assert {e.key.split("/")[2] for e in registry.store.list("animals/versions/")} == {"v1"}
    assert verify(either) == []
    assert put(tmp_path, either, "dead", correct=95).promoted


def test_an_upload_taken_up_again_is_young(
    tmp_path: Path, either: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publication, "_put_manifest", die)
    monkeypatch.setattr(publication, "timestamp", lambda: "2020-01-01T00:00:00.000Z")
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, either, "slow")
    assert collect_garbage(either, dry_run=True).versions == ("slow",)
    monkeypatch.undo()
    monkeypatch.setattr(publication, "_put_manifest", die)
    for name, value in (("AWS_ACCESS_KEY_ID", "testkey"), ("AWS_SECRET_ACCESS_KEY", "testsecret")):
        monkeypatch.setenv(name, value)
    with pytest.raises(KeyboardInterrupt):
        put(tmp_path, either, "slow")
    assert collect_garbage(either, dry_run=True).versions == ()


# --- commands -------------------------------------------------------------------------------------


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, ["store", *arguments])
    assert result.exit_code == code, result.output + result.stderr
    return result.output if code == 0 else result.output + result.stderr


@pytest.mark.costly
def test_the_commands(
    tmp_path: Path, either: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    if either.endpoint_url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", either.endpoint_url)
    where = ("--store", either.root, "--name", "animals")
    assert "nothing is published here yet" in run("list", *where)
    put(tmp_path, either, "v1", correct=90)
    put(tmp_path, either, "v2", correct=80)
    lines = run("list", *where).splitlines()
    assert lines[0].startswith("  v2  top-1 80.00% on 100 images of val")
    assert lines[1].startswith("* v1  top-1 90.00%")
    assert [v["version"] for v in json.loads(run("list", "--json", *where))] == ["v2", "v1"]
    assert json.loads(run("show", *where))["version"] == "v1"
    out = tmp_path / "fetched"
    assert "model.ckpt" in run("fetch", "--out", str(out), *where)
    assert (out / "model.ckpt").read_bytes() == b"v1" * 100
    assert "is not promoted: its top-1 0.8" in run("promote", "v2", *where, code=1)
    assert "production is v2 (forced: try it)" in run("promote", "v2", "--force", "try it", *where)
    assert "production is v1 (rolled back from v2)" in run("rollback", *where)
    assert "every digest is right" in run("verify", *where)
    assert "0 unfinished version(s) and 0 other rest(s) deleted" in run("gc", *where)
    registry = Registry.open(either)
    registry.store.put_bytes(registry.key("v1", "model.ckpt"), b"x" * 200)
    assert "'v1' of 'animals' is damaged" in run("verify", *where, code=1)
    assert "has no version 'v9'" in run("show", "v9", *where, code=1)


def test_copy_and_stage_by_command(
    tmp_path: Path, seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class_folders(tmp_path / "images", {"cat": 3, "dog": 3})
    at = ("-o", f"storage.endpoint_url={seaweedfs.endpoint_url}")

    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, [*arguments, *at])
        assert result.exit_code == code, result.output + result.stderr
        return result.output + result.stderr

    url = f"s3://{bucket}/data"
    assert "6 file(s) copied" in run("copy", str(tmp_path / "images"), url)
    assert "6 file(s) copied" in run("copy", url, str(tmp_path / "back"))
    assert (tmp_path / "back/cat/000.jpg").read_bytes() == (
        tmp_path / "images/cat/000.jpg"
    ).read_bytes()
    assert "give one folder and one s3://bucket/prefix" in run("copy", "a", "b", code=2)
    text = run("stage", url, "--out", str(tmp_path / "data"), "--val-share", "0")
    assert "2 classes, 6 train" in text and "data card: " in text
    assert "has no objects; correct the address" in run(
        "stage", f"s3://{bucket}/none", "--out", str(tmp_path / "x"), code=1
    )


# --- two at once ----------------------------------------------------------------------------------


def contend(storage: StorageConfig, version: str, barrier: Any, told: Any) -> None:
    """Promote ``version`` once a round, at the same moment as the other."""
    plain = production._refusal

    def together(*arguments: Any) -> str:
        production._refusal = plain
        barrier.wait()  # both have read the pointer
        return plain(*arguments)

    for number in range(ROUNDS):
        barrier.wait()  # the starting version is in production
        production._refusal = together
        try:
            promote(storage, version, OPEN)
        except Conflict as error:
            told.put((number, version, str(error)))
        else:
            told.put((number, version, ""))
        barrier.wait()


@pytest.mark.costly
def test_of_two_promotions_exactly_one_wins(tmp_path: Path, either: StorageConfig) -> None:
    for version in ("start", "left", "right"):
        put(tmp_path, either, version, promote=False)
    context = multiprocessing.get_context("spawn")
    barrier, told = context.Barrier(3, timeout=60), context.Queue()
    runners = [
        context.Process(target=contend, args=(either, version, barrier, told))
        for version in ("left", "right")
    ]
    for runner in runners:
        runner.start()
    winners = []
    for number in range(ROUNDS):
        promote(either, "start", OPEN)
        for _ in range(2):
            barrier.wait()
        answers = [told.get(timeout=60) for _ in runners]
        assert {(n, v) for n, v, _ in answers} == {(number, "left"), (number, "right")}
        (winner,) = [version for _, version, error in answers if not error]
        (lost,) = [error for _, _, error in answers if error]
        assert f"was moved to '{winner}' by " in lost
        assert resolve_version(either, "production")["version"] == winner
        winners.append(winner)
        barrier.wait()
    for runner in runners:
        runner.join(30)
        assert runner.exitcode == 0
    told.close()
    told.join_thread()
