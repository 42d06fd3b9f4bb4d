"""Charts that judge models: how honest their probabilities are, and several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence

from effnet_core.render.plots import (
    LIGHT,
    Points,
    Theme,
    create_axes,
    draw_line,
    finish_curve,
    render,
    shorten_label,
    show_percent,
)

SERIES = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#6a3d9a",
    "#7f7f7f",
)
"""Colours of runs that lie over each other: Okabe and Ito's, and two more."""


def curves_over_each_other(
    series: dict[str, Points],
    x_label: str,
    y_label: str,
    percent: bool,
    *,
    theme: Theme = LIGHT,
) -> bytes:
    """PNG of one curve a run.

    Args:
        series: points by the run's name.
        x_label: of the horizontal axis.
        y_label: of the vertical axis.
        percent: whether the values are shares.
        theme: colours of the chart.
    """
    figure, axes = create_axes(theme, x_label, y_label)
    for number, (name, points) in enumerate(series.items()):
        label = shorten_label(name, number=number + 1)
        draw_line(axes, points, color=SERIES[number % len(SERIES)], label=label)
    if percent:
        show_percent(axes.yaxis)
    return finish_curve(figure, axes, theme=theme, empty=not series)


def reliability_diagram(
    before: Points, after: Points, counts: Sequence[int], *, theme: Theme = LIGHT
) -> bytes:
    """PNG of how often answers are right over how sure the model is of them.

    Args:
        before: mean probability and share that is right of each bin, before calibration.
        after: likewise, after calibration; empty where there was none.
        counts: images of each bin from 0 to 1, as they are now; drawn as bars below.
        theme: colours of the chart.
    """
    figure, axes = create_axes(theme, "probability of the best class", "share that is right")
    total, width = max(1, sum(counts)), 1 / len(counts)
    axes.bar(
        [width * index for index in range(len(counts))],
        [0.3 * count / total for count in counts],
        width=0.92 * width,
        align="edge",
        color=theme.grid,
        label="images",
    )
    axes.plot([0, 1], [0, 1], color=theme.muted, linewidth=1, linestyle="--", label="honest")
    draw_line(axes, before, color=theme.second, label="before" if after else "now", marker="s")
    draw_line(axes, after, color=theme.first, label="calibrated")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    show_percent(axes.xaxis)
    show_percent(axes.yaxis)
    axes.legend(frameon=False, fontsize=9, labelcolor=theme.ink, loc="upper left")
    return render(figure)
