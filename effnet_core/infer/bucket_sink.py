"""The child's side of an output in a bucket: shards are taken by leases, answers are put once."""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from effnet_core.config.schema import RunConfig
from effnet_core.errors import Conflict, Interrupted
from effnet_core.events import Event, emit
from effnet_core.infer.bucket import LEASES, POLL_S, STAGED, BucketOutput
from effnet_core.infer.entries import Entry, parse_shard
from effnet_core.infer.parts import Kept, answers_table, rows_of_part, split, write_table
from effnet_core.infer.pipeline import Prediction
from effnet_core.infer.plan import PARTS_NAME, SHARDS_NAME
from effnet_core.infer.sinks import OBSERVED_SUFFIX
from effnet_core.jobs.job import PredictJob, Shard
from effnet_core.jobs.signals import stop_requested
from effnet_core.results import ShardCounts, ShardResult
from effnet_core.results.checked import whole
from effnet_core.results.drift import Observed
from effnet_core.storage.leases import Lease, Watch, take
from effnet_core.storage.pieces import ObjectPieces
from effnet_core.system.locks import Owner

LOOK_S = 10.0
"""Seconds after which is looked again what others have done."""
TOPIC = "predict"


class BucketSink:
    """An output in a bucket, to which other processes write, too."""

    def __init__(self, job: PredictJob, config: RunConfig) -> None:
        self.job, self.partition_by = job, config.infer.partition_by
        self.output = BucketOutput(job.remote, job.output, config.storage, config.infer.lease_s)
        self.store = self.output.store
        self.list = ObjectPieces(f"{job.remote}/{job.list_key}", config.storage.access)
        self.watch = Watch(self.store, LEASES, lease_s=config.infer.lease_s)
        self.mine: set[str] = set()
        self._lease: Lease | None = None
        self._facts = {"id": uuid.uuid4().hex, "by": str(Owner.this_process())}

    def shards(self) -> Generator[Shard, None, None]:
        """Shards that nobody has finished and nobody is at work on, until all are finished."""
        left = {shard.part: shard for shard in self.job.shards}
        leases = self.watch.look()
        if leases:  # others have begun at the beginning: begin elsewhere
            left = _rotated(left, int(self._facts["id"], 16))
        while True:
            for part in left.keys() & self.output.finished():
                del left[part]
            if not left:
                return
            tried = 0
            for shard in self._free(list(left.values())):
                tried += 1
                try:
                    if self.store.head(f"{SHARDS_NAME}/{shard.part}.json") is None:
                        yield shard
                finally:
                    self._release()
            if not tried:
                self._wait(len(left))

    def _free(self, left: list[Shard]) -> Iterator[Shard]:
        """Shards whose leases this process gets, for as long as what it knows of others is fresh."""
        leases = self.watch.look()
        stale = self.watch.stale(leases)
        looked = time.monotonic()
        for shard in left:
            key = LEASES + shard.part
            free = key not in leases or key in stale
            if free and self._take(key, stale.get(key, "")):
                yield shard
                if time.monotonic() - looked > LOOK_S:
                    return

    def _take(self, key: str, instead_of: str) -> bool:
        if instead_of:
            emit(Event(TOPIC, f"taking over {key.removeprefix(LEASES)}, whose process is gone"))
        lease_s = self.output.lease_s
        self._lease = take(self.store, key, self._facts, lease_s=lease_s, instead_of=instead_of)
        return self._lease is not None

    def _release(self) -> None:
        if self._lease is not None:
            self._lease.release()
            self._lease = None

    def _wait(self, left: int) -> None:
        """Wait for others to finish, or to be gone."""
        if stop_requested():
            raise Interrupted(
                "batch inference was stopped while others were at work; the same command continues"
            )
        emit(Event(TOPIC, "", metrics={"note": f"waiting for {left} shard(s) of others"}))
        time.sleep(min(POLL_S, self.output.lease_s / 4))

    def is_ours(self) -> bool:
        """As ``Sink.is_ours``: no longer after others have waited for a sign of life in vain."""
        return self._lease is not None and not self._lease.lost

    def others(self) -> list[ShardCounts]:
        """As ``Sink.others``."""
        self.output.fetch_shards()
        records = self.output.folder / SHARDS_NAME
        results = (
            ShardResult.read(records / f"{shard.part}.json")
            for shard in self.job.shards
            if shard.part not in self.mine and (records / f"{shard.part}.json").exists()
        )
        return [result.counts() for result in results]

    def entries(self, shard: Shard) -> list[Entry]:
        """As ``Sink.entries``, by one request."""
        with whole(Path(self.list.name), "list of inputs"):
            return parse_shard(self.list.read_at(shard.begin, shard.end - shard.begin), shard)

    def save(
        self,
        shard: Shard,
        rows: Sequence[Prediction],
        kept: Kept,
        result: ShardResult,
        observed: Observed | None,
    ) -> ShardCounts:
        """As ``Sink.save``: the first one's answers count, whoever else has labelled the shard, too."""
        table = answers_table(rows, model_sha256=self.job.checkpoint_sha256, kept=kept)
        with TemporaryDirectory(dir=self.job.output) as name:
            folder = Path(name)
            if self.partition_by is None:
                write_table(folder / shard.part, table)
                result = self._settle(folder / shard.part, f"{PARTS_NAME}/{shard.part}", result)
            else:
                result = self._put_partitions(folder, shard, table, result)
            if observed is not None:
                observed.save(folder / "observed.npz")
                key = f"{SHARDS_NAME}/{shard.part}{OBSERVED_SUFFIX}"
                self.store.put_file(folder / "observed.npz", key)
        part = f"{self.job.remote}/{PARTS_NAME}/{shard.part}"
        result = replace(result, part=part, by=self._facts["by"])
        data = (json.dumps(result.to_dict(), indent=2) + "\n").encode()
        with suppress(Conflict):  # another process has finished it meanwhile, with the same answers
            self.store.put_bytes(f"{SHARDS_NAME}/{shard.part}.json", data, if_none_match=True)
        self.mine.add(shard.part)
        return result.counts()

    def _settle(self, path: Path, key: str, result: ShardResult) -> ShardResult:
        """Put a file of answers; where another process was faster, take its answers instead.

        Returns:
            The counts of the answers that are there.
        """
        data = path.read_bytes()
        while True:
            try:
                self.store.put_bytes(key, data, if_none_match=True)
                return result
            except Conflict:
                if self.store.head(key) is not None:
                    break
                time.sleep(POLL_S)  # two came at once, and the server has refused both
        self.store.get_file(key, path)
        names = Counter(row["class_names"][0] for row in rows_of_part(path))
        return replace(result, labelled=names.total(), histogram=dict(names))

    def _put_partitions(
        self, folder: Path, shard: Shard, table: Any, result: ShardResult
    ) -> ShardResult:
        """Put all answers as one object first, which decides them, and then its parts."""
        import pyarrow.parquet as pq

        staged = folder / f"{shard.part}.staged.parquet"
        write_table(staged, table)
        result = self._settle(staged, f"{STAGED}{shard.part}", result)
        if self.store.head(f"{SHARDS_NAME}/{shard.part}.json") is not None:
            return result  # finished and cleared away before: what was put just now decides nothing
        for name, some in split(pq.read_table(staged), shard.part, self.partition_by):
            write_table(folder / name, some)
            self._settle(folder / name, f"{PARTS_NAME}/{name}", result)
        return result


def _rotated(shards: dict[str, Shard], by: int) -> dict[str, Shard]:
    """The same in a ring, from another one on."""
    items = list(shards.items())
    start = by % len(items)
    return dict(items[start:] + items[:start])
