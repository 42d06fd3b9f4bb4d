"""Features are computed once, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Split, open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError
from effnet_core.events import Event
from effnet_core.infer.features import features_of
from effnet_core.infer.pipeline import Outputs
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.train.probe import probe
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.fakes import BrightnessPredictor
from tests.support.images import class_folders
from tests.support.weights import make_checkpoint


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


def computed(predictor: BrightnessPredictor, split: Split, model: str = "m") -> np.ndarray:
    return features_of(predictor, split, model=model, config=RunConfig(), topic="probe")


def images_of(predictor: BrightnessPredictor) -> int:
    return sum(shape[0] for shape in predictor.batches)


def test_a_second_time_nothing_is_computed(data_dir: Path) -> None:
    split, first, second = (
        open_dataset(data_dir).split("train"),
        BrightnessPredictor(),
        BrightnessPredictor(),
    )
    features = computed(first, split)
    assert features.shape == (24, 3)
    assert images_of(first) == 24
    assert (computed(second, split) == features).all()
    assert second.batches == []
    computed(second, split, model="another")
    assert images_of(second) == 24


def test_of_a_set_that_has_grown_only_new_images_are_computed(tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", {"cat": 10, "dog": 10})
    stage_dataset(source, tmp_path / "data")
    computed(BrightnessPredictor(), open_dataset(tmp_path / "data").split("train"))
    class_folders(source, {"cat": 14, "dog": 14})
    stage_dataset(source, tmp_path / "data")
    split, predictor = open_dataset(tmp_path / "data").split("train"), BrightnessPredictor()
    features = computed(predictor, split)
    assert images_of(predictor) < len(split) == len(features)
    by_channel = features.argmax(axis=1)
    assert ((by_channel == 0) == (split.labels == 0)).all()  # cats are red, dogs green


def test_a_damaged_cache_is_computed_anew(data_dir: Path, own_cache: Path) -> None:
    split = open_dataset(data_dir).split("val")
    features = computed(BrightnessPredictor(), split)
    (file,) = own_cache.glob("*.npz")
    file.write_bytes(b"nonsense")
    assert (computed(BrightnessPredictor(), split) == features).all()


def test_an_image_that_has_gone_is_named(tmp_path: Path) -> None:
    stage_dataset(class_folders(tmp_path / "source", {"cat": 10, "dog": 10}), tmp_path / "data")
    split = open_dataset(tmp_path / "data").split("train")
    (tmp_path / "data" / split.paths[3]).unlink()
    with pytest.raises(DataError, match="cannot be read any more"):
        computed(BrightnessPredictor(), split)


def test_the_speed_of_what_was_computed_is_reported(data_dir: Path, events: list[Event]) -> None:
    split = open_dataset(data_dir).split("train")
    computed(BrightnessPredictor(), split)
    (told,) = [event.metrics for event in events if event.metrics.get("kind") == "features"]
    assert told["images"] == 24
    assert told["images_per_s"] > 0
    events.clear()
    computed(BrightnessPredictor(), split)
    assert not [event for event in events if event.metrics.get("kind") == "features"]


class SidesPredictor(BrightnessPredictor):
    """Features are how bright the left half is, and the right one."""

    def forward(self, pixels: NDArray[np.uint8]) -> Outputs:
        outputs, middle = super().forward(pixels), pixels.shape[2] // 2
        sides = [half.mean(axis=(1, 2, 3)) for half in np.split(pixels, [middle], axis=2)]
        return replace(outputs, features=np.stack(sides, axis=1).astype(np.float32))


@pytest.mark.parametrize("mirrors_matter", [True, False])
@pytest.mark.costly
def test_a_probe_notices_that_pictures_mean_something_else_in_a_mirror(
    tmp_path: Path, mirrors_matter: bool
) -> None:
    """Bright on the left is one class, and on the right the other; or all over, which a mirror keeps."""
    areas = {"left": np.s_[:, :16], "right": np.s_[:, 16:]}
    if not mirrors_matter:
        areas = {"dark": np.s_[:0], "bright": np.s_[:]}
    for name, area in areas.items():
        (tmp_path / "source" / name).mkdir(parents=True)
        for index in range(20):
            image = np.random.default_rng(index).integers(0, 60, (32, 32, 3), np.uint8)
            image[area] += 150
            Image.fromarray(image).save(tmp_path / "source" / name / f"{index}.png")
    stage_dataset(tmp_path / "source", tmp_path / "data")
    weights = make_checkpoint(tmp_path / "x.ckpt", class_names=("a", "b"))

    def sides(split: Split, *, mirrored: bool = False) -> NDArray[np.float32]:
        return features_of(
            SidesPredictor(),
            split,
            model="sides",
            config=RunConfig(),
            topic="probe",
            mirrored=mirrored,
        )

    answer = probe(
        load_config("auto", [f"model.weights={weights}", "data.image_size=32"]),
        checkpoint=open_checkpoint(weights),
        data_dir=tmp_path / "data",
        folder=tmp_path / "probe",
        features_of=sides,
        mirrored_features_of=partial(sides, mirrored=True),
    )
    assert answer["evaluation"]["top1"] == 1
    images = answer["evaluation"]["seen"]
    cells = {"both": 0, "lost": images} if mirrors_matter else {"both": images, "lost": 0}
    assert answer["mirror"] == {"images": images, "won": 0, **cells}
