"""A pipeline in a terminal: a server of its own where none runs, progress, and what came of it.

Imports nothing of Prefect at the top: the server's address must be known first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.table import Table

from effnet_core.cli.defaults import own_folder
from effnet_core.cli.lines import show_events
from effnet_core.cli.terminal import console
from effnet_core.events import Event, emit
from effnet_core.reports.pipeline import SUMMARY_NAME
from effnet_core.text import human_bytes
from flows.service.server import dashboard_link, prefect_api


def run_pipeline(source: str, folder: str, out: Path | None, **settings: Any) -> dict[str, Any]:
    """Run the pipeline from images to report and show what came of it.

    Args:
        source: labelled images.
        folder: images to label.
        out: folder of the run, which continues in it if it was cut; one of its own by default.
        settings: further parameters of the flow; those that are None are left to it.

    Returns:
        The content of ``summary.json``.

    Raises:
        EffnetError: as the pipeline's parts.
    """
    started = time.perf_counter()
    out = (own_folder("pipeline") if out is None else out).absolute()
    console.print(f"everything goes to {out}", soft_wrap=True)
    try:
        with show_events():
            summary = pipeline(source=source, folder=folder, out=str(out), **settings)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; the same command with --out {out} continues"
        ) from None
    print_summary(summary, out, seconds=time.perf_counter() - started)
    return summary


def pipeline(**parameters: Any) -> dict[str, Any]:
    """The pipeline on a server of its own, or that of ``effnet up``; emits events."""
    given = {name: value for name, value in parameters.items() if value is not None}
    with _server():
        from flows.pipeline import pipeline_flow

        summary: dict[str, Any] = pipeline_flow(**given)
        emit(Event("server", "stopping the Prefect server", 1, 1))
    return summary


@contextmanager
def _server() -> Iterator[None]:
    emit(Event("server", "starting a Prefect server", 0, 1))
    # Lines of the run go to the dashboard; the terminal shows them once, in its own form.
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    with prefect_api() as url:
        emit(Event("server", f"Prefect server at {dashboard_link(url)}", 1, 1))
        yield


def print_summary(summary: dict[str, Any], run_dir: Path, *, seconds: float) -> None:
    """Show the results of a pipeline and where they are.

    Args:
        summary: content of its ``summary.json``.
        run_dir: its folder.
        seconds: that it took.
    """
    table = Table(title=f"done in {seconds:.0f} s", title_justify="left")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    table.add_column("result")
    top5 = "" if summary["top5"] is None else f", top-5 {summary['top5']:.2%}"
    model = run_dir / "train" / "model.ckpt"
    results = {
        "stage": "images verified",
        "train": f"{summary['train_images_per_s']:.1f} images/s on {summary['world_size']} process(es), "
        f"model {human_bytes(model.stat().st_size)}",
        "evaluate": f"top-1 {summary['top1']:.2%}{top5} on held-out images",
        "publish": f"version {summary['model_version']}" + (" (production)" * summary["promoted"]),
        "infer": f"{summary['labelled']} of {summary['images']} images labelled, "
        f"{summary['infer_images_per_s']:.1f} images/s",
    }
    for step, text in results.items():
        table.add_row(step, f"{summary['seconds'][step]:.1f}", text)
    console.print(table)
    places = {
        "predictions": summary["predictions"],
        "model": summary["store"],
        "logs": run_dir / "train" / "logs",
        "numbers": run_dir / SUMMARY_NAME,
        "dashboard": "effnet dashboard",
        "report": summary["report"],
    }
    for name, place in places.items():
        console.print(f"{name:>12}  {place}", soft_wrap=True)
