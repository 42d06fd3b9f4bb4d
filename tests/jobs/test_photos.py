"""From a folder of class folders to a model: staged, probed and tuned by one call."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.errors import EffnetError, OutputExists
from effnet_core.events import Event, listen
from effnet_core.jobs.job import CHECKPOINTS_NAME, METRICS_NAME, PROBE_NAME, RESULT_NAME
from effnet_core.system.files import read_jsonl
from effnet_core.weights.checkpoint import BEST_NAME, MODEL_NAME, open_checkpoint
from tests.support.images import class_folders, draw, encode
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore


def two_of_the_same(photos: Path) -> None:
    class_folders(photos, {"cat": 10})
    shutil.copytree(photos / "cat", photos / "also-cat")


def one_colour(photos: Path) -> None:
    for index in range(20):
        folder = photos / ("cat", "dog")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        grey = Image.new("RGB", (40, 40), (100, 100, 100 + index // 2))
        (folder / f"{index}.png").write_bytes(encode(grey))


def labels_at_random(photos: Path) -> None:
    for index in range(40):
        folder = photos / ("cat", "dog")[index * 7 % 13 % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(encode(draw(seed=index)))


ODD_SETS = {
    "a class with one image": lambda photos: class_folders(
        photos, {"cat": 12, "dog": 12, "owl": 1}
    ),
    "12 images in 2 classes": lambda photos: class_folders(photos, {"cat": 6, "dog": 6}),
    "two classes that are the same": two_of_the_same,
    "all of one colour": one_colour,
    "labels at random": labels_at_random,
}

FEW = "data.image_size=32", "train.epochs=2", "evaluate.per_device_batch_size=5"


def test_photographs_are_staged_probed_and_tuned_and_never_end_worse_than_the_probe(
    tmp_path: Path, events: list[Event]
) -> None:
    photos = class_folders(tmp_path / "photos", {"cat": 14, "dog": 12, "owl": 12})
    weights = make_checkpoint(tmp_path / "weights.ckpt", variant="efficientnet_tiny")
    config, run_dir = (
        load_config("auto", [f"model.weights={weights}", *FEW]),
        tmp_path / "runs" / "a",
    )

    result = api.train(config, photos, run_dir)

    assert result.epochs == 2
    assert result.probe_top1 is not None
    assert result.evaluation.top1 >= result.probe_top1
    probe = api.training_result(run_dir).probe_top1
    assert probe == open_checkpoint(run_dir / PROBE_NAME / MODEL_NAME).sidecar.metrics["top1"]
    assert open_checkpoint(run_dir / MODEL_NAME).sidecar.class_names == ("cat", "dog", "owl")
    assert (run_dir / CHECKPOINTS_NAME / BEST_NAME).exists()
    assert [
        row["epoch"] for row in read_jsonl(run_dir / METRICS_NAME) if row["kind"] == "eval"
    ] == [1, 2]

    said = [event.message for event in events if event.metrics.get("kind") == "decision"]
    assert any(line.startswith("model.variant") and "efficientnet_tiny" in line for line in said)
    assert [e.metrics["top1"] for e in events if e.metrics.get("kind") == "probe"] == [probe]
    assert any("compiling the graph" in event.message for event in events)

    assert api.train(config, photos, run_dir) == result  # finished already
    with pytest.raises(OutputExists, match=r"differs in train\.seed"):
        api.train(
            load_config("auto", [f"model.weights={weights}", *FEW, "train.seed=5"]), photos, run_dir
        )

    # Cut between its training and its answer: probe and steps are not done again.
    (run_dir / RESULT_NAME).unlink()
    before = (run_dir / PROBE_NAME / MODEL_NAME).stat().st_mtime_ns
    resumed = api.train(config, photos, run_dir)
    assert resumed.resumed_from_step == result.steps
    assert resumed.evaluation.top1 == result.evaluation.top1
    assert (run_dir / PROBE_NAME / MODEL_NAME).stat().st_mtime_ns == before


@pytest.mark.slow
def test_a_run_that_is_cut_in_its_probe_continues_with_the_same_answer(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"cat": 14, "dog": 12})
    weights = make_checkpoint(tmp_path / "weights.ckpt", variant="efficientnet_tiny")
    config = load_config("auto", [f"model.weights={weights}", "auto.quality=fast"])

    def cut(event: Event) -> None:
        if event.topic == "probe":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listen(cut):
        api.train(config, photos, tmp_path / "runs" / "cut")
    assert not (tmp_path / "runs" / "cut" / RESULT_NAME).exists()

    continued = api.train(config, photos, tmp_path / "runs" / "cut")
    whole = api.train(config, photos, tmp_path / "runs" / "whole")
    assert continued.evaluation.top1 == whole.evaluation.top1
    assert continued.evaluation.loss == pytest.approx(whole.evaluation.loss, rel=1e-4)


@pytest.mark.slow
def test_two_ranks_start_from_one_probe(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"cat": 14, "dog": 12, "owl": 12})
    weights = make_checkpoint(tmp_path / "weights.ckpt", variant="efficientnet_tiny")
    config = load_config("auto", [f"model.weights={weights}", *FEW, "runtime.world_size=2"])
    result = api.train(config, photos, tmp_path / "runs" / "two")
    assert (result.world_size, result.epochs) == (2, 2)
    assert result.probe_top1 is not None
    assert result.evaluation.top1 >= result.probe_top1


@pytest.mark.slow
def test_one_class_is_refused_with_a_sentence(tmp_path: Path) -> None:
    photos = class_folders(tmp_path / "photos", {"cat": 14})
    with pytest.raises(EffnetError, match="class"):
        api.train(load_config("auto", []), photos, tmp_path / "runs" / "one")


@pytest.mark.slow
def test_odd_sets_end_with_an_honest_result(tmp_path: Path) -> None:
    weights = make_checkpoint(tmp_path / "weights.ckpt", variant="efficientnet_tiny")
    found = {}
    for name, make in ODD_SETS.items():
        photos = tmp_path / name / "photos"
        make(photos)
        config = load_config("auto", [f"model.weights={weights}", "auto.quality=fast"])
        found[name] = api.train(config, photos, tmp_path / name / "run").evaluation
    assert found["12 images in 2 classes"].top1 > 0.5
    assert found["two classes that are the same"].top1 <= 0.75
    assert found["labels at random"].loss < 1.0  # unsure where there is nothing to know
    assert found["a class with one image"].class_names == ["cat", "dog", "owl"]
    assert found["all of one colour"].seen > 0
