"""A run under way: what it is, where it is, and the compiled step that takes it further."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from mindspore import Parameter, nn

from effnet_core.events import Event, emit
from effnet_core.jobs.collective import is_statistic
from effnet_core.model.network import EfficientNet
from effnet_core.train.optim import create_optimizer, of_head
from effnet_core.train.schedule import rate_at
from effnet_core.train.setup import TOPIC, Setup
from effnet_core.train.state import Progress
from effnet_core.train.step import TrainStep


@dataclass
class Run:
    """A run under way in this process.

    It holds nothing that changes and must outlive the process but ``progress`` and the parameters.
    """

    setup: Setup
    progress: Progress
    cell: TrainStep
    """The compiled step in its present form; it owns the optimizer."""
    resumed_from: int = 0
    """The step from which this process continues."""

    @property
    def optimizer(self) -> nn.Optimizer:
        """The optimizer of the parameters that learn at present."""
        return self.cell.optimizer

    @property
    def expected_steps(self) -> float:
        """Updates in the whole run, estimated from the time spent where the clock ends it."""
        setup, progress = self.setup, self.progress
        if setup.schedule is not None:
            return len(setup.schedule)
        if setup.limit_s is None or progress.spent_s >= setup.limit_s:
            return progress.step
        return max(1, progress.step) * setup.limit_s / max(progress.spent_s, 1.0)

    @property
    def total_steps(self) -> int:
        """Updates in the whole run, as a whole number."""
        return round(self.expected_steps)

    @property
    def share(self) -> float:
        """Which part of the run is done, 0-1."""
        if self.setup.limit_s is not None:
            return self.progress.spent_s / self.setup.limit_s
        return self.progress.step / self.total_steps

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to learn: the run's length is reached, or it stopped early."""
        progress, patience = self.progress, self.setup.config.train.early_stop_evaluations
        if 0 < patience <= progress.best.missed and progress.epoch_finished:
            return True
        if self.setup.limit_s is not None:
            return progress.spent_s >= self.setup.limit_s
        return progress.step >= self.total_steps

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.progress.step // self.setup.steps_per_epoch

    @property
    def at_epoch_end(self) -> bool:
        """Whether an epoch, or the run, ends with the last finished update."""
        return self.progress.step % self.setup.steps_per_epoch == 0 or self.finished

    def parameters(self) -> list[Parameter]:
        """Weights, statistics and optimizer state, each once."""
        options = self.setup.step_options
        found = [*self.setup.network.get_parameters(), *self.optimizer.get_parameters()]
        if options.ema is not None:
            found += options.ema.averages
        if options.loss_scale is not None:
            found += options.loss_scale.get_parameters()
        return list({parameter.name: parameter for parameter in found}.values())

    def statistics(self) -> list[Parameter]:
        """BatchNorm's running statistics: what ranks do not have in common within an epoch."""
        return [parameter for parameter in self.parameters() if is_statistic(parameter.name)]

    def set_train(self) -> None:
        """Make network and step ready for updates.

        A frozen backbone, or ``train.freeze_bn``, keeps the statistics: BatchNorm uses them and does not
        change them. Nothing else in the network depends on this mode.
        """
        by_batch = not (self.progress.frozen or self.setup.config.train.freeze_bn)
        self.setup.network.set_train(by_batch)
        self.cell.set_train(by_batch)

    def tell(self, message: str) -> None:
        """Emit a message, once for all ranks."""
        if self.setup.group.is_first:
            emit(Event(TOPIC, message, self.progress.step, self.total_steps))


def start(setup: Setup) -> Run:
    """A run before its first step."""
    frozen = setup.frozen_steps > 0
    progress = Progress(frozen=frozen, train_size=setup.training_size(0.0))
    return Run(setup, progress, step_cell(setup, frozen=frozen))


def step_cell(setup: Setup, *, frozen: bool) -> TrainStep:
    """A compiled step with fresh optimizer state."""
    optimizer = create_optimizer(learning(setup.network, frozen=frozen), setup.config.optim)
    return TrainStep(setup.network, optimizer, setup.step_options)


def learning(network: EfficientNet, *, frozen: bool) -> list[Parameter]:
    """The parameters that learn: all, or the classifier's where the backbone is frozen."""
    parameters = list(network.trainable_params())
    return [p for p in parameters if of_head(p.name)] if frozen else parameters


def unfreeze(run: Run) -> None:
    """Let the backbone learn from here on, with fresh optimizer state."""
    progress = run.progress
    progress.frozen, progress.same_since = False, progress.step
    run.cell = step_cell(run.setup, frozen=False)
    if 0 < progress.step < run.total_steps:
        run.tell(f"the whole network learns from step {progress.step + 1} on")


def next_lr(run: Run) -> float:
    """The learning rate of the next update."""
    setup, step = run.setup, run.progress.step
    if setup.schedule is not None:
        return float(setup.schedule[step])
    lr = rate_at(
        setup.config.schedule,
        setup.config.peak_lr,
        step=np.array([step], dtype=np.float64),
        steps_per_epoch=setup.steps_per_epoch,
        total_steps=run.expected_steps,
    )
    return float(lr[0])


def describe(run: Run) -> str:
    """What is trained, in one line."""
    setup = run.setup
    config = setup.config
    return (
        f"{len(setup.train_split)} images, {setup.dataset.num_classes} classes, "
        f"{run.progress.train_size} px, {config.train.length}, {setup.steps_per_epoch} steps an epoch, "
        f"global batch {config.data.global_batch_size} on {setup.group.world_size} process(es), "
        f"peak rate {config.peak_lr:.5f}{_precision(run)}"
    )


def _precision(run: Run) -> str:
    """How it computes, where that is not simply float32."""
    config = run.setup.config
    if config.train.amp_level == "O0":
        return ""
    slow = " (slower than O0 on a CPU)" if config.runtime.device == "CPU" else ""
    return f", precision {config.train.amp_level} with {config.amp_dtype}{slow}"
