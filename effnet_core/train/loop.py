"""The one training loop: what every rank runs, from top to bottom."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn
from numpy.typing import NDArray

from effnet_core import checkpoint as checkpoints
from effnet_core.checkpoint import CLASSIFIER, Sidecar
from effnet_core.collective import Group, parameters_digest
from effnet_core.config import RunConfig
from effnet_core.data.loader import Batch, batches
from effnet_core.data.manifest import Dataset, Split, open_dataset
from effnet_core.data.order import epoch_order, train_indices
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.data.transforms import train_transforms
from effnet_core.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    Interrupted,
    TrainingDiverged,
)
from effnet_core.evaluate import evaluate_network
from effnet_core.events import Event, emit
from effnet_core.files import append_jsonl, read_jsonl, write_text
from effnet_core.interrupts import stop_requested
from effnet_core.job import CHECKPOINTS_NAME, METRICS_NAME
from effnet_core.model.network import EfficientNet, create_model
from effnet_core.model.regularisation import drop_path_scale, dropout_scale, mask_generator
from effnet_core.model.scaling import drop_path_rates, expand
from effnet_core.model.spec import variant
from effnet_core.results import EvalResult, TrainResult
from effnet_core.train.optim import create_optimizer, of_head, set_learning_rate
from effnet_core.train.schedule import lr_schedule
from effnet_core.train.step import TrainStep

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
    rates: NDArray[np.float32]
    steps_per_epoch: int
    step: int = 0
    """Finished updates since scratch."""
    resumed_from: int = 0
    frozen_steps: int = 0
    """First updates in which only the classifier learns."""
    frozen: bool = False
    """Whether that is so now."""
    latest: EvalResult | None = None
    clock: Clock = field(default_factory=lambda: Clock())  # noqa: PLW0108 - defined below

    @property
    def total_steps(self) -> int:
        """Updates in the whole run."""
        return len(self.rates)

    @property
    def epoch(self) -> int:
        """Finished epochs."""
        return self.step // self.steps_per_epoch


@dataclass
class Clock:
    """Time spent in steps, without compilation, evaluation and saving."""

    steps: int = 0
    seconds: float = 0.0

    def add(self, steps: int, seconds: float) -> None:
        """Count ``steps`` that took ``seconds`` together."""
        self.steps += steps
        self.seconds += seconds


def train(config: RunConfig, group: Group, *, data_dir: Path, run_dir: Path) -> TrainResult:
    """Train, evaluate and save one model.

    Order: data, model, schedule, optimizer, resume, steps, final evaluation. Resume order: the last
    whole checkpoint in ``run_dir`` > ``train.resume_from`` > ``model.weights`` > scratch.

    Args:
        config: every setting.
        group: this rank and the others.
        data_dir: a staged data set.
        run_dir: where rank 0 writes.

    Raises:
        DataError: the data set does not fit.
        CheckpointError: a checkpoint to start from does not fit.
        TrainingDiverged: the loss stopped being finite.
        Interrupted: this process was asked to stop; a checkpoint was written.
    """
    started = time.perf_counter()
    run = _prepare(config, group, data_dir=data_dir, run_dir=run_dir)
    _resume(run)
    step_cell = _step_cell(run)
    _tell(run, f"training {config.model.variant}: {_describe(run)}")
    while run.step < run.total_steps:
        if run.frozen and run.step >= run.frozen_steps:
            _thaw(run)
            step_cell = _step_cell(run)
        _train_epoch(run, step_cell)
        _finish_epoch(run)
    weights = list(run.network.get_parameters())
    digest = parameters_digest(weights)
    print(f"rank {group.rank} of {group.world_size}: final weights sha256 {digest}", flush=True)
    group.require_equal(digest, what="weights")
    return _finish(run, digest, seconds=time.perf_counter() - started)


def _prepare(config: RunConfig, group: Group, *, data_dir: Path, run_dir: Path) -> Run:
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
    optimizer = create_optimizer(_learning(network, frozen=frozen_steps > 0), config.optim)
    spec = PreprocessSpec.from_config(config)
    return Run(
        config,
        group,
        run_dir,
        dataset,
        split,
        spec,
        network,
        optimizer,
        rates,
        steps_per_epoch,
        frozen_steps=frozen_steps,
        frozen=frozen_steps > 0,
    )


def _learning(network: EfficientNet, *, frozen: bool) -> list[Parameter]:
    """The parameters that learn: all, or the classifier's where the backbone is frozen."""
    parameters = list(network.trainable_params())
    return [p for p in parameters if of_head(p.name)] if frozen else parameters


def _thaw(run: Run) -> None:
    """Let the backbone learn from here on, with fresh optimizer state."""
    run.frozen = False
    run.optimizer = create_optimizer(_learning(run.network, frozen=False), run.config.optim)
    if 0 < run.frozen_steps < run.total_steps:
        _tell(run, f"the whole network learns from step {run.frozen_steps + 1} on")


def _step_cell(run: Run) -> TrainStep:
    return TrainStep(
        run.network,
        run.optimizer,
        label_smoothing=run.config.train.label_smoothing,
        world_size=run.group.world_size,
    )


def _resume(run: Run) -> None:
    """Load what the run starts from, on every rank."""
    folder = run.run_dir / CHECKPOINTS_NAME
    source = checkpoints.newest(folder) or run.config.train.resume_from
    if source is not None:
        sidecar = checkpoints.read_sidecar(source)
        _require_same_model(run, source, sidecar)
        if not sidecar.training_state:
            raise CheckpointError(
                f"checkpoint {source} holds weights only, so training cannot go on from it; "
                "use it as model.weights, or give a checkpoints/step-*.ckpt"
            )
        if (
            run.frozen and sidecar.step > run.frozen_steps
        ):  # its optimizer state is of all parameters
            _thaw(run)
        checkpoints.load(source, _all_parameters(run))
        run.step = run.resumed_from = sidecar.step
        if run.step > run.total_steps:
            raise ConfigError(
                f"checkpoint {source} is at step {run.step}, beyond the {run.total_steps} steps of this "
                "run; raise train.epochs"
            )
        _tell(run, f"resuming from {source}, step {run.step} of {run.total_steps}")
    elif run.config.model.weights is not None:
        source = Path(run.config.model.weights)
        sidecar = checkpoints.read_sidecar(source)
        new_head = _starts_new_head(run, sidecar)
        _require_same_model(run, source, sidecar, classes=not new_head)
        weights = [p for p in run.network.get_parameters() if not (new_head and of_head(p.name))]
        skipped = CLASSIFIER if new_head else ()
        checkpoints.load(source, weights, skip=skipped)
        if new_head:
            _clear_head(run.network)
        head = (
            f"; its {sidecar.num_classes} classes are replaced by a new head of {run.dataset.num_classes}"
            if new_head
            else ""
        )
        _tell(run, f"starting from the weights of {source}{head}")
    if run.group.is_first:
        _forget_later_metrics(run.run_dir / METRICS_NAME, run.step)


def _clear_head(network: EfficientNet) -> None:
    """Set the classifier to zero, as BiT does (Kolesnikov et al., 2020).

    A drawn one would first push its noise into the backbone that others have trained.
    """
    for parameter in network.get_parameters():
        if of_head(parameter.name):
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))


def _starts_new_head(run: Run, sidecar: Sidecar) -> bool:
    """Whether the weights' classes are others, and the caller knows: said so, or how many are new."""
    model = run.config.model
    wanted = model.new_head or model.num_classes is not None
    return wanted and sidecar.class_names != run.dataset.class_names


def _require_same_model(run: Run, source: Path, sidecar: Sidecar, *, classes: bool = True) -> None:
    if sidecar.variant != run.config.model.variant:
        raise CheckpointError(
            f"checkpoint {source} is of variant {sidecar.variant}, the run trains "
            f"{run.config.model.variant}; change model.variant or the checkpoint"
        )
    if (sidecar.bn_eps, sidecar.padding) != (run.config.bn_eps, run.config.padding):
        raise CheckpointError(
            f"checkpoint {source} has eps {sidecar.bn_eps:g} and {sidecar.padding} padding, the run "
            f"{run.config.bn_eps:g} and {run.config.padding}; leave out model.bn_eps and model.padding"
        )
    if classes and sidecar.class_names != run.dataset.class_names:
        raise CheckpointError(
            f"checkpoint {source} knows {sidecar.num_classes} classes, the data set has "
            f"{run.dataset.num_classes}, or their names differ; use a checkpoint of the same classes, or "
            "set model.new_head=true to start a new head on its backbone"
        )


def _train_epoch(run: Run, step_cell: TrainStep) -> None:
    """All steps of one epoch, or those that a resumed run has left of it."""
    config, group = run.config, run.group
    epoch, done = divmod(run.step, run.steps_per_epoch)
    order = epoch_order(len(run.split), seed=config.train.seed, epoch=epoch)
    indices = train_indices(
        order,
        rank=group.rank,
        world_size=group.world_size,
        per_device_batch_size=config.per_device_batch_size,
        first_step=done,
    )
    ids = [run.split.image_ids[i] for i in indices]
    shard = hashlib.sha256("".join(ids).encode()).hexdigest()[:12]
    print(
        f"rank {group.rank} of {group.world_size}: epoch {epoch + 1} shard {shard}, "
        f"{len(ids)} images, first {' '.join(ids[:3])}",
        flush=True,
    )
    # A frozen backbone keeps its statistics too: BatchNorm uses them and does not change them.
    run.network.set_train(not run.frozen)
    step_cell.set_train(not run.frozen)
    pending: list[Tensor] = []
    losses: list[float] = []
    since = time.perf_counter()
    for batch in _epoch_batches(run, indices, epoch):
        pending.append(_one_step(run, step_cell, batch))
        run.step += 1
        first_of_process = run.step == run.resumed_from + 1
        last_of_epoch = run.step % run.steps_per_epoch == 0
        if first_of_process or last_of_epoch or run.step % config.train.log_every_steps == 0:
            values = _finite(run, pending)
            seconds = time.perf_counter() - since
            if not first_of_process:
                run.clock.add(len(values), seconds)
            losses += values
            _log_step(run, values, losses, seconds)
            pending, since = [], time.perf_counter()
        if stop_requested():
            raise _saved_stop(run)


def _epoch_batches(run: Run, indices: NDArray[np.int64], epoch: int) -> Iterator[Batch]:
    seed = np.random.SeedSequence([run.config.train.seed, epoch, run.group.rank])
    return batches(
        run.split,
        indices.tolist(),
        transforms=train_transforms(
            replace(run.spec, image_size=run.config.train_image_size), run.config.data
        ),
        batch_size=run.config.per_device_batch_size,
        workers=run.config.data.workers,
        seed=int(seed.generate_state(1)[0] >> 1),
    )


def _one_step(run: Run, step_cell: TrainStep, batch: Batch) -> Tensor:
    config, size = run.config, run.config.per_device_batch_size
    rng = mask_generator(config.train.seed, step=run.step, rank=run.group.rank)
    path_scale = feature_scale = None
    architecture = expand(variant(config.model.variant))
    if config.model.drop_path_rate > 0 and not run.frozen:
        rates = drop_path_rates(len(architecture.blocks), config.model.drop_path_rate)
        path_scale = Tensor(drop_path_scale(rng, rates, size))
    if config.drop_rate > 0:
        shape = (size, architecture.head_channels)
        feature_scale = Tensor(dropout_scale(rng, config.drop_rate, shape))
    set_learning_rate(
        run.optimizer,
        float(run.rates[run.step]),
        backbone_scale=config.optim.backbone_lr_scale,
    )
    return step_cell(batch.images, batch.labels, path_scale, feature_scale)


def _finite(run: Run, pending: list[Tensor]) -> list[float]:
    """The losses of the last steps.

    Raises:
        TrainingDiverged: one of them is not a finite number.
    """
    values = [float(loss.asnumpy()) for loss in pending]
    for offset, value in enumerate(values):
        if not math.isfinite(value):
            step = run.step - len(values) + offset + 1
            raise TrainingDiverged(
                f"the loss became {value} at step {step} of {run.total_steps} (checked in steps "
                f"{run.step - len(values) + 1}-{run.step}) with a learning rate of "
                f"{run.rates[step - 1]:.3g}; lower optim.base_lr or lengthen schedule.warmup_epochs"
            )
    return values


def _log_step(run: Run, values: list[float], losses: list[float], seconds: float) -> None:
    if not run.group.is_first:
        return
    config = run.config
    step_in_epoch = (run.step - 1) % run.steps_per_epoch + 1
    epoch = (run.step - 1) // run.steps_per_epoch + 1
    speed = len(values) * config.data.global_batch_size / seconds
    row: dict[str, Any] = {
        "kind": "train",
        "epoch": epoch,
        "step": run.step,
        "loss": round(values[-1], 6),
        "loss_mean": round(float(np.mean(losses)), 6),
        "lr": float(run.rates[run.step - 1]),
        "images_per_s": round(speed, 2),
        "time": round(time.time(), 3),
    }
    append_jsonl(run.run_dir / METRICS_NAME, row)
    message = (
        f"epoch {epoch}/{config.train.epochs} step {step_in_epoch}/{run.steps_per_epoch} "
        f"loss {row['loss']:.3f} (mean {row['loss_mean']:.3f}) lr {row['lr']:.5f} "
    )
    if run.step == run.resumed_from + 1:
        message += f"({seconds:.0f} s with the compilation of the graph)"
    else:
        message += f"{1000 * seconds / len(values):.0f} ms/step {speed:.1f} images/s"
    emit(Event(STAGE, message, run.step, run.total_steps, row))


def _finish_epoch(run: Run) -> None:
    """Evaluate and save where the settings ask for it, and always at the end."""
    config, last = run.config, run.step >= run.total_steps
    evaluates = last or run.epoch % config.train.evaluate_every_epochs == 0
    saves = last or run.epoch % config.train.checkpoint_every_epochs == 0
    if evaluates or saves:
        run.group.average_statistics(run.network.get_parameters())
        drift = run.group.keep_equal(_all_parameters(run))
        if drift:
            print(
                f"rank {run.group.rank}: took over rank 0's values, apart by {drift:.1e}",
                flush=True,
            )
    if evaluates:
        try:
            _evaluate(run)
        except Interrupted:
            raise _saved_stop(run) from None
    if saves:
        _save(run)


def _evaluate(run: Run) -> None:
    result = evaluate_network(
        run.network,
        run.dataset.split(run.config.data.eval_split),
        run.spec,
        run.config,
        run.group,
        class_names=run.dataset.class_names,
        stage="train: evaluate",
    )
    run.latest = result
    if run.group.is_first:
        row = {
            "kind": "eval",
            "epoch": run.epoch,
            "step": run.step,
            "top1": result.top1,
            "top5": result.top5,
            "loss": result.loss,
            "time": round(time.time(), 3),
        }
        append_jsonl(run.run_dir / METRICS_NAME, row)
        text = f"epoch {run.epoch}/{run.config.train.epochs} top-1 {result.top1:.2%}"
        if result.top5 is not None:
            text += f" top-5 {result.top5:.2%}"
        text += f" on {result.seen} images of {result.split}"
        emit(Event(STAGE, text, run.step, run.total_steps, row))


def _save(run: Run) -> None:
    """Write a training checkpoint on rank 0."""
    if not run.group.is_first:
        return
    folder = run.run_dir / CHECKPOINTS_NAME
    path = checkpoints.step_path(folder, run.step)
    checkpoints.save(path, _all_parameters(run), _sidecar(run, training_state=True))
    checkpoints.prune(folder, run.config.train.keep_checkpoints)


def _saved_stop(run: Run) -> Interrupted:
    """Save, and say so: this process was asked to stop."""
    _save(run)
    return Interrupted(
        f"training was stopped at step {run.step} of {run.total_steps} and saved; "
        "the same command goes on from there"
    )


def _finish(run: Run, digest: str, *, seconds: float) -> TrainResult:
    if run.latest is None:  # the run was complete when it was resumed
        _evaluate(run)
    assert run.latest is not None
    path = run.run_dir / checkpoints.MODEL_NAME
    sha256 = ""
    if run.group.is_first:
        weights = run.network.get_parameters()
        sha256 = checkpoints.save(path, weights, _sidecar(run, training_state=False)).sha256
    evaluation = EvalResult(
        **{**vars(run.latest), "checkpoint_sha256": sha256, "data_digest": run.dataset.digest}
    )
    clock = run.clock
    speed = clock.steps * run.config.data.global_batch_size / clock.seconds if clock.steps else 0.0
    return TrainResult(
        checkpoint=str(path),
        sha256=sha256,
        epochs=run.epoch,
        steps=run.step,
        resumed_from_step=run.resumed_from,
        images_per_s=round(speed, 2),
        evaluation=evaluation,
        world_size=run.group.world_size,
        weights_digest=digest,
        seconds=round(seconds, 3),
    )


def _sidecar(run: Run, *, training_state: bool) -> Sidecar:
    metrics: dict[str, Any] = {}
    if run.latest is not None:
        metrics = {"top1": run.latest.top1, "top5": run.latest.top5, "loss": run.latest.loss}
    return Sidecar(
        variant=run.config.model.variant,
        class_names=run.dataset.class_names,
        preprocess=run.spec,
        bn_momentum=run.config.model.bn_momentum,
        bn_eps=run.config.bn_eps,
        padding=run.config.padding,
        epoch=run.epoch,
        step=run.step,
        training_state=training_state,
        data_digest=run.dataset.digest,
        metrics=metrics,
    )


def _all_parameters(run: Run) -> list[Parameter]:
    """Weights, statistics and optimizer state, each once."""
    found = {p.name: p for p in run.network.get_parameters()}
    found.update({p.name: p for p in run.optimizer.get_parameters()})
    return list(found.values())


def _forget_later_metrics(path: Path, step: int) -> None:
    """Drop lines of steps that will be done again."""
    rows = read_jsonl(path)
    kept = [row for row in rows if row["step"] <= step]
    if len(kept) != len(rows):
        import json

        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))


def _tell(run: Run, message: str) -> None:
    if run.group.is_first:
        emit(Event(STAGE, message, run.step, run.total_steps))


def _describe(run: Run) -> str:
    config = run.config
    return (
        f"{len(run.split)} images, {run.dataset.num_classes} classes, {run.spec.image_size} px, "
        f"{config.train.epochs} epochs of {run.steps_per_epoch} steps, global batch "
        f"{config.data.global_batch_size} on {run.group.world_size} process(es), "
        f"peak rate {config.peak_lr:.5f}"
    )
