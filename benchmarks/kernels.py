"""The CPU kernels of EfficientNet-B0, one by one and as a step, beside what this machine can do at best.

The operators are called without MindSpore, those that training calls. Arithmetic counts multiplications and
additions of the convolutions; memory counts each input and output of an operator once, which no operator
can avoid. The machine's limits are measured in the same minute: a product of large matrices, and copies of
a large array. The whole step is that of ``benchmarks/train.py``, in a process of its own.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.machine import write_note
from benchmarks.train import OURS, measure
from effnet_core.family.scaling import expand
from effnet_core.family.variants import variant
from effnet_core.kernels import build
from effnet_core.system.machine import available_cores
from tests.kernels.library import Library

EPS, MOMENTUM = 1e-3, 0.99


@dataclass
class Cost:
    """Of an operator in one step."""

    seconds: float = 0.0
    flops: float = 0.0
    bytes: float = 0.0

    def add(self, other: Cost) -> None:
        self.seconds += other.seconds
        self.flops += other.flops
        self.bytes += other.bytes


def best(call: Callable[[], Any], tries: int = 5) -> float:
    """The shortest time of several; the machine's other work only ever adds."""
    seconds = []
    for _ in range(tries):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def machine_limits() -> tuple[float, float]:
    """Operations and bytes a second, of all cores."""
    side = 2048
    a, b = (np.random.default_rng(i).random((side, side), np.float32) for i in (0, 1))
    flops = 2 * side**3 / best(lambda: a @ b)
    cores = len(available_cores())
    source = np.ones((cores, 32 << 20), np.float32)  # 128 MiB a core
    target = np.zeros_like(source)
    with ThreadPoolExecutor(cores) as pool:

        def copy() -> None:
            list(pool.map(lambda i: np.copyto(target[i], source[i]), range(cores)))

        copied = 2 * source.nbytes / best(copy)
    return flops, copied


class Bench:
    """Times operators and sums them up by kind."""

    def __init__(self, library: Library, batch: int) -> None:
        self.library, self.batch = library, batch
        self.totals: dict[str, Cost] = defaultdict(Cost)
        self.rng = np.random.default_rng(0)

    def noise(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape, np.float32)

    def time(
        self,
        kind: str,
        name: str,
        inputs: list[Any],
        outputs: list[Any],
        flops: float,
        *,
        scratch: Any = (),
    ) -> Any:
        """The outputs of one operator, whose cost is added to ``kind``; ``scratch`` is not part of it."""
        made: list[Any] = [np.zeros(shape, np.float32) for shape in outputs]
        moved = sum(array.nbytes for array in (*inputs, *made))
        own = [np.zeros(scratch, np.float32)] if scratch else []
        call = self.library.prepared(name, inputs, [*made, *own])
        self.totals[kind].add(Cost(best(call), flops, moved))
        return made

    def layer(self, kind: str, inputs: int, outputs: int, side: int, **how: Any) -> None:
        kernel, stride, act = how.get("kernel", 1), how.get("stride", 1), how.get("act", 1)
        n, out = self.batch, -(-side // stride)
        group = 1 if kind == "depthwise" else inputs
        x, w = self.noise(n, inputs, side, side), self.noise(outputs, group, kernel, kernel)
        one, zero = np.ones(outputs, np.float32), np.zeros(outputs, np.float32)
        settings = np.array([EPS, MOMENTUM, act, stride, 0, 1], np.float32)
        shape, channel = (n, outputs, out, out), (outputs,)
        keeps = [shape] if kind == "pointwise" else []
        flops = 2.0 * n * outputs * out * out * group * kernel * kernel
        given = [x, w, one, zero]
        _, *kept, mean, rstd, _, _ = self.time(
            f"{kind}, forward",
            f"{kind}_train",
            [*given, zero, one, settings],
            [shape, *keeps, channel, channel, channel, channel],
            flops,
        )
        self.time(
            f"{kind}, backward",
            f"{kind}_backward",
            [*given, mean, rstd, *kept, self.noise(*shape), settings],
            [array.shape for array in given],
            2 * flops,
        )

    def expanded(self, inputs: int, hidden: int, side: int, *, kernel: int, stride: int) -> None:
        """An expansion and the depthwise layer after it."""
        n, out, kind = self.batch, -(-side // stride), "expansion and depthwise"
        x, kept, shape = (
            self.noise(n, inputs, side, side),
            (n, hidden, side, side),
            (n, hidden, out, out),
        )
        weights = self.noise(hidden, inputs, 1, 1), self.noise(hidden, 1, kernel, kernel)
        one, zero, channel = np.ones(hidden, np.float32), np.zeros(hidden, np.float32), (hidden,)
        settings = np.array([EPS, MOMENTUM, 1, stride, 0, 1], np.float32)
        flops = 2.0 * n * hidden * (inputs * side * side + out * out * kernel * kernel)
        _, u, mean, rstd, _, _, mean_of_second, rstd_of_second, _, _ = self.time(
            f"{kind}, forward",
            "expanded_train",
            [x, weights[0], one, zero, zero, one, weights[1], one, zero, zero, one, settings],
            [shape, kept, *[channel] * 8],
            flops,
        )
        self.time(
            f"{kind}, backward",
            "expanded_backward",
            [
                *(x, weights[0], one, zero, weights[1], one, zero),
                *(mean, rstd, mean_of_second, rstd_of_second, u, self.noise(*shape), settings),
            ],
            [x.shape, weights[0].shape, channel, channel, weights[1].shape, channel, channel],
            2 * flops,
            scratch=kept,
        )

    def gate(self, channels: int, squeezed: int, side: int) -> None:
        n = self.batch
        x = self.noise(n, channels, side, side)
        reduce, expand_ = self.noise(squeezed, channels, 1, 1), self.noise(channels, squeezed, 1, 1)
        biases = [np.zeros(squeezed, np.float32), np.zeros(channels, np.float32)]
        _, means, hidden, gates = self.time(
            "squeeze-excite, forward",
            "squeeze_excite",
            [x, reduce, biases[0], expand_, biases[1]],
            [x.shape, (n, channels), (n, squeezed), (n, channels)],
            0,
        )
        self.time(
            "squeeze-excite, backward",
            "squeeze_excite_backward",
            [x, reduce, expand_, means, hidden, gates, self.noise(*x.shape)],
            [x.shape, reduce.shape, (squeezed,), expand_.shape, (channels,)],
            0,
        )

    def network(self, name: str, size: int) -> None:
        architecture = expand(variant(name))
        side = -(-size // 2)
        for block in architecture.blocks:
            hidden = block.hidden_channels
            how = {"kernel": block.kernel, "stride": block.stride}
            if block.expands:
                self.expanded(block.in_channels, hidden, side, **how)
            else:
                self.layer("depthwise", hidden, hidden, side, **how)
            side = -(-side // block.stride)
            if block.squeeze_channels:
                self.gate(hidden, block.squeeze_channels, side)
            self.layer("pointwise", hidden, block.out_channels, side, act=0)
        last = architecture.blocks[-1].out_channels
        self.layer("pointwise", last, architecture.head_channels, side)


def main() -> None:
    """Measure, print and write the note."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--batch", type=int, default=16)
    reader.add_argument("--size", type=int, default=224)
    options = reader.parse_args()
    bench = Bench(Library(build.library(build.plan(), print)), options.batch)
    bench.network("efficientnet_b0", options.size)
    flops, copied = machine_limits()
    rows = [
        f"EfficientNet-B0, {options.size} px, batch {options.batch}, float32; best of 5 calls each, summed "
        f"over the network. This machine: {flops / 1e9:.0f} GFLOP/s (numpy's matrix product), "
        f"{copied / 1e9:.1f} GB/s (copies).",
        "",
        "| | ms | GFLOP | GB at least | ms by arithmetic | ms by memory | share of the limit |",
        "|---|---|---|---|---|---|---|",
    ]
    total, bound = Cost(), 0.0
    for kind, cost in bench.totals.items():
        by_flops, by_bytes = cost.flops / flops, cost.bytes / copied
        total.add(cost)
        bound += max(by_flops, by_bytes)
        rows.append(_row(kind, cost, by_flops, by_bytes, max(by_flops, by_bytes)))
    rows.append(_row("all", total, total.flops / flops, total.bytes / copied, bound))
    step, _ = measure(OURS, argparse.Namespace(**vars(options), steps=10, epochs=1))
    rows += [
        "",
        f"A whole training step takes {1e3 * step:.0f} ms. These operators, each alone and at its best, are "
        f"{total.seconds / step:.0%} of that, and their limits {bound / step:.0%}.",
    ]
    write_note(__file__, "CPU kernels", rows)


def _row(kind: str, cost: Cost, by_flops: float, by_bytes: float, bound: float) -> str:
    return (
        f"| {kind} | {1e3 * cost.seconds:.0f} | {cost.flops / 1e9:.1f} | {cost.bytes / 1e9:.2f} | "
        f"{1e3 * by_flops:.0f} | {1e3 * by_bytes:.0f} | {bound / cost.seconds:.0%} |"
    )


if __name__ == "__main__":
    main()
