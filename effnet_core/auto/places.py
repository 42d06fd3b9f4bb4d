"""Where the parts of a run lie: the staged data set beside it, and a folder for a run that was given none."""

from __future__ import annotations

import re
from pathlib import Path

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import DATASET_NAME
from effnet_core.errors import EffnetError
from effnet_core.jobs.job import RESULT_NAME, TrainJob, read_job
from effnet_core.storage.addresses import is_s3
from effnet_core.system.files import sha256_of_text

RUNS = Path("runs/train")
"""Where trainings lie that nobody gave a folder."""
STAGED_NAME = "staged"
"""Folder beside the runs for data sets that were staged for them, each once."""


def is_staged(data: str | Path) -> bool:
    """Whether a folder holds a data set that was staged, or whose staging was begun."""
    return not is_s3(str(data)) and (Path(data) / DATASET_NAME).is_file()


def staged_folder(data: str | Path, run_dir: Path) -> Path:
    """Where the pictures of a run are, or will be, staged: the folder itself, or one beside the run."""
    if is_staged(data):
        return Path(data)
    text = str(data).rstrip("/")
    whole = text if is_s3(text) else str(Path(text).resolve())
    return run_dir.resolve().parent / STAGED_NAME / f"{name_of(data)}-{sha256_of_text(whole)[:8]}"


def name_of(data: str | Path) -> str:
    """A word for pictures: the last part of their path, as a name of a folder."""
    last = re.split(r"[/\\]", str(data).rstrip("/"))[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "-", last).strip("-.")[:40] or "pictures"


def run_folder(config: RunConfig, data: str | Path, runs: Path = RUNS) -> Path:
    """The folder of a run that was given none.

    It is named like the pictures. A run of the same settings and pictures that has not ended is continued;
    otherwise the folder is a new one.
    """
    name, number = name_of(data), 1
    while True:
        folder = runs / (name if number == 1 else f"{name}-{number}")
        if not folder.exists() or _continues(config, data, folder):
            return folder
        number += 1


def _continues(config: RunConfig, data: str | Path, folder: Path) -> bool:
    """Whether a folder holds an unfinished run that this one is."""
    try:
        if (folder / RESULT_NAME).exists():
            return False
        job, before = read_job(folder), read_config(folder / CONFIG_NAME)
    except EffnetError:
        return False
    if not isinstance(job, TrainJob) or job.data_dir != staged_folder(data, folder).resolve():
        return False
    return not differing(config, before)


def differing(config: RunConfig, before: RunConfig) -> list[str]:
    """Settings given in ``config`` that are others in ``before``; places and devices do not count.

    Nor do names of weights, which ``before`` holds as a path, and the variant where weights decided it.
    """
    found = []
    for section in ("model", "data", "optim", "schedule", "train", "evaluate", "auto"):
        given, earlier = getattr(config, section), getattr(before, section)
        found += [
            f"{section}.{key}"
            for key in sorted(given.model_fields_set)
            if getattr(given, key) != getattr(earlier, key)
        ]
    weights = "weights" in config.model.model_fields_set
    if weights and (config.model.weights is None) == (before.model.weights is None):
        found = [key for key in found if key != "model.weights"]
    if not weights and before.model.weights is not None:
        found = [key for key in found if key != "model.variant"]
    return found
