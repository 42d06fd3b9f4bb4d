"""The fastest use of this machine's cores by an engine, measured once and remembered.

A small micro-batch stays in a core's cache, a large one saves calls: which wins depends on the network, the
image size and the processor. Where two cores are one with two faces, half as many workers may be faster.
Whether decoders of their own help depends on the pictures, so that is measured over some of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effnet_core.data.images import ImageProblem
from effnet_core.errors import EffnetError
from effnet_core.events import Event, Threads, emit
from effnet_core.infer.pipeline import Predictor, Wanted, iter_predictions
from effnet_core.infer.readers import ImageReader
from effnet_core.system.files import read_json, remove_temporaries, write_json
from effnet_core.system.locks import alone
from effnet_core.system.machine import processor

CACHE_NAME = "engines"
TUNING_NAME = "tuning.json"
CANDIDATES = (1, 2, 4, 8, 16)
BUDGET_S = 6.0
"""No further size is tried after so many seconds."""
SAMPLE_S = 0.4
"""How long a layout is measured; a call a worker before that warms up."""
WORSE = 0.9
"""A size below this share of the best rate ends the search: larger ones fall further."""
NEAR = 0.97
"""The largest size that reaches this share of the best rate is taken: it hands over less often."""
CLEARLY = 0.9
"""Fewer workers, or decoders of their own, must leave the usual way below this share of their rate: on a
busy machine smaller differences say nothing."""
TURNS = 2
"""How often each number of decoders is measured, in turn; the best counts."""
SAMPLE_IMAGES = 64
"""Files over which decoders are measured."""
LONG_RUN_IMAGES = 2_000
"""Shorter runs are done before the four seconds of that measurement would pay."""
ROUNDS = 100
"""Over the same files, unless ``SAMPLE_S`` has gone before."""

Rates = dict[str, float]
"""Images/s by what was tried."""


@dataclass(frozen=True)
class EngineLayout:
    """How an engine uses the cores; in what a user asks for, 0 leaves a number open."""

    workers: int
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.workers}x{self.micro_batch}"

    @classmethod
    def read(cls, text: str) -> EngineLayout:
        """The layout that ``str`` wrote."""
        workers, _, micro_batch = text.partition("x")
        return cls(int(workers), int(micro_batch))


def best_layout(
    key: str,
    notes: Path,
    make: Callable[[EngineLayout], Predictor],
    *,
    asked: EngineLayout,
    cores: int,
) -> EngineLayout:
    """The layout with the highest rate, or hardly below: rather large micro-batches, and a worker a core.

    Args:
        key: of engine and model; what was asked for and the processor's name are added.
        notes: JSON file of earlier measurements.
        make: loads the engine for a layout.
        asked: what is given already.
        cores: that the process may use.
    """
    key = f"{key} {asked} of {cores} {processor()}"
    rates = _remembered(
        key,
        notes,
        lambda: _measure_layouts(make, asked, cores),
        "the engine, images/s by threads x images in a call",
    )
    measured = {EngineLayout.read(text): rate for text, rate in rates.items()}
    workers = asked.workers or cores
    whole = {layout: rate for layout, rate in measured.items() if layout.workers == workers}
    best = max(measured, key=lambda layout: measured[layout])
    if CLEARLY * measured[best] > max(whole.values()):
        return best
    enough = NEAR * max(whole.values())
    return max((c for c, rate in whole.items() if rate >= enough), key=lambda c: c.micro_batch)


def best_decoders(
    key: str,
    notes: Path,
    predictor: Predictor,
    source: ImageReader,
    paths: Sequence[str],
    wanted: Wanted,
    *,
    readers: int,
) -> int:
    """How many threads should only decode: none, unless some are measured to be faster.

    Args:
        key: of engine, model and workers; the processor's name is added.
        notes: JSON file of earlier measurements.
        predictor: with workers.
        source: where ``paths`` are read from.
        paths: some of the run's files.
        wanted: whether large JPEGs are reduced.
        readers: threads that read files.
    """

    def measure() -> Rates:
        memory = _Memory(source, paths)
        rates = {str(count): 0.0 for count in sorted({0, 1, predictor.workers})}
        for turn in range(1 + TURNS):
            for count, before in rates.items():
                rate = _rate_of_files(predictor, memory, paths, wanted, readers, int(count))
                if turn:  # the first is for warming up
                    rates[count] = max(before, round(rate, 2))
        return rates

    rates = _remembered(
        f"decoders {key} {processor()}", notes, measure, "decoding, images/s by decoders"
    )
    best = max(rates, key=lambda count: rates[count])
    return int(best) if CLEARLY * rates[best] > rates["0"] else 0


def _remembered(key: str, notes: Path, measure: Callable[[], Rates], what: str) -> Rates:
    """What was measured before under this key, or now."""
    with alone(notes):
        known = _read(notes)
        if key not in known:
            known[key] = measure()
            remove_temporaries(notes.parent, [notes.name])
            write_json(notes, known)
            rates = ", ".join(f"{tried}: {rate}" for tried, rate in known[key].items())
            emit(Event("predict", f"measured {what}: {rates}"))
    return known[key]


def _read(notes: Path) -> dict[str, Rates]:
    try:
        found: dict[str, Rates] = read_json(notes)
    except (EffnetError, OSError, ValueError):
        return {}
    return found


def _measure_layouts(
    make: Callable[[EngineLayout], Predictor], asked: EngineLayout, cores: int
) -> Rates:
    """Sizes with all workers first, then fewer workers with the best size."""
    rates: Rates = {}
    deadline = time.perf_counter() + BUDGET_S
    workers = asked.workers or cores
    for layout in _sizes(asked.micro_batch, workers):
        rates[str(layout)] = round(_rate(make(layout)), 2)
        if time.perf_counter() > deadline or rates[str(layout)] < WORSE * max(rates.values()):
            break
    if not asked.workers and cores > 1:
        best = EngineLayout.read(max(rates, key=lambda text: rates[text]))
        fewer = EngineLayout(cores // 2, best.micro_batch)
        rates[str(fewer)] = round(_rate(make(fewer)), 2)
    return rates


def _sizes(asked: int, workers: int) -> Iterator[EngineLayout]:
    return (
        EngineLayout(workers, micro_batch) for micro_batch in ((asked,) if asked else CANDIDATES)
    )


def _rate(predictor: Predictor) -> float:
    side = predictor.preprocess.image_size
    noise = np.random.default_rng(0).integers(
        0, 256, (predictor.micro_batch, side, side, 3), np.uint8
    )

    def call(_: int) -> int:
        calls, deadline = 0, time.perf_counter() + SAMPLE_S
        while calls == 0 or time.perf_counter() < deadline:
            predictor.forward(noise)
            calls += 1
        return calls

    with Threads(predictor.workers) as workers:
        list(workers.map(lambda _: predictor.forward(noise), range(predictor.workers)))
        started = time.perf_counter()
        calls = sum(workers.map(call, range(predictor.workers)))
        seconds = time.perf_counter() - started
    return calls * predictor.micro_batch / seconds


class _Memory:
    """Some files of a source, read once, so that no measurement waits for a disk or a server."""

    def __init__(self, source: ImageReader, paths: Sequence[str]) -> None:
        self.readers = source.readers
        self.contents: dict[str, bytes | ImageProblem] = {}
        for path in paths:
            try:
                self.contents[path] = source.read(path)
            except ImageProblem as problem:
                self.contents[path] = problem

    def read(self, path: str) -> bytes:
        """As ``Source.read``."""
        content = self.contents[path]
        if isinstance(content, ImageProblem):
            raise content
        return content


def _rate_of_files(
    predictor: Predictor,
    source: ImageReader,
    paths: Sequence[str],
    wanted: Wanted,
    readers: int,
    decoders: int,
) -> float:
    """Images/s of the whole way from files to answers."""
    started = time.perf_counter()
    done = 0
    micro_batches = iter_predictions(
        predictor,
        source,
        list(paths) * ROUNDS,
        wanted,
        readers=readers,
        decoders=decoders,
    )
    for micro_batch in micro_batches:
        done += len(micro_batch.answers)
        if time.perf_counter() - started > SAMPLE_S:
            break
    micro_batches.close()  # type: ignore[attr-defined]  # a generator
    return done / (time.perf_counter() - started)
