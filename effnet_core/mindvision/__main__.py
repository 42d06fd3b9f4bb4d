"""MindVision's commands with its flags and output: train, eval, infer and export.

One adapter: it maps the ancestor's parameters, given as flags or as its YAML (``-c FILE``), onto
``RunConfig`` and prints its log line and its dictionaries. It works alone, under ``msrun`` and under
``mpirun``; there each process is a rank.
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from effnet_core import api
from effnet_core.cli.guard import guarded
from effnet_core.config.load import by_section, load_config, merged
from effnet_core.config.schema import REFERENCE_BATCH_SIZE, RunConfig
from effnet_core.data.manifest import DATASET_NAME, open_dataset
from effnet_core.errors import ConfigError, DataError
from effnet_core.events import Event, listen
from effnet_core.jobs import environment
from effnet_core.jobs.job import RESULT_NAME
from effnet_core.jobs.launch import write_job
from effnet_core.mindvision import yaml_file
from effnet_core.mindvision.ranks import Launch, forget_launch, join_as_rank
from effnet_core.results import EvalResult, TrainResult
from effnet_core.system.files import read_json
from effnet_core.text import nearest

SCHEDULES = {
    "cosine_decay_lr": "cosine",
    "exponential_decay_lr": "exponential",
    "natural_exp_decay_lr": "natural_exp",
    "inverse_decay_lr": "inverse",
    "polynomial_decay_lr": "polynomial",
    "piecewise_constant_lr": "piecewise_constant",
}
"""``lr_decay_mode`` as MindSpore calls it, and as ``schedule.name``."""

EVALUATION = Path("./efficientnet_eval")
"""Folder of an evaluation by several ranks; the data set is staged beside it."""


def boolean(text: str) -> bool:
    """True or false; anything else is refused, where ``bool("False")`` would be true.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"must be true, false, 1 or 0; got {text!r}")
    return known[text.lower()]


def numbers(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """A reader of lists such as ``10,20,30``, with or without brackets."""

    def read(text: str) -> list[Any]:
        try:
            return [kind(item) for item in text.strip("[]() ").split(",") if item.strip()]
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"must be numbers with commas between them, such as 10,20; got {text!r}"
            ) from None

    return read


def pretrained(text: str) -> str | bool:
    """A switch, or where the weights are."""
    try:
        return boolean(text)
    except argparse.ArgumentTypeError:
        return text


def parser() -> argparse.ArgumentParser:
    """The three commands with the ancestor's names and defaults."""
    top = argparse.ArgumentParser(prog="python -m effnet_core.mindvision", description=__doc__)
    commands = top.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    add = common.add_argument
    add("--model", default="efficientnet_b0", help="efficientnet_b0 ... efficientnet_b7")
    add("--device_target", default="GPU", choices=["CPU", "GPU", "Ascend"], help="hardware device")
    add("-c", "--config", type=Path, help="MindVision's YAML, or a recipe; flags win over it")
    add("--data_url", help="path to the data set, or to images (infer)")
    add("--pretrained", "--pretrain", type=pretrained, default=False, help="True, or weights")
    add("--run_distribute", type=boolean, default=True, help="several devices")
    add("--num_parallel_workers", type=int, default=8, help="number of parallel workers")
    add("--dataset_sink_mode", type=boolean, default=False, help="data sinking mode")
    add("--num_classes", type=int, default=1000, help="number of classes")
    add("--batch_size", type=int, default=64, help="images on each device")
    add("--resize", type=int, default=None, help="side of the picture; the model's own (B0: 224)")
    train = commands.add_parser("train", parents=[common], help="train")
    add = train.add_argument
    add("--repeat_num", type=int, default=1, help="number of data repetitions")
    add("--momentum", type=float, default=0.9, help="momentum")
    add("--epoch_size", type=int, default=300, help="number of epochs")
    add("--keep_checkpoint_max", type=int, default=10, help="checkpoints that are kept")
    add("--ckpt_save_dir", default="./efficientnet", help="save path of checkpoints")
    add("--lr_decay_mode", default="cosine_decay_lr", help="learning rate decay mode")
    add("--decay_epoch", type=int, default=300, help="number of decay epochs")
    add("--smooth_factor", type=float, default=0.1, help="label smoothing factor")
    add("--max_lr", type=float, default=0.1, help="maximum learning rate")
    add("--min_lr", type=float, default=1e-5, help="minimum learning rate")
    add("--milestone", type=numbers(int), default=[], help="steps at which a learning rate ends")
    add("--learning_rates", type=numbers(float), default=[], help="the rate of each milestone")
    add("--decay_rate", type=float, default=0.97, help="of exponential, natural_exp and inverse")
    add("--power", type=float, default=1.0, help="of the polynomial")
    add(
        "--warmup_epochs", type=int, default=0, help="epochs in which the learning rate rises first"
    )
    evaluation = commands.add_parser("eval", parents=[common], help="evaluate")
    evaluation.add_argument("--checkpoint", help="the weights; else --pretrained")
    infer = commands.add_parser("infer", parents=[common], help="label images")
    infer.add_argument("--checkpoint", help="the weights; else --pretrained")
    infer.add_argument("--output", default="./infer", help="folder of labels and drawn pictures")
    export = commands.add_parser("export", parents=[common], help="write for others")
    export.add_argument("--checkpoint", help="the weights; else --pretrained")
    for command in commands.choices.values():
        command.set_defaults(settings={}, recipe=None, export={})
    return top


WITH_RECIPE = (
    *("command", "config", "data_url", "device_target", "num_parallel_workers", "run_distribute"),
    *("ckpt_save_dir", "checkpoint", "pretrained", "output", "settings", "recipe", "export"),
)
"""Flags that may stand beside ``-c`` with a recipe of this project."""


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The flags, over what the file of ``-c`` says, over the ancestor's defaults.

    Raises:
        ConfigError: the file cannot be followed, or there is no data set.
    """
    options = parser().parse_args(arguments)
    if options.config is not None:
        given = yaml_file.read(options.config, options.command)
        top = parser()
        from_yaml = {"settings": given.settings, "recipe": given.recipe, "export": given.export}
        for command in _commands(top):
            command.set_defaults(**given.flags, **from_yaml)
        options = top.parse_args(arguments)
        if given.recipe is not None:
            _require_only(top, arguments, given.recipe)
    if options.data_url is None and options.command != "export":
        where = f"data_loader.{options.command}.dataset.path of {options.config}"
        beside = f", or {where}" if options.config and not options.recipe else ""
        raise ConfigError(f"there is no data set: give --data_url FOLDER{beside}")
    return options


def _commands(top: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    (choices,) = (a for a in top._actions if isinstance(a, argparse._SubParsersAction))
    return list(choices.choices.values())


def _require_only(
    top: argparse.ArgumentParser, arguments: Sequence[str] | None, recipe: str
) -> None:
    """Refuse flags that would be ignored beside a recipe, which has settings of its own."""
    for command in _commands(top):
        command._defaults.clear()
        for action in command._actions:
            action.default = argparse.SUPPRESS
    given = set(vars(top.parse_args(arguments))) - set(WITH_RECIPE)
    if given:
        raise ConfigError(
            f"--{sorted(given)[0]} does not go with -c {recipe}, a recipe of this project; change the file, "
            "or use effnet train --recipe with -o section.key=value"
        )


def config_of(options: argparse.Namespace, *, world_size: int = 1) -> RunConfig:
    """The settings that the ancestor's parameters mean.

    Raises:
        ConfigError: a value is wrong; the message names it.
    """
    if options.recipe is not None:
        return _config_of_recipe(options, world_size)
    values: dict[str, dict[str, Any]] = {
        "model": {"variant": options.model},
        "data": {
            "workers": options.num_parallel_workers,
            "image_size": options.resize,
            "sink": options.dataset_sink_mode,
        },
        "evaluate": {"per_device_batch_size": options.batch_size},
        "runtime": {"device": options.device_target, "world_size": world_size},
    }
    if options.command == "train":
        _add_training(values, options, world_size)
    settings = {
        key: value
        for key, value in options.settings.items()
        # What images are made of comes with the weights; only training has a say.
        if options.command == "train" or key.startswith("data.eval_split")
    }
    return load_config(None, values=merged(values, by_section(settings)))


def _config_of_recipe(options: argparse.Namespace, world_size: int) -> RunConfig:
    options_of_command: dict[str, Any] = {
        "runtime.device": options.device_target,
        "runtime.world_size": world_size,
        "train.log_every_steps": 1,
    }
    if options.command == "train" and (weights := _weights(options)):
        options_of_command["model.weights"] = weights
    return load_config(options.recipe, options=by_section(options_of_command))


def _add_training(
    values: dict[str, dict[str, Any]], options: argparse.Namespace, world_size: int
) -> None:
    batch, classes = options.batch_size * world_size, options.num_classes
    if options.batch_size < 1:
        raise ConfigError(f"batch_size={options.batch_size} must be at least 1")
    if classes < 2:
        raise ConfigError(f"num_classes={classes} must be at least 2")
    values["model"] |= {"num_classes": classes, "weights": _weights(options)}
    values["data"] |= {"global_batch_size": batch, "repeats": options.repeat_num}
    # max_lr is used as it is, whatever the batch; base_lr is per 256 images.
    values["optim"] = {
        "momentum": options.momentum,
        "base_lr": options.max_lr * REFERENCE_BATCH_SIZE / batch,
    }
    values["schedule"] = _schedule(options)
    # MindVision leaves 1 - s to the true class and s / (K - 1) to the others; ours gives s' / K to all.
    values["train"] = {
        "epochs": options.epoch_size,
        "label_smoothing": options.smooth_factor * classes / (classes - 1),
        "keep_checkpoints": options.keep_checkpoint_max,
        "log_every_steps": 1,
    }


def _schedule(options: argparse.Namespace) -> dict[str, Any]:
    if options.lr_decay_mode not in SCHEDULES:
        raise ConfigError(
            f"lr_decay_mode={options.lr_decay_mode!r} is unknown"
            f"{nearest(options.lr_decay_mode, SCHEDULES)} (known: {', '.join(SCHEDULES)})"
        )
    name = SCHEDULES[options.lr_decay_mode]
    schedule: dict[str, Any] = {
        "name": name,
        "by_epoch": True,
        "warmup_epochs": options.warmup_epochs,
        "milestones": options.milestone,
        "rates": options.learning_rates,
    }
    if name in ("cosine", "polynomial"):
        schedule |= {"min_lr": options.min_lr, "power": options.power}
    if name != "piecewise_constant":
        schedule["decay_epochs"] = options.decay_epoch
    if name in ("exponential", "natural_exp", "inverse"):
        schedule |= {"decay_factor": options.decay_rate, "stair": False}
    return schedule


def _weights(options: argparse.Namespace) -> str | None:
    """Path or name of the weights that ``--checkpoint`` or ``--pretrained`` asks for."""
    given = getattr(options, "checkpoint", None) or options.pretrained
    if given is True:
        return str(options.model)
    return str(given) if given else None


def log_line(event: Event, *, epochs: int) -> str | None:
    """MindVision's line of a training step, or None for other events."""
    row = event.metrics
    if row.get("kind") != "train" or not event.total:
        return None
    steps = event.total // epochs
    step = (row["step"] - 1) % steps + 1
    return (
        f"Epoch:[{row['epoch'] - 1:3d}/{epochs:3d}], step:[{step:5d}/{steps:5d}], "
        f"loss:[{row['loss']:5.3f}/{row['loss_mean']:5.3f}], time:{row['ms_per_step']:5.3f}, "
        f"lr:{row['lr']:5.5f}."
    )


def _config_of_launch(options: argparse.Namespace, launch: Launch) -> RunConfig:
    """As ``config_of``, for so many ranks as there are.

    Raises:
        ConfigError: also where there are several, but one was asked for.
    """
    if not launch.alone and not options.run_distribute:
        raise ConfigError(
            f"run_distribute=False, but {launch.name} started {launch.world_size} processes; "
            "leave it True, or start one"
        )
    return config_of(options, world_size=launch.world_size)


def train(options: argparse.Namespace, launch: Launch) -> int:
    """Train as the options say; the exit code."""
    config = _config_of_launch(options, launch)
    _ = config.per_device_batch_size
    run_dir = Path(options.ckpt_save_dir)

    def show(event: Event) -> None:
        line = log_line(event, epochs=config.train.epochs)
        if line or event.message:
            print(line or event.message, flush=True)

    if launch.alone:
        with listen(show):
            api.train(config, _staged(options.data_url, run_dir), run_dir)
        return 0

    def prepare() -> bool:
        data_dir = _staged(options.data_url, run_dir)
        prepared = api.prepare_training(config, data_dir, run_dir)
        if isinstance(prepared, TrainResult):
            return False
        write_job(prepared.job, prepared.config, run_dir)
        return True

    return join_as_rank(launch, config, run_dir, prepare=prepare, show=show)


def _staged(data_url: str, beside: Path) -> Path:
    """The data set as it is if it was staged, else staged beside the output folder."""
    source = Path(data_url)
    if (source / DATASET_NAME).exists():
        return source
    from effnet_core.data.staging import stage_dataset

    out = beside.with_name(f"{beside.name}.data")
    stage_dataset(source, out)
    return out


def evaluate(options: argparse.Namespace, launch: Launch) -> int:
    """Print the ancestor's dictionary of accuracies, once, over the images of all ranks."""
    weights = _weights(options)
    if weights is None:
        raise ConfigError(
            "eval needs --checkpoint FILE, or --pretrained True for the published one"
        )
    config = _config_of_launch(options, launch)

    def data_dir() -> Path:
        staged = _staged(options.data_url, EVALUATION)
        classes = open_dataset(staged).num_classes
        if options.recipe is None and classes != options.num_classes:
            raise ConfigError(
                f"num_classes={options.num_classes}, but the data set {staged} has {classes}; "
                f"give --num_classes {classes}"
            )
        return staged

    if launch.alone:
        _print_accuracies(api.evaluate(weights, data_dir(), config=config))
        return 0

    def prepare() -> bool:
        job = api.evaluation_job(weights, data_dir(), config=config)
        write_job(job, config, EVALUATION)
        return True

    code = join_as_rank(launch, config, EVALUATION, prepare=prepare)
    if code == 0 and launch.leads:
        _print_accuracies(EvalResult.from_dict(read_json(EVALUATION / RESULT_NAME)))
    return code


def _print_accuracies(result: EvalResult) -> None:
    print({"Top_1_Accuracy": result.top1, "Top_5_Accuracy": result.correct5 / result.seen})


def infer(options: argparse.Namespace) -> int:
    """Print ``{class: name}`` of each image, and draw the name on a copy of it."""
    from effnet_core.infer.parts import read_parts

    weights = _weights(options)
    if weights is None:
        raise ConfigError(
            "infer needs --checkpoint FILE, or --pretrained True for the published one"
        )
    source, output = Path(options.data_url), Path(options.output)
    api.infer(weights, [source], output, config=config_of(options))
    root = source if source.is_dir() else source.parent
    rows = read_parts(output)
    if not rows:
        raise DataError(f"{source} holds no image that can be read; see {output}/errors.jsonl")
    for row in rows:
        number, name = row["class_ids"][0], row["class_names"][0]
        print({number: name})
        _draw(root / row["path"], output / "pictures" / f"{row['path']}.png", f"{number}: {name}")
    return 0


def export(options: argparse.Namespace) -> int:
    """Write the weights as the ``export`` section of a YAML says, MindIR where it says nothing."""
    from effnet_core.export.export import export as export_model

    weights = _weights(options)
    if weights is None:
        raise ConfigError(
            "export needs --checkpoint FILE, export.pretrained_model of -c FILE, or --pretrained True"
        )
    form = str(options.export.get("format", "MINDIR")).upper()
    if form not in yaml_file.FORMATS:
        raise ConfigError(
            f"export.file_formate={form} cannot be written here{nearest(form, yaml_file.FORMATS)} "
            f"(known: {', '.join(yaml_file.FORMATS)}; AIR is made on an Ascend from MINDIR)"
        )
    format = yaml_file.FORMATS[form]
    name = Path(str(options.export.get("file_name", options.model)))
    out = name if name.suffix == f".{format}" else name.with_name(f"{name.name}.{format}")
    config = config_of(options)
    agreement = export_model(
        api.open_weights(weights, config.storage), out, format=format, config=config
    )
    print(f"{out}: {agreement}")
    return 0


def _draw(picture: Path, out: Path, label: str) -> None:
    """A copy of a picture with its label; the picture itself is left alone."""
    from PIL import ImageDraw

    from effnet_core.data.images import read_image, to_rgb
    from effnet_core.render.fonts import font_for

    image = to_rgb(read_image(picture)).copy()
    size = max(12, image.height // 16)
    canvas = ImageDraw.Draw(image)
    font = font_for(label, size)
    place = (size // 2, size // 2)
    canvas.rectangle(canvas.textbbox(place, label, font=font), fill=(255, 255, 255))
    canvas.text(place, label, fill=(200, 0, 0), font=font)
    out.parent.mkdir(parents=True, exist_ok=True)
    image.save(out)


@guarded
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    options = read_options(arguments)
    launch = Launch.of(dict(os.environ))
    alone = options.command in ("infer", "export")
    if launch.idle or (alone and not launch.leads):
        return 0  # labelling spreads over threads, so that one process does it
    if launch.alone or alone:
        forget_launch(os.environ)
    if options.command == "train":
        return train(options, launch)
    if options.command == "export":
        return export(options)
    return evaluate(options, launch) if options.command == "eval" else infer(options)


if __name__ == "__main__":
    faulthandler.enable()
    environment.prepare()
    code = main()
    sys.stdout.flush()
    sys.exit(code)
