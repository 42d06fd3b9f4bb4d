"""Accuracy over every image, exact whatever the batches; and the engine that answers like it."""

from __future__ import annotations

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from effnet_core.data.manifest import open_dataset
from effnet_core.errors import CheckpointError, DataError, Interrupted
from effnet_core.events import Event
from effnet_core.infer.engines.mindspore import MindSporePredictor
from effnet_core.jobs.collective import Group, parameters_digest
from effnet_core.model.network import create_model
from effnet_core.train.evaluate import evaluate_checkpoint, evaluate_network
from effnet_core.train.tally import count_top_k, cross_entropy
from effnet_core.weights import checkpoint
from effnet_core.weights.checkpoint import Sidecar
from tests.support.fakes import SPEC
from tests.support.tiny import tiny_config

NAMES = ("cat", "dog", "owl")
ALONE = Group(0, 1)


class BrightnessNetwork:
    """Logits are the means of the channels: no weights, but another answer for each image."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def set_train(self, mode: bool) -> None:
        assert mode is False

    def __call__(self, images: Tensor) -> Tensor:
        self.shapes.append(images.shape)
        return Tensor(images.asnumpy().mean(axis=(2, 3)))


def evaluate(data_dir: Path, *overrides: str, split: str = "val", group: Group = ALONE):
    network = BrightnessNetwork()
    dataset = open_dataset(data_dir)
    result = evaluate_network(
        network,
        dataset.split(split),
        SPEC,
        tiny_config(*overrides),
        group,
        class_names=dataset.class_names,
    )
    return result, network


def test_counts_do_not_depend_on_the_batches(data_dir: Path, events: list[Event]) -> None:
    results = []
    for size in (1, 5, 12, 64):
        result, network = evaluate(data_dir, f"evaluate.per_device_batch_size={size}")
        assert {shape[0] for shape in network.shapes} == {size}
        assert len(network.shapes) == -(-12 // size)
        results.append((result.seen, result.correct1, result.confusion, round(result.loss, 5)))
    assert results[0][0] == 12
    assert all(result == results[0] for result in results)
    result, _ = evaluate(data_dir)
    assert result.confusion.seen == 12
    assert result.confusion.by_true().tolist() == [4, 4, 4]
    assert result.correct1 == result.confusion.correct
    assert result.correct1 > 0
    assert result.correct5 == 12  # three classes: always among the best five
    assert result.top5 is None
    assert (events[-1].done, events[-1].total) == (12, 12)


def test_evaluation_gives_the_network_nothing_but_images(data_dir: Path) -> None:
    """No masks of dropout or stochastic depth: the network is called with one argument."""
    evaluate(data_dir)


def test_more_ranks_than_images(data_dir: Path) -> None:
    with pytest.raises(DataError, match=r"runtime\.world_size=13 is more than the 12 images"):
        evaluate(data_dir, group=Group(0, 13))


def test_evaluation_stops_when_asked(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_core.train.evaluate.stop_requested", lambda: True)
    with pytest.raises(Interrupted, match="stopped after 0 of 12 images"):
        evaluate(data_dir)


def test_top_k_counts_ties_for_the_row() -> None:
    logits = np.array([[3, 2, 1], [1, 1, 1], [1, 2, 3]], dtype=np.float32)
    labels = np.array([0, 2, 0], dtype=np.int32)
    assert [count_top_k(logits, labels, k) for k in (1, 2, 3)] == [2, 2, 3]


def test_cross_entropy_is_mindspores() -> None:
    rng = np.random.default_rng(0)
    logits = (rng.standard_normal((16, 7)) * 30).astype(np.float32)
    labels = rng.integers(0, 7, 16).astype(np.int32)
    expected = ms.ops.cross_entropy(Tensor(logits), Tensor(labels)).asnumpy()
    assert cross_entropy(logits, labels).mean() == pytest.approx(expected, rel=1e-5)


# --- one process is a group, too -----------------------------------------------------------------


def test_sums_of_one_rank_are_its_own() -> None:
    counts = np.array([0, 1, 2**35], dtype=np.int64)
    assert ALONE.sum_counts(counts).tolist() == counts.tolist()
    assert ALONE.is_first
    ALONE.require_equal("ab" * 32, what="weights")


def test_the_digest_of_weights_sees_names_and_values() -> None:
    def digest(seed: int) -> str:
        network = create_model("efficientnet_tiny", num_classes=3, seed=seed)
        return parameters_digest(network.get_parameters())

    assert digest(0) == digest(0) != digest(1)


# --- checkpoints and the engine ------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = create_model("efficientnet_tiny", num_classes=3, seed=5)
    sidecar = Sidecar(
        variant="efficientnet_tiny",
        class_names=NAMES,
        preprocess=SPEC,
        bn_momentum=0.9,
        bn_eps=1e-3,
        epoch=1,
        step=3,
        training_state=False,
    )
    checkpoint.save(tmp_path / "model.ckpt", network.get_parameters(), sidecar)
    return tmp_path / "model.ckpt"


def test_engine_and_evaluation_agree_and_short_batches_do_not_matter(
    model: Path, data_dir: Path
) -> None:
    result = evaluate_checkpoint(
        tiny_config(),
        ALONE,
        checkpoint=checkpoint.open_checkpoint(model),
        data_dir=data_dir,
        split="val",
    )
    assert result.checkpoint_sha256 == checkpoint.open_checkpoint(model).sha256
    assert result.data_digest == open_dataset(data_dir).digest
    engine = MindSporePredictor(checkpoint.open_checkpoint(model), micro_batch=8)
    assert engine.class_names == NAMES
    assert engine.preprocess == SPEC
    pixels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), np.uint8)
    logits = engine.forward(pixels).logits
    assert logits.shape == (8, 3)
    assert logits.dtype == np.float32
    for count in (1, 3, 7):
        assert engine.forward(pixels[:count]).logits == pytest.approx(logits[:count], abs=1e-6)


def test_a_checkpoint_of_other_classes_is_refused_with_both_sides(
    model: Path, source_dir: Path, tmp_path: Path
) -> None:
    from effnet_core.data.staging import stage_dataset
    from tests.support.images import class_folders

    class_folders(tmp_path / "source", {"ant": 4, "bee": 4}, width=20, height=20)
    stage_dataset(tmp_path / "source", tmp_path / "other", val_share=0.5)
    with pytest.raises(DataError) as caught:
        evaluate_checkpoint(
            tiny_config(),
            ALONE,
            checkpoint=checkpoint.open_checkpoint(model),
            data_dir=tmp_path / "other",
            split="val",
        )
    assert "knows 3 classes (cat, dog, owl)" in str(caught.value)
    assert "has 2 (ant, bee)" in str(caught.value)


def test_a_damaged_checkpoint_is_no_engine(model: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is damaged"):
        MindSporePredictor(checkpoint.open_checkpoint(model), micro_batch=1)
