"""A labelling is compared with the pictures that its model was made for, in its summary and its report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.infer.parts import read_parts
from effnet_core.infer.plan import SHARDS_NAME, InferencePlan
from effnet_core.infer.shards import observe, predict_shards
from effnet_core.quality.drift import (
    COMPARED_NAME,
    drift_of,
    is_reported,
    note_reported,
    reference_of,
)
from effnet_core.results.drift import REFERENCE_NAME, Drift, Reference, make_reference
from effnet_core.system.files import read_json
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint
from tests.support.fakes import BrightnessPredictor, predict_job
from tests.support.images import encode
from tests.support.weights import make_checkpoint


def make_model(folder: Path, *, level: float, seed: int) -> Checkpoint:
    """A model whose features are the means of the channels, with a reference of 80 pictures."""
    names = BrightnessPredictor.class_names
    checkpoint = open_checkpoint(
        make_checkpoint(folder / "m.ckpt", image_size=32, class_names=names, seed=seed)
    )
    rng = np.random.default_rng(seed)
    features = rng.normal(level, 20, (80, 3)).astype(np.float32)
    make_reference(
        features,
        features.argmax(axis=1),
        np.full(80, 0.7),
        np.stack([features.mean(axis=1), np.full(80, 30.0)], axis=1),
        classes=3,
        checkpoint_sha256=checkpoint.sha256,
    ).save(folder / REFERENCE_NAME)
    return checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return make_model(tmp_path_factory.mktemp("model"), level=128, seed=0)


def draw_pictures(folder: Path, *, level: float, day: int = 0, count: int = 24) -> None:
    """Pictures of one colour each, around a brightness."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(1 + day)
    for i in range(count):
        colour = rng.normal(level, 20, 3).clip(0, 255).astype(np.uint8)
        square = np.broadcast_to(colour, (32, 32, 3))
        image = Image.fromarray(np.ascontiguousarray(square))
        path = folder / f"{day}-{i:02d}.png"
        if not path.exists():
            path.write_bytes(encode(image))


def label(
    model: Checkpoint, folder: Path, output: Path, *, config: RunConfig, only_new: bool = False
) -> InferencePlan:
    """Label what is missing."""
    planned = api.plan_inference(model, [folder], output, config=config, only_new=only_new)
    job = replace(
        predict_job(planned),
        reference=reference_of(model),
        checkpoint_sha256=model.sha256,
        shards=tuple(planned.missing()),
    )
    if job.shards:
        predict_shards(BrightnessPredictor(), job, config)
    return planned


@pytest.mark.costly
def test_a_labelling_says_how_far_its_pictures_are(model: Checkpoint, tmp_path: Path) -> None:
    config = load_config(None, ["infer.shard_images=10"])
    found = {}
    for name, level in (("same", 128.0), ("dark", 20.0)):
        draw_pictures(tmp_path / name, level=level)
        planned = label(model, tmp_path / name, tmp_path / f"out-{name}", config=config)
        summary, report = api.finish_inference(planned, model, weights="m", config=config)
        found[name] = summary["drift"]
        assert read_json(planned.output / "summary.json")["drift"] == summary["drift"]
        page = Path(report.path).read_text()
        assert ("These pictures are unlike" in page) is summary["drift"]["drifted"]
        assert "Farthest out" in page
        assert "features" not in read_parts(planned.output)[0]
    assert not found["same"]["drifted"] and found["dark"]["drifted"]
    assert found["dark"]["images"] == 24 and found["dark"]["brightness"] < -3
    assert len(found["dark"]["farthest"]) == 24


@pytest.mark.costly
def test_each_run_into_an_output_is_compared_by_itself(model: Checkpoint, tmp_path: Path) -> None:
    """An inbox that grows: the pictures of earlier days and of other models do not dilute those of today."""
    config = load_config(None, ["infer.shard_images=10"])
    inbox, output = tmp_path / "inbox", tmp_path / "labels"
    other = make_model(tmp_path, level=20, seed=5)

    def day(number: int, level: float, by: Checkpoint, count: int = 24) -> Drift:
        draw_pictures(inbox, level=level, day=number, count=count)
        planned = label(by, inbox, output, config=config, only_new=True)
        return drift_of(planned, by)

    for number in range(3):
        found = day(number, 128, model)
        assert (found.drifted, found.images) == (False, 24)
    dark = day(3, 20, model)
    assert (dark.drifted, dark.images) == (True, 24)
    assert all(path.startswith("3-") for path, _ in dark.farthest)
    assert not is_reported(output)
    note_reported(output)
    assert day(3, 20, model) == dark  # nothing is new: the finding stays, and nobody is told again
    assert is_reported(output)
    found = day(4, 20, other)
    assert (found.drifted, found.images) == (False, 24)
    assert not is_reported(output)
    (output / SHARDS_NAME / COMPARED_NAME).write_text("{}")
    assert not is_reported(output)
    assert drift_of(label(other, inbox, output, config=config, only_new=True), other) == found


def test_a_model_without_a_reference_or_with_that_of_another(
    model: Checkpoint, tmp_path: Path
) -> None:
    other = open_checkpoint(make_checkpoint(tmp_path / "m.ckpt", image_size=32, seed=9))
    assert reference_of(other) is None
    reference = model.path.with_name(REFERENCE_NAME)
    (tmp_path / REFERENCE_NAME).write_bytes(reference.read_bytes())
    assert reference_of(other) is None  # it is of another model
    (tmp_path / REFERENCE_NAME).write_bytes(b"x")
    assert reference_of(other) is None
    assert reference_of(model) == reference


def test_what_is_kept_of_an_answer() -> None:
    from effnet_core.infer.pipeline import Prediction

    rng = np.random.default_rng(0)
    features = rng.standard_normal((60, 4)).astype(np.float32)
    reference = make_reference(
        features,
        np.zeros(60, np.int64),
        np.ones(60),
        np.zeros((60, 2)),
        classes=2,
        checkpoint_sha256="c",
    )
    assert isinstance(reference, Reference)
    row = Prediction(
        "i", "a.png", [1, 0], ["b", "a"], [0.8, 0.2], features=features[0], looks=(9.0, 4.0)
    )
    seen = observe(reference, [row])
    assert seen.answers.tolist() == [1] and seen.certainty.tolist() == pytest.approx([0.8])
    assert seen.looks.tolist() == [[9.0, 4.0]] and seen.farthest[0][0] == "a.png"
