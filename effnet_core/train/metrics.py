"""What a run reports while it trains: losses that are numbers, lines of the log, rows of metrics.jsonl."""

from __future__ import annotations

import errno
import math
import os
import time
from typing import Any

from effnet_core.errors import TrainingDiverged
from effnet_core.events import Event, emit
from effnet_core.jobs.job import JOB_NAME, METRICS_NAME
from effnet_core.results import EvalResult
from effnet_core.system.files import append_jsonl, no_longer_writable
from effnet_core.text import format_seconds
from effnet_core.train.run import Run
from effnet_core.train.setup import TOPIC
from effnet_core.train.tracking import Trackers


def flush(run: Run, pending: list[float]) -> int:
    """Check the losses of the last steps, add them to the epoch's, and empty the list.

    Returns:
        How many they were.

    Raises:
        TrainingDiverged: one of them is not a finite number.
    """
    progress = run.progress
    values = pending.copy()
    pending.clear()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            first = progress.step - len(values) + 1
            raise TrainingDiverged(
                f"the loss became {value} at step {first + offset} of {run.total_steps} (checked in steps "
                f"{first}-{progress.step}) with a learning rate of {progress.lr:.3g}; "
                "lower optim.base_lr or lengthen schedule.warmup_epochs"
            )
    progress.losses.add(values)
    return len(values)


def log_due(run: Run) -> bool:
    """Whether the last step belongs into metrics.jsonl, which does not depend on interruptions."""
    step = run.progress.step
    return step == 1 or run.at_epoch_end or step % run.setup.config.train.log_every_steps == 0


def log_step(run: Run, trackers: Trackers, *, steps: int, seconds: float) -> None:
    """Log the last ``steps``, which took ``seconds``; a resumed run shows at once that it moves."""
    if not run.setup.group.is_first:
        return
    row = _row_of_steps(run, steps=steps, seconds=seconds)
    if log_due(run):
        record(run, trackers, row)
    metrics = row if (left_s := _left_s(run)) is None else {**row, "left_s": round(left_s, 1)}
    emit(Event(TOPIC, _line(run, row, seconds), run.progress.step, run.total_steps, metrics))


def _row_of_steps(run: Run, *, steps: int, seconds: float) -> dict[str, Any]:
    progress, setup = run.progress, run.setup
    return {
        "kind": "train",
        "epoch": (progress.step - 1) // setup.steps_per_epoch + 1,
        "step": progress.step,
        "loss": round(progress.losses.last, 6),
        "loss_mean": round(progress.losses.mean, 6),
        "lr": progress.lr,
        "images_per_s": round(steps * setup.config.data.global_batch_size / seconds, 2),
        "ms_per_step": round(1000 * seconds / steps, 3),
        "time": round(time.time(), 3),
    }


def _line(run: Run, row: dict[str, Any], seconds: float) -> str:
    """A row as people read it."""
    step = run.progress.step
    speed = f"{row['ms_per_step']:.0f} ms/step {row['images_per_s']:.1f} images/s"
    if step == run.resumed_from + 1:
        speed = f"({seconds:.0f} s with the compilation of the graph)"
    return (
        f"{_position(run)} "
        f"loss {row['loss']:.3f} (mean {row['loss_mean']:.3f}) lr {row['lr']:.5f} {speed}{_left(run)}"
    )


def _left(run: Run) -> str:
    """How long the run still takes, in words."""
    left_s = _left_s(run)
    return "" if left_s is None else f", {format_seconds(left_s)} left"


def _left_s(run: Run) -> float | None:
    """Seconds that the run still takes, from the time that it has taken so far; None if that says nothing."""
    progress, limit_s = run.progress, run.setup.limit_s
    if progress.spent_s <= 0 or run.finished:
        return None
    if limit_s is not None:
        return limit_s - progress.spent_s
    return progress.spent_s / progress.step * (run.total_steps - progress.step)


def log_evaluation(run: Run, trackers: Trackers, result: EvalResult) -> None:
    """Log what an evaluation found."""
    if not run.setup.group.is_first:
        return
    row = {
        "kind": "eval",
        "epoch": run.epoch,
        "step": run.progress.step,
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "time": round(time.time(), 3),
    }
    record(run, trackers, row)
    text = f"{_position(run, at_end=True)} top-1 {result.top1:.2%}"
    if result.top5 is not None:
        text += f" top-5 {result.top5:.2%}"
    text += f" on {result.seen} images of {result.split}"
    emit(Event(TOPIC, text, run.progress.step, run.total_steps, row))


def _position(run: Run, *, at_end: bool = False) -> str:
    """How far the run is, counted as its length is: in epochs and their steps, or in steps of the whole run.

    Args:
        at_end: whether an epoch has ended, so that its steps say nothing.
    """
    setup, step, length = run.setup, run.progress.step, run.setup.config.train.length
    if length.unit != "epochs":
        return f"step {step}" + ("" if setup.schedule is None else f"/{len(setup.schedule)}")
    epochs = math.ceil(length.amount)
    if at_end:
        return f"epoch {run.epoch}/{epochs}"
    done = (step - 1) % setup.steps_per_epoch + 1
    return f"epoch {(step - 1) // setup.steps_per_epoch + 1}/{epochs} step {done}/{setup.steps_per_epoch}"


def record(run: Run, trackers: Trackers, row: dict[str, Any]) -> None:
    """Add a row to metrics.jsonl and to the trackers.

    Raises:
        DataError: the run folder is gone or cannot be written to.
    """
    require_folder(run)
    run_dir = run.setup.run_dir
    try:
        append_jsonl(run_dir / METRICS_NAME, row)
    except OSError as cause:
        raise no_longer_writable(run_dir, cause, step=run.progress.step) from cause
    trackers.log(row)


def require_folder(run: Run) -> None:
    """Make sure that the run folder is still the one in which the run began.

    Where a shared folder is no longer mounted, an empty local one is left in its place, and a checkpoint
    would go there.

    Raises:
        DataError: it is not.
    """
    run_dir = run.setup.run_dir
    if run.setup.has_job and not (run_dir / JOB_NAME).exists():
        gone = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise no_longer_writable(run_dir, gone, step=run.progress.step)
