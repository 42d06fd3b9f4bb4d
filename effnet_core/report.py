"""What a pipeline run did, as one HTML file that needs nothing else: all pictures are inside.

This module decides what is shown and how much of it; ``templates/report.html.j2`` decides how.
"""

from __future__ import annotations

import base64
import heapq
import io
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from effnet_core import plots
from effnet_core.data.images import ImageProblem, read_image, to_rgb
from effnet_core.files import write_text
from effnet_core.results import EvalResult

NO_VALUE = "\N{EN DASH}"
TEMPLATE_NAME = "report.html.j2"
MAX_PICTURES = 60
"""Pictures in the gallery by class, all classes together."""
MAX_PICTURES_PER_CLASS = 6
MAX_UNCERTAIN = 24
MAX_ANSWERS = 3
"""Classes listed for one picture."""
MAX_CLASS_ROWS = 50
MAX_CONFUSIONS = 12
MAX_REJECTED = 50
MAX_REASONS = 6
THUMBNAIL_PX = 192
PIXELATED_PX = 64
"""Pictures up to this side are shown enlarged, pixel by pixel."""


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
    predictions: list[dict[str, Any]]
    """Rows as ``predictions.read_parts`` gives them."""
    rejected: list[dict[str, str]]
    """Path and reason of files without an answer."""
    input_root: Path
    """Folder that the predictions' paths are relative to."""
    config_yaml: str


@dataclass(frozen=True)
class Card:
    """A headline number."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class Chart:
    """A picture of numbers, drawn twice."""

    title: str
    alt: str
    light: str
    dark: str
    width: int
    height: int


@dataclass(frozen=True)
class Picture:
    """A labelled image."""

    path: str
    answers: list[tuple[str, float]]
    """Class names and probabilities, best first."""
    uri: str = ""
    """Empty where the file cannot be read."""
    problem: str = ""
    pixelated: bool = False

    @property
    def title(self) -> str:
        """Path and probabilities, a line each."""
        return "\n".join([self.path, *(f"{name} {prob:.1%}" for name, prob in self.answers)])


@dataclass(frozen=True)
class Group:
    """Pictures of one predicted class."""

    name: str
    count: int
    """Images that got this class, shown or not."""
    pictures: list[Picture]


@dataclass(frozen=True)
class ClassRow:
    """How one class fared in the evaluation."""

    name: str
    images: int
    recall: float | None
    precision: float | None


@dataclass(frozen=True)
class Confusion:
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
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(share=format_share, seconds=format_seconds, number="{:,}".format)
    page = environment.get_template(TEMPLATE_NAME).render(_describe_page(inputs))
    # File names may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
    write_text(path, page.encode("utf-8", "backslashreplace").decode("utf-8"))
    return path


def format_share(value: float | None, digits: int = 1) -> str:
    """A ratio as percent; a dash where there is none."""
    return NO_VALUE if value is None else f"{value:.{digits}%}"


def format_seconds(seconds: float) -> str:
    """A duration for people, such as ``2 min 05 s``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _describe_page(inputs: ReportInputs) -> dict[str, Any]:
    evaluation = inputs.evaluation
    rows = _rate_classes(evaluation)
    confusions = plots.rank_confusions(evaluation.confusion)
    groups, gallery_note = _select_gallery(inputs)
    uncertain = heapq.nsmallest(MAX_UNCERTAIN, inputs.predictions, key=lambda row: row["probs"][0])
    return {
        "title": inputs.title,
        "facts": inputs.facts,
        "cards": list(_make_cards(inputs)),
        "curves": list(_draw_curves(inputs.metrics)),
        "evaluation": evaluation,
        "matrix": _draw_matrix(evaluation),
        "matrix_classes": len(plots.select_matrix_classes(evaluation.confusion)),
        "classes": len(evaluation.confusion),
        "class_rows": rows[:MAX_CLASS_ROWS],
        "confusions": [_describe_confusion(evaluation, *c) for c in confusions[:MAX_CONFUSIONS]],
        "confusions_left_out": confusions[MAX_CONFUSIONS:],
        "groups": groups,
        "gallery_note": gallery_note,
        "uncertain": [_read_picture(row, inputs.input_root) for row in uncertain],
        "labelled": len(inputs.predictions),
        "stages": inputs.stages,
        "rejected": inputs.rejected[:MAX_REJECTED],
        "rejected_count": len(inputs.rejected),
        "reasons": Counter(row["reason"] for row in inputs.rejected).most_common(MAX_REASONS),
        "config_yaml": inputs.config_yaml,
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
    aside = len(inputs.rejected)
    note = f"{aside:,} file{'' if aside == 1 else 's'} set aside" if aside else "no file set aside"
    yield Card("Images labelled", f"{len(inputs.predictions):,}", note)


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
        yield _draw_chart("Loss", alt, plots.loss_curve, metrics)
    top1 = select(metrics, "eval", x="epoch", y="top1")
    if top1:
        alt = _tell_range("Top-1 accuracy", top1, unit="epoch", form="{:.2%}")
        yield _draw_chart("Accuracy", alt, plots.accuracy_curve, metrics)
    rates = select(metrics, "train", x="step", y="lr")
    if rates:
        alt = f"Learning rate of each step, at most {max(y for _, y in rates):.3g}."
        yield _draw_chart("Learning rate", alt, plots.learning_rate_curve, metrics)


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
        f"Confusion matrix of {len(evaluation.confusion)} classes: "
        f"{evaluation.correct1} of {evaluation.seen} images lie on the diagonal."
    )
    return _draw_chart(
        "Confusion matrix",
        alt,
        plots.confusion_matrix,
        evaluation.confusion,
        evaluation.class_names,
    )


def _draw_chart(title: str, alt: str, draw: Callable[..., bytes], *values: Any) -> Chart:
    light, dark = (draw(*values, theme=theme) for theme in (plots.LIGHT, plots.DARK))
    with Image.open(io.BytesIO(light)) as image:
        width, height = (round(side * 96 / plots.DPI) for side in image.size)
    uris = plots.png_data_uri(light), plots.png_data_uri(dark)
    return Chart(title, alt.strip(), *uris, width, height)


def _rate_classes(evaluation: EvalResult) -> list[ClassRow]:
    """Every class in order; of many classes, those with the lowest recall first."""
    counts = evaluation.confusion
    predicted = [sum(column) for column in zip(*counts, strict=True)]
    rows = []
    for index, row in enumerate(counts):
        images, right = sum(row), row[index]
        recall = right / images if images else None
        precision = right / predicted[index] if predicted[index] else None
        rows.append(ClassRow(evaluation.class_names[index], images, recall, precision))
    if len(rows) > MAX_CLASS_ROWS:
        rows.sort(key=lambda row: (2.0 if row.recall is None else row.recall, -row.images))
    return rows


def _describe_confusion(evaluation: EvalResult, true: int, answer: int, images: int) -> Confusion:
    names = evaluation.class_names
    return Confusion(names[true], names[answer], images, images / sum(evaluation.confusion[true]))


def _select_gallery(inputs: ReportInputs) -> tuple[list[Group], str]:
    """Pictures of each predicted class, spread evenly over the input, and what was left out."""
    found: dict[int, list[dict[str, Any]]] = {}
    for row in inputs.predictions:
        found.setdefault(row["class_ids"][0], []).append(row)
    most = sorted(found, key=lambda index: (-len(found[index]), index))[:MAX_PICTURES]
    each = min(MAX_PICTURES_PER_CLASS, MAX_PICTURES // max(1, len(most)))
    groups = []
    for index in sorted(most):
        rows = found[index]
        shown = [_read_picture(row, inputs.input_root) for row in _spread(rows, each)]
        groups.append(Group(rows[0]["class_names"][0], len(rows), shown))
    shown_count = sum(len(group.pictures) for group in groups)
    note = f"{shown_count:,} of {len(inputs.predictions):,} images, at most {each} of a class"
    if len(most) < len(found):
        note += f"; the {len(most)} most frequent of {len(found):,} classes that were given"
    return groups, note + "."


def _spread(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """At most ``count`` rows at even distances."""
    count = min(count, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def _read_picture(row: dict[str, Any], root: Path) -> Picture:
    """A row with its thumbnail; one that cannot be read must not cost the report."""
    answers = list(zip(row["class_names"], row["probs"], strict=True))[:MAX_ANSWERS]
    try:
        image = to_rgb(read_image(root / row["path"]))
    except ImageProblem as problem:
        return Picture(row["path"], answers, problem=str(problem))
    except Exception as error:  # a strange path or strange metadata
        return Picture(row["path"], answers, problem=" ".join(str(error).split()))
    pixelated = max(image.size) <= PIXELATED_PX
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    image.save(stream, format="WEBP", lossless=pixelated, quality=80)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(row["path"], answers, uri=uri, pixelated=pixelated)
