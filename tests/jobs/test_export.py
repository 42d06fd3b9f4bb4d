"""``effnet export`` and the engines, as people meet them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors import safe_open

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import ConfigError, DataError, ExportError
from effnet_core.events import Event
from effnet_core.export.export import TOLERANCE, Agreement, export, packaged_photograph
from effnet_core.export.onnx_model import write_onnx
from effnet_core.infer.parts import read_parts
from effnet_core.model_store.publication import publish_model
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint
from effnet_core.weights.ckpt_file import read_ckpt
from tests.support.images import draw, encode
from tests.support.weights import make_checkpoint
from tests.unit.model_store.test_publication import make_run

TOLERANT = ("infer.max_error_share=0.5",)

pytestmark = pytest.mark.mindspore


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new one, in which no engine has been made yet."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model.ckpt")


@pytest.fixture
def opened(checkpoint: Path) -> Checkpoint:
    return open_checkpoint(checkpoint)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures and one that is damaged."""
    (tmp_path / "pictures").mkdir()
    for index in range(5):
        (tmp_path / "pictures" / f"{index}.png").write_bytes(encode(draw(50, 40, seed=index)))
    (tmp_path / "pictures" / "note.png").write_text("no picture")
    return tmp_path / "pictures"


def effnet(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "effnet_core", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("format", ["onnx", "mindir"])
def test_an_exported_file_was_compared(format: str, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / f"model.{format}"
    done = effnet("export", "-w", checkpoint, "--format", format, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "agrees with MindSpore on 3 images" in done.stdout
    assert out.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    # No operator of ours, whose names lie in a library of this machine: another one could not run it.
    assert b".so:effnet_" not in out.read_bytes()


def test_another_side_and_any_side(opened: Checkpoint, tmp_path: Path) -> None:
    large = tmp_path / "large.onnx"
    assert export(opened, large, format="onnx", image_size=48).images == 3
    assert input_shape(large) == ["batch", 3, 48, 48]
    preprocess = next(p.value for p in onnx.load(large).metadata_props if p.key == "preprocess")
    assert json.loads(preprocess)["image_size"] == 48
    free = tmp_path / "free.onnx"
    assert export(opened, free, format="onnx", dynamic=True).images == 6  # at two sides
    assert input_shape(free) == ["batch", 3, "height", "width"]
    export(opened, tmp_path / "large.mindir", format="mindir", image_size=48)


def input_shape(file: Path) -> list[int | str]:
    (given,) = onnx.load(file).graph.input
    return [axis.dim_param or axis.dim_value for axis in given.type.tensor_type.shape.dim]


def test_more_pictures_and_features(opened: Checkpoint, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.onnx"
    agreement = export(opened, out, format="onnx", pictures=[folder / "0.png"], features=True)
    assert agreement.images == 4
    assert agreement.difference <= TOLERANCE < agreement.spread
    assert [item.name for item in onnx.load(out).graph.output] == ["logits", "features"]


def test_real_b0(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(
        tmp_path / "b0.ckpt", "efficientnet_b0", 1000, class_names=tuple(map(str, range(1000)))
    )
    agreement = export(open_checkpoint(checkpoint), tmp_path / "b0.onnx", format="onnx")
    assert agreement.is_close and agreement.images == 3


def test_safetensors_hold_the_weights_and_the_sidecar(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    export(open_checkpoint(checkpoint), out, format="safetensors")
    with safe_open(out, "np") as stream:
        names = stream.keys()
        found = {name: stream.get_tensor(name) for name in names}
        metadata = json.loads(stream.metadata()["effnet"])
    wanted = read_ckpt(checkpoint)
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert metadata["variant"] == "efficientnet_tiny"
    code = f"import mindspore; print(len(mindspore.load_checkpoint({str(out)!r}, format='safetensors')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) == len(wanted)


def test_a_file_that_disagrees_is_refused_and_not_kept(
    opened: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = open_checkpoint(make_checkpoint(tmp_path / "other.ckpt", seed=1))
    out = tmp_path / "out" / "model.onnx"
    out.parent.mkdir()
    out.write_text("an earlier one")

    def write_other(_: Checkpoint, path: Path, **_options: bool) -> None:
        write_onnx(other, path)

    monkeypatch.setattr("effnet_core.export.onnx_model.write_onnx", write_other)
    with pytest.raises(
        ExportError, match=r"logits differ by up to [0-9.]+ on 3 images, allowed is"
    ):
        export(opened, out, format="onnx")
    assert out.read_text() == "an earlier one"
    assert list(out.parent.iterdir()) == [out]


@pytest.mark.parametrize(
    ("difference", "spread", "close"),
    [(9e-5, 0.1, True), (2e-4, 1.0, False), (2e-4, 3.0, True), (float("nan"), 1.0, False)],
)
def test_what_counts_as_rounding(difference: float, spread: float, close: bool) -> None:
    assert Agreement(difference, spread, 3).is_close is close


def test_what_cannot_be_exported_is_one_sentence(opened: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="format 'tflite' is unknown"):
        export(opened, tmp_path / "x", format="tflite")
    with pytest.raises(ConfigError, match="--features goes with --format onnx"):
        export(opened, tmp_path / "x", format="mindir", features=True)
    with pytest.raises(ConfigError, match="--dynamic goes with --format onnx, not mindir"):
        export(opened, tmp_path / "x", format="mindir", dynamic=True)
    with pytest.raises(ConfigError, match="--image-size goes with --format onnx or mindir"):
        export(opened, tmp_path / "x", format="safetensors", image_size=64)
    with pytest.raises(ConfigError, match="--image-size 8 is too small; give 32 or more"):
        export(opened, tmp_path / "x", format="onnx", image_size=8)
    with pytest.raises(ConfigError, match="is a folder"):
        export(opened, tmp_path, format="onnx")
    (tmp_path / "note.txt").write_text("no picture")
    with pytest.raises(DataError, match=r"note\.txt cannot be used: not an image"):
        export(opened, tmp_path / "x", format="onnx", pictures=[tmp_path / "note.txt"])
    done = effnet("export", "-w", tmp_path / "gone.ckpt", "--out", tmp_path / "x.onnx")
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "gone.ckpt does not exist" in done.stderr


def test_engines_label_alike_and_are_made_once(
    checkpoint: Path, folder: Path, tmp_path: Path, cache: Path, events: list[Event]
) -> None:
    rows = {}
    for name, engine in (("a", "auto"), ("b", "onnxruntime"), ("c", "mindspore")):
        config = load_config(None, [f"infer.engine={engine}", "infer.batch_size=3", *TOLERANT])
        summary = api.infer(checkpoint, [folder], tmp_path / name, config=config)
        assert (summary["labelled"], summary["rejected"]) == (5, 1)
        rows[name] = read_parts(tmp_path / name)
    assert rows["a"] == rows["b"]
    for ours, theirs in zip(rows["a"], rows["c"], strict=True):
        assert ours["class_ids"] == theirs["class_ids"]
        np.testing.assert_allclose(ours["probs"], theirs["probs"], atol=1e-5)
    made = [event for event in events if "making the onnxruntime engine" in event.message]
    assert len(made) == 1
    assert len(list((cache / "engines").glob("[!.]*.onnx"))) == 1


def test_an_engine_does_not_start_mindspore(checkpoint: Path, folder: Path, tmp_path: Path) -> None:
    api.infer(checkpoint, [folder / "0.png"], tmp_path / "a")
    code = (
        "import sys; from effnet_core.worker import rank; from pathlib import Path; "
        f"rank.main(Path({str(tmp_path / 'a' / 'jobs' / 'shard-00000')!r})); "
        "print('mindspore' in sys.modules, 'onnxruntime' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "False True", done.stderr


def test_the_photograph_is_there() -> None:
    assert packaged_photograph().is_file()


def test_published_models_are_exported_by_their_place_in_the_store(tmp_path: Path) -> None:
    run_dir, storage = tmp_path / "run", StorageConfig(root=str(tmp_path / "store"), name="m")
    evaluation = make_run(run_dir, "x")
    model = open_checkpoint(make_checkpoint(run_dir / "model.ckpt"))
    publish_model(
        run_dir,
        evaluation=replace(evaluation, checkpoint_sha256=model.sha256),
        storage=storage,
        gate=EvaluateConfig(),
        version="v1",
    )
    settings = ("-o", f"storage.root={storage.root}", "-o", "storage.name=m")
    for weights in ("production", "store:v1"):
        out = tmp_path / f"{weights}.safetensors"
        options = ("--format", "safetensors", "--out", out, *settings)
        done = effnet("export", "--weights", weights, *options)
        assert done.returncode == 0, done.stderr
        with safe_open(out, "np") as stream:
            assert json.loads(stream.metadata()["effnet"])["sha256"] == model.sha256
    done = effnet("export", "--weights", "store:v2", "--out", tmp_path / "x.onnx", *settings)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "v2" in done.stderr and "v1" in done.stderr
    out = tmp_path / "theirs.ckpt"
    done = effnet("weights", "convert", "production", "--to", "mindvision", "--out", out, *settings)
    assert done.returncode == 0, done.stderr
