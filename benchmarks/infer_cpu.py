"""Processor time of labelling an image, one thread: decoding and computing, ours beside torch's.

Contenders take turns, each in a process of its own. Processor time hardly depends on what else the machine
does, so this can be measured on a busy one; how well all cores are kept busy is what ``infer.py`` measures.

    python -m benchmarks.infer_cpu [--peers PYTHON] [--rounds 5] --work FOLDER

FOLDER is one that ``infer.py --work`` has prepared (pictures and models).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
NETS = {"b0": "B0", "lite0": "Lite0"}
OURS = (
    *(("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "fp16"), ("openvino", "bf16")),
    *(("onnxruntime", "int8"), ("openvino", "int8")),
)
TORCH = ("fp32", "bf16", "compiled", "compiled bf16")
PICTURES = 60
MICRO_BATCH = 4
TORCH_BATCH = 16
LIMIT_S = 150


def ms_of(work: Callable[[], Any], images: int) -> float:
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began) / images


def ours(work: Path, net: str, engine: str, precision: str) -> dict[str, float]:
    """Child: milliseconds of decoding and of computing."""
    import numpy as np

    from effnet_core.config.load import load_config
    from effnet_core.data.preprocess import decode_square
    from effnet_core.export.onnx_model import write_onnx
    from effnet_core.infer import engines
    from effnet_core.kernels.resize import resizer
    from effnet_core.weights.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(work / net / "model.ckpt")
    file = work / net / ("model.int8.onnx" if precision == "int8" else "engine.onnx")
    if not file.exists():
        write_onnx(checkpoint, file, features=True, pixels=True)
    infer = load_config(None, [f"infer.precision={precision}", f"infer.engine={engine}"]).infer
    predictor = engines.load_file(
        engine, file, checkpoint.sidecar, infer, workers=1, micro_batch=MICRO_BATCH
    )
    spec, resize = checkpoint.sidecar.preprocess, resizer("auto", lambda _: None)
    contents = [path.read_bytes() for path in sorted((work / "photographs").iterdir())[:PICTURES]]

    def decode() -> list[Any]:
        return [decode_square(one, spec, fast=True, resize=resize) for one in contents]

    decode()
    decoding = ms_of(decode, PICTURES)
    noise = np.random.default_rng(0).integers(0, 256, (MICRO_BATCH, 224, 224, 3), np.uint8)
    for _ in range(5):
        predictor.forward(noise)
    calls = PICTURES // MICRO_BATCH
    computing = ms_of(lambda: [predictor.forward(noise) for _ in range(calls)], calls * MICRO_BATCH)
    return {"decode": decoding, "compute": computing}


def torch_loop(work: Path, net: str, way: str) -> dict[str, float]:
    """Child: the same with torch and torchvision's transforms."""
    import torch
    from PIL import Image
    from torchvision import models, transforms

    transform = transforms.Compose(
        [
            transforms.Resize(256, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(224),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    paths = sorted((work / "photographs").iterdir())[:PICTURES]
    torch.set_num_threads(1)

    def decode() -> list[Any]:
        return [transform(Image.open(path).convert("RGB")) for path in paths]

    pixels = decode()
    decoding = ms_of(decode, PICTURES)
    if net == "b0":
        model: Any = models.efficientnet_b0()
    else:
        import timm

        model = timm.create_model("tf_efficientnet_lite0")
    model = model.eval().to(memory_format=torch.channels_last)
    if way.startswith("compiled"):
        model = torch.compile(model)
    batch = torch.stack(pixels[:TORCH_BATCH]).to(memory_format=torch.channels_last)
    cast = torch.autocast("cpu", torch.bfloat16) if way.endswith("bf16") else nullcontext()
    with torch.inference_mode(), cast:
        for _ in range(2):
            model(batch)
        computing = ms_of(lambda: [model(batch) for _ in range(3)], 3 * TORCH_BATCH)
    return {"decode": decoding, "compute": computing}


def child(python: str, *arguments: str) -> dict[str, float] | None:
    command = [python, __file__, "--child", *arguments]
    try:
        done = subprocess.run(
            command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=LIMIT_S
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", type=Path, default=Path("build/bench-infer"))
    parser.add_argument("--child", nargs=4)
    options = parser.parse_args()
    if options.child:
        work, net, kind, way = options.child
        run = torch_loop if kind == "torch" else None
        found = run(Path(work), net, way) if run else ours(Path(work), net, kind, way)
        print(json.dumps(found))
        return
    work, seen = options.work.resolve(), dict[tuple[str, str, str], list[dict[str, float]]]()
    for _ in range(options.rounds):
        for net in NETS:
            ways = [("torch", way) for way in TORCH]
            ways += [one for one in OURS if one[1] != "int8" or net == "lite0"]
            for kind, way in ways:
                key = (net, kind, way)
                if key in seen and not seen[key]:
                    continue  # it did not run in the round before
                python = options.peers if kind == "torch" else sys.executable
                found = child(python, str(work), *key)
                seen.setdefault(key, []).extend([found] if found else [])
                print(*key, json.dumps(found), flush=True)
    report(seen, options.rounds)


def report(seen: dict[tuple[str, str, str], list[dict[str, float]]], rounds: int) -> None:
    from benchmarks.machine import write_note

    rows = ["| network | what computes | decoding, ms | computing, ms | both | times torch fp32 |"]
    rows.append("|---|---|---|---|---|---|")
    missing = []
    for (net, kind, way), found in seen.items():
        if not found:
            missing.append(f"{NETS[net]} {kind} {way}")
            continue
        base = seen[net, "torch", "fp32"]
        total = [one["decode"] + one["compute"] for one in found]
        times = [(b["decode"] + b["compute"]) / mine for b, mine in zip(base, total, strict=False)]
        decode, compute = (
            statistics.median(one[part] for one in found) for part in ("decode", "compute")
        )
        rows.append(
            f"| {NETS[net]} | {kind} {way} | {decode:.2f} | {compute:.2f} | "
            f"{statistics.median(total):.2f} | {statistics.median(times):.2f} |"
        )
    rows += [
        "",
        f"Processor time of one thread, JPEGs of 500x375, {rounds} rounds in turns, medians; torch "
        f"in batches of {TORCH_BATCH} channels_last, ours of {MICRO_BATCH}. Where the machine was busy, "
        "a quiet one has lower figures; ratios are within this run."
        + (f" Did not run within {LIMIT_S} s: {', '.join(missing)}." if missing else ""),
    ]
    write_note(__file__, "Processor time of labelling an image", rows)


if __name__ == "__main__":
    main()
