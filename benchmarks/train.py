"""Training speed and memory of EfficientNet-B0: with native CPU kernels and with MindSpore's, against
mindcv's network, torch, and itself on two processes.

Each contender runs in a process of its own, in turns, so that all meet the machine's moods. torch and
torchvision may live in another Python (EFFNET_PEERS_PYTHON); mindcv must lie beside MindSpore. Both are
in the extra ``peers``; what is not installed is left out. ``--contenders`` takes some of them only.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEERS_PYTHON = os.environ.get("EFFNET_PEERS_PYTHON", sys.executable)
OURS = "effnet_core"
BUILTIN = "effnet_core, runtime.kernels=builtin"
PLAIN = "mindcv, MindSpore's defaults"
MENDED = "mindcv, ONEDNN_MAX_CPU_ISA=AVX2"
TORCH = "torch + torchvision, channels_last"
CONTENDERS = {"own": OURS, "builtin": BUILTIN, "plain": PLAIN, "mended": MENDED, "torch": TORCH}
"""By the names that ``--contenders`` takes."""
NEEDS = {PLAIN: "mindcv", MENDED: "mindcv", TORCH: "torchvision"}
CLASSES = 1000
FILES, FILE_SIZE = 128, (500, 375)


def median_seconds(step: Callable[[], Any], steps: int) -> float:
    """Median of ``steps`` steps after two that compile and warm up."""
    seconds = []
    for _ in range(steps + 2):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def batch_of_noise(batch: int, size: int) -> tuple[Any, Any]:
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, 3, size, size)).astype(np.float32)
    return images, rng.integers(0, CLASSES, batch).astype(np.int32)


def ours(batch: int, size: int, steps: int) -> float:
    return our_step(batch, size, steps, "runtime.kernels=native")


def builtin(batch: int, size: int, steps: int) -> float:
    return our_step(batch, size, steps, "runtime.kernels=builtin")


def our_step(batch: int, size: int, steps: int, *settings: str) -> float:
    """A step as ``effnet train`` does it, with its masks and its rate."""
    from effnet_core.jobs import environment

    environment.prepare()
    import mindspore as ms
    import numpy as np

    from effnet_core.config.load import load_config
    from effnet_core.jobs.collective import join_group
    from effnet_core.jobs.sharing import join
    from effnet_core.kernels.choice import library
    from effnet_core.model.network import create_model
    from effnet_core.train.control import Control
    from effnet_core.train.masks import drop_path_scale, dropout_scale
    from effnet_core.train.optim import create_optimizer, set_learning_rate
    from effnet_core.train.precision import loss_scale, lower
    from effnet_core.train.step import StepOptions, TrainStep

    world = os.environ.get("MS_WORKER_NUM", "1")
    config = load_config(None, [f"runtime.world_size={world}", *settings])
    group = join_group(config.runtime)
    operators = library(config.runtime.kernels, config.runtime.device, print)
    network = create_model("efficientnet_b0", num_classes=CLASSES, library=operators)
    lower(network, config)
    optimizer = create_optimizer(network.trainable_params(), config.optim)
    cell = TrainStep(
        network,
        optimizer,
        StepOptions(
            label_smoothing=0.1,
            world_size=group.world_size,
            loss_scale=loss_scale(config),
            shared_by=join(operators, group),
        ),
    )
    cell.set_train()
    images, labels = (ms.Tensor(array) for array in batch_of_noise(batch, size))
    control = Control().encode()
    rng = np.random.default_rng(1)

    def step() -> None:
        rates = [0.2 * index / 16 for index in range(16)]
        path = ms.Tensor(drop_path_scale(rng, rates, batch))
        feature = ms.Tensor(dropout_scale(rng, 0.2, (batch, 1280)))
        set_learning_rate(optimizer, 0.001)
        cell(images, labels, control, path, feature).asnumpy()

    return median_seconds(step, steps)


def mindcv(batch: int, size: int, steps: int) -> float:
    """mindcv's network in MindSpore's own training cell."""
    import mindspore as ms
    from mindcv.models import create_model
    from mindspore import nn

    ms.set_context(mode=ms.GRAPH_MODE)
    network = create_model("efficientnet_b0", num_classes=CLASSES)
    parameters = network.trainable_params()
    optimizer = nn.RMSProp(parameters, learning_rate=0.001, momentum=0.9, epsilon=1e-3)
    loss = nn.CrossEntropyLoss(label_smoothing=0.1)
    cell = nn.TrainOneStepCell(nn.WithLossCell(network, loss), optimizer).set_train()
    images, labels = (ms.Tensor(array) for array in batch_of_noise(batch, size))
    return median_seconds(lambda: cell(images, labels).asnumpy(), steps)


def torch(
    batch: int, size: int, steps: int, *, device: str = "cpu", precision: str = "float32"
) -> float:
    """torchvision's network in torch's best memory format.

    Args:
        precision: ``float32``, or ``float16`` or ``bfloat16`` for torch's automatic mixed precision.
    """
    import torch
    import torchvision

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    network = torchvision.models.efficientnet_b0(num_classes=CLASSES)
    network = network.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.RMSprop(network.parameters(), lr=0.001, momentum=0.9, eps=1e-3)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
    images, labels = (torch.from_numpy(array).to(device) for array in batch_of_noise(batch, size))
    images, labels = images.to(memory_format=torch.channels_last), labels.long()
    dtype = getattr(torch, precision)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, dtype, enabled=precision != "float32"):
            value = loss(network(images), labels)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()
        value.item()  # a training reads its loss, and with it waits for the device

    return median_seconds(step, steps)


def draw_files(folder: Path) -> list[Path]:
    """Photographs are neither noise nor flat: smooth noise, as JPEG."""
    import numpy as np
    from PIL import Image

    width, height = FILE_SIZE
    paths = []
    for index in range(FILES):
        rng = np.random.default_rng(index)
        coarse = rng.integers(0, 256, (height // 6, width // 6, 3), dtype=np.uint8)
        path = folder / "train" / str(index % 2) / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize(FILE_SIZE, Image.Resampling.BICUBIC).save(path, quality=90)
        paths.append(path)
    return paths


def our_pipeline(folder: Path, batch: int, size: int, epochs: int) -> float:
    """Images a second of training's own pipeline."""
    from dataclasses import replace

    import numpy as np

    from effnet_core.config.schema import RunConfig
    from effnet_core.data.loader import batches
    from effnet_core.data.manifest import Split
    from effnet_core.data.preprocess import PreprocessSpec
    from effnet_core.data.transforms import train_transforms

    paths = tuple(str(p.relative_to(folder)) for p in sorted(folder.rglob("*.jpg")))
    nothing = np.zeros(len(paths))
    split = Split(
        "train", folder, paths, paths, nothing.astype(np.int32), nothing.astype(np.uint64)
    )
    config = RunConfig()
    spec = replace(PreprocessSpec.from_config(config), image_size=size)
    order = np.tile(np.arange(len(paths)), epochs).tolist()
    loaded = batches(
        split,
        order,
        transforms=train_transforms(spec, config.data),
        batch_size=batch,
        workers=len(os.sched_getaffinity(0)),
        seed=0,
        background=None,
    )
    return _rate(item.valid for item in loaded)


def torch_pipeline(folder: Path, batch: int, size: int, epochs: int) -> float:
    """Images a second of torchvision's transforms in torch's loader, over the same files."""
    import torch
    from torchvision import datasets, transforms

    changes = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    images = datasets.ImageFolder(str(folder / "train"), changes)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.ConcatDataset([images] * epochs),
        batch_size=batch,
        num_workers=len(os.sched_getaffinity(0)),
        drop_last=True,
    )
    return _rate(len(labels) for _, labels in loader)


def _rate(counts: Any) -> float:
    """Counts a second, from the first batch on."""
    started, seen = 0.0, 0
    for index, count in enumerate(counts):
        if index == 0:
            started = time.perf_counter()
        else:
            seen += count
    return seen / (time.perf_counter() - started)


def worker(name: str, options: argparse.Namespace) -> None:
    """Run one contender and print its figure; under msrun, of rank 0."""
    kinds = {OURS: ours, BUILTIN: builtin, PLAIN: mindcv, MENDED: mindcv, TORCH: torch}
    pipelines = {"our pipeline": our_pipeline, "torch pipeline": torch_pipeline}
    rank = int(os.environ.get("MS_NODE_ID", "0"))
    if os.environ.get("ONE_CORE"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[rank % len(cores)]})
    if name in kinds:
        value = kinds[name](options.batch, options.size, options.steps)
    else:
        value = pipelines[name](options.files, options.batch, options.size, options.epochs)
    if rank == 0 and os.environ.get("MS_ROLE") != "MS_SCHED":
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        options.out.write_text(json.dumps([value, peak]))


def measure(
    name: str, options: argparse.Namespace, *, ranks: int = 0, files: Path | None = None
) -> tuple[float, float]:
    """One contender's figure and peak memory (GB) in a fresh process.

    With ``ranks``, on so many processes of one core each, and the memory is that of the first.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "value.json"
        own = name in (OURS, BUILTIN, PLAIN, MENDED, "our pipeline")
        python = sys.executable if own else PEERS_PYTHON
        command = [__file__, "--contender", name, "--out", str(out)]
        for key in ("batch", "size", "steps", "epochs"):
            command += [f"--{key}", str(getattr(options, key))]
        command += ["--files", str(files or folder)]
        environment = {
            **os.environ,
            "GLOG_v": "3",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        environment.pop("ONEDNN_MAX_CPU_ISA", None)
        if name == MENDED:
            environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
        launcher: list[str] = [python]
        if ranks:
            environment["ONE_CORE"] = "1"
        if ranks > 1:
            launcher = [str(Path(sys.executable).with_name("msrun")), f"--worker_num={ranks}"]
            launcher += [f"--local_worker_num={ranks}", "--master_port=18119", "--join=True"]
            launcher += [f"--log_dir={folder}/logs", "--tail_worker_log=0", "python"]
        done = subprocess.run(
            [*launcher, *command], env=environment, capture_output=True, text=True, check=False
        )
        if not out.exists():
            sys.exit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        figure, peak = json.loads(out.read_text())
        return float(figure), float(peak)


def installed(name: str) -> bool:
    """Whether a contender can run; says what is missing where it cannot."""
    package = NEEDS.get(name)
    python = PEERS_PYTHON if name == TORCH else sys.executable
    if package is None:
        return True
    done = subprocess.run([python, "-c", f"import {package}"], capture_output=True, check=False)
    if done.returncode:
        print(f"{name} is left out: {package} is not installed beside {python}", flush=True)
    return done.returncode == 0


def compare(options: argparse.Namespace) -> list[str]:
    """The contenders in turns."""
    names = [name for key, name in CONTENDERS.items() if key in options.contenders]
    names = [name for name in names if installed(name)]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            figure, peak = measure(name, options)
            seconds[name].append(figure)
            peaks[name].append(peak)
            print(f"round {number + 1}: {name} {figure:.2f} s, {peak:.2f} GB", flush=True)
    rows = [
        f"A training step of EfficientNet-B0, {options.size} px, batch {options.batch}, median of "
        f"{options.steps} steps, {options.rounds} round(s) in turns; memory is the process's peak:",
        "",
        "| | seconds | images/s | times ours is faster, round by round | GB | ours / it |",
        "|---|---|---|---|---|---|",
    ]
    for name, times in seconds.items():
        ratios = [b / a for a, b in zip(seconds[names[0]], times, strict=True)]
        middle, peak = statistics.median(times), statistics.median(peaks[name])
        rows.append(
            f"| {name} | {middle:.2f} | {options.batch / middle:.1f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}) | "
            f"{peak:.2f} | {statistics.median(peaks[names[0]]) / peak:.2f} |"
        )
    return rows


def scale(options: argparse.Namespace) -> list[str]:
    """One process on one core, and two on one core each."""
    ratios = []
    for number in range(options.rounds):
        (one, _), (two, _) = (measure(OURS, options, ranks=ranks) for ranks in (1, 2))
        ratios.append(2 * one / two)
        print(f"round {number + 1}: one rank {one:.2f} s, two ranks {two:.2f} s", flush=True)
    return [
        "",
        f"Two ranks of one core each, batch {options.batch} on each, against one on one: images/s times "
        f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} - {max(ratios):.2f}).",
    ]


def pipelines(options: argparse.Namespace) -> list[str]:
    """What the input gives, against torchvision over the same files."""
    rates: dict[str, list[float]] = {"our pipeline": [], "torch pipeline": []}
    with tempfile.TemporaryDirectory() as folder:
        draw_files(Path(folder))
        for _ in range(options.rounds):
            for name, values in rates.items():
                values.append(measure(name, options, files=Path(folder))[0])
    our, their = (statistics.median(values) for values in rates.values())
    return [
        "",
        f"Input: JPEG of {FILE_SIZE[0]}x{FILE_SIZE[1]} to random crops of {options.size} px on all cores, "
        f"images/s: ours {our:.0f}, torchvision's transforms in torch's loader {their:.0f} "
        f"({our / their:.2f} times).",
    ]


def main() -> None:
    """Measure, print and write the note."""
    reader = argparse.ArgumentParser(description=__doc__)
    for key, default in (("batch", 16), ("size", 224), ("steps", 5), ("rounds", 5), ("epochs", 10)):
        reader.add_argument(f"--{key}", type=int, default=default)
    reader.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=list(CONTENDERS),
        help="who runs; the first is compared with the others",
    )
    reader.add_argument(
        "--parts",
        nargs="+",
        choices=("compare", "scale", "pipelines"),
        default=["compare", "scale", "pipelines"],
        help="what is measured",
    )
    reader.add_argument("--contender", help=argparse.SUPPRESS)
    reader.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    reader.add_argument("--files", type=Path, help=argparse.SUPPRESS)
    options = reader.parse_args()
    if options.contender:
        worker(options.contender, options)
        return
    from machine import write_note

    parts = {"compare": compare, "scale": scale, "pipelines": pipelines}
    rows = [row for name in options.parts for row in parts[name](options)]
    write_note(__file__, "Training", rows)


if __name__ == "__main__":
    main()
