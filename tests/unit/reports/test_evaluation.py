"""An evaluation as files for programs and a page for people."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from effnet_core.config.schema import StorageConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.errors import DataError
from effnet_core.jobs.job import RESULT_NAME, EvaluateJob, write_job_file
from effnet_core.reports.evaluation import Evaluation, chosen_pictures, report_evaluation
from effnet_core.results import EvalResult
from effnet_core.results.answers import ANSWERS_NAME, UNKNOWN, Answers, Origin, rank_answers
from effnet_core.results.calibration import calibrate
from effnet_core.results.confusion import ConfusionCounter
from effnet_core.system.files import write_json
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.weights import make_checkpoint

NAMES = ("cat", "dog", "owl")
STORAGE = StorageConfig()


def evaluated(
    folder: Path,
    data_dir: Path,
    *,
    names: tuple[str, ...] = NAMES,
    labels: tuple[int, ...] = (0, 1, 2),
) -> Path:
    """The folder of an evaluation of a model that finds logits by drawing lots."""
    folder.mkdir()
    checkpoint = open_checkpoint(make_checkpoint(folder / "m.ckpt", class_names=names))
    dataset = open_dataset(data_dir)
    split = dataset.split("val")
    logits = np.random.default_rng(0).standard_normal((len(split), len(names))).astype(np.float32)
    true = np.array(labels, np.int32)[split.labels]
    further = tuple(
        name for name, label in zip(dataset.class_names, labels, strict=True) if label == UNKNOWN
    )
    counter = ConfusionCounter(len(names) + len(further))
    counter.add(np.where(true < 0, len(names), true), logits.argmax(axis=1))
    best = rank_answers(logits, true)
    origin = Origin(checkpoint.sha256, dataset.digest, "val", 32, len(names), calibrated=False)
    Answers(origin, true, *best).save(folder / ANSWERS_NAME)
    known = true >= 0
    result = EvalResult(
        seen=len(split),
        correct1=counter.total().correct,
        correct5=len(split),
        loss=1.0,
        confusion=counter.total(),
        class_names=[*names, *further],
        split="val",
        checkpoint_sha256=checkpoint.sha256,
        data_digest=dataset.digest,
        calibration=calibrate(logits[known], true[known], 1.3),
    )
    write_json(folder / RESULT_NAME, result.to_dict())
    job = EvaluateJob(checkpoint.path, checkpoint.sha256, data_dir.resolve(), "val", labels)
    write_job_file(job, folder)
    return folder


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.costly
def test_all_files_tell_the_same(tmp_path: Path, data_dir: Path) -> None:
    folder = evaluated(tmp_path / "e", data_dir)
    report = report_evaluation(folder, STORAGE)
    evaluation = Evaluation.of_folder(folder)
    result, answers = evaluation.result, evaluation.answers

    per_class = rows(folder / "per_class.csv")
    assert [row["class"] for row in per_class] == [*NAMES, "macro average", "weighted average"]
    assert [int(row["images"]) for row in per_class] == [4, 4, 4, 12, 12]
    assert float(per_class[-1]["recall"]) == pytest.approx(result.top1)
    confusion = rows(folder / "confusion.csv")
    assert sum(int(row["images"]) for row in confusion) == 12
    right = [int(row["images"]) for row in confusion if row["true"] == row["answer"]]
    assert sum(right) == result.correct1

    mistakes = rows(folder / "mistakes.csv")
    assert len(mistakes) == result.seen - result.correct1 > 2
    shares = [float(row["probability"]) for row in mistakes]
    assert shares == sorted(shares, reverse=True)
    for row in mistakes:
        assert row["path"].split("/")[-2] == row["true"] != row["answer"]
        assert (data_dir / row["path"]).exists()
        assert float(row["probability_2"]) <= float(row["probability"])

    table = pq.read_table(folder / "predictions.parquet")
    assert table["path"].to_pylist() == list(evaluation.split.paths)
    assert sum(table["right"].to_pylist()) == result.correct1
    assert table.schema.metadata[b"model_sha256"].decode() == result.checkpoint_sha256
    assert [row[0] for row in table["class_ids"].to_pylist()] == answers.answer.tolist()

    calibration = json.loads((folder / "calibration.json").read_text())
    assert calibration["temperature"] == 1.3
    assert calibration["after"]["ece"] == pytest.approx(result.calibration.after.ece)

    page = report.path.read_text()
    assert f"{result.top1:.2%}" in page and "Surest" not in page
    assert page.count('class="tile"') == len(mistakes) + min(18, 12)
    assert 'class="true">is <bdi>owl</bdi>' in page
    assert "Macro F1" in page and "macro average" in page
    assert set(chosen_pictures(evaluation)) == set(range(12))
    assert "http://" not in page and "https://" not in page


@pytest.mark.costly
def test_classes_that_are_called_otherwise_or_are_not_known(tmp_path: Path, data_dir: Path) -> None:
    """The model calls cats tigers, has a class more, and knows no owls."""
    names = ("lynx", "tiger", "dog")
    folder = evaluated(tmp_path / "e", data_dir, names=names, labels=(1, 2, UNKNOWN))
    report_evaluation(folder, STORAGE)
    found = {row["class"]: row for row in rows(folder / "per_class.csv")}
    assert found["owl"]["recall"] == "0.000000" and found["tiger"]["images"] == "4"
    table = pq.read_table(folder / "predictions.parquet").to_pylist()
    assert {row["true"] for row in table} == set(NAMES)
    called = {"cat": "tiger", "dog": "dog"}
    for row in table:
        assert row["right"] == (row["class_names"][0] == called.get(row["true"]))
    assert all(row["probability_of_true"] == 0 for row in table if row["true"] == "owl")


@pytest.mark.costly
def test_a_page_of_mistakes_only_and_of_none(tmp_path: Path, data_dir: Path) -> None:
    folder = evaluated(tmp_path / "e", data_dir)
    evaluation = Evaluation.of_folder(folder)
    right = np.repeat(evaluation.answers.true[:, None], 3, axis=1)
    origin = evaluation.answers.origin
    perfect = Answers(
        origin, right[:, 0], right, evaluation.answers.probs, evaluation.answers.of_true
    )
    perfect.save(folder / ANSWERS_NAME)
    page = report_evaluation(folder, STORAGE).path.read_text()
    assert "Every image got its own class." in page
    assert rows(folder / "mistakes.csv") == []


def test_what_is_no_evaluation_or_has_lost_its_data(
    tmp_path: Path, data_dir: Path, source_dir: Path
) -> None:
    with pytest.raises(DataError, match="does not exist"):
        report_evaluation(tmp_path, STORAGE)
    folder = evaluated(tmp_path / "e", data_dir)
    (folder / ANSWERS_NAME).unlink()
    with pytest.raises(DataError, match="evaluate again"):
        report_evaluation(folder, STORAGE)
