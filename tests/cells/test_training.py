"""One optimizer step by hand, and a network that learns."""

from __future__ import annotations

from collections.abc import Callable

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from effnet_core.config.schema import OptimConfig
from effnet_core.model.network import create_model
from effnet_core.train.control import Control
from effnet_core.train.optim import create_optimizer, decays, lr_scales, set_learning_rate
from effnet_core.train.step import Ema, StepOptions, TrainStep
from tests.support.images import draw

NOTHING = Control().encode()
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


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_adamw_by_hand(weight_decay: float) -> None:
    after = updates(3, name="adamw", weight_decay=weight_decay, beta2=0.99, epsilon=1e-6)
    for before in parameters():
        weights = before.asnumpy().astype(np.float64)
        first = second = 0.0
        for step in (1, 2, 3):
            if before.name.endswith("weight"):
                weights = weights * (1 - 0.1 * weight_decay)
            first = 0.9 * first + 0.1 * 0.3
            second = 0.99 * second + 0.01 * 0.3**2
            root = np.sqrt(second / (1 - 0.99**step))
            weights = weights - 0.1 * first / (1 - 0.9**step) / (root + 1e-6)
        assert after[before.name] == pytest.approx(weights, abs=2e-5), before.name


def test_layers_learn_the_slower_the_deeper_they_are() -> None:
    names = ["stem.w", "blocks.0.w", "blocks.1.w", "head.w", "classifier.weight"]
    scales = lr_scales(names, OptimConfig(layer_decay=0.5, backbone_lr_scale=0.8))
    assert list(scales.values()) == pytest.approx([0.05, 0.1, 0.2, 0.4, 1.0])
    assert set(lr_scales(names, OptimConfig()).values()) == {1.0}
    mine = [Parameter(Tensor(np.zeros(1, np.float32)), name=name) for name in names]
    optimizer = create_optimizer(mine, OptimConfig(name="sgd", momentum=0, layer_decay=0.5))
    set_learning_rate(optimizer, 1.0, lr_scales(names, OptimConfig(layer_decay=0.5)))
    optimizer(tuple(Tensor(np.ones(1, np.float32)) for _ in mine))
    moved = [-float(p.asnumpy()[0]) for p in mine]
    assert moved == pytest.approx([0.0625, 0.125, 0.25, 0.5, 1.0], rel=1e-4)


@pytest.mark.parametrize("name", ["rmsprop", "sgd", "adamw"])
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
        network, create_optimizer(trainable, cfg), StepOptions(label_smoothing=0.1)
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


class Linear(ms.nn.Cell):
    """The smallest network that a step takes; its classifier has 4 inputs and 3 outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = ms.nn.Dense(4, 3, bias_init="zeros")
        self.classifier.weight.set_data(Tensor(np.eye(3, 4, dtype=np.float32)))

    def construct(self, x: Tensor, _path: Tensor | None, _feature: Tensor | None) -> Tensor:
        return self.classifier(x)


def linear_step(**settings: object) -> tuple[Linear, TrainStep]:
    """One step of plain gradient descent at rate 1."""
    network = Linear()
    cfg = OptimConfig(name="sgd", momentum=0, weight_decay=0)
    optimizer = create_optimizer(network.trainable_params(), cfg)
    step = TrainStep(network, optimizer, StepOptions(**settings))
    set_learning_rate(optimizer, 1.0)
    return network, step


ROWS = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
OF_CLASS = np.array([0, 1, 2, 2, 2, 0], np.int32)


def moved(network: Linear) -> np.ndarray:
    """All that a step changed, in one vector."""
    weights = network.classifier.weight.asnumpy() - np.eye(3, 4, dtype=np.float32)
    return np.concatenate([weights.reshape(-1), network.classifier.bias.asnumpy()])


def test_batches_that_are_collected_make_the_update_of_one_large_batch() -> None:
    whole, step = linear_step()
    step(Tensor(ROWS), Tensor(OF_CLASS), NOTHING)
    parts, step = linear_step(accumulate_steps=3)
    for _ in range(2):  # a second time, to see that the sums were cleared
        parts.classifier.weight.set_data(Tensor(np.eye(3, 4, dtype=np.float32)))
        parts.classifier.bias.set_data(Tensor(np.zeros(3, np.float32)))
        for start in (0, 2):
            rows, labels = ROWS[start : start + 2], OF_CLASS[start : start + 2]
            step.collect(Tensor(rows), Tensor(labels))
        step(Tensor(ROWS[4:]), Tensor(OF_CLASS[4:]), NOTHING)
        assert moved(parts) == pytest.approx(moved(whole), abs=1e-6)


def test_a_long_gradient_is_cut_to_its_length_and_a_short_one_left() -> None:
    free, step = linear_step()
    step(Tensor(ROWS), Tensor(OF_CLASS), NOTHING)
    length = float(np.linalg.norm(moved(free)))
    for limit in (0.5 * length, 2 * length):
        network, step = linear_step(clip_norm=limit)
        step(Tensor(ROWS), Tensor(OF_CLASS), NOTHING)
        expected = moved(free) * min(1.0, limit / length)
        assert moved(network) == pytest.approx(expected, abs=1e-6)


def test_class_weights_weigh_the_loss_also_of_mixed_labels() -> None:
    weights = np.array([1.0, 2.0, 0.5], np.float32)
    network, step = linear_step(class_weights=Tensor(weights))
    before = network(Tensor(ROWS), None, None).asnumpy().astype(np.float64)
    log_probs = before - np.log(np.exp(before).sum(axis=1, keepdims=True))
    rows = weights[OF_CLASS] * log_probs[range(6), OF_CLASS]
    found = float(step(Tensor(ROWS), Tensor(OF_CLASS), NOTHING)[0])
    assert found == pytest.approx(-rows.sum() / weights[OF_CLASS].sum(), abs=1e-5)


def test_the_moving_average_follows_the_weights() -> None:
    network = Linear()
    ema = Ema(list(network.get_parameters()), 0.9)
    cfg = OptimConfig(name="sgd", momentum=0, weight_decay=0)
    optimizer = create_optimizer(network.trainable_params(), cfg)
    step = TrainStep(network, optimizer, StepOptions(ema=ema))
    expected = network.classifier.weight.asnumpy().astype(np.float64)
    for index in range(4):
        set_learning_rate(optimizer, 0.5)
        ema.set_step(index)
        step(Tensor(ROWS), Tensor(OF_CLASS), NOTHING)
        keep = min(0.9, (1 + index) / (10 + index))
        expected = keep * expected + (1 - keep) * network.classifier.weight.asnumpy()
    own = network.classifier.weight.asnumpy().copy()
    with ema.in_place():
        assert network.classifier.weight.asnumpy() == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(network.classifier.weight.asnumpy(), own)
    assert not np.allclose(own, expected, atol=1e-3)


def test_four_images_are_learned_by_heart() -> None:
    network = create_model("efficientnet_tiny", num_classes=3, bn_momentum=0.9)
    network.set_train(True)
    optimizer = create_optimizer(network.trainable_params(), OptimConfig(weight_decay=0))
    step = TrainStep(network, optimizer, StepOptions()).set_train(True)
    images, labels = images_and_labels()
    losses = []
    for index in range(60):
        set_learning_rate(optimizer, 0.01 * min(1.0, (index + 1) / 10))
        losses.append(float(step(images, labels, NOTHING)[0]))
    assert losses[0] > 0.8
    assert max(losses[-5:]) < 0.01
    network.set_train(False)
    assert network(images).asnumpy().argmax(axis=1).tolist() == labels.asnumpy().tolist()
