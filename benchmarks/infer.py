"""Labelling 2,000 JPEGs with EfficientNet-B0 at 224: files in, Parquet out, beside a torch loop.

All contenders take turns in one run, each in a process of its own, so that whatever else the machine
does hits all alike. A rate counts from the first file to the finished Parquet file, without imports and
loading. The torch loop is torchvision's B0 behind a DataLoader with the best of some settings, tried on
some of the files first. The engines' bound is what decoding alone and computing alone, each on all
cores, add up to.

    python benchmarks/infer.py [--peers PYTHON] [--images 2000] [--rounds 3]

PYTHON is an interpreter with torch and torchvision (the extra ``peers``); this one by default.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SIZE = (500, 375)
ENGINES = {
    "onnxruntime": ("infer.engine=onnxruntime",),
    "openvino": ("infer.engine=openvino",),
    "openvino, bf16": ("infer.engine=openvino", "infer.precision=bf16"),
}
"""Settings of each contender of ours."""
TRIED = [
    (threads, workers, batch)
    for threads, workers in ((2, 0), (1, 1), (2, 1), (1, 2), (2, 2))
    for batch in (16, 64)
]
"""Threads of torch, workers of the DataLoader, batch size."""
TRIAL_IMAGES = 160
PURE_S = 6.0


def write_photographs(folder: Path, count: int) -> None:
    """Crops of the photographs that scikit-image and scikit-learn carry."""
    import numpy as np
    import skimage
    import sklearn
    from PIL import Image

    names = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
    paths = [Path(skimage.__file__).parent / "data" / name for name in names]
    paths += [
        Path(sklearn.__file__).parent / "datasets" / "images" / n
        for n in ("china.jpg", "flower.jpg")
    ]
    photographs = [Image.open(path).convert("RGB") for path in paths]
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for index in range(count):
        whole = photographs[index % len(photographs)]
        share = rng.uniform(0.5, 1.0)
        wide = share * min(whole.width, whole.height * SIZE[0] / SIZE[1])
        high = wide * SIZE[1] / SIZE[0]
        left, top = rng.uniform(0, whole.width - wide), rng.uniform(0, whole.height - high)
        crop = whole.resize(SIZE, Image.Resampling.BICUBIC, (left, top, left + wide, top + high))
        crop.save(folder / f"{index:05d}.jpg", quality=90)


def write_checkpoint(path: Path) -> None:
    """B0 as it is initialised: speed does not depend on what a network has learned."""
    from effnet_core.config.schema import RunConfig
    from effnet_core.data.preprocess import PreprocessSpec
    from effnet_core.model.network import create_model
    from effnet_core.weights import checkpoint as checkpoints
    from effnet_core.weights.checkpoint import Sidecar

    network = create_model("efficientnet_b0", num_classes=1000)
    names = tuple(str(index) for index in range(1000))
    spec = PreprocessSpec.from_config(RunConfig())
    sidecar = Sidecar("efficientnet_b0", names, spec, 0.99, 1e-3, 0, 0, False)
    checkpoints.save(path, network.get_parameters(), sidecar)


def has_bf16() -> bool:
    """Whether the processor computes in bfloat16."""
    from openvino import Core

    return "BF16" in Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def ours(name: str, photographs: Path, checkpoint: Path, output: Path) -> float:
    """Images/s of ``effnet predict``."""
    command = [sys.executable, "-m", "effnet_core", "predict", str(photographs)]
    command += ["--weights", str(checkpoint), "--output", str(output)]
    command += [part for setting in ENGINES[name] for part in ("--override", setting)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    rate: float = json.loads((output / "summary.json").read_text())["images_per_s"]
    return rate


def pure(name: str, photographs: Path, checkpoint: Path) -> dict[str, float]:
    """Child: images/s of decoding alone and of computing alone, on all cores."""
    import numpy as np

    from effnet_core.config.load import load_config
    from effnet_core.config.schema import RunConfig
    from effnet_core.data.preprocess import decode_square
    from effnet_core.infer import engines

    config = load_config(None, list(ENGINES[name]))
    inputs = {"checkpoint": str(checkpoint), "shards": [{"start": 0, "stop": 2000}]}
    predictor: Any = engines.load({**inputs, **engines.prepare(checkpoint, config)}, config.infer)
    paths = sorted(photographs.iterdir())
    spec = predictor.preprocess
    noise = np.random.default_rng(0).integers(
        0, 256, (predictor.micro_batch, 224, 224, 3), np.uint8
    )
    assert RunConfig().image_size == spec.image_size

    def decode(worker: int) -> int:
        done, deadline = 0, time.perf_counter() + PURE_S
        while time.perf_counter() < deadline:
            decode_square(paths[(worker + 2 * done) % len(paths)].read_bytes(), spec, fast=True)
            done += 1
        return done

    def compute(_: int) -> int:
        done, deadline = 0, time.perf_counter() + PURE_S
        while time.perf_counter() < deadline:
            predictor.forward(noise)
            done += len(noise)
        return done

    found = {"micro_batch": float(predictor.micro_batch)}
    with ThreadPoolExecutor(predictor.workers) as workers:
        list(workers.map(lambda _: predictor.forward(noise), range(predictor.workers)))
        for name, work in (("decode", decode), ("engine", compute)):
            started = time.perf_counter()
            done = sum(workers.map(work, range(predictor.workers)))
            found[name] = done / (time.perf_counter() - started)
    return found


def torch_loop(
    photographs: Path, output: Path, threads: int, workers: int, batch: int, images: int
) -> float:
    """Child, in the peers' interpreter: images/s of a straight loop."""
    import torch
    import torchvision
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Photographs(Dataset):  # type: ignore[misc, type-arg]
        def __init__(self) -> None:
            self.paths = sorted(photographs.iterdir())[:images]
            weights = torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1
            self.transform = weights.transforms()

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            with Image.open(self.paths[index]) as image:
                return self.transform(image.convert("RGB")), str(self.paths[index])

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = torchvision.models.efficientnet_b0().eval().to(memory_format=torch.channels_last)
    loader = DataLoader(Photographs(), batch_size=batch, num_workers=workers)
    with torch.inference_mode():
        model(torch.zeros(batch, 3, 224, 224).to(memory_format=torch.channels_last))
        started = time.perf_counter()
        rows = []
        for pixels, paths in loader:
            logits = model(pixels.to(memory_format=torch.channels_last))
            shares, ids = logits.softmax(1).topk(5)
            rows += zip(paths, ids.tolist(), shares.tolist(), strict=True)
    write_rows(output, rows)
    return len(rows) / (time.perf_counter() - started)


def write_rows(output: Path, rows: list[tuple[str, list[int], list[float]]]) -> None:
    """Parquet where the interpreter has pyarrow; else JSON, which takes no longer."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        output.write_text(json.dumps(rows))
        return
    names = ("path", "class_ids", "probs")
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), output
    )


def child(python: str, *arguments: object) -> Any:
    """What a function of this file returns in a process of its own."""
    command = [python, __file__, "--child", *map(str, arguments)]
    done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def serve(name: str, *arguments: str) -> None:
    """Child: call a function and print what it returns."""
    if name == "torch":
        photographs, output, *numbers = arguments
        answer: Any = torch_loop(Path(photographs), Path(output), *map(int, numbers))
    elif name == "pure":
        answer = pure(arguments[0], Path(arguments[1]), Path(arguments[2]))
    else:
        from effnet_core.jobs import environment

        environment.prepare()
        answer = write_checkpoint(Path(arguments[0]))
    print(json.dumps(answer))


def draw(rates: dict[str, float], bounds: dict[str, float], path: Path) -> None:
    """Bars of images/s, and on each a mark where engine and decoding together bound it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from effnet_core.render.plots import DPI, LIGHT

    figure = Figure(figsize=(5.6, 0.45 * len(rates) + 0.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    names = list(rates)
    colors = [LIGHT.first if name in bounds else LIGHT.muted for name in names]
    bars = axes.barh(names, list(rates.values()), color=colors, height=0.6)
    axes.bar_label(bars, fmt="%.0f", color=LIGHT.surface, label_type="center")
    rows = [names.index(name) for name in bounds]
    axes.vlines(
        list(bounds.values()),
        [row - 0.38 for row in rows],
        [row + 0.38 for row in rows],
        color=LIGHT.second,
        linewidth=2,
        label="at most, by engine and decoding alone",
    )
    axes.invert_yaxis()
    axes.set_xlabel("images/s")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.05)
    figure.legend(loc="outside upper right", frameon=False)
    figure.savefig(path, dpi=DPI)


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.child:
        serve(*options.child)
        return
    names = [name for name in ENGINES if "bf16" not in name or has_bf16()]
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as temporary:
        folder = Path(temporary)
        photographs, checkpoint = folder / "photographs", folder / "b0.ckpt"
        write_photographs(photographs, options.images)
        child(sys.executable, "checkpoint", checkpoint)
        for (
            name
        ) in names:  # makes the engine and measures its micro-batch size, as a first run does
            ours(name, photographs, checkpoint, folder / f"{name}-first")
        trials = {
            setting: child(
                options.peers, "torch", photographs, folder / "torch", *setting, TRIAL_IMAGES
            )
            for setting in TRIED
        }
        best = max(trials, key=lambda setting: trials[setting])
        turns: list[dict[str, Any]] = []
        for turn in range(options.rounds):
            found: dict[str, Any] = {}
            arguments = (photographs, folder / "torch", *best, options.images)
            found["torch"] = child(options.peers, "torch", *arguments)
            for name in names:
                output = folder / f"{name}-{turn}"
                found[name] = ours(name, photographs, checkpoint, output)
                found[f"{name} alone"] = child(
                    sys.executable, "pure", name, photographs, checkpoint
                )
            turns.append(found)
            print(turn + 1, json.dumps(found), flush=True)
    _report(names, turns, best, options.images)


def _report(
    names: list[str], turns: list[dict[str, Any]], best: tuple[int, ...], images: int
) -> None:
    from machine import (  # not in a peer's interpreter, which has no effnet_core
        picture_path,
        write_note,
    )

    median = statistics.median
    rows = ["| contender | images/s | times torch | share of its bound |", "|---|---|---|---|"]
    rates, limits = {"torch loop": median([turn["torch"] for turn in turns])}, {}
    rows.append(f"| torch loop | {rates['torch loop']:.1f} | 1 | |")
    parts = []
    for name in names:
        rate = median([turn[name] for turn in turns])
        ratio = median([turn[name] / turn["torch"] for turn in turns])
        alone = [turn[f"{name} alone"] for turn in turns]
        bounds = [1 / (1 / a["decode"] + 1 / a["engine"]) for a in alone]
        share = median([turn[name] / bound for turn, bound in zip(turns, bounds, strict=True)])
        rows.append(f"| effnet, {name} | {rate:.1f} | {ratio:.2f} | {share:.2f} |")
        rates[f"effnet, {name}"] = rate
        limits[f"effnet, {name}"] = median(bounds)
        parts.append(
            f"{name}: engine alone {median([a['engine'] for a in alone]):.1f} images/s in micro-batches of "
            f"{alone[-1]['piece']:.0f}, decoding alone {median([a['decode'] for a in alone]):.1f}, "
            f"together at most {median(bounds):.1f}"
        )
    threads, workers, batch = best
    picture = picture_path(__file__)
    notes = [
        "",
        f"{images} JPEGs of {SIZE[0]}x{SIZE[1]}, {len(turns)} rounds in turn, medians; ratios are medians of "
        "the rounds' ratios.",
        "",
        f"torch loop: {threads} threads, {workers} workers, batch {batch}, channels_last: the best of "
        f"{len(TRIED)} settings. {'. '.join(parts)}.",
        "",
        f"![images/s]({picture.name})",
    ]
    draw(rates, limits, picture)
    write_note(__file__, "Labelling files with EfficientNet-B0 at 224", [*rows, *notes])


if __name__ == "__main__":
    main()
