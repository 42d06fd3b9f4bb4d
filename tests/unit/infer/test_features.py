"""Features are computed once, whatever happens in between."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Split, open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError
from effnet_core.events import Event
from effnet_core.infer.features import features_of
from effnet_core.storage.cache import CACHE_VARIABLE
from tests.support.fakes import BrightnessPredictor
from tests.support.images import class_folders


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
