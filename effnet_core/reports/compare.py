"""Training runs side by side: what differs in their settings, their curves, their classes, speed and size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import ConfigError
from effnet_core.family.scaling import cost
from effnet_core.family.variants import variant as variant_row
from effnet_core.model_store.versions import list_versions
from effnet_core.render import plots, quality
from effnet_core.render.pages import Chart, draw_chart, write_page
from effnet_core.reports.runs import Run, list_runs
from effnet_core.results.paired import Paired, compare_counts
from effnet_core.results.per_class import PerClass
from effnet_core.text import NO_VALUE

TEMPLATE_NAME = "compare.html.j2"
MAX_RUNS = 8
MAX_CLASS_ROWS = 25
QUIET = ("runtime.master_port", "runtime.host_index", "storage.root")
"""Settings that say nothing of a model."""


@dataclass(frozen=True)
class Comparison:
    """Finished runs, and what is seen when they lie side by side."""

    runs: list[Run]

    def __post_init__(self) -> None:
        if not 2 <= len(self.runs) <= MAX_RUNS:
            raise ConfigError(
                f"{len(self.runs)} run(s) were given to compare; give 2 to {MAX_RUNS}, or see effnet "
                "leaderboard"
            )

    @property
    def same_images(self) -> bool:
        """Whether all were evaluated on the same images."""
        return len({measured_on(run) for run in self.runs}) == 1

    def settings(self) -> list[tuple[str, list[str]]]:
        """Settings that are not the same in all runs: key, and a value for each run."""
        trees = [_flat(run.config.model_dump(mode="json")) for run in self.runs]
        rows = []
        for key in trees[0]:
            values = [_shown(tree[key]) for tree in trees]
            if len(set(values)) > 1 and key not in QUIET:
                rows.append((key, values))
        return rows

    def figures(self) -> list[tuple[str, list[str]]]:
        """The runs' numbers: what it is, and a value for each run."""
        return [(name, [write(run) for run in self.runs]) for name, write in FIGURES.items()]

    def classes(self) -> list[tuple[str, int, list[float | None]]]:
        """Recall of each class with each run, the class first in which they differ most."""
        names = self.runs[0].result.evaluation.class_names
        results = [run.result.evaluation for run in self.runs]
        if not self.same_images or any(r.class_names != names or not r.confusion for r in results):
            return []
        figures = [PerClass.of(result.confusion) for result in results]
        recall = np.stack([found.recall for found in figures])
        present = np.flatnonzero(figures[0].images > 0)
        spread = recall[:, present].max(axis=0) - recall[:, present].min(axis=0)
        order = present[np.argsort(-spread, kind="stable")][:MAX_CLASS_ROWS]
        return [
            (names[i], int(figures[0].images[i]), [float(r) for r in recall[:, i]]) for i in order
        ]

    def pairs(self) -> list[tuple[str, Paired | None]]:
        """Every run but the first compared with the first, image by image."""
        first = self.runs[0].answers
        found: list[tuple[str, Paired | None]] = []
        for run in self.runs[1:]:
            other = run.answers
            if first is None or other is None or not self.same_images:
                found.append((run.name, None))
                continue
            old, new = first.right, other.right
            cells = (old & new, old & ~new, ~old & new, ~old & ~new)
            found.append((run.name, compare_counts(*(int(cell.sum()) for cell in cells))))
        return found


def measured_on(run: Run) -> tuple[str, str]:
    """Which images a run was evaluated on."""
    return run.result.evaluation.data_digest, run.result.evaluation.split


def write_comparison(path: Path, comparison: Comparison) -> Path:
    """Write the page.

    Returns:
        ``path``.
    """
    runs = comparison.runs
    values = {
        "title": f"{len(runs)} runs side by side",
        "facts": {f"{number}": run.name for number, run in enumerate(runs, start=1)},
        "cards": [],
        "runs": [run.name for run in runs],
        "colours": quality.SERIES[: len(runs)],
        "figures": comparison.figures(),
        "settings": comparison.settings(),
        "classes": comparison.classes(),
        "pairs": comparison.pairs(),
        "same_images": comparison.same_images,
        "curves": list(_draw_curves(runs)),
    }
    return write_page(path, TEMPLATE_NAME, values)


def _draw_curves(runs: Sequence[Run]) -> list[Chart]:
    charts = []
    for title, kind, x, y, label in (
        ("Training loss", "train", "step", "loss_mean", "loss (mean of the epoch so far)"),
        ("Validation loss", "eval", "step", "loss", "loss (cross-entropy, nats)"),
        ("Top-1 accuracy", "eval", "epoch", "top1", "top-1 (% of images)"),
    ):
        series = {
            run.name: points
            for run in runs
            if (points := plots.select_points(run.metrics, kind, x=x, y=y))
        }
        if series:
            ends = ", ".join(f"{name} {points[-1][1]:.3f}" for name, points in series.items())
            alt = f"{title}; the last values: {ends}."
            charts.append(
                draw_chart(
                    title, alt, quality.curves_over_each_other, series, x, label, y == "top1"
                )
            )
    return charts


def _percent(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.2%}"


def _calibration_error(run: Run) -> str:
    found = run.result.evaluation.calibration
    return NO_VALUE if found is None else f"{found.after.ece:.2%}"


def _parameters(run: Run) -> str:
    classes = len(run.result.evaluation.class_names) or 1000
    return (
        f"{cost(variant_row(run.config.model.variant), num_classes=classes).parameters / 1e6:.2f} M"
    )


FIGURES: dict[str, Callable[[Run], str]] = {
    "top-1": lambda run: _percent(run.result.evaluation.top1),
    "top-5": lambda run: _percent(run.result.evaluation.top5),
    "loss": lambda run: f"{run.result.evaluation.loss:.4f}",
    "calibration error": _calibration_error,
    "images of the evaluation": lambda run: f"{run.result.evaluation.seen:,}",
    "epochs": lambda run: f"{run.result.epochs}",
    "training, images/s": lambda run: f"{run.result.images_per_s:,.1f}",
    "processes": lambda run: f"{run.result.world_size}",
    "time of the last process": lambda run: f"{run.result.seconds:,.0f} s",
    "parameters": _parameters,
    "file": lambda run: f"{run.size_bytes / 1e6:.1f} MB",
}


def _flat(tree: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        f"{section}.{key}": value for section, keys in tree.items() for key, value in keys.items()
    }


def _shown(value: object) -> str:
    return NO_VALUE if value is None else str(value)


@dataclass(frozen=True)
class Place:
    """A line of a leaderboard."""

    name: str
    variant: str
    top1: float
    top5: float | None
    images: int
    split: str
    data_digest: str
    production: bool = False


def leaderboard_of_runs(root: Path) -> list[Place]:
    """The finished runs below a folder, the best first."""
    places = []
    for summary in list_runs(root):
        if summary.state == "finished":
            result = Run.open(summary.folder).result.evaluation
            places.append(
                Place(
                    str(summary.folder.relative_to(root)),
                    summary.variant,
                    result.top1,
                    result.top5,
                    result.seen,
                    result.split,
                    result.data_digest,
                )
            )
    return ranked(places)


def leaderboard_of_store(storage: StorageConfig) -> list[Place]:
    """The versions of a model in a store, the best first.

    Raises:
        StoreError: it cannot be read.
    """
    places = [
        Place(
            found["version"],
            found["variant"],
            found["metrics"]["top1"],
            found["metrics"]["top5"],
            found["metrics"]["seen"],
            found["metrics"]["split"],
            found["data_digest"],
            found["production"],
        )
        for found in list_versions(storage)
        if not found["unreadable"]
    ]
    return ranked(places)


def ranked(places: Sequence[Place]) -> list[Place]:
    """Best first among those with the same images; the images that most were measured on come first."""
    counts: dict[tuple[str, str], int] = {}
    for place in places:
        key = place.data_digest, place.split
        counts[key] = counts.get(key, 0) + 1
    return sorted(
        places,
        key=lambda p: (
            -counts[(p.data_digest, p.split)],
            p.data_digest,
            p.split,
            -p.top1,
            p.name,
        ),
    )
