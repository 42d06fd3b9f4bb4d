"""Fine-tuning EfficientNet-Lite0 from its ImageNet weights against training from scratch, at equal minutes.

Both run the demo's recipe on the demo's digits, in turns, with several seeds each. The clock begins with the
first step and counts evaluations too, for both alike.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

Curve = list[dict[str, Any]]
"""The evaluations of one run, with the minutes at which they ended."""

STARTS = {"from ImageNet weights": "efficientnet_lite0", "from scratch": "null"}


def stage(folder: Path, *, per_class: int) -> int:
    """Stage the demo's digits with so many training images of each class, the first ones; their number."""
    from effnet_core.data.digits import write_digits
    from effnet_core.data.staging import stage_dataset

    write_digits(folder / "digits")
    source = folder / "digits" / "labelled"
    for digit in (source / "train").iterdir():
        for path in sorted(digit.iterdir())[per_class:]:
            path.unlink()
    dataset, _ = stage_dataset(source, folder / "data")
    return dataset.counts["train"]


def train(weights: str, seed: int, options: argparse.Namespace, folder: Path) -> Curve:
    """One run."""
    from effnet_core import api
    from effnet_core.config.load import load_config
    from effnet_core.jobs.job import METRICS_NAME
    from effnet_core.system.files import read_jsonl

    overrides = [
        f"model.weights={weights}",
        f"train.budget={options.minutes} minutes",
        f"train.evaluate_every_epochs={options.evaluate_every}",
        f"train.seed={seed}",
    ]
    run_dir = folder / f"run-{weights}-{seed}"
    api.train(load_config("digits", overrides), folder / "data", run_dir)
    rows = read_jsonl(run_dir / METRICS_NAME)
    begun = rows[0]["time"]
    return [row | {"minutes": (row["time"] - begun) / 60} for row in rows if row["kind"] == "eval"]


def last(curves: list[Curve]) -> list[float]:
    """Top-1 of each run at its end."""
    return [curve[-1]["top1"] for curve in curves]


def draw(runs: dict[str, list[Curve]], path: Path) -> None:
    """Top-1 over minutes, a line a run, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import PercentFormatter

    from effnet_core.render.plots import DPI, LIGHT

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for (name, curves), color in zip(runs.items(), (LIGHT.first, LIGHT.second), strict=True):
        label: str | None = f"{name}: {statistics.median(last(curves)):.1%} at the end (median)"
        for curve in curves:
            minutes, top1 = [row["minutes"] for row in curve], [row["top1"] for row in curve]
            axes.plot(minutes, top1, color=color, marker="o", ms=4, lw=1.4, alpha=0.8, label=label)
            label = None  # one entry a colour
    axes.set(
        xlabel="minutes of training",
        ylabel="top-1 on 297 images",
        title="EfficientNet-Lite0 on handwritten digits, 2 ranks of one core each",
        ylim=(0, 1.0),
    )
    axes.title.set_fontsize(10)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    axes.grid(color=LIGHT.grid)
    figure.legend(loc="outside lower center", frameon=False)
    figure.savefig(path, dpi=DPI)


def report(runs: dict[str, list[Curve]], minutes: float, picture: str, *, images: int) -> list[str]:
    """The note's lines."""
    seeds = len(next(iter(runs.values())))
    lines = [
        f"Recipe `digits` (64 px, global batch 32, 2 ranks of one core each), {minutes:g} minutes each from "
        f"the first step, evaluations included; {images:,} images to learn from, top-1 on 297 others; "
        f"{seeds} seed(s) each, in turns: medians, and the range in brackets.",
        "",
        "| | epochs done | first evaluation | best | last |",
        "|---|---|---|---|---|",
    ]
    for name, curves in runs.items():
        epochs = statistics.median(curve[-1]["epoch"] for curve in curves)
        figures = (
            [curve[0]["top1"] for curve in curves],
            [max(row["top1"] for row in curve) for curve in curves],
            last(curves),
        )
        shown = " | ".join(
            f"{statistics.median(tops):.1%} ({min(tops):.1%} - {max(tops):.1%})" for tops in figures
        )
        lines.append(f"| {name} | {epochs:g} | {shown} |")
    return [*lines, "", f"![top-1 over minutes]({picture})"]


def main() -> None:
    """Train both, draw, and write the note."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--minutes", type=float, default=0.8)
    reader.add_argument("--per-class", type=int, default=20, help="training images of each class")
    reader.add_argument("--seeds", type=int, default=3)
    reader.add_argument("--evaluate-every", type=int, default=3, help="epochs")
    options = reader.parse_args()
    from machine import write_note

    from effnet_core.events import listen

    with tempfile.TemporaryDirectory() as folder, listen(lambda event: print(event.message)):
        images = stage(Path(folder), per_class=options.per_class)
        curves: dict[str, list[Curve]] = {name: [] for name in STARTS}
        for seed in range(options.seeds):
            for name, weights in STARTS.items():
                curves[name].append(train(weights, seed, options, Path(folder)))
    picture = Path(__file__).with_suffix(".png")
    draw(curves, picture)
    write_note(
        __file__,
        "Fine-tuning against training from scratch",
        report(curves, options.minutes, picture.name, images=images),
    )


if __name__ == "__main__":
    main()
