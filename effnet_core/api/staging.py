"""Stage a data set, and write its records, each in a child process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Dataset, open_dataset
from effnet_core.errors import WorkerStalled
from effnet_core.jobs import launch
from effnet_core.jobs.job import RecordsJob, StageJob
from effnet_core.system.locks import scratch_folder, sole_user


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
            result = launch.run_job(job, config.model_copy(update={"runtime": single}), folder)
        except WorkerStalled as stalled:
            raise WorkerStalled(f"staging {source} stands still: {stalled}") from stalled
        return open_dataset(out), bool(result["reused"])


def ensure_records(dataset: Dataset, splits: Iterable[str], config: RunConfig) -> None:
    """Write the records of splits that have none yet, in one process of their own.

    Raises:
        DataError: there is no such split, no room, or an image is not as it was staged.
    """
    from effnet_core.data.records import record_files

    wanted = dict.fromkeys(splits)
    for name in wanted:
        dataset.split(name)
    missing = tuple(name for name in wanted if not record_files(dataset, name))
    if not missing:
        return
    runtime = config.runtime.model_copy(update={"world_size": 1})
    with scratch_folder("records") as folder:
        job = RecordsJob(dataset.root.resolve(), missing)
        launch.run_job(job, config.model_copy(update={"runtime": runtime}), folder)
