"""``-c FILE``: MindVision's YAML in all its sections, and this project's recipes."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from effnet_core.config.load import load_config
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import ConfigError
from effnet_core.mindvision.__main__ import config_of, export, read_options
from tests.support.mindvision_yaml import write_yaml


def refusal(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_options(arguments)
    return str(caught.value)


def test_a_file_of_mindvision_is_its_flags(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, path="imagenet")
    options = read_options(["train", "-c", str(path)])
    config = config_of(options, world_size=8)
    flags = (
        "train --model efficientnet_b3 --data_url imagenet --epoch_size 300 --keep_checkpoint_max 10 "
        "--batch_size 64 --max_lr 0.1 --min_lr 0.0 --decay_epoch 300 --momentum 0.9 --resize 300 "
        "--smooth_factor 0.1 --num_parallel_workers 1 --ckpt_save_dir ./output/"
    )
    same = config_of(read_options(flags.split()), world_size=8)
    assert options.data_url == "imagenet"
    assert options.ckpt_save_dir == "./output/"
    ours, theirs = config.model_dump(), same.model_dump()
    differ = {
        f"{section}.{key}": value
        for section, values in ours.items()
        for key, value in values.items()
        if value != theirs[section][key]
    }
    assert differ == {
        "model.drop_rate": 0.3,
        "data.crop_pct": 300 / 332.5,
        "data.interpolation": "bilinear",
        "data.crop_ratio": (0.75, 1.333),
        "data.mean": (0.485, 0.456, 0.406),
        "data.std": (0.229, 0.224, 0.225),
        "train.checkpoint_every_steps": 20018,
    }
    assert PreprocessSpec.from_config(config).resize_size == 332  # as the tool adds 32


def test_without_image_size_the_operations_count(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, path="imagenet")
    path.write_text(path.read_text().replace("image_size: [300, 300]", ""))
    spec = PreprocessSpec.from_config(config_of(read_options(["train", "-c", str(path)])))
    assert (spec.image_size, spec.resize_size, spec.interpolation) == (224, 256, "bilinear")


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, path="imagenet")
    options = read_options(
        ["train", "-c", str(path), "--data_url", "other", "--epoch_size", "2", "--resize", "64"]
    )
    config = config_of(options)
    assert (options.data_url, config.train.epochs, config.image_size) == ("other", 2, 64)


def test_eval_takes_its_own_weights_and_data(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, weights="b3.ckpt", path="imagenet", batch=32)
    options = read_options(["eval", "-c", str(path)])
    assert (options.checkpoint, options.data_url, options.batch_size) == ("b3.ckpt", "imagenet", 32)
    config = config_of(options)
    assert (config.image_size, config.evaluate.per_device_batch_size) == (300, 32)
    assert config.data.interpolation is None  # comes with the weights


def test_a_data_set_must_be_named(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    assert refusal("train", "-c", str(path)) == (
        f"there is no data set: give --data_url FOLDER, or data_loader.train.dataset.path of {path}"
    )
    assert refusal("train") == "there is no data set: give --data_url FOLDER"


@pytest.mark.parametrize(
    ("section", "key", "value", "reason"),
    [
        ("train", "epoch", 5, "unknown key 'train.epoch'; did you mean 'epochs'?"),
        (None, "lerning_rate", {}, "unknown key 'lerning_rate'; did you mean 'learning_rate'?"),
        ("learning_rate", "maxlr", 1, "unknown key 'learning_rate.maxlr'; did you mean 'max_lr'?"),
        ("loss", "type", "MSE", "loss.type='MSE' cannot be followed: the loss is cross-entropy"),
        ("loss", "classes_num", 10, "loss.classes_num=10, but model.head.num_classes=1000"),
        (
            "optimizer",
            "type",
            "RMSprp",
            "optimizer.type='RMSprp' is unknown; did you mean 'RMSProp'",
        ),
        ("context", "mode", 1, "context.mode=1 cannot be followed: training runs as a graph"),
        ("train", "epochs", "many", "train.epochs='many' must be a whole number"),
        ("train", "pre_trained", "False", "train.pre_trained='False' must be true or false"),
        ("train", "pre_trained", True, "train.pretrained_model names no weights"),
        (None, "model_name", "efficientnet_b9", "unknown"),
        (None, "image_size", [300, 200], "image_size=[300, 200] must be square"),
        (None, "train", 5, "train must be a section with keys of its own, not 5"),
        (None, "base_config", 5, "base_config must be a list of files"),
        (None, "base_config", "run.yaml", "base_config goes through more than 10 files"),
        (None, "base_config", "gone.yaml", "gone.yaml cannot be read"),
    ],
)
def test_what_is_refused(
    section: str | None, key: str, value: object, reason: str, tmp_path: Path
) -> None:
    path = write_yaml(tmp_path, path="imagenet")
    content = yaml.safe_load(path.read_text())
    (content.setdefault(section, {}) if section else content)[key] = value
    path.write_text(yaml.safe_dump(content))
    if value == "efficientnet_b9":  # the multipliers tell
        assert read_options(["train", "-c", str(path)]).model == "efficientnet_b3"
    else:
        assert reason in refusal("train", "-c", str(path))


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("- type: HWC2CHW", "- type: HWC2CH", "operations[3].type='HWC2CH' is unknown; did you"),
        ("prob: 0.5", "probability: 0.5", "unknown key 'data_loader.train.map.operations[1]"),
        ("type: ImageNet", "type: Mnist", "dataset.type='Mnist' cannot be followed"),
        ("shuffle: True", "shuffle: False", "dataset.shuffle=False cannot be followed"),
        (
            "size: 256",
            "size: 256\n          interpolation: AREA",
            "interpolation='AREA' is unknown",
        ),
        ("scale: [0.08, 1.0]", "scale: [0.08]", "must be 2 numbers"),
    ],
)
def test_what_is_refused_of_the_data(before: str, after: str, reason: str, tmp_path: Path) -> None:
    path = write_yaml(tmp_path, path="imagenet")
    data = tmp_path / "datasets" / "data.yaml"
    data.write_text(data.read_text().replace(before, after, 1))
    assert reason in refusal("train", "-c", str(path))


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = write_yaml(tmp_path, path="imagenet", width=1.0)
    assert "has width 1.2 and depth 1.4, but model.backbone says 1.0 and 1.4" in refusal(
        "train", "-c", str(path)
    )
    path = write_yaml(tmp_path, path="imagenet", channels=1280)
    assert "input_channel=1280 does not fit efficientnet_b3" in refusal("train", "-c", str(path))
    path = write_yaml(tmp_path, path="imagenet", variant="lenet", width=3)
    assert "is no variant of the family" in refusal("train", "-c", str(path))


def test_a_recipe_of_ours(tmp_path: Path) -> None:
    for name in ("efficientnet_b0_imagenet2012.yaml", "efficientnet_b0_imagenet2012"):
        options = read_options(["train", "-c", name, "--data_url", "x", "--device_target", "CPU"])
        recipe = load_config("efficientnet_b0_imagenet2012")
        config = config_of(options, world_size=8)
        assert (config.train.epochs, config.data.global_batch_size) == (300, 512)
        assert config.optim == recipe.optim
        assert (config.runtime.device, config.runtime.world_size) == ("CPU", 8)
    own = tmp_path / "own.yaml"
    own.write_text("train: {epochs: 30}\ndata: {image_size: 64}\n")
    options = read_options(["train", "-c", str(own), "--data_url", "x"])
    assert (config_of(options).train.epochs, config_of(options).image_size) == (30, 64)
    assert "--epoch_size does not go with -c" in refusal(
        "train", "-c", str(own), "--data_url", "x", "--epoch_size", "5"
    )
    own.write_text("train: {epoch: 3}\n")
    with pytest.raises(ConfigError, match=r"did you mean 'train\.epochs'"):
        config_of(read_options(["train", "-c", str(own), "--data_url", "x"]))


def test_export_says_what_it_cannot_write(tmp_path: Path) -> None:
    path = write_yaml(tmp_path)
    model = tmp_path / "efficientnet" / "model.yaml"
    with pytest.raises(ConfigError, match="export needs --checkpoint FILE"):
        export(read_options(["export", "-c", str(path)]))
    model.write_text(model.read_text().replace('"ONNX"', '"AIR"'))
    with pytest.raises(ConfigError, match="file_formate=AIR cannot be written here"):
        export(read_options(["export", "-c", str(path), "--checkpoint", "x.ckpt"]))
