"""Labelling 2,000 JPEGs with EfficientNet-B0 and Lite0 at 224: files in, Parquet out, beside torch loops.

All contenders take turns in one run, each in a process of its own, so that whatever else the machine
does hits all alike. A rate counts from the first file to the finished Parquet file, without imports,
loading and compiling. Torch is measured twice: in fp32 channels_last, and the best of what it has here
(bf16 autocast, torch.compile, int8 by FX), each with the best threads, workers and batch of some, tried
on some of the files first. Ours are the default (what a first run took, by the answers' agreement) and,
for Lite0, the int8 network that ``effnet quantize`` made. A bound is what decoding alone and computing
alone, each on all cores, add up to.

    python benchmarks/infer.py [--peers PYTHON] [--images 2000] [--rounds 5] [--work FOLDER]

PYTHON is an interpreter with torch, torchvision and timm (the extra ``peers``); this one by default. With
``--work`` everything is kept in a folder, and a second call adds its rounds to those of the first (with
``--minutes`` in pieces).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SIZE = (500, 375)
SOURCES = 7
"""Photographs that the pictures are cut from; which one is what the networks are fitted to tell."""
FITTED = 140
STAGED = 700
OURS = {
    "b0": {"default": ()},
    "lite0": {"default": (), "int8": ("infer.precision=int8",)},
}
"""Settings of each contender of ours."""
LAYOUTS = ((2, 0, 16), (2, 2, 16), (1, 2, 16), (2, 0, 64))
"""Threads of torch, workers of the DataLoader, batch size."""
WAYS = ("fp32", "bf16", "compiled", "compiled bf16", "int8")
"""What torch has, fp32 channels_last first."""
TRIAL_IMAGES = 160
PURE_S = 2.0
MORE = 4
"""How many times the pictures of a longer run."""


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


def write_models(photographs: Path, work: Path) -> dict[str, str]:
    """Child: B0 with drawn weights and Lite0 with ImageNet's, their classifiers fitted; Lite0's int8."""
    from effnet_core import api
    from effnet_core.config.schema import RunConfig
    from effnet_core.family.variants import variant
    from effnet_core.infer.bench import draw_checkpoint

    config = RunConfig()
    paths = sorted(photographs.iterdir())
    for index, path in enumerate(paths[:STAGED]):
        folder = work / "source" / f"photograph {index % SOURCES}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)
    api.stage(work / "source", work / "data")
    drawn = draw_checkpoint(variant("efficientnet_b0"), work)
    lite = api.open_weights("efficientnet_lite0", config.storage)
    _fit(drawn, paths[:FITTED], work / "b0" / "model.ckpt")
    _fit(lite, paths[:FITTED], work / "lite0" / "model.ckpt")
    found = api.quantize(work / "lite0", data_dir=work / "data")
    return {"int8": str(found)}


def _fit(checkpoint: Any, paths: list[Path], out: Path) -> None:
    """The same network with a classifier that tells the photographs, by least squares over its features."""
    from dataclasses import replace

    import numpy as np

    from effnet_core.data.preprocess import decode_square
    from effnet_core.export.onnx_model import write_onnx
    from effnet_core.infer.engines.onnxruntime import OnnxRuntimePredictor
    from effnet_core.weights.checkpoint import save_arrays

    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_name("fit.onnx")
    write_onnx(checkpoint, file, features=True, pixels=True)
    engine = OnnxRuntimePredictor(file, checkpoint.sidecar, workers=1, micro_batch=4)
    spec = checkpoint.sidecar.preprocess
    squares = [decode_square(path.read_bytes(), spec, fast=True) for path in paths]
    rows = np.concatenate([engine.forward(one[None]).features for one in squares])
    wanted = 10.0 * np.eye(SOURCES)[np.arange(len(paths)) % SOURCES]
    middle, spread = rows.mean(axis=0), rows.std() + 1e-9
    scaled = (rows - middle) / spread
    gram = scaled @ scaled.T + 0.01 * len(paths) * np.eye(len(paths))
    weight = (scaled.T @ np.linalg.solve(gram, wanted)).T / spread
    bias = -weight @ middle
    arrays = {
        **checkpoint.load(),
        "classifier.weight": weight.astype(np.float32),
        "classifier.bias": bias.astype(np.float32),
    }
    names = tuple(f"photograph {index}" for index in range(SOURCES))
    save_arrays(out, arrays, replace(checkpoint.sidecar, class_names=names, temperature=1.0))
    file.unlink()


def ours(settings: tuple[str, ...], photographs: Path, model: Path, output: Path) -> Any:
    """The summary of ``effnet predict``."""
    command = [sys.executable, "-m", "effnet_core", "predict", str(photographs)]
    command += ["--weights", str(model), "--output", str(output)]
    command += [part for setting in settings for part in ("--override", setting)]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    summary = json.loads((output / "summary.json").read_text())
    shutil.rmtree(output)
    return summary


def pure(engine: str, precision: str, photographs: Path, model: Path) -> dict[str, float]:
    """Child: images/s of decoding alone and of computing alone, on all cores."""
    import numpy as np

    from effnet_core.config.load import load_config
    from effnet_core.data.preprocess import decode_square
    from effnet_core.infer import engines
    from effnet_core.infer.shards import resizer_for
    from effnet_core.weights.checkpoint import open_checkpoint

    config = load_config(None, [f"infer.engine={engine}", f"infer.precision={precision}"])
    checkpoint = open_checkpoint(model / "model.ckpt")
    _, file = engines.prepare(checkpoint, config)
    predictor = engines.load_for(engine, file, checkpoint, config.infer, 2000)
    paths = sorted(photographs.iterdir())
    spec, resize = predictor.preprocess, resizer_for(2000, config)
    noise = np.random.default_rng(0).integers(
        0, 256, (predictor.micro_batch, 224, 224, 3), np.uint8
    )

    def decode(worker: int) -> int:
        done, deadline = 0, time.perf_counter() + PURE_S
        while time.perf_counter() < deadline:
            content = paths[(worker + 2 * done) % len(paths)].read_bytes()
            decode_square(content, spec, fast=True, resize=resize)
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
    net: str,
    way: str,
    photographs: Path,
    output: Path,
    threads: int,
    workers: int,
    batch: int,
    images: int,
) -> float:
    """Child: images/s of what one writes with torch, without loading, compiling and the first batch."""
    import torch
    import torchvision
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    class Photographs(Dataset):
        def __init__(self) -> None:
            self.paths = sorted(photographs.iterdir())[:images]
            self.transform = transforms.Compose(
                [
                    transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
                    transforms.CenterCrop(224),
                    transforms.ToTensor(),
                    transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
                ]
            )

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> Any:
            with Image.open(self.paths[index]) as image:
                return self.transform(image.convert("RGB")), str(self.paths[index])

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    if net == "b0":
        model: Any = torchvision.models.efficientnet_b0()
    else:
        import timm

        model = timm.create_model("tf_efficientnet_lite0")
    model = model.eval()
    example = torch.zeros(batch, 3, 224, 224).to(memory_format=torch.channels_last)
    channels_last = torch.channels_last
    model = _in_int8(model, example) if way == "int8" else model.to(memory_format=channels_last)
    if way.startswith("compiled"):
        model = torch.compile(model)
    cast = torch.autocast("cpu", torch.bfloat16) if way.endswith("bf16") else nullcontext()
    loader = DataLoader(Photographs(), batch_size=batch, num_workers=workers, drop_last=True)
    with torch.inference_mode(), cast:
        for _ in range(3):
            model(example)
        started = time.perf_counter()
        rows: list[Any] = []
        for pixels, paths in loader:
            logits = model(pixels.to(memory_format=torch.channels_last))
            shares, ids = logits.float().softmax(1).topk(5)
            rows += zip(paths, ids.tolist(), shares.tolist(), strict=True)
    write_rows(output, rows)
    return len(rows) / (time.perf_counter() - started)


def _in_int8(model: Any, example: Any) -> Any:
    """A network by torch's own post-training quantization (FX), its ranges from noise: speed only."""
    import torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    torch.backends.quantized.engine = "x86"
    prepared = prepare_fx(model, get_default_qconfig_mapping("x86"), example)
    with torch.inference_mode():
        prepared(torch.randn_like(example))
    return convert_fx(prepared)


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
        net, way, photographs, output, *numbers = arguments
        answer: Any = torch_loop(net, way, Path(photographs), Path(output), *map(int, numbers))
    elif name == "pure":
        engine, precision, photographs, model = arguments
        answer = pure(engine, precision, Path(photographs), Path(model))
    else:
        answer = write_models(Path(arguments[0]), Path(arguments[1]))
    print(json.dumps(answer))


def prepare(work: Path, peers: str, images: int, left: Callable[[], bool]) -> dict[str, Any]:
    """Pictures, models, the choice of engines, and how torch is at its best; once a folder.

    Every step is kept, so that a call whose time was over is continued by the next.
    """
    note, photographs = work / "prepared.json", work / "photographs"
    found: dict[str, Any] = json.loads(note.read_text()) if note.exists() else {}

    def step(name: str, make: Callable[[], Any]) -> Any:
        if name not in found and left():
            found[name] = make()
            note.write_text(json.dumps(found))
            print(name, json.dumps(found[name]), flush=True)
        return found.get(name)

    if not photographs.exists():
        write_photographs(photographs, images)
    step("images", lambda: images)
    step("models", lambda: child(sys.executable, "models", photographs, work))
    for net, contenders in OURS.items():
        for name, settings in contenders.items():
            step(
                f"{net} {name}",
                lambda net=net, settings=settings: ours(
                    settings, photographs, work / net, work / "first"
                )["engine"],
            )
        for layout in LAYOUTS:
            step(f"{net} torch fp32 {layout}", partial(_trial, peers, net, WAYS[0], work, layout))
        for way in WAYS[1:]:
            for layout in LAYOUTS[:2]:
                step(f"{net} torch {way} {layout}", partial(_trial, peers, net, way, work, layout))
    for net in OURS:
        found[f"{net} torch"] = {
            f"{way}/{'/'.join(map(str, layout))}": rate
            for way in WAYS
            for layout in LAYOUTS
            if (rate := found.get(f"{net} torch {way} {layout}"))
        }
    return found


def _trial(peers: str, net: str, way: str, work: Path, layout: tuple[int, ...]) -> float:
    """Images/s of a torch loop over a few pictures; 0 where torch has no such way."""
    try:
        given = (net, way, work / "photographs", work / "rows", *layout, TRIAL_IMAGES)
        return float(child(peers, "torch", *given))
    except subprocess.CalledProcessError:
        return 0.0


def best_of(tried: dict[str, float], *ways: str) -> tuple[str, list[str]]:
    """The fastest of some ways of torch, and its layout."""
    chosen = max((key for key in tried if key.split("/")[0] in ways), key=lambda key: tried[key])
    way, *layout = chosen.split("/")
    return way, layout


def one_round(work: Path, peers: str, found: dict[str, Any]) -> dict[str, Any]:
    """Each contender once."""
    photographs, images, turn = work / "photographs", found["images"], {}
    for net, contenders in OURS.items():
        for label, ways in (("torch fp32", WAYS[:1]), ("torch best", WAYS)):
            way, layout = best_of(found[f"{net} torch"], *ways)
            turn[f"{net} {label}"] = child(
                peers, "torch", net, way, photographs, work / "rows", *layout, images
            )
        for name, settings in contenders.items():
            took = found[f"{net} {name}"]
            summary = ours(settings, photographs, work / net, work / "out")
            turn[f"{net} {name}"] = summary["images_per_s"]
            turn[f"{net} {name} alone"] = child(
                sys.executable, "pure", took["engine"], took["precision"], photographs, work / net
            )
    return turn


def long_share(work: Path, found: dict[str, Any]) -> dict[str, float]:
    """Share of the bound over more pictures, where what happens once a run weighs less; by contender."""
    more, shares = work / "more", {}
    if not more.exists():
        more.mkdir()
        for copy in range(MORE):
            for path in (work / "photographs").iterdir():
                os.link(path, more / f"{copy}-{path.name}")
    for net, contenders in OURS.items():
        for name, settings in contenders.items():
            took = found[f"{net} {name}"]
            rate = ours(settings, more, work / net, work / "out")["images_per_s"]
            alone = child(
                sys.executable, "pure", took["engine"], took["precision"], more, work / net
            )
            shares[f"{net} {name}"] = rate * (1 / alone["decode"] + 1 / alone["engine"])
    return shares


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


def report(
    found: dict[str, Any], turns: list[dict[str, Any]], longer: list[dict[str, float]]
) -> None:
    """Write this machine's section."""
    from machine import (  # not in a peer's interpreter, which has no effnet_core
        picture_path,
        write_note,
    )

    median = statistics.median
    rows = ["| contender | images/s | times torch fp32 | times torch's best | share of its bound |"]
    rows.append("|---|---|---|---|---|")
    rates, limits, notes = {}, {}, []
    for net, contenders in OURS.items():
        title = {"b0": "B0", "lite0": "Lite0"}[net]
        ways = {
            label: best_of(found[f"{net} torch"], *some)
            for label, some in (("torch fp32", WAYS[:1]), ("torch best", WAYS))
        }

        def ratio(name: str, base: str, net: str = net) -> str:
            pairs = [(turn[f"{net} {name}"], turn[f"{net} {base}"]) for turn in turns]
            return f"{median([a / b for a, b in pairs]):.2f}"

        for label, (way, layout) in ways.items():
            rate = median([turn[f"{net} {label}"] for turn in turns])
            name = f"{title}, {label}" + (f" ({way})" if label == "torch best" else "")
            rates[name] = rate
            rows.append(
                f"| {name} | {rate:.1f} | {ratio(label, 'torch fp32')} | {ratio(label, 'torch best')} | |"
            )
            threads, workers, batch = layout
            notes.append(
                f"{name}: {threads} threads, {workers} workers, batch {batch}, channels_last."
            )
        tried = {key.split("/")[0]: 0.0 for key in found[f"{net} torch"]}
        for key, rate in found[f"{net} torch"].items():
            tried[key.split("/")[0]] = max(tried[key.split("/")[0]], rate)
        missing = [way for way in WAYS if way not in tried]
        text = ", ".join(f"{way} {rate:.0f}" for way, rate in tried.items())
        notes.append(
            f"Torch's trial over {TRIAL_IMAGES} images, {title}, images/s: {text}."
            + (f" Did not run: {', '.join(missing)}." if missing else "")
        )
        for name in contenders:
            took = found[f"{net} {name}"]
            rate = median([turn[f"{net} {name}"] for turn in turns])
            alone = [turn[f"{net} {name} alone"] for turn in turns]
            bounds = [1 / (1 / a["decode"] + 1 / a["engine"]) for a in alone]
            share = median(
                [turn[f"{net} {name}"] / bound for turn, bound in zip(turns, bounds, strict=True)]
            )
            full = f"{title}, effnet, {name}"
            if name == "default":
                full += f" ({took['engine']} {took['precision']})"
                notes.append(f"{title}, {took['why']}.")
            rates[full], limits[full] = rate, median(bounds)
            rows.append(
                f"| {full} | {rate:.1f} | {ratio(name, 'torch fp32')} | {ratio(name, 'torch best')} | "
                f"{share:.2f} |"
            )
            notes.append(
                f"{full}: engine alone {median([a['engine'] for a in alone]):.1f} images/s in "
                f"micro-batches of {alone[-1]['micro_batch']:.0f}, decoding alone "
                f"{median([a['decode'] for a in alone]):.1f}, together at most {median(bounds):.1f}."
            )
    if longer:
        shares = []
        for key in longer[0]:
            own = sorted(turn[key] for turn in longer)
            shares.append(f"{key} {median(own):.2f} ({own[0]:.2f} - {own[-1]:.2f})")
        notes.append(
            f"Share of the bound over {MORE} times as many pictures, where what happens once a run weighs "
            f"less, {len(longer)} rounds: {', '.join(shares)}."
        )
    picture = picture_path(__file__)
    head = (
        f"{found['images']} JPEGs of {SIZE[0]}x{SIZE[1]}, {len(turns)} rounds in turn, medians; ratios are "
        "medians of the rounds' ratios. B0's weights are drawn and Lite0's ImageNet's; the classifiers are "
        f"fitted to tell {SOURCES} photographs. Lite0's {found['models']['int8']}."
    )
    draw(rates, limits, picture)
    lines = [*rows, "", head, "", *(part for note in notes for part in (f"- {note}",)), ""]
    write_note(
        __file__,
        "Labelling files with EfficientNet-B0 and Lite0 at 224",
        [*lines, f"![images/s]({picture.name})"],
    )


def main() -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--minutes", type=float, default=1e6, help="begin nothing after so many")
    parser.add_argument(
        "--longer", type=int, default=2, help=f"rounds of {MORE} times the pictures"
    )
    parser.add_argument("--child", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.child:
        serve(*options.child)
        return
    own = tempfile.TemporaryDirectory(prefix="effnet-bench-") if options.work is None else None
    with own or nullcontext(str(options.work)) as folder:
        work = Path(folder).resolve()
        work.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("EFFNET_CACHE_DIR", str(work / "cache"))
        started = time.monotonic()

        def left() -> bool:
            return time.monotonic() - started < 60 * options.minutes

        found = prepare(work, options.peers, options.images, left)
        for _ in range(options.rounds):
            if not left():
                print("time is over; the same command continues", flush=True)
                return
            turn = one_round(work, options.peers, found)
            with (work / "rounds.jsonl").open("a") as stream:
                stream.write(json.dumps(turn) + "\n")
            print(json.dumps(turn), flush=True)
        for _ in range(options.longer):
            if not left():
                break
            with (work / "longer.jsonl").open("a") as stream:
                stream.write(json.dumps(long_share(work, found)) + "\n")
        rounds, longer = (_lines(work / name) for name in ("rounds.jsonl", "longer.jsonl"))
        if rounds:
            report(found, rounds, longer)


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    main()
