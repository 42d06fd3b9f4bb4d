"""Label pictures: all at once, in shards, or row by row in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_core.api.opening import open_weights
from effnet_core.config.schema import RunConfig
from effnet_core.errors import DataError
from effnet_core.events import Event, emit
from effnet_core.jobs import launch
from effnet_core.jobs.job import PredictJob, Shard
from effnet_core.results import ShardCounts
from effnet_core.system.files import write_json

if TYPE_CHECKING:
    from effnet_core.infer.places import OutputPlace
    from effnet_core.infer.plan import InferencePlan
    from effnet_core.reports.predictions import PredictionsReport
    from effnet_core.weights.checkpoint import Checkpoint


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
    result = launch.run_job(job, config.model_copy(update={"runtime": single}), folder)
    return [ShardCounts(**item) for item in result["shards"]]


def _sample(planned: InferencePlan, count: int) -> list[str]:
    """Some of a run's paths, from all over it; none where its list lies on another machine."""
    from effnet_core.infer.engines.selection import spread_over
    from effnet_core.infer.plan import paths_at

    return paths_at(planned.output, spread_over(count, planned.images))


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


def _called(weights: str, checkpoint: Checkpoint) -> str:
    """A model as a report names it: in the person's words, and by its file where that says more."""
    from effnet_core.weights.web import redacted

    name, path = redacted(weights), str(checkpoint.path)
    return name if name == path else f"{name} ({path})"


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
