"""The network: sizes, names, initial weights, gradients and residual branches."""

from __future__ import annotations

import math
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from effnet_core.family.scaling import cost, expand
from effnet_core.family.variants import variant
from effnet_core.model.layers import SqueezeExcite
from effnet_core.model.network import EfficientNet, create_model

GOLDEN = Path(__file__).parent.parent / "golden" / "efficientnet_tiny_parameters.txt"


def tiny(seed: int = 0, *, num_classes: int = 3) -> EfficientNet:
    return create_model("efficientnet_tiny", num_classes=num_classes, seed=seed)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return Tensor(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


# --- size and names ------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "classes"), [("efficientnet_b0", 1000), ("efficientnet_tiny", 3)])
def test_the_network_has_as_many_parameters_as_the_table_says(name: str, classes: int) -> None:
    network = create_model(name, num_classes=classes)
    trainable = sum(parameter.size for parameter in network.trainable_params())
    assert trainable == cost(variant(name), num_classes=classes).parameters
    if name == "efficientnet_b0":
        assert trainable == 5_288_548
    statistics = [p.name for p in network.get_parameters() if not p.requires_grad]
    assert all(name.endswith(("moving_mean", "moving_variance")) for name in statistics)


def test_parameter_names_and_shapes_are_those_of_the_golden_file() -> None:
    """Checkpoints of today must load tomorrow: change this file only with a migration."""
    rows = [
        f"{parameter.name} {'x'.join(map(str, parameter.shape))}"
        for parameter in tiny().get_parameters()
    ]
    assert rows == GOLDEN.read_text().splitlines()


# --- initial weights -----------------------------------------------------------------------------


def test_initial_weights_follow_the_seed() -> None:
    first, again, other = (
        {p.name: p.asnumpy().copy() for p in tiny(seed).get_parameters()} for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first[name], again[name]) for name in first)
    drawn = [name for name in first if name.endswith("weight")]
    assert all(not np.array_equal(first[name], other[name]) for name in drawn)


def test_initial_weights_have_the_spread_of_the_released_code() -> None:
    network = create_model("efficientnet_b0", num_classes=100)
    checked = 0
    for parameter in network.trainable_params():
        values, name, shape = parameter.asnumpy(), parameter.name, parameter.shape
        if name == "classifier.weight":
            bound = 1 / math.sqrt(100)
            assert np.abs(values).max() <= bound
            assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.02)
        elif name.endswith("weight"):
            fan_out = shape[0] * shape[2] * shape[3]
            if ".depthwise." in name:
                fan_out //= shape[0]
            expected = math.sqrt(2 / fan_out)
            # Five standard deviations of an estimate from this many draws.
            assert values.std() == pytest.approx(expected, rel=5 / math.sqrt(2 * values.size))
            assert values.mean() == pytest.approx(0, abs=5 * expected / math.sqrt(values.size))
            checked += 1
        elif name.endswith("gamma"):
            assert (values == 1).all()
        else:
            assert name.endswith(("beta", "bias"))
            assert (values == 0).all()
    assert checked == 1 + 15 + 16 * 4 + 1


# --- what it computes ----------------------------------------------------------------------------


def test_logits_of_a_batch() -> None:
    network = tiny(num_classes=7)
    network.set_train(False)
    logits = network(noise(4, 3, 32, 32)).asnumpy()
    assert logits.shape == (4, 7)
    assert np.isfinite(logits).all()
    assert logits.std(axis=0).min() > 0  # images are told apart
    alone = network(noise(4, 3, 32, 32)).asnumpy()
    assert np.array_equal(logits, alone)  # nothing random in evaluation


def test_every_parameter_gets_a_gradient() -> None:
    network = tiny()
    network.set_train(True)
    parameters = network.trainable_params()
    labels = Tensor(np.array([0, 1, 2, 0], dtype=np.int32))

    def loss(images: Tensor) -> Tensor:
        return ms.ops.cross_entropy(network(images), labels)

    _, grads = ms.value_and_grad(loss, None, parameters)(noise(4, 3, 32, 32))
    assert len(grads) == len(parameters)
    for parameter, grad in zip(parameters, grads, strict=True):
        values = grad.asnumpy()
        assert np.isfinite(values).all(), parameter.name
        assert np.abs(values).max() > 0, parameter.name


def test_squeeze_excite_by_hand() -> None:
    cell = SqueezeExcite(4, 2)
    rng = np.random.default_rng(0)
    for parameter in cell.get_parameters():
        parameter.set_data(Tensor(rng.standard_normal(parameter.shape).astype(np.float32)))
    values = {p.name: p.asnumpy().astype(np.float64) for p in cell.get_parameters()}
    x = rng.standard_normal((2, 4, 5, 3)).astype(np.float32)

    def sigmoid(z: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-z))

    hidden = x.mean((2, 3)) @ values["reduce.weight"][..., 0, 0].T + values["reduce.bias"]
    gate = (hidden * sigmoid(hidden)) @ values["expand.weight"][..., 0, 0].T + values["expand.bias"]
    expected = x * sigmoid(gate)[..., None, None]
    assert cell(Tensor(x)).asnumpy() == pytest.approx(expected, abs=1e-5)


def test_the_residual_branch_follows_its_scale() -> None:
    block = expand(variant("efficientnet_tiny")).blocks[2]
    assert block.residual
    cell = tiny().blocks[2]
    cell.set_train(False)
    x = noise(3, block.in_channels, 8, 8)
    plain = cell(x).asnumpy()
    scale = np.array([0.0, 1.0, 2.0], dtype=np.float32).reshape(3, 1, 1, 1)
    scaled = cell(x, Tensor(scale)).asnumpy()
    branch = plain - x.asnumpy()
    assert np.abs(branch).max() > 1e-3
    assert np.array_equal(scaled[0], x.asnumpy()[0])  # a dropped branch leaves the input as it is
    assert scaled[1] == pytest.approx(plain[1], abs=1e-6)
    assert scaled[2] == pytest.approx(x.asnumpy()[2] + 2 * branch[2], abs=1e-5)


def test_a_block_that_shrinks_has_no_shortcut() -> None:
    block = expand(variant("efficientnet_tiny")).blocks[1]
    assert not block.residual
    cell = tiny().blocks[1]
    cell.set_train(False)
    x = noise(2, block.in_channels, 9, 8)
    y = cell(x)
    assert y.shape == (2, block.out_channels, 5, 4)  # odd sides round up
    assert np.array_equal(
        y.asnumpy(), cell(x, Tensor(np.zeros((2, 1, 1, 1), np.float32))).asnumpy()
    )
