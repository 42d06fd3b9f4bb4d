"""An evaluation as files for programs and a page for people.

FOLDER/
  per_class.csv        precision, recall, F1 and images of each class, and their averages
  confusion.csv        true class, answer, images: every pair that happened
  mistakes.csv         path, true class, answer and the best five, the surest mistake first
  predictions.parquet  every image
  calibration.json     how honest the probabilities are
  report.html          the same to look at
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from effnet_core.config.schema import StorageConfig
from effnet_core.data.imagenet import readable
from effnet_core.data.manifest import Dataset, Split, open_dataset
from effnet_core.errors import DataError
from effnet_core.infer.parts import as_cell
from effnet_core.infer.readers import open_reader
from effnet_core.jobs.job import RESULT_NAME, EvaluateJob, TrainJob, read_job
from effnet_core.quality.heat import as_address, explain_pictures
from effnet_core.render import plots
from effnet_core.render.pages import Card, Chart, draw_chart, write_page
from effnet_core.render.quality import reliability_diagram
from effnet_core.reports.gallery import Picture, read_picture
from effnet_core.results import EvalResult, TrainResult
from effnet_core.results.answers import ANSWERS_NAME, Answers
from effnet_core.results.per_class import PerClass
from effnet_core.system.files import atomic_path, write_json
from effnet_core.text import format_share
from effnet_core.weights.checkpoint import MODEL_NAME, Checkpoint, Sidecar, opened_before

REPORT_NAME = "report.html"
PER_CLASS_NAME = "per_class.csv"
CONFUSION_NAME = "confusion.csv"
MISTAKES_NAME = "mistakes.csv"
PREDICTIONS_NAME = "predictions.parquet"
CALIBRATION_NAME = "calibration.json"
TEMPLATE_NAME = "evaluation.html.j2"
MAX_CLASS_ROWS = 25
MAX_CONFUSIONS = 15
MAX_MISTAKES = 36
MAX_UNSURE = 18


@dataclass(frozen=True)
class Evaluation:
    """Everything that is known of an evaluation."""

    result: EvalResult
    answers: Answers
    checkpoint: Checkpoint
    dataset: Dataset
    split: Split

    @classmethod
    def of_folder(cls, folder: Path) -> Evaluation:
        """The evaluation in the folder of an evaluation or of a finished training.

        Raises:
            DataError: there is none, or its data set is not there any more.
            CheckpointError: its checkpoint is not there any more.
        """
        job = read_job(folder)
        if isinstance(job, EvaluateJob):
            checkpoint = opened_before(job.checkpoint, job.checkpoint_sha256)
            result = EvalResult.read(folder / RESULT_NAME)
        elif isinstance(job, TrainJob):
            checkpoint = opened_before(folder / MODEL_NAME, None)
            result = TrainResult.read(folder / RESULT_NAME).evaluation
        else:
            raise DataError(f"{folder} holds no evaluation and no training run")
        dataset = open_dataset(job.data_dir)
        if dataset.digest != result.data_digest:
            raise DataError(
                f"the data set in {job.data_dir} was changed since {folder} was evaluated"
            )
        answers = Answers.read(folder / ANSWERS_NAME)
        return cls(result, answers, checkpoint, dataset, dataset.split(result.split))

    @property
    def sidecar(self) -> Sidecar:
        """Of the model."""
        return self.checkpoint.sidecar

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the model's classes and, after these, of those that only the data set has."""
        own = readable(self.sidecar.class_names)
        return (*own, *self.result.class_names[len(own) :])

    @cached_property
    def true_names(self) -> list[str]:
        """The data set's class of each image."""
        names = readable(self.dataset.class_names)
        return [names[label] for label in self.split.labels]

    @cached_property
    def per_class(self) -> PerClass:
        """Precision, recall and F1."""
        return PerClass.of(self.result.confusion)

    @cached_property
    def mistakes(self) -> list[int]:
        """Images that got a wrong answer, the surest mistake first."""
        wrong = np.flatnonzero(~self.answers.right)
        order = np.argsort(-self.answers.probs[wrong, 0], kind="stable")
        return [int(i) for i in wrong[order]]

    @cached_property
    def unsure(self) -> list[int]:
        """Images by the probability of their answer, the least certain first."""
        return [int(i) for i in np.argsort(self.answers.probs[:, 0], kind="stable")]

    def best(self, index: int) -> list[tuple[str, float]]:
        """The best classes of an image and their probabilities."""
        classes, probs = self.answers.classes[index], self.answers.probs[index]
        return [(self.names[c], float(p)) for c, p in zip(classes, probs, strict=True)]


@dataclass(frozen=True)
class EvaluationReport:
    """What was written."""

    path: Path
    mistakes: list[Picture]
    """Those of the gallery."""


@dataclass(frozen=True)
class Judged:
    """A picture and what it is."""

    picture: Picture
    true: str


def report_evaluation(folder: Path, storage: StorageConfig) -> EvaluationReport:
    """Write all files of the evaluation in a folder into it.

    Raises:
        DataError: there is none, or its data set is not there any more.
    """
    evaluation = Evaluation.of_folder(folder)
    return write_evaluation(folder, evaluation, storage=storage, heat=explain(evaluation, storage))


def explain(evaluation: Evaluation, storage: StorageConfig) -> dict[int, str]:
    """What spoke for the answer in each picture that the page shows, by image."""
    source = open_reader(str(evaluation.split.root), storage)
    chosen = {evaluation.split.paths[i]: i for i in chosen_pictures(evaluation)}
    wanted = [(path, int(evaluation.answers.answer[i])) for path, i in chosen.items()]
    found = explain_pictures(evaluation.checkpoint, source, wanted)
    return {chosen[path]: as_address(picture) for path, picture in found.items()}


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    *,
    storage: StorageConfig,
    heat: dict[int, str] | None = None,
) -> EvaluationReport:
    """Write all files of an evaluation.

    Args:
        folder: is there.
        evaluation: what is shown.
        storage: how the pictures are read.
        heat: pictures with class activation maps, as addresses for a page, by image.
    """
    _write_per_class(folder / PER_CLASS_NAME, evaluation)
    _write_confusion(folder / CONFUSION_NAME, evaluation)
    _write_mistakes(folder / MISTAKES_NAME, evaluation)
    _write_predictions(folder / PREDICTIONS_NAME, evaluation)
    calibration = evaluation.result.calibration
    write_json(folder / CALIBRATION_NAME, calibration.to_dict() if calibration else None)
    return write_report(folder / REPORT_NAME, evaluation, storage=storage, heat=heat or {})


def chosen_pictures(evaluation: Evaluation) -> list[int]:
    """The images that the page shows."""
    return [*dict.fromkeys([*evaluation.mistakes[:MAX_MISTAKES], *evaluation.unsure[:MAX_UNSURE]])]


def write_report(
    path: Path, evaluation: Evaluation, *, storage: StorageConfig, heat: dict[int, str]
) -> EvaluationReport:
    """Write the page."""
    result, figures = evaluation.result, evaluation.per_class
    mistakes = _judge(evaluation, evaluation.mistakes[:MAX_MISTAKES], storage, heat)
    confusions = result.confusion.mistakes()
    by_true = result.confusion.by_true()
    page = {
        "title": f"{evaluation.sidecar.variant} on {result.split} of {evaluation.dataset.root.name}",
        "facts": {
            "model": f"{evaluation.sidecar.variant}, {evaluation.sidecar.num_classes:,} classes",
            "digest": result.checkpoint_sha256[:12],
            "data": f"{evaluation.dataset.root} ({result.data_digest[:12]})",
            "input": f"{evaluation.answers.origin.image_size} px",
        },
        "cards": _make_cards(evaluation),
        "result": result,
        "matrix": _draw_matrix(evaluation),
        "matrix_classes": len(plots.select_matrix_classes(_shown(evaluation)[0])),
        "present": int((figures.images > 0).sum()),
        "confusions": [
            (evaluation.names[true], evaluation.names[answer], images, images / int(by_true[true]))
            for true, answer, images in confusions[:MAX_CONFUSIONS]
        ],
        "worst": [
            (
                evaluation.names[i],
                int(figures.images[i]),
                *(_value(column[i]) for column in (figures.precision, figures.recall, figures.f1)),
            )
            for i in figures.worst(MAX_CLASS_ROWS)
        ],
        "averages": [
            (name, values.precision, values.recall, values.f1)
            for name, values in (
                ("macro average", figures.macro()),
                ("weighted average", figures.weighted()),
            )
        ],
        "mistakes": mistakes,
        "mistakes_count": len(evaluation.mistakes),
        "unsure": _judge(evaluation, evaluation.unsure[:MAX_UNSURE], storage, heat),
        "reliability": draw_reliability(result),
        "calibration": result.calibration,
        "heat": bool(heat),
    }
    written = write_page(path, TEMPLATE_NAME, page)
    return EvaluationReport(written, [judged.picture for judged in mistakes])


def draw_reliability(result: EvalResult) -> Chart | None:
    """The reliability diagram, before and after calibration."""
    found = result.calibration
    if found is None:
        return None
    before, after = ([(x, y) for x, y, _ in part.points()] for part in (found.before, found.after))
    is_calibrated = found.temperature != 1.0
    alt = f"Expected calibration error {found.before.ece:.2%}" + (
        f" before calibration, {found.after.ece:.2%} after." if is_calibrated else "."
    )
    return draw_chart(
        "How often the model is right, by how sure it is",
        alt,
        reliability_diagram,
        before,
        after if is_calibrated else [],
        found.after.images,
    )


def _shown(evaluation: Evaluation) -> tuple[Any, list[str]]:
    """The confusion matrix and names of the classes that have images or answers."""
    confusion = evaluation.result.confusion
    if confusion.classes <= plots.MAX_MATRIX_CLASSES:
        return confusion, list(evaluation.names)
    used = np.flatnonzero(confusion.by_true() + confusion.by_answer() > 0)
    if len(used) > plots.MAX_MATRIX_CLASSES:
        return confusion, list(evaluation.names)
    return confusion.of_classes(used), [evaluation.names[i] for i in used]


def _draw_matrix(evaluation: Evaluation) -> Chart | None:
    confusion, names = _shown(evaluation)
    if not confusion:
        return None
    result = evaluation.result
    alt = f"Confusion matrix: {result.correct1} of {result.seen} images lie on the diagonal."
    return draw_chart("Confusion matrix", alt, plots.confusion_matrix, confusion, names)


def _make_cards(evaluation: Evaluation) -> list[Card]:
    result, macro = evaluation.result, evaluation.per_class.macro()
    wrong = result.seen - result.correct1
    top5 = format_share(result.top5, 2)
    cards = [
        Card("Top-1 accuracy", f"{result.top1:.2%}", f"{wrong:,} of {result.seen:,} images wrong"),
        Card("Top-5 accuracy", top5, "" if result.top5 is not None else "needs five classes"),
        Card("Macro F1", f"{macro.f1:.2%}", "every class counts the same"),
    ]
    found = result.calibration
    if found is not None:
        note = "certainty and accuracy apart"
        if found.temperature != 1.0:
            note = f"{found.before.ece:.2%} before calibration (temperature {found.temperature:g})"
        cards.append(Card("Calibration error", f"{found.after.ece:.2%}", note))
    return cards


def _judge(
    evaluation: Evaluation, chosen: Sequence[int], storage: StorageConfig, heat: dict[int, str]
) -> list[Judged]:
    """Pictures with their answers and true classes."""
    source = open_reader(str(evaluation.split.root), storage)
    background = evaluation.sidecar.preprocess.background
    found = []
    for index in chosen:
        names, probs = zip(*evaluation.best(index), strict=True)
        row = {"path": evaluation.split.paths[index], "class_names": names, "probs": probs}
        picture = replace(read_picture(row, source, background), heat=heat.get(index, ""))
        found.append(Judged(picture, evaluation.true_names[index]))
    return found


def _value(number: float) -> float | None:
    return None if np.isnan(number) else float(number)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with (
        atomic_path(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(header)
        for row in rows:
            writer.writerow([as_cell(cell) if isinstance(cell, str) else cell for cell in row])


def _write_per_class(path: Path, evaluation: Evaluation) -> None:
    figures = evaluation.per_class
    used = np.flatnonzero(figures.images + evaluation.result.confusion.by_answer() > 0)
    rows: list[tuple[Any, ...]] = [
        (
            evaluation.names[i],
            *(_digits(column[i]) for column in (figures.precision, figures.recall, figures.f1)),
            int(figures.images[i]),
        )
        for i in used
    ]
    for name, values in (
        ("macro average", figures.macro()),
        ("weighted average", figures.weighted()),
    ):
        parts = (values.precision, values.recall, values.f1)
        rows.append((name, *map(_digits, parts), evaluation.result.seen))
    _write_csv(path, ("class", "precision", "recall", "f1", "images"), rows)


def _digits(number: float) -> str:
    return "" if np.isnan(number) else f"{number:.6f}"


def _write_confusion(path: Path, evaluation: Evaluation) -> None:
    confusion, names = evaluation.result.confusion, evaluation.names
    rows = zip(
        (names[i] for i in confusion.true),
        (names[i] for i in confusion.answer),
        confusion.images.tolist(),
        strict=True,
    )
    _write_csv(path, ("true", "answer", "images"), rows)


def _write_mistakes(path: Path, evaluation: Evaluation) -> None:
    kept = evaluation.answers.classes.shape[1]
    header = ["path", "true", "answer", "probability", "probability_of_true"]
    header += [
        f"{kind}_{place}" for place in range(2, kept + 1) for kind in ("answer", "probability")
    ]

    def rows() -> Iterable[list[Any]]:
        for index in evaluation.mistakes:
            best = evaluation.best(index)
            row: list[Any] = [evaluation.split.paths[index], evaluation.true_names[index]]
            row += [best[0][0], f"{best[0][1]:.6f}", f"{evaluation.answers.of_true[index]:.6f}"]
            for name, share in best[1:]:
                row += [name, f"{share:.6f}"]
            yield row

    _write_csv(path, header, rows())


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Every image, in the order of the data set, with the columns of a labelling and the true class."""
    answers, names = evaluation.answers, evaluation.names
    columns = {
        "image_id": pa.array(evaluation.split.image_ids, pa.string()),
        "path": pa.array(evaluation.split.paths, pa.string()),
        "true": pa.array(evaluation.true_names, pa.string()),
        "right": pa.array(answers.right),
        "class_ids": pa.array(answers.classes.tolist(), pa.list_(pa.int32())),
        "class_names": pa.array(
            [[names[i] for i in row] for row in answers.classes], pa.list_(pa.string())
        ),
        "probs": pa.array(answers.probs.tolist(), pa.list_(pa.float32())),
        "probability_of_true": pa.array(answers.of_true, pa.float32()),
    }
    facts = {
        "model_sha256": answers.origin.checkpoint_sha256,
        "data_digest": answers.origin.data_digest,
        "split": json.dumps(answers.origin.split),
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns).replace_schema_metadata(facts), temporary)
