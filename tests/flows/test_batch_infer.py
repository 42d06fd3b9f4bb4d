"""Batch inference as a flow: its runners, its dashboard, its live folder."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.concurrency.asyncio import ConcurrencySlotAcquisitionError

from effnet_core.errors import ConfigError
from effnet_core.infer.parts import read_parts
from effnet_core.system.files import read_json
from flows.batch_infer import batch_infer_flow, task_runner
from tasks.slots import SLOT_VARIABLE
from tests.support.images import draw, encode
from tests.support.weights import make_checkpoint

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]

SETTINGS = ["infer.shard_images=4", "infer.features=true", "infer.max_error_share=0.5"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.ckpt")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    """Eleven images and one file that is none: three shards."""
    folder = tmp_path / "inbox"
    folder.mkdir()
    for index in range(11):
        (folder / f"{index:02d}.png").write_bytes(encode(draw(seed=index)))
    (folder / "note.png").write_text("no image")
    return folder


def run(inbox: Path, checkpoint: Path, output: Path, **options: Any) -> dict[str, Any]:
    totals = batch_infer_flow(
        str(inbox), str(checkpoint), str(output), **{"overrides": SETTINGS, **options}
    )
    summary: dict[str, Any] = read_json(Path(totals["summary"]))
    assert totals == {
        **{key: summary[key] for key in totals if key in summary},
        "output": str(output),
        "summary": str(output / "summary.json"),
    }
    return summary


def digests(output: Path) -> dict[str, str]:
    parts = (output / "predictions").iterdir()
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in parts}


def latest(key: str) -> Any:
    async def read() -> Any:
        async with get_client() as client:
            wanted = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
            return await client.read_artifacts(artifact_filter=wanted)

    return max(asyncio.run(read()), key=lambda artifact: artifact.created)


def test_runners_write_the_same_bytes(inbox: Path, checkpoint: Path, tmp_path: Path) -> None:
    summary = run(inbox, checkpoint, tmp_path / "threads", workers=2)
    assert (summary["images"], summary["labelled"], summary["rejected"]) == (12, 11, 1)
    other = run(inbox, checkpoint, tmp_path / "dask", runner="dask", workers=2)
    assert other["classes"] == summary["classes"]
    assert digests(tmp_path / "dask") == digests(tmp_path / "threads")
    assert len(digests(tmp_path / "dask")) == 3

    bar = latest("batch-infer-progress")
    assert bar.data == 100
    assert bar.description.startswith("12 of 12 images, ")
    assert "images/s, 0.0 s left" in bar.description
    gallery = latest("batch-infer-gallery")
    assert str(tmp_path / "dask" / "report.html") in gallery.data
    assert gallery.data.count("](data:image/webp;base64,") > 11
    page = latest("batch-infer-summary").data
    assert latest("batch-infer-summary").description.startswith("11 labelled, 1 set aside, ")
    assert f"| report | `{tmp_path / 'dask' / 'report.html'}` |" in page
    assert page.startswith("# 11 of 12 images labelled") and "not an image" in page
    assert page.count("](data:image/png;base64,") == 1


def test_a_live_folder_gets_labels_for_what_is_new(
    inbox: Path, checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    run(inbox, checkpoint, output, only_new=True)
    before = digests(output)
    assert run(inbox, checkpoint, output, only_new=True)["images"] == 12
    assert digests(output) == before
    (inbox / "0-new.png").write_bytes(encode(draw(seed=99)))
    summary = run(inbox, checkpoint, output, only_new=True)
    assert (summary["images"], summary["labelled"]) == (13, 12)
    assert before.items() <= digests(output).items()
    assert read_parts(output)[-1]["path"] == "0-new.png"
    # Production may have moved on since: what is labelled stays, what comes is the new model's.
    better = make_checkpoint(tmp_path / "better.ckpt", seed=1)
    kept = digests(output)
    (inbox / "1-new.png").write_bytes(encode(draw(seed=98)))
    summary = run(inbox, better, output, only_new=True)
    assert sorted(summary["labelled_by_model"].values()) == [1, 12]
    assert kept.items() <= digests(output).items()


def test_the_fields_of_the_form_are_heeded(inbox: Path, checkpoint: Path, tmp_path: Path) -> None:
    settings = ["infer.max_error_share=0.5"]
    options: dict[str, Any] = {"engine": "mindspore", "top_k": 2, "shard_images": 5}
    run(inbox, checkpoint, tmp_path / "out", overrides=settings, **options)
    assert len(digests(tmp_path / "out")) == 3  # 12 files in fives
    assert {len(row["class_ids"]) for row in read_parts(tmp_path / "out")} == {2}
    jobs = list((tmp_path / "out" / "jobs").glob("*/job.json"))
    assert {read_json(job)["inputs"]["engine"] for job in jobs} == {"mindspore"}
    names = sorted(path.name for path in inbox.iterdir())
    lines = [f"{inbox / name},{index % 2}" for index, name in enumerate(names)]
    (tmp_path / "list.csv").write_text("\n".join(["path,customer", *lines]))
    columns = {"keep_columns": ["customer"], "partition_by": "customer"}
    run(tmp_path / "list.csv", checkpoint, tmp_path / "parts", overrides=settings, **columns)
    folders = (tmp_path / "parts" / "predictions").iterdir()
    assert sorted(path.name for path in folders) == ["customer=0", "customer=1"]
    with pytest.raises(ConfigError, match="needs onnxruntime-gpu on runtime"):
        run(inbox, checkpoint, tmp_path / "no", engine="onnxruntime", device="GPU")


def test_labelling_takes_a_turn_at_devices_but_not_at_the_cpu(
    inbox: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SLOT_VARIABLE, "a-limit-that-nobody-made")
    run(inbox, checkpoint, tmp_path / "cpu")
    with pytest.raises(ConcurrencySlotAcquisitionError, match="a-limit-that-nobody-made"):
        run(inbox, checkpoint, tmp_path / "gpu", device="GPU")


def test_runners_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="dask_address=tcp://x:1 goes with runner=dask"):
        task_runner("threads", 1, "tcp://x:1")
