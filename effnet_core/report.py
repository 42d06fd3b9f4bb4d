"""What a pipeline run did, as one HTML file that needs nothing else: all pictures are inside.

This module decides what is shown and how much of it; ``templates/report.html.j2`` decides how.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core import plots
from effnet_core.gallery import Selection
from effnet_core.input_sources import Source
from effnet_core.pages import NO_VALUE, Card, Chart, draw_chart, format_share, write_page
from effnet_core.predictions import Reasons
from effnet_core.results import EvalResult

TEMPLATE_NAME = "report.html.j2"
MAX_CLASS_ROWS = 50
MAX_CONFUSIONS = 12
MAX_REJECTED = 50
MAX_REASONS = 6


@dataclass(frozen=True)
class ReportInputs:
    """Everything that a report shows."""

    title: str
    """Such as "efficientnet_b0 on digits"."""
    facts: dict[str, str]
    """Short facts by name, shown under the title."""
    stages: dict[str, float]
    """Seconds of each stage, in order."""
    metrics: list[dict[str, Any]]
    """Rows of ``metrics.jsonl``."""
    evaluation: EvalResult
    selection: Selection
    """Of the predictions, counted and chosen one by one."""
    rejected: Rejected
    source: Source
    """What reads the predictions' paths."""
    config_yaml: str


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
    """Of the images of the class."""


def write_report(path: Path, inputs: ReportInputs) -> Path:
    """Write the report of a run as one self-contained HTML file, atomically.

    Returns:
        ``path``.
    """
    return write_page(path, TEMPLATE_NAME, _describe_page(inputs))


def _describe_page(inputs: ReportInputs) -> dict[str, Any]:
    evaluation = inputs.evaluation
    rows = _rate_classes(evaluation)
    confusions = evaluation.confusion.mistakes()
    selection = inputs.selection
    groups, gallery_note = selection.groups(inputs.source)
    return {
        "title": inputs.title,
        "facts": inputs.facts,
        "cards": list(_make_cards(inputs)),
        "curves": list(_draw_curves(inputs.metrics)),
        "evaluation": evaluation,
        "matrix": _draw_matrix(evaluation),
        "matrix_classes": len(plots.select_matrix_classes(evaluation.confusion)),
        "classes": evaluation.confusion.classes,
        "class_rows": rows[:MAX_CLASS_ROWS],
        "confusions": [_describe_confusion(evaluation, *c) for c in confusions[:MAX_CONFUSIONS]],
        "pairs_left_out": len(confusions[MAX_CONFUSIONS:]),
        "images_left_out": sum(images for _, _, images in confusions[MAX_CONFUSIONS:]),
        "groups": groups,
        "gallery_note": gallery_note,
        "uncertain": selection.uncertain(inputs.source),
        "labelled": selection.labelled,
        "stages": inputs.stages,
        **describe_rejected(inputs.rejected),
        "config_yaml": inputs.config_yaml,
    }


@dataclass(frozen=True)
class Rejected:
    """Files without an answer: some of them, and how often which reason."""

    count: int
    samples: tuple[dict[str, Any], ...]
    """Path and reason of the first ones."""
    reasons: tuple[tuple[str, int], ...]
    """The most frequent reasons."""

    @classmethod
    def of(cls, rows: Iterable[dict[str, Any]]) -> Rejected:
        """What is kept of rows with ``path`` and ``reason``; its size does not grow with them."""
        samples: list[dict[str, Any]] = []
        reasons = Reasons()
        for row in rows:
            reasons.add(str(row["reason"]))
            if len(samples) < MAX_REJECTED:
                samples.append(row)
        return cls(reasons.total, tuple(samples), tuple(reasons.most_common(MAX_REASONS)))


def describe_rejected(rejected: Rejected) -> dict[str, Any]:
    """What the section "set aside" shows of files without an answer."""
    return {
        "rejected": rejected.samples,
        "rejected_count": rejected.count,
        "reasons": rejected.reasons,
    }


def _make_cards(inputs: ReportInputs) -> Iterator[Card]:
    result = inputs.evaluation
    where = f" of {result.split}" if result.split else ""
    top1 = result.top1 if result.seen else None
    note = f"{result.correct1:,} of {result.seen:,} images{where} right"
    yield Card("Top-1 accuracy", format_share(top1, 2), note)
    top5 = result.top5 if result.seen else None
    note = "needs five classes or more" if top5 is None else "right class among the best five"
    yield Card("Top-5 accuracy", format_share(top5, 2), note)
    speed, note = _measure_speed(inputs)
    yield Card("Images per second", NO_VALUE if speed is None else f"{speed:,.1f}", note)
    aside = inputs.rejected.count
    note = f"{aside:,} file{'' if aside == 1 else 's'} set aside" if aside else "no file set aside"
    yield Card("Images labelled", f"{inputs.selection.labelled:,}", note)


def _measure_speed(inputs: ReportInputs) -> tuple[float | None, str]:
    """Images a second and what they were measured in."""
    speeds = plots.select_points(inputs.metrics, "train", x="step", y="images_per_s")
    if speeds:  # the first value holds the compilation
        return statistics.median(y for _, y in speeds[1:] or speeds), "in training, median"
    result = inputs.evaluation
    if result.seen and result.seconds > 0:
        return result.seen / result.seconds, "in evaluation"
    return None, "not measured"


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
