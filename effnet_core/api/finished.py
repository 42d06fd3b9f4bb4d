"""Results of runs that have ended, read from their folders."""

from __future__ import annotations

from pathlib import Path

from effnet_core.errors import DataError
from effnet_core.jobs.job import JOB_NAME, RESULT_NAME
from effnet_core.results import EvalResult, TrainResult


def training_result(run_dir: Path) -> TrainResult:
    """The result of a finished training run.

    Raises:
        DataError: the folder holds no run, or one that is not finished.
    """
    if not (run_dir / JOB_NAME).exists():
        raise DataError(f"{run_dir} holds no training run")
    if not (run_dir / RESULT_NAME).exists():
        raise DataError(f"the training run in {run_dir} is not finished; run effnet train again")
    return TrainResult.read(run_dir / RESULT_NAME)


def is_finished(run_dir: Path) -> bool:
    """Whether a folder holds a training run's result and its model."""
    from effnet_core.weights.checkpoint import MODEL_NAME

    return (run_dir / RESULT_NAME).exists() and (run_dir / MODEL_NAME).exists()


def evaluation_of(run_dir: Path, evaluation: Path | None = None) -> EvalResult:
    """An evaluation that lies in a file, or that of a finished training run.

    Args:
        run_dir: folder of the training run.
        evaluation: ``result.json`` of an evaluation, or its folder; the run's own by default.

    Raises:
        DataError: there is none, or it is damaged.
    """
    if evaluation is None:
        return training_result(run_dir).evaluation
    return EvalResult.read(evaluation / RESULT_NAME if evaluation.is_dir() else evaluation)
