"""Where files of strangers come in: for each kind a valid one, and what reads it."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effnet_core.config.load import load_config
from effnet_core.config.schema import InferConfig, RunConfig, StorageConfig
from effnet_core.data.manifest import open_dataset
from effnet_core.data.sources.columns import Columns
from effnet_core.data.staging import stage_dataset
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.lists import read_list
from effnet_core.infer.plan import plan, read_plan
from effnet_core.model_store.versions import list_versions, resolve_version
from effnet_core.results import EvalResult, ShardResult
from effnet_core.weights.checkpoint import open_checkpoint
from effnet_core.weights.containers import read_tensors, write_safetensors
from tests.fuzz import hostile
from tests.support.images import class_folders, draw, encode
from tests.support.weights import make_checkpoint
from tests.unit.model_store.test_publication import put

PEERS = Path(__file__).resolve().parents[1] / "golden" / "peers"


@dataclass(frozen=True)
class Door:
    """One kind of file."""

    name: str
    share: int
    """How many of a hundred inputs are of this kind."""
    attack: Callable[[random.Random], None]
    """Write a hostile one, and read it."""


def doors(folder: Path) -> list[Door]:
    """Every door; valid files are made once, below ``folder``."""
    return [
        *(_torch(folder, name) for name in ("zip", "legacy", "wrapped", "object")),
        _tensors(folder, "safetensors", 14, _safetensors(folder)),
        _tensors(folder, "ckpt", 10, _checkpoint(folder).read_bytes()),
        _sidecar(folder),
        *_dataset(folder),
        _config(folder),
        *_lists(folder),
        *_results(folder),
        *_store(folder),
        *_plan(folder),
        _archive(folder, "tar", hostile.tar),
        _archive(folder, "zip", hostile.zipped),
    ]


def _tensors(folder: Path, suffix: str, share: int, valid: bytes) -> Door:
    path = folder / f"hostile.{suffix}"

    def attack(chance: random.Random) -> None:
        path.write_bytes(hostile.of_bytes(chance, valid))
        read_tensors(path)

    return Door(suffix, share, attack)


def _torch(folder: Path, kind: str) -> Door:
    path = folder / f"hostile-{kind}.pth"
    valid = (PEERS / f"containers_{kind}.pth").read_bytes()

    def attack(chance: random.Random) -> None:
        path.write_bytes(hostile.of_bytes(chance, valid))
        read_tensors(path)

    return Door(f"torch {kind}", 5, attack)


def _safetensors(folder: Path) -> bytes:
    path = folder / "valid.safetensors"
    write_safetensors(path, {f"w{n}": np.ones((2, n + 1), np.float32) for n in range(4)})
    return path.read_bytes()


def _checkpoint(folder: Path) -> Path:
    path = folder / "valid" / "model.ckpt"
    if not path.exists():
        path.parent.mkdir()
        make_checkpoint(path)
    return path


def _sidecar(folder: Path) -> Door:
    model = _checkpoint(folder)
    valid = model.with_suffix(".json").read_text()
    place = folder / "sidecar"
    place.mkdir()
    shutil.copy(model, place / "model.ckpt")

    def attack(chance: random.Random) -> None:
        (place / "model.json").write_bytes(hostile.of_json(chance, valid))
        open_checkpoint(place / "model.ckpt")

    return Door("sidecar", 8, attack)


def _dataset(folder: Path) -> list[Door]:
    source = class_folders(folder / "source", {"cat": 3, "dog": 3})
    out = folder / "staged"
    stage_dataset(source, out)

    def door(name: str, share: int) -> Door:
        path = out / name
        valid = path.read_bytes()

        def attack(chance: random.Random) -> None:
            is_json = path.suffix == ".json"
            change = hostile.of_json if is_json else hostile.of_bytes
            path.write_bytes(change(chance, valid.decode() if is_json else valid))  # type: ignore[arg-type]
            try:
                found = open_dataset(out)
                for split in found.counts:
                    found.split(split)
            finally:
                path.write_bytes(valid)

        return Door(name, share, attack)

    return [door("dataset.json", 4), door("classes.json", 3), door("manifest.parquet", 4)]


def _config(folder: Path) -> Door:
    path = folder / "hostile.yaml"
    valid = "model:\n  variant: efficientnet_b0\n  weights: null\ndata:\n  image_size: 64\n"
    valid += "  crop_scale: [0.85, 1.0]\noptim: {base_lr: 0.02}\ntrain:\n  epochs: 5\n"

    def attack(chance: random.Random) -> None:
        path.write_bytes(hostile.of_text(chance, valid))
        load_config(path)

    return Door("yaml", 8, attack)


def _lists(folder: Path) -> list[Door]:
    pictures = class_folders(folder / "listed", {"cat": 3, "dog": 3})
    names = sorted(path.relative_to(pictures).as_posix() for path in pictures.rglob("*.jpg"))
    table = "path,label\n" + "".join(f"{name},{name.split('/')[0]}\n" for name in names)
    lines = "".join(json.dumps({"path": name}) + "\n" for name in names)

    def reading(suffix: str, valid: str) -> Door:
        path = pictures / f"hostile.{suffix}"

        def attack(chance: random.Random) -> None:
            path.write_bytes(hostile.of_text(chance, valid))
            read_list(path, Columns(()))

        return Door(f"list {suffix}", 3, attack)

    def staging(chance: random.Random) -> None:
        path = pictures / "stage.csv"
        path.write_bytes(hostile.of_text(chance, table))
        _stage(path, folder)

    return [reading("csv", table), reading("jsonl", lines), Door("csv, staged", 1, staging)]


def _results(folder: Path) -> list[Door]:
    values = {
        "seen": 4,
        "correct1": 2,
        "correct5": 4,
        "loss": 0.5,
        "class_names": ["cat", "dog"],
        "split": "val",
        "checkpoint_sha256": "0" * 64,
        "data_digest": "1" * 64,
    }
    evaluation = EvalResult.from_dict(values).to_dict()
    shard = {
        "part": "part-0",
        "start": 0,
        "stop": 4,
        "labelled": 3,
        "rejected": [{"path": "a", "reason": "b"}],
        "other": [],
        "histogram": {"cat": 3},
        "started": 1.0,
        "seconds": 2.0,
        "latency_ms": [0.5],
    }

    def door(name: str, valid: str, read: Callable[[Path], object]) -> Door:
        path = folder / f"{name}.json"

        def attack(chance: random.Random) -> None:
            path.write_bytes(hostile.of_json(chance, valid))
            read(path)

        return Door(name, 3, attack)

    return [
        door("evaluation", json.dumps(evaluation), EvalResult.read),
        door("shard's counts", json.dumps(shard), ShardResult.read),
    ]


def _store(folder: Path) -> list[Door]:
    storage = StorageConfig(root=str(folder / "store"), name="animals")
    put(folder, storage, "v1", content="one")
    place = folder / "store" / "animals"

    def door(path: Path) -> Door:
        valid = path.read_text()

        def attack(chance: random.Random) -> None:
            path.write_bytes(hostile.of_json(chance, valid))
            try:
                list_versions(storage)
                resolve_version(storage, "production")
            finally:
                path.write_text(valid)

        return Door(f"store's {path.name}", 4, attack)

    return [door(place / "versions" / "v1" / "manifest.json"), door(place / "production.json")]


def _plan(folder: Path) -> list[Door]:
    pictures, output = class_folders(folder / "planned", {"cat": 9}), folder / "output"
    infer = InferConfig(shard_images=2)
    listed = list_inputs([pictures], output, recursive=True, storage=StorageConfig())

    def planned() -> None:
        plan(listed, output, model_sha256="0" * 64, infer=infer, only_new=True)

    planned()

    def door(name: str) -> Door:
        path = output / name
        valid = path.read_text()
        change = hostile.of_json if path.suffix == ".json" else hostile.of_text

        def attack(chance: random.Random) -> None:
            path.write_bytes(change(chance, valid))
            try:
                read_plan(output)
                planned()
            finally:
                path.write_text(valid)

        return Door(f"run's {name}", 3, attack)

    return [door("run.json"), door("plan.jsonl"), door("inputs.jsonl")]


def _archive(folder: Path, suffix: str, make: Callable[[random.Random, bytes], bytes]) -> Door:
    picture = encode(draw(24, 24, seed=1))
    path = folder / f"hostile.{suffix}"

    def attack(chance: random.Random) -> None:
        path.write_bytes(make(chance, picture))
        _stage(path, folder)

    return Door(suffix, 1, attack)


def _stage(source: Path, folder: Path) -> None:
    out = folder / "out"
    try:
        stage_dataset(source, out, max_rejected_share=1.0)
    finally:
        shutil.rmtree(out, ignore_errors=True)


__all__ = ["Door", "RunConfig", "doors"]
