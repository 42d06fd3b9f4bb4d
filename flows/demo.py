"""The demo: real handwritten digits through the whole pipeline, with a server of its own.

Imports nothing of Prefect at the top: the server's address must be known first.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.table import Table

from effnet_core.cli.lines import show_events
from effnet_core.cli.terminal import console
from effnet_core.config.load import load_config
from effnet_core.data.digits import write_digits
from effnet_core.errors import OutputExists
from effnet_core.events import Event, emit
from effnet_core.locks import sole_user
from effnet_core.reports.pipeline import SUMMARY_NAME
from effnet_core.text import human_bytes
from flows.service.server import dashboard_link, prefect_api

RECIPE = "digits"
LATEST = "latest"


def run_demo(out: Path, overrides: list[str]) -> dict[str, Any]:
    """Run the pipeline on the digits and show what came of it.

    Args:
        out: folder of all demo runs; images, staged data and model store are shared by them.
        overrides: settings as ``section.key=value``.

    Returns:
        The content of ``summary.json``.

    Raises:
        EffnetError: as the pipeline's parts.
    """
    with sole_user(out, what="demo folder"):
        return _run_and_show(out.resolve(), overrides)


def _run_and_show(out: Path, overrides: list[str]) -> dict[str, Any]:
    started = time.perf_counter()
    overrides = [f"storage.root={out / 'store'}", *overrides]
    config = load_config(RECIPE, overrides)
    run_dir = _new_run(out)
    console.print(
        f"{config.model.variant} on scikit-learn's handwritten digits, "
        f"{config.runtime.world_size} training process(es); everything goes to {run_dir}",
        soft_wrap=True,
    )
    try:
        summary = _run(out, run_dir, overrides)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted; what was done is in {run_dir}, and the next demo starts a new run"
        ) from None
    _point_latest(out, run_dir)
    _print_summary(summary, run_dir, seconds=time.perf_counter() - started)
    return summary


def _run(out: Path, run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    """The pipeline on a server of its own, with progress on the terminal."""
    with show_events():
        reused = write_digits(out / "digits")
        emit(
            Event(
                "data", f"1,797 digits {'reused from' if reused else 'in'} {out / 'digits'}", 1, 1
            )
        )
        emit(Event("server", "starting a Prefect server", 0, 1))
        # Lines of the run go to the dashboard; the terminal shows them once, in its own form.
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
        with prefect_api() as url:
            emit(Event("server", f"Prefect server at {dashboard_link(url)}", 1, 1))
            from flows.pipeline import pipeline_flow

            summary: dict[str, Any] = pipeline_flow(
                source=str(out / "digits" / "labelled"),
                folder=str(out / "digits" / "unlabelled"),
                out=str(run_dir),
                data=str(out / "data"),
                recipe=RECIPE,
                overrides=overrides,
            )
            emit(Event("server", "stopping the Prefect server", 1, 1))
    return summary


def _new_run(out: Path) -> Path:
    """A new folder named by the time."""
    run_dir = out / datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        run_dir.mkdir()
    except FileExistsError as cause:
        raise OutputExists(f"{run_dir} exists already: another demo started this second") from cause
    return run_dir


def _point_latest(out: Path, run_dir: Path) -> None:
    """Let ``OUT/latest`` name the newest run."""
    link = out / f".{LATEST}-{os.getpid()}"
    link.symlink_to(run_dir.name)
    link.replace(out / LATEST)


def _print_summary(summary: dict[str, Any], run_dir: Path, *, seconds: float) -> None:
    table = Table(title=f"done in {seconds:.0f} s", title_justify="left")
    table.add_column("stage")
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
    for stage, text in results.items():
        table.add_row(stage, f"{summary['seconds'][stage]:.1f}", text)
    console.print(table)
    places = {
        "predictions": summary["predictions"],
        "model": summary["store"],
        "logs": run_dir / "train" / "logs",
        "numbers": run_dir / SUMMARY_NAME,
        "dashboard": "make dashboard",
        "report": summary["report"],
    }
    for name, place in places.items():
        console.print(f"{name:>12}  {place}", soft_wrap=True)
