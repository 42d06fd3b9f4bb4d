"""What one training run consists of, and how it is made ready."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mindspore import Parameter, nn
from numpy.typing import NDArray

from effnet_core.collective import Group, is_statistic
from effnet_core.config import RunConfig
from effnet_core.data.manifest import Dataset, Split, open_dataset
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import ConfigError, DataError
from effnet_core.events import Event, emit
from effnet_core.model.network import EfficientNet, create_model
from effnet_core.results import EvalResult
from effnet_core.train.optim import create_optimizer, of_head
from effnet_core.train.schedule import lr_schedule
from effnet_core.train.step import TrainStep

if TYPE_CHECKING:
    from effnet_core.train.saving import Saver

STAGE = "train"


@dataclass
class Clock:
    """Time spent in steps, without compilation, evaluation and saving."""

    steps: int = 0
    seconds: float = 0.0

    def add(self, steps: int, seconds: float) -> None:
        """Count ``steps`` that took ``seconds`` together."""
        self.steps += steps
        self.seconds += seconds


@dataclass
class Losses:
    """The losses of an epoch so far."""

    total: float = 0.0
    count: int = 0
    last: float = 0.0

    @property
    def mean(self) -> float:
        """Mean over the epoch so far."""
        return self.total / self.count

    def add(self, values: list[float]) -> None:
        """Count more steps; one after the other, so that the sum does not depend on how they come."""
        for value in values:
            self.total += value
            self.last = value
        self.count += len(values)


@dataclass
class Run:
    """Everything that one run's steps share."""

    config: RunConfig
    group: Group
    run_dir: Path
    dataset: Dataset
    split: Split
    spec: PreprocessSpec
    network: EfficientNet
    optimizer: nn.Optimizer
    rates: NDArray[np.float32]
    steps_per_epoch: int
    step: int = 0
    """Finished updates since scratch."""
    resumed_from: int = 0
    epoch_finished: bool = True
    """Whether the epoch that ended at ``step`` has been evaluated and saved."""
    frozen_steps: int = 0
    """First updates in which only the classifier learns."""
    frozen: bool = False
    """Whether that is so now."""
    latest: EvalResult | None = None
    losses: Losses = field(default_factory=Losses)
    clock: Clock = field(default_factory=Clock)
    saver: Saver | None = None
    """Writes checkpoints; only rank 0 has one."""

    @property
    def total_steps(self) -> int:
        """Updates in the whole run."""
        return len(self.rates)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def at_epoch_end(self) -> bool:
        """Whether an epoch, or the run, ends with the last finished update."""
        return self.step % self.steps_per_epoch == 0 or self.step >= self.total_steps

    def parameters(self) -> list[Parameter]:
        """Weights, statistics and optimizer state, each once."""
        found = {p.name: p for p in self.network.get_parameters()}
        found.update({p.name: p for p in self.optimizer.get_parameters()})
        return list(found.values())

    def statistics(self) -> list[Parameter]:
        """BatchNorm's running statistics: what ranks do not have in common within an epoch."""
        return [parameter for parameter in self.parameters() if is_statistic(parameter.name)]

    def tell(self, message: str) -> None:
        """Say something, once for all ranks."""
        if self.group.is_first:
            emit(Event(STAGE, message, self.step, self.total_steps))


def prepare(config: RunConfig, group: Group, *, data_dir: Path, run_dir: Path) -> Run:
    """A run before its first step, from scratch.

    Raises:
        DataError: the data set does not fit.
        ConfigError: the settings do not fit the data.
    """
    dataset = open_dataset(data_dir)
    split = dataset.split(config.data.train_split)
    dataset.split(config.data.eval_split)
    if config.model.num_classes not in (None, dataset.num_classes):
        raise ConfigError(
            f"model.num_classes={config.model.num_classes} but the data set {data_dir} has "
            f"{dataset.num_classes} classes; leave model.num_classes out to follow the data"
        )
    steps_per_epoch = len(split) // config.data.global_batch_size
    if steps_per_epoch == 0:
        raise DataError(
            f"global_batch_size={config.data.global_batch_size} is more than the {len(split)} images of "
            f"split {split.name!r}; lower data.global_batch_size"
        )
    network = create_model(
        config.model.variant,
        num_classes=dataset.num_classes,
        bn_momentum=config.model.bn_momentum,
        bn_eps=config.bn_eps,
        padding=config.padding,
        seed=config.train.seed,
    )
    rates = lr_schedule(
        config.schedule,
        config.peak_lr,
        steps_per_epoch=steps_per_epoch,
        epochs=config.train.epochs,
    )
    frozen_steps = config.train.freeze_epochs * steps_per_epoch
    frozen = frozen_steps > 0
    return Run(
        config,
        group,
        run_dir,
        dataset,
        split,
        PreprocessSpec.from_config(config),
        network,
        create_optimizer(learning(network, frozen=frozen), config.optim),
        rates,
        steps_per_epoch,
        frozen_steps=frozen_steps,
        frozen=frozen,
    )


def learning(network: EfficientNet, *, frozen: bool) -> list[Parameter]:
    """The parameters that learn: all, or the classifier's where the backbone is frozen."""
    parameters = list(network.trainable_params())
    return [p for p in parameters if of_head(p.name)] if frozen else parameters


def thaw(run: Run) -> None:
    """Let the backbone learn from here on, with fresh optimizer state."""
    run.frozen = False
    run.optimizer = create_optimizer(learning(run.network, frozen=False), run.config.optim)
    if 0 < run.frozen_steps < run.total_steps:
        run.tell(f"the whole network learns from step {run.frozen_steps + 1} on")


def step_cell(run: Run) -> TrainStep:
    """The compiled step of the run as it is now."""
    return TrainStep(
        run.network,
        run.optimizer,
        label_smoothing=run.config.train.label_smoothing,
        world_size=run.group.world_size,
    )


def describe(run: Run) -> str:
    """What is trained, in one line."""
    config = run.config
    return (
        f"{len(run.split)} images, {run.dataset.num_classes} classes, {run.spec.image_size} px, "
        f"{config.train.epochs} epochs of {run.steps_per_epoch} steps, global batch "
        f"{config.data.global_batch_size} on {run.group.world_size} process(es), "
        f"peak rate {config.peak_lr:.5f}"
    )
