"""Where a run's figures go besides metrics.jsonl: TensorBoard's event files, and an MLflow server or folder.

A tracker gets the same rows as metrics.jsonl. A resumed run repeats no step: its first row tells a
tracker from where on earlier rows count no more.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.events import Event, emit
from effnet_core.system.files import read_json, write_json
from effnet_core.text import in_one_line

TENSORBOARD_NAME = "tensorboard"
MLFLOW_NAME = "mlflow.json"
"""Folder and file of a run folder: event files, and which MLflow run it is."""

LEFT_OUT = ("kind", "epoch", "step", "time")
"""Fields of a row that say where a figure belongs, not figures themselves."""

Row = Mapping[str, Any]


class Tracker(Protocol):
    """Something that keeps the figures of a run."""

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        """Keep figures such as ``train/loss`` of a step."""

    def close(self, *, finished: bool) -> None:
        """The process ends; the run may continue in another one unless it is ``finished``."""


class Trackers:
    """All trackers of a run as one; rows in, figures out."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers
        self.complained: set[str] = set()

    def log(self, row: Row) -> None:
        """Pass on a row of metrics.jsonl."""
        figures = {
            f"{row['kind']}/{key}": float(value)
            for key, value in row.items()
            if key not in LEFT_OUT and value is not None
        }
        for tracker in self.trackers:
            with self._spared(tracker):
                tracker.log(figures, step=row["step"])

    def close(self, *, finished: bool) -> None:
        """Everything is written out."""
        for tracker in self.trackers:
            with self._spared(tracker):
                tracker.close(finished=finished)

    @contextmanager
    def _spared(self, tracker: Tracker) -> Iterator[None]:
        """A server that is away does not end a run; it is reported once and tried again with the next row."""
        name = type(tracker).__name__
        try:
            yield
        except Exception as cause:
            if name not in self.complained:
                self.complained.add(name)
                emit(
                    Event(
                        "train",
                        f"{name} takes no figures ({in_one_line(cause)}); metrics.jsonl does",
                    )
                )


class TensorBoard:
    """Event files in the run folder, which ``tensorboard --logdir`` reads."""

    def __init__(self, run_dir: Path, *, from_step: int) -> None:
        library = _library("tensorboardX", "tensorboard")
        # Figures of steps that are done again are hidden by TensorBoard from this step on.
        self.writer = library.SummaryWriter(
            str(run_dir / TENSORBOARD_NAME), purge_step=from_step + 1 if from_step else None
        )

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        """As ``Tracker``."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def close(self, *, finished: bool) -> None:
        """As ``Tracker``."""
        self.writer.close()


class MLflow:
    """A run at ``MLFLOW_TRACKING_URI``, or in the folder ``mlruns`` beside the run folder.

    Its id lies in the run folder, so that a resumed run continues in the same one.
    """

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        library = _library("mlflow", "mlflow")
        uri = (
            os.environ.get("MLFLOW_TRACKING_URI") or (run_dir.parent / "mlruns").resolve().as_uri()
        )
        if uri.startswith("file:"):  # MLflow 3 wants to hear that a plain folder will do
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
        self.client = library.MlflowClient(tracking_uri=uri)
        known = run_dir / MLFLOW_NAME
        if known.exists():
            self.run_id: str = read_json(known)["run_id"]
            self.client.update_run(self.run_id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or config.storage.name
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        self.run_id = self.client.create_run(number, run_name=run_dir.name).info.run_id
        write_json(known, {"run_id": self.run_id, "tracking_uri": uri})
        for section, values in config.model_dump(mode="json").items():
            for key, value in values.items():
                self.client.log_param(self.run_id, f"{section}.{key}", value)

    def log(self, figures: Mapping[str, float], *, step: int) -> None:
        """As ``Tracker``."""
        for name, value in figures.items():
            self.client.log_metric(self.run_id, name, value, step=step)

    def close(self, *, finished: bool) -> None:
        """As ``Tracker``."""
        self.client.set_terminated(self.run_id, status="FINISHED" if finished else "KILLED")


def open_trackers(config: RunConfig, run_dir: Path, *, from_step: int) -> Trackers:
    """The trackers that ``train.trackers`` names.

    Args:
        from_step: the step from which the run continues.

    Raises:
        ConfigError: one of them is not installed, or MLflow cannot be reached.
    """
    found: list[Tracker] = []
    if "tensorboard" in config.train.trackers:
        found.append(TensorBoard(run_dir, from_step=from_step))
    if "mlflow" in config.train.trackers:
        try:
            found.append(MLflow(config, run_dir))
        except ConfigError:
            raise
        except Exception as cause:
            raise ConfigError(
                f"train.trackers=mlflow: its server or folder cannot be used ({in_one_line(cause)}); see "
                "MLFLOW_TRACKING_URI, or leave it out"
            ) from cause
    return Trackers(found)


def _library(name: str, tracker: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as cause:
        raise ConfigError(
            f"train.trackers={tracker} needs the package {name}, which is not installed; "
            "pip install 'effnet-flows[tracking]', or leave it out"
        ) from cause
