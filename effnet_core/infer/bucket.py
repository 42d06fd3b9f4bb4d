"""The output of a labelling in a bucket: plan, progress and answers for any number of machines.

s3://BUCKET/PREFIX/
  run.json                settings and digests of the run, and which lists it has; replaced on condition
  lists/*.jsonl           inputs and shards, named by their digests
  model/SHA/*             the model, for machines that have nothing else
  members/ID              who is at work on which plan (leases)
  leases/PART             who labels which shard (leases)
  predictions/, shards/   answers and counts of finished shards, each written once
  finished/SHA.json       the summary of a finished plan: who has written it, has done so once
  errors.jsonl, other_files.jsonl, summary.json, report.html

See docs/adr/0024-bucket-output.md.
"""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from effnet_core.config.schema import StorageConfig
from effnet_core.errors import Conflict, DataError, FolderInUse, OutputExists, StoreError
from effnet_core.events import Event, Threads, emit
from effnet_core.infer.plan import (
    INPUTS_NAME,
    OTHER_NAME,
    PARTS_NAME,
    PLAN_NAME,
    RUN_NAME,
    SHARDS_NAME,
    InferencePlan,
    read_plan,
)
from effnet_core.infer.sinks import OBSERVED_SUFFIX
from effnet_core.storage.addresses import parse_s3
from effnet_core.storage.leases import Lease, Watch, take
from effnet_core.storage.objects import list_objects
from effnet_core.storage.s3 import S3Store
from effnet_core.storage.store import PRIVATE_NAME
from effnet_core.system.files import (
    atomic_path,
    read_json,
    sha256_of_file,
    write_json,
)
from effnet_core.system.locks import Owner
from effnet_core.weights.checkpoint import Checkpoint, opened_before, sidecar_path

LISTS = {"inputs": INPUTS_NAME, "plan": PLAN_NAME, "other": OTHER_NAME}
"""Lists of a run, and what they are called in a folder of records."""
MEMBERS, LEASES, FINISHED, MODEL = "members/", "leases/", "finished/", "model/"
STAGED = "staged/"
SUMMARY_NAME = "summary.json"
OF_A_BEGINNING = ("lists/", MEMBERS, LEASES, MODEL)
"""What a run that was cut before it had its ``run.json`` may have left."""
THREADS = 16
POLL_S = 1.0
TOPIC = "predict"


class BucketOutput:
    """One process's view of an output in a bucket, with copies of its records in a folder."""

    def __init__(self, address: str, folder: Path, storage: StorageConfig, lease_s: float) -> None:
        """Look at an output; nothing is read or written yet.

        Args:
            address: ``s3://bucket/prefix``.
            folder: for copies of records; of this process alone.
            storage: how the bucket is reached.
            lease_s: how long others wait for a sign of life of this process.

        Raises:
            ConfigError: the address is none.
        """
        self.store = S3Store(parse_s3(address.rstrip("/")), storage.access)
        self.address, self.folder, self.lease_s = self.store.uri, folder, lease_s
        self.member: Lease | None = None
        self._id = uuid.uuid4().hex

    # --- who is at work ----------------------------------------------------------------------

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of those who work on the output until the block ends."""
        facts = {"id": self._id, "by": str(Owner.this_process()), "plan": ""}
        self.member = take(self.store, MEMBERS + self._id, facts, lease_s=self.lease_s)
        try:
            yield
        finally:
            if self.member is not None:
                with suppress(StoreError):
                    self.member.release()
                self.member = None

    def _say_plan(self, etag: str) -> None:
        if self.member is not None:
            self.member.say(plan=etag)

    def _require_no_others(self, plan: str, *, etag: str) -> None:
        """Wait until everybody who is at work on another plan is known to be gone.

        Args:
            plan: what others may be at work on; empty for nothing.
            etag: of ``run.json`` as it should be meanwhile.

        Raises:
            Conflict: it has been replaced.
            FolderInUse: somebody is at work.
        """
        watch = Watch(self.store, MEMBERS, lease_s=self.lease_s)
        first: dict[str, str] = {}
        reported = False
        while others := self._others(watch, plan):
            if self.plan_etag() != etag:
                raise Conflict(f"{self.address}/{RUN_NAME} was replaced")
            for key, (seen, facts) in others.items():
                if first.setdefault(key, seen) != seen:
                    raise FolderInUse(
                        f"output {self.address} is in use by {facts.get('by', 'another command')}, which "
                        "labels another list or with other settings; wait until that has ended, stop it, "
                        "or choose another"
                    )
            for key in watch.stale(others):
                self.store.delete(key)
            if not reported:
                reported = True
                who = next(iter(others.values()))[1].get("by", "another command")
                emit(Event("wait", f"looking whether {who} is still at work in {self.address}"))
            time.sleep(min(POLL_S, self.lease_s / 4))

    def _others(self, watch: Watch, plan: str) -> dict[str, tuple[str, dict[str, Any]]]:
        found = {}
        for key in watch.look():
            if key == MEMBERS + self._id:
                continue
            facts, etag = self._facts(key)
            if facts.get("plan") not in (None, "", plan):
                found[key] = (etag, facts)
        return found

    def _facts(self, key: str) -> tuple[dict[str, Any], str]:
        try:
            data, etag = self.store.get_bytes(key)
            facts = json.loads(data)
        except (StoreError, ValueError):  # let go meanwhile
            return {}, ""
        return (facts if isinstance(facts, dict) else {}), etag

    # --- the plan ----------------------------------------------------------------------------

    def make_plan(self, make: Callable[[], InferencePlan]) -> InferencePlan:
        """Plan a run, or join the same run of others.

        Args:
            make: plans in the folder, over the records of earlier runs that lie there.

        Raises:
            OutputExists: the output is of another run.
            FolderInUse: others are at work on another plan.
        """
        while True:
            etag = self._pull()
            before = read_json(self.folder / RUN_NAME) if etag else {}
            if etag:
                self.fetch_shards()
            else:
                self._require_empty()
            planned = make()
            now = read_json(self.folder / RUN_NAME)
            if etag and all(before.get(key) == value for key, value in now.items() if key != "new"):
                write_json(self.folder / RUN_NAME, before)
                self._say_plan(etag)
                if self.plan_etag() == etag:
                    return replace(planned, list_key=str(before["list_key"]))
                continue
            with suppress(Conflict):  # somebody else was faster: look again
                if etag:
                    self._require_no_others("", etag=etag)
                return self._push(planned, now, etag)

    def _require_empty(self) -> None:
        """Refuse a prefix below which others keep something.

        Raises:
            OutputExists: with the name of an object.
        """
        start = len(self.store.place.key) + 1 if self.store.place.key else 0
        place = self.store.place.join("") if start else self.store.place
        for item in list_objects(place, self.store.access):
            name = item.key[start:]
            if not name.startswith((*OF_A_BEGINNING, PRIVATE_NAME)):
                raise OutputExists(
                    f"output {self.address} is not empty (it has {name}); choose another prefix"
                )

    def _push(self, planned: InferencePlan, run: dict[str, Any], etag: str) -> InferencePlan:
        """Store a plan.

        Raises:
            Conflict: somebody else has stored one meanwhile.
        """
        for name, file in LISTS.items():
            path = self.folder / file
            run[f"{'list' if name == 'inputs' else name}_key"] = key = (
                f"lists/{name}-{sha256_of_file(path)[:24]}.jsonl"
            )
            self.store.put_file(path, key)
        data = (json.dumps(run, indent=2) + "\n").encode()
        new = self.store.put_bytes(RUN_NAME, data, if_match=etag or None, if_none_match=not etag)
        write_json(self.folder / RUN_NAME, run)
        self._say_plan(new)
        self._require_no_others(new, etag=new)
        self._remove_strangers(planned)
        return replace(planned, list_key=str(run["list_key"]))

    def _remove_strangers(self, planned: InferencePlan) -> None:
        """Remove answers of shards that another model was to label, and had not finished."""
        known = {shard.part for shard in planned.shards}
        for prefix in (f"{PARTS_NAME}/", STAGED):
            for entry in self.store.list(prefix):
                if entry.key.rpartition("/")[2] not in known:
                    self.store.delete(entry.key)

    def plan_etag(self) -> str:
        """The etag of ``run.json``; empty where there is none."""
        if self.store.head(RUN_NAME) is None:
            return ""
        return self.store.get_bytes(RUN_NAME)[1]

    def _pull(self) -> str:
        """Copy the records of a run to the folder.

        Returns:
            The etag of ``run.json``; empty where there is no run.
        """
        for path in self.folder.iterdir():
            if path.name in (RUN_NAME, *LISTS.values()):
                path.unlink()
        if self.store.head(RUN_NAME) is None:
            return ""
        data, etag = self.store.get_bytes(RUN_NAME)
        with atomic_path(self.folder / RUN_NAME) as temporary:
            temporary.write_bytes(data)
        run = read_json(self.folder / RUN_NAME)
        try:
            keys = {"inputs": run["list_key"], "plan": run["plan_key"], "other": run["other_key"]}
        except (KeyError, TypeError) as cause:
            raise DataError(
                f"{self.address}/{RUN_NAME} is not the record of a labelling; choose another address"
            ) from cause
        for name, key in keys.items():
            self.store.get_file(str(key), self.folder / LISTS[name])
        return etag

    def read_plan(self) -> InferencePlan:
        """The plan that lies in the bucket, with what is known of finished shards.

        Raises:
            DataError: there is none.
        """
        if not self._pull():
            raise DataError(f"{self.address} holds no labelling")
        self.fetch_shards()
        return read_plan(self.folder, remote=self.address)

    # --- shards ------------------------------------------------------------------------------

    def finished(self) -> set[str]:
        """The parts of shards that are finished."""
        names = (entry.key.rpartition("/")[2] for entry in self.store.list(f"{SHARDS_NAME}/"))
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def fetch_shards(self, *, observed: bool = False) -> None:
        """Copy the counts of finished shards, and what was observed, that are not in the folder yet."""
        folder = self.folder / SHARDS_NAME
        folder.mkdir(exist_ok=True)
        suffixes = (".json", OBSERVED_SUFFIX) if observed else (".json",)
        missing = [
            entry.key
            for entry in self.store.list(f"{SHARDS_NAME}/")
            if entry.key.endswith(suffixes) and not (folder / entry.key.rpartition("/")[2]).exists()
        ]

        def fetch(key: str) -> None:
            data, _ = self.store.get_bytes(key)
            with atomic_path(folder / key.rpartition("/")[2]) as temporary:
                temporary.write_bytes(data)

        with Threads(THREADS) as pool:
            for future in [pool.submit(fetch, key) for key in missing]:
                future.result()

    def fetch_summary(self) -> None:
        """Copy the totals of a finished run to the folder."""
        if self.store.head(SUMMARY_NAME) is not None:
            self.store.get_file(SUMMARY_NAME, self.folder / SUMMARY_NAME)

    def iter_parts(self) -> Iterator[Path]:
        """The part files one by one, each as a file that is gone when the next one comes."""
        keys = [entry.key for entry in self.store.list(f"{PARTS_NAME}/")]
        root = self.folder / "fetched"
        try:
            for key in sorted(keys, key=lambda key: (key.rpartition("/")[2], key)):
                path = root / key
                self.store.get_file(key, path)
                yield path
                path.unlink()
        finally:
            shutil.rmtree(root, ignore_errors=True)

    # --- the end -----------------------------------------------------------------------------

    def finish(
        self, plan: InferencePlan, write: Callable[[], dict[str, Any]], *, again: bool = False
    ) -> dict[str, Any]:
        """Write totals and report once for a plan; whoever comes later gets what was written.

        Args:
            plan: the run, whose shards are all finished.
            write: writes them into the folder, and returns the summary.
            again: whether to write them again where somebody has.
        """
        done = f"{FINISHED}{read_json(self.folder / RUN_NAME)['plan_key'].rpartition('/')[2]}"
        key = f"{LEASES}{FINISHED[:-1]}"
        watch = Watch(self.store, key, lease_s=self.lease_s)
        while True:
            if not again and self.store.head(done) is not None:
                return dict(json.loads(self.store.get_bytes(done)[0]))
            leases = watch.look()
            stale = watch.stale(leases)
            if key in leases and key not in stale:
                time.sleep(min(POLL_S, self.lease_s / 4))
                continue
            facts = {"id": self._id, "by": str(Owner.this_process())}
            lease = take(
                self.store, key, facts, lease_s=self.lease_s, instead_of=stale.get(key, "")
            )
            if lease is None:
                continue
            try:
                self.fetch_shards(observed=True)
                summary = write()
                self.put_results()
                data = json.dumps(summary).encode()
                with suppress(Conflict):
                    self.store.put_bytes(done, data, if_none_match=True)
                for entry in [*self.store.list(STAGED), *self.store.list(LEASES)]:
                    if entry.key != key:  # what processes left that were killed
                        self.store.delete(entry.key)
                return summary
            finally:
                lease.release()

    def put_results(self) -> None:
        """Store what the folder has for people: totals, errors, report."""
        names = [OTHER_NAME, "errors.jsonl", "report.html", SUMMARY_NAME]  # the summary last
        explained = sorted((self.folder / "explained").glob("*.png"))
        for path in [*explained, *(self.folder / name for name in names)]:
            if path.is_file():
                self.store.put_file(path, path.relative_to(self.folder).as_posix())

    # --- the model ---------------------------------------------------------------------------

    def keep_model(self, checkpoint: Checkpoint, *more: Path) -> None:
        """Store the model beside its answers, for machines that do not have it."""
        for path in (checkpoint.path, *more, sidecar_path(checkpoint.path)):
            suffix = path.name if path in more else f"model{path.suffix}"
            key = f"{MODEL}{checkpoint.sha256[:24]}/{suffix}"
            if self.store.head(key) is None:
                self.store.put_file(path, key)

    def fetch_model(self, sha256: str, folder: Path) -> Checkpoint:
        """The model of a shard, in a folder of this machine.

        Raises:
            StoreError: it was never stored, or the bucket refuses.
        """
        for entry in self.store.list(f"{MODEL}{sha256[:24]}/"):
            path = folder / entry.key.rpartition("/")[2]
            if not path.exists():
                self.store.get_file(entry.key, path)
        return opened_before(folder / "model.ckpt", sha256)
