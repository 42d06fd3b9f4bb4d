"""A production that cannot be read keeps the gate closed, and no version is lost from the list."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from effnet_core.cli.app import app
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import GateRefused, StoreBusy, StoreDamaged, StoreError
from effnet_core.events import Event, listen
from effnet_core.model_store.maintenance import collect_garbage, verify
from effnet_core.model_store.production import promote, rollback
from effnet_core.model_store.versions import list_versions, resolve_version
from tests.unit.model_store.test_publication import put

OPEN = EvaluateConfig()


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(root=str(tmp_path / "store"), name="animals")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, none of which takes time."""
    found: list[float] = []
    monkeypatch.setattr("effnet_core.storage.objects.time.sleep", found.append)
    return found


def file_of(storage: StorageConfig, version: str, name: str = "manifest.json") -> Path:
    return Path(storage.root) / storage.name / "versions" / version / name


def pointer_of(storage: StorageConfig) -> Path:
    return Path(storage.root) / storage.name / "production.json"


def in_production(storage: StorageConfig) -> str:
    return str(json.loads(pointer_of(storage).read_text())["version"])


class Share:
    """A network share that refuses to read some files for a while."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path, *, times: int) -> None:
        self.path, self.left, self.tries = path, times, 0
        plain = Path.read_bytes

        def read(path: Path) -> bytes:
            if path == self.path:
                self.tries += 1
                if self.left > 0:
                    self.left -= 1
                    raise OSError(errno.ESTALE, "Stale file handle")
            return plain(path)

        monkeypatch.setattr(Path, "read_bytes", read)


# --- busy ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["manifest", "pointer"])
def test_a_busy_store_is_tried_again_and_then_keeps_the_gate_closed(
    tmp_path: Path,
    storage: StorageConfig,
    waits: list[float],
    monkeypatch: pytest.MonkeyPatch,
    what: str,
) -> None:
    """A 0.30 model replaced a 0.95 one, because busy was taken for "nothing to compare with"."""
    put(tmp_path, storage, "good", correct=95)
    put(tmp_path, storage, "bad", correct=30, promote=False)
    path = pointer_of(storage) if what == "pointer" else file_of(storage, "good")
    share = Share(monkeypatch, path, times=1000)
    events: list[Event] = []
    with listen(events.append), pytest.raises(StoreBusy) as caught:
        promote(storage, "bad", OPEN)
    assert caught.value.retryable
    text = str(caught.value)
    assert "'bad' of 'animals' is not promoted, because production cannot be read to" in text
    assert "stale file handle" in text
    assert "\n" not in text
    assert share.tries == 4 and len(waits) == 3 and waits == sorted(waits)
    told = [event.message for event in events if "trying again in" in event.message]
    assert len(told) == 3 and told[0].endswith("(try 2 of 4)")
    share.left = 0
    assert in_production(storage) == "good"
    with pytest.raises(GateRefused, match=r"more than evaluate\.promote_margin=0 below 0\.95"):
        promote(storage, "bad", OPEN)


def test_a_store_that_is_busy_for_a_moment_decides_as_always(
    tmp_path: Path, storage: StorageConfig, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "good", correct=95)
    Share(monkeypatch, file_of(storage, "good"), times=2)
    refused = put(tmp_path, storage, "bad", correct=30)
    assert not refused.promoted and "below 0.95 of production version 'good'" in refused.reason
    assert len(waits) == 2


def test_a_publication_that_meets_a_busy_store_is_taken_up_again(
    tmp_path: Path, storage: StorageConfig, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "good", correct=80)
    share = Share(monkeypatch, pointer_of(storage), times=1000)
    with pytest.raises(StoreBusy):
        put(tmp_path, storage, "better", correct=85)
    share.left = 0
    again = put(tmp_path, storage, "better", correct=85)
    assert again.reused and again.promoted
    assert [v["version"] for v in list_versions(storage)] == ["better", "good"]


def test_a_busy_store_has_no_list_of_versions(
    tmp_path: Path, storage: StorageConfig, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("v1", "v2"):
        put(tmp_path, storage, version)
    Share(monkeypatch, file_of(storage, "v1"), times=1000)
    with pytest.raises(StoreBusy, match="stale file handle"):
        list_versions(storage)
    with pytest.raises(StoreBusy):
        put(tmp_path, storage, content="v1")  # nobody knows whether it is published


def test_a_file_that_may_not_be_looked_at_is_not_a_missing_one(
    tmp_path: Path, storage: StorageConfig, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "good", correct=95)
    put(tmp_path, storage, "bad", correct=30, promote=False)
    plain = Path.stat

    def stat(path: Path, **kwargs: Any) -> Any:
        if path == file_of(storage, "good"):
            raise PermissionError(errno.EACCES, "Permission denied")
        return plain(path, **kwargs)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(GateRefused, match="permission denied"):
        promote(storage, "bad", OPEN)


# --- damaged ------------------------------------------------------------------------------------


def lose(storage: StorageConfig) -> None:
    shutil.rmtree(file_of(storage, "good").parent)


def cut(storage: StorageConfig) -> None:
    file_of(storage, "good").write_text('{"format": 1')


def improve(storage: StorageConfig) -> None:
    path = file_of(storage, "good")
    path.write_text(path.read_text().replace("0.95", "0.05"))


def exchange(storage: StorageConfig) -> None:
    shutil.copy(file_of(storage, "bad"), file_of(storage, "good"))


def empty_pointer(storage: StorageConfig) -> None:
    pointer_of(storage).write_text("[]")


DAMAGES: tuple[tuple[Callable[[StorageConfig], None], str], ...] = (
    (lose, r"production version 'good' of 'animals' is gone: .*/good has no manifest\.json"),
    (cut, r"good/manifest\.json is damaged or of another version of this project"),
    (improve, r"good/manifest\.json is not the one that was promoted"),
    (exchange, r"good/manifest\.json is damaged .*it is the manifest of 'bad'"),
    (empty_pointer, r"production\.json is damaged or of another version of this project"),
)


@pytest.mark.parametrize(("damage", "words"), DAMAGES, ids=[d.__name__ for d, _ in DAMAGES])
def test_a_damaged_production_is_replaced_only_by_force_with_a_reason(
    tmp_path: Path, storage: StorageConfig, damage: Callable[[StorageConfig], None], words: str
) -> None:
    put(tmp_path, storage, "old", correct=50)
    put(tmp_path, storage, "good", correct=95)
    put(tmp_path, storage, "bad", correct=30, promote=False)
    damage(storage)
    before = pointer_of(storage).read_bytes()
    with pytest.raises(StoreDamaged, match=words):
        resolve_version(storage, "production")
    with pytest.raises(GateRefused, match=words) as caught:
        promote(storage, "bad", OPEN)
    how = f"effnet store promote bad --force 'the reason' --store {storage.root} --name animals"
    assert str(caught.value).endswith(f". To promote it all the same: {how}")
    published = put(tmp_path, storage, "next", correct=99)
    assert not published.promoted and "nothing to compare it with" in published.reason
    assert pointer_of(storage).read_bytes() == before

    moved = promote(storage, "bad", OPEN, force_reason="good was lost with its disk")
    known = "the pointer" if damage is empty_pointer else "'good'"
    assert moved["reason"] == (
        f"forced: good was lost with its disk (production could not be read: {known})"
    )
    assert json.loads(pointer_of(storage).read_text()) == moved
    if damage is empty_pointer:
        assert moved["previous"] is None
    else:
        assert rollback(storage)["version"] == "old"  # not to what cannot be read


def test_the_same_name_with_another_checkpoint_is_compared_with_nothing(
    tmp_path: Path, storage: StorageConfig
) -> None:
    put(tmp_path, storage, "v1", content="good", correct=95)
    shutil.rmtree(file_of(storage, "v1").parent)
    again = put(tmp_path, storage, "v1", content="bad", correct=30)
    assert not again.promoted and "is not the one that was promoted" in again.reason


def test_a_forced_promotion_that_the_gate_allows_keeps_its_reason_too(
    tmp_path: Path, storage: StorageConfig
) -> None:
    put(tmp_path, storage, "v1", correct=80)
    put(tmp_path, storage, "v2", correct=90, promote=False)
    moved = promote(storage, "v2", OPEN, force_reason="for the fair")
    assert moved["reason"].startswith("passed the gate: top-1 0.9 against 0.8 of 'v1'")
    assert moved["reason"].endswith("; reason given: for the fair")


def test_versions_that_cannot_be_read_are_listed_as_such(
    tmp_path: Path, storage: StorageConfig
) -> None:
    for version, correct in (("v1", 80), ("v2", 85), ("v3", 90)):
        put(tmp_path, storage, version, correct=correct)
    file_of(storage, "v2").write_text("{}")
    found = list_versions(storage)
    assert [v["version"] for v in found] == ["v3", "v1", "v2"]
    assert [bool(v["unreadable"]) for v in found] == [False, False, True]
    assert "v2/manifest.json is damaged" in found[2]["unreadable"]
    assert [v["production"] for v in found] == [True, False, False]

    where = ("--store", storage.root, "--name", storage.name)
    shown = CliRunner().invoke(app, ["store", "list", *where])
    assert shown.exit_code == 0
    assert "  v2  cannot be read: " in shown.output.splitlines()[2]
    listed = json.loads(CliRunner().invoke(app, ["store", "list", "--json", *where]).stdout)
    assert [v["version"] for v in listed] == ["v3", "v1", "v2"]
    (problem,) = verify(storage)
    assert "v2/manifest.json is damaged" in problem

    events: list[Event] = []
    with listen(events.append):
        put(tmp_path, storage, content="new", correct=95)
    assert any("whether version 'v2' holds this checkpoint" in e.message for e in events)


def test_a_damaged_pointer_hides_no_version_and_verify_finds_it(
    tmp_path: Path, storage: StorageConfig
) -> None:
    put(tmp_path, storage, "v1")
    empty_pointer(storage)
    events: list[Event] = []
    with listen(events.append):
        assert [v["production"] for v in list_versions(storage)] == [False]
    assert any("production.json is damaged" in event.message for event in events)
    (problem,) = verify(storage)
    assert "production.json is damaged" in problem
    assert verify(storage, "v1") == []


def test_an_upload_whose_claim_is_damaged_is_told_and_left_alone(
    tmp_path: Path, storage: StorageConfig
) -> None:
    put(tmp_path, storage, "v1")
    claim = file_of(storage, "half", "upload.json")
    claim.parent.mkdir()
    for text in ("{}", '{"checkpoint_sha256": "%s", "by": "me", "at": "soon"}' % ("a" * 64)):
        claim.write_text(text)
        events: list[Event] = []
        with listen(events.append):
            assert collect_garbage(storage, older_than_s=0).versions == ()
        assert any("upload.json is damaged" in event.message for event in events)
        assert claim.exists()
        with pytest.raises(StoreError, match=r"upload\.json is damaged"):
            put(tmp_path, storage, "half")
