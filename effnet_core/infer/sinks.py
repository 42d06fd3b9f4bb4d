"""Where the child puts the answers of its shards: an output folder, or a bucket (``bucket_sink.py``)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from effnet_core.infer.entries import Entry
from effnet_core.infer.parts import Kept, answers_table, split, write_table
from effnet_core.infer.pipeline import Prediction
from effnet_core.infer.plan import PARTS_NAME, SHARDS_NAME, read_inputs
from effnet_core.jobs.job import PredictJob, Shard
from effnet_core.results import ShardCounts, ShardResult
from effnet_core.results.drift import Observed
from effnet_core.system.files import write_json

OBSERVED_SUFFIX = ".observed.npz"
"""Of what each shard has kept of its pictures, beside its counts."""
STAGED_SUFFIX = ".staged.parquet"
"""Of a shard's answers before they are split into partitions, beside its counts."""


class Sink(Protocol):
    """Where shards come from and answers go."""

    def shards(self) -> Generator[Shard, None, None]:
        """The shards that this process is to label, one after the other."""
        ...

    def entries(self, shard: Shard) -> list[Entry]:
        """The files of a shard."""
        ...

    def is_ours(self) -> bool:
        """Whether the shard that was given last is still this process's to label."""
        ...

    def others(self) -> list[ShardCounts]:
        """How the job's shards ended that other processes have labelled meanwhile."""
        ...

    def save(
        self,
        shard: Shard,
        rows: Sequence[Prediction],
        kept: Kept,
        result: ShardResult,
        observed: Observed | None,
    ) -> ShardCounts:
        """Write the answers of a shard; afterwards it is done.

        Raises:
            OSError: the folder refuses.
            StoreError: the bucket refuses.
        """
        ...


class FolderSink:
    """An output folder, which its parent keeps to this run."""

    def __init__(self, job: PredictJob, partition_by: str | None) -> None:
        self.job, self.partition_by = job, partition_by
        self.parts, self.records = job.output / PARTS_NAME, job.output / SHARDS_NAME

    def shards(self) -> Generator[Shard, None, None]:
        """All of the job, in order."""
        yield from self.job.shards

    def entries(self, shard: Shard) -> list[Entry]:
        """As ``Sink.entries``."""
        return read_inputs(self.job.output, shard)

    def is_ours(self) -> bool:
        """Always: nobody else writes there."""
        return True

    def others(self) -> list[ShardCounts]:
        """None."""
        return []

    def save(
        self,
        shard: Shard,
        rows: Sequence[Prediction],
        kept: Kept,
        result: ShardResult,
        observed: Observed | None,
    ) -> ShardCounts:
        """As ``Sink.save``: the counts last."""
        if observed is not None:
            observed.save(self.records / f"{shard.part}{OBSERVED_SUFFIX}")
        table = answers_table(rows, model_sha256=self.job.checkpoint_sha256, kept=kept)
        staged = self.records / f"{shard.part}{STAGED_SUFFIX}"
        if self.partition_by is not None:
            self._remove_partitions(staged, shard)
            write_table(staged, table)
        for name, some in split(table, shard.part, self.partition_by):
            write_table(self.parts / name, some)
        result = replace(result, part=str(self.parts / shard.part))
        write_json(self.records / f"{shard.part}.json", result.to_dict())
        staged.unlink(missing_ok=True)
        return result.counts()

    def _remove_partitions(self, staged: Path, shard: Shard) -> None:
        """Remove what a try that was cut has written: its answers may have been others."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not staged.exists():
            return
        with suppress(pa.ArrowException):
            for name, _ in split(pq.read_table(staged), shard.part, self.partition_by):
                (self.parts / name).unlink(missing_ok=True)
