"""Mixed precision on the CPU, where fp16 is slow but real: what stays float32, and what an overflow does."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.model.layers import ConvNormAct, LayerSettings, Layout
from effnet_core.model.network import create_model
from effnet_core.train import precision, saving
from effnet_core.train.optim import create_optimizer, set_learning_rate
from effnet_core.train.precision import LossScale, loss_scale, lower
from effnet_core.train.step import StepOptions, TrainStep
from tests.cells.test_loop import prepared, resumed
from tests.cells.test_training import (
    NOTHING,
    OF_CLASS,
    ROWS,
    images_and_labels,
    linear_step,
    moved,
)
from tests.support.tiny import tiny_config


def test_channels_last_learn_the_same() -> None:
    exact, reference = three_losses(tiny_config())
    losses, found = three_losses(tiny_config(), layout="NHWC")
    assert losses == pytest.approx(exact, rel=1e-5)
    for one, other in zip(reference, found, strict=True):
        assert (one.name, one.shape) == (other.name, other.shape)
        np.testing.assert_allclose(one.asnumpy(), other.asnumpy(), rtol=1e-3, atol=1e-5)


def test_on_a_gpu_channels_last_layers_keep_the_shape_of_weights() -> None:
    """Their operators are only made here: no other device runs them."""
    with (
        mock.patch("mindspore.context.get_context", lambda name: "GPU"),
        mock.patch.object(ms, "get_context", lambda name: "GPU"),
    ):
        layer = ConvNormAct(8, 8, 3, groups=8, settings=LayerSettings(layout="NHWC"))
    assert layer.conv.weight.shape == (8, 1, 3, 3)
    assert (layer.norm.format, layer.conv.channels_last.data_format) == ("NHWC", "NHWC")
    assert (layer.conv.channels_last.group, layer.conv.channels_last.pad) == (8, (1, 1, 1, 1))


def three_losses(
    config: RunConfig, layout: Layout = "NCHW"
) -> tuple[list[float], list[ms.Parameter]]:
    network = create_model("efficientnet_tiny", num_classes=3, layout=layout)
    lower(network, config)
    optimizer = create_optimizer(network.trainable_params(), config.optim)
    options = StepOptions(label_smoothing=0.1, loss_scale=loss_scale(config))
    step = TrainStep(network, optimizer, options).set_train(True)
    losses = []
    for _ in range(3):
        set_learning_rate(optimizer, 0.01)
        losses.append(float(step(*images_and_labels(), NOTHING)[0]))
    return losses, list(network.get_parameters())


def test_sixteen_bits_learn_nearly_the_same_and_parameters_stay_float32(one_block: None) -> None:
    exact, reference = three_losses(tiny_config())
    o2, mixed = "train.amp_level=O2", "train.amp_norm=mixed"
    for settings in ((o2,), (o2, mixed), ("train.amp_level=O3",)):
        # Low enough that no gradient overflows: each of the three steps counts.
        losses, found = three_losses(tiny_config(*settings, "train.loss_scale=64"))
        assert losses == pytest.approx(exact, rel=2e-2)
        assert losses != exact
        assert [(p.name, p.dtype) for p in found] == [(p.name, ms.float32) for p in reference]


def test_the_scale_does_not_change_the_step() -> None:
    plain, step = linear_step()
    step(Tensor(ROWS), Tensor(OF_CLASS), NOTHING)
    for parts in (1, 3):
        scaled, step = linear_step(
            loss_scale=LossScale(1024.0, dynamic=False), accumulate_steps=parts
        )
        size = len(ROWS) // parts
        for start in range(0, len(ROWS) - size, size):
            step.collect(Tensor(ROWS[start : start + size]), Tensor(OF_CLASS[start : start + size]))
        loss = step(Tensor(ROWS[-size:]), Tensor(OF_CLASS[-size:]), NOTHING)[0]
        assert moved(scaled) == pytest.approx(moved(plain), abs=1e-6)
        assert 0.1 < float(loss) < 10  # the loss that is told has no factor


def test_an_overflow_leaves_the_step_out_and_halves_the_scale() -> None:
    scale = LossScale(2.0**127, dynamic=True)
    network, step = linear_step(loss_scale=scale)
    images = Tensor(ROWS * np.float32(1e3))
    factors = []
    for _ in range(30):
        step(images, Tensor(OF_CLASS), NOTHING)
        factors.append(float(scale.factor))
        if moved(network).any():
            break
    assert len(factors) > 2
    assert np.isfinite(moved(network)).all()
    halvings = [2.0 ** (126 - index) for index in range(len(factors) - 1)]
    assert factors == [*halvings, halvings[-1]]  # the one that counted left it


def test_a_fixed_scale_stays_and_its_overflows_are_left_out_too() -> None:
    scale = LossScale(2.0**127, dynamic=False)
    network, step = linear_step(loss_scale=scale)
    step(Tensor(ROWS * np.float32(1e3)), Tensor(OF_CLASS), NOTHING)
    assert not moved(network).any()
    assert float(scale.factor) == 2.0**127


def test_a_scale_that_does_well_is_doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "GOOD_STEPS", 3)
    scale = LossScale(4.0, dynamic=True)
    _, step = linear_step(loss_scale=scale)
    factors = []
    for _ in range(7):
        step(Tensor(ROWS), Tensor(OF_CLASS), NOTHING)
        factors.append(float(scale.factor))
    assert factors == [4, 4, 8, 8, 8, 16, 16]


def test_the_scale_is_resumed(data_dir: Path, tmp_path: Path) -> None:
    run = prepared(data_dir, tmp_path / "run", "train.amp_level=O2")
    scale = run.setup.step_options.loss_scale
    assert scale is not None
    scale.factor.set_data(Tensor(512.0, ms.float32))
    scale.good_steps.set_data(Tensor(17, ms.int32))
    run.progress.step = 3
    saver = saving.open_saver(run)
    saving.save(run, saver)
    saver.close()
    found = resumed(data_dir, tmp_path / "run", "train.amp_level=O2").setup.step_options.loss_scale
    assert found is not None
    assert (float(found.factor), int(found.good_steps)) == (512.0, 17)


def test_no_scale_without_fp16() -> None:
    assert loss_scale(tiny_config()) is None
    on_ascend = tiny_config("train.amp_level=O2", "runtime.device=Ascend")
    assert on_ascend.amp_dtype == "bf16"
    assert loss_scale(on_ascend) is None


def test_float32_is_left_as_it_was(data_dir: Path, tmp_path: Path) -> None:
    run = prepared(data_dir, tmp_path / "run")
    assert run.setup.step_options.loss_scale is None
    assert not run.cell.scales
    assert not any(p.name.startswith("loss_scale") for p in run.parameters())


def test_own_operators_are_left_out_of_16_bits(data_dir: Path, tmp_path: Path) -> None:
    """They compute in float32 only."""
    network = prepared(data_dir, tmp_path / "run", "train.amp_level=O2").setup.network
    assert not [cell for _, cell in network.cells_and_names() if getattr(cell, "fused", None)]
    with pytest.raises(ConfigError, match=r"native computes in float32 only.*amp_level=O2; set"):
        prepared(data_dir, tmp_path / "run", "train.amp_level=O2", "runtime.kernels=native")
