"""From a bucket to a bucket: stage, train, publish, promote, fetch elsewhere, label; and no secret told."""

from __future__ import annotations

import asyncio
import json
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from prefect.blocks.system import Secret
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

from effnet_core.config.load import load_config
from effnet_core.errors import ConfigError, StoreError
from effnet_core.infer.parts import read_parts
from effnet_core.model_store.maintenance import verify
from effnet_core.model_store.versions import cached_model
from effnet_core.storage import S3Url
from effnet_core.storage.client import Credentials, in_use, using
from effnet_core.storage.trees import upload_tree
from effnet_core.weights.checkpoint import open_checkpoint
from flows.batch_infer import batch_infer_flow
from flows.publish import publish_flow
from flows.stage import stage_flow
from flows.train import train_flow
from tasks.credentials import credentials_of
from tests.support.images import class_folders
from tests.support.s3 import KEY_ID, SECRET, SeaweedFS
from tests.support.tiny import SMALL

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]


@pytest.fixture
def settings(seaweedfs: SeaweedFS, bucket: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Credentials are in a Prefect block and nowhere else."""
    Secret(value={"aws_access_key_id": KEY_ID, "aws_secret_access_key": SECRET}).save(
        "bucket-key", overwrite=True
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    return [
        *SMALL,
        f"storage.root=s3://{bucket}/models",
        "storage.name=animals",
        f"storage.endpoint_url={seaweedfs.endpoint_url}",
        "storage.credentials_block=bucket-key",
    ]


async def told() -> str:
    """Everything that Prefect keeps of runs: states, parameters, logs, artifacts."""
    async with get_client() as client:
        flows = await client.read_flow_runs(limit=200)
        kept: list[Any] = [*flows, *await client.read_task_runs(limit=200)]
        kept += await client.read_artifacts(limit=200)
        for run in flows:
            chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
            kept += await client.read_logs(log_filter=chosen, limit=200)
    return "\n".join(item.model_dump_json() for item in kept)


def files_text(*folders: Path) -> bytes:
    return b"".join(p.read_bytes() for f in folders for p in f.rglob("*") if p.is_file())


@pytest.mark.parametrize(
    "images", [60, pytest.param(5000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_from_bucket_to_bucket(
    settings: list[str],
    seaweedfs: SeaweedFS,
    bucket: str,
    tmp_path: Path,
    images: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = class_folders(tmp_path / "source", dict.fromkeys(("cat", "dog"), images // 2))
    with using(Credentials(KEY_ID, SECRET)):
        upload_tree(source, S3Url(bucket, "data"), seaweedfs.access)
    data, run_dir = tmp_path / "data", tmp_path / "run"
    settings = [*settings, "train.epochs=2", "data.global_batch_size=20"]

    dataset = stage_flow(f"s3://{bucket}/data", str(data), recipe="digits", overrides=settings)
    assert sum(dataset.counts.values()) == images
    train_flow(
        str(data), str(run_dir), recipe="digits", overrides=[*settings, "runtime.world_size=1"]
    )
    published = publish_flow(str(run_dir), version="v1", overrides=settings)
    assert published.promoted
    assert published.uri == f"s3://{bucket}/models/animals/versions/v1"

    monkeypatch.setenv("EFFNET_CACHE_DIR", str(tmp_path / "another-machine"))
    storage = load_config("digits", settings).storage
    with using(Credentials(KEY_ID, SECRET)):
        assert verify(storage) == []
        checkpoint = cached_model(storage, "production")
        assert cached_model(storage) == checkpoint
    assert checkpoint.path.is_relative_to(tmp_path / "another-machine")
    assert checkpoint == replace(open_checkpoint(run_dir / "model.ckpt"), path=checkpoint.path)
    inbox = class_folders(tmp_path / "inbox", {"any": 12}, seed=5)
    out = tmp_path / "out"
    summary = batch_infer_flow(
        str(inbox), "production", str(out), recipe="digits", overrides=settings
    )
    assert (summary["labelled"], summary["rejected"]) == (12, 0)
    assert len(read_parts(out)) == 12

    # Wrong credentials: a failed run keeps a traceback.
    wrong = "planted-wrong-secret"
    Secret(value={"aws_access_key_id": KEY_ID, "aws_secret_access_key": wrong}).save(
        "bucket-key", overwrite=True
    )
    with pytest.raises(StoreError, match="secret access key does not belong"):
        stage_flow(f"s3://{bucket}/data", str(tmp_path / "x"), recipe="digits", overrides=settings)

    kept = asyncio.run(told())
    assert "bucket-key" in kept and f"s3://{bucket}/data" in kept  # it looked in the right place
    text = files_text(data, run_dir, out, tmp_path / "another-machine").decode(errors="replace")
    for place in (kept, text, caplog.text, json.dumps(storage.model_dump())):
        assert SECRET not in place
        assert wrong not in place


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "Prefect has no Secret block of that name"),
        ("planted-text", "must hold JSON with aws_access_key_id"),
        ({"aws_access_key_id": "planted-id"}, "must hold JSON with aws_access_key_id"),
    ],
)
def test_a_block_that_cannot_be_used(value: Any, words: str) -> None:
    if value is not None:
        Secret(value=value).save("odd-key", overwrite=True)
    name = "odd-key" if value is not None else "no-such-key"
    storage = load_config(None, [f"storage.credentials_block={name}"]).storage
    with (
        pytest.raises(ConfigError, match=f"credentials_block='{name}': .*{words}") as caught,
        credentials_of(storage),
    ):
        pytest.fail("used")
    assert "planted" not in "".join(traceback.format_exception(caught.value))


def test_a_block_may_hold_json_as_text() -> None:
    pair = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_session_token": "c"}
    Secret(value=json.dumps(pair)).save("text-key", overwrite=True)
    with credentials_of(load_config(None, ["storage.credentials_block=text-key"]).storage):
        given = in_use()
        assert given is not None
        assert given.environment() == {name.upper(): value for name, value in pair.items()}
    assert in_use() is None
