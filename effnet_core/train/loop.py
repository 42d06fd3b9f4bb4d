"""The one training loop: what every rank runs, from top to bottom."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from effnet_core.config.schema import RunConfig
from effnet_core.errors import Interrupted
from effnet_core.jobs.collective import Group, parameters_digest
from effnet_core.jobs.job import CHECKPOINTS_NAME, PROBE_NAME, RESULT_NAME
from effnet_core.jobs.signals import stop_requested
from effnet_core.results import EvalResult, TrainResult
from effnet_core.results.calibration import Calibration
from effnet_core.system.files import read_json
from effnet_core.train import saving
from effnet_core.train.batches import epoch_batches, in_parts
from effnet_core.train.control import Control, Request
from effnet_core.train.evaluate import evaluate_network
from effnet_core.train.metrics import flush, log_due, log_evaluation, log_step
from effnet_core.train.resume import resume
from effnet_core.train.run import Run, describe, unfreeze
from effnet_core.train.scores import Scores
from effnet_core.train.session import Session, open_session
from effnet_core.train.setup import prepare
from effnet_core.train.state import Best, Losses
from effnet_core.train.update import update
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.load import load_parameters


def train(config: RunConfig, group: Group, *, data_dir: Path, run_dir: Path) -> TrainResult:
    """Train, evaluate and save one model.

    Order: data, model, schedule, optimizer, resume, steps, final evaluation. Resume order: the last
    whole checkpoint in ``run_dir`` > ``train.resume_from`` > the probe's model > ``model.weights`` > scratch.

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
    setup = prepare(config, group, data_dir=data_dir, run_dir=run_dir)
    run = resume(setup)
    latest: Evaluated | None = None
    with open_session(run) as session:
        run.tell(f"training {config.model.variant}: {describe(run)}")
        if config.train.probe == "first" and run.progress.step == 0 and run.progress.best == Best():
            _note_probe(run, session)
        if (
            not run.progress.epoch_finished
        ):  # it was stopped between its last step and its evaluation
            latest = _finish_epoch(run, session)
        while not run.finished:
            if run.progress.frozen and run.progress.step >= setup.frozen_steps:
                unfreeze(run)
            if run.progress.step % setup.steps_per_epoch == 0:
                _begin_epoch(run)
            _train_epoch(run, session)
            latest = _finish_epoch(run, session)
    return _deliver(run, session, latest=latest, started=started)


def _note_probe(run: Run, session: Session) -> None:
    """Let the probe's model, from which the run has just started, be the best so far."""
    top1 = _probe_evaluation(run).top1
    run.progress.best = Best(top1, run.progress.step)
    saving.save_best(run, session.saver)
    run.tell(f"training starts from the probe's top-1 of {top1:.2%} and keeps only what is better")


def _probe_evaluation(run: Run) -> EvalResult:
    result = read_json(run.setup.run_dir / PROBE_NAME / RESULT_NAME)
    return EvalResult.from_dict(result["evaluation"])


def _begin_epoch(run: Run) -> None:
    progress = run.progress
    progress.losses = Losses()
    size = run.setup.training_size(run.share)
    if size != progress.train_size:
        progress.train_size, progress.same_since = size, progress.step
        run.tell(f"{size} px from epoch {run.epoch + 1} on")


def _train_epoch(run: Run, session: Session) -> None:
    """All steps of one epoch, or those that a resumed run has left of it."""
    progress, clock = run.progress, session.clock
    run.set_train()
    pending: list[float] = []  # losses that have not been looked at
    unlogged, since = 0, time.perf_counter()
    if progress.step == run.resumed_from:
        run.tell("compiling the graph and doing the first step")
    for parts in in_parts(epoch_batches(run), run.setup.config.optim.accumulate_steps):
        loss, received = update(run, parts, _control(run, session))
        clock.start()
        pending.append(loss)
        progress.step += 1
        progress.spent_s = received.spent_s
        progress.epoch_finished = not run.at_epoch_end
        stops = received.request is Request.STOP
        saves = received.request is Request.SAVE or _saves_by_steps(run)
        first = progress.step == run.resumed_from + 1
        logs = first or log_due(run)
        if logs or saves or stops:
            unlogged += flush(run, pending)
        if logs:
            seconds = time.perf_counter() - since
            if not first:
                clock.add(unlogged, seconds)
            log_step(run, session.trackers, steps=unlogged, seconds=seconds)
            unlogged, since = 0, time.perf_counter()
        if stops:
            _stop(run, session)
        if run.at_epoch_end:
            return
        if saves:
            paused = time.perf_counter()
            saving.save(run, session.saver)
            since += time.perf_counter() - paused


def _control(run: Run, session: Session) -> Control:
    """What this rank tells all ranks with the next step; only rank 0 has something to tell."""
    if not run.setup.group.is_first:
        return Control()
    session.saver.raise_if_failed()
    request = Request.NONE
    if stop_requested():
        request = Request.STOP
    elif saving.due(run, session.saver):
        request = Request.SAVE
    return Control(request, session.clock.spent_s)


def _saves_by_steps(run: Run) -> bool:
    """Whether the number of steps asks for a checkpoint."""
    every = run.setup.config.train.checkpoint_every_steps
    return every > 0 and run.progress.step % every == 0


def _stop(run: Run, session: Session) -> None:
    """Save and leave, on all ranks at the same step."""
    saving.save(run, session.saver)
    session.saver.join()
    if run.setup.group.world_size > 1:
        run.setup.group.wait()  # no rank reports that it stopped before the checkpoint is on the disk
    raise _stopped(run)


def _stopped(run: Run) -> Interrupted:
    return Interrupted(
        f"training was stopped at step {run.progress.step} of {run.total_steps} and saved; "
        "the same command continues from there"
    )


def _finish_epoch(run: Run, session: Session) -> Evaluated | None:
    """Evaluate and save where the settings ask for it, and always at the end.

    Returns:
        The evaluation, where there was one.
    """
    train, last = run.setup.config.train, run.finished
    evaluates = last or run.epoch % train.evaluate_every_epochs == 0
    saves = last or run.epoch % train.checkpoint_every_epochs == 0 or _saves_by_steps(run)
    if evaluates or saves:
        _make_equal(run)
    latest = None
    if evaluates:
        try:
            with _published_weights(run):
                latest = _evaluate(run)
                log_evaluation(run, session.trackers, latest.result)
                _note_best(run, session, latest.result)
        except Interrupted:  # on rank 0 only, after the ranks' statistics were averaged
            saving.save(run, session.saver, alone=True)
            session.saver.join()
            raise _stopped(run) from None
    run.progress.epoch_finished = True
    if saves or run.finished:
        saving.save(run, session.saver)
    return latest


def _make_equal(run: Run) -> None:
    """Give all ranks the same statistics and the same bits, and say how far they were apart."""
    group, progress = run.setup.group, run.progress
    group.average_statistics(run.statistics())
    steps = progress.step - max(progress.equal_since, run.resumed_from)
    apart = group.keep_equal(run.parameters(), steps=steps)
    progress.equal_since = progress.step
    if apart:
        run.tell(
            f"the ranks were apart by {apart:.1e} of a tensor's largest value after {steps} steps, which is "
            "rounding; all continue with rank 0's values"
        )


def _published_weights(run: Run) -> AbstractContextManager[None]:
    """Inside, the network has the weights that are evaluated and published."""
    ema = run.setup.step_options.ema
    return ema.in_place() if ema is not None else nullcontext()


@dataclass(frozen=True)
class Evaluated:
    """An evaluation, and what each image got."""

    result: EvalResult
    scores: Scores


def _evaluate(run: Run) -> Evaluated:
    setup = run.setup
    scores = Scores(keep_logits=setup.config.train.calibrate)
    result = evaluate_network(
        setup.network,
        setup.eval_split,
        setup.spec,
        setup.config,
        setup.group,
        class_names=setup.dataset.class_names,
        topic="train: evaluate",
        scores=scores,
    )
    run.progress.metrics = {"top1": result.top1, "top5": result.top5, "loss": result.loss}
    return Evaluated(result, scores)


def _note_best(run: Run, session: Session, latest: EvalResult) -> None:
    """Keep the weights just evaluated if they are the best, or count that they are not."""
    progress, best = run.progress, run.progress.best
    if latest.top1 > best.top1:
        progress.best = Best(latest.top1, progress.step)
        saving.save_best(run, session.saver)
        return
    best.missed += 1
    patience = run.setup.config.train.early_stop_evaluations
    if best.missed == patience:
        run.tell(
            f"stopping early: {patience} evaluations gave no better top-1 than the {best.top1:.2%} of "
            f"step {best.step} (train.early_stop_evaluations)"
        )


def _deliver(
    run: Run, session: Session, *, latest: Evaluated | None, started: float
) -> TrainResult:
    """Write the finished model, the last weights or the best, and say how good it is."""
    best, train = run.progress.best, run.setup.config.train
    takes_best = train.final_model == "best" and best.step != run.progress.step
    with nullcontext() if takes_best else _published_weights(run):
        if takes_best:
            _load_best(run)
        if takes_best and best.step == 0:
            latest = Evaluated(_probe_evaluation(run), _evaluate(run).scores)
        elif latest is None or takes_best:  # or it was complete when it was resumed
            latest = _evaluate(run)
        calibration = _calibrate(run, latest)
        digest, sha256 = _write_model(run, calibration)
    setup = run.setup
    evaluation = replace(
        latest.result,
        checkpoint_sha256=sha256,
        data_digest=setup.dataset.digest,
        calibration=calibration,
    )
    latest.scores.write(
        setup.run_dir,
        setup.group,
        setup.eval_split.labels,
        result=evaluation,
        image_size=setup.spec.image_size,
        classes=setup.dataset.num_classes,
    )
    speed = session.clock.steps_per_s * run.setup.config.data.global_batch_size
    return TrainResult(
        checkpoint=str(run.setup.run_dir / checkpoints.MODEL_NAME),
        sha256=sha256,
        epochs=run.epoch,
        steps=run.progress.step,
        resumed_from_step=run.resumed_from,
        images_per_s=round(speed, 2),
        evaluation=evaluation,
        world_size=run.setup.group.world_size,
        weights_digest=digest,
        seconds=round(time.perf_counter() - started, 3),
        probe_top1=_probe_evaluation(run).top1 if train.probe == "first" else None,
    )


def _load_best(run: Run) -> None:
    path = run.setup.run_dir / CHECKPOINTS_NAME / checkpoints.BEST_NAME
    load_parameters(checkpoints.open_checkpoint(path), run.setup.network.get_parameters())
    step = run.progress.best.step
    what = f"that of step {step}, the best" if step else "the probe's: training made none better"
    run.tell(f"the finished model is {what}")


def _calibrate(run: Run, latest: Evaluated) -> Calibration | None:
    """The temperature of the finished model, fitted on the split that it was evaluated on, on rank 0."""
    found = latest.scores.fit(run.setup.group)
    if found is None:
        return latest.result.calibration
    if found.refused is not None:
        run.tell(
            f"probabilities stay as they are: temperature {found.refused:g}, fitted on {found.images} "
            f"images, does not help on images that it was not fitted on (expected calibration error "
            f"{found.before.ece:.2%})"
        )
    elif found.temperature == 1.0:
        run.tell(f"probabilities stay as they are: {found.images} images are too few to calibrate")
    else:
        run.tell(
            f"probabilities are calibrated with temperature {found.temperature:g}: expected calibration "
            f"error {found.before.ece:.2%} before, {found.after.ece:.2%} after, on {found.images} images of "
            f"{run.setup.eval_split.name}"
        )
    return found


def _write_model(run: Run, calibration: Calibration | None) -> tuple[str, str]:
    """Write the network's weights as the finished model, on rank 0.

    Returns:
        The digest of the weights, equal on all ranks, and of the file, which rank 0 alone knows.
    """
    group, weights = run.setup.group, list(run.setup.network.get_parameters())
    digest = parameters_digest(weights)
    print(f"rank {group.rank} of {group.world_size}: final weights sha256 {digest}", flush=True)
    group.require_equal(digest, what="weights")
    if not group.is_first:
        return digest, ""
    sidecar = replace(
        saving.describe_checkpoint(run, training_state=False),
        temperature=calibration.temperature if calibration else 1.0,
    )
    path = run.setup.run_dir / checkpoints.MODEL_NAME
    return digest, checkpoints.save(path, weights, sidecar).sha256
