"""From image files to probabilities, with an engine that needs no network."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effnet_core.config.schema import InferConfig, RunConfig
from effnet_core.data.images import decode_image
from effnet_core.data.manifest import image_id
from effnet_core.data.preprocess import normalise, preprocess
from effnet_core.errors import Interrupted, StoreError
from effnet_core.events import Event
from effnet_core.family.variants import VARIANTS
from effnet_core.infer import pipeline, shards
from effnet_core.infer.engines import tuning
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.output import allowed_errors
from effnet_core.infer.parts import read_parts
from effnet_core.infer.pipeline import (
    MICRO_BATCHES_AHEAD,
    Outputs,
    Prediction,
    Rejection,
    Wanted,
    iter_predictions,
    softmax,
)
from effnet_core.infer.plan import plan
from effnet_core.infer.readers import FolderReader
from effnet_core.infer.shards import predict_shards
from effnet_core.jobs.job import PredictJob
from effnet_core.results import ShardResult
from effnet_core.storage.cache import CACHE_VARIABLE
from tests.support.fakes import SPEC, BrightnessPredictor, predict_job
from tests.support.images import draw, encode

COLOURS = ("red", "green", "blue")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven images, ``0-red.png`` to ``6-red.png``, whose names tell their colour."""
    root = tmp_path / "input"
    root.mkdir()
    for index in range(7):
        name = COLOURS[index % 3]
        (root / f"{index}-{name}.png").write_bytes(encode(Image.new("RGB", (40, 30), name)))
    return root


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def label(
    folder: Path,
    paths: Sequence[str],
    *,
    predictor: BrightnessPredictor | None = None,
    decoders: int = 0,
    **wanted: Any,
) -> list[Prediction | Rejection]:
    """The answers to some files."""
    micro_batches = iter_predictions(
        predictor or BrightnessPredictor(),
        FolderReader(folder),
        paths,
        Wanted(**wanted),
        readers=2,
        decoders=decoders,
    )
    return [answer for micro_batch in micro_batches for answer in micro_batch.answers]


def predicted(answer: Prediction | Rejection) -> Prediction:
    assert isinstance(answer, Prediction), answer
    return answer


@pytest.mark.parametrize("decoders", [0, 1, 2])
@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("micro_batch", [1, 2, 3, 7, 50])
def test_answers_come_in_the_order_of_the_questions(
    folder: Path, micro_batch: int, workers: int, decoders: int
) -> None:
    predictor = BrightnessPredictor(micro_batch=micro_batch, workers=workers)
    paths = names(folder)[::-1] * 5
    answers = label(folder, paths, predictor=predictor, decoders=decoders)
    assert [answer.path for answer in answers] == paths
    assert all(f"-{predicted(answer).class_names[0]}." in answer.path for answer in answers)
    sizes = sorted(shape[0] for shape in predictor.batches)
    assert sum(sizes) == 35 and set(sizes[1:]) <= {micro_batch}


def test_an_answer_in_full(folder: Path) -> None:
    [found] = label(folder, ["1-green.png"], top_k=2)
    answer = predicted(found)
    assert answer.image_id == image_id("1-green.png")
    assert answer.class_ids[0] == 1
    assert answer.class_names[0] == "green"
    assert answer.probs == sorted(answer.probs, reverse=True)
    assert len(answer.class_ids) == len(answer.class_names) == len(answer.probs) == 2
    assert all(type(value) is int for value in answer.class_ids)
    assert all(type(value) is float for value in answer.probs)
    assert answer.probabilities is None and answer.features is None


@pytest.mark.parametrize("workers", [0, 2])
def test_every_probability_and_the_features_where_asked_for(folder: Path, workers: int) -> None:
    predictor = BrightnessPredictor(workers=workers)
    paths = ["1-green.png", "0-red.png"]
    for found in label(
        folder, paths, predictor=predictor, top_k=1, probabilities=True, features=True
    ):
        answer = predicted(found)
        assert answer.probabilities is not None and answer.features is not None
        assert answer.probabilities.sum() == pytest.approx(1)
        assert answer.probabilities[answer.class_ids[0]] == pytest.approx(answer.probs[0])
        assert answer.features.argmax() == answer.class_ids[0]


def test_top_k_beyond_the_classes_gives_them_all(folder: Path) -> None:
    [answer] = label(folder, ["0-red.png"], top_k=9)
    assert sorted(predicted(answer).class_ids) == [0, 1, 2]
    assert sum(predicted(answer).probs) == pytest.approx(1)


def test_no_paths(folder: Path) -> None:
    assert label(folder, []) == []


@pytest.mark.parametrize(("workers", "decoders"), [(0, 0), (2, 0), (2, 1)])
def test_bad_files_keep_their_place_and_never_reach_the_engine(
    folder: Path, workers: int, decoders: int
) -> None:
    (folder / "1-empty.png").write_bytes(b"")
    (folder / "2-text.jpg").write_bytes(b"hello")
    (folder / "3-cut.jpg").write_bytes(encode(draw(), "JPEG")[:120])
    (folder / "4-lab.tif").write_bytes(encode(draw().convert("LAB"), "TIFF"))
    paths = [*names(folder), "gone.png"]
    predictor = BrightnessPredictor(workers=workers)
    answers = label(folder, paths, predictor=predictor, decoders=decoders)
    assert [answer.path for answer in answers] == paths
    assert {answer.path: answer.reason for answer in answers if isinstance(answer, Rejection)} == {
        "1-empty.png": "empty file",
        "2-text.jpg": "not an image",
        "3-cut.jpg": "truncated",
        "gone.png": "no such file or directory",
    }
    assert sum(shape[0] for shape in predictor.batches) == 8


def test_a_batch_without_one_good_image_does_not_call_the_engine(folder: Path) -> None:
    predictor = BrightnessPredictor()
    [answer] = label(folder, ["gone.png"], predictor=predictor)
    assert isinstance(answer, Rejection)
    assert predictor.batches == []


def test_a_name_that_is_not_utf8(folder: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (folder / name).write_bytes(encode(draw()))
    assert label(folder, [name]) == [Rejection(name, "file name is not valid UTF-8")]


def test_a_pipe_is_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    assert label(folder, ["pipe.jpg"]) == [Rejection("pipe.jpg", "not a regular file")]


def test_a_lost_source_is_no_matter_of_one_file(folder: Path) -> None:
    class Lost(FolderReader):
        def read(self, path: str) -> bytes:
            raise StoreError("the server is gone")

    for workers in (0, 2):
        micro_batches = iter_predictions(
            BrightnessPredictor(workers=workers), Lost(folder), names(folder), Wanted(), readers=2
        )
        with pytest.raises(StoreError, match="the server is gone"):
            list(micro_batches)


def test_a_turned_photo_is_seen_upright(folder: Path) -> None:
    """As at staging; otherwise a model would meet photos that it was not trained on."""
    upright = draw(30, 40)
    exif = Image.Exif()
    exif[0x0112] = 6
    (folder / "phone.png").write_bytes(
        encode(upright.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif.tobytes())
    )
    seen: list[np.ndarray] = []

    class Recorder(BrightnessPredictor):
        def forward(self, pixels: np.ndarray) -> Outputs:
            seen.append(pixels)
            return super().forward(pixels)

    label(folder, ["phone.png"], predictor=Recorder())
    level = 1.001 / 255 / min(SPEC.std)  # what fast decoding may differ by
    assert np.allclose(normalise(seen[0], SPEC)[0], preprocess(upright, SPEC), rtol=0, atol=level)


def test_softmax_of_large_logits() -> None:
    probs = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], dtype=np.float32))
    assert probs.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert probs.dtype == np.float32


@pytest.mark.parametrize(("workers", "decoders"), [(0, 0), (2, 0), (2, 1)])
def test_work_runs_ahead_but_not_away(folder: Path, workers: int, decoders: int) -> None:
    """A million images are labelled in constant memory: files are read as answers are taken."""
    read: list[str] = []

    class Counting(FolderReader):
        def read(self, path: str) -> bytes:
            read.append(path)
            return super().read(path)

    micro_batches = iter_predictions(
        BrightnessPredictor(micro_batch=2, workers=workers),
        Counting(folder),
        ["0-red.png"] * 1000,
        Wanted(),
        readers=2,
        decoders=decoders,
    )
    for taken in range(1, 4):
        next(micro_batches)
        time.sleep(0.1)
        assert len(read) <= 2 * (taken + MICRO_BATCHES_AHEAD * max(workers, 1))
    micro_batches.close()


# --- preprocessing -------------------------------------------------------------------------------


def test_the_shorter_side_before_the_crop() -> None:
    """Of B0 to B7: image_size / crop_pct, rounded down."""
    sides = [
        replace(SPEC, image_size=row.image_size, crop_pct=row.crop_pct).resize_size
        for row in VARIANTS.values()
        if row.name.startswith("efficientnet_b")
    ]
    assert sides == [256, 272, 292, 331, 412, 488, 560, 632]
    assert replace(SPEC, crop_pct=1.0).resize_size == 32


def test_preprocess_gives_a_normalised_square() -> None:
    pixels = preprocess(Image.new("RGB", (40, 30), (255, 0, 0)), SPEC)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == np.float32
    assert pixels[0] == pytest.approx((1 - 0.485) / 0.229)
    assert pixels[1] == pytest.approx((0 - 0.456) / 0.224)


@pytest.mark.parametrize("size", [(40, 30), (30, 40), (1, 1), (500, 33), (33, 500), (10, 10)])
def test_preprocess_takes_every_shape(size: tuple[int, int]) -> None:
    assert preprocess(draw(*size), SPEC).shape == (3, 32, 32)


def test_the_centre_is_cut_out() -> None:
    image = Image.new("RGB", (90, 36), "red")
    image.paste(Image.new("RGB", (36, 36), "blue"), (27, 0))
    pixels = preprocess(image, SPEC)
    assert pixels[2].min() > 1.5  # blue throughout


def test_a_tall_image_is_the_transposed_wide_one_up_to_rounding() -> None:
    """Pillow 13 resizes tall images in another order than wide ones."""
    image = draw(64, 300, seed=4)
    upright = preprocess(image, SPEC)
    lying = preprocess(image.transpose(Image.Transpose.TRANSPOSE), SPEC)
    assert np.abs(upright - lying.transpose(0, 2, 1)).mean() * 255 * 0.226 < 0.5


def test_formats_do_not_matter(tmp_path: Path) -> None:
    image = draw()
    expected = preprocess(image, SPEC)
    for format in ("PNG", "BMP", "TIFF", "PPM"):
        assert np.array_equal(preprocess(decode_image(encode(image, format)), SPEC), expected)


# --- shards --------------------------------------------------------------------------------------


def config_of(**settings: Any) -> RunConfig:
    return RunConfig(infer=InferConfig(**settings))


def job_of(folder: Path, output: Path, config: RunConfig) -> PredictJob:
    planned = plan(list_inputs([folder], output), output, model_sha256="m", infer=config.infer)
    allowed = allowed_errors(planned.images, config.infer)
    return predict_job(planned, allowed_errors=allowed)


def test_predict_shards_writes_parts_and_counts(
    folder: Path, tmp_path: Path, events: list[Event]
) -> None:
    (folder / "3-bad.png").write_bytes(b"")
    config = config_of(shard_images=3, top_k=2, max_error_share=0.5)
    output = tmp_path / "out"
    result = predict_shards(BrightnessPredictor(), job_of(folder, output, config), config)
    assert [(shard["start"], shard["stop"]) for shard in result["shards"]] == [
        (0, 3),
        (3, 6),
        (6, 8),
    ]
    assert [shard["labelled"] for shard in result["shards"]] == [3, 2, 2]
    assert [shard["rejected"] for shard in result["shards"]] == [0, 1, 0]
    found = [ShardResult.read(path) for path in sorted((output / "shards").iterdir())]
    assert found[1].rejected == [{"path": "3-bad.png", "reason": "empty file"}]
    assert found[0].histogram == {"red": 1, "green": 1, "blue": 1}
    assert all(shard.latency_ms[0] > 0 for shard in found)
    assert len(read_parts(output)) == 7
    assert [event.done for event in events if event.message] == [3, 6, 8]
    assert events[-1].message.startswith("labelled 2 images, set aside 0, wrote part-00002-")
    told = [event.message for event in events if "the other" in event.message]
    assert len(told) == 1
    assert re.search(r"images/s the other 5 images take \d", told[0])


@pytest.mark.parametrize(
    ("rates", "setting", "wanted"),
    [
        ({0: 100.0, 1: 130.0, 3: 120.0}, None, 1),
        ({0: 100.0, 1: 50.0, 3: 109.0}, None, 0),  # may be chance
        ({0: 100.0, 1: 130.0, 3: 120.0}, 2, 2),
        ({0: 100.0, 1: 130.0, 3: 120.0}, 0, 0),
    ],
)
def test_decoders_are_measured_over_the_runs_own_files_unless_they_are_given(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    events: list[Event],
    rates: dict[int, float],
    setting: int | None,
    wanted: int,
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    for index in range(tuning.SAMPLE_IMAGES):
        (folder / f"more-{index}.png").write_bytes(encode(draw(seed=index)))
    (folder / "bad.png").write_bytes(b"")
    tried: list[int] = []

    def rate(predictor: Any, source: Any, paths: list[str], *rest: Any) -> float:
        assert len(paths) == tuning.SAMPLE_IMAGES
        assert source.read("0-red.png") == (folder / "0-red.png").read_bytes()
        tried.append(rest[-1])
        return rates[rest[-1]]

    monkeypatch.setattr(tuning, "_rate_of_files", rate)
    config = config_of(decoders=setting)
    predict_shards(
        BrightnessPredictor(workers=3), job_of(folder, tmp_path / "short", config), config
    )
    assert not tried
    monkeypatch.setattr(shards, "LONG_RUN_IMAGES", tuning.SAMPLE_IMAGES)
    for name in ("once", "again"):
        pools: list[tuple[str, int]] = []
        pool = pipeline._pool
        monkeypatch.setattr(
            pipeline, "_pool", lambda n, what, p=pools, f=pool: (p.append((what, n)), f(n, what))[1]
        )
        job = job_of(folder, tmp_path / name, config)
        predict_shards(BrightnessPredictor(workers=3), job, config)
        assert dict(pools)["decoder"] == max(1, wanted)
    assert tried == ([] if setting is not None else [0, 1, 3] * (1 + tuning.TURNS))
    said = [event.message for event in events if "decoding, images/s by decoders" in event.message]
    assert len(said) == (setting is None)


def test_a_rate_of_files_counts_files(folder: Path) -> None:
    memory = tuning._Memory(FolderReader(folder), [*names(folder), "gone.png"])
    paths = list(memory.contents)
    for decoders in (0, 2):
        found = tuning._rate_of_files(
            BrightnessPredictor(workers=2), memory, paths, Wanted(), 2, decoders
        )
        assert found > 0


def test_too_many_bad_files_stop_the_job_after_their_shard(folder: Path, tmp_path: Path) -> None:
    for index in range(3):
        (folder / f"0-bad-{index}.png").write_bytes(b"")
    config = config_of(shard_images=3, max_error_share=0.1)
    job = job_of(folder, tmp_path / "out", config)
    result = predict_shards(BrightnessPredictor(), job, config)
    assert [shard["rejected"] for shard in result["shards"]] == [3]
    assert len(job.shards) == 4


def test_predict_shards_stops_when_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(shard_images=2)
    job = job_of(folder, tmp_path / "out", config)
    answers = iter([False, True])
    monkeypatch.setattr("effnet_core.infer.shards.stop_requested", lambda: next(answers))
    with pytest.raises(Interrupted, match="stopped after 2 of 7 images"):
        predict_shards(BrightnessPredictor(micro_batch=2), job, config)
    assert len(read_parts(tmp_path / "out")) == 2
