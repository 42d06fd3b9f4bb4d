"""An output in a bucket: any number of processes that share nothing else give each answer once."""

from __future__ import annotations

import csv
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from effnet_core.config.schema import InferConfig, RunConfig, StorageConfig
from effnet_core.errors import DataError, FolderInUse, OutputExists
from effnet_core.infer.bucket import LEASES, MEMBERS, STAGED
from effnet_core.infer.bucket_sink import BucketSink
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.output import finish
from effnet_core.infer.parts import NOTHING_KEPT, Kept, read_parts
from effnet_core.infer.pipeline import Prediction
from effnet_core.infer.places import BucketPlace
from effnet_core.infer.plan import InferencePlan, plan
from effnet_core.infer.shards import predict_shards
from effnet_core.reports.review import write_queue
from effnet_core.results import ShardResult
from effnet_core.storage.leases import take
from tests.support.fakes import BrightnessPredictor, predict_job
from tests.support.images import draw, encode
from tests.support.s3 import SeaweedFS

LEASE_S = 1.0


class Machine:
    """A process with a folder of its own that knows the bucket and nothing else."""

    def __init__(self, folder: Path, address: str, storage: StorageConfig, **settings: Any) -> None:
        folder.mkdir()
        given = {"shard_images": 2, "decoders": 0, "lease_s": LEASE_S, **settings}
        self.config = RunConfig(infer=InferConfig(**given), storage=storage)
        self.place = BucketPlace(address, folder, storage, LEASE_S)

    def plan(self, inputs: Path, *, model: str = "m", only_new: bool = False) -> InferencePlan:
        infer = self.config.infer
        listed = list_inputs([inputs], self.place.address, keep=infer.keep_columns)
        return self.place.make_plan(
            lambda: plan(
                listed,
                self.place.folder,
                model_sha256=model,
                infer=infer,
                only_new=only_new,
                remote=self.place.remote,
            )
        )

    def label(self, planned: InferencePlan) -> dict[str, Any]:
        job = predict_job(planned, allowed_errors=1000)
        return predict_shards(BrightnessPredictor(), job, self.config)

    def finish(self, planned: InferencePlan) -> dict[str, Any]:
        infer = self.config.infer
        return self.place.finish(planned, lambda: finish(planned, infer=infer, model_sha256="m"))

    def run(self, inputs: Path, **options: Any) -> dict[str, Any]:
        with self.place.used():
            planned = self.plan(inputs, **options)
            self.label(planned)
            return self.finish(planned)

    def keys(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in self.place.store.list(prefix)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    for index in range(12):
        (root / f"{index:02d}.png").write_bytes(encode(draw(20, 20, seed=index)))
    (root / "12-bad.png").write_bytes(b"")
    return root


@pytest.fixture
def storage(seaweedfs: SeaweedFS) -> StorageConfig:
    return StorageConfig(endpoint_url=seaweedfs.endpoint_url)


@pytest.fixture
def address(bucket: str) -> str:
    return f"s3://{bucket}/labels"


def expected(folder: Path, out: Path, **settings: Any) -> list[dict[str, Any]]:
    infer = InferConfig(**{"shard_images": 2, "decoders": 0, **settings})
    listed = list_inputs([folder], out, keep=infer.keep_columns)
    planned = plan(listed, out, model_sha256="m", infer=infer)
    job = predict_job(planned, allowed_errors=1000)
    predict_shards(BrightnessPredictor(), job, RunConfig(infer=infer))
    return read_parts(out)


def test_a_review_asks_for_the_same_pictures_as_of_a_folder(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    one = Machine(tmp_path / "one", address, storage)
    one.run(folder)
    expected(folder, tmp_path / "local")
    config, asked = RunConfig(storage=storage), []
    for run, out in ((address, tmp_path / "queue"), (tmp_path / "local", tmp_path / "other")):
        write_queue(run, out, count=4, config=config)
        with (out / "queue.csv").open(newline="") as stream:
            asked.append([(row["sha256"], row["given"]) for row in csv.DictReader(stream)])
    assert asked[0] == asked[1]
    assert len(asked[0]) == 4
    with pytest.raises(DataError, match="holds no labelling"):
        write_queue(f"{address}/none", tmp_path / "none", count=4, config=config)


def test_one_machine_leaves_what_a_folder_would_hold(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    one = Machine(tmp_path / "one", address, storage)
    summary = one.run(folder)
    assert (summary["images"], summary["labelled"], summary["rejected"]) == (13, 12, 1)
    assert list(one.place.rows()) == expected(folder, tmp_path / "local")
    keys = one.keys()
    assert {"run.json", "summary.json", "errors.jsonl", "other_files.jsonl"} <= set(keys)
    assert len([key for key in keys if key.startswith("predictions/")]) == 7
    assert not [key for key in keys if key.startswith((LEASES, MEMBERS))]
    errors, _ = one.place.store.get_bytes("errors.jsonl")
    assert json.loads(errors) == {"path": "12-bad.png", "reason": "empty file"}
    again = Machine(tmp_path / "again", address, storage)
    assert again.run(folder) == summary


def test_machines_divide_the_shards(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    machines = [Machine(tmp_path / f"m{number}", address, storage) for number in range(3)]
    summaries: list[dict[str, Any]] = []
    threads = [
        threading.Thread(target=lambda one=one: summaries.append(one.run(folder)))
        for one in machines
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(summaries) == 3 and summaries[0] == summaries[1] == summaries[2]
    assert list(machines[0].place.rows()) == expected(folder, tmp_path / "local")


def test_machines_that_add_the_same_new_files_do_not_refuse_each_other(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    Machine(tmp_path / "first", address, storage).run(folder)
    for index in range(6):
        (folder / f"new{index}.png").write_bytes(encode(draw(20, 20, seed=50 + index)))
    machines = [Machine(tmp_path / f"m{number}", address, storage) for number in range(3)]
    labelled: list[int] = []

    def run(one: Machine) -> None:
        labelled.append(one.run(folder, only_new=True)["labelled"])

    threads = [threading.Thread(target=run, args=(one,)) for one in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert labelled == [18, 18, 18]
    assert len(list(machines[0].place.rows())) == 18


def test_a_shard_whose_machine_has_died_is_taken_over(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    dead = Machine(tmp_path / "dead", address, storage)
    planned = dead.plan(folder)
    key = LEASES + planned.shards[2].part
    dead.place.store.put_bytes(key, b"{}", if_none_match=True)
    dead.place.store.put_bytes(f"{MEMBERS}dead", b'{"plan": "other"}')
    alive = Machine(tmp_path / "alive", address, storage)
    began = time.monotonic()
    assert alive.run(folder)["labelled"] == 12
    assert time.monotonic() - began > LEASE_S
    assert list(alive.place.rows()) == expected(folder, tmp_path / "local")


def test_the_lease_of_a_machine_that_died_after_its_last_answer_does_not_stay(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    one = Machine(tmp_path / "one", address, storage)
    with one.place.used():
        planned = one.plan(folder)
        one.label(planned)
        key = f"{LEASES}{planned.shards[2].part}"
        one.place.store.put_bytes(key, b"{}")  # it had no time to let go of it
        one.finish(planned)
    assert one.keys(LEASES) == []


def test_the_first_answers_count_when_two_have_labelled_a_shard(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    one = Machine(tmp_path / "one", address, storage)
    planned = one.plan(folder)
    shard = planned.shards[0]

    def save(name: str) -> Any:
        sink = BucketSink(predict_job(planned), one.config)
        rows = [Prediction(f"{n}", f"{n:02d}.png", [0], [name], [1.0]) for n in range(2)]
        result = ShardResult(shard.part, shard.start, shard.stop, 2, [], {name: 2})
        return sink.save(shard, rows, NOTHING_KEPT, result, None)

    assert save("cat") == save("dog")
    [part] = one.place.iter_parts()
    assert part.name == shard.part
    one.place.fetch_shards()
    assert ShardResult.read(planned.shard_path(shard)).histogram == {"cat": 2}
    assert {row["class_names"][0] for row in one.place.rows()} == {"cat"}


class Cut(Exception):
    """A process that ends here."""


@pytest.mark.parametrize(("by", "puts"), [("class", 1), ("customer", 2)])
def test_partitions_in_a_bucket_hold_each_row_once(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig, by: str, puts: int
) -> None:
    lines = [f"{n:02d}.png,{'a/b' if n % 2 else 'x'}" for n in range(12)]
    (folder / "list.csv").write_text("\n".join(["path,customer", *lines]))
    settings = {"keep_columns": ("customer",), "partition_by": by}
    one = Machine(tmp_path / "one", address, storage, **settings)
    planned = one.plan(folder / "list.csv")
    # A try that was cut after some objects, with other answers than will come: they have decided.
    sink = BucketSink(predict_job(planned), one.config)
    settle, left = sink._settle, [None] * puts

    def cut(*arguments: Any) -> Any:
        if not left:
            raise Cut
        left.pop()
        return settle(*arguments)

    sink._settle = cut  # type: ignore[method-assign]
    rows = [Prediction(f"{n}", f"{n:02d}.png", [0], ["odd"], [1.0]) for n in range(2)]
    with pytest.raises(Cut):
        kept = Kept(planned.columns, (("x",), ("a/b",)))
        sink.save(planned.shards[0], rows, kept, ShardResult("", 0, 2, 2, [], {"odd": 2}), None)
    one.run(folder / "list.csv")
    found = list(one.place.rows())
    assert sorted(row["path"] for row in found) == [f"{n:02d}.png" for n in range(12)]
    assert {row["path"] for row in found if row["class_names"] == ["odd"]} == {"00.png", "01.png"}
    assert {row["path"]: row["customer"] for row in found} == dict(
        line.split(",") for line in lines
    )
    assert not one.keys(STAGED)
    assert all(f"/{by}=" in key for key in one.keys("predictions/"))


def test_another_run_is_refused(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    stranger = Machine(tmp_path / "zero", f"{address}-0", storage)
    stranger.place.store.put_bytes("thesis.txt", b"x")
    with pytest.raises(OutputExists, match=r"is not empty \(it has thesis.txt\)"):
        stranger.run(folder)
    Machine(tmp_path / "one", address, storage).run(folder)
    with pytest.raises(OutputExists, match=rf"{address} holds another run \(differs in top_k\)"):
        Machine(tmp_path / "two", address, storage, top_k=1).run(folder)
    (folder / "new.png").write_bytes(encode(draw()))
    with pytest.raises(OutputExists, match="holds a run over another list of files"):
        Machine(tmp_path / "three", address, storage).run(folder)


@pytest.fixture
def at_work(address: str, storage: StorageConfig, tmp_path: Path) -> Iterator[Machine]:
    """Somebody who is at work on a plan."""
    machine = Machine(tmp_path / "working", address, storage)
    with machine.place.used():
        yield machine


def test_new_files_wait_until_nobody_is_at_work(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig, at_work: Machine
) -> None:
    planned = at_work.plan(folder)
    (folder / "new.png").write_bytes(encode(draw(seed=77)))
    later = Machine(tmp_path / "later", address, storage)
    with pytest.raises(FolderInUse, match=r"is in use by .*another list or with other settings"):
        later.run(folder, only_new=True)
    at_work.label(planned)
    assert at_work.finish(planned)["labelled"] == 12
    assert at_work.place.member is not None
    at_work.place.member.release()
    assert Machine(tmp_path / "last", address, storage).run(folder, only_new=True)["labelled"] == 13
    assert len(list(later.place.rows())) == 13


def test_a_dead_member_keeps_nobody_out_for_long(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    first = Machine(tmp_path / "first", address, storage)
    first.run(folder)
    first.place.store.put_bytes(f"{MEMBERS}dead", b'{"plan": "x", "by": "a dead process"}')
    (folder / "new.png").write_bytes(encode(draw(seed=77)))
    second = Machine(tmp_path / "second", address, storage)
    assert second.run(folder, only_new=True)["labelled"] == 13
    assert second.keys(MEMBERS) == []


def test_another_model_takes_over_what_is_left(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    first = Machine(tmp_path / "first", address, storage)
    planned = first.plan(folder)
    store = first.place.store
    store.put_bytes(f"predictions/{planned.shards[0].part}", b"of a run that was cut")
    second = Machine(tmp_path / "second", address, storage)
    with second.place.used():
        again = second.plan(folder, model="better", only_new=True)
        assert {shard.model_sha256 for shard in again.shards} == {"better"}
        second.label(again)
        assert second.finish(again)["labelled"] == 12
    assert len(list(second.place.rows())) == 12


def test_totals_are_written_by_one(
    folder: Path, tmp_path: Path, address: str, storage: StorageConfig
) -> None:
    one, two = (Machine(tmp_path / name, address, storage) for name in ("one", "two"))
    planned = one.plan(folder)
    one.label(planned)
    other = two.plan(folder)
    lease = take(one.place.store, f"{LEASES}finished", {"id": "x"}, lease_s=LEASE_S)
    assert lease is not None
    found: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: found.append(two.finish(other)))
    waiting.start()
    time.sleep(1.5 * LEASE_S)
    assert not found  # the holder is alive
    lease.release()
    waiting.join()
    assert one.place.finish(planned, lambda: pytest.fail("written twice")) == found[0]
