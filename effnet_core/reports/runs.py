"""What lies in folders of training runs: which there are, how far they came, how good they are."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import DataError, EffnetError
from effnet_core.jobs.job import (
    ERROR_NAME,
    JOB_NAME,
    METRICS_NAME,
    RESULT_NAME,
    TrainJob,
    read_job,
)
from effnet_core.results import TrainResult
from effnet_core.results.answers import ANSWERS_NAME, Answers
from effnet_core.system.files import read_json, read_jsonl
from effnet_core.weights.checkpoint import MODEL_NAME

DEEPEST = 5
"""Folders below the one that is looked through, at most."""
State = Literal["finished", "failed", "unfinished", "unreadable"]


@dataclass(frozen=True)
class RunSummary:
    """One training run, as a line of a list."""

    folder: Path
    state: State
    began: str
    """UTC, ISO 8601."""
    variant: str = ""
    data: str = ""
    """The staged data set's folder."""
    epochs: int = 0
    """Finished ones."""
    top1: float | None = None
    """Of the finished model, else of the last evaluation."""
    reason: str = ""
    """Why it failed or cannot be read."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**vars(self), "folder": str(self.folder)}


@dataclass(frozen=True)
class Run:
    """A finished training run, with all that a comparison shows."""

    name: str
    folder: Path
    config: RunConfig
    result: TrainResult
    metrics: list[dict[str, Any]]
    size_bytes: int
    """Of the model's file."""
    answers: Answers | None
    """To each image of its last evaluation; runs of earlier versions have none."""

    @classmethod
    def open(cls, folder: Path, name: str = "") -> Run:
        """The run in a folder.

        Raises:
            DataError: it holds none, or one that is not finished.
        """
        if not isinstance(read_job(folder) if (folder / JOB_NAME).is_file() else None, TrainJob):
            raise DataError(
                f"{folder} holds no training run; effnet runs lists those that there are"
            )
        if not (folder / RESULT_NAME).is_file():
            raise DataError(f"the training run in {folder} is not finished")
        try:
            answers = Answers.read(folder / ANSWERS_NAME)
        except DataError:
            answers = None
        model = folder / MODEL_NAME
        return cls(
            name or folder.name,
            folder,
            read_config(folder / CONFIG_NAME),
            TrainResult.read(folder / RESULT_NAME),
            read_jsonl(folder / METRICS_NAME),
            model.stat().st_size if model.is_file() else 0,
            answers,
        )


def find_runs(root: Path) -> Iterator[Path]:
    """Folders of training runs below a folder, and the folder itself if it is one, in order.

    Raises:
        DataError: there is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"folder {root} does not exist")
    for folder, inside, files in os.walk(root):
        inside.sort()
        depth = len(Path(folder).relative_to(root).parts)
        if JOB_NAME in files and CONFIG_NAME in files and _is_training(Path(folder)):
            inside.clear()
            yield Path(folder)
        elif depth >= DEEPEST:
            inside.clear()


def list_runs(root: Path) -> list[RunSummary]:
    """Every training run below a folder, newest first."""
    found = [_summarise(folder) for folder in find_runs(root)]
    return sorted(found, key=lambda run: (run.began, str(run.folder)), reverse=True)


def open_runs(folders: Iterable[Path]) -> list[Run]:
    """Finished runs, named by what tells their folders apart.

    Raises:
        DataError: one of them is none.
    """
    paths = [folder.resolve() for folder in folders]
    return [Run.open(path, name) for path, name in zip(paths, _names(paths), strict=True)]


def _names(paths: list[Path]) -> list[str]:
    """The shortest ends of paths that are all different."""
    for count in range(1, 1 + max((len(path.parts) for path in paths), default=1)):
        names = ["/".join(path.parts[-count:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
    return list(map(str, paths))


def _is_training(folder: Path) -> bool:
    try:
        return isinstance(read_job(folder), TrainJob)
    except EffnetError:
        return True  # it is listed as one that cannot be read


def _summarise(folder: Path) -> RunSummary:
    began = datetime.fromtimestamp((folder / CONFIG_NAME).stat().st_mtime, timezone.utc)
    moment = began.isoformat(timespec="seconds")
    try:
        config, job = read_config(folder / CONFIG_NAME), read_job(folder)
        rows = [r for r in read_jsonl(folder / METRICS_NAME) if r.get("kind") == "eval"]
        state: State = "unfinished"
        reason, top1, epochs = "", None, 0
        if rows:
            top1, epochs = rows[-1].get("top1"), int(rows[-1].get("epoch", 0))
        if (folder / RESULT_NAME).is_file():
            result = TrainResult.read(folder / RESULT_NAME)
            state, top1, epochs = "finished", result.evaluation.top1, result.epochs
        elif (folder / ERROR_NAME).is_file():
            state, reason = "failed", str(read_json(folder / ERROR_NAME).get("message", ""))
    except (EffnetError, ValueError, TypeError, AttributeError) as problem:
        return RunSummary(folder, "unreadable", moment, reason=" ".join(str(problem).split()))
    data = str(job.data_dir) if isinstance(job, TrainJob) else ""
    return RunSummary(folder, state, moment, config.model.variant, data, epochs, top1, reason)
