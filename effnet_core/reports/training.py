"""What a training did and how its model fares on each class: a page of its own, and part of a pipeline's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.jobs.job import METRICS_NAME
from effnet_core.render import plots
from effnet_core.render.pages import Card, Chart, draw_chart, write_page
from effnet_core.results import EvalResult, TrainResult
from effnet_core.system.files import read_jsonl
from effnet_core.text import NO_VALUE, format_seconds, format_share

TEMPLATE_NAME = "training.html.j2"
REPORT_NAME = "report.html"
MAX_CLASS_ROWS = 50
MAX_CONFUSIONS = 12


@dataclass(frozen=True)
class ClassRow:
    """How one class fared in the evaluation."""

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Confused:
    """A class and a wrong answer that its images were given."""

    name: str
    answer: str
    images: int
    share: float
    """Share of the images of the class."""


def write_training_report(run_dir: Path, result: TrainResult, *, data: str) -> Path:
    """Write ``report.html`` into the folder of a finished training, atomically.

    Args:
        run_dir: the run.
        result: its answer.
        data: what the pictures are called.

    Returns:
        The page.
    """
    path, config = run_dir / CONFIG_NAME, read_config(run_dir / CONFIG_NAME)
    found, metrics = result.evaluation, read_jsonl(run_dir / METRICS_NAME)
    probe = NO_VALUE if result.probe_top1 is None else format_share(result.probe_top1, 2)
    values = {
        "title": f"{config.model.variant} on {data}",
        "facts": {"run": str(run_dir), "model": str(result.checkpoint), "pictures": data},
        "cards": [
            Card(
                "Top-1 accuracy",
                format_share(found.top1, 2),
                f"{found.correct1:,} of {found.seen:,} images of {found.split} right",
            ),
            Card("Top-5 accuracy", format_share(found.top5, 2), "right class among the best five"),
            Card("Probe", probe, "a classifier on the weights' features, before training"),
            Card("Training", format_seconds(result.seconds), f"{result.steps:,} steps"),
        ],
        **describe_training(found, metrics),
        "config_yaml": path.read_text(encoding="utf-8"),
    }
    return write_page(run_dir / REPORT_NAME, TEMPLATE_NAME, values)


def describe_training(evaluation: EvalResult, metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """What the sections "training" and "classes" of a page show.

    Args:
        evaluation: of the finished model.
        metrics: rows of ``metrics.jsonl``.
    """
    rows, confusions = _rate_classes(evaluation), evaluation.confusion.mistakes()
    return {
        "curves": list(_draw_curves(metrics)),
        "evaluation": evaluation,
        "matrix": _draw_matrix(evaluation),
        "matrix_classes": len(plots.select_matrix_classes(evaluation.confusion)),
        "classes": evaluation.confusion.classes,
        "class_rows": rows[:MAX_CLASS_ROWS],
        "confusions": [_describe_confusion(evaluation, *c) for c in confusions[:MAX_CONFUSIONS]],
        "pairs_left_out": len(confusions[MAX_CONFUSIONS:]),
        "images_left_out": sum(images for _, _, images in confusions[MAX_CONFUSIONS:]),
    }


def _draw_curves(metrics: list[dict[str, Any]]) -> Iterator[Chart]:
    select = plots.select_points
    losses = select(metrics, "train", x="step", y="loss")
    evaluated = select(metrics, "eval", x="step", y="loss")
    if losses or evaluated:
        alt = f"{_tell_range('Training loss', losses)} {_tell_range('Validation loss', evaluated)}"
        yield draw_chart("Loss", alt, plots.loss_curve, metrics)
    top1 = select(metrics, "eval", x="epoch", y="top1")
    if top1:
        alt = _tell_range("Top-1 accuracy", top1, unit="epoch", form="{:.2%}")
        yield draw_chart("Accuracy", alt, plots.accuracy_curve, metrics)
    rates = select(metrics, "train", x="step", y="lr")
    if rates:
        alt = f"Learning rate of each step, at most {max(y for _, y in rates):.3g}."
        yield draw_chart("Learning rate", alt, plots.learning_rate_curve, metrics)


def _tell_range(
    what: str, points: plots.Points, *, unit: str = "step", form: str = "{:.3f}"
) -> str:
    if not points:
        return ""
    (start, first), (end, last) = points[0], points[-1]
    return (
        f"{what}: {form.format(first)} at {unit} {start:g}, {form.format(last)} at {unit} {end:g}."
    )


def _draw_matrix(evaluation: EvalResult) -> Chart | None:
    if not evaluation.confusion:
        return None
    alt = (
        f"Confusion matrix of {evaluation.confusion.classes} classes: "
        f"{evaluation.correct1} of {evaluation.seen} images lie on the diagonal."
    )
    return draw_chart(
        "Confusion matrix",
        alt,
        plots.confusion_matrix,
        evaluation.confusion,
        evaluation.class_names,
    )


def _rate_classes(evaluation: EvalResult) -> list[ClassRow]:
    """Every class in order; of many classes, those with the lowest recall first."""
    confusion = evaluation.confusion
    columns = (confusion.by_true(), confusion.by_answer(), confusion.right())
    rows = []
    for index, (images, answers, right) in enumerate(zip(*map(list, columns), strict=True)):
        recall = int(right) / int(images) if images else None
        precision = int(right) / int(answers) if answers else None
        rows.append(ClassRow(evaluation.class_names[index], int(images), recall, precision))
    if len(rows) > MAX_CLASS_ROWS:
        rows.sort(key=lambda row: (2.0 if row.recall is None else row.recall, -row.images))
    return rows


def _describe_confusion(evaluation: EvalResult, true: int, answer: int, images: int) -> Confused:
    names = evaluation.class_names
    share = images / int(evaluation.confusion.by_true()[true])
    return Confused(names[true], names[answer], images, share)
