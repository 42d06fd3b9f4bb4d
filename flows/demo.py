"""The demo: real handwritten digits through the whole pipeline, with a server of its own.

Imports nothing of Prefect at the top: the server's address must be known first.
"""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from effnet_core.cli.lines import show_events
from effnet_core.cli.terminal import console
from effnet_core.config.load import load_config
from effnet_core.data.digits import write_digits
from effnet_core.errors import OutputExists
from effnet_core.events import Event, emit
from effnet_core.system.locks import sole_user
from flows.shown import pipeline, print_summary

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
    print_summary(summary, run_dir, seconds=time.perf_counter() - started)
    return summary


def _run(out: Path, run_dir: Path, overrides: list[str]) -> dict[str, Any]:
    with show_events():
        reused = write_digits(out / "digits")
        text = f"1,797 digits {'reused from' if reused else 'in'} {out / 'digits'}"
        emit(Event("data", text, 1, 1))
        return pipeline(
            source=str(out / "digits" / "labelled"),
            folder=str(out / "digits" / "unlabelled"),
            out=str(run_dir),
            data=str(out / "data"),
            recipe=RECIPE,
            overrides=overrides,
        )


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
