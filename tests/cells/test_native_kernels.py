"""Layers and networks with native CPU kernels beside the same ones with MindSpore's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn

from effnet_core.api import open_weights
from effnet_core.config.schema import OptimConfig, StorageConfig
from effnet_core.family.scaling import Block
from effnet_core.model.layers import ConvNormAct, GlobalMean, LayerSettings, SqueezeExcite
from effnet_core.model.network import EfficientNet, MBConv, create_model
from effnet_core.train.control import Control
from effnet_core.train.optim import create_optimizer, set_learning_rate
from effnet_core.train.step import StepOptions, TrainStep
from effnet_core.weights.checkpoint import Checkpoint
from effnet_core.weights.load import load_parameters
from tests.kernels.library import built
from tests.support.weights import make_sidecar

TOLERANCE = 1e-5
"""Of the largest value of a tensor."""


@pytest.fixture(scope="session")
def library() -> Path:
    return built()


def draw(cell: nn.Cell) -> None:
    """Give every parameter a value of its own, the same for cells with the same parameters."""
    for index, parameter in enumerate(cell.get_parameters()):
        value = np.random.default_rng(index).standard_normal(parameter.shape) * 0.3
        if parameter.name.endswith(("gamma", "moving_variance")):
            value = 1 + np.abs(value)
        parameter.set_data(Tensor(value.astype(np.float32)))


def everything(cell: nn.Cell, x: Tensor, shape: tuple[int, ...], *, train: bool) -> dict[str, Any]:
    """The output, the gradient of the input and of each parameter, and the statistics afterwards.

    Args:
        shape: of the output; known beforehand, it saves compiling the cell a second time.
    """
    draw(cell)
    cell.set_train(train)
    parameters = cell.trainable_params()
    factor = np.random.default_rng(9).standard_normal(shape).astype(np.float32)

    def loss(x: Tensor) -> Any:
        y = cell(x)
        return (y * Tensor(factor)).sum(), y

    grad = ms.value_and_grad(loss, 0, parameters or None, has_aux=True)
    (_, y), grads = grad(x)
    of_x, of_parameters = grads if parameters else (grads, ())
    assert y.shape == shape
    found = {"y": y.asnumpy(), "dx": of_x.asnumpy()}
    for parameter, value in zip(parameters, of_parameters, strict=True):
        found[f"d {parameter.name}"] = value.asnumpy()
    for parameter in cell.get_parameters():
        if not parameter.requires_grad:
            found[parameter.name] = parameter.asnumpy().copy()
    return found


def require_same(own: dict[str, Any], builtin: dict[str, Any], tolerance: float) -> None:
    assert list(own) == list(builtin)
    for name, wanted in builtin.items():
        worst = np.abs(own[name] - wanted).max() / np.abs(wanted).max()
        assert worst <= tolerance, f"{name} is apart by {worst:.1e}"


LAYERS = {
    "depthwise": (5, 5, {"kernel": 3, "groups": 5}),
    "depthwise 5x5": (9, 9, {"kernel": 5, "groups": 9}),
    "depthwise, stride 2": (3, 3, {"kernel": 3, "groups": 3, "stride": 2}),
    "depthwise 5x5, stride 2": (3, 3, {"kernel": 5, "groups": 3, "stride": 2}),
    "1x1": (7, 10, {"kernel": 1}),
    "1x1 without activation": (20, 3, {"kernel": 1, "activate": False}),
    "3x3": (3, 9, {"kernel": 3, "stride": 2}),
}
SHAPES = [(3, 15, 9), (1, 8, 13)]  # images, height, width


@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: f"{shape[0]} images")
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_computes_what_mindspores_operators_do(
    library: Path, name: str, shape: tuple[int, int, int], train: bool
) -> None:
    inputs, outputs, options = LAYERS[name]
    images, height, width = shape
    drawn = np.random.default_rng(1).standard_normal((images, inputs, height, width))
    x = Tensor(drawn.astype(np.float32))
    found = []
    for choice in (library, None):
        padding = "same" if "stride" in name else "symmetric"
        settings = LayerSettings(0.9, padding=padding, library=choice)
        cell = ConvNormAct(inputs, outputs, settings=settings, **options)
        stride = options.get("stride", 1)
        shape = (images, outputs, -(-height // stride), -(-width // stride))
        found.append(everything(cell, x, shape, train=train))
    require_same(*found, TOLERANCE)


@pytest.mark.parametrize("train", [True, False], ids=["training", "inference"])
@pytest.mark.parametrize(("kernel", "stride", "squeezed"), [(3, 1, 2), (5, 2, 0), (3, 2, 4)])
def test_a_block_computes_what_mindspores_operators_do(
    library: Path, kernel: int, stride: int, squeezed: int, train: bool
) -> None:
    """Expansion and depthwise layer are one operator in training."""
    block = Block("mb", 0, 0, 5, 11, 5, squeezed, kernel, stride)
    x = Tensor(np.random.default_rng(1).standard_normal((3, 5, 15, 9)).astype(np.float32))
    activation = "silu" if squeezed else "relu6"
    found = []
    for choice in (library, None):
        settings = LayerSettings(0.9, activation=activation, library=choice)
        shape = (3, 5, -(-15 // stride), -(-9 // stride))
        found.append(everything(MBConv(block, settings=settings), x, shape, train=train))
    require_same(*found, TOLERANCE)


def test_squeeze_excite_and_the_mean_compute_what_mindspores_operators_do(library: Path) -> None:
    x = Tensor(np.random.default_rng(1).standard_normal((2, 9, 5, 11)).astype(np.float32))
    for make, shape in (
        (lambda choice: SqueezeExcite(9, 4, library=choice), x.shape),
        (GlobalMean, x.shape[:2]),
    ):
        own, builtin = (
            everything(make(choice), x, shape, train=True) for choice in (library, None)
        )
        require_same(own, builtin, TOLERANCE)


class Course:
    """A network that is trained on drawn images, with one learning rate.

    Training magnifies rounding: on small batches, at a usual rate, a change of one layer's weights by
    1e-7 moves the 20th loss of a family's network by a tenth, with MindSpore's operators alone. So
    families get batches and rates at which that change stays below 2e-5.
    """

    def __init__(
        self,
        variant: str,
        library: Path | None,
        *,
        size: int,
        batch: int,
        rate: float = 0.01,
        weights: Checkpoint | None = None,
    ) -> None:
        # Seeded weights leave the deepest blocks' outputs so small that eps rules; 0.9 moves statistics.
        classes = 1000 if weights else 5
        self.network = create_model(variant, num_classes=classes, bn_momentum=0.9, library=library)
        if weights:
            load_parameters(weights, self.network.get_parameters())
        self.rate = rate
        self.optimizer = create_optimizer(
            self.network.trainable_params(), OptimConfig(name="sgd", momentum=0.9)
        )
        self.cell = TrainStep(self.network, self.optimizer, StepOptions(label_smoothing=0.1))
        self.shape = (batch, 3, size, size)

    def train(self, steps: int, *, first: int = 0) -> list[float]:
        """The losses of so many steps."""
        losses = []
        self.network.set_train(True)
        self.cell.set_train(True)
        control = Control().encode()
        for step in range(first, first + steps):
            rng = np.random.default_rng(step)
            images = Tensor(rng.standard_normal(self.shape).astype(np.float32))
            labels = Tensor(rng.integers(0, 5, self.shape[0]).astype(np.int32))
            set_learning_rate(self.optimizer, self.rate)
            losses.append(float(self.cell(images, labels, control).asnumpy()[0]))
        return losses

    def state(self) -> dict[str, Any]:
        """Running statistics by name."""
        return {
            p.name: p.asnumpy().copy()
            for p in self.network.get_parameters()
            if p.name.endswith(("moving_mean", "moving_variance"))
        }


def require_same_statistics(own: dict[str, Any], builtin: dict[str, Any]) -> None:
    """Means may be zero but for rounding, so they are compared as shares of the deviation."""
    assert list(own) == list(builtin)
    for name, wanted in builtin.items():
        scale = np.abs(wanted).max()
        if name.endswith("moving_mean"):
            variance = builtin[name.replace("moving_mean", "moving_variance")]
            scale = max(scale, np.sqrt(variance).max())
        worst = np.abs(own[name] - wanted).max() / scale
        assert worst <= 1e-4, f"{name} is apart by {worst:.1e}"


def plain(path: Path) -> Checkpoint:
    """A file of MindSpore's own, which has no sidecar."""
    return Checkpoint(path, make_sidecar("efficientnet_tiny"))


def require_same_course(library: Path, tmp_path: Path, variant: str, **options: Any) -> None:
    """20 steps with either, then each continues from the other's checkpoint."""
    own, builtin = (Course(variant, choice, **options) for choice in (library, None))
    assert own.train(20) == pytest.approx(builtin.train(20), rel=1e-4)
    require_same_statistics(own.state(), builtin.state())
    for name, course in (("own", own), ("builtin", builtin)):
        ms.save_checkpoint(course.network, str(tmp_path / name))
    load_parameters(plain(tmp_path / "builtin.ckpt"), own.network.get_parameters())
    load_parameters(plain(tmp_path / "own.ckpt"), builtin.network.get_parameters())
    assert own.train(3, first=20) == pytest.approx(builtin.train(3, first=20), rel=1e-4)
    require_same_statistics(own.state(), builtin.state())


def test_training_goes_the_same_way_with_either(library: Path, tmp_path: Path) -> None:
    require_same_course(library, tmp_path, "efficientnet_tiny", size=32, batch=8)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "rate"),
    [("efficientnet_b0", 1e-4), ("efficientnet_b3", 3e-5), ("efficientnet_lite0", 1e-5)],
)
def test_networks_of_the_family_train_the_same_way_with_either(
    library: Path, tmp_path: Path, variant: str, rate: float
) -> None:
    lite0 = variant == "efficientnet_lite0"
    weights = open_weights(variant, StorageConfig()) if lite0 else None  # ImageNet's, in the lock
    require_same_course(library, tmp_path, variant, size=128, batch=16, rate=rate, weights=weights)


def test_another_batch_size_needs_no_other_network(library: Path) -> None:
    network = create_model("efficientnet_tiny", num_classes=3, library=library)
    network.set_train(False)
    images = np.random.default_rng(0).standard_normal((5, 3, 32, 32)).astype(np.float32)
    whole = network(Tensor(images)).asnumpy()
    assert network(Tensor(images[:2])).asnumpy() == pytest.approx(whole[:2], abs=1e-5)


def test_a_free_batch_dimension_is_refused(library: Path) -> None:
    """Which is what an export has; exports use the built-in kernels."""
    network: EfficientNet = create_model("efficientnet_tiny", num_classes=3, library=library)
    network.set_train(False)
    with pytest.raises(ValueError, match="native CPU kernels need a fixed batch size"):
        network.set_inputs(Tensor(shape=[None, 3, 32, 32], dtype=ms.float32))
