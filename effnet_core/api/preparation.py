"""Check a training run and its folder before its ranks start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_core.api.finished import is_finished, training_result
from effnet_core.api.opening import open_weights
from effnet_core.api.staging import ensure_records
from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.errors import CheckpointError, ConfigError, DataError, OutputExists
from effnet_core.events import Event, emit
from effnet_core.jobs.job import JOB_NAME, TrainJob, read_job
from effnet_core.results import TrainResult
from effnet_core.system.files import is_empty, make_folder
from effnet_core.weights.catalogue import PRODUCTION

if TYPE_CHECKING:
    from effnet_core.weights.checkpoint import Checkpoint

RUNTIME_ONLY = ("runtime", "infer", "storage")
"""Sections that may change between a run and its resumption."""


@dataclass(frozen=True)
class Prepared:
    """A training run that is ready to start: what ``run_job`` or ``write_job`` takes."""

    job: TrainJob
    config: RunConfig
    """With everything looked up that the person's settings left open."""


def prepare_training(config: RunConfig, data_dir: Path, run_dir: Path) -> TrainResult | Prepared:
    """Check a run and its folder before its ranks start, anew or to resume.

    Returns:
        What the ranks are to do, or the result, where the run is finished already.

    Raises:
        OutputExists: ``run_dir`` holds a run with other settings or data, or foreign files.
        EffnetError: settings, data and weights do not fit together.
    """
    dataset = open_dataset(data_dir)
    require_images(config, dataset.counts)
    config = _without_a_probe_of_nothing(config)
    from_production = config.model.weights == PRODUCTION
    job = TrainJob(data_dir.resolve(), dataset.digest, from_production)
    before = earlier_run(run_dir)
    config = _with_absolute_paths(config, before)
    make_folder(run_dir, what="run folder")
    if before is not None:
        _require_same_run(Prepared(job, config), before, run_dir)
        if is_finished(run_dir):
            result = training_result(run_dir)
            emit(Event("train", f"{run_dir} is finished already; its result is used", 1, 1))
            return result
    elif not is_empty(run_dir):
        raise OutputExists(f"run folder {run_dir} is not empty and holds no run; choose another")
    if config.data.format == "mindrecord":
        ensure_records(dataset, (config.data.train_split, config.data.eval_split), config)
    return Prepared(job, config)


def _without_a_probe_of_nothing(config: RunConfig) -> RunConfig:
    """Leave out the probe where no weights are given, since it classifies their features.

    Raises:
        ConfigError: nothing but the probe was asked for.
    """
    if config.train.probe == "none" or config.model.weights is not None:
        return config
    if config.train.probe == "only":
        raise ConfigError(
            "train.probe=only fits a classifier on features of weights, and model.weights is null; set "
            "model.weights, or train.probe=none"
        )
    emit(Event("train", "model.weights is null: no probe, training starts from random weights"))
    return config.model_copy(update={"train": config.train.model_copy(update={"probe": "none"})})


def is_same(config: RunConfig, before: Prepared) -> bool:
    """Whether an earlier start of a run was given the same settings as this one."""
    from effnet_core.auto.places import differing

    weights, earlier = config.model.weights, before.config.model.weights
    if weights is not None and not (weights == PRODUCTION and before.job.from_production):
        same = str(open_weights(weights, config.storage).path.resolve()) == earlier
        return same and not differing(config, before.config)
    return not differing(config, before.config)


def require_images(config: RunConfig, counts: dict[str, int]) -> None:
    """Refuse what cannot make a single step, before any process is started."""
    images = counts.get(config.data.train_split, 0)
    require_image_a_rank(config, images)
    per_rank = config.per_device_batch_size  # refuses what does not divide
    if images and (per_rank < 1 or config.data.global_batch_size > images * config.data.repeats):
        raise DataError(
            f"data.global_batch_size={config.data.global_batch_size} is more than the {images} images of "
            f"split {config.data.train_split!r}; lower it"
        )


def require_image_a_rank(config: RunConfig, images: int) -> None:
    """Refuse more ranks than there are training images."""
    if images and config.runtime.world_size > images:
        raise ConfigError(
            f"runtime.world_size={config.runtime.world_size} is more than the {images} training images; "
            "lower runtime.world_size"
        )


def earlier_run(run_dir: Path) -> Prepared | None:
    """The training run that lies in a folder already.

    Raises:
        OutputExists: the folder holds another kind of job.
    """
    if not (run_dir / JOB_NAME).exists():
        return None
    job = read_job(run_dir)
    if not isinstance(job, TrainJob):
        raise OutputExists(f"folder {run_dir} holds no training run; choose another")
    return Prepared(job, read_config(run_dir / CONFIG_NAME))


def _with_absolute_paths(config: RunConfig, before: Prepared | None) -> RunConfig:
    """Ranks run in another folder, so paths that people gave must not be relative.

    A run that began from ``production`` resumes as it began, whatever is in production now.
    """
    resume = config.train.resume_from
    train = {"resume_from": resume.resolve()} if resume else {}
    config = config.model_copy(update={"train": config.train.model_copy(update=train)})
    weights = config.model.weights
    if weights is None:
        return config
    if (
        before
        and before.config.model.weights
        and before.job.from_production
        and weights == PRODUCTION
    ):
        weights = before.config.model.weights
    checkpoint = open_weights(weights, config.storage)
    variant = checkpoint.sidecar.variant
    if "variant" not in config.model.model_fields_set:
        model = config.model.model_copy(update={"variant": variant})
        config = config.model_copy(update={"model": model})
    elif variant != config.model.variant:
        raise CheckpointError(
            f"checkpoint {checkpoint.path} is of variant {variant}, the run trains "
            f"{config.model.variant}; leave out model.variant, or choose another checkpoint"
        )
    return _starting_from(config, checkpoint)


def _starting_from(config: RunConfig, checkpoint: Checkpoint) -> RunConfig:
    """Settings that were left open follow the weights: padding, eps and what images are made of.

    Image size and crop stay the run's own, because a network takes images of any size.
    """
    sidecar = checkpoint.sidecar
    own = sidecar.preprocess
    model: dict[str, Any] = {"bn_eps": sidecar.bn_eps, "padding": sidecar.padding}
    data = {"interpolation": own.interpolation, "mean": own.mean, "std": own.std}
    open_model = {key: value for key, value in model.items() if getattr(config.model, key) is None}
    open_data = {key: value for key, value in data.items() if getattr(config.data, key) is None}
    open_model["weights"] = str(checkpoint.path.resolve())
    return config.model_copy(
        update={
            "model": config.model.model_copy(update=open_model),
            "data": config.data.model_copy(update=open_data),
        }
    )


def _require_same_run(run: Prepared, earlier: Prepared, run_dir: Path) -> None:
    before, now = (one.config.model_dump(mode="json") for one in (earlier, run))
    changed = [
        f"{section}.{key}"
        for section, values in now.items()
        if section not in RUNTIME_ONLY
        for key, value in values.items()
        if before[section][key] != value
    ]
    if before["runtime"]["world_size"] != now["runtime"]["world_size"]:
        changed.append("runtime.world_size")
    if earlier.job.data_digest != run.job.data_digest:
        changed.append("the data set")
    if changed:
        raise OutputExists(
            f"run folder {run_dir} holds another run (differs in {', '.join(changed)}); "
            "choose another folder, or give the settings of that run to continue with it"
        )
