"""A training on the dashboard while it continues: numbers, curves and a table of epochs, kept up to date."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.config.schema import RunConfig
from effnet_core.events import Event, listen
from effnet_core.jobs.job import METRICS_NAME
from effnet_core.render.plots import (
    accuracy_curve,
    beside,
    learning_rate_curve,
    loss_curve,
    png_data_uri,
)
from effnet_core.results import TrainResult
from effnet_core.system.files import read_jsonl
from effnet_core.text import markdown_code
from tasks.dashboard.progress import never_in_the_way, replace_artifact

PAGE_KEY = "training"
TABLE_KEY = "training-epochs"
SHORTEST_WAIT_S = 15.0
WAIT_PER_COST = 50.0
"""Drawing takes time from the training beside it: at most a fiftieth."""

Row = dict[str, Any]


class TrainingPage:
    """Two artifacts of a run that are replaced as its ``metrics.jsonl`` grows."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        self.config, self.run_dir = config, run_dir
        self.page: UUID | None = None
        self.table: UUID | None = None
        self.due = 0.0
        self.evaluated = 0

    def __call__(self, event: Event) -> None:
        """Update after an evaluation or now and then, whichever is later."""
        if event.metrics.get("kind") in ("train", "eval") and time.monotonic() >= self.due:
            self.update(None)

    def update(self, result: TrainResult | None) -> None:
        """Write what is known now; with a result, the final card."""
        started = time.monotonic()
        metrics = read_jsonl(self.run_dir / METRICS_NAME)
        if metrics:
            with never_in_the_way("the training's page"):
                self._write(metrics, result)
        cost = time.monotonic() - started
        self.due = time.monotonic() + max(SHORTEST_WAIT_S, WAIT_PER_COST * cost)

    def _decided(self) -> RunConfig:
        """The settings as the run uses them, which may say more than those that it was started with."""
        path = self.run_dir / CONFIG_NAME
        return read_config(path) if path.is_file() else self.config

    def _write(self, metrics: list[Row], result: TrainResult | None) -> None:
        page = training_card(self._decided(), self.run_dir, metrics, result)
        if self.page is None:
            what = f"{self.config.model.variant}: numbers and curves"
            self.page = _as_id(create_markdown_artifact(page, key=PAGE_KEY, description=what))
        else:
            replace_artifact(self.page, page)
        rows = epoch_rows(metrics)
        if len(rows) == self.evaluated:
            return
        if self.table is None:
            what = "one row an epoch"
            self.table = _as_id(create_table_artifact(rows, key=TABLE_KEY, description=what))
        else:
            replace_artifact(self.table, rows)
        self.evaluated = len(rows)


@contextmanager
def training_page(config: RunConfig, run_dir: str) -> Iterator[TrainingPage]:
    """Keep the page of a training up to date inside the block.

    Args:
        config: settings of the run.
        run_dir: its folder.
    """
    page = TrainingPage(config, Path(run_dir))
    with listen(page):
        yield page


def training_card(
    config: RunConfig, run_dir: Path, metrics: list[Row], result: TrainResult | None
) -> str:
    """Markdown of a run: its best numbers, how far it is, and its curves.

    Args:
        config: settings of the run.
        run_dir: its folder.
        metrics: rows of ``metrics.jsonl``.
        result: of the finished run.
    """
    steps = [row for row in metrics if row["kind"] == "train"]
    evaluated = [row for row in metrics if row["kind"] == "eval"]
    last = steps[-1] if steps else {}
    facts = {
        "variant": f"{config.model.variant}, {config.train_image_size} px",
        "devices": f"{config.runtime.world_size} x {config.runtime.device}",
        "batch": f"{config.data.global_batch_size} images, peak rate {config.peak_lr:.3g}",
    }
    if last:
        facts["epoch"] = f"{last['epoch']} {_of_length(config)}, step {last['step']:,}"
        facts["speed"] = f"{last['images_per_s']:.1f} images/s"
        facts["loss"] = f"{last['loss_mean']:.4f} (mean of the epoch)"
    if evaluated:
        best = max(evaluated, key=lambda row: float(row["top1"]))
        facts["best"] = f"{_accuracy(best)} after {_when(best)}"
    if result is not None:
        facts["speed"] = f"{result.images_per_s:.1f} images/s"
        facts["took"] = f"{result.seconds:.0f} s, {result.steps:,} steps"
        facts["model"] = markdown_code(str(result.checkpoint))
        facts["SHA-256"] = f"`{result.sha256}`"
    facts["folder"] = markdown_code(str(run_dir))
    title = "training"
    if result is not None:
        title = _accuracy({"top1": result.evaluation.top1, "top5": result.evaluation.top5})
    elif evaluated:
        title = f"{_accuracy(evaluated[-1])} after {_when(evaluated[-1])}"
    curves = beside(loss_curve(metrics), accuracy_curve(metrics))
    return "\n".join(
        [
            f"# {title}",
            "",
            f"![loss and accuracy]({png_data_uri(curves)})",
            "",
            "| | |",
            "|---|---|",
            *(f"| {name} | {value} |" for name, value in facts.items()),
            "",
            f"![learning rate]({png_data_uri(learning_rate_curve(metrics))})",
        ]
    )


def _of_length(config: RunConfig) -> str:
    """How long the run is, in its own unit."""
    length = config.train.length
    return f"of {length.amount:g}" if length.unit == "epochs" else f"in a run of {length}"


def epoch_rows(metrics: list[Row]) -> list[Row]:
    """One row an evaluated epoch, with the last training row before it."""
    rows, before = [], Row()
    for row in metrics:
        if row["kind"] == "train":
            before = row
            continue
        rows.append(
            {
                "epoch": row["epoch"],
                "top-1 %": round(100 * row["top1"], 2),
                "top-5 %": "" if row["top5"] is None else round(100 * row["top5"], 2),
                "validation loss": round(row["loss"], 4),
                "training loss": before.get("loss_mean", ""),
                "learning rate": f"{before['lr']:.3g}" if before else "",
                "images/s": before.get("images_per_s", ""),
            }
        )
    return rows


def _when(row: Row) -> str:
    """When an evaluation was; a run shorter than an epoch has finished none."""
    return f"epoch {row['epoch']}" if row["epoch"] else f"step {row['step']}"


def _accuracy(row: Row) -> str:
    top5 = "" if row["top5"] is None else f", top-5 {row['top5']:.2%}"
    return f"top-1 {row['top1']:.2%}{top5}"


def _as_id(created: object) -> UUID | None:
    return created if isinstance(created, UUID) else None
