"""Sentences that several commands end or begin with."""

from __future__ import annotations

from effnet_core.cli.terminal import console
from effnet_core.results import EvalResult


def say_default(what: str, value: str, *, option: str = "", quiet: bool = False) -> None:
    """Say what a command took because nobody named anything else."""
    if not quiet:
        line = f"{what}: {value} ({option or f'--{what}'} names others)"
        console.print(line, soft_wrap=True, markup=False)


def print_evaluation(result: EvalResult) -> None:
    """The sentence that sums up an evaluation."""
    top5 = "" if result.top5 is None else f", top-5 {result.top5:.2%}"
    console.print(
        f"top-1 {result.top1:.2%}{top5}, loss {result.loss:.4f} "
        f"on {result.seen:,} images of split {result.split}"
    )
    found = result.calibration
    if found is not None:
        before = f" ({found.before.ece:.2%} before calibration)" if found.temperature != 1 else ""
        console.print(f"calibration error {found.after.ece:.2%}{before}")
