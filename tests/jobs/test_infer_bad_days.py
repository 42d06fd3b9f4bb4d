"""Batch inference when disks fill up, folders and objects go away, or people lose patience."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.errors import DataError, InputLost
from effnet_core.infer.parts import read_parts
from effnet_core.storage.client import s3_client
from effnet_core.system.files import read_json, read_jsonl
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.images import draw, encode
from tests.support.s3 import SeaweedFS
from tests.support.signals import heed_ctrl_c
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore

IMAGES = 200
SLOWLY = [
    *("infer.shard_images=20", "infer.fast_decode=false"),
    *("infer.engine_threads=1", "infer.batch_size=4"),  # or the engine would be measured
]
"""Settings of a run that takes seconds, in many parts."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.ckpt")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    content = encode(draw(1000, 1000), "JPEG")
    for index in range(IMAGES):
        (root / f"{index:04d}.jpg").write_bytes(content)
    return root


def parts(output: Path) -> int:
    return len(list((output / "predictions").glob("part-*")))


def when(done: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Does something as soon as a condition holds."""

    def wait() -> None:
        while not done():
            time.sleep(0.005)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def test_a_folder_that_goes_away_ends_the_run_and_its_return_finishes_it(
    checkpoint: Path, folder: Path, tmp_path: Path
) -> None:
    output, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    config = load_config(None, SLOWLY)
    thief = when(lambda: parts(output) > 0, lambda: folder.rename(elsewhere))
    with pytest.raises(InputLost, match=r"has gone while it was read .*bring it back"):
        api.infer(checkpoint, [folder], output, config=config)
    thief.join()
    assert not read_jsonl(output / "errors.jsonl")  # no file is blamed
    elsewhere.rename(folder)
    summary = api.infer(checkpoint, [folder], output, config=config)
    assert (summary["labelled"], summary["rejected"]) == (IMAGES, 0)


def test_a_full_disk_is_named_and_room_finishes_the_run(
    checkpoint: Path, folder: Path, mount: Callable[[str], Path]
) -> None:
    output = mount("200k") / "out"
    settings = [*SLOWLY, "infer.features=true", "infer.format=csv"]
    config = load_config(None, settings)
    with pytest.raises(DataError) as caught:
        api.infer(checkpoint, [folder], output, config=config)
    message = str(caught.value)
    assert message.startswith(f"output folder {output} can no longer be written to (no space left")
    assert message.endswith("the same command continues with the shards that are missing")
    kept = parts(output)
    assert 0 < kept < IMAGES // 20
    subprocess.run(["mount", "-o", "remount,size=20m", str(output.parent)], check=True)
    assert api.infer(checkpoint, [folder], output, config=config)["labelled"] == IMAGES
    assert [row["path"] for row in read_parts(output)] == sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize(
    ("sent", "code", "said"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 75, "stopped by SIGTERM")],
)
def test_a_run_that_is_told_to_stop_says_so_and_goes_on_later(
    checkpoint: Path, folder: Path, tmp_path: Path, sent: signal.Signals, code: int, said: str
) -> None:
    output = tmp_path / "out"
    command = [sys.executable, "-m", "effnet_core", "predict", str(folder)]
    command += ["--weights", str(checkpoint), "--output", str(output)]
    command += [part for setting in SLOWLY for part in ("-o", setting)]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - before any thread of the child
    )
    when(lambda: parts(output) > 0, lambda: process.send_signal(sent)).join()
    _, errors = process.communicate(timeout=50)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if line.startswith("effnet: ")]
    assert "same command" in line and said in line
    assert 0 < parts(output) < IMAGES // 20
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert read_json(output / "summary.json")["labelled"] == IMAGES


def test_an_object_that_vanishes_after_the_listing_is_listed_as_such(
    checkpoint: Path, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    client = s3_client(seaweedfs.access)
    for index in range(5):
        client.put_object(Bucket=bucket, Key=f"in/{index}.png", Body=encode(draw(seed=index)))
    config = load_config(
        None, ["infer.max_error_share=0.2", f"storage.endpoint_url={seaweedfs.endpoint_url}"]
    )
    output = tmp_path / "out"
    model = open_checkpoint(checkpoint)
    plan = api.plan_inference(model, [f"s3://{bucket}/in"], output, config=config)
    client.delete_object(Bucket=bucket, Key="in/2.png")
    api.infer_shards(plan, plan.missing(), model, config=config)
    summary, _ = api.finish_inference(plan, model, weights="m", config=config)
    assert (summary["labelled"], summary["rejected"]) == (4, 1)
    [row] = read_jsonl(output / "errors.jsonl")
    assert row == {"path": "2.png", "reason": "the object does not exist any more"}


def test_one_object_and_a_list_of_objects(
    checkpoint: Path, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    client = s3_client(seaweedfs.access)
    for name in ("a.png", "deep/b.png"):
        client.put_object(Bucket=bucket, Key=name, Body=encode(draw()))
    endpoint = f"storage.endpoint_url={seaweedfs.endpoint_url}"
    command = [sys.executable, "-m", "effnet_core", "predict", f"s3://{bucket}/deep/b.png"]
    command += ["--weights", str(checkpoint), "--output", str(tmp_path / "one"), "-o", endpoint]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "one" / "b-labelled.png").exists()
    (tmp_path / "list.txt").write_text(f"s3://{bucket}/deep/b.png\ns3://{bucket}/a.png\n")
    config = load_config(None, [endpoint])
    api.infer(checkpoint, [tmp_path / "list.txt"], tmp_path / "two", config=config)
    assert [row["path"] for row in read_parts(tmp_path / "two")] == ["deep/b.png", "a.png"]
