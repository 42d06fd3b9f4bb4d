"""Charts of a run as PNG bytes, in light and dark, in colours that colour-blind people tell apart.

Figures are made through matplotlib's objects, never through ``pyplot``, whose state is shared by
all threads of a process. It is imported where something is drawn: most commands draw nothing, and it
takes longer than all else that they import.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnet_core.results.confusion import Confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

DPI = 160
CURVE_INCHES = (4.0, 2.9)
OUTLIER = 2.0
"""A validation loss above the highest training loss times this leaves the picture."""
MAX_MARKED_POINTS = 40
"""Lines with more points than this are drawn without markers."""
MAX_NUMBERED_CLASSES = 20
"""A confusion matrix of more classes has no numbers in its cells."""
MAX_MATRIX_CLASSES = 40
"""A confusion matrix of more classes shows only those that are confused most."""
MAX_BARS = 10
"""A chart of more classes shows the most frequent ones."""
MAX_LABEL_CHARACTERS = 20
INCHES_PER_CHARACTER = 0.08
"""Height of a label's font, roughly."""

FALLBACK_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Microsoft YaHei",
    "PingFang SC",
    "Arial Unicode MS",
)
"""Fonts for class names that DejaVu Sans cannot write, used where they are installed."""

Metrics = Sequence[dict[str, Any]]
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Theme:
    """Colours of one chart; the series are from Okabe and Ito's palette."""

    surface: str
    ink: str
    muted: str
    grid: str
    first: str
    second: str
    ramp: tuple[str, ...]
    """From no share to the whole."""
    ink_on_ramp: tuple[str, str]
    """Text on the lower and on the upper part of the ramp."""


LIGHT = Theme(
    surface="#ffffff",
    ink="#1b2430",
    muted="#5b6676",
    grid="#e3e7ec",
    first="#0072b2",
    second="#d55e00",
    ramp=("#ffffff", "#cfe3f2", "#6aaed6", "#0072b2", "#003a63"),
    ink_on_ramp=("#1b2430", "#ffffff"),
)
DARK = Theme(
    surface="#171d26",
    ink="#e6ebf2",
    muted="#9aa7b8",
    grid="#2b3441",
    first="#56b4e9",
    second="#e69f00",
    ramp=("#171d26", "#173a57", "#1f6ea3", "#56b4e9", "#d3ecfb"),
    ink_on_ramp=("#e6ebf2", "#0d1218"),
)


def loss_curve(metrics: Metrics, *, theme: Theme = LIGHT) -> bytes:
    """PNG of training and validation loss over the steps of a run."""
    figure, axes = create_axes(theme, "step (optimizer updates)", "loss (cross-entropy, nats)")
    logged = select_points(metrics, "train", x="step", y="loss")
    axes.plot(*_columns(logged), color=theme.first, alpha=0.3, linewidth=1)
    means = _last_of_epochs(metrics)
    draw_line(axes, means, color=theme.first, label="training, mean of the epoch")
    evaluated = select_points(metrics, "eval", x="step", y="loss")
    top = OUTLIER * max((loss for _, loss in (*logged, *means)), default=math.inf)
    higher = any(loss > top for _, loss in evaluated)
    label = "validation, partly higher" if higher else "validation"
    draw_line(axes, evaluated, color=theme.second, label=label, marker="s")
    if higher:  # one evaluation of weights that are not there yet must not flatten all the rest
        axes.set_ylim(top=top)
    return finish_curve(figure, axes, theme=theme, empty=not (logged or evaluated))


def learning_rate_curve(metrics: Metrics, *, theme: Theme = LIGHT) -> bytes:
    """PNG of the learning rate over the steps of a run."""
    figure, axes = create_axes(theme, "step (optimizer updates)", "learning rate (per update)")
    points = select_points(metrics, "train", x="step", y="lr")
    axes.plot(*_columns(points), color=theme.first, linewidth=2)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    axes.yaxis.get_offset_text().set_color(theme.muted)
    if points:
        axes.set_ylim(bottom=0)
    return finish_curve(figure, axes, theme=theme, empty=not points)


def accuracy_curve(metrics: Metrics, *, theme: Theme = LIGHT) -> bytes:
    """PNG of top-1 and, where it is known, top-5 accuracy over the epochs of a run."""
    figure, axes = create_axes(theme, "epoch", "accuracy (% of images)")
    top1 = select_points(metrics, "eval", x="epoch", y="top1")
    top5 = select_points(metrics, "eval", x="epoch", y="top5")
    draw_line(axes, top5, color=theme.second, label="top-5", marker="s")
    draw_line(axes, top1, color=theme.first, label="top-1")
    show_percent(axes.yaxis)
    _mark_whole_numbers(axes.xaxis, at_most=8)
    if top1:
        low, _ = axes.get_ylim()
        axes.set_ylim(max(0.0, low), 1.01)
    return finish_curve(figure, axes, theme=theme, empty=not top1)


def certainty_histogram(counts: Sequence[int], *, theme: Theme = LIGHT) -> bytes:
    """PNG of how many images got how probable an answer.

    Args:
        counts: images by the probability of their best class, from 0 to 1 in equal steps.
        theme: colours of the chart.
    """
    figure, axes = create_axes(theme, "probability of the best class", "images")
    width = 1 / len(counts)
    axes.bar(
        [width * index for index in range(len(counts))],
        counts,
        width=0.92 * width,
        align="edge",
        color=theme.first,
    )
    axes.set_xlim(0, 1)
    show_percent(axes.xaxis)
    _mark_whole_numbers(axes.yaxis, at_most=5)
    return render(figure)


def class_bars(classes: Sequence[tuple[str, int]], *, theme: Theme = LIGHT) -> bytes:
    """PNG of how many images got each class.

    Args:
        classes: names and images, the most frequent first; only the first are drawn.
        theme: colours of the chart.
    """
    shown = [*classes[:MAX_BARS]][::-1]
    figure, axes = create_axes(theme, "images", "")
    names = [shorten_label(name, number=index) for index, (name, _) in enumerate(shown)]
    axes.barh(range(len(shown)), [count for _, count in shown], color=theme.first)
    axes.set_yticks(range(len(shown)), names)
    _mark_whole_numbers(axes.xaxis, at_most=5)
    return render(figure)


def confusion_matrix(
    confusion: Confusion, class_names: Sequence[str], *, theme: Theme = LIGHT
) -> bytes:
    """PNG of a confusion matrix, each row coloured by its shares.

    Args:
        confusion: images of each class and answer.
        class_names: one name for each row.
        theme: colours of the chart.

    Returns:
        Up to 20 classes with counts in the cells; up to 40 without; of more classes only those
        that ``select_matrix_classes`` names.
    """
    kept = select_matrix_classes(confusion)
    counts = confusion.dense(kept)
    shares = counts / np.maximum(confusion.by_true()[kept], 1)[:, None]
    numbered = len(kept) <= MAX_NUMBERED_CLASSES
    side = min(9.0, max(2.2, (0.42 if numbered else 0.24) * len(kept)))
    figure, axes = create_axes(
        theme, "predicted class", "true class", inches=(side, side), layout=None
    )
    axes.set_position((0, 0, 1, 1))  # labels lie outside, and the file is cropped around all
    from matplotlib.colors import LinearSegmentedColormap, PowerNorm

    ramp = LinearSegmentedColormap.from_list("shares", theme.ramp)
    image = axes.imshow(shares, cmap=ramp, norm=PowerNorm(0.5, vmin=0, vmax=1))
    labels = [shorten_label(class_names[i], number=i) for i in kept]
    text: dict[str, Any] = {"parse_math": False, "fontfamily": _font_families()}
    size = 9 if numbered else 7
    fits = max(map(len, labels)) * INCHES_PER_CHARACTER < side / len(kept)
    axes.set_xticks(range(len(kept)), labels, rotation=0 if fits else 90, size=size, **text)
    axes.set_yticks(range(len(kept)), labels, size=size, **text)
    axes.tick_params(which="both", length=0)
    axes.grid(visible=False)
    axes.set_xticks(np.arange(1, len(kept)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(kept)) - 0.5, minor=True)
    axes.grid(which="minor", color=theme.grid, linewidth=0.8)
    axes.spines[:].set(visible=True, color=theme.grid)
    if numbered:
        _write_counts(axes, counts, shares=shares, theme=theme)
    _add_colour_bar(figure, axes, image=image, theme=theme)
    return render(figure, crop=True)


def beside(*pictures: bytes) -> bytes:
    """PNG of pictures from left to right, for pages that put one below the other."""
    opened = [Image.open(io.BytesIO(content)).convert("RGB") for content in pictures]
    size = sum(image.width for image in opened), max(image.height for image in opened)
    strip = Image.new("RGB", size, "white")
    left = 0
    for image in opened:
        strip.paste(image, (left, 0))
        left += image.width
    stream = io.BytesIO()
    strip.save(stream, "PNG", optimize=True)
    return stream.getvalue()


def png_data_uri(content: bytes) -> str:
    """The address that embeds a PNG in a page."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def select_matrix_classes(confusion: Confusion) -> list[int]:
    """Classes that a matrix of readable size shows, in order.

    Returns:
        All classes up to 40, else the 40 of the most frequent confusions.
    """
    classes = confusion.classes
    if classes <= MAX_MATRIX_CLASSES:
        return list(range(classes))
    kept: dict[int, None] = {}
    for true, predicted, _ in confusion.mistakes():
        for index in (true, predicted):
            if len(kept) < MAX_MATRIX_CLASSES:
                kept.setdefault(index)
        if len(kept) == MAX_MATRIX_CLASSES:
            break
    for index in range(classes):
        if len(kept) < MAX_MATRIX_CLASSES:
            kept.setdefault(index)
    return sorted(kept)


def select_points(metrics: Metrics, kind: str, *, x: str, y: str) -> Points:
    """Finite values of ``y`` over ``x`` in the rows of one kind, in the order of ``x``."""
    found = [(row.get(x), row.get(y)) for row in metrics if row.get("kind") == kind]
    return sorted((a, b) for a, b in found if _is_finite(a) and _is_finite(b))


def _is_finite(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and abs(value) < math.inf


def shorten_label(name: str, *, number: int) -> str:
    """A class name that fits beside a chart; its number where no font can write it."""
    label = " ".join(unicodedata.normalize("NFC", name).split())
    if not label or not all(_is_drawable(character) for character in label):
        return f"class {number}"
    if len(label) > MAX_LABEL_CHARACTERS:
        label = label[: MAX_LABEL_CHARACTERS - 1].rstrip() + "…"
    return label


def _last_of_epochs(metrics: Metrics) -> Points:
    """The mean loss of each epoch, at the epoch's last logged step."""
    rows = [row for row in metrics if row.get("kind") == "train"]
    ends = {row.get("epoch"): row for row in sorted(rows, key=lambda row: float(row["step"]))}
    return select_points(list(ends.values()), "train", x="step", y="loss_mean")


def create_axes(
    theme: Theme,
    x_label: str,
    y_label: str,
    *,
    inches: tuple[float, float] = CURVE_INCHES,
    layout: Literal["constrained"] | None = "constrained",
) -> tuple[Figure, Axes]:
    """A figure with one chart whose axes have names."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=inches, dpi=DPI, facecolor=theme.surface, layout=layout)
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.surface)
    axes.set_xlabel(x_label, color=theme.muted, size=10)
    axes.set_ylabel(y_label, color=theme.muted, size=10)
    axes.tick_params(colors=theme.grid, labelcolor=theme.ink, labelsize=10)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure, axes


def show_percent(axis: Axis, *, decimals: int | None = None) -> None:
    """Write an axis of shares in percent."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=decimals))


def _mark_whole_numbers(axis: Axis, *, at_most: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(at_most, integer=True))


def draw_line(axes: Axes, points: Points, *, color: str, label: str, marker: str = "o") -> None:
    """A line through points, marked where they are few; nothing without points."""
    if points:
        shown = marker if len(points) <= MAX_MARKED_POINTS else ""
        axes.plot(
            *_columns(points), color=color, label=label, linewidth=2, marker=shown, markersize=4
        )


def finish_curve(figure: Figure, axes: Axes, *, theme: Theme, empty: bool) -> bytes:
    """PNG of a chart over whole numbers, with a legend."""
    _mark_whole_numbers(axes.xaxis, at_most=6)
    if empty:
        axes.text(
            0.5, 0.5, "nothing recorded", color=theme.muted, ha="center", transform=axes.transAxes
        )
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=10, labelcolor=theme.ink)
    return render(figure)


def _add_colour_bar(figure: Figure, axes: Axes, *, image: AxesImage, theme: Theme) -> None:
    """Explain the shares, right of the upper half of a matrix."""
    side = figure.get_figwidth()
    height = max(0.5, min(1.0, 2.0 / side))
    place = axes.inset_axes((1 + 0.15 / side, 1 - height, 0.13 / side, height))
    bar = figure.colorbar(image, cax=place, ticks=[0, 0.1, 0.25, 0.5, 1])
    show_percent(place.yaxis, decimals=0)
    place.tick_params(labelsize=8, labelcolor=theme.muted, length=0)
    bar.set_label("share of the true class", color=theme.muted, size=9)
    bar.outline.set_visible(False)


def _write_counts(
    axes: Axes, counts: NDArray[np.int64], *, shares: NDArray[np.float64], theme: Theme
) -> None:
    """Counts in the cells that have any, in an ink that their colour allows."""
    longest = len(str(counts.max(initial=0)))
    size = max(5.0, min(10.0, 26.0 / longest))
    for row, column in np.argwhere(counts > 0):
        ink = theme.ink_on_ramp[int(math.sqrt(shares[row, column]) > 0.55)]
        axes.text(
            column, row, str(counts[row, column]), color=ink, size=size, ha="center", va="center"
        )


def _columns(points: Points) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def render(figure: Figure, *, crop: bool = False) -> bytes:
    """PNG of a figure."""
    stream = io.BytesIO()
    box = "tight" if crop else None
    figure.savefig(stream, format="png", bbox_inches=box, metadata={"Software": None})
    return stream.getvalue()


@functools.cache
def _font_families() -> list[str]:
    """DejaVu Sans, which comes with matplotlib, and what is installed of the others."""
    from matplotlib import font_manager

    installed = {font.name for font in font_manager.fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FALLBACK_FONTS if name in installed)]


@functools.cache
def _is_drawable(character: str) -> bool:
    """Whether one of the fonts has the character; matplotlib warns about others and draws boxes."""
    from matplotlib import font_manager

    fonts = (font_manager.get_font(font_manager.findfont(name)) for name in _font_families())
    return any(font.get_char_index(ord(character)) for font in fonts)
