"""Pictures of the family, drawn from its table: accuracy over the variants, and a network's stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.ticker import PercentFormatter

from effnet_core.family.scaling import Step, cost, steps
from effnet_core.family.variants import VARIANTS, Variant
from effnet_core.render.plots import DPI, LIGHT, Theme, render

ACCURACY_INCHES = (9.0, 4.6)
ARCHITECTURE_INCHES = (11.0, 4.4)
SERIES = (
    ("top5", "MindSpore top-5", "s"),
    ("top1", "MindSpore top-1", "o"),
    ("reference_top1", "TensorFlow top-1", "^"),
)
"""Attribute of a variant, its name for people, its marker; the highest first, as in the legend."""


def accuracy_chart(
    measured: Mapping[str, Sequence[float]] | None = None, *, theme: Theme = LIGHT
) -> bytes:
    """PNG of the published ImageNet accuracy of every variant, over its name.

    Args:
        measured: top-1 (0-1) of one's own models by variant, drawn over the published points.
    """
    rows = [row for row in VARIANTS.values() if not row.hidden]
    places = {row.name: number for number, row in enumerate(rows)}
    figure = Figure(figsize=ACCURACY_INCHES, dpi=DPI, facecolor=theme.surface, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.surface)
    colors = (theme.muted, theme.first, theme.second)
    for (attribute, label, marker), color in zip(SERIES, colors, strict=True):
        for prefix, shown in (("_b", label), ("_lite", None), ("_v2", None)):
            points = [
                (places[row.name], getattr(row, attribute))
                for row in rows
                if prefix in row.name and getattr(row, attribute) is not None
            ]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, color=color, marker=marker, markersize=5, linewidth=2, label=shown)
    own = [(places[name], top1) for name, found in (measured or {}).items() for top1 in found]
    if own:
        x, y = zip(*own, strict=True)
        axes.scatter(x, y, marker="*", s=160, color=theme.ink, zorder=3, label="measured top-1")
    axes.set_xticks(range(len(rows)), [row.name.removeprefix("efficientnet_") for row in rows])
    axes.set_ylabel("ImageNet accuracy", color=theme.muted)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.tick_params(colors=theme.grid, labelcolor=theme.ink)
    axes.grid(color=theme.grid, linewidth=0.8)
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.legend(
        loc="outside upper center", ncols=4, frameon=False, fontsize=10, labelcolor=theme.ink
    )
    return render(figure)


def architecture_chart(row: Variant, *, theme: Theme = LIGHT) -> bytes:
    """PNG of a variant's stages: height is the side of the picture, text the shapes and the work."""
    parts = steps(row)
    whole = cost(row)
    figure = Figure(
        figsize=ARCHITECTURE_INCHES, dpi=DPI, facecolor=theme.surface, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.surface)
    for number, part in enumerate(parts):
        share = part.cost.multiply_adds / whole.multiply_adds
        _draw_part(axes, number, part, share=share, side=row.image_size, theme=theme)
    axes.set_title(
        f"{row.name}: {whole.parameters / 1e6:.1f} M parameters, "
        f"{whole.multiply_adds / 1e9:.2f} G multiply-adds at {row.image_size} px, 1,000 classes",
        color=theme.ink,
        fontsize=11,
    )
    axes.set_xlim(-0.6, len(parts) - 0.4)
    axes.set_ylim(-1.35, 1.1)
    axes.set_axis_off()
    return render(figure)


def _draw_part(
    axes: Axes, number: int, part: Step, *, share: float, side: int, theme: Theme
) -> None:
    """One row of the network: a block as high as its picture, from its input to its output."""
    tall, low = (0.25 + 0.75 * value / side for value in (part.in_side, max(part.out_side, 1)))
    corners = [
        (number - 0.32, -tall / 2 + 0.5),
        (number - 0.32, tall / 2 + 0.5),
        (number + 0.32, low / 2 + 0.5),
        (number + 0.32, -low / 2 + 0.5),
    ]
    color = theme.ramp[min(3, 1 + int(share * 8))]
    axes.add_patch(Polygon(corners, facecolor=color, edgecolor=theme.muted, linewidth=0.8))
    name = (
        f"{part.name}\n{part.kernel}x{part.kernel}" if part.name != "head" else "1x1, mean,\ndense"
    )
    output = "classes" if part.name == "head" else f"{part.out_side} x {part.out_side}"
    times = f"{part.blocks} blocks" if part.blocks > 1 else "1 block"
    lines = (
        name if part.name != "stem" else "stem\n3x3",
        times if part.name not in ("stem", "head") else "",
        f"{part.channels:,}\n{output}" if part.name == "head" else f"{part.channels} ch\n{output}",
        f"{part.cost.parameters / 1e3:,.0f} k",
        f"{part.cost.multiply_adds / 1e6:,.0f} M",
    )
    heights = (-0.12, -0.43, -0.6, -0.95, -1.12)
    for text, height in zip(lines, heights, strict=True):
        axes.text(number, height, text, ha="center", va="top", size=8, color=theme.ink)
    if number == 0:
        for text, height in (("parameters", -0.95), ("multiply-adds", -1.12)):
            axes.text(-0.62, height, text, ha="right", va="top", size=8, color=theme.muted)
