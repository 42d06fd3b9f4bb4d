"""A labelling is compared with the pictures that its model was made for, in its summary and its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.infer.parts import read_parts
from effnet_core.infer.plan import InferencePlan
from effnet_core.infer.shards import observe, predict_shards
from effnet_core.quality.drift import reference_of
from effnet_core.results.drift import REFERENCE_NAME, Reference, make_reference
from effnet_core.system.files import read_json
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint
from tests.support.fakes import BrightnessPredictor, predict_job
from tests.support.images import encode
from tests.support.weights import make_checkpoint


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model whose features are the means of the channels, with a reference of 80 pictures."""
    folder = tmp_path_factory.mktemp("model")
    names = BrightnessPredictor.class_names
    checkpoint = open_checkpoint(
        make_checkpoint(folder / "m.ckpt", image_size=32, class_names=names)
    )
    rng = np.random.default_rng(0)
    features = rng.normal(128, 20, (80, 3)).astype(np.float32)
    make_reference(
        features,
        features.argmax(axis=1),
        np.full(80, 0.7),
        np.stack([features.mean(axis=1), np.full(80, 30.0)], axis=1),
        classes=3,
        checkpoint_sha256=checkpoint.sha256,
    ).save(folder / REFERENCE_NAME)
    return checkpoint


def label(
    model: Checkpoint, folder: Path, output: Path, *, level: float, config: RunConfig
) -> InferencePlan:
    """Label 24 pictures of one colour each, around a brightness."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    from PIL import Image

    for i in range(24):
        colour = rng.normal(level, 20, 3).clip(0, 255).astype(np.uint8)
        square = np.broadcast_to(colour, (32, 32, 3))
        (folder / f"{i:02d}.png").write_bytes(encode(Image.fromarray(np.ascontiguousarray(square))))
    planned = api.plan_inference(model, [folder], output, config=config)
    job = predict_job(planned)
    from dataclasses import replace

    job = replace(job, reference=reference_of(model), checkpoint_sha256=model.sha256)
    predict_shards(BrightnessPredictor(), job, config)
    return planned


def test_a_labelling_says_how_far_its_pictures_are(model: Checkpoint, tmp_path: Path) -> None:
    config = load_config(None, ["infer.shard_images=10"])
    found = {}
    for name, level in (("same", 128.0), ("dark", 20.0)):
        planned = label(
            model, tmp_path / name, tmp_path / f"out-{name}", level=level, config=config
        )
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
