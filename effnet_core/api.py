"""What people and tasks call: train, evaluate and label, each as a job in child processes."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.config.schema import RunConfig, StorageConfig
from effnet_core.data.manifest import Dataset, open_dataset
from effnet_core.errors import CheckpointError, ConfigError, DataError, OutputExists, WorkerStalled
from effnet_core.events import Event, emit
from effnet_core.jobs.hosts import host_index
from effnet_core.jobs.job import (
    CHECKPOINTS_NAME,
    JOB_NAME,
    RESULT_NAME,
    EvaluateJob,
    PredictJob,
    RecordsJob,
    Shard,
    StageJob,
    TrainJob,
    read_job,
)
from effnet_core.jobs.launch import join_job, run_job, write_job
from effnet_core.results import EvalResult, ShardCounts, TrainResult
from effnet_core.storage.addresses import is_s3
from effnet_core.system.files import is_empty, make_folder, write_json
from effnet_core.system.locks import scratch_folder, sole_user
from effnet_core.weights.catalogue import PRODUCTION

if TYPE_CHECKING:
    from effnet_core.infer.places import OutputPlace
    from effnet_core.infer.plan import InferencePlan
    from effnet_core.reports.predictions import PredictionsReport
    from effnet_core.weights.checkpoint import Checkpoint
    from effnet_core.weights.quantized import Quantized

RUNTIME_ONLY = ("runtime", "infer", "storage")
"""Sections that may change between a run and its resumption."""


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
            from effnet_core.auto.decide import only_probe, time_for_training
            from effnet_core.weights.checkpoint import newest

            write_job(job, config, run_dir)  # so that what stops the probe can be continued
            with first.speed_of_features() as speed:
                result = first.run_probe(config, job, run_dir)
            seconds = time.perf_counter() - started
            timed = config
            if newest(run_dir / CHECKPOINTS_NAME) is None:
                timed = time_for_training(asked, config, spent_s=seconds) or only_probe(config)
            if timed.train.probe == "only":
                return first.deliver_probe(timed, job, run_dir, result, seconds=seconds)
            config = timed
            first.estimate_again(config, open_dataset(data_dir), speed)
        return TrainResult.from_dict(run_job(job, config, run_dir))


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

    before = _earlier_run(run_dir)
    if before is not None and before.config.auto.enabled and _is_same(config, before):
        update = {"runtime": config.runtime, "infer": config.infer, "storage": config.storage}
        return before.config.model_copy(update=update)
    found = find_weights(config)
    if found.weights and "variant" not in config.model.model_fields_set:
        variant = open_weights(found.weights, config.storage).sidecar.variant
        found = replace(found, variant=variant)
    spent_s = time.perf_counter() - started
    facts = look(config, open_dataset(data_dir), found, spent_s=spent_s)
    _require_image_a_rank(config, facts.train_images)
    decided = decide(config, facts)
    for decision in decided.decisions:
        emit(Event("auto", str(decision), metrics={"kind": "decision", **decision.shown()}))
    seconds = {"probe_s": decided.estimate.probe_s, "training_s": decided.estimate.training_s}
    text = describe(decided.config, decided.estimate, facts)
    emit(Event("auto", text, metrics={"kind": "estimate", **seconds}))
    return decided.config


def stage(
    source: str | Path,
    out: Path,
    *,
    val_share: float = 0.2,
    seed: int = 0,
    max_rejected_share: float = 0.1,
    config: RunConfig | None = None,
    corrections: Path | None = None,
) -> tuple[Dataset, bool]:
    """Stage a data set in a child process, which is ended where its source does not answer.

    Args:
        source: as ``stage_dataset`` takes it.
        out: folder of the staged data set.
        val_share: as there, like the next two.
        seed: changes which images those are.
        max_rejected_share: of unusable files.
        config: settings of data and storage; ``runtime.stall_timeout_s`` is how long nothing may happen.
        corrections: CSV file with what people decided about pictures, as the page of a review saves it.

    Returns:
        The staged data set, and whether it had been there already.

    Raises:
        WorkerStalled: a share or store did not answer for too long.
        EffnetError: as ``stage_dataset``.
    """
    config = config or RunConfig()
    single = config.runtime.model_copy(update={"world_size": 1, "timeout_s": 0})
    if corrections is not None:
        from effnet_core.data.corrections import read_corrections

        read_corrections(corrections)
    job = StageJob(
        str(source),
        Path.cwd(),
        out,
        val_share,
        seed,
        max_rejected_share,
        corrections and corrections.resolve(),
    )
    with sole_user(out, what="output folder"), scratch_folder("stage") as folder:
        try:
            result = run_job(job, config.model_copy(update={"runtime": single}), folder)
        except WorkerStalled as stalled:
            raise WorkerStalled(f"staging {source} stands still: {stalled}") from stalled
        return open_dataset(out), bool(result["reused"])


def open_weights(weights: str | Path, storage: StorageConfig) -> Checkpoint:
    """Open what a person means by ``--weights``, in every command and flow that takes it.

    A long run asks once and keeps the answer, since ``production`` may move meanwhile.

    Args:
        weights: a checkpoint, the folder of a training run, a file of another publisher, a URL, a
            published name, or ``production`` or ``store:VERSION`` of the model store.
        storage: which store, and the model's name in it.

    Raises:
        CheckpointError: it is missing, damaged or not of the family.
        DownloadFailed: it cannot be fetched.
        StoreError: there is no such version, or the store cannot be reached.
    """
    from effnet_core.model_store.versions import cached_model
    from effnet_core.weights.resolve import resolve

    return resolve(weights, store=partial(cached_model, storage))


@dataclass(frozen=True)
class Prepared:
    """A training run that is ready to start: what ``run_job`` or ``write_job`` takes."""

    job: TrainJob
    config: RunConfig
    """With everything looked up that the person's settings left open."""


def _join_training(config: RunConfig, data_dir: Path, run_dir: Path) -> TrainResult:
    """This machine's share of a run that the first of ``runtime.hosts`` leads, in a shared run folder."""
    counts = open_dataset(data_dir).counts
    if not config.auto.enabled:  # else the first of the hosts decides
        _require_images(config, counts)
    if _is_finished(run_dir):
        emit(Event("train", f"{run_dir} is finished already; its result is used", 1, 1))
        return training_result(run_dir)
    return TrainResult.from_dict(join_job(config.runtime, run_dir))


def prepare_training(config: RunConfig, data_dir: Path, run_dir: Path) -> TrainResult | Prepared:
    """Check a run and its folder before its ranks start, anew or to resume.

    Returns:
        What the ranks are to do, or the result, where the run is finished already.

    Raises:
        OutputExists: ``run_dir`` holds a run with other settings or data, or foreign files.
        EffnetError: settings, data and weights do not fit together.
    """
    dataset = open_dataset(data_dir)
    _require_images(config, dataset.counts)
    from_production = config.model.weights == PRODUCTION
    job = TrainJob(data_dir.resolve(), dataset.digest, from_production)
    before = _earlier_run(run_dir)
    config = _with_absolute_paths(config, before)
    make_folder(run_dir, what="run folder")
    if before is not None:
        _require_same_run(Prepared(job, config), before, run_dir)
        if _is_finished(run_dir):
            result = training_result(run_dir)
            emit(Event("train", f"{run_dir} is finished already; its result is used", 1, 1))
            return result
    elif not is_empty(run_dir):
        raise OutputExists(f"run folder {run_dir} is not empty and holds no run; choose another")
    if config.data.format == "mindrecord":
        ensure_records(dataset, (config.data.train_split, config.data.eval_split), config)
    return Prepared(job, config)


def _is_finished(run_dir: Path) -> bool:
    from effnet_core.weights.checkpoint import MODEL_NAME

    return (run_dir / RESULT_NAME).exists() and (run_dir / MODEL_NAME).exists()


def training_result(run_dir: Path) -> TrainResult:
    """The result of a finished training run.

    Raises:
        DataError: the folder holds no run, or one that is not finished.
    """
    if not (run_dir / JOB_NAME).exists():
        raise DataError(f"{run_dir} holds no training run")
    if not (run_dir / RESULT_NAME).exists():
        raise DataError(f"the training run in {run_dir} is not finished; run effnet train again")
    return TrainResult.read(run_dir / RESULT_NAME)


def evaluation_of(run_dir: Path, evaluation: Path | None = None) -> EvalResult:
    """An evaluation that lies in a file, or that of a finished training run.

    Args:
        run_dir: folder of the training run.
        evaluation: ``result.json`` of an evaluation, or its folder; the run's own by default.

    Raises:
        DataError: there is none, or it is damaged.
    """
    if evaluation is None:
        return training_result(run_dir).evaluation
    return EvalResult.read(evaluation / RESULT_NAME if evaluation.is_dir() else evaluation)


def evaluate(
    weights: str | Path,
    data_dir: Path,
    *,
    split: str | None = None,
    config: RunConfig | None = None,
    work_dir: Path | None = None,
    classes: Path | None = None,
) -> EvalResult:
    """Evaluate a checkpoint on a split of a staged data set.

    Args:
        weights: as ``open_weights`` takes them.
        data_dir: a staged data set with classes of the model's, all or some of them.
        split: ``data.eval_split`` by default.
        config: processes, batch size and workers; the model comes from the sidecar.
        work_dir: where the job's files go, the answers to each image among them; a temporary folder by
            default.
        classes: CSV file that says which class of the model each class of the data set is.

    Raises:
        EffnetError: as ``evaluate_checkpoint`` and the launcher.
    """
    config = config or RunConfig()
    with _evaluation_folder(work_dir) as folder:
        job = evaluation_job(weights, data_dir, split=split, config=config, classes=classes)
        return EvalResult.from_dict(run_job(job, config, folder))


@contextmanager
def _evaluation_folder(work_dir: Path | None) -> Iterator[Path]:
    if work_dir is None:
        with scratch_folder("evaluate") as folder:
            yield folder
    else:
        with sole_user(work_dir, what="evaluation folder"):
            yield work_dir


def evaluation_job(
    weights: str | Path,
    data_dir: Path,
    *,
    split: str | None = None,
    config: RunConfig,
    classes: Path | None = None,
) -> EvaluateJob:
    """The job that evaluates a checkpoint; arguments as for ``evaluate``.

    Raises:
        EffnetError: weights, data and settings do not fit together.
    """
    chosen = split or config.data.eval_split
    checkpoint = open_weights(weights, config.storage)
    dataset = open_dataset(data_dir)
    images = len(dataset.split(chosen))
    if config.runtime.world_size > images:
        raise ConfigError(
            f"runtime.world_size={config.runtime.world_size} is more than the {images} images of "
            f"split {chosen!r}; lower runtime.world_size"
        )
    if config.data.format == "mindrecord":
        ensure_records(dataset, (chosen,), config)
    return EvaluateJob(
        checkpoint.path.resolve(),
        checkpoint.sha256,
        data_dir.resolve(),
        split=chosen,
        labels=_labels(checkpoint, dataset, classes),
    )


def _labels(
    checkpoint: Checkpoint, dataset: Dataset, classes: Path | None
) -> tuple[int, ...] | None:
    """The model's number of each class of a data set; None where both have the same classes.

    Raises:
        DataError: the model does not know a class.
    """
    from effnet_core.quality.classes import read_class_map, require_match

    known, asked = checkpoint.sidecar.class_names, dataset.class_names
    if classes is None and known == asked:
        return None
    labels = require_match(asked, known, read_class_map(classes) if classes else None)
    text = f"{len(labels):,} of the model's {len(known):,} classes are in the data set"
    emit(Event("evaluate", f"{text}; an answer of another class counts as wrong"))
    return labels


def plan_inference(
    checkpoint: Checkpoint,
    inputs: Sequence[str | Path],
    output: Path | OutputPlace,
    *,
    config: RunConfig | None = None,
    only_new: bool = False,
) -> InferencePlan:
    """List the input and claim the output; see ``inputs.list_inputs`` and ``plan.plan``.

    Raises:
        DataError, OutputExists, StoreError: input or output cannot be used.
    """
    from effnet_core.data.sources.finding import in_a_line
    from effnet_core.infer import plan
    from effnet_core.infer.inputs import list_inputs
    from effnet_core.infer.places import FolderPlace
    from effnet_core.quality import drift

    config = config or RunConfig()
    infer = config.infer
    place = FolderPlace(output) if isinstance(output, Path) else output
    listed = list_inputs(
        inputs,
        place.address,
        recursive=infer.recursive,
        storage=config.storage,
        keep=infer.keep_columns,
        data=config.data,
    )
    if listed.left_out:
        emit(Event("predict", f"left out: {in_a_line(listed.left_out)}"))
    if listed.other:
        path, reason = listed.other[0]
        first = f"the first: {path} ({reason})"
        emit(Event("predict", f"{len(listed.other):,} other file(s), {first}"))
    make = partial(
        plan.plan,
        listed,
        place.folder,
        model_sha256=checkpoint.sha256,
        infer=infer,
        only_new=only_new,
        remote=place.remote,
    )
    try:
        planned = place.make_plan(make)
    except OSError as cause:
        raise plan.output_lost(place.folder, cause) from cause
    reference = drift.reference_of(checkpoint)
    place.keep_model(checkpoint, *([reference] if reference else []))
    return planned


def infer_shards(
    planned: InferencePlan,
    shards: Sequence[Shard],
    checkpoint: Checkpoint,
    *,
    config: RunConfig | None = None,
    allowed_errors: int | None = None,
) -> list[ShardCounts]:
    """Label some shards of a planned inference in one child process.

    Args:
        planned: the run; its own list of shards is not looked at.
        shards: those to label.
        checkpoint: the model.
        config: settings of inference.
        allowed_errors: how many files of these shards may be without an answer; all by default.

    Returns:
        How each shard ended. Where more files than allowed have no answer, it is the shards up to there.

    Raises:
        EffnetError: as the engine and the launcher; finished shards stay.
    """
    from effnet_core.infer.engines import selection
    from effnet_core.quality import drift

    config = config or RunConfig()
    if not shards:
        return []
    single = config.runtime.model_copy(update={"world_size": 1})
    images = sum(shard.stop - shard.start for shard in shards)
    chosen = selection.select(
        checkpoint, config, planned.output.resolve(), planned.images, partial(_sample, planned)
    ).choice
    found = {"engine": chosen.engine, "precision": chosen.precision}
    config = config.model_copy(update={"infer": config.infer.model_copy(update=found)})
    job = PredictJob(
        checkpoint.path.resolve(),
        checkpoint.sha256,
        engine=chosen.engine,
        engine_file=chosen.file,
        output=planned.output.resolve(),
        input_root=planned.root,
        shards=tuple(shards),
        allowed_errors=images if allowed_errors is None else allowed_errors,
        reference=drift.reference_of(checkpoint),
        members=planned.members,
        columns=planned.columns,
        remote=planned.remote,
        list_key=planned.list_key,
    )
    folder = planned.output / "jobs" / f"shard-{shards[0].index:05d}"
    result = run_job(job, config.model_copy(update={"runtime": single}), folder)
    return [ShardCounts(**item) for item in result["shards"]]


def quantize(
    weights: str | Path,
    *,
    data_dir: Path | None = None,
    out: Path | None = None,
    max_drop: float = 0.005,
    images: int = 256,
    config: RunConfig | None = None,
) -> Quantized:
    """Make the int8 network of a model, kept only if it loses little enough on the whole validation split.

    Args:
        weights: as ``open_weights`` takes them.
        data_dir: staged data set with the model's classes; the one of the run by default.
        out: folder for a copy of the checkpoint with its int8 network; else it goes beside the checkpoint.
        max_drop: share of top-1 that may be lost.
        images: training images from which the ranges of activations are taken.
        config: processes and threads.

    Raises:
        QuantizationRefused: it loses more; nothing was kept.
        EffnetError: as ``open_weights``, the data set and the launcher.
    """
    from effnet_core.infer.quantize import copy_checkpoint
    from effnet_core.infer.quantize import quantize as quantize_model
    from effnet_core.storage.cache import cache_path

    config = config or RunConfig()
    checkpoint = open_weights(weights, config.storage)
    if data_dir is None:
        try:
            job = read_job(checkpoint.path.parent)
        except DataError as cause:
            raise ConfigError(
                f"{checkpoint.path} does not lie in the folder of a training run; name the staged data set "
                "that it was trained on with --data"
            ) from cause
        data_dir = job.data_dir if isinstance(job, TrainJob) else checkpoint.path.parent
    if out is None and cache_path("") in checkpoint.path.parents:
        raise ConfigError(
            f"{checkpoint.path} lies in the cache, whose files do not change; give a folder for a copy with "
            "its int8 network (--out)"
        )
    with sole_user(out or checkpoint.path.parent, what="folder of the model"):
        if out is not None:
            checkpoint = copy_checkpoint(checkpoint, out)
        return quantize_model(checkpoint, data_dir, config=config, max_drop=max_drop, images=images)


def _sample(planned: InferencePlan, count: int) -> list[str]:
    """Some of a run's paths, from all over it; none where its list lies on another machine."""
    from effnet_core.infer.engines.selection import spread_over
    from effnet_core.infer.plan import paths_at

    return paths_at(planned.output, spread_over(count, planned.images))


def infer(
    weights: str | Path,
    inputs: Sequence[str | Path],
    output: str | Path,
    *,
    config: RunConfig | None = None,
    only_new: bool = False,
) -> dict[str, Any]:
    """Label every image of the input, or what an earlier run of the same left undone.

    Args:
        weights: as ``open_weights`` takes them.
        inputs: as ``inputs.list_inputs`` takes them.
        output: folder of predictions, or ``s3://bucket/prefix``; there several calls of the same, on any
            machines, share the work.
        config: settings of inference.
        only_new: add what earlier runs into ``output`` have not seen.

    Returns:
        The content of ``summary.json``.

    Raises:
        DataError: the input cannot be used, or too many files could not be read.
        OutputExists: the output holds another run, or is in use.
        CheckpointError: the checkpoint cannot be used.
        StoreError: a bucket cannot be reached.
    """
    from effnet_core.infer.places import open_output

    config = config or RunConfig()
    checkpoint = open_weights(weights, config.storage)
    with open_output(output, config) as place, place.used():
        planned = plan_inference(checkpoint, inputs, place, config=config, only_new=only_new)
        missing = planned.missing()
        if only_new:
            emit(Event("predict", f"{planned.new} of {planned.images} images are new"))
        if len(missing) < len(planned.shards):
            kept = len(planned.shards) - len(missing)
            emit(Event("predict", f"{kept} of {len(planned.shards)} shards are finished already"))
        if missing:
            _label_missing(planned, missing, place, checkpoint, config)
        found = finish_inference(
            planned, checkpoint, weights=str(weights), config=config, place=place
        )
        return found[0]


def _label_missing(
    planned: InferencePlan,
    missing: Sequence[Shard],
    place: OutputPlace,
    checkpoint: Checkpoint,
    config: RunConfig,
) -> None:
    """Label what is missing, unless too many files cannot be read."""
    from effnet_core.infer.output import Tally

    tally = Tally.of(planned, config.infer)
    try:
        tally.check()
        allowed = tally.left
        tally.add(
            *infer_shards(planned, missing, checkpoint, config=config, allowed_errors=allowed)
        )
    except DataError:
        place.put_results()
        raise


def finish_inference(
    planned: InferencePlan,
    checkpoint: Checkpoint,
    *,
    weights: str,
    config: RunConfig,
    place: OutputPlace | None = None,
) -> tuple[dict[str, Any], PredictionsReport | None]:
    """Write totals and the report once every shard is there.

    Args:
        planned: the run.
        checkpoint: the model.
        weights: what the person called it.
        config: settings of inference and storage.
        place: its output; the folder of the plan by default.

    Returns:
        The content of ``summary.json``, and the report; a single image has one only where it is explained,
        and a run that another machine has finished has its own already.

    Raises:
        DataError: a shard is missing, or too many files could not be read.
    """
    from effnet_core.infer import output, plan
    from effnet_core.infer.engines import selection
    from effnet_core.infer.places import FolderPlace
    from effnet_core.quality import drift
    from effnet_core.reports.predictions import write_predictions_report

    place = place or FolderPlace(planned.output)
    reports: list[PredictionsReport] = []

    def write() -> dict[str, Any]:
        summary = output.finish(
            planned,
            infer=config.infer,
            model_sha256=checkpoint.sha256,
            background=checkpoint.sidecar.preprocess.background,
        )
        selected = selection.remembered(checkpoint, config)
        if selected is not None:
            summary["engine"] = selected.to_dict()
        found = drift.drift_of(planned, checkpoint)
        if found is not None:
            summary["drift"] = found.to_dict()
            emit(Event("predict", found.sentence()))
        write_json(planned.output / output.SUMMARY_NAME, summary)
        if planned.images > 1 or config.infer.explain:
            report = write_predictions_report(
                planned,
                summary,
                weights=_called(weights, checkpoint),
                storage=config.storage,
                rows=place.rows,
                explain=checkpoint if config.infer.explain else None,
            )
            reports.append(report)
        return summary

    try:
        summary = place.finish(planned, write, again=config.infer.explain)
    except OSError as cause:
        raise plan.output_lost(planned.output, cause) from cause
    except DataError:
        place.put_results()
        raise
    if reports:
        emit(Event("predict", f"report: {reports[0].path}"))
    return summary, reports[0] if reports else None


def iter_predictions(
    weights: str | Path,
    inputs: Sequence[str | Path] | str | Path,
    *,
    config: RunConfig | None = None,
) -> Iterator[dict[str, Any]]:
    """Label images in this process, one row each as they come, without an output folder.

    For notebooks and programs: ``pandas.DataFrame(iter_predictions("production", "photos"))``. Memory does
    not grow with the images. Nothing is kept, so a call that is stopped starts over.

    Args:
        weights: as ``open_weights`` takes them.
        inputs: as ``inputs.list_inputs`` takes them; one of them may stand alone.
        config: settings of inference.

    Yields:
        ``path``, ``class_ids``, ``class_names`` and ``probs``, best first, the columns of
        ``infer.keep_columns``, and ``probabilities`` and ``features`` where those settings ask for them; or
        ``path`` and ``error`` of a file without an answer.

    Raises:
        ConfigError: the engine runs in child processes only.
        EffnetError: weights or input cannot be used.
    """
    from effnet_core.infer.here import label_here
    from effnet_core.infer.inputs import list_inputs

    config = config or RunConfig()
    checkpoint = open_weights(weights, config.storage)
    given = [inputs] if isinstance(inputs, (str, Path)) else list(inputs)
    listed = list_inputs(
        given,
        None,
        recursive=config.infer.recursive,
        storage=config.storage,
        keep=config.infer.keep_columns,
        data=config.data,
    )
    yield from label_here(checkpoint, listed, config)


def _called(weights: str, checkpoint: Checkpoint) -> str:
    """A model as a report names it: in the person's words, and by its file where that says more."""
    from effnet_core.weights.web import redacted

    name, path = redacted(weights), str(checkpoint.path)
    return name if name == path else f"{name} ({path})"


def _require_images(config: RunConfig, counts: dict[str, int]) -> None:
    """Refuse what cannot make a single step, before any process is started."""
    images = counts.get(config.data.train_split, 0)
    _require_image_a_rank(config, images)
    per_rank = config.per_device_batch_size  # refuses what does not divide
    if images and (per_rank < 1 or config.data.global_batch_size > images * config.data.repeats):
        raise DataError(
            f"data.global_batch_size={config.data.global_batch_size} is more than the {images} images of "
            f"split {config.data.train_split!r}; lower it"
        )


def _is_same(config: RunConfig, before: Prepared) -> bool:
    """Whether an earlier start of a run was given the same settings as this one."""
    from effnet_core.auto.places import differing

    weights, earlier = config.model.weights, before.config.model.weights
    if weights is not None and not (weights == PRODUCTION and before.job.from_production):
        same = str(open_weights(weights, config.storage).path.resolve()) == earlier
        return same and not differing(config, before.config)
    return not differing(config, before.config)


def _require_image_a_rank(config: RunConfig, images: int) -> None:
    if images and config.runtime.world_size > images:
        raise ConfigError(
            f"runtime.world_size={config.runtime.world_size} is more than the {images} training images; "
            "lower runtime.world_size"
        )


def _earlier_run(run_dir: Path) -> Prepared | None:
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


def ensure_records(dataset: Dataset, splits: Iterable[str], config: RunConfig) -> None:
    """Write the records of splits that have none yet, in a process of their own.

    Raises:
        DataError: there is no such split, no room, or an image is not as it was staged.
    """
    from effnet_core.data.records import record_files

    for name in dict.fromkeys(splits):
        dataset.split(name)
        if record_files(dataset, name):
            continue
        alone = config.model_copy(
            update={"runtime": config.runtime.model_copy(update={"world_size": 1})}
        )
        job = RecordsJob(dataset.root.resolve(), name)
        with scratch_folder("records") as folder:
            run_job(job, alone, folder)
