"""Files of ours with nonsense in them: a sentence or an answer, never a traceback, nothing outside."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from effnet_core import api
from effnet_core.config.schema import EvaluateConfig, InferConfig, StorageConfig
from effnet_core.errors import CheckpointError, EffnetError, StoreDamaged
from effnet_core.infer.inputs import InputList
from effnet_core.infer.output import finish
from effnet_core.infer.plan import plan, read_plan
from effnet_core.jobs.job import read_error, read_job
from effnet_core.model_store.maintenance import collect_garbage, verify
from effnet_core.model_store.production import promote, rollback
from effnet_core.model_store.publication import publish_model
from effnet_core.model_store.versions import fetch_model, list_versions, resolve_version
from effnet_core.results import EvalResult, ShardResult, TrainResult
from effnet_core.system.files import read_jsonl, write_json
from effnet_core.weights.checkpoint import open_checkpoint
from tests.unit.model_store.test_publication import make_run, put

OPEN = EvaluateConfig()
ROUNDS = 150
"""Mutations of each file; seeded, so that a failure can be repeated."""
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    10**30,
    1.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../../loot",
    "/etc/passwd",
    "a\x00b",
    "\ud800",
    "x" * 5000,
    [],
    {},
    [[]],
    {"x": 1},
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a value and each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in list(items):
        yield value, key
        if isinstance(inner, dict | list):
            yield from places(inner)


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file as a broken disk, a careless editor or somebody with a purpose would leave it."""
    if rng.random() < 0.3:
        data = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(len(data))
            data[place : place + rng.randint(0, 3)] = rng.randbytes(rng.randint(0, 3))
        return bytes(data[: rng.randint(0, len(data))] if rng.random() < 0.5 else data)
    if rng.random() < 0.05:
        return b"[" * 100_000
    many = b"\n{" in content or b"\n[" in content
    lines = content.decode().splitlines() if many else [content.decode()]
    number = rng.randrange(len(lines))
    value = json.loads(lines[number])
    for _ in range(rng.randint(1, 2)):
        found = list(places(value)) if isinstance(value, dict | list) else []
        if not found:
            break
        holder, key = rng.choice(found)
        if rng.random() < 0.2:
            del holder[key]
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    if rng.random() < 0.05:
        value = copy.deepcopy(rng.choice(VALUES))
    lines[number] = json.dumps(value)
    return "\n".join(lines).encode()


def hold(path: Path, calls: list[Callable[[], Any]], *, seed: int, rounds: int = ROUNDS) -> int:
    """Call everything on mutations of a file; returns how many were refused."""
    content, rng, refused = path.read_bytes(), random.Random(seed), 0
    for number in range(rounds):
        damaged = mutated(content, rng)
        path.write_bytes(damaged)
        for call in calls:
            try:
                call()
            except EffnetError as error:
                refused += 1
                text = str(error)
                assert "\n" not in text and "Traceback" not in text and len(text) < 4000, text
            except Exception as error:  # the file is what is needed to repeat it
                raise AssertionError(
                    f"round {number} of seed {seed}: {damaged[:3000]!r}"
                ) from error
    path.write_bytes(content)
    return refused


@dataclass(frozen=True)
class Shelves:
    storage: StorageConfig
    folder: Path

    def version(self, name: str, file: str) -> Path:
        return self.folder / "versions" / name / file


@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelves:
    """A store of two versions, the first in production, and half an upload."""
    storage = StorageConfig(root=str(tmp_path / "store"), name="animals")
    put(tmp_path, storage, "v1", correct=80)
    put(tmp_path, storage, "v2", correct=70, promote=False)
    found = Shelves(storage, tmp_path / "store" / "animals")
    half = found.version("half", "upload.json")
    half.parent.mkdir()
    claim = {"checkpoint_sha256": "a" * 64, "by": "me", "at": "2026-01-01T00:00:00.000Z"}
    half.write_text(json.dumps(claim))
    monkeypatch.setattr("effnet_core.storage.local._flush", lambda _: None)
    monkeypatch.setattr("effnet_core.system.files.os.fsync", lambda _: None)
    return found


@pytest.mark.costly
def test_manifests(shelves: Shelves, tmp_path: Path) -> None:
    storage = shelves.storage
    before = sorted(path.name for path in tmp_path.iterdir())
    outs = iter(range(10**6))

    def fetch() -> None:
        out = tmp_path / "outs" / str(next(outs))
        fetch_model(storage, "v2", out)

    calls = [
        lambda: resolve_version(storage, "v2"),
        lambda: list_versions(storage),
        fetch,
        lambda: verify(storage, "v2"),
        lambda: promote(storage, "v2", EvaluateConfig(min_top1=0.999)),
    ]
    refused = hold(shelves.version("v2", "manifest.json"), calls, seed=1)
    assert refused > ROUNDS
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "outs"])
    for path in (tmp_path / "outs").rglob("*"):
        assert path.is_dir() or hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.costly
def test_pointers(shelves: Shelves) -> None:
    storage = shelves.storage
    calls = [
        lambda: resolve_version(storage, "production"),
        lambda: list_versions(storage),
        lambda: verify(storage),
        lambda: promote(storage, "v2", EvaluateConfig(min_top1=0.999)),
    ]
    assert hold(shelves.folder / "production.json", calls, seed=2, rounds=60) > 60
    pointer = shelves.folder / "production.json"
    content = pointer.read_bytes()
    for seed in range(12):
        pointer.write_bytes(mutated(content, random.Random(seed)))
        with suppress(EffnetError):
            rollback(storage)
        with suppress(EffnetError):
            promote(storage, "v2", OPEN)
        with suppress(EffnetError):  # 0.70 never takes the place of 0.80 by itself
            assert resolve_version(storage, "production")["version"] == "v1"


def test_claims(shelves: Shelves, tmp_path: Path) -> None:
    run_dir = tmp_path / "run-half"
    evaluation = make_run(run_dir, "half")
    calls = [
        lambda: collect_garbage(shelves.storage, dry_run=True),
        lambda: publish_model(
            run_dir, evaluation=evaluation, storage=shelves.storage, gate=OPEN, version="half"
        ),
    ]
    refused = hold(shelves.version("half", "upload.json"), calls, seed=3, rounds=60)
    assert refused >= 60


@pytest.mark.parametrize(
    "path", ["../loot", "/etc/passwd", "a/../../loot", "..", ".", "", "a//b", "a\\b", "x\x00"]
)
def test_manifests_stay_in_their_folder(shelves: Shelves, tmp_path: Path, path: str) -> None:
    (shelves.folder / "versions" / "loot").write_bytes(b"x")
    file = shelves.version("v2", "manifest.json")
    manifest = json.loads(file.read_text())
    digest = hashlib.sha256(b"x").hexdigest()
    manifest["files"].append({"path": path, "size_bytes": 1, "sha256": digest})
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreDamaged, match="leaves the folder of its version") as caught:
        fetch_model(shelves.storage, "v2", tmp_path / "deep" / "out")
    assert "restore or delete it" in str(caught.value)
    assert not (tmp_path / "deep").exists()


@pytest.mark.parametrize("name", ["manifest.json", "upload.json"])
def test_manifests_do_not_list_the_stores_own_records(
    shelves: Shelves, tmp_path: Path, name: str
) -> None:
    file = shelves.version("v2", "manifest.json")
    manifest = json.loads(file.read_text())
    manifest["files"].append({"path": name, "size_bytes": 1, "sha256": "a" * 64})
    file.write_text(json.dumps(manifest))
    with pytest.raises(StoreDamaged, match="a record of the store itself is among the files"):
        fetch_model(shelves.storage, "v2", tmp_path / "out")


def test_records_that_are_huge_are_not_read(shelves: Shelves) -> None:
    file = shelves.version("v2", "manifest.json")
    with file.open("r+b") as stream:
        stream.truncate(1 << 40)  # a terabyte of zeros
    with pytest.raises(StoreDamaged, match=r"manifest\.json is damaged .*\(it has 1\.1 TB\)"):
        resolve_version(shelves.storage, "v2")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"variant": 7}, "variant: Input should be a valid string"),
        ({"variant": "efficientnet_b99"}, "variant 'efficientnet_b99' is not known"),
        ({"class_names": []}, "class_names: .* at least 1 item"),
        ({"class_names": "abcde"}, "class_names: Input should be a valid"),
        ({"class_names": [1, 2, 3, 4, 5]}, "class_names.0: Input should be a valid string"),
        ({"bn_eps": 0}, "bn_eps: Input should be greater than 0"),
        ({"bn_momentum": 5}, "bn_momentum: Input should be less than or equal to 1"),
        ({"epoch": -1}, "epoch: Input should be greater than or equal to 0"),
        ({"step": "many"}, "step: Input should be a valid integer"),
        ({"training_state": "yes"}, "training_state: Input should be a valid boolean"),
        ({"padding": "reflect"}, "padding: Input should be 'symmetric' or 'same'"),
        ({"unknown": 1}, "unknown: Extra inputs are not permitted"),
        ({"sha256": "short"}, "sha256: String should match"),
        ({"size_bytes": True}, "size_bytes: Input should be a valid integer"),
        ({"libraries": {"numpy": 1}}, "libraries.numpy: Input should be a valid string"),
        ({"preprocess": {}}, "image_size: Field required"),
        (
            {"preprocess": {"image_size": -3}},
            "image_size: Input should be greater than or equal to 1",
        ),
        ({"preprocess": {"image_size": "32"}}, "image_size: Input should be a valid integer"),
        ({"preprocess": {"crop_pct": 0}}, "crop_pct: Input should be greater than 0"),
        ({"preprocess": {"crop_pct": 1.5}}, "crop_pct: Input should be less than or equal to 1"),
        ({"preprocess": {"interpolation": "x"}}, "interpolation: String should match"),
        ({"preprocess": {"mean": [0.5]}}, "mean"),
        ({"preprocess": {"mean": [0.5, 0.5, "x"]}}, "mean.2: Input should be a valid number"),
        ({"preprocess": {"std": [0.5, 0.5, 0]}}, "std.2: Input should be greater than 0"),
        ({"preprocess": {"std": [0.5, 0.5, float("nan")]}}, "std.2: Input should be"),
        ({"preprocess": {"background": [0, 0, 300]}}, "background.2: Input should be less than"),
    ],
)
def test_sidecars_with_nonsense_are_refused(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    make_run(tmp_path / "run", "x")
    path = tmp_path / "run" / "model.json"
    values = json.loads(path.read_text())
    inner = change.pop("preprocess", None)
    values.update(change)
    if inner is not None:
        values["preprocess"] = {**values["preprocess"], **inner} if inner else inner
    path.write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=words) as caught:
        open_checkpoint(path.with_suffix(".ckpt"))
    text = str(caught.value)
    assert text.startswith(f"sidecar {path} is damaged or of another version (")
    assert text.endswith("; copy it again, with its checkpoint, from where that came from")


def test_sidecars(tmp_path: Path) -> None:
    make_run(tmp_path / "run", "x")
    checkpoint = tmp_path / "run" / "model.ckpt"
    assert (
        hold(checkpoint.with_suffix(".json"), [lambda: open_checkpoint(checkpoint)], seed=4) > 100
    )


def test_results_of_runs(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    evaluation = make_run(run_dir, "x")
    trained = TrainResult(str(run_dir / "model.ckpt"), "a", 1, 1, 0, 1.0, evaluation)
    write_json(run_dir / "result.json", trained.to_dict())
    write_json(
        run_dir / "job.json", {"kind": "train", "inputs": {"data_dir": "/d", "data_digest": "x"}}
    )
    calls = [lambda: api.training_result(run_dir), lambda: api.evaluation_of(run_dir)]
    assert hold(run_dir / "result.json", calls, seed=5) > 100
    path = tmp_path / "evaluation.json"
    write_json(path, evaluation.to_dict())
    assert hold(path, [lambda: EvalResult.read(path)], seed=6) > 80
    assert hold(run_dir / "job.json", [lambda: read_job(run_dir)], seed=7) > 50
    write_json(
        run_dir / "error.json", {"type": "JobError", "message": "m", "rank": 0, "known": True}
    )
    hold(run_dir / "error.json", [lambda: read_error(run_dir)], seed=8)


def test_a_run_folder_with_nonsense_is_published_or_refused(tmp_path: Path) -> None:
    storage = StorageConfig(root=str(tmp_path / "store"), name="animals")
    run_dir = tmp_path / "run"
    evaluation = make_run(run_dir, "x")
    rows = [{"kind": "train", "step": 1, "epoch": 1, "loss": 1.5, "lr": 0.1, "loss_mean": 1.4}]
    (run_dir / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows * 3))
    versions = iter(range(10**6))

    def publish() -> None:
        publish_model(
            run_dir,
            evaluation=evaluation,
            storage=storage.model_copy(update={"name": f"m{next(versions)}"}),
            gate=OPEN,
        )

    for file in ("metrics.jsonl", "config.yaml"):
        path = run_dir / file
        content, rng = path.read_bytes(), random.Random(9)
        for _ in range(3):
            data = bytearray(content)
            for _ in range(rng.randint(1, 5)):
                data[rng.randrange(len(data))] = rng.choice(b'x{}[]"0-: ')
            path.write_bytes(data)
            with suppress(EffnetError):
                publish()
        path.write_bytes(content)
    assert len(read_jsonl(run_dir / "metrics.jsonl")) == 3


def test_plans_and_counts_of_shards(tmp_path: Path) -> None:
    output, infer = tmp_path / "out", InferConfig(shard_images=2, format="jsonl")
    names = tuple(f"{i}.png" for i in range(6))
    listed = InputList(str(tmp_path), names, ("1",) * 6)
    done = plan(listed, output, model_sha256="m", infer=infer)
    for shard in done.shards:
        for path in (done.part_path(shard), done.shard_path(shard)):
            path.parent.mkdir(exist_ok=True)
        done.part_path(shard).write_text("")
        counts = ShardResult(shard.part, shard.start, shard.stop, 2, [], {"a": 2}, 1.0, 1.0, [3.0])
        write_json(done.shard_path(shard), counts.to_dict())

    def again() -> None:
        plan(listed, output, model_sha256="m", infer=infer, only_new=True)

    assert read_plan(output) == done
    calls = [lambda: read_plan(output)]
    hold(output / "plan.jsonl", calls, seed=10)
    hold(output / "run.json", [*calls, again], seed=11, rounds=60)
    hold(output / "inputs.jsonl", [again], seed=12, rounds=60)
    shard_file = done.shard_path(done.shards[1])
    hold(shard_file, [lambda: finish(done, infer=infer, model_sha256="m")], seed=13, rounds=60)
