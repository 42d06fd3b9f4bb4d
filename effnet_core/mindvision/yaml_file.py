"""MindVision's own YAML: what ``train_config.py -c FILE`` and ``eval_config.py -c FILE`` read.

Every section becomes the flags of the command that mean the same, and settings for what has no flag. A key
that is not known is refused and the nearest named; so is a value that would be ignored.

Source: mindvision/engine/utils/config.py (``base_config``), mindvision/classification/tools/train.py and
eval.py, and the files in mindvision/classification/config.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from effnet_core.config.load import merged
from effnet_core.config.recipes import recipe_names
from effnet_core.config.schema import RunConfig
from effnet_core.config.yaml_text import parse_yaml
from effnet_core.errors import ConfigError
from effnet_core.family.scaling import expand
from effnet_core.family.variants import VARIANTS, Variant
from effnet_core.mindvision.sections import (
    Section,
    boolean,
    integer,
    keep,
    number,
    numbers,
    side,
    text,
)
from effnet_core.text import nearest, os_reason, shown

T = TypeVar("T")

BASE = "base_config"
MAX_DEPTH = 10
"""Files that may follow each other as ``base_config``."""
SCALE = 32
"""What the tool's evaluation resizes more than it crops, where ``image_size`` is given."""
OPTIMIZERS = {"RMSProp": "rmsprop", "Momentum": "sgd", "SGD": "sgd", "AdamWeightDecay": "adamw"}
FORMATS = {"ONNX": "onnx", "MINDIR": "mindir"}
FILTERS = {"BILINEAR": "bilinear", "LINEAR": "bilinear", "BICUBIC": "bicubic", "CUBIC": "bicubic"}


@dataclass
class Given:
    """What a file says."""

    flags: dict[str, Any] = field(default_factory=dict)
    """Values of the command's flags by their names; of a file of ours none."""
    settings: dict[str, Any] = field(default_factory=dict)
    """``section.key`` and value of what has no flag."""
    recipe: str | None = None
    """The file, or the recipe of this project that it names, where it is one of ours."""
    export: dict[str, Any] = field(default_factory=dict)
    """Format and file name to export to."""


def read(path: Path, command: str) -> Given:
    """The flags and settings that a YAML file means for a command.

    Args:
        path: MindVision's file, one of this project's recipes as a file, or the name of one.
        command: ``train``, ``eval``, ``infer`` or ``export``.

    Raises:
        ConfigError: it cannot be read, a key is unknown, or a value cannot be followed here.
    """
    if not path.exists() and path.stem in recipe_names():
        return Given(recipe=path.stem)
    content = _read(path, depth=0)
    if _is_ours(content):
        return Given(recipe=str(path))
    given = Given()
    top = Section(content, "", path)
    row = _model(top, given)
    _context(top, given)
    _learning_rate(top, given)
    _optimizer(top, given)
    _loss(top, given)
    _train(top, given, command)
    _weights_and_export(top, given, command)
    _data(top, given, row, command)
    top.done()
    return given


def _read(path: Path, *, depth: int) -> dict[str, Any]:
    """A file laid over those that it names as ``base_config``; a later base wins over an earlier one."""
    if depth > MAX_DEPTH:
        raise ConfigError(
            f"{path}: {BASE} goes through more than {MAX_DEPTH} files; does it go round?"
        )
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise ConfigError(f"{path} cannot be read ({os_reason(cause)})") from cause
    except (yaml.YAMLError, UnicodeDecodeError) as cause:
        raise ConfigError(f"{path} is not valid YAML: {' '.join(str(cause).split())}") from cause
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path} must hold sections such as 'train:', not {shown(content)}")
    own = dict(content)
    bases = own.pop(BASE, [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise ConfigError(f"{path}: {BASE} must be a list of files, not {shown(bases)}")
    below: dict[str, Any] = {}
    for base in bases:
        below.update(_read(path.parent / base, depth=depth + 1))
    return merged(below, own)


def _is_ours(content: Mapping[str, Any]) -> bool:
    theirs = {
        "data_loader",
        "learning_rate",
        "optimizer",
        "loss",
        "context",
        "device",
        "model_name",
    }
    return (
        bool(content) and set(content) <= set(RunConfig.model_fields) and not theirs & set(content)
    )


def _model(top: Section, given: Given) -> Variant:
    model = top.part("model")
    backbone, head, neck = (model.part(name) for name in ("backbone", "head", "neck"))
    model.fact("type", "BaseClassifier", why="it is a classifier")
    backbone.fact("type", "EfficientNet", why="the networks here are EfficientNets")
    head.fact("type", "DenseHead", why="the head is one dense layer")
    neck.fact("type", "GlobalAvgPooling", why="the features are averaged")
    width = backbone.get("width_mult", number, None)
    depth = backbone.get("depth_mult", number, None)
    row = _variant(top, width, depth)
    given.flags["model"] = row.name
    channels = head.get("input_channel", integer, None)
    wanted = expand(row).head_channels
    if channels not in (None, wanted):
        raise ConfigError(
            f"{top.path}: model.head.input_channel={channels} does not fit {row.name}, whose head gets "
            f"{wanted}"
        )
    keep(head, given.flags, num_classes=("num_classes", integer))
    kept = head.get("keep_prob", number, None)
    if kept is not None:
        given.settings["model.drop_rate"] = round(1 - kept, 12)
    for section in (backbone, head, neck, model):
        section.done()
    return row


def _variant(top: Section, width: float | None, depth: float | None) -> Variant:
    """The variant that ``model_name`` names, or that the multipliers are of; both must agree."""
    name = top.get("model_name", text, "")
    row = VARIANTS.get(name)
    if row is None and width is not None and depth is not None:
        fitting = [
            one
            for one in VARIANTS.values()
            if one.name.startswith("efficientnet_b")
            and (one.width_mult, one.depth_mult) == (width, depth)
        ]
        row = fitting[0] if fitting else None
    if row is None:
        hint = nearest(name, VARIANTS)
        raise ConfigError(
            f"{top.path}: model_name={name!r} with model.backbone.width_mult={width} and depth_mult={depth} "
            f"is no variant of the family{hint} (effnet models)"
        )
    if (width, depth) not in ((None, None), (row.width_mult, row.depth_mult)):
        raise ConfigError(
            f"{top.path}: model_name={name!r} has width {row.width_mult:g} and depth {row.depth_mult:g}, but "
            f"model.backbone says {width} and {depth}"
        )
    return row


def _context(top: Section, given: Given) -> None:
    keep(top, given.flags, dataset_sink_mode=("dataset_sink_mode", boolean))
    for name in ("context", "device"):  # the second in some releases
        context = top.part(name)
        context.fact("mode", 0, why="training runs as a graph")
        keep(context, given.flags, device_target=("device_target", text))
        context.fact("save_graphs", False, why="graphs are not saved")
        context.ignore("device_id")  # the launcher gives each process its device
        context.done()


def _learning_rate(top: Section, given: Given) -> None:
    rate = top.part("learning_rate")
    keep(
        rate,
        given.flags,
        type=("lr_decay_mode", text),
        min_lr=("min_lr", number),
        max_lr=("max_lr", number),
        decay_epoch=("decay_epoch", integer),
        decay_rate=("decay_rate", number),
        power=("power", number),
        warmup_epochs=("warmup_epochs", integer),
        milestone=("milestone", list),
        learning_rates=("learning_rates", list),
    )
    rate.ignore("total_step", "step_per_epoch")  # counted from the data set
    rate.done()


def _optimizer(top: Section, given: Given) -> None:
    optimizer = top.part("optimizer")
    name = optimizer.get("type", text, None)
    if name is not None:
        given.settings["optim.name"] = _known(optimizer, "type", name, OPTIMIZERS)
    keep(optimizer, given.flags, momentum=("momentum", number))
    keep(
        optimizer,
        given.settings,
        weight_decay=("optim.weight_decay", number),
        decay=("optim.decay", number),
        epsilon=("optim.epsilon", number),
        beta2=("optim.beta2", number),
    )
    optimizer.done()


def _loss(top: Section, given: Given) -> None:
    loss = top.part("loss")
    loss.fact("type", "CrossEntropySmooth", why="the loss is cross-entropy with smoothed labels")
    loss.fact("sparse", True, why="labels are numbers")
    loss.fact("reduction", "mean", why="the loss of a batch is the mean")
    keep(loss, given.flags, smooth_factor=("smooth_factor", number))
    classes, head = loss.get("classes_num", integer, None), given.flags.get("num_classes")
    if None not in (classes, head) and classes != head:
        raise ConfigError(
            f"{top.path}: loss.classes_num={classes}, but model.head.num_classes={head}; make them equal"
        )
    if classes is not None:
        given.flags["num_classes"] = classes
    loss.done()


def _train(top: Section, given: Given, command: str) -> None:
    train = top.part("train")
    keep(
        train,
        given.flags,
        ckpt_path=("ckpt_save_dir", text),
        epochs=("epoch_size", integer),
        keep_checkpoint_max=("keep_checkpoint_max", integer),
        run_distribute=("run_distribute", boolean),
    )
    keep(
        train,
        given.settings,
        save_checkpoint_steps=("train.checkpoint_every_steps", integer),
    )
    weights = train.get("pretrained_model", text, "")
    if train.get("pre_trained", boolean, False):
        if not weights:
            raise ConfigError(
                f"{top.path}: train.pre_trained is true, and train.pretrained_model names no weights"
            )
        if command == "train":
            given.flags["pretrained"] = weights
    train.done()


def _weights_and_export(top: Section, given: Given, command: str) -> None:
    """The weights that a command opens; those of other commands are only checked."""
    for name in ("eval", "infer", "export"):
        section = top.part(name)
        weights = section.get("pretrained_model", text, "")
        if name == command and weights:
            given.flags["checkpoint"] = weights
        if name == "export":
            section.ignore("batch_size", "image_height", "image_width", "input_channel")
            form = section.get("file_formate", text, None) or section.get(
                "file_format", text, "MINDIR"
            )
            given.export = {"format": form, "file_name": section.get("file_name", text, "model")}
        section.done()


def _data(top: Section, given: Given, row: Variant, command: str) -> None:
    loader = top.part("data_loader")
    sizes = {}
    for name in ("train", "eval", "infer"):
        part = loader.part(name)
        _dataset(part.part("dataset"), given, name, command)
        sizes[name] = _operations(part.part("map"), given, name) or row.image_size
        part.done()
    loader.done()
    own = top.get("image_size", side, None)
    if own is not None:
        given.settings["data.crop_pct"] = own / (own + SCALE + 0.5)
    given.flags["resize"] = own or sizes["eval" if command == "eval" else "train"]


def _dataset(dataset: Section, given: Given, name: str, command: str) -> None:
    """Where the images of a split are and how they are read."""
    dataset.fact("type", "ImageNet", why="a data set is a folder of class folders")
    dataset.fact("download", False, why="a data set is not downloaded")
    if name == "train":
        dataset.fact("shuffle", True, why="training reads in a new order every epoch")
    flags: dict[str, Any] = {}
    keep(
        dataset,
        flags,
        path=("data_url", lambda value: text(value) or None),
        batch_size=("batch_size", integer),
        num_parallel_workers=("num_parallel_workers", integer),
        repeat_num=("repeat_num", integer),
    )
    if name == command:
        given.flags |= flags
    elif name == "eval" and "batch_size" in flags:
        given.settings["evaluate.per_device_batch_size"] = flags["batch_size"]
    split = dataset.get("split", text, None)
    if split and name != "infer":
        given.settings[f"data.{name}_split"] = split
    dataset.ignore("resize", "shuffle")  # the operations say what is done
    dataset.done()


def _operations(section: Section, given: Given, name: str) -> int | None:
    """What is done to a picture; the side of what comes out, where it is given."""
    found: list[Any] = section.get("operations", list, [])
    section.done()
    sizes: dict[str, int] = {}
    for index, values in enumerate(found):
        where = f"{section.name}.operations[{index}]"
        if not isinstance(values, Mapping):
            raise ConfigError(f"{section.path}: {where} must have a type, not {shown(values)}")
        operation = Section(values, where, section.path)
        kind = operation.get("type", text, "")
        keys = _known(operation, "type", kind, KINDS)
        if "size" in keys and (px := operation.get("size", side, None)):
            sizes[kind] = px
        if "interpolation" in keys:
            given.settings["data.interpolation"] = _filter(operation)
        keep(operation, given.settings, **{key: SETTINGS[key] for key in keys if key in SETTINGS})
        operation.done()
    cut = sizes.get("CenterCrop")
    if name == "eval" and cut and "Resize" in sizes:
        given.settings["data.crop_pct"] = cut / (sizes["Resize"] + 0.5)
    return sizes.get("RandomCropDecodeResize", cut)


def _filter(operation: Section) -> str:
    """MindSpore's filter where none is named; training and evaluation share one here."""
    name = operation.get("interpolation", text, "BILINEAR").rpartition(".")[2].upper()
    return _known(operation, "interpolation", name, FILTERS)


def _known(section: Section, key: str, name: str, known: Mapping[str, T]) -> T:
    """What a word of a file stands for."""
    if name not in known:
        raise ConfigError(
            f"{section.path}: {section.key(key)}={name!r} is unknown{nearest(name, known)} "
            f"(known: {', '.join(known)})"
        )
    return known[name]


def _share(value: Any) -> tuple[float, ...]:
    """Three numbers of 0 to 255 in units of 0 to 1."""
    return tuple(round(one / 255, 9) for one in numbers(3)(value))


KINDS: Mapping[str, tuple[str, ...]] = {
    "RandomCropDecodeResize": ("size", "interpolation", "scale", "ratio"),
    "RandomHorizontalFlip": ("prob",),
    "Decode": (),
    "Resize": ("size", "interpolation"),
    "CenterCrop": ("size",),
    "Normalize": ("mean", "std"),
    "HWC2CHW": (),
}
"""Operations of MindSpore that a file may list, and their keys."""
SETTINGS = {
    "scale": ("data.crop_scale", numbers(2)),
    "ratio": ("data.crop_ratio", numbers(2)),
    "prob": ("data.flip_rate", number),
    "mean": ("data.mean", _share),
    "std": ("data.std", _share),
}
