"""Every setting does something: those whose effect shows with MindSpore in this process."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
import pytest
from mindspore import Tensor, nn

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.data.loader import Batch
from effnet_core.data.order import epoch_order
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.data.staging import stage_dataset
from effnet_core.data.transforms import train_transforms
from effnet_core.errors import CheckpointError, ConfigError
from effnet_core.jobs.collective import Group, join_group, parameters_digest
from effnet_core.results import EvalResult
from effnet_core.train import batches, loop, saving
from effnet_core.train.batches import epoch_batches
from effnet_core.train.control import Control
from effnet_core.train.optim import create_optimizer, set_learning_rate
from effnet_core.train.resume import resume
from effnet_core.train.run import Run
from effnet_core.train.run import start as start_run
from effnet_core.train.scores import Scores
from effnet_core.train.session import open_session
from effnet_core.train.setup import prepare
from effnet_core.train.step import StepOptions, TrainStep
from effnet_core.train.tracking import open_trackers
from effnet_core.train.update import update
from effnet_core.weights import checkpoint
from effnet_core.weights.checkpoint import Sidecar, open_checkpoint
from effnet_core.weights.load import load_parameters
from tests.cells.test_evaluate import BrightnessNetwork
from tests.cells.test_loop import Recorder
from tests.cells.test_training import parameters
from tests.cells.test_transforms import in_pipeline
from tests.support import every_setting
from tests.support.every_setting import Proof
from tests.support.images import draw, encode, source_with_splits
from tests.support.tiny import TINY, one_block


def prepared(config: RunConfig, folder: Path) -> Run:
    """A run before its first step, over 12 training and 4 validation images of 2 classes."""
    source = source_with_splits(folder / "source", train=6, val=2, classes=("cat", "dog"))
    stage_dataset(source, folder / "data")
    (folder / "run").mkdir(exist_ok=True)
    return start_run(prepare(config, Group(0, 1), data_dir=folder / "data", run_dir=folder / "run"))


def resumed(config: RunConfig, folder: Path) -> Run:
    return resume(prepared(config, folder).setup)


def outcome(config: RunConfig, folder: Path) -> str:
    try:
        prepared(config, folder)
    except ConfigError as error:
        return str(error).split()[0]
    return "prepared"


def masks(config: RunConfig, folder: Path) -> list[bytes | None]:
    """What one step gives the network beside images and labels."""
    run, nothing = prepared(config, folder), Tensor(np.zeros(1, np.float32))
    run.cell = recorder = Recorder(run)
    update(run, [Batch(nothing, nothing, 8)])
    return recorder.masks


def stem_output(config: RunConfig, folder: Path) -> bytes:
    stem = prepared(config, folder).setup.network.stem
    stem.set_train(False)
    return stem(noise()).asnumpy().tobytes()


def stem_statistics(config: RunConfig, folder: Path) -> bytes:
    """BatchNorm's running mean after one training step of the stem."""
    run = prepared(config, folder)
    run.set_train()
    stem = run.setup.network.stem
    stem(noise())
    return stem.norm.moving_mean.asnumpy().tobytes()


def noise() -> Tensor:
    return Tensor(np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32))


def start(config: RunConfig, folder: Path) -> tuple[int, str]:
    """Step and weights that a run starts from, where ``other.ckpt`` is another run's checkpoint."""
    run = prepared(config, folder)
    for parameter in run.setup.network.get_parameters():
        parameter.set_data(ms.ops.ones_like(parameter))
    run.progress.step = 2
    path = folder / "other.ckpt"
    checkpoint.save(path, run.parameters(), saving.describe_checkpoint(run, training_state=True))
    changes: dict[str, Any] = {}
    if config.model.weights:
        changes["model"] = config.model.model_copy(update={"weights": str(path)})
    if config.train.resume_from:
        changes["train"] = config.train.model_copy(update={"resume_from": path})
    fresh = resumed(config.model_copy(update=changes), folder)
    return fresh.progress.step, parameters_digest(fresh.setup.network.get_parameters())


def start_from_other_classes(config: RunConfig, folder: Path) -> str:
    """What becomes of weights whose classes are not the data set's."""
    path = folder / "other.ckpt"
    run = prepared(config, folder)
    sidecar = saving.describe_checkpoint(run, training_state=False)
    facts = vars(sidecar) | {"class_names": ("hen", "owl")}
    checkpoint.save(path, run.setup.network.get_parameters(), Sidecar(**facts))
    model = config.model.model_copy(update={"weights": str(path)})
    try:
        resumed(config.model_copy(update={"model": model}), folder)
    except CheckpointError:
        return "refused"
    return "started"


def warm_up_steps(config: RunConfig, folder: Path) -> int:
    """How many steps with noise a run does before it continues from step 2."""
    run = prepared(config, folder)
    run.progress.step = 2
    path = folder / "other.ckpt"
    checkpoint.save(path, run.parameters(), saving.describe_checkpoint(run, training_state=True))
    config = config.model_copy(
        update={"train": config.train.model_copy(update={"resume_from": path})}
    )
    with mock.patch("effnet_core.train.update.update") as step:
        resumed(config, folder)
    return step.call_count


def learning(config: RunConfig, folder: Path) -> list[str]:
    """What learns in the first steps, and the rate of each in a step with rate 1."""
    run = prepared(config, folder)
    set_learning_rate(run.optimizer, 1.0, run.setup.lr_scales)
    rates = run.optimizer.learning_rate
    shared = [rates] * len(run.optimizer.parameters) if isinstance(rates, ms.Parameter) else rates
    return [
        f"{parameter.name} {float(rate):.3f}"
        for parameter, rate in zip(run.optimizer.parameters, shared, strict=True)
    ]


def training_images(config: RunConfig, folder: Path) -> tuple[str, ...]:
    return prepared(config, folder).setup.train_split.paths


def evaluated(config: RunConfig, folder: Path) -> tuple[str, int, list[tuple[int, ...]]]:
    run = prepared(config, folder)
    network = BrightnessNetwork()
    run.setup = replace(run.setup, network=network)
    result = loop._evaluate(run)
    return result.result.split, result.result.seen, network.shapes


def augmented(config: RunConfig, _: Path) -> bytes:
    spec = PreprocessSpec.from_config(config)
    content = encode(draw(90, 70), "JPEG")
    ds.config.set_seed(1)
    return in_pipeline([content] * 4, train_transforms(spec, config.data)).tobytes()


def decoding_threads(config: RunConfig, folder: Path) -> int:
    """How many threads MindSpore is asked for, on a machine with four cores."""
    run = prepared(config, folder)
    with (
        mock.patch.object(ds.GeneratorDataset, "map", side_effect=InterruptedError) as apply,
        mock.patch("effnet_core.data.loader.available_cores", return_value=[0, 1, 2, 3]),
        mock.patch("mindspore.dataset.core.validator_helpers.cpu_count", return_value=4),
        pytest.raises(InterruptedError),
    ):
        next(epoch_batches(run))
    return apply.call_args.kwargs["num_parallel_workers"]


def checked_files(config: RunConfig, folder: Path) -> int:
    """How many files of an epoch are compared with the manifest."""
    run = prepared(config, folder)
    with (
        mock.patch("effnet_core.data.loader.FileSource", side_effect=InterruptedError) as source,
        pytest.raises(InterruptedError),
    ):
        next(epoch_batches(run))
    return int(source.call_args.args[3].sum())


def way_of_batches(config: RunConfig, folder: Path) -> str:
    """Whether training's batches go through a queue on the device."""
    run = prepared(config, folder)
    with mock.patch.object(ms, "data_sink", side_effect=InterruptedError):
        try:
            next(epoch_batches(run))
        except InterruptedError:
            return "queue"
    return "host"


def updated(config: RunConfig, _: Path) -> list[bytes]:
    """Some parameters after two updates."""
    mine = parameters()
    optimizer = create_optimizer(mine, config.optim)
    for gradient in (0.3, -0.1):
        set_learning_rate(optimizer, 0.1)
        optimizer(tuple(Tensor(np.full(5, gradient, np.float32)) for _ in mine))
    return [parameter.asnumpy().tobytes() for parameter in mine]


def sizes(config: RunConfig, folder: Path) -> list[int]:
    """Side of the training input in each epoch."""
    run, seen = prepared(config, folder), []
    for epoch in range(config.train.epochs):
        run.progress.step = epoch * run.setup.steps_per_epoch
        loop._begin_epoch(run)
        seen.append(next(epoch_batches(run)).images.shape[-1])
    return seen


def after_one_step(config: RunConfig, folder: Path) -> str:
    """What one update, in as many parts as the settings say, makes of the network."""
    with one_block():
        run = prepared(config, folder)
    rng, size = np.random.default_rng(0), config.per_device_batch_size
    images = rng.standard_normal((8, 3, 32, 32)).astype(np.float32)
    labels = np.arange(8, dtype=np.int32) % 2
    parts = [
        Batch(Tensor(images[i : i + size]), Tensor(labels[i : i + size]), size)
        for i in range(0, 8, size)
    ]
    run.set_train()
    update(run, parts)
    return f"{len(parts)} {parameters_digest(run.parameters())}"


def told_to_mindspore(config: RunConfig, _: Path) -> list[str]:
    """What MindSpore is told about a GPU's kernels."""
    gpu, told = ms.device_context.gpu, []
    names = {
        gpu.op_precision: ("conv_allow_tf32", "matmul_allow_tf32"),
        gpu.op_tuning: ("conv_fprop_algo", "conv_dgrad_algo", "conv_wgrad_algo"),
        ms: ("set_context", "set_device"),
    }
    with ExitStack() as stack:
        for place, functions in names.items():
            for name in functions:
                stub = mock.patch.object(
                    place, name, lambda *a, _n=name, **k: told.append(f"{_n}{a}{k}")
                )
                stack.enter_context(stub)
        join_group(config.runtime)
    return told


def test_all_three_kinds_of_convolution_are_chosen_alike(tmp_path: Path) -> None:
    config = load_config(None, [*ONE_GPU, "runtime.conv_algorithm=performance"])
    chosen = [line for line in told_to_mindspore(config, tmp_path) if "performance" in line]
    assert [line[:10] for line in chosen] == ["conv_fprop", "conv_dgrad", "conv_wgrad"]


def order_of_channels(config: RunConfig, folder: Path) -> bool:
    return prepared(config, folder).setup.network.channels_last


def first_scale(config: RunConfig, folder: Path) -> tuple[float, bool]:
    scale = prepared(config, folder).setup.step_options.loss_scale
    assert scale is not None
    return float(scale.factor), scale.dynamic


def trackers(config: RunConfig, folder: Path) -> list[str]:
    opened = open_trackers(config, folder, from_step=0)
    opened.close(finished=True)
    return [type(tracker).__name__ for tracker in opened.trackers]


def end_of_the_run(config: RunConfig, folder: Path) -> tuple[int, int]:
    """After how many evaluations a run ends that never gets better, and whose weights it delivers."""
    run = prepared(config, folder)
    tops = iter([0.5, *[0.25] * 9])
    count = 0
    with open_session(run) as session:
        while not run.finished:
            run.progress.step += run.setup.steps_per_epoch
            value = np.full(2, run.progress.step, np.float32)
            run.setup.network.classifier.bias.set_data(Tensor(value))
            result = EvalResult(seen=4, correct1=int(4 * next(tops)), correct5=4, loss=1.0)
            with mock.patch.object(loop, "evaluate_network", return_value=result):
                loop._finish_epoch(run, session)
            count += 1
    with mock.patch.object(loop, "evaluate_network", return_value=result):
        latest = loop.Evaluated(result, Scores())
        loop._deliver(run, session, latest=latest, started=0.0)
    model = prepared(config, folder).setup.network
    load_parameters(open_checkpoint(folder / "run" / "model.ckpt"), model.get_parameters())
    return count, int(model.classifier.bias.asnumpy()[0]) // run.setup.steps_per_epoch


def temperature_of_the_model(config: RunConfig, folder: Path) -> float:
    """What the finished model's logits are divided by, after an evaluation that was far too sure."""
    run = prepared(config, folder)
    rng = np.random.default_rng(0)

    def evaluate(*_: object, scores: Scores, **__: object) -> EvalResult:
        labels = rng.integers(0, 2, 60).astype(np.int32)
        scores.begin(range(60), 60)
        scores.add(rng.standard_normal((60, 2)).astype(np.float32) * 20, labels)
        return EvalResult(seen=60, correct1=30, correct5=60, loss=9.0)

    with open_session(run) as session, mock.patch.object(loop, "evaluate_network", evaluate):
        loop._deliver(run, session, latest=None, started=0.0)
    return open_checkpoint(folder / "run" / "model.ckpt").sidecar.temperature


class Linear(nn.Cell):
    """The smallest network that a training step takes."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Dense(4, 3, bias_init="zeros")

    def construct(self, x: Tensor, _path: Tensor | None, _feature: Tensor | None) -> Tensor:
        return self.classifier(x)


def loss(config: RunConfig, _: Path) -> float:
    network = Linear()
    network.classifier.weight.set_data(Tensor(np.eye(3, 4, dtype=np.float32)))
    step = TrainStep(
        network,
        create_optimizer(network.trainable_params(), config.optim),
        StepOptions(label_smoothing=config.train.label_smoothing),
    )
    images = Tensor(np.ones((2, 4), np.float32) * np.arange(4, dtype=np.float32))
    labels = Tensor(np.array([0, 0], np.int32))
    return float(step(images, labels, Control().encode())[0])


def drawn(config: RunConfig, folder: Path) -> tuple[Any, ...]:
    """Initial weights, order, augmentation seed and masks: each must follow the seed."""
    run = prepared(config, folder)
    seeds = []
    with mock.patch.object(
        batches, "batches", side_effect=lambda *_, seed, **__: seeds.append(seed) or iter(())
    ):
        next(epoch_batches(run), None)
    return (
        parameters_digest(run.setup.network.get_parameters()),
        epoch_order(12, seed=config.train.seed, epoch=0).tobytes(),
        tuple(seeds),
        tuple(masks(config, folder)),
    )


ONE_GPU = ("runtime.device=GPU", "runtime.world_size=1")

PROOFS = {
    "model.num_classes": Proof("5", outcome, TINY),
    "model.drop_rate": Proof("0.5", masks, TINY),
    "model.drop_path_rate": Proof("0", masks, TINY),
    "model.bn_momentum": Proof("0.5", stem_statistics, TINY),
    "model.bn_eps": Proof("0.1", stem_output, TINY),
    "model.padding": Proof("same", stem_output, TINY),
    "model.weights": Proof("other.ckpt", start, TINY),
    "model.new_head": Proof("true", start_from_other_classes, TINY),
    "data.train_split": Proof("val", training_images, (*TINY, "data.global_batch_size=4")),
    "data.eval_split": Proof("train", evaluated, TINY),
    "data.crop_scale": Proof("[0.9, 1.0]", augmented, TINY),
    "data.crop_ratio": Proof("[0.3, 0.4]", augmented, TINY),
    "data.flip_rate": Proof("1.0", augmented, TINY),
    "data.policy": Proof("autoaugment", augmented, TINY),
    "data.policy_ops": Proof("4", augmented, (*TINY, "data.policy=randaugment")),
    "data.policy_magnitude": Proof("30", augmented, (*TINY, "data.policy=randaugment")),
    "data.progressive_sizes": Proof("[16, 24]", sizes, TINY),
    "data.workers": Proof("3", decoding_threads, TINY),
    "data.check_share": Proof("1", checked_files, TINY),
    "data.sink": Proof("true", way_of_batches, (*TINY, "runtime.device=Ascend")),
    "optim.name": Proof("sgd", updated),
    "optim.momentum": Proof("0.5", updated),
    "optim.decay": Proof("0.5", updated),
    "optim.epsilon": Proof("0.1", updated),
    "optim.weight_decay": Proof("0.1", updated),
    "optim.beta2": Proof("0.5", updated, ("optim.name=adamw",)),
    "optim.clip_norm": Proof("0.01", after_one_step, TINY),
    "optim.accumulate_steps": Proof("2", after_one_step, TINY),
    "optim.layer_decay": Proof("0.5", learning, TINY),
    "optim.backbone_lr_scale": Proof("0.1", learning, TINY),
    "train.freeze_bn": Proof("true", stem_statistics, TINY),
    "train.freeze_epochs": Proof("1", learning, (*TINY, "model.weights=w.ckpt")),
    "train.class_weights": Proof("[1.0, 3.0]", after_one_step, TINY),
    "train.amp_level": Proof("O2", after_one_step, TINY),
    "train.amp_norm": Proof("mixed", after_one_step, (*TINY, "train.amp_level=O2")),
    "runtime.layout": Proof("NHWC", order_of_channels, (*TINY, *ONE_GPU)),
    "runtime.conv_tf32": Proof("false", told_to_mindspore, ONE_GPU),
    "runtime.matmul_tf32": Proof("true", told_to_mindspore, ONE_GPU),
    "runtime.conv_algorithm": Proof("performance", told_to_mindspore, ONE_GPU),
    "runtime.fuse_kernels": Proof("true", told_to_mindspore, ONE_GPU),
    "train.loss_scale": Proof("8", first_scale, (*TINY, "train.amp_level=O3")),
    "train.trackers": Proof("[tensorboard]", trackers, TINY),
    "train.ema_decay": Proof("0.9", after_one_step, TINY),
    "train.early_stop_evaluations": Proof("2", end_of_the_run, (*TINY, "train.epochs=5")),
    "train.final_model": Proof("best", end_of_the_run, (*TINY, "train.epochs=5")),
    "train.calibrate": Proof("false", temperature_of_the_model, TINY),
    "train.label_smoothing": Proof("0.3", loss),
    "train.seed": Proof("7", drawn, TINY),
    "train.resume_from": Proof("other.ckpt", start, TINY),
    "runtime.exact_resume": Proof("true", warm_up_steps, TINY),
    "evaluate.per_device_batch_size": Proof("3", evaluated, TINY),
}


def test_every_setting_of_this_layer_has_a_proof() -> None:
    assert sorted(PROOFS) == sorted(every_setting.CELLS)


@pytest.mark.parametrize("key", PROOFS)
def test_another_value_changes_something(key: str, tmp_path: Path) -> None:
    PROOFS[key].check(key, tmp_path)


def test_the_seed_reaches_everything_that_is_drawn(tmp_path: Path) -> None:
    seen = []
    for seed in (0, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        seen.append(drawn(load_config(None, [*TINY, f"train.seed={seed}"]), folder))
    assert all(first != second for first, second in zip(*seen, strict=True))


def test_no_masks_at_rate_zero(tmp_path: Path) -> None:
    off = load_config(None, [*TINY, "model.drop_rate=0", "model.drop_path_rate=0"])
    assert masks(off, tmp_path) == [None, None]
