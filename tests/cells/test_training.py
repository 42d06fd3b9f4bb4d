"""One optimizer step by hand, and a network that learns."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from effnet_core.config import OptimConfig
from effnet_core.model.network import create_model
from effnet_core.train.optim import create_optimizer, decays, set_learning_rate
from effnet_core.train.step import TrainStep
from tests.images import draw

NOTHING = Tensor(np.zeros(1, np.float32))
NAMES = ("block.conv.weight", "block.norm.gamma", "block.norm.beta", "classifier.bias")


def parameters() -> list[Parameter]:
    rng = np.random.default_rng(0)
    return [Parameter(Tensor(rng.standard_normal(5).astype(np.float32)), name=n) for n in NAMES]


def updates(steps: int = 1, *, gradient: float = 0.3, lr: float = 0.1, **settings: object) -> dict:
    """What ``steps`` updates with a constant gradient make of some parameters, by name."""
    mine = parameters()
    optimizer = create_optimizer(mine, OptimConfig(**settings))
    for _ in range(steps):
        set_learning_rate(optimizer, lr)
        optimizer(tuple(Tensor(np.full(5, gradient, np.float32)) for _ in mine))
    return {p.name: p.asnumpy().copy() for p in mine}


def by_hand(weights: np.ndarray, gradients: list[np.ndarray], rates: list[float], cfg: OptimConfig):
    """TensorFlow's RMSProp: the mean square starts at 1, epsilon lies inside the root."""
    square, moment = np.ones_like(weights), np.zeros_like(weights)
    for gradient, rate in zip(gradients, rates, strict=True):
        square = cfg.decay * square + (1 - cfg.decay) * gradient**2
        moment = cfg.momentum * moment + rate * gradient / np.sqrt(square + cfg.epsilon)
        weights = weights - moment
    return weights


# --- the optimizer -------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_tensorflows(momentum: float) -> None:
    cfg = OptimConfig(momentum=momentum, weight_decay=0)
    after = updates(3, momentum=momentum, weight_decay=0)
    for before in parameters():
        gradients = [np.full(5, 0.3, np.float32)] * 3
        expected = by_hand(before.asnumpy(), gradients, [0.1] * 3, cfg)
        assert after[before.name] == pytest.approx(expected, abs=1e-6)


def test_sgd_by_hand() -> None:
    after = updates(2, name="sgd", momentum=0.9, weight_decay=0)
    for before in parameters():
        # velocity 0.3, then 0.9 * 0.3 + 0.3
        expected = before.asnumpy() - 0.1 * (0.3 + 0.57)
        assert after[before.name] == pytest.approx(expected, abs=1e-6)


def test_the_learning_rate_of_each_step_is_the_one_set() -> None:
    mine = parameters()
    optimizer = create_optimizer(mine, OptimConfig(name="sgd", momentum=0, weight_decay=0))
    seen = []
    for rate in (0.1, 0.0, 0.5):
        before = mine[0].asnumpy().copy()
        set_learning_rate(optimizer, rate)
        optimizer(tuple(Tensor(np.ones(5, np.float32)) for _ in mine))
        seen.append(float((before - mine[0].asnumpy()).mean()))
    assert seen == pytest.approx([0.1, 0.0, 0.5], abs=1e-6)


@pytest.mark.parametrize("name", ["rmsprop", "sgd"])
def test_weight_decay_pulls_weights_and_nothing_else(name: str) -> None:
    after = updates(gradient=0.0, name=name, weight_decay=0.1)
    for before in parameters():
        moved = not np.array_equal(after[before.name], before.asnumpy())
        assert moved == before.name.endswith("weight"), before.name
    shrunk = np.abs(after["block.conv.weight"]) < np.abs(parameters()[0].asnumpy())
    assert shrunk.all()


def test_what_decays_in_the_real_network() -> None:
    names = [p.name for p in create_model("efficientnet_tiny", num_classes=3).trainable_params()]
    kinds = {name.rpartition(".")[2]: decays(name) for name in names}
    assert kinds == {"weight": True, "gamma": False, "beta": False, "bias": False}


# --- one compiled step ---------------------------------------------------------------------------


def images_and_labels() -> tuple[Tensor, Tensor]:
    """Four drawn images of three classes, normalised roughly."""
    pixels = np.stack([np.asarray(draw(32, 32, seed=seed)) for seed in range(4)])
    images = (pixels.transpose(0, 3, 1, 2).astype(np.float32) - 128) / 64
    return Tensor(images), Tensor(np.array([0, 1, 2, 0], dtype=np.int32))


def gradients_of(network: ms.nn.Cell) -> Callable[[Tensor, Tensor], tuple]:
    def loss(images: Tensor, labels: Tensor) -> Tensor:
        return ms.ops.cross_entropy(network(images), labels, label_smoothing=0.1)

    return ms.value_and_grad(loss, None, network.trainable_params())


def test_compiled_steps_are_gradient_and_update_by_hand() -> None:
    """Two steps of the real network: the loss before each, and every weight after them."""
    cfg = OptimConfig(weight_decay=1e-3)
    network = create_model("efficientnet_tiny", num_classes=3)
    network.set_train(True)
    inputs = images_and_labels()
    trainable = network.trainable_params()
    names = [p.name for p in trainable]
    start = {p.name: p.asnumpy().astype(np.float64) for p in trainable}
    reference = gradients_of(network)
    step = TrainStep(
        network, create_optimizer(trainable, cfg), label_smoothing=0.1, world_size=1
    ).set_train(True)
    rates, history = [0.01, 0.02], []
    for rate in rates:
        expected_loss, grads = reference(*inputs)
        before = {p.name: p.asnumpy() for p in trainable}
        history.append(
            {
                name: grad.asnumpy() + (cfg.weight_decay * before[name] if decays(name) else 0)
                for name, grad in zip(names, grads, strict=True)
            }
        )
        set_learning_rate(step.optimizer, rate)
        assert float(step(*inputs, NOTHING)[0]) == pytest.approx(float(expected_loss), abs=1e-5)
    for parameter in trainable:
        name = parameter.name
        expected = by_hand(start[name], [grads[name] for grads in history], rates, cfg)
        assert parameter.asnumpy() == pytest.approx(expected, abs=2e-5), name
    assert [p.name for p in network.trainable_params()] == names


def test_four_images_are_learned_by_heart() -> None:
    network = create_model("efficientnet_tiny", num_classes=3, bn_momentum=0.9)
    network.set_train(True)
    optimizer = create_optimizer(network.trainable_params(), OptimConfig(weight_decay=0))
    step = TrainStep(network, optimizer, label_smoothing=0.0, world_size=1).set_train(True)
    images, labels = images_and_labels()
    losses = []
    for index in range(60):
        set_learning_rate(optimizer, 0.01 * min(1.0, (index + 1) / 10))
        losses.append(float(step(images, labels, NOTHING)[0]))
    assert losses[0] > 0.8
    assert max(losses[-5:]) < 0.01
    network.set_train(False)
    assert network(images).asnumpy().argmax(axis=1).tolist() == labels.asnumpy().tolist()
