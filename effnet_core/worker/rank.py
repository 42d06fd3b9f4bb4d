"""What one rank of a job does, from the job's file to its answer.

MindSpore is imported below here, where a job needs it, and nowhere on the parent's side.
"""

from __future__ import annotations

import gc
import os
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import EXIT_STOPPED, EffnetError, Interrupted
from effnet_core.events import Event, listen
from effnet_core.jobs import environment
from effnet_core.jobs.job import (
    ERROR_NAME,
    EVENTS_NAME,
    LOGS_NAME,
    RESULT_NAME,
    EvaluateJob,
    Job,
    MindirJob,
    PredictJob,
    ProbeJob,
    QuantizeJob,
    RecordsJob,
    StageJob,
    TrainJob,
    TrialJob,
    VerifyJob,
    read_job,
    write_error,
    write_result,
)
from effnet_core.jobs.signals import leave_at_once, listen_as_first, listen_as_other
from effnet_core.system import machine
from effnet_core.system.files import append_jsonl, is_full, no_longer_writable, refuse_os_errors

if TYPE_CHECKING:
    from effnet_core.weights.checkpoint import Checkpoint

SCHEDULER_ROLE = "MS_SCHED"
ANSWER_POLL_S, ANSWER_WAIT_S = 0.05, 60.0
"""How often a rank that is done looks for the first rank's answer, and for how long: the first rank's
machine may be gone."""


def show_message(event: Event) -> None:
    """Put an event's message into the rank's log."""
    if event.message:
        print(event.message, flush=True)


def main(run_dir: Path, *, show: Callable[[Event], None] = show_message) -> int:
    """Do this rank's share of the job in ``run_dir``.

    Args:
        run_dir: the job's folder.
        show: what rank 0 does with its events, besides writing them down.

    Returns:
        Exit code: 0 done, 1 failed, 75 stopped on request.
    """
    rank = int(os.environ.get("MS_NODE_ID", "0"))
    scheduler = os.environ.get("MS_ROLE") == SCHEDULER_ROLE
    if rank == 0 and not scheduler:
        listen_as_first()
    else:
        listen_as_other([run_dir / ERROR_NAME, run_dir / RESULT_NAME])
    job: Job | None = None
    try:
        config, job = read_config(run_dir / CONFIG_NAME), read_job(run_dir)
        if not scheduler:
            _pid_file(run_dir, rank).write_text(str(os.getpid()))
            _take_cores(config, rank)
        if rank == 0 and not scheduler:
            with listen(lambda event: _write_event(job, run_dir, event)), listen(show):
                return _run(job, config, run_dir)
        return _run(job, config, run_dir)
    except Interrupted as stopped:
        write_error(run_dir, stopped, rank=rank)
        return EXIT_STOPPED
    except EffnetError as error:
        write_error(run_dir, error, rank=rank)
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        if not scheduler:  # first of all: the log may be what cannot be written to
            write_error(run_dir, _explained(error, job, run_dir), rank=rank)
        traceback.print_exc()
        return 1
    finally:
        # Cells that are still referenced when the interpreter has torn down its modules complain from
        # __del__; everything above ended with its function, and this collects what cycles still hold.
        gc.collect()


def _explained(error: Exception, job: Job | None, run_dir: Path) -> Exception:
    """The same error, or the sentence about a disk that is full."""
    if isinstance(error, OSError) and is_full(error):
        return _full(job, run_dir, error)
    return error


def _full(job: Job | None, run_dir: Path, error: OSError) -> EffnetError:
    if isinstance(job, PredictJob):
        from effnet_core.infer.plan import output_lost

        return output_lost(job.output, error)
    if isinstance(job, TrainJob):
        return no_longer_writable(run_dir, error)
    doing = f"staging into {job.out}" if isinstance(job, StageJob) else f"the job in {run_dir}"
    return refuse_os_errors(doing)(error)


def _run(job: Job, config: RunConfig, run_dir: Path) -> int:
    without = isinstance(job, PredictJob | ProbeJob) and job.engine_file is not None
    if isinstance(job, StageJob | TrialJob | QuantizeJob) or without:
        write_result(run_dir, _answer(job, config, None, run_dir))
        return 0  # without the seconds and the memory that MindSpore's import takes
    environment.prepare()  # not for the engines above: it would slow OpenVINO's own oneDNN
    with environment.importing():
        from effnet_core.jobs.collective import join_group

    group = join_group(config.runtime)
    result = _answer(job, config, group, run_dir)
    if group.is_first:
        write_result(run_dir, result)
    else:
        _wait_for_answer(run_dir, group.rank)
    return 0


def _wait_for_answer(run_dir: Path, rank: int) -> None:
    """Stay while the first rank, perhaps on a slow share, still writes.

    Who leaves before it is missed, and msrun ends the others when one falls over at its very end.
    """
    answers = (run_dir / RESULT_NAME, run_dir / ERROR_NAME)
    deadline = time.monotonic() + ANSWER_WAIT_S
    while time.monotonic() < deadline and not any(path.exists() for path in answers):
        time.sleep(ANSWER_POLL_S)
    with suppress(OSError):  # not missed from here on
        _pid_file(run_dir, rank).unlink()


def _pid_file(run_dir: Path, rank: int) -> Path:
    """Names a rank's process for as long as it has something to do."""
    return run_dir / LOGS_NAME / f"rank_{rank}.pid"


def _answer(job: Job, config: RunConfig, group: Any, run_dir: Path) -> dict[str, Any]:
    """Do a job; the content of ``result.json``."""
    if isinstance(job, TrainJob):
        with environment.importing():
            from effnet_core.train.loop import train

        return train(config, group, data_dir=job.data_dir, run_dir=run_dir).to_dict()
    if isinstance(job, EvaluateJob):
        return _evaluate(job, config, group, run_dir)
    if isinstance(job, PredictJob):
        return _predict(job, config)
    if isinstance(job, ProbeJob):
        return _probe(job, config, run_dir)
    return _answer_rarely(job, config)


def _answer_rarely(
    job: StageJob | TrialJob | QuantizeJob | VerifyJob | MindirJob | RecordsJob, config: RunConfig
) -> dict[str, Any]:
    """As ``_answer``, of what is done once for a checkpoint or a data set."""
    if isinstance(job, StageJob):
        return _stage(job, config)
    if isinstance(job, TrialJob):
        from effnet_core.infer.trial import try_engines

        return try_engines(job, _checkpoint_of(job), config)
    if isinstance(job, QuantizeJob):
        from effnet_core.infer.quantize import quantize_here

        return quantize_here(job, _checkpoint_of(job), config)
    if isinstance(job, VerifyJob | MindirJob):
        return _export(job)
    from effnet_core.data.records import write_records

    return {split: write_records(job.data_dir, split) for split in job.splits}


def _checkpoint_of(
    job: EvaluateJob | PredictJob | TrialJob | QuantizeJob | ProbeJob | VerifyJob | MindirJob,
) -> Checkpoint:
    """A job's checkpoint, verified once in this process: the very one that the parent opened."""
    from effnet_core.weights.checkpoint import open_checkpoint

    found = open_checkpoint(job.checkpoint, sha256=job.checkpoint_sha256)
    side = job.image_size if isinstance(job, VerifyJob | MindirJob) else None
    return found if side is None else found.with_image_size(side)


def _evaluate(job: EvaluateJob, config: RunConfig, group: Any, out: Path) -> dict[str, Any]:
    with environment.importing():
        from effnet_core.train.evaluate import evaluate_checkpoint

    return evaluate_checkpoint(
        config,
        group,
        checkpoint=_checkpoint_of(job),
        data_dir=job.data_dir,
        split=job.split,
        labels=job.labels,
        out=out,
    ).to_dict()


def _predict(job: PredictJob, config: RunConfig) -> dict[str, Any]:
    with environment.importing():
        from effnet_core.infer.engines import load
        from effnet_core.infer.shards import predict_shards

    predictor = load(job, _checkpoint_of(job), config.infer, config.runtime.device)
    return predict_shards(predictor, job, config)


def _probe(job: ProbeJob, config: RunConfig, folder: Path) -> dict[str, Any]:
    from effnet_core.data.manifest import open_dataset
    from effnet_core.data.preprocess import PreprocessSpec
    from effnet_core.infer.engines import load_for
    from effnet_core.infer.features import features_of
    from effnet_core.train import probe

    checkpoint, device = _checkpoint_of(job), config.runtime.device
    sidecar = replace(checkpoint.sidecar, preprocess=PreprocessSpec.from_config(config))
    model = replace(checkpoint, sidecar=sidecar)
    images = sum(open_dataset(job.data_dir).counts.values())
    infer = probe.without_measuring(config.infer, images)
    predictor = load_for(job.engine, job.engine_file, model, infer, images, device)
    compute = partial(
        features_of,
        predictor,
        model=checkpoint.sha256,
        config=config,
        topic=probe.TOPIC,
    )
    decides = config.auto.enabled and config.train.probe == "first"
    wants_mirror = decides and config.data.flip_rate > 0
    return probe.probe(
        config,
        checkpoint=checkpoint,
        data_dir=job.data_dir,
        folder=folder,
        features_of=compute,
        mirrored_features_of=partial(compute, mirrored=True) if wants_mirror else None,
    )


def _export(job: VerifyJob | MindirJob) -> dict[str, Any]:
    from effnet_core.export.verify import compare, write_mindir

    if isinstance(job, MindirJob):
        write_mindir(_checkpoint_of(job), job.file)
        return {}
    return compare(
        _checkpoint_of(job), job.file, job.format, job.pictures, load_engine=_load_engine
    )


def _stage(job: StageJob, config: RunConfig) -> dict[str, Any]:
    from effnet_core.data.corrections import NO_CORRECTIONS, read_corrections
    from effnet_core.data.sources.tree import Rules
    from effnet_core.data.staging import stage_into

    os.chdir(job.start)
    leave_at_once("staging was stopped; the same command continues with what is staged already")
    _, reused = stage_into(
        job.out,
        job.source,
        val_share=job.val_share,
        seed=job.seed,
        max_rejected_share=job.max_rejected_share,
        max_pixels=config.data.max_pixels,
        background=config.background,
        rules=Rules.of(config.data),
        access=config.storage.access,
        hard_links=config.data.hard_links,
        corrections=read_corrections(job.corrections) if job.corrections else NO_CORRECTIONS,
    )
    return {"reused": reused}


def _load_engine(engine: str, file: Path, sidecar: Any, images: int) -> Callable[[Any], Any]:
    """What computes the logits of up to ``images`` images with an engine file."""
    from effnet_core.config.schema import InferConfig
    from effnet_core.infer.engines import load_file

    predictor = load_file(engine, file, sidecar, InferConfig(), workers=1, micro_batch=images)
    return lambda pixels: predictor.forward(pixels).logits


def _take_cores(config: RunConfig, rank: int) -> None:
    """Keep to this rank's own cores, so that ranks on one machine do not fight."""
    runtime = config.runtime
    if runtime.device == "CPU" and runtime.world_size > 1 and runtime.pin_cores:
        cores = machine.available_cores()
        ranks = runtime.local_world_size
        os.sched_setaffinity(0, machine.cores_of_rank(cores, rank % ranks, ranks))


def _write_event(job: Job, run_dir: Path, event: Event) -> None:
    try:
        append_jsonl(run_dir / EVENTS_NAME, event.to_dict())
    except OSError as cause:
        raise _full(job, run_dir, cause) from cause
