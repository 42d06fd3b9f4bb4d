"""Train a model, or resume its run."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effnet_core.api.finished import is_finished, training_result
from effnet_core.api.opening import open_weights
from effnet_core.api.preparation import (
    earlier_run,
    is_same,
    prepare_training,
    require_image_a_rank,
    require_images,
)
from effnet_core.api.staging import stage
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.jobs import launch
from effnet_core.jobs.hosts import host_index
from effnet_core.jobs.job import CHECKPOINTS_NAME
from effnet_core.results import TrainResult
from effnet_core.storage.addresses import is_s3
from effnet_core.system.locks import sole_user

if TYPE_CHECKING:
    from effnet_core.auto.decide import Decision


def train(config: RunConfig, data: str | Path, run_dir: Path) -> TrainResult:
    """Train a model, or continue with the run that lies in ``run_dir``.

    A finished run of the same settings and data is not repeated; its result is returned.

    Args:
        config: settings; with ``auto.enabled`` what they leave open is decided here.
        data: a staged data set, or pictures as ``stage_dataset`` takes them, which are staged beside the run.
        run_dir: folder of the run.

    Raises:
        OutputExists: ``run_dir`` holds a run with other settings or data, or foreign files, or is in use.
        EffnetError: as the training loop and the launcher.
    """
    if host_index(config.runtime) > 0:
        return _join_training(config, Path(data), run_dir)
    started = time.perf_counter()
    with sole_user(run_dir, what="run folder"):
        asked, data_dir = config, _staged(config, data, run_dir)
        if config.auto.enabled:
            config = _decided(config, data_dir, run_dir, started)
        prepared = prepare_training(config, data_dir, run_dir)
        if isinstance(prepared, TrainResult):
            return prepared
        job, config = prepared.job, prepared.config
        if config.train.probe != "none":
            from effnet_core.auto import first
            from effnet_core.auto.decide import only_probe, settle_mirroring, time_for_training
            from effnet_core.weights.checkpoint import newest

            launch.write_job(job, config, run_dir)  # so that what stops the probe can be continued
            with first.speed_of_features() as speed:
                probed = first.run_probe(config, job, run_dir)
            seconds = time.perf_counter() - started
            timed = config
            if newest(run_dir / CHECKPOINTS_NAME) is None:
                timed = time_for_training(asked, config, spent_s=seconds) or only_probe(config)
            if timed.train.probe == "only":
                return first.deliver_probe(timed, job, run_dir, probed.evaluation, seconds=seconds)
            config, decision = settle_mirroring(asked, timed, probed.mirror)
            if decision is not None:
                emit(_decision_event(decision))
            first.estimate_again(config, open_dataset(data_dir), speed)
        return TrainResult.from_dict(launch.run_job(job, config, run_dir))


def _staged(config: RunConfig, data: str | Path, run_dir: Path) -> Path:
    """The staged data set of a run; pictures that are not staged yet are, once, beside the run."""
    from effnet_core.auto.places import is_staged, staged_folder

    folder = staged_folder(data, run_dir)
    if not is_staged(data):
        if not is_s3(str(data)) and not Path(data).exists():
            raise DataError(f"data folder {data} does not exist")
        stage(data, folder, config=config)
    return folder


def _decided(config: RunConfig, data_dir: Path, run_dir: Path, started: float) -> RunConfig:
    """The settings with everything decided that was left open: as in the run's earlier start, else now."""
    from effnet_core.auto.decide import decide
    from effnet_core.auto.estimate import describe
    from effnet_core.auto.facts import find_weights, look

    before = earlier_run(run_dir)
    if before is not None and before.config.auto.enabled and is_same(config, before):
        update = {"runtime": config.runtime, "infer": config.infer, "storage": config.storage}
        return before.config.model_copy(update=update)
    found = find_weights(config)
    if found.weights and "variant" not in config.model.model_fields_set:
        variant = open_weights(found.weights, config.storage).sidecar.variant
        found = replace(found, variant=variant)
    spent_s = time.perf_counter() - started
    facts = look(config, open_dataset(data_dir), found, spent_s=spent_s)
    require_image_a_rank(config, facts.train_images)
    decided = decide(config, facts)
    for decision in decided.decisions:
        emit(_decision_event(decision))
    seconds = {"probe_s": decided.estimate.probe_s, "training_s": decided.estimate.training_s}
    text = describe(decided.config, decided.estimate, facts)
    emit(Event("auto", text, metrics={"kind": "estimate", **seconds}))
    return decided.config


def _decision_event(decision: Decision) -> Event:
    return Event("auto", str(decision), metrics={"kind": "decision", **decision.shown()})


def _join_training(config: RunConfig, data_dir: Path, run_dir: Path) -> TrainResult:
    """This machine's share of a run that the first of ``runtime.hosts`` leads, in a shared run folder."""
    counts = open_dataset(data_dir).counts
    if not config.auto.enabled:  # else the first of the hosts decides
        require_images(config, counts)
    if is_finished(run_dir):
        emit(Event("train", f"{run_dir} is finished already; its result is used", 1, 1))
        return training_result(run_dir)
    return TrainResult.from_dict(launch.join_job(config.runtime, run_dir))
