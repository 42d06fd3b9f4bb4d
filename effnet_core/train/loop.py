"""The one training loop: what every rank runs, from top to bottom."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
from mindspore import Tensor

from effnet_core.config.schema import RunConfig
from effnet_core.data.loader import Batch, batches, batches_in_blocks
from effnet_core.data.order import epoch_order, train_indices
from effnet_core.data.records import split_as
from effnet_core.data.transforms import train_transforms
from effnet_core.errors import Interrupted
from effnet_core.jobs.collective import Group, parameters_digest
from effnet_core.jobs.job import CHECKPOINTS_NAME
from effnet_core.jobs.signals import stop_requested
from effnet_core.results import EvalResult, TrainResult
from effnet_core.train import saver, saving
from effnet_core.train.evaluate import evaluate_network
from effnet_core.train.metrics import log_due, log_evaluation, log_step, settle
from effnet_core.train.resume import resume
from effnet_core.train.run import Run, describe, prepare, step_cell, thaw, training_size
from effnet_core.train.state import Best, Losses
from effnet_core.train.step import TrainStep
from effnet_core.train.tracking import open_trackers
from effnet_core.train.update import NOTHING, SAVE, STOP, update
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.load import load_parameters

BLOCK_IMAGES = 4096
"""Images of a rank that are augmented from one seed: what a resumed run has to augment again at most."""


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
        CheckpointError: a checkpoint to start from does not fit, or one cannot be written.
        TrainingDiverged: the loss stopped being finite.
        Interrupted: this process was asked to stop; a checkpoint was written.
    """
    started = time.perf_counter()
    run = prepare(config, group, data_dir=data_dir, run_dir=run_dir)
    cell = resume(run)
    if group.is_first:
        run.saver = saver.Saver(run_dir / CHECKPOINTS_NAME, keep=config.train.keep_checkpoints)
        run.trackers = open_trackers(config, run_dir, from_step=run.step)
    run.tell(f"training {config.model.variant}: {describe(run)}")
    try:
        _train_epochs(run, cell)
        if run.saver is not None:
            run.saver.join()
    finally:
        if run.saver is not None:
            run.saver.close()
        run.trackers.close(finished=run.finished)
    return _finish(run, seconds=time.perf_counter() - started)


def _train_epochs(run: Run, cell: TrainStep) -> None:
    if not run.epoch_finished:  # it was stopped between its last step and its evaluation
        _finish_epoch(run)
    while not run.finished:
        if run.frozen and run.step >= run.frozen_steps:
            thaw(run)
            cell, run.same_since = step_cell(run), run.step
        _train_epoch(run, cell)
        _finish_epoch(run)


def _train_epoch(run: Run, cell: TrainStep) -> None:
    """All steps of one epoch, or those that a resumed run has left of it."""
    config = run.config
    if run.step % run.steps_per_epoch == 0:
        _begin_epoch(run)
    # A frozen backbone keeps its statistics too: BatchNorm uses them and does not change them.
    run.network.set_train(not run.frozen)
    cell.set_train(not run.frozen)
    pending: list[Tensor] = []  # losses that have not been looked at
    unlogged, since = 0, time.perf_counter()
    for parts in _in_parts(_epoch_batches(run), config.optim.accumulate_steps):
        shared = update(run, cell, parts, wish=_wish(run), spent_s=_spent(run))
        pending.append(shared)
        run.step += 1
        if run.begun is None:  # the graph is compiled
            run.begun = time.monotonic() - run.spent_s
        wanted = _heard(run, shared)
        run.epoch_finished = not run.at_epoch_end
        first = run.step == run.resumed_from + 1
        saves = wanted == SAVE or _counted_out(run)
        if first or log_due(run) or saves or wanted == STOP:
            unlogged += settle(run, pending)
        if first or log_due(run):
            seconds = time.perf_counter() - since
            if not first:
                run.clock.add(unlogged, seconds)
            log_step(run, steps=unlogged, seconds=seconds)
            unlogged, since = 0, time.perf_counter()
        if wanted == STOP:
            _stop(run)
        if run.at_epoch_end:
            return
        if saves:
            paused = time.perf_counter()
            saving.save(run)
            since += time.perf_counter() - paused


def _begin_epoch(run: Run) -> None:
    run.losses = Losses()
    share = run.step / run.total_steps if run.limit_s is None else run.spent_s / run.limit_s
    size = training_size(run.config, share)
    if size != run.train_size:
        run.train_size, run.same_since = size, run.step
        run.tell(f"epoch {run.epoch + 1} and on: {size} px")


def _counted_out(run: Run) -> bool:
    """Whether the number of steps asks for a checkpoint."""
    every = run.config.train.checkpoint_every_steps
    return every > 0 and run.step % every == 0


def _spent(run: Run) -> float:
    """Seconds since the first step, by rank 0's clock; all ranks hear the same."""
    if not run.group.is_first:
        return 0.0
    return run.spent_s if run.begun is None else time.monotonic() - run.begun


def _in_parts(loaded: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """So many batches at a time."""
    while parts := list(islice(loaded, size)):
        yield parts


def _epoch_batches(run: Run) -> Iterator[Batch]:
    """This rank's batches of the epoch that ``run.step`` is in, from there to its end."""
    config, group = run.config, run.group
    epoch, done = divmod(run.step, run.steps_per_epoch)
    size, parts = config.per_device_batch_size, config.optim.accumulate_steps
    done *= parts
    order = epoch_order(
        len(run.split), seed=config.train.seed, epoch=epoch, repeats=config.data.repeats
    )
    indices = train_indices(
        order[: run.steps_per_epoch * config.data.global_batch_size],
        rank=group.rank,
        world_size=group.world_size,
        per_device_batch_size=size,
    )
    ids = [run.split.image_ids[i] for i in indices[done * size :]]
    shard = hashlib.sha256("".join(ids).encode()).hexdigest()[:12]
    print(
        f"rank {group.rank} of {group.world_size}: epoch {epoch + 1} shard {shard}, "
        f"{len(ids)} images, first {' '.join(ids[:3])}",
        flush=True,
    )
    spec = replace(run.spec, image_size=run.train_size)

    def block(begin: int, end: int) -> Iterator[Batch]:
        seed = np.random.SeedSequence([config.train.seed, epoch, group.rank, begin])
        return batches(
            run.split,
            indices[begin * size : end * size].tolist(),
            transforms=train_transforms(spec, config.data),
            batch_size=size,
            workers=config.data.workers,
            check_share=config.data.check_share,
            sink=config.data.sink,
            seed=int(seed.generate_state(1)[0] >> 1),
            background=spec.background,
        )

    return batches_in_blocks(
        block, steps=len(indices) // size, first=done, block_steps=max(1, BLOCK_IMAGES // size)
    )


def _wish(run: Run) -> float:
    """What this rank wants after the next step; only rank 0 hears signals and looks at the clock."""
    if not run.group.is_first:
        return NOTHING
    if run.saver is not None:
        run.saver.raise_if_failed()
    if stop_requested():
        return STOP
    return SAVE if saving.due(run) else NOTHING


def _heard(run: Run, shared: Tensor) -> float:
    """What rank 0 wanted, the same on every rank; it came with the gradients of the step."""
    _, wish, spent_s = (float(value) * run.group.world_size for value in shared.asnumpy())
    run.spent_s = spent_s
    return float(round(wish))


def _stop(run: Run) -> None:
    """Save and leave, on all ranks at the same step."""
    saving.save(run)
    if run.saver is not None:
        run.saver.join()
    if run.group.world_size > 1:
        run.group.wait()  # nobody says that it stopped before the checkpoint is on the disk
    raise _stopped(run)


def _stopped(run: Run) -> Interrupted:
    return Interrupted(
        f"training was stopped at step {run.step} of {run.total_steps} and saved; "
        "the same command continues from there"
    )


def _keep_equal(run: Run) -> None:
    """Let all ranks continue with the same bits, and say how far they were apart."""
    steps = run.step - max(run.equal_since, run.resumed_from)
    apart = run.group.keep_equal(run.parameters(), steps=steps)
    run.equal_since = run.step
    if apart:
        run.tell(
            f"the ranks were apart by {apart:.1e} of a tensor's largest value after {steps} steps, which is "
            "rounding; all continue with rank 0's values"
        )


def _finish_epoch(run: Run) -> None:
    """Evaluate and save where the settings ask for it, and always at the end."""
    config, last = run.config, run.finished
    evaluates = last or run.epoch % config.train.evaluate_every_epochs == 0
    saves = last or run.epoch % config.train.checkpoint_every_epochs == 0
    saves = saves or _counted_out(run)
    if evaluates or saves:
        run.group.average_statistics(run.statistics())
        _keep_equal(run)
    if evaluates:
        try:
            with _published_weights(run):
                log_evaluation(run, _evaluate(run))
                _note_best(run)
        except Interrupted:  # on rank 0 only, after the ranks' statistics were averaged
            saving.save(run, alone=True)
            if run.saver is not None:
                run.saver.join()
            raise _stopped(run) from None
    run.epoch_finished = True
    if saves or run.finished:
        saving.save(run)


def _published_weights(run: Run) -> AbstractContextManager[None]:
    """Inside, the network has the weights that are evaluated and published."""
    return run.ema.in_place() if run.ema is not None else nullcontext()


def _note_best(run: Run) -> None:
    """Keep the weights just evaluated if they are the best, or count that they are not."""
    assert run.latest is not None
    if run.latest.top1 > run.best.top1:
        run.best = Best(run.latest.top1, run.step)
        saving.save_best(run)
        return
    run.best.missed += 1
    patience = run.config.train.early_stop_evaluations
    if run.best.missed == patience:
        run.tell(
            f"stopping early: top-1 {run.best.top1:.2%} of step {run.best.step} was not improved in "
            f"{patience} evaluations (train.early_stop_evaluations)"
        )


def _evaluate(run: Run) -> EvalResult:
    run.latest = evaluate_network(
        run.network,
        split_as(run.dataset, run.config.data.eval_split, run.config.data),
        run.spec,
        run.config,
        run.group,
        class_names=run.dataset.class_names,
        stage="train: evaluate",
    )
    return run.latest


def _finish(run: Run, *, seconds: float) -> TrainResult:
    """Write the finished model: the last weights or the best."""
    best = run.run_dir / CHECKPOINTS_NAME / checkpoints.BEST_NAME
    takes_best = run.config.train.final_model == "best" and run.best.step != run.step
    with nullcontext() if takes_best else _published_weights(run):
        if takes_best:
            checkpoints.read_sidecar(best)
            load_parameters(best, run.network.get_parameters())
            run.tell(f"the finished model is that of step {run.best.step}, the best")
        if run.latest is None or takes_best:  # or it was complete when it was resumed
            _evaluate(run)
        return _deliver(run, seconds=seconds)


def _deliver(run: Run, *, seconds: float) -> TrainResult:
    group, weights = run.group, list(run.network.get_parameters())
    digest = parameters_digest(weights)
    print(f"rank {group.rank} of {group.world_size}: final weights sha256 {digest}", flush=True)
    group.require_equal(digest, what="weights")
    assert run.latest is not None
    path = run.run_dir / checkpoints.MODEL_NAME
    sha256 = ""
    if run.group.is_first:
        sidecar = saving.describe_checkpoint(run, training_state=False)
        sha256 = checkpoints.save(path, run.network.get_parameters(), sidecar).sha256
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
