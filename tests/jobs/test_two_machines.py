"""Labelling from bucket to bucket on machines that share nothing else: killed, taken over, once each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError, DataError
from effnet_core.infer.engines import tuning
from effnet_core.infer.parts import read_parts
from effnet_core.infer.places import open_output
from effnet_core.kernels import build as operators
from effnet_core.results import ShardResult
from effnet_core.storage import S3Url
from effnet_core.storage.cache import cache_path
from effnet_core.storage.objects import list_objects, read_object
from effnet_core.storage.trees import upload_tree
from effnet_core.system.files import write_json
from tests.support.images import draw, encode
from tests.support.s3 import SeaweedFS
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore

IMAGES, SHARD = 320, 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.ckpt")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    contents = [encode(draw(36, 36, seed=seed), "JPEG") for seed in range(40)]
    for index in range(IMAGES):
        (folder / f"{index:04d}.jpg").write_bytes(contents[index % 40])
    (folder / "bad.jpg").write_bytes(b"")
    return folder


def settings(server: SeaweedFS) -> list[str]:
    return [
        f"storage.endpoint_url={server.endpoint_url}",
        f"infer.shard_images={SHARD}",
        "infer.lease_s=3",
        "infer.batch_size=2",
        "infer.decoders=0",
    ]


class Machine:
    """A home, a temporary folder, a cache and a copy of the model of its own.

    The machine has labelled before: the cache holds native code and engines, as this process's does.
    """

    def __init__(self, folder: Path, checkpoint: Path) -> None:
        for name in ("home", "tmp", "cache"):
            (folder / name).mkdir(parents=True)
        for name in (operators.CACHE_NAME, tuning.CACHE_NAME):
            shutil.copytree(cache_path(name), folder / "cache" / name)
        for suffix in (".ckpt", ".json"):
            shutil.copy(checkpoint.with_suffix(suffix), folder / f"home/model{suffix}")
        self.folder = folder
        self.environment = {
            **os.environ,
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "EFFNET_CACHE_DIR": str(folder / "cache"),
        }

    def predict(self, source: str, output: str, server: SeaweedFS) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "effnet_core", "predict", source, "--output", output]
        command += ["--weights", str(self.folder / "home/model.ckpt")]
        for setting in settings(server):
            command += ["-o", setting]
        return subprocess.Popen(
            command,
            cwd=self.folder / "home",
            env={**self.environment, "PYTHONPATH": str(Path.cwd())},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def pull_the_plug(process: subprocess.Popen[str]) -> None:
    """Kill a process and everything that it has started, at once."""
    root = psutil.Process(process.pid)
    everything = [root, *root.children(recursive=True)]
    for one in everything:
        one.suspend()
    for one in everything:
        one.kill()
    process.communicate()


def rows_in(output: str, config: RunConfig) -> list[dict[str, Any]]:
    with open_output(output, config) as place:
        return list(place.rows())


def test_a_machine_that_dies_in_the_middle_leaves_its_shards_to_the_other(
    checkpoint: Path, pictures: Path, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    upload_tree(pictures, S3Url(bucket, "in"), seaweedfs.access)
    source, output = f"s3://{bucket}/in", f"s3://{bucket}/labels"
    config = load_config(None, settings(seaweedfs))
    api.infer(checkpoint, [source], tmp_path / "alone", config=config)
    expected = read_parts(tmp_path / "alone")
    assert len(expected) == IMAGES

    one, two = (Machine(tmp_path / name, checkpoint) for name in ("one", "two"))
    first, second = (machine.predict(source, output, seaweedfs) for machine in (one, two))
    first_id = f"process {first.pid} "

    records: dict[str, bytes] = {}

    def finished() -> list[str]:
        found = list_objects(f"{output}/shards/", seaweedfs.access)
        return [item.key for item in found if item.key.endswith(".json")]

    def by_first() -> int:
        for key in set(finished()[:30]) - records.keys():
            records[key] = read_object(f"s3://{bucket}/{key}", seaweedfs.access)
        children = {str(child.pid) for child in psutil.Process(first.pid).children(recursive=True)}
        texts = [text.decode() for text in records.values()]
        return sum(any(f"process {pid} " in text for pid in children) for text in texts)

    deadline = time.monotonic() + 120
    while first.poll() is None and by_first() < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert first.poll() is None, first.communicate()
    killed_at = len(finished())
    pull_the_plug(first)
    said = second.communicate(timeout=240)[0]
    assert second.returncode == 0, said
    assert first_id not in said
    assert 3 <= killed_at < IMAGES // SHARD
    assert rows_in(output, config) == expected
    parts = [item.key for item in list_objects(f"{output}/predictions/", seaweedfs.access)]
    assert len(parts) == len(set(parts)) == len(finished()) == -(-(IMAGES + 1) // SHARD)
    results = []
    for key in finished():
        path = tmp_path / "records" / key.rpartition("/")[2]
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(read_object(f"s3://{bucket}/{key}", seaweedfs.access))
        results.append(ShardResult.read(path))
    assert len({result.by for result in results}) == 2  # both have worked
    assert Counter(result.start for result in results).most_common(1)[0][1] == 1
    left = {item.key for item in list_objects(f"{output}/leases/", seaweedfs.access)}
    assert left == set()
    # The dead machine comes back: the run is finished, and it says so with the same totals.
    third = one.predict(source, output, seaweedfs)
    assert f"{IMAGES} of {IMAGES + 1} images labelled, 1 set aside" in third.communicate()[0]
    assert rows_in(output, config) == expected


def test_rows_of_a_notebook_are_those_of_an_output(
    checkpoint: Path, pictures: Path, tmp_path: Path
) -> None:
    names = [f"{index:04d}.jpg" for index in range(30)]
    lines = [f"{pictures / name},{number}" for number, name in enumerate((*names, "bad.jpg"))]
    (tmp_path / "list.csv").write_text("\n".join(["path,id", *lines]))
    config = load_config(None, ["infer.keep_columns=[id]", "infer.max_error_share=0.5"])
    rows = list(api.iter_predictions(checkpoint, tmp_path / "list.csv", config=config))
    api.infer(checkpoint, [tmp_path / "list.csv"], tmp_path / "out", config=config)
    assert rows[:-1] == read_parts(tmp_path / "out")
    assert rows[-1] == {"path": "bad.jpg", "error": "empty file", "id": "30"}
    with pytest.raises(ConfigError, match="runs in child processes only"):
        next(
            api.iter_predictions(
                checkpoint, pictures, config=load_config(None, ["infer.engine=mindspore"])
            )
        )


def test_too_many_errors_are_told_in_the_bucket(
    checkpoint: Path, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    for index in range(8):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / f"in/{index}.jpg").write_bytes(encode(draw(seed=index)) if index else b"")
    write_json(tmp_path / "in/x.json", {})
    config = load_config(None, [*settings(seaweedfs), "infer.max_error_share=0"])
    output = f"s3://{bucket}/labels"
    with pytest.raises(DataError, match=rf"see {output}/errors.jsonl"):
        api.infer(checkpoint, [tmp_path / "in"], output, config=config)
    errors = read_object(f"{output}/errors.jsonl", seaweedfs.access)
    assert b"0.jpg" in errors and b"empty file" in errors
