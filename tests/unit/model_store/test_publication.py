"""Publication from end to end on real files: immutable versions, a gate, fetch, rollback."""

import hashlib
import json
import re
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from effnet_core import __version__
from effnet_core.config.load import write_config
from effnet_core.config.schema import EvaluateConfig, RunConfig, StorageConfig
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import (
    CheckpointError,
    Conflict,
    DataError,
    GateRefused,
    OutputExists,
    StoreError,
)
from effnet_core.events import Event, listen
from effnet_core.model_store import production, publication, registry, versions
from effnet_core.model_store.production import promote, rollback
from effnet_core.model_store.publication import PublishedVersion, publish_model
from effnet_core.model_store.versions import fetch_model, list_versions, resolve_version
from effnet_core.results import EvalResult
from effnet_core.results.confusion import Confusion
from effnet_core.storage import LocalStore
from effnet_core.weights.checkpoint import Sidecar, open_checkpoint

CLASSES = ("cat", "dog", "eel", "fox", "gnu")
DATA = "d" * 64
OPEN = EvaluateConfig()


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(root=str(tmp_path / "store"), name="animals")


@pytest.fixture
def name_folder(storage: StorageConfig) -> Path:
    return Path(storage.root) / storage.name


def make_run(folder: Path, content: str, *, correct: int = 90, split: str = "val") -> EvalResult:
    """A finished run with a checkpoint of ``content``, and its evaluation."""
    folder.mkdir(parents=True)
    data = content.encode() * 100
    (folder / "model.ckpt").write_bytes(data)
    sidecar = Sidecar(
        variant="efficientnet_b0",
        class_names=CLASSES,
        preprocess=PreprocessSpec(32, 0.875, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        bn_momentum=0.99,
        bn_eps=1e-3,
        epoch=2,
        step=20,
        training_state=False,
        data_digest=DATA,
        sha256=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        libraries={"effnet-flows": "0.1.0", "mindspore": "2.10.0", "numpy": "1.26.4"},
    )
    (folder / "model.json").write_text(json.dumps(sidecar.to_dict()))
    write_config(RunConfig(), folder)
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "result.json").write_text("{}\n")
    (folder / "job.json").write_text("{}\n")
    return EvalResult(
        seen=100,
        correct1=correct,
        correct5=99,
        loss=0.5,
        class_names=list(CLASSES),
        split=split,
        checkpoint_sha256=sidecar.sha256,
        data_digest=DATA,
    )


def put(
    tmp_path: Path,
    storage: StorageConfig,
    version: str | None = None,
    *,
    content: str | None = None,
    gate: EvaluateConfig = OPEN,
    promote: bool = True,
    changes: dict[str, Any] | None = None,
    **facts: Any,
) -> PublishedVersion:
    """Publish a fabricated run; its content is the version's name unless said otherwise."""
    content = content or version or "content"
    run_dir = tmp_path / f"run-{content}-{len(list(tmp_path.glob('run-*')))}"
    evaluation = replace(make_run(run_dir, content, **facts), **(changes or {}))
    return publish_model(
        run_dir,
        evaluation=evaluation,
        storage=storage,
        gate=gate,
        version=version,
        promote=promote,
    )


def pointer(name_folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((name_folder / "production.json").read_text())
    return found


def test_the_whole_story(tmp_path: Path, storage: StorageConfig, name_folder: Path) -> None:
    assert list_versions(storage) == []

    first = put(tmp_path, storage, correct=80, content="first")
    stamp, _, digest = first.version.partition("-")
    assert len(stamp) == len("20261123T184000Z") and stamp.endswith("Z")
    assert digest == hashlib.sha256(b"first" * 100).hexdigest()[:8]
    assert first == PublishedVersion(
        "animals",
        first.version,
        str(name_folder / "versions" / first.version),
        True,
        False,
        "",
        0.8,
        "not compared with another version, because there was no production version; only "
        "evaluate.min_top1=0 was required of its top-1, 0.8",
        first.version,
    )
    assert sorted(path.name for path in Path(first.uri).iterdir()) == [
        "MODEL_CARD.md",
        "config.yaml",
        "environment.json",
        "manifest.json",
        "metrics.jsonl",
        "model.ckpt",
        "model.json",
        "result.json",
    ]
    assert (
        open_checkpoint(Path(first.uri) / "model.ckpt").sidecar.num_classes == 5
    )  # usable where it lies

    second = put(tmp_path, storage, "second", correct=85)
    assert second.promoted and not second.reason
    assert second.gate == (
        f"passed the gate: top-1 0.85 against 0.8 of {first.version!r} on the same 100 images of 'val'"
    )
    facts = pointer(name_folder)
    assert (facts["version"], facts["previous"]) == ("second", first.version)
    manifest_bytes = (Path(second.uri) / "manifest.json").read_bytes()
    assert facts["manifest_sha256"] == hashlib.sha256(manifest_bytes).hexdigest()
    assert "@" in facts["by"] and facts["at"].endswith("Z")

    assert [(v["version"], v["production"]) for v in list_versions(storage)] == [
        ("second", True),
        (first.version, False),
    ]
    assert list_versions(storage)[0]["uri"] == second.uri

    checkpoint = fetch_model(storage, "production", tmp_path / "out")
    assert checkpoint == tmp_path / "out" / "model.ckpt"
    assert checkpoint.read_bytes() == b"second" * 100
    assert open_checkpoint(checkpoint).sidecar.class_names == CLASSES
    assert (tmp_path / "out" / "manifest.json").read_bytes() == manifest_bytes

    assert rollback(storage)["version"] == first.version
    assert resolve_version(storage, "production")["version"] == first.version
    assert pointer(name_folder)["reason"] == "rolled back from second"
    with pytest.raises(StoreError, match=rf"no version before '{first.version}' is recorded"):
        rollback(storage)
    assert promote(storage, "second", OPEN)["previous"] == first.version


def test_the_manifest_says_everything(tmp_path: Path, storage: StorageConfig) -> None:
    published = put(tmp_path, storage, "v1")
    manifest = resolve_version(storage, "v1")
    stored = json.loads((Path(published.uri) / "manifest.json").read_text())
    assert stored == {**manifest, "files": list(manifest["files"])}
    assert manifest["metrics"] == {"top1": 0.9, "top5": 0.99, "seen": 100, "split": "val"}
    assert manifest["config"] == RunConfig().model_dump(mode="json")
    assert (manifest["data_digest"], manifest["train_data_digest"]) == (DATA, DATA)
    assert (manifest["variant"], manifest["num_classes"]) == ("efficientnet_b0", 5)
    assert manifest["libraries"]["mindspore"] == "2.10.0"
    assert manifest["code_version"] == __version__
    assert manifest["created_at"].endswith("Z")
    for file in manifest["files"]:
        data = (Path(published.uri) / file["path"]).read_bytes()
        assert file["size_bytes"] == len(data)
        assert file["sha256"] == hashlib.sha256(data).hexdigest()


def test_progress_is_reported(tmp_path: Path, storage: StorageConfig) -> None:
    events: list[Event] = []
    with listen(events.append):
        put(tmp_path, storage, "v1")
        fetch_model(storage, "v1", tmp_path / "out")
    assert {event.topic for event in events} == {"publish"}
    counts = [(event.done, event.total) for event in events if event.total]
    assert counts == [*((n, 7) for n in range(8)), *((n, 8) for n in range(9))]
    assert any(re.match(r"stored model\.ckpt, .* at .* MB/s", event.message) for event in events)
    assert any("published " in event.message and "90.00%" in event.message for event in events)


# --- versions never change ----------------------------------------------------------------------


def test_the_same_checkpoint_is_not_uploaded_again(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = put(tmp_path, storage, content="same", promote=False)
    assert (first.promoted, first.reason) == (False, "promotion was not asked for")
    assert first.production == ""

    monkeypatch.setattr(LocalStore, "put_file", lambda *_: pytest.fail("uploaded"))
    again = put(tmp_path, storage, content="same")
    assert again == replace(
        first,
        promoted=True,
        reused=True,
        reason="",
        gate=again.gate,
        production=first.version,
    )
    assert put(tmp_path, storage, first.version, content="same").reused
    assert put(tmp_path, storage, "other-name", content="same").version == first.version
    assert len(list_versions(storage)) == 1


def test_a_version_is_immutable(tmp_path: Path, storage: StorageConfig) -> None:
    first = put(tmp_path, storage, "v1", content="one")
    with pytest.raises(StoreError, match="'v1' of 'animals' exists with another checkpoint"):
        put(tmp_path, storage, "v1", content="two")
    assert (Path(first.uri) / "model.ckpt").read_bytes() == b"one" * 100


@pytest.mark.parametrize("version", ["", "production", "../x", "a/b", ".hidden", "a b", "v\n"])
def test_bad_version_names_are_refused(
    tmp_path: Path, storage: StorageConfig, version: str
) -> None:
    with pytest.raises(StoreError, match=r"is not allowed: use at most 128 letters"):
        put(tmp_path, storage, version, content="x")
    assert not Path(storage.root).exists()


def test_the_card_and_the_environment(tmp_path: Path, storage: StorageConfig) -> None:
    run_dir = tmp_path / "run"
    evaluation = replace(
        make_run(run_dir, "x"),
        confusion=Confusion.from_dense([[18, 2, 0, 0, 0], *[[0, 0, 20, 0, 0]] * 4]),
    )
    rows = [
        {"kind": "train", "step": 1, "epoch": 1, "loss": 1.5, "lr": 0.1},
        {"kind": "train", "step": 2, "epoch": 1, "loss": 1.2, "lr": 0.1},
        {"kind": "eval", "step": 2, "epoch": 1, "loss": 1.1, "top1": 0.9, "top5": 0.99},
    ]
    (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    published = publish_model(
        run_dir, evaluation=evaluation, storage=storage, gate=OPEN, version="v1"
    )
    folder = Path(published.uri)
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith("# animals v1\n")
    assert "**top-1 90.00%**, top-5 99.00% on 100 images of split val" in card
    assert "![Loss](loss.png)" in card and "![Accuracy](accuracy.png)" in card
    assert "- cat, dog, 2" in card and "Classes: cat, dog, eel, fox, gnu" in card
    for name in ("loss.png", "accuracy.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    found = json.loads((folder / "environment.json").read_text())
    assert found["libraries"]["numpy"].startswith("1.26")
    assert {"MODEL_CARD.md", "environment.json", "loss.png", "accuracy.png"} <= {
        file["path"] for file in resolve_version(storage, "v1")["files"]
    }


def test_what_a_faster_publisher_wrote_of_the_same_checkpoint_stays(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two machines describe themselves differently; the manifest tells of what is in the store."""
    with pytest.MonkeyPatch.context() as patch:
        die_at_the_manifest(patch)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, storage, "v1")
    monkeypatch.setattr("effnet_core.model_store.card.environment", lambda: {"other": "machine"})
    published = put(tmp_path, storage, "v1")
    assert "other" not in (Path(published.uri) / "environment.json").read_text()
    fetch_model(storage, "v1", tmp_path / "out")  # every digest is right


# --- uploads that died --------------------------------------------------------------------------


def die_at_the_manifest(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(publication, "_put_manifest", die)


@pytest.mark.parametrize("version", ["v2", None])
def test_half_an_upload_is_invisible_and_is_completed(
    tmp_path: Path, storage: StorageConfig, name_folder: Path, version: str | None
) -> None:
    put(tmp_path, storage, "v1", correct=50)
    with pytest.MonkeyPatch.context() as patch:
        die_at_the_manifest(patch)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, storage, version, content="new")
    folders = {path.name for path in (name_folder / "versions").iterdir()}
    (unfinished,) = folders - {"v1"}
    assert (name_folder / "versions" / unfinished / "model.ckpt").exists()

    assert [v["version"] for v in list_versions(storage)] == ["v1"]
    assert resolve_version(storage, "production")["version"] == "v1"
    for call in (
        lambda: resolve_version(storage, unfinished),
        lambda: fetch_model(storage, unfinished, tmp_path / "out"),
        lambda: promote(storage, unfinished, OPEN),
    ):
        with pytest.raises(StoreError, match="was not uploaded to its end; publish it again"):
            call()

    done = put(tmp_path, storage, version, content="new")
    assert (done.version, done.reused, done.promoted) == (unfinished, False, True)
    assert not (Path(done.uri) / "upload.json").exists()
    assert fetch_model(storage, unfinished, tmp_path / "out").read_bytes() == b"new" * 100


def test_files_without_a_manifest_are_written_over(
    tmp_path: Path, storage: StorageConfig, name_folder: Path
) -> None:
    folder = name_folder / "versions" / "v1"
    folder.mkdir(parents=True)
    (folder / "model.ckpt").write_bytes(b"hal")
    assert list_versions(storage) == []
    with pytest.raises(StoreError, match="has no model 'animals'"):
        resolve_version(storage, "v1")
    put(tmp_path, storage, "v1")
    assert fetch_model(storage, "v1", tmp_path / "out").read_bytes() == b"v1" * 100


def test_an_unfinished_upload_of_another_checkpoint_is_left_alone(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        die_at_the_manifest(patch)
        with pytest.raises(KeyboardInterrupt):
            put(tmp_path, storage, "v1", content="one")
    with pytest.raises(StoreError, match="holds the unfinished upload of another checkpoint"):
        put(tmp_path, storage, "v1", content="two")
    assert put(tmp_path, storage, "v1", content="one").promoted


def test_a_version_completed_by_somebody_else_meanwhile(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = publication._put_manifest
    faster: list[PublishedVersion] = []

    def slow(*arguments: Any) -> Any:
        if not faster:
            monkeypatch.setattr(publication, "_put_manifest", before)
            faster.append(put(tmp_path, storage, "v1"))
        return before(*arguments)

    monkeypatch.setattr(publication, "_put_manifest", slow)
    slower = put(tmp_path, storage, "v1")
    assert slower == replace(faster[0], reused=True)
    assert fetch_model(storage, "v1", tmp_path / "out").exists()


def test_a_claim_after_the_manifest_changes_nothing(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another checkpoint looked before, and claims after, the version was completed."""
    first = put(tmp_path, storage, "v1", content="one")
    monkeypatch.setattr(publication, "_published_already", lambda *_: None)
    with pytest.raises(StoreError, match="exists with another checkpoint"):
        put(tmp_path, storage, "v1", content="two")
    assert not (Path(first.uri) / "upload.json").exists()
    assert fetch_model(storage, "v1", tmp_path / "out").read_bytes() == b"one" * 100


def test_a_checkpoint_that_changes_during_the_upload_is_not_published(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LocalStore.put_file

    def meddle(self: LocalStore, path: Path, key: str) -> None:
        path.write_bytes(b"x" * path.stat().st_size)
        plain(self, path, key)

    monkeypatch.setattr(LocalStore, "put_file", meddle)
    with pytest.raises(StoreError, match="was changed while it was uploaded"):
        put(tmp_path, storage, "v1")
    assert list_versions(storage) == []


# --- what is refused before anything is stored ---------------------------------------------------


def test_an_evaluation_of_another_checkpoint_is_refused(
    tmp_path: Path, storage: StorageConfig
) -> None:
    for sha256 in ("0" * 64, ""):
        with pytest.raises(StoreError, match="the evaluation is of a checkpoint with SHA-256"):
            put(tmp_path, storage, changes={"checkpoint_sha256": sha256})
    with pytest.raises(StoreError, match="saw no image"):
        put(tmp_path, storage, changes={"seen": 0})
    assert not Path(storage.root).exists()


def test_incomplete_run_folders_are_refused(tmp_path: Path, storage: StorageConfig) -> None:
    run_dir = tmp_path / "run"
    evaluation = make_run(run_dir, "x")

    def again() -> PublishedVersion:
        return publish_model(run_dir, evaluation=evaluation, storage=storage, gate=OPEN)

    (run_dir / "config.yaml").rename(run_dir / "away")
    with pytest.raises(StoreError, match=r"has no config\.yaml; publish the folder of a finished"):
        again()
    (run_dir / "config.yaml").mkdir()
    with pytest.raises(StoreError, match=r"config\.yaml cannot be read \(is a directory\)"):
        again()
    (run_dir / "config.yaml").rmdir()
    (run_dir / "away").rename(run_dir / "config.yaml")
    for name in ("metrics.jsonl", "result.json"):
        (run_dir / name).unlink()
    assert not Path(storage.root).exists()
    assert again().promoted  # what is not needed to use a model may be absent
    (run_dir / "model.ckpt").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="is damaged"):
        again()


def test_a_store_that_cannot_be_used_gives_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    storage = StorageConfig(root=str(tmp_path / "file"), name="animals")
    with pytest.raises(StoreError, match=r"file is a file; set storage\.root to a folder"):
        put(tmp_path, storage)
    with pytest.raises(StoreError, match="is a file"):
        resolve_version(storage, "v1")
    with pytest.raises(StoreError, match="is a file"):
        list_versions(storage)


# --- the gate -----------------------------------------------------------------------------------


def test_the_gate_on_min_top1(tmp_path: Path, storage: StorageConfig, name_folder: Path) -> None:
    gate = EvaluateConfig(min_top1=0.9)
    refused = put(tmp_path, storage, "low", correct=89, gate=gate)
    assert not refused.promoted
    assert refused.reason == (
        "version 'low' of 'animals' is not promoted: its top-1 0.89 on 100 images of 'val' is below "
        "evaluate.min_top1=0.9; train a better model or lower evaluate.min_top1"
    )
    assert not (name_folder / "production.json").exists()
    assert [v["version"] for v in list_versions(storage)] == ["low"]  # published all the same
    with pytest.raises(StoreError, match="has no production version yet; promote one"):
        resolve_version(storage, "production")
    with pytest.raises(StoreError, match="has no production version yet"):
        rollback(storage)
    with pytest.raises(GateRefused, match="'low' of 'animals' is not promoted"):
        promote(storage, "low", gate)
    assert put(tmp_path, storage, "enough", correct=90, gate=gate).promoted


def test_the_gate_on_the_margin(tmp_path: Path, storage: StorageConfig) -> None:
    put(tmp_path, storage, "first", correct=80)
    refused = put(tmp_path, storage, "worse", correct=79)
    assert refused.reason == (
        "version 'worse' of 'animals' is not promoted: its top-1 0.79 on 100 images of 'val' is more "
        "than evaluate.promote_margin=0 below 0.8 of production version 'first'; train a better model "
        "or raise evaluate.promote_margin"
    )
    assert put(tmp_path, storage, "equal", correct=80).promoted
    # 0.8 - 0.1 is a little more than 0.7 in binary fractions
    assert put(
        tmp_path, storage, "near", correct=70, gate=EvaluateConfig(promote_margin=0.1)
    ).promoted
    gate = EvaluateConfig(promote_margin=0.1)
    assert not put(tmp_path, storage, "far", correct=59, gate=gate).promoted


@pytest.mark.parametrize(
    "changes", [{"data_digest": "e" * 64}, {"split": "test"}, {"data_digest": ""}]
)
def test_the_gate_is_closed_to_what_was_measured_on_other_data(
    tmp_path: Path, storage: StorageConfig, changes: dict[str, str]
) -> None:
    """A data set that grows every night has a new digest every night: that gate stood open."""
    put(tmp_path, storage, "first", correct=80)
    events: list[Event] = []
    with listen(events.append):
        low = put(
            tmp_path, storage, "low", correct=40, changes=changes, gate=EvaluateConfig(min_top1=0.5)
        )
        other = put(tmp_path, storage, "other", correct=99, changes=changes)
    assert "evaluate.min_top1=0.5" in low.reason
    assert not other.promoted
    assert "because production version 'first' was measured on other data ('val' of ddd" in (
        other.reason
    )
    how = f"effnet store promote other --data DATA --store {storage.root} --name animals"
    assert other.reason.endswith(
        f"only a comparison on the same images says which is better: {how}"
    )
    assert any(other.reason in event.message for event in events)
    with pytest.raises(GateRefused, match="was measured on other data"):
        promote(storage, "other", OPEN)
    moved = promote(storage, "other", OPEN, force_reason="compared by hand")
    assert moved["reason"] == "forced: compared by hand"
    assert moved["previous"] == "first"


def test_unknown_data_is_not_the_same_data(tmp_path: Path, storage: StorageConfig) -> None:
    put(tmp_path, storage, "first", correct=80, changes={"data_digest": ""})
    assert not put(tmp_path, storage, "second", correct=99, changes={"data_digest": ""}).promoted


def test_a_forced_promotion_says_why(
    tmp_path: Path, storage: StorageConfig, name_folder: Path
) -> None:
    put(tmp_path, storage, "first", correct=80)
    put(tmp_path, storage, "worse", correct=70)
    with pytest.raises(StoreError, match="needs a reason in words"):
        promote(storage, "worse", OPEN, force_reason=" ")
    moved = promote(storage, "worse", OPEN, force_reason="first has a leak")
    assert moved == pointer(name_folder)
    assert (moved["reason"], moved["previous"]) == ("forced: first has a leak", "first")


def test_promoting_production_again_changes_nothing(
    tmp_path: Path, storage: StorageConfig, name_folder: Path
) -> None:
    put(tmp_path, storage, "v1", correct=80)
    put(tmp_path, storage, "v2", correct=81)
    before = (name_folder / "production.json").read_bytes()
    assert promote(storage, "v2", EvaluateConfig(min_top1=0.99))["previous"] == "v1"
    assert promote(storage, "production", OPEN)["version"] == "v2"
    assert (name_folder / "production.json").read_bytes() == before


def test_a_manifest_that_was_changed_after_its_promotion(
    tmp_path: Path, storage: StorageConfig
) -> None:
    published = put(tmp_path, storage, "v1")
    path = Path(published.uri) / "manifest.json"
    path.write_text(path.read_text().replace('"top1": 0.9', '"top1": 1.0'))
    with pytest.raises(StoreError, match="is not the one that was promoted"):
        resolve_version(storage, "production")
    assert promote(storage, "v1", OPEN)["previous"] is None
    assert resolve_version(storage, "production")["metrics"]["top1"] == 1.0


# --- two at once --------------------------------------------------------------------------------


def test_a_lost_race_for_the_pointer_is_decided_anew(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "first", correct=50)
    for version, correct in (("good", 60), ("best", 70)):
        put(tmp_path, storage, version, correct=correct, promote=False)
    plain = production._refusal
    calls: list[str] = []

    def overtaken(manifest: Any, standing: Any, gate: EvaluateConfig) -> str:
        calls.append(standing.production.version)
        if len(calls) == 1:
            promote(storage, "best", OPEN)
        return plain(manifest, standing, gate)

    monkeypatch.setattr(production, "_refusal", overtaken)
    with pytest.raises(GateRefused, match=r"below 0\.7 of production version 'best'"):
        promote(storage, "good", OPEN)
    assert calls == ["first", "first", "best"]
    assert resolve_version(storage, "production")["version"] == "best"


def test_a_promotion_gives_up_when_it_always_loses(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "v1", promote=False)

    def lose(*_: object, **__: object) -> str:
        raise Conflict("lost")

    monkeypatch.setattr(LocalStore, "put_bytes", lose)
    with pytest.raises(Conflict, match="was moved by others while 'v1' was to be promoted, so it"):
        promote(storage, "v1", OPEN)


def test_a_rollback_does_not_undo_what_it_has_not_seen(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "v1", correct=50)
    put(tmp_path, storage, "v2", correct=60)
    put(tmp_path, storage, "v3", correct=70, promote=False)
    plain = registry.Registry.require_whole

    def overtaken(self: registry.Registry, manifest: Any) -> None:
        monkeypatch.setattr(registry.Registry, "require_whole", plain)
        promote(storage, "v3", OPEN)

    monkeypatch.setattr(registry.Registry, "require_whole", overtaken)
    with pytest.raises(Conflict, match="moved by somebody else during the rollback from 'v2'"):
        rollback(storage)
    assert resolve_version(storage, "production")["version"] == "v3"


def test_threads_that_publish_together_end_with_the_best(
    tmp_path: Path, storage: StorageConfig
) -> None:
    runs = []
    for correct in (60, 70, 80, 90):
        run_dir = tmp_path / f"run-{correct}"
        runs.append((run_dir, make_run(run_dir, str(correct), correct=correct)))
    done: list[PublishedVersion] = []
    start = threading.Barrier(len(runs), timeout=60)

    def work(run_dir: Path, evaluation: EvalResult) -> None:
        start.wait()
        done.append(publish_model(run_dir, evaluation=evaluation, storage=storage, gate=OPEN))

    threads = [threading.Thread(target=work, args=run) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(done) == len(list_versions(storage)) == 4
    assert resolve_version(storage, "production")["metrics"]["top1"] == 0.9


# --- fetching -----------------------------------------------------------------------------------


def test_damage_in_the_store_is_found(tmp_path: Path, storage: StorageConfig) -> None:
    folder = Path(put(tmp_path, storage, "v1").uri)
    put(tmp_path, storage, "v2", promote=False)
    good = (folder / "model.ckpt").read_bytes()

    (folder / "model.ckpt").write_bytes(b"X" + good[1:])
    words = r"'v1' of 'animals' is damaged: model\.ckpt is not what was published \(SHA-256 "
    with pytest.raises(
        StoreError, match=words + r".*use another version \(it has: v2\), or delete"
    ):
        fetch_model(storage, "v1", tmp_path / "out")
    (folder / "model.ckpt").write_bytes(good[:-1])
    with pytest.raises(StoreError, match=r"model\.ckpt is 199 bytes long, not 200 bytes"):
        fetch_model(storage, "v1", tmp_path / "out")
    (folder / "model.ckpt").unlink()
    for call in (
        lambda: fetch_model(storage, "v1", tmp_path / "out"),
        lambda: promote(storage, "v1", OPEN),
    ):
        with pytest.raises(StoreError, match=r"model\.ckpt is missing, not 200 bytes"):
            call()
    assert not (tmp_path / "out").exists()


def test_a_damaged_version_can_be_deleted_and_published_again(
    tmp_path: Path, storage: StorageConfig
) -> None:
    published = put(tmp_path, storage, "v1")
    (Path(published.uri) / "model.ckpt").unlink()
    with pytest.raises(StoreError, match=f"delete {published.uri} and publish it again"):
        fetch_model(storage, "v1", tmp_path / "out")
    shutil.rmtree(published.uri)
    assert put(tmp_path, storage, "v1").promoted
    assert fetch_model(storage, "production", tmp_path / "out").exists()


def test_a_fetch_goes_on_and_keeps_what_is_right(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "v1")
    out = tmp_path / "out"
    checkpoint = fetch_model(storage, "v1", out)
    (out / "model.json").unlink()
    (out / "mine.txt").write_text("kept")
    fetched: list[str] = []
    plain = LocalStore.get_file

    def count(self: LocalStore, key: str, path: Path) -> None:
        fetched.append(key.rpartition("/")[2])
        plain(self, key, path)

    monkeypatch.setattr(LocalStore, "get_file", count)
    assert fetch_model(storage, "v1", out) == checkpoint
    assert fetched == ["model.json"]
    assert (out / "mine.txt").exists()


def test_a_fetch_never_overwrites(tmp_path: Path, storage: StorageConfig) -> None:
    put(tmp_path, storage, "v1")
    put(tmp_path, storage, "v2")
    out = tmp_path / "out"
    fetch_model(storage, "v1", out)
    with pytest.raises(OutputExists, match=r"model\.ckpt exists and is not the .* version 'v2'"):
        fetch_model(storage, "v2", out)
    assert (out / "model.ckpt").read_bytes() == b"v1" * 100
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataError, match=r"output folder .*file cannot be written to"):
        fetch_model(storage, "v1", tmp_path / "file")


def test_a_disk_that_fails_gives_a_sentence(
    tmp_path: Path, storage: StorageConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, storage, "v1")

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(versions, "sha256_of_file", full)
    with pytest.raises(StoreError, match=r"model\.ckpt cannot be written \(no space left"):
        fetch_model(storage, "v1", tmp_path / "out")


def test_a_manifest_cannot_lead_out_of_the_folder(tmp_path: Path, storage: StorageConfig) -> None:
    published = put(tmp_path, storage, "v1", promote=False)
    (Path(published.uri).parent / "loot").write_bytes(b"x")
    path = Path(published.uri) / "manifest.json"
    manifest = json.loads(path.read_text())
    digest = hashlib.sha256(b"x").hexdigest()
    manifest["files"].append({"path": "../loot", "size_bytes": 1, "sha256": digest})
    path.write_text(json.dumps(manifest))
    with pytest.raises(StoreError):
        fetch_model(storage, "v1", tmp_path / "deep" / "out")
    assert not (tmp_path / "deep" / "loot").exists()


# --- names --------------------------------------------------------------------------------------


def test_unknown_names_and_versions_name_the_nearest(
    tmp_path: Path, storage: StorageConfig
) -> None:
    empty = r"has no model 'animals' \(it has none\); publish it first, or change storage\.name"
    with pytest.raises(StoreError, match=empty):
        resolve_version(storage, "v1")
    with pytest.raises(StoreError, match=empty):
        rollback(storage)
    put(tmp_path, storage, "2026-11")
    with pytest.raises(StoreError, match=r"'2026-12' of 'animals'; did you mean '2026-11'\? \(it"):
        resolve_version(storage, "2026-12")
    with pytest.raises(StoreError, match=r"did you mean 'production'\?"):
        fetch_model(storage, "prodction", tmp_path / "out")
    other = storage.model_copy(update={"name": "animal"})
    for call in (
        lambda: resolve_version(other, "production"),
        lambda: promote(other, "2026-11", OPEN),
        lambda: list_versions(other),
    ):
        with pytest.raises(StoreError, match=r"no model 'animal'; did you mean 'animals'\?"):
            call()
    with pytest.raises(StoreError, match="is not allowed"):
        resolve_version(storage, "../x")


@pytest.mark.costly
def test_long_lists_are_cut(tmp_path: Path, storage: StorageConfig) -> None:
    for number in range(12):
        put(tmp_path, storage, f"v{number:02}", promote=False)
    with pytest.raises(StoreError, match=r"it has: v11, .*, v02 and 2 more\)"):
        resolve_version(storage, "nothing-like-it")


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("no such user")

    monkeypatch.setattr(registry.getpass, "getuser", nobody)
    assert registry.who().partition("@")[0].isdigit()
