"""What an evaluation keeps of each image, on one rank and on several; engines that apply the temperature."""

from __future__ import annotations

from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
from mindspore import Tensor

from effnet_core.data.manifest import open_dataset
from effnet_core.data.preprocess import normalise
from effnet_core.infer.engines.mindspore import MindSporePredictor
from effnet_core.infer.pipeline import softmax
from effnet_core.jobs.collective import Group
from effnet_core.results.answers import ANSWERS_NAME, UNKNOWN, Answers
from effnet_core.train.evaluate import evaluate_checkpoint, evaluate_network
from effnet_core.train.scores import Scores
from effnet_core.weights.checkpoint import open_checkpoint
from effnet_core.weights.load import load_network
from tests.cells.test_evaluate import BrightnessNetwork
from tests.support.fakes import SPEC
from tests.support.tiny import tiny_config
from tests.support.weights import make_checkpoint

ALONE = Group(0, 1)
NAMES = ("red", "green", "blue")


class Threaded(Group):
    """A rank that is a thread of this process."""

    @classmethod
    def of(cls, ranks: int) -> list[Threaded]:
        shared: list[np.ndarray | None] = [None] * ranks
        barrier = Barrier(ranks)
        groups = [cls(rank, ranks) for rank in range(ranks)]
        for group in groups:
            object.__setattr__(group, "shared", shared)
            object.__setattr__(group, "barrier", barrier)
        return groups

    def gather_floats(self, values):
        self.shared[self.rank] = np.array(values, np.float32)
        self.barrier.wait()
        rows = np.stack(self.shared)
        self.barrier.wait()
        return rows

    def sum_floats(self, values):
        return self.gather_floats(values).sum(axis=0)


def fill(group: Group, logits: np.ndarray, labels: np.ndarray) -> Scores:
    """Scores of a rank that sees its range in batches of seven."""
    n, size = len(labels), -(-len(labels) // group.world_size)
    rows = range(group.rank * size, min(n, (group.rank + 1) * size))
    scores = Scores(temperature=2.0, keep_logits=True)
    scores.begin(rows, n)
    for start in range(rows.start, rows.stop, 7):
        part = slice(start, min(start + 7, rows.stop))
        scores.add(logits[part], labels[part])
    return scores


def test_ranks_together_keep_what_one_rank_keeps() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, 100).astype(np.int32)
    logits = (rng.standard_normal((100, 6)) * 3).astype(np.float32)
    found: dict[int, tuple] = {}

    def work(group: Group, key: int) -> None:
        scores = fill(group, logits, labels)
        found[key] = (
            scores.fit(group),
            scores.calibration(group),
            scores.answers(group, labels, None),
        )

    work(ALONE, 9)
    threads = [Thread(target=work, args=(group, group.rank)) for group in Threaded.of(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    fitted, calibration, answers = found[9]
    others = found[0]
    assert others[0].temperature == fitted.temperature > 1
    assert others[0].after == fitted.after
    assert others[1].after.images == calibration.after.images
    assert others[1].after.ece == pytest.approx(calibration.after.ece, abs=1e-6)
    assert others[1].loss_after == pytest.approx(calibration.loss_after)
    for name in ("classes", "probs", "of_true"):
        assert np.array_equal(getattr(others[2], name), getattr(answers, name)), name
    assert found[1][0] is None and found[1][2] is None
    assert answers.probs[:, 0] == pytest.approx(softmax(logits / 2).max(axis=1))


def test_an_evaluation_says_what_each_image_got(data_dir: Path) -> None:
    dataset = open_dataset(data_dir)
    scores = Scores()
    result = evaluate_network(
        BrightnessNetwork(),
        dataset.split("val"),
        SPEC,
        tiny_config(),
        ALONE,
        class_names=dataset.class_names,
        scores=scores,
    )
    answers = scores.answers(ALONE, dataset.split("val").labels, None)
    assert answers.right.sum() == result.correct1
    found = np.zeros((3, 3), int)
    np.add.at(found, (answers.true, answers.answer), 1)
    assert found.tolist() == result.confusion.dense().tolist()
    assert result.calibration.before.ece == result.calibration.after.ece
    assert -np.log(answers.of_true).mean() == pytest.approx(result.loss, rel=1e-4)


def test_classes_are_translated_and_unknown_ones_are_wrong(data_dir: Path) -> None:
    """The data's second class is the model's first, and the model does not know the third."""
    dataset = open_dataset(data_dir)
    plain, translated = (
        evaluate_network(
            BrightnessNetwork(),
            dataset.split("val"),
            SPEC,
            tiny_config(),
            ALONE,
            class_names=names,
            labels=labels,
            scores=Scores(),
        )
        for names, labels in (
            (dataset.class_names, None),
            (("a", "b", "c", "further"), np.array([1, 0, 3], np.int32)),
        )
    )
    assert translated.seen == 12 and translated.confusion.classes == 4
    assert translated.confusion.by_true().tolist() == [4, 4, 0, 4]
    assert translated.confusion.by_answer()[3] == 0
    assert translated.confusion.by_answer()[:3].tolist() == plain.confusion.by_answer().tolist()
    rows = plain.confusion.dense()
    assert translated.correct1 == rows[0, 1] + rows[1, 0]
    assert np.isfinite(translated.loss)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn network of three classes with a temperature."""
    path = tmp_path_factory.mktemp("model") / "model.ckpt"
    return make_checkpoint(path, image_size=32, class_names=NAMES, temperature=2.5)


def test_engine_evaluation_and_answers_have_the_same_calibrated_probabilities(
    model: Path, data_dir: Path, tmp_path: Path
) -> None:
    checkpoint = open_checkpoint(model)
    sidecar = checkpoint.sidecar
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    network = load_network(checkpoint, is_calibrated=False)
    plain = network(Tensor(normalise(pixels, sidecar.preprocess))).asnumpy()
    engine = MindSporePredictor(checkpoint, micro_batch=4)
    assert engine.forward(pixels).logits == pytest.approx(plain / 2.5, rel=1e-4, abs=1e-5)

    labels = [0, 1, UNKNOWN]
    result = evaluate_checkpoint(
        tiny_config(),
        ALONE,
        checkpoint=checkpoint,
        data_dir=data_dir,
        split="val",
        labels=labels,
        out=tmp_path,
    )
    answers = Answers.read(tmp_path / ANSWERS_NAME)
    assert answers.origin.checkpoint_sha256 == checkpoint.sha256
    assert answers.origin.calibrated and answers.origin.classes == 3
    assert answers.true.tolist() == [0] * 4 + [1] * 4 + [UNKNOWN] * 4
    assert result.calibration.temperature == 2.5
    assert result.calibration.after.mean_certainty == pytest.approx(
        answers.probs[:, 0].mean(), rel=1e-5
    )
    assert result.calibration.before.mean_certainty > result.calibration.after.mean_certainty
