"""EfficientNet-B0 at 224: images/s of the onnxruntime and mindspore engines, turn by turn in one run.

Only the engines are measured: no files, no decoding. Each engine runs in a process of its own, as in a
job; they take turns of a second, so that whatever else the machine does hits both alike.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import write_note

BATCHES = {"onnxruntime": (1, 4, 8, 16, 32, 64), "mindspore": (8, 16)}
ROUNDS, TURN_S = 3, 1.0


def write_checkpoint(path: Path) -> None:
    """B0 as it is initialised: speed does not depend on what a network has learned."""
    from effnet_core import checkpoint as checkpoints
    from effnet_core.checkpoint import Sidecar
    from effnet_core.config import RunConfig
    from effnet_core.data.preprocess import PreprocessSpec
    from effnet_core.model.network import create_model

    network = create_model("efficientnet_b0", num_classes=1000)
    names = tuple(str(index) for index in range(1000))
    spec = PreprocessSpec.from_config(RunConfig())
    sidecar = Sidecar("efficientnet_b0", names, spec, 0.99, 1e-3, 0, 0, False)
    checkpoints.save(path, network.get_parameters(), sidecar)


def serve(engine: str, checkpoint: Path) -> None:
    """Child: one line ``BATCH`` in, one line with images/s out."""
    from effnet_core import checkpoint as checkpoints
    from effnet_core import environment

    environment.prepare()
    import numpy as np

    if engine == "mindspore":
        import mindspore as ms

        from effnet_core.engines.mindspore import MindSporePredictor

        ms.set_context(mode=ms.GRAPH_MODE)
        ms.set_device("CPU")
        make = lambda size: MindSporePredictor(checkpoint, batch_size=size)  # noqa: E731
    else:
        from effnet_core.engines.onnxruntime import OnnxRuntimePredictor
        from effnet_core.export.onnx_model import write_onnx

        sidecar = checkpoints.read_sidecar(checkpoint)
        file = checkpoint.with_suffix(".onnx")
        write_onnx(checkpoint, sidecar, file)
        shared = OnnxRuntimePredictor(file, sidecar)
        make = lambda size: shared  # noqa: E731
    predictors = {size: make(size) for size in BATCHES[engine]}
    images = np.random.default_rng(0).normal(size=(64, 3, 224, 224)).astype(np.float32)
    for size, predictor in predictors.items():
        predictor.logits(images[:size])
    print("ready", flush=True)
    for line in sys.stdin:
        size, count = int(line), 0
        started = time.perf_counter()
        while (seconds := time.perf_counter() - started) < TURN_S:
            predictors[size].logits(images[:size])
            count += size
        print(count / seconds, flush=True)


def measure() -> dict[str, dict[int, list[float]]]:
    """Images/s of each turn, by engine and batch size."""
    rates: dict[str, dict[int, list[float]]] = {
        engine: {size: [] for size in sizes} for engine, sizes in BATCHES.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = str(Path(folder) / "b0.ckpt")
        subprocess.run([sys.executable, __file__, "make", checkpoint], check=True)
        children = {
            engine: subprocess.Popen(
                [sys.executable, __file__, engine, checkpoint],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for engine in BATCHES
        }
        for child in children.values():
            assert child.stdout is not None
            while child.stdout.readline().strip() != "ready":
                assert child.poll() is None
        for _ in range(ROUNDS):
            for engine, sizes in BATCHES.items():
                child = children[engine]
                assert child.stdin is not None and child.stdout is not None
                for size in sizes:
                    child.stdin.write(f"{size}\n")
                    child.stdin.flush()
                    rates[engine][size].append(float(child.stdout.readline()))
        for child in children.values():
            child.communicate()
    return rates


def main() -> None:
    rates = measure()
    medians = {
        (engine, size): statistics.median(seen)
        for engine, sizes in rates.items()
        for size, seen in sizes.items()
    }
    best = {
        engine: max(value for (name, _), value in medians.items() if name == engine)
        for engine in rates
    }
    rows = [
        f"| {engine} | {size} | {medians[engine, size]:.1f} | {min(seen):.1f} - {max(seen):.1f} |"
        for engine, sizes in rates.items()
        for size, seen in sizes.items()
    ]
    write_note(
        __file__,
        "Engines on the CPU: EfficientNet-B0 at 224, forward only",
        [
            f"{ROUNDS} rounds of turns of {TURN_S:g} s, both engines in one run.",
            "",
            "| engine | batch | images/s, median | range |",
            "|---|---|---|---|",
            *rows,
            "",
            "onnxruntime / mindspore, each at its best batch: "
            f"**{best['onnxruntime'] / best['mindspore']:.1f}**",
        ],
    )


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    elif sys.argv[1] == "make":
        write_checkpoint(Path(sys.argv[2]))
    else:
        serve(sys.argv[1], Path(sys.argv[2]))
