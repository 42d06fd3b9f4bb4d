"""A training step of B0 with the oneDNN setting of ``effnet_core.jobs.environment`` and without it.

Each measurement is a process of its own, because oneDNN reads the setting once; the two alternate.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys

IMAGE_SIZE, BATCH, STEPS, ROUNDS = 224, 8, 2, 2
SETTINGS = ("AVX2", "DEFAULT")


def worker() -> None:
    """Print the median seconds of a step."""
    import time

    import mindspore as ms
    import numpy as np

    from effnet_core.config.schema import OptimConfig
    from effnet_core.model.network import create_model
    from effnet_core.train.control import Control
    from effnet_core.train.optim import create_optimizer
    from effnet_core.train.step import StepOptions, TrainStep

    ms.set_context(mode=ms.GRAPH_MODE)
    ms.set_device("CPU")
    network = create_model("efficientnet_b0", num_classes=1000)
    optimizer = create_optimizer(network.trainable_params(), OptimConfig())
    step = TrainStep(network, optimizer, StepOptions(label_smoothing=0.1))
    step.set_train()
    rng = np.random.default_rng(0)
    images = ms.Tensor(rng.random((BATCH, 3, IMAGE_SIZE, IMAGE_SIZE)).astype(np.float32))
    labels = ms.Tensor(rng.integers(0, 1000, BATCH).astype(np.int32))
    nothing = Control().encode()
    seconds = []
    for _ in range(STEPS + 1):
        started = time.perf_counter()
        step(images, labels, nothing).asnumpy()
        seconds.append(time.perf_counter() - started)
    print(statistics.median(seconds[1:]))


def main() -> None:
    """Alternate the two settings and write the note."""
    from machine import write_note

    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for _ in range(ROUNDS):
        for name in SETTINGS:
            done = subprocess.run(
                [sys.executable, __file__, "worker"],
                env={**os.environ, "ONEDNN_MAX_CPU_ISA": name, "GLOG_v": "3"},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds[name].append(float(done.stdout.split()[-1]))
    ratios = [b / a for a, b in zip(seconds["AVX2"], seconds["DEFAULT"], strict=True)]
    rows = [
        f"Training step of EfficientNet-B0, {IMAGE_SIZE} px, batch {BATCH}, one process, seconds "
        f"(median of {STEPS} steps after compilation, {ROUNDS} alternating rounds):",
        "",
        "| ONEDNN_MAX_CPU_ISA | " + " | ".join(f"round {i + 1}" for i in range(ROUNDS)) + " |",
        "|---|" + "---|" * ROUNDS,
        *(
            f"| {name} | " + " | ".join(f"{value:.2f}" for value in times) + " |"
            for name, times in seconds.items()
        ),
        "",
        f"AVX2 is **{statistics.median(ratios):.1f}** times as fast (median of the rounds' ratios).",
    ]
    write_note(__file__, "oneDNN instruction set", rows)


if __name__ == "__main__":
    if sys.argv[1:] == ["worker"]:
        worker()
    else:
        main()
