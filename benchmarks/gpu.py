"""Training speed of EfficientNet-B0 on one GPU: in float32 and in 16 bits, against torch + torchvision.

Each contender runs in a process of its own, in turns. torch may live in another Python
(EFFNET_PEERS_PYTHON), whose libraries are its own: LD_LIBRARY_PATH is not passed on to it.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

from benchmarks.train import PEERS_PYTHON, our_step, torch

OURS: dict[str, tuple[str, ...]] = {
    "effnet_core, float32 (O0)": ("train.amp_level=O0",),
    "effnet_core, fp16 (O2)": ("train.amp_level=O2", "train.amp_dtype=fp16"),
}
THEIRS = {
    "torch, channels_last, float32": "float32",
    "torch, channels_last, float16": "float16",
    "torch, channels_last, bfloat16": "bfloat16",
}
MARK = "seconds a step:"


def contender(name: str, options: argparse.Namespace) -> float:
    """Seconds a step of one contender, in this process."""
    sizes = (options.batch, options.size, options.steps)
    if name in OURS:
        return our_step(*sizes, "runtime.device=GPU", *OURS[name])
    return torch(*sizes, device="cuda", precision=THEIRS[name])


def measure(name: str, options: argparse.Namespace) -> float | None:
    """The same in a fresh process, or None with its reason printed."""
    own = name in OURS
    command = [sys.executable if own else PEERS_PYTHON, "-m", "benchmarks.gpu", "--contender", name]
    for key in ("batch", "size", "steps"):
        command += [f"--{key}", str(getattr(options, key))]
    environment = dict(os.environ)
    if not own:
        environment.pop("LD_LIBRARY_PATH", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith(MARK):
            return float(line.removeprefix(MARK))
    print(f"{name} failed: {(done.stderr or done.stdout)[-600:]}", flush=True)
    return None


def table(seconds: dict[str, list[float]], batch: int) -> list[str]:
    """Rows of Markdown; ratios are to the first contender, round by round."""
    first = next(iter(seconds.values()))
    rows = ["| | ms a step | images/s | images/s of the first row's |", "|---|---|---|---|"]
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(first, times, strict=True)]
        middle = statistics.median(times)
        rows.append(
            f"| {name} | {1000 * middle:.1f} | {batch / middle:.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} - {max(ratios):.2f}) |"
        )
    return rows


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contender", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(MARK, contender(options.contender, options))
        return
    seconds: dict[str, list[float]] = {}
    failed = set()
    for number in range(options.rounds):
        for name in (*OURS, *THEIRS):
            value = None if name in failed else measure(name, options)
            if value is None:
                failed.add(name)
                seconds.pop(name, None)
                continue
            seconds.setdefault(name, []).append(value)
            print(f"round {number + 1}: {name} {1000 * value:.1f} ms", flush=True)
    if not seconds:
        sys.exit("nothing could be measured; effnet doctor says whether MindSpore can use the GPU")
    print("\n".join(table(seconds, options.batch)))


if __name__ == "__main__":
    main()
