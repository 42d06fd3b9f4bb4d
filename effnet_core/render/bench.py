"""The measurements of ``effnet bench`` as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from effnet_core.render.plots import DPI, LIGHT, Theme, render

WIDTH_INCHES, ROW_INCHES = 9.0, 0.36


def speed_chart(rates: Sequence[tuple[str, float]], *, theme: Theme = LIGHT) -> bytes:
    """PNG of bars, one a measurement, in the order given.

    Args:
        rates: what was measured, and its images/s.
    """
    size = (WIDTH_INCHES, 1.2 + ROW_INCHES * max(1, len(rates)))
    figure = Figure(figsize=size, dpi=DPI, facecolor=theme.surface, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor=theme.surface)
    names, values = [name for name, _ in rates], [rate for _, rate in rates]
    bars = axes.barh(range(len(rates)), values, color=theme.first)
    axes.bar_label(bars, [f"{value:.0f}" for value in values], padding=4, color=theme.ink)
    axes.set_yticks(range(len(rates)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("images/s, from JPEG to answer", color=theme.muted)
    axes.tick_params(colors=theme.grid, labelcolor=theme.ink)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return render(figure)
