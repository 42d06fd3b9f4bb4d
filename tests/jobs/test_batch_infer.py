"""Batch inference on a bad day: killed, fed with everything that is no picture, from a bucket."""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.data.manifest import open_dataset
from effnet_core.errors import DataError
from effnet_core.infer.parts import read_parts
from effnet_core.results import TrainResult
from effnet_core.storage.client import s3_client
from effnet_core.system.files import read_json, read_jsonl
from tests.support.images import draw, encode
from tests.support.s3 import SeaweedFS
from tests.support.signals import as_anybody
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.ckpt")


def test_a_run_that_is_killed_three_times_has_every_image_once(
    checkpoint: Path, tmp_path: Path
) -> None:
    images, shard = 1000, 50
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    contents = [encode(draw(36, 36, seed=seed), "JPEG") for seed in range(50)]
    for index in range(images):
        (folder / f"{index:04d}.jpg").write_bytes(contents[index % 50])
    command = [sys.executable, "-m", "effnet_core", "predict", str(folder)]
    command += ["--weights", str(checkpoint), "--output", str(output)]
    command += ["-o", f"infer.shard_images={shard}", "-o", "infer.decoders=0"]
    command += ["-o", "infer.engine_threads=1", "-o", "infer.batch_size=4"]  # nothing is measured
    rng = random.Random(0)
    finished = 0
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        goal = finished + rng.randint(1, 3)
        while process.poll() is None and finished < goal:
            time.sleep(0.005)
            finished = len(list((output / "predictions").glob("part-*")))
        time.sleep(rng.random() * 0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(list((output / "predictions").glob("part-*"))) < images // shard
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "shards are finished already" in done.stdout
    rows = read_parts(output)
    assert [row["path"] for row in rows] == [f"{index:04d}.jpg" for index in range(images)]
    # Equal pictures have equal answers, whichever of the four runs gave them.
    assert len({tuple(row["probs"]) for row in rows}) == 50
    assert not list(output.rglob(".part-*"))  # what was cut while being written


def awkward(folder: Path) -> dict[str, str | None]:
    """A folder of trouble: what each file's reason must hold, None where it must be labelled."""
    picture = draw(60, 50)
    jpeg, png = encode(picture, "JPEG"), encode(picture)
    frames = [draw(40, 40, seed=seed).quantize() for seed in range(3)]
    animated = {"save_all": True, "append_images": frames[1:]}
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray(np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 20)
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    files: dict[str, tuple[bytes, str | None]] = {
        "text.jpg": (b"hello", "not an image"),
        "empty.png": (b"", "empty file"),
        "cut.jpg": (jpeg[: len(jpeg) // 2], "truncated"),
        "cut.png": (png[: len(png) // 2], "truncated"),
        "cmyk.jpg": (encode(picture.convert("CMYK"), "JPEG"), None),
        "deep.png": (encode(deep), None),
        "palette.png": (encode(picture.convert("RGBA").quantize(), "PNG", transparency=0), None),
        "animated.gif": (encode(frames[0], "GIF", **animated), None),
        "animated.webp": (
            encode(picture, "WEBP", save_all=True, append_images=[draw(60, 50)]),
            None,
        ),
        "turned.jpg": (encode(picture, "JPEG", exif=exif.tobytes()), None),
        "bomb.png": (bomb.getvalue(), "too large"),
        "a name with spaces.jpg": (jpeg, None),
        "two\nlines.jpg": (jpeg, None),
        "ünï コード.jpg": (jpeg, None),
        "100%25.jpg": (jpeg, None),
        "Case.jpg": (jpeg, None),
        "case.jpg": (png, None),
    }
    for name, (content, _) in files.items():
        (folder / name).write_bytes(content)
    (folder / "page.html").write_bytes(b"<html>")
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(folder / "pipe.jpg")
    wanted = {name: reason for name, (_, reason) in files.items()}
    wanted |= {"dangling.jpg": "no such file", "pipe.jpg": "not a regular file"}
    (folder / "locked.jpg").write_bytes(jpeg)
    (folder / "locked.jpg").chmod(0)
    (folder / "locked").mkdir(mode=0)
    wanted |= {"locked.jpg": "permission denied", "locked": "folder that cannot be listed"}
    return wanted


def test_every_file_of_an_awkward_folder_is_labelled_or_named(
    checkpoint: Path, tmp_path: Path
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    wanted = awkward(folder)
    before = {p.name: p.lstat().st_mtime_ns for p in [folder, *folder.iterdir()]}
    command = [sys.executable, "-m", "effnet_core", "predict", str(folder), "--max-errors", "0.6"]
    command += ["--weights", str(checkpoint), "--output", str(output)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=as_anybody,
    )
    assert done.returncode == 0, done.stderr
    summary = read_json(output / "summary.json")
    assert {p.name: p.lstat().st_mtime_ns for p in [folder, *folder.iterdir()]} == before
    reasons = {row["path"]: row["reason"] for row in read_jsonl(output / "errors.jsonl")}
    labelled = {row["path"] for row in read_parts(output)}
    assert labelled == {name for name, reason in wanted.items() if reason is None}
    other = [row["path"] for row in read_jsonl(output / "other_files.jsonl")]
    assert other == ["page.html"] and summary["other_files"] == 1
    assert reasons.keys() == {name for name, reason in wanted.items() if reason is not None}
    for name, reason in wanted.items():
        assert reason is None or reason in reasons[name], f"{name}: {reasons[name]}"
    assert summary["labelled"] + summary["rejected"] == summary["images"] == len(wanted)


def test_too_many_bad_files_stop_a_run_early(checkpoint: Path, tmp_path: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for index in range(30):
        (folder / f"{index:02d}.png").write_bytes(b"" if index < 10 else encode(draw()))
    settings = ["infer.shard_images=5", "infer.max_error_share=0.1"]
    with pytest.raises(DataError, match=r"5 of 30 files \(16\.7%\) could not be labelled"):
        api.infer(checkpoint, [folder], output, config=load_config(None, settings))
    assert len(list((output / "predictions").iterdir())) == 1
    assert len(read_jsonl(output / "errors.jsonl")) == 5
    settings[1] = "infer.max_error_share=0.5"
    summary = api.infer(checkpoint, [folder], output, config=load_config(None, settings))
    assert (summary["labelled"], summary["rejected"]) == (20, 10)


def test_a_bucket_gives_what_its_folder_gives(
    checkpoint: Path, tmp_path: Path, seaweedfs: SeaweedFS, bucket: str
) -> None:
    folder = tmp_path / "in"
    client = s3_client(seaweedfs.access)

    def put(key: str, content: bytes) -> None:
        client.put_object(Bucket=bucket, Key=key, Body=content)

    names = [f"{index}.png" for index in range(6)] + ["deep/er/x y%.jpg", "ünï.png"]
    for index, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        content = encode(draw(seed=index))
        (folder / name).write_bytes(content)
        put(f"photos/{name}", content)
    (folder / "bad.png").write_bytes(b"")
    put("photos/bad.png", b"")
    put("photos-of-others/x.png", b"")
    config = load_config(
        None, ["infer.max_error_share=0.2", f"storage.endpoint_url={seaweedfs.endpoint_url}"]
    )
    rows = {}
    for name, place in (("folder", str(folder)), ("bucket", f"s3://{bucket}/photos")):
        summary = api.infer(checkpoint, [place], tmp_path / name, config=config)
        assert (summary["labelled"], summary["rejected"]) == (8, 1)
        rows[name] = {row["path"]: row for row in read_parts(tmp_path / name)}
        assert read_json(tmp_path / name / "summary.json") == summary
    assert rows["bucket"] == rows["folder"]


def test_openvino_meets_its_whole_processor(checkpoint: Path, tmp_path: Path) -> None:
    """MindSpore's limit for oneDNN would slow OpenVINO's own down and take bfloat16 from it."""
    import openvino

    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if not able:
        pytest.skip("this processor does not compute in bfloat16")
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(6):
        (folder / f"{index}.png").write_bytes(encode(draw(seed=index)))
    found = {}
    for precision in ("fp32", "bf16"):
        settings = ["infer.engine=openvino", f"infer.precision={precision}"]
        settings += ["infer.probabilities=true"]
        output = tmp_path / precision
        api.infer(checkpoint, [folder], output, config=load_config(None, settings))
        found[precision] = [row["probabilities"] for row in read_parts(output)]
    assert found["bf16"] != found["fp32"]
    np.testing.assert_allclose(found["bf16"], found["fp32"], atol=0.02)


@pytest.mark.parametrize("engine", ["onnxruntime", "mindspore", "openvino"])
def test_labelling_a_split_finds_the_top1_of_its_evaluation(
    engine: str, one_rank: tuple[Path, TrainResult], data_dir: Path, tmp_path: Path
) -> None:
    run_dir, result = one_rank
    split = open_dataset(data_dir).split("val")
    (tmp_path / "val.txt").write_text("".join(f"{split.root / path}\n" for path in split.paths))
    config = load_config(None, [f"infer.engine={engine}"])
    api.infer(run_dir, [tmp_path / "val.txt"], tmp_path / "out", config=config)
    answers = [row["class_ids"][0] for row in read_parts(tmp_path / "out")]
    right = sum(a == label for a, label in zip(answers, split.labels, strict=True))
    assert right == result.evaluation.correct1
    assert 0 < right < len(answers)  # the comparison says something
