"""A Dask cluster whose workers share nothing but the object store: one is killed, another one comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.infer.parts import read_parts
from effnet_core.infer.places import open_output
from effnet_core.storage import S3Url
from effnet_core.storage.objects import list_objects
from effnet_core.storage.trees import upload_tree
from flows.batch_infer import batch_infer_flow
from tests.support.images import draw, encode
from tests.support.s3 import SeaweedFS
from tests.support.weights import make_checkpoint

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]

ROOT = Path(__file__).resolve().parents[2]
IMAGES, SHARD = 24, 3


class Cluster:
    """A scheduler, and workers with a home, a temporary folder and a cache of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--port=0", "--scheduler-file=address.json")
        file = folder / "scheduler/home/address.json"
        deadline = time.monotonic() + 60
        while not (file.exists() and file.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        self.address = json.loads(file.read_text())["address"]

    def add_worker(self) -> subprocess.Popen[bytes]:
        name = f"worker{len(self.workers)}"
        worker = self._start(
            "worker", self.address, "--nthreads=1", "--no-nanny", f"--name={name}", folder=name
        )
        self.workers.append(worker)
        return worker

    def _start(self, *arguments: str, folder: str = "scheduler") -> subprocess.Popen[bytes]:
        own = self.folder / folder
        for name in ("home", "tmp", "cache"):
            (own / name).mkdir(parents=True)
        environment = {
            **os.environ,
            "HOME": str(own / "home"),
            "TMPDIR": str(own / "tmp"),
            "EFFNET_CACHE_DIR": str(own / "cache"),
            "PYTHONPATH": str(ROOT),
        }
        with (own / "log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments, "--no-dashboard"],
                cwd=own / "home",
                env=environment,
                stdout=log,
                stderr=log,
            )

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started, as a power cut."""
    if process.poll() is None:
        root = psutil.Process(process.pid)
        for one in [root, *root.children(recursive=True)]:
            one.kill()
    process.wait()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(tmp_path / "cluster")
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_workers_that_share_only_the_object_store(
    cluster: Cluster,
    tmp_path: Path,
    seaweedfs: SeaweedFS,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_checkpoint(tmp_path / "model.ckpt")
    monkeypatch.chdir(tmp_path)
    checkpoint = Path("model.ckpt")  # which is nothing where the workers are
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(IMAGES):
        (pictures / f"{index:02d}.png").write_bytes(encode(draw(seed=index)))
    upload_tree(pictures, S3Url(bucket, "in"), seaweedfs.access)
    source, output = f"s3://{bucket}/in", f"s3://{bucket}/labels"
    settings = [
        f"storage.endpoint_url={seaweedfs.endpoint_url}",
        f"infer.shard_images={SHARD}",
        "infer.lease_s=3",
    ]
    config = load_config(None, settings)
    api.infer(checkpoint, [source], tmp_path / "alone", config=config)

    def finished() -> int:
        found = list_objects(f"{output}/shards/", seaweedfs.access)
        return sum(item.key.endswith(".json") for item in found)

    killed_at: list[int] = []

    def trouble() -> None:
        while finished() < 2:
            time.sleep(0.1)
        killed_at.append(finished())
        kill(cluster.workers[0])
        cluster.add_worker()

    cluster.add_worker()
    cluster.add_worker()
    thread = threading.Thread(target=trouble, daemon=True)
    thread.start()
    totals: dict[str, Any] = batch_infer_flow(
        source,
        str(checkpoint),
        output,
        runner="dask",
        dask_address=cluster.address,
        overrides=settings,
    )
    thread.join()
    assert totals["labelled"] == IMAGES and totals["summary"] == f"{output}/summary.json"
    assert 2 <= killed_at[0] < IMAGES // SHARD
    with open_output(output, config) as place:
        assert list(place.rows()) == read_parts(tmp_path / "alone")
    parts = list(list_objects(f"{output}/predictions/", seaweedfs.access))
    assert len(parts) == IMAGES // SHARD
    assert list(cluster.folder.glob("worker1/cache/labelling/*/model.ckpt"))
