"""What one training run consists of, and how it is made ready."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Dataset, Split, open_dataset
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.data.records import split_as
from effnet_core.errors import ConfigError, DataError
from effnet_core.events import Event, emit
from effnet_core.jobs.collective import Group, is_statistic
from effnet_core.jobs.job import JOB_NAME
from effnet_core.jobs.sharing import join
from effnet_core.kernels.choice import library
from effnet_core.model.network import EfficientNet, create_model
from effnet_core.results import EvalResult
from effnet_core.train.optim import create_optimizer, lr_scales, of_head
from effnet_core.train.precision import LossScale, loss_scale, lower
from effnet_core.train.schedule import lr_schedule, rate_at
from effnet_core.train.state import Best, Clock, Losses
from effnet_core.train.step import Ema, TrainStep
from effnet_core.train.tracking import Trackers

if TYPE_CHECKING:
    from effnet_core.train.saver import Saver

STAGE = "train"


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
    rates: NDArray[np.float32] | None
    """Learning rate of every step; None where the run's length is known to the clock only."""
    steps_per_epoch: int
    lr_scales: dict[str, float]
    step: int = 0
    """Finished updates since scratch."""
    resumed_from: int = 0
    epoch_finished: bool = True
    """Whether the epoch that ended at ``step`` has been evaluated and saved."""
    frozen_steps: int = 0
    """First updates in which only the classifier learns."""
    frozen: bool = False
    """Whether that is so now."""
    train_size: int = 0
    """Side of the training input, px."""
    same_since: int = 0
    """The update with which the compiled step took its present form."""
    equal_since: int = 0
    """The update after which all ranks were made equal."""
    spent_s: float = 0.0
    """Seconds since the first step, those of processes that were cut included; as rank 0 counts."""
    begun: float | None = None
    """When, by this process's clock, the first step would have been done without interruptions."""
    rate: float = 0.0
    """Learning rate of the last update."""
    latest: EvalResult | None = None
    best: Best = field(default_factory=Best)
    ema: Ema | None = None
    loss_scale: LossScale | None = None
    trackers: Trackers = field(default_factory=lambda: Trackers([]))
    """Where rows of metrics.jsonl go besides; only rank 0 has some."""
    losses: Losses = field(default_factory=Losses)
    clock: Clock = field(default_factory=Clock)
    saver: Saver | None = None
    """Writes checkpoints; only rank 0 has one."""
    shared_by: Path | None = None
    """The library of native kernels, where gradients are averaged through shared memory."""
    has_job: bool = False
    """Whether a job lay in the run folder when the run began."""

    @property
    def limit_s(self) -> float | None:
        """Seconds that the run may last, where that is what ends it."""
        length = self.config.train.length
        return 60 * length.amount if length.unit == "minutes" else None

    @property
    def expected_steps(self) -> float:
        """Updates in the whole run, reckoned from the time spent where the clock ends it."""
        if self.rates is not None:
            return len(self.rates)
        if self.limit_s is None or self.spent_s >= self.limit_s:
            return self.step
        return max(1, self.step) * self.limit_s / max(self.spent_s, 1.0)

    @property
    def total_steps(self) -> int:
        """Updates in the whole run, as a whole number."""
        return round(self.expected_steps)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to learn: the run's length is reached, or it stopped early."""
        patience = self.config.train.early_stop_evaluations
        if 0 < patience <= self.best.missed and self.epoch_finished:
            return True
        if self.limit_s is not None:
            return self.spent_s >= self.limit_s
        return self.step >= self.total_steps

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch

    @property
    def at_epoch_end(self) -> bool:
        """Whether an epoch, or the run, ends with the last finished update."""
        return self.step % self.steps_per_epoch == 0 or self.finished

    def parameters(self) -> list[Parameter]:
        """Weights, statistics and optimizer state, each once."""
        found = {p.name: p for p in self.network.get_parameters()}
        found.update({p.name: p for p in self.optimizer.get_parameters()})
        if self.ema is not None:
            found.update({p.name: p for p in self.ema.averages})
        if self.loss_scale is not None:
            found.update({p.name: p for p in self.loss_scale.get_parameters()})
        return list(found.values())

    def statistics(self) -> list[Parameter]:
        """BatchNorm's running statistics: what ranks do not have in common within an epoch."""
        return [parameter for parameter in self.parameters() if is_statistic(parameter.name)]

    def tell(self, message: str) -> None:
        """Say something, once for all ranks."""
        if self.group.is_first:
            emit(Event(STAGE, message, self.step, self.total_steps))


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


def prepare(config: RunConfig, group: Group, *, data_dir: Path, run_dir: Path) -> Run:
    """A run before its first step, from scratch.

    Raises:
        DataError: the data set does not fit.
        ConfigError: the settings do not fit the data.
    """
    dataset = open_dataset(data_dir)
    split = split_as(dataset, config.data.train_split, config.data)
    split_as(dataset, config.data.eval_split, config.data)
    if config.model.num_classes not in (None, dataset.num_classes):
        raise ConfigError(
            f"model.num_classes={config.model.num_classes} but the data set {data_dir} has "
            f"{dataset.num_classes} classes; leave model.num_classes out to follow the data"
        )
    per_update = config.per_device_batch_size * group.world_size * config.optim.accumulate_steps
    steps_per_epoch = len(split) * config.data.repeats // per_update
    if steps_per_epoch == 0:
        raise DataError(
            f"global_batch_size={config.data.global_batch_size} is more than the {len(split)} images of "
            f"split {split.name!r}; lower data.global_batch_size"
        )
    own = _operators(config, group)
    network = create_model(
        config.model.variant,
        num_classes=dataset.num_classes,
        bn_momentum=config.model.bn_momentum,
        bn_eps=config.bn_eps,
        padding=config.padding,
        seed=config.train.seed,
        library=own,
    )
    lower(network, config)
    length = config.train.length
    steps = length.steps(steps_per_epoch=steps_per_epoch, batch_size=config.data.global_batch_size)
    rates = None
    if steps is not None:
        rates = lr_schedule(
            config.schedule, config.peak_lr, steps_per_epoch=steps_per_epoch, total_steps=steps
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
        lr_scales([p.name for p in network.trainable_params()], config.optim),
        frozen_steps=frozen_steps,
        frozen=frozen,
        train_size=training_size(config, 0.0),
        ema=_averages(network, config.train.ema_decay),
        loss_scale=loss_scale(config),
        shared_by=join(own, group),
        has_job=(run_dir / JOB_NAME).exists(),
    )


def _tell_first(group: Group, message: str) -> None:
    if group.is_first:
        emit(Event(STAGE, message))


def _averages(network: EfficientNet, decay: float) -> Ema | None:
    return Ema(list(network.get_parameters()), decay) if decay > 0 else None


def training_size(config: RunConfig, share: float) -> int:
    """Side of the training input after a ``share`` of the run, px."""
    sizes = config.data.progressive_sizes or (config.train_image_size,)
    return sizes[min(len(sizes) - 1, int(share * len(sizes)))]


def next_rate(run: Run) -> float:
    """The learning rate of the update after ``run.step``."""
    if run.rates is not None:
        return float(run.rates[run.step])
    rate = rate_at(
        run.config.schedule,
        run.config.peak_lr,
        step=np.array([run.step], dtype=np.float64),
        steps_per_epoch=run.steps_per_epoch,
        total_steps=run.expected_steps,
    )
    return float(rate[0])


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
        class_weights=class_weights(run),
        clip_norm=run.config.optim.clip_norm,
        accumulate_steps=run.config.optim.accumulate_steps,
        ema=run.ema,
        loss_scale=run.loss_scale,
        shared_by=run.shared_by,
    )


def class_weights(run: Run) -> Tensor | None:
    """Weight of each class in the loss, (num_classes,), or None for one each.

    Raises:
        ConfigError: there are not as many as classes.
    """
    wanted, classes = run.config.train.class_weights, run.dataset.num_classes
    if wanted is None:
        return None
    if wanted == "balanced":
        counts = np.bincount(run.split.labels, minlength=classes)
        values = len(run.split) / (classes * np.maximum(counts, 1))
    else:
        values = np.array(wanted)
    if len(values) != classes:
        raise ConfigError(
            f"train.class_weights has {len(values)} numbers, the data set {classes} classes "
            f"({', '.join(run.dataset.class_names[:3])}, ...); give one for each"
        )
    return Tensor(values.astype(np.float32))


def describe(run: Run) -> str:
    """What is trained, in one line."""
    config = run.config
    return (
        f"{len(run.split)} images, {run.dataset.num_classes} classes, {run.train_size} px, "
        f"{config.train.length}, {run.steps_per_epoch} steps an epoch, global batch "
        f"{config.data.global_batch_size} on {run.group.world_size} process(es), "
        f"peak rate {config.peak_lr:.5f}{_precision(config)}"
    )


def _precision(config: RunConfig) -> str:
    """How it computes, where that is not simply float32."""
    if config.train.amp_level == "O0":
        return ""
    slow = " (slower than O0 on a CPU)" if config.runtime.device == "CPU" else ""
    return f", precision {config.train.amp_level} with {config.amp_dtype}{slow}"
