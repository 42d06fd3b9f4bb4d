"""What a training run is: everything that stays the same from its first step to its last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Dataset, Split, open_dataset
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.data.records import split_as
from effnet_core.errors import ConfigError, DataError
from effnet_core.events import Event, emit
from effnet_core.jobs.collective import Group
from effnet_core.jobs.job import JOB_NAME
from effnet_core.jobs.sharing import join
from effnet_core.kernels.choice import library
from effnet_core.model.network import EfficientNet, create_model
from effnet_core.train.balance import weights_of_classes
from effnet_core.train.optim import lr_scales
from effnet_core.train.precision import loss_scale, lower
from effnet_core.train.schedule import lr_schedule
from effnet_core.train.step import Ema, StepOptions

TOPIC = "train"


@dataclass(frozen=True)
class Setup:
    """What a run is."""

    config: RunConfig
    group: Group
    run_dir: Path
    dataset: Dataset
    train_split: Split
    eval_split: Split
    spec: PreprocessSpec
    network: EfficientNet
    step_options: StepOptions
    steps_per_epoch: int
    schedule: NDArray[np.float32] | None
    """Learning rate of every step; None where only the clock knows how many there are."""
    lr_scales: dict[str, float]
    """Learning rate of each parameter as a share of the classifier's."""
    has_job: bool
    """Whether the run folder held a job when the run began."""

    @property
    def limit_s(self) -> float | None:
        """Seconds that the run may last, where that is what ends it."""
        length = self.config.train.length
        return 60 * length.amount if length.unit == "minutes" else None

    @property
    def frozen_steps(self) -> int:
        """First updates in which only the classifier learns."""
        return self.config.train.freeze_epochs * self.steps_per_epoch

    def training_size(self, share: float) -> int:
        """Side of the training input after a ``share`` of the run, px."""
        sizes = self.config.data.progressive_sizes or (self.config.train_image_size,)
        return sizes[min(len(sizes) - 1, int(share * len(sizes)))]


def prepare(config: RunConfig, group: Group, *, data_dir: Path, run_dir: Path) -> Setup:
    """The setup of a run, its network freshly initialised.

    Raises:
        DataError: the data set does not fit.
        ConfigError: the settings do not fit the data.
    """
    dataset = open_dataset(data_dir)
    train_split = split_as(dataset, config.data.train_split, config.data)
    eval_split = split_as(dataset, config.data.eval_split, config.data)
    _require_classes(config, dataset)
    steps_per_epoch = _steps_per_epoch(config, group, train_split)
    operators = _operators(config, group)
    network = _network(config, dataset.num_classes, operators)
    return Setup(
        config,
        group,
        run_dir,
        dataset,
        train_split,
        eval_split,
        PreprocessSpec.from_config(config),
        network,
        StepOptions(
            label_smoothing=config.train.label_smoothing,
            class_weights=class_weights(config, dataset, train_split),
            clip_norm=config.optim.clip_norm,
            accumulate_steps=config.optim.accumulate_steps,
            world_size=group.world_size,
            shared_by=join(operators, group),
            ema=_averages(network, config.train.ema_decay),
            loss_scale=loss_scale(config),
        ),
        steps_per_epoch,
        _schedule(config, steps_per_epoch),
        lr_scales([p.name for p in network.trainable_params()], config.optim),
        has_job=(run_dir / JOB_NAME).exists(),
    )


def _require_classes(config: RunConfig, dataset: Dataset) -> None:
    if config.model.num_classes not in (None, dataset.num_classes):
        raise ConfigError(
            f"model.num_classes={config.model.num_classes} but the data set {dataset.root} has "
            f"{dataset.num_classes} classes; leave model.num_classes out to follow the data"
        )


def _steps_per_epoch(config: RunConfig, group: Group, split: Split) -> int:
    per_update = config.per_device_batch_size * group.world_size * config.optim.accumulate_steps
    steps = len(split) * config.data.repeats // per_update
    if steps == 0:
        raise DataError(
            f"global_batch_size={config.data.global_batch_size} is more than the {len(split)} images of "
            f"split {split.name!r}; lower data.global_batch_size"
        )
    return steps


def _operators(config: RunConfig, group: Group) -> Path | None:
    """The library of native CPU kernels, which compute in float32 only."""
    if config.train.amp_level == "O0":
        runtime = config.runtime
        return library(runtime.kernels, runtime.device, lambda line: _tell_first(group, line))
    if config.runtime.kernels == "native":
        raise ConfigError(
            f"runtime.kernels=native computes in float32 only, not with train.amp_level="
            f"{config.train.amp_level}; set runtime.kernels=auto or train.amp_level=O0"
        )
    return None


def _tell_first(group: Group, message: str) -> None:
    if group.is_first:
        emit(Event(TOPIC, message))


def _network(config: RunConfig, num_classes: int, operators: Path | None) -> EfficientNet:
    network = create_model(
        config.model.variant,
        num_classes=num_classes,
        bn_momentum=config.model.bn_momentum,
        bn_eps=config.bn_eps,
        padding=config.padding,
        seed=config.train.seed,
        library=operators,
        layout=config.runtime.layout,
    )
    lower(network, config)
    return network


def _averages(network: EfficientNet, decay: float) -> Ema | None:
    return Ema(list(network.get_parameters()), decay) if decay > 0 else None


def _schedule(config: RunConfig, steps_per_epoch: int) -> NDArray[np.float32] | None:
    """The learning rate of every step, where the number of steps is known."""
    steps = config.train.length.steps(
        steps_per_epoch=steps_per_epoch, batch_size=config.data.global_batch_size
    )
    if steps is None:
        return None
    return lr_schedule(
        config.schedule, config.peak_lr, steps_per_epoch=steps_per_epoch, total_steps=steps
    )


def class_weights(config: RunConfig, dataset: Dataset, split: Split) -> Tensor | None:
    """Weight of each class in the loss, (num_classes,), or None for one each.

    Raises:
        ConfigError: there are not as many as classes.
    """
    weights = weights_of_classes(config.train.class_weights, split, dataset.class_names)
    return None if weights is None else Tensor(weights.astype(np.float32))
