"""The engines behind one protocol, against each other."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import mindspore as ms
import numpy as np
import onnxruntime
import pytest

from effnet_core.config.schema import InferConfig
from effnet_core.data.preprocess import normalise
from effnet_core.errors import CheckpointError
from effnet_core.export.onnx_model import write_onnx
from effnet_core.export.verify import compare, write_mindir
from effnet_core.family.variants import VARIANTS, Padding
from effnet_core.infer.engines import load_file
from effnet_core.infer.engines.mindspore import MindSporePredictor
from effnet_core.infer.pipeline import Outputs, Predictor
from effnet_core.model.network import create_model
from effnet_core.system.files import read_json, write_json
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.worker.rank import _load_engine
from tests.support.images import draw, encode
from tests.support.weights import make_checkpoint, make_sidecar, parameter_shapes, random_parameters

TINIES = [name for name, row in VARIANTS.items() if row.hidden and len(row.stages) > 1]
TOLERANCE = 1e-4


def mindspore_engine(checkpoint: Path) -> Predictor:
    return MindSporePredictor(checkpoints.open_checkpoint(checkpoint), micro_batch=7)


def file_engine(name: str, checkpoint: Path) -> Predictor:
    file = checkpoint.with_suffix(".onnx")
    opened = checkpoints.open_checkpoint(checkpoint)
    write_onnx(opened, file, features=True, pixels=True)
    return load_file(name, file, opened.sidecar, InferConfig(), workers=1, micro_batch=7)


@pytest.fixture
def eagerly() -> Iterator[None]:
    """Without graphs to compile, and as other tests expect it afterwards."""
    ms.set_context(mode=ms.PYNATIVE_MODE)
    yield
    ms.set_context(mode=ms.GRAPH_MODE)


FILE_ENGINES = [partial(file_engine, name) for name in ("onnxruntime", "openvino")]
ENGINES = [mindspore_engine, *FILE_ENGINES]


def pixels(count: int, side: int = 32) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_keeps_the_protocol(engine: Callable[[Path], Predictor], tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "a.ckpt", class_names=("n02123159", "n07920052"))
    predictor = engine(checkpoint)
    assert predictor.preprocess == checkpoints.open_checkpoint(checkpoint).sidecar.preprocess
    assert predictor.class_names == ("tiger cat", "espresso")
    whole = predictor.forward(pixels(4))
    assert whole.logits.shape == (4, 2) and whole.logits.dtype == np.float32
    assert whole.features is not None and whole.features.shape == (4, 32)
    one = predictor.forward(pixels(4)[:1])
    np.testing.assert_allclose(one.logits, whole.logits[:1], atol=1e-6)
    np.testing.assert_allclose(one.features, whole.features[:1], atol=1e-6)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_checkpoints_give_two_answers(
    engine: Callable[[Path], Predictor], tmp_path: Path
) -> None:
    answers = []
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        checkpoint = make_checkpoint(tmp_path / str(seed) / "a.ckpt", seed=seed)
        answers.append(engine(checkpoint).forward(pixels(2)).logits)
    assert np.abs(answers[0] - answers[1]).max() > 0.1


@pytest.mark.parametrize("engine", ENGINES)
def test_an_answer_does_not_depend_on_its_neighbours(
    engine: Callable[[Path], Predictor], tmp_path: Path, eagerly: None
) -> None:
    predictor, batch = engine(make_checkpoint(tmp_path / "a.ckpt")), pixels(7)
    whole = predictor.forward(batch)
    assert whole.logits.std(axis=0).min() > 1e-3  # images differ
    for start, stop in ((0, 1), (0, 3), (2, 7), (6, 7)):
        some = predictor.forward(batch[start:stop])
        np.testing.assert_allclose(some.logits, whole.logits[start:stop], rtol=0, atol=1e-5)
        np.testing.assert_allclose(some.features, whole.features[start:stop], rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_pixels_are_normalised_inside(
    engine: Callable[[Path], Predictor], tmp_path: Path, eagerly: None
) -> None:
    """The same answers as from the file for others, which takes normalised images."""
    checkpoint = make_checkpoint(tmp_path / "a.ckpt")
    opened = checkpoints.open_checkpoint(checkpoint)
    write_onnx(opened, tmp_path / "plain.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "plain.onnx"))
    [wanted] = session.run(["logits"], {"images": normalise(pixels(4), opened.sidecar.preprocess)})
    found = engine(checkpoint).forward(pixels(4)).logits
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_checkpoint_of_another_model_is_refused(
    engine: Callable[[Path], Predictor], tmp_path: Path
) -> None:
    checkpoint = make_checkpoint(tmp_path / "a.ckpt")
    sidecar = checkpoints.sidecar_path(checkpoint)
    other = next(name for name in TINIES if name != read_json(sidecar)["variant"])
    write_json(sidecar, {**read_json(sidecar), "variant": other})
    with pytest.raises(CheckpointError, match="another model"):
        engine(checkpoint)


@pytest.mark.parametrize("variant", VARIANTS)
def test_drawn_checkpoints_have_exactly_the_networks_parameters(variant: str) -> None:
    if VARIANTS[variant].width_mult > 1.2 or variant.endswith(("_m", "_l")):
        return  # the same stages, hundreds of megabytes
    network = create_model(variant, num_classes=3)
    assert parameter_shapes(variant, 3) == {p.name: p.shape for p in network.get_parameters()}


def calibrated_checkpoint(path: Path, variant: str, side: int, padding: Padding) -> Path:
    """Drawn weights with the BatchNorm statistics of some images, so that no layer of a deep network
    explodes or dies: logits spread by about 1, within an image and between images."""
    network = create_model(variant, num_classes=10, bn_momentum=0.0, padding=padding)
    drawn = random_parameters(variant, 10)
    for parameter in network.get_parameters():
        parameter.set_data(ms.Tensor(drawn[parameter.name]))
    sidecar = make_sidecar(variant, 10, image_size=side, padding=padding)
    network.set_train(True)
    network(ms.Tensor(normalise(pixels(16, side), sidecar.preprocess)))
    network.set_train(False)
    for parameter in network.get_parameters():
        if parameter.name.endswith(
            "moving_variance"
        ):  # a channel that hardly moved must not explode
            value = parameter.asnumpy()
            parameter.set_data(ms.Tensor(0.9 * value + 0.1 * value.mean()))
    checkpoints.save(path, network.get_parameters(), sidecar)
    return path


COUNTS = (1, 7)


@dataclass(frozen=True)
class Reference:
    """A checkpoint, and what MindSpore answers with it to so many images."""

    checkpoint: Path
    side: int
    answers: dict[int, Outputs]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Padding], Reference]:
    """Makes each reference once, for all engines."""

    @functools.cache
    def make(variant: str, padding: Padding) -> Reference:
        side = 64 if variant == "efficientnet_b0" else 33
        folder = tmp_path_factory.mktemp("calibrated")
        checkpoint = calibrated_checkpoint(folder / "a.ckpt", variant, side, padding)
        engine = mindspore_engine(checkpoint)
        return Reference(
            checkpoint, side, {count: engine.forward(pixels(count, side)) for count in COUNTS}
        )

    return make


@pytest.mark.parametrize("engine", FILE_ENGINES)
@pytest.mark.parametrize("padding", get_args(Padding))
@pytest.mark.parametrize("variant", [*TINIES, "efficientnet_b0"])
def test_engines_agree_with_mindspore(
    variant: str,
    padding: Padding,
    engine: Callable[[Path], Predictor],
    reference: Callable[[str, Padding], Reference],
    eagerly: None,
) -> None:
    theirs = reference(variant, padding)
    ours = engine(theirs.checkpoint)
    for count in COUNTS:
        wanted, found = theirs.answers[count], ours.forward(pixels(count, theirs.side))
        assert wanted.features is not None
        assert found.features is not None
        np.testing.assert_allclose(found.logits, wanted.logits, rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(found.features, wanted.features, rtol=0, atol=TOLERANCE)
    assert 0.1 < wanted.logits.std() < 10
    # Images differ: the comparison says something.
    assert wanted.logits.std(axis=0).min() > 100 * TOLERANCE


@pytest.mark.parametrize("variant", TINIES)
def test_a_mindir_file_agrees(variant: str, tmp_path: Path, eagerly: None) -> None:
    checkpoint = checkpoints.open_checkpoint(make_checkpoint(tmp_path / "a.ckpt", variant))
    (tmp_path / "picture.png").write_bytes(encode(draw(50, 60)))
    write_mindir(checkpoint, tmp_path / "a.mindir")
    found = compare(
        checkpoint,
        tmp_path / "a.mindir",
        "mindir",
        [tmp_path / "picture.png"],
        load_engine=_load_engine,
    )
    assert found["images"] == 3
    assert found["difference"] <= TOLERANCE < found["spread"]


def test_a_file_of_other_weights_is_found_out(tmp_path: Path, eagerly: None) -> None:
    checkpoint = checkpoints.open_checkpoint(make_checkpoint(tmp_path / "a.ckpt"))
    other = checkpoints.open_checkpoint(make_checkpoint(tmp_path / "b.ckpt", seed=1))
    write_onnx(other, tmp_path / "b.onnx")
    found = compare(checkpoint, tmp_path / "b.onnx", "onnx", [], load_engine=_load_engine)
    assert found["difference"] > 0.1
