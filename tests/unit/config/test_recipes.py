"""Recipes reach what they promise: Google's flags, the page's command, and heads with true figures."""

from __future__ import annotations

import re

import pytest
import yaml
from typer.testing import CliRunner

from effnet_core.config.load import load_config
from effnet_core.config.recipes import packaged_recipe, recipe_names, recipe_text
from effnet_core.config.schema import RunConfig
from effnet_core.family.scaling import cost
from effnet_core.family.variants import variant
from effnet_core.mindvision.__main__ import config_of, parser
from flows.cli import app

IMAGES = 1_281_167
"""Training images of ImageNet."""

# Google's training program: the defaults of its flags, and what its optimizer and schedule have built in
# (tensorflow/tpu, models/official/efficientnet: main.py, utils.py, efficientnet_builder.py), and the flag of
# the AutoAugment row of its README.
GOOGLE = {
    "augment_name": "autoaugment",
    "train_batch_size": 2048,
    "train_steps": 218_949,
    "base_learning_rate": 0.016,
    "momentum": 0.9,
    "moving_average_decay": 0.9999,
    "weight_decay": 1e-5,
    "label_smoothing": 0.1,
    "mixup_alpha": 0.0,
    "survival_prob": 0.8,
    "rmsprop_decay": 0.9,
    "rmsprop_epsilon": 0.001,
    "lr_decay_factor": 0.97,
    "lr_decay_epochs": 2.4,
    "warmup_epochs": 5,
    "batch_norm_momentum": 0.99,
    "batch_norm_epsilon": 1e-3,
}
# Coefficients of the networks: width, depth, size, dropout.
SCALING = {
    0: (1.0, 1.0, 224, 0.2),
    1: (1.0, 1.1, 240, 0.2),
    2: (1.1, 1.2, 260, 0.3),
    3: (1.2, 1.4, 300, 0.3),
    4: (1.4, 1.8, 380, 0.4),
    5: (1.6, 2.2, 456, 0.4),
    6: (1.8, 2.6, 528, 0.5),
    7: (2.0, 3.1, 600, 0.5),
}


def as_flags(config: RunConfig) -> dict[str, object]:
    """Our settings in Google's words."""
    batch = config.data.global_batch_size
    assert config.optim.name == "rmsprop"
    assert config.schedule.name == "exponential"
    assert config.schedule.stair
    return {
        "augment_name": config.data.policy,
        "train_batch_size": batch,
        "train_steps": config.train.epochs * IMAGES // batch,
        "base_learning_rate": config.optim.base_lr,
        "momentum": config.optim.momentum,
        "moving_average_decay": config.train.ema_decay,
        "weight_decay": config.optim.weight_decay,
        "label_smoothing": config.train.label_smoothing,
        "mixup_alpha": config.data.mixup_alpha,
        "survival_prob": 1 - config.model.drop_path_rate,
        "rmsprop_decay": config.optim.decay,
        "rmsprop_epsilon": config.optim.epsilon,
        "lr_decay_factor": config.schedule.decay_factor,
        "lr_decay_epochs": config.schedule.decay_epochs,
        "warmup_epochs": config.schedule.warmup_epochs,
        "batch_norm_momentum": config.model.bn_momentum,
        "batch_norm_epsilon": config.model.bn_eps or 1e-3,
    }


@pytest.mark.parametrize("number", SCALING)
def test_googles_flags(number: int) -> None:
    config = load_config(f"efficientnet_b{number}_google")
    assert as_flags(config) == GOOGLE
    row = variant(config.model.variant)
    drop = config.model.drop_rate if config.model.drop_rate is not None else row.drop_rate
    assert (row.width_mult, row.depth_mult, config.image_size, drop) == SCALING[number]


@pytest.mark.parametrize("number", range(8))
def test_the_pages_recipe_is_the_pages_command(number: int) -> None:
    """``mpirun -n 8 python efficientnet_imagenet_train.py`` with the flags of the page."""
    name = f"efficientnet_b{number}"
    size = variant(name).image_size
    command = (
        f"train --model {name} --data_url ./imagenet --epoch_size 300 --keep_checkpoint_max 10 "
        "--ckpt_save_dir ./device --batch_size 64 --max_lr 0.1 --min_lr 0.0 --decay_epoch 300 "
        f"--momentum 0.9 --resize {size} --smooth_factor 0.1"
    )
    page = config_of(parser().parse_args(command.split()), world_size=8)
    recipe = load_config(f"{name}_imagenet2012", ["runtime.world_size=8"])
    assert recipe.per_device_batch_size == 64
    ours, theirs = recipe.model_dump(), page.model_dump()
    differ = {
        f"{section}.{key}"
        for section, values in ours.items()
        for key, value in values.items()
        if value != theirs[section][key]
    }
    # Counted from the data, the variant's own, the machine's, and how often a line is printed.
    assert differ == {
        *("model.num_classes", "data.image_size", "runtime.device", "train.log_every_steps"),
        "storage.name",
    }
    assert recipe.image_size == page.image_size == size


@pytest.mark.parametrize("name", [name for name in recipe_names() if name.startswith("eff")])
def test_the_head_of_a_recipe_tells_the_truth(name: str) -> None:
    text, config = recipe_text(name), load_config(name)
    row = variant(config.model.variant)
    number = row.name[-1]
    assert f"--recipe {name} " in text
    assert f"EfficientNet-B{number} " in text
    assert "bN" not in text
    head = text.partition("\ndata:")[0]
    said = [float(value) for value in re.findall(rf"\bb{number} ([\d.]+)", head)]
    exaflops = 3 * config.train.epochs * IMAGES * cost(row).multiply_adds / 1e18
    reached = row.reference_top1 if name.endswith("_google") else row.top1
    assert said[0] == float(f"{exaflops:.3g}")
    assert said[1] == round(100 * (reached or 0), 1)
    assert yaml.safe_load(text) == packaged_recipe(name)


def test_a_recipe_is_printed_as_a_file() -> None:
    result = CliRunner().invoke(app, ["recipes", "efficientnet_b3_google"])
    assert result.exit_code == 0
    assert yaml.safe_load(result.output) == packaged_recipe("efficientnet_b3_google")
    wrong = CliRunner().invoke(app, ["recipes", "efficientnet_b3_gogle"])
    assert wrong.exit_code == 2
    assert "did you mean 'efficientnet_b3_google'?" in wrong.output
