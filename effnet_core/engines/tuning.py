"""The fastest piece size of an engine on this machine, measured once and remembered.

A small piece stays in a core's cache, a large one saves calls: which wins depends on the network, the
image size and the processor.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from effnet_core.cache import alone
from effnet_core.errors import EffnetError
from effnet_core.events import Event, emit
from effnet_core.files import read_json, write_json
from effnet_core.predict import Predictor

CANDIDATES = (1, 2, 4, 8, 16)
BUDGET_S = 6.0
"""No further size is tried after so many seconds."""
SAMPLE_S = 0.4
"""How long a size is measured; a call a lane before that warms up."""
WORSE = 0.9
"""A size below this share of the best rate ends the search: larger ones fall further."""
NEAR = 0.97
"""Of sizes that reach this share of the best rate, the largest: it hands over less often."""


def best_piece(key: str, notes: Path, make: Callable[[int], Predictor]) -> int:
    """The largest piece size whose rate is the highest, or hardly below.

    Args:
        key: of engine, model and threads; the processor's name is added.
        notes: JSON file of earlier measurements.
        make: loads the engine for a piece size.
    """
    key = f"{key} {processor()}"
    with alone(notes):
        known = _read(notes)
        if key not in known:
            known[key] = _measure(make)
            write_json(notes, known)
            rates = ", ".join(f"{size}: {rate}" for size, rate in known[key].items())
            emit(Event("predict", f"measured the engine, images/s by images in a call: {rates}"))
    measured = known[key]
    enough = NEAR * max(measured.values())
    return max(int(size) for size, rate in measured.items() if rate >= enough)


def processor() -> str:
    """The processor's name, such as ``AMD EPYC 7763``."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if "model name" in line]
    return names[0] if names else platform.machine()


def _read(notes: Path) -> dict[str, dict[str, float]]:
    try:
        found: dict[str, dict[str, float]] = read_json(notes)
    except (EffnetError, OSError, ValueError):
        return {}
    return found


def _measure(make: Callable[[int], Predictor]) -> dict[str, float]:
    """Images/s by piece size."""
    rates: dict[str, float] = {}
    deadline = time.perf_counter() + BUDGET_S
    for size in CANDIDATES:
        rates[str(size)] = round(_rate(make(size)), 2)
        if time.perf_counter() > deadline or rates[str(size)] < WORSE * max(rates.values()):
            break
    return rates


def _rate(predictor: Predictor) -> float:
    side = predictor.preprocess.image_size
    noise = np.random.default_rng(0).integers(0, 256, (predictor.piece, side, side, 3), np.uint8)

    def call(_: int) -> int:
        calls, deadline = 0, time.perf_counter() + SAMPLE_S
        while calls == 0 or time.perf_counter() < deadline:
            predictor.forward(noise)
            calls += 1
        return calls

    with ThreadPoolExecutor(predictor.lanes) as lanes:
        list(lanes.map(lambda _: predictor.forward(noise), range(predictor.lanes)))
        started = time.perf_counter()
        calls = sum(lanes.map(call, range(predictor.lanes)))
        seconds = time.perf_counter() - started
    return calls * predictor.piece / seconds
