"""What a run tells while it trains: losses that are numbers, lines of the log, rows of metrics.jsonl."""

from __future__ import annotations

import errno
import math
import os
import time
from typing import Any

from mindspore import Tensor

from effnet_core.errors import TrainingDiverged
from effnet_core.events import Event, emit
from effnet_core.files import append_jsonl, no_longer_writable
from effnet_core.jobs.job import JOB_NAME, METRICS_NAME
from effnet_core.results import EvalResult
from effnet_core.train.run import STAGE, Run


def settle(run: Run, pending: list[Tensor]) -> int:
    """Count the losses of the last steps, and forget them.

    Args:
        pending: what the last steps gave, its first element the loss; emptied.

    Returns:
        How many they were.

    Raises:
        TrainingDiverged: one of them is not a finite number.
    """
    values = [float(shared.asnumpy().reshape(-1)[0]) for shared in pending]
    pending.clear()
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            step = run.step - len(values) + offset + 1
            raise TrainingDiverged(
                f"the loss became {value} at step {step} of {run.total_steps} (checked in steps "
                f"{run.step - len(values) + 1}-{run.step}) with a learning rate of "
                f"{run.rate:.3g}; lower optim.base_lr or lengthen schedule.warmup_epochs"
            )
    run.losses.add(values)
    return len(values)


def log_due(run: Run) -> bool:
    """Whether the last step belongs into metrics.jsonl, which does not depend on interruptions."""
    return run.step == 1 or run.at_epoch_end or run.step % run.config.train.log_every_steps == 0


def log_step(run: Run, *, steps: int, seconds: float) -> None:
    """Log the last ``steps``, which took ``seconds``; a resumed run shows at once that it moves."""
    if not run.group.is_first:
        return
    config = run.config
    step_in_epoch = (run.step - 1) % run.steps_per_epoch + 1
    epoch = (run.step - 1) // run.steps_per_epoch + 1
    speed = steps * config.data.global_batch_size / seconds
    row: dict[str, Any] = {
        "kind": "train",
        "epoch": epoch,
        "step": run.step,
        "loss": round(run.losses.last, 6),
        "loss_mean": round(run.losses.mean, 6),
        "lr": run.rate,
        "images_per_s": round(speed, 2),
        "ms_per_step": round(1000 * seconds / steps, 3),
        "time": round(time.time(), 3),
    }
    if log_due(run):
        record(run, row)
    message = (
        f"epoch {epoch}{_of_epochs(run)} step {step_in_epoch}/{run.steps_per_epoch} "
        f"loss {row['loss']:.3f} (mean {row['loss_mean']:.3f}) lr {row['lr']:.5f} "
    )
    if run.step == run.resumed_from + 1:
        message += f"({seconds:.0f} s with the compilation of the graph)"
    else:
        message += f"{1000 * seconds / steps:.0f} ms/step {speed:.1f} images/s"
    emit(Event(STAGE, message, run.step, run.total_steps, row))


def log_evaluation(run: Run, result: EvalResult) -> None:
    """Log what an evaluation found."""
    if not run.group.is_first:
        return
    row = {
        "kind": "eval",
        "epoch": run.epoch,
        "step": run.step,
        "top1": result.top1,
        "top5": result.top5,
        "loss": result.loss,
        "time": round(time.time(), 3),
    }
    record(run, row)
    text = f"epoch {run.epoch}{_of_epochs(run)} top-1 {result.top1:.2%}"
    if result.top5 is not None:
        text += f" top-5 {result.top5:.2%}"
    text += f" on {result.seen} images of {result.split}"
    emit(Event(STAGE, text, run.step, run.total_steps, row))


def _of_epochs(run: Run) -> str:
    """How many epochs there are, where that is known."""
    return "" if run.rates is None else f"/{math.ceil(len(run.rates) / run.steps_per_epoch)}"


def record(run: Run, row: dict[str, Any]) -> None:
    """Add a row to metrics.jsonl.

    Raises:
        DataError: the run folder is gone or cannot be written to.
    """
    require_folder(run)
    try:
        append_jsonl(run.run_dir / METRICS_NAME, row)
    except OSError as cause:
        raise no_longer_writable(run.run_dir, cause, step=run.step) from cause
    run.trackers.log(row)


def require_folder(run: Run) -> None:
    """Make sure that the run folder is still the one in which the run began.

    Where a shared folder is no longer mounted, an empty local one is left in its place, and a checkpoint
    would go there.

    Raises:
        DataError: it is not.
    """
    if run.has_job and not (run.run_dir / JOB_NAME).exists():
        gone = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        raise no_longer_writable(run.run_dir, gone, step=run.step)
