"""From image files to class probabilities, with any engine, in constant memory and in order.

Files are read ahead by threads of their own. An engine that may be called side by side gets workers, one
a core: a worker decodes a few images, computes their answers and starts over, so no core waits for a
stage and what was decoded is still in its cache. Where decoders of their own are asked for, or were
measured to be faster, they hand pixels to the workers. Other engines are called from one thread, with
decoders beside them.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from effnet_core.data.images import MAX_PIXELS, ImageProblem
from effnet_core.data.manifest import image_id
from effnet_core.data.preprocess import PixelArray, PreprocessSpec, decode_square
from effnet_core.events import Threads
from effnet_core.infer.readers import ImageReader
from effnet_core.results.drift import look_at
from effnet_core.system.machine import available_cores
from effnet_core.text import is_unicode

if TYPE_CHECKING:
    from effnet_core.kernels.resize import Resizer

FloatArray = NDArray[np.float32]
Item = PixelArray | str
"""A decoded square, or the reason why there is none."""
Decoded = tuple[Item, float]
"""An item and the seconds that it took."""

MICRO_BATCHES_AHEAD = 3
"""Micro-batches a worker that are being read or wait to be written: what bounds the memory."""


@dataclass(frozen=True)
class Outputs:
    """What an engine says of N images."""

    logits: FloatArray
    """(N, num_classes)."""
    features: FloatArray | None = None
    """The pooled features before the classifier, (N, channels), where they were asked for."""


class Predictor(Protocol):
    """An engine that holds one model."""

    preprocess: PreprocessSpec
    """How its pixels must be made; it normalises them itself."""
    class_names: tuple[str, ...]
    workers: int
    """Threads that may call it side by side; 0 means one, and that it uses all cores by itself."""
    micro_batch: int
    """Images in a call, at most."""

    def forward(self, pixels: PixelArray) -> Outputs:
        """Answers to pixels, (N, S, S, 3) uint8; N is from 1 to ``micro_batch``."""
        ...


@dataclass(frozen=True)
class Wanted:
    """What an answer holds."""

    top_k: int = 5
    """Classes, best first; at most as many as there are."""
    probabilities: bool = False
    """Whether to have the probability of every class."""
    features: bool = False
    """Whether to have the pooled features."""
    fast_decode: bool = True
    """Whether large JPEGs may be reduced while they are decoded."""
    max_pixels: int = MAX_PIXELS
    """Pixels of an image at most; larger ones are set aside."""
    looks: bool = False
    """Whether to have brightness and contrast of what the network sees."""
    resize: Resizer | None = None
    """What resizes pictures in place of Pillow."""


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    image_id: str
    path: str
    class_ids: list[int]
    """Best first."""
    class_names: list[str]
    probs: list[float]
    probabilities: FloatArray | None = None
    """Probability of every class, (num_classes,)."""
    features: FloatArray | None = None
    """(channels,)."""
    looks: tuple[float, float] | None = None
    """Brightness and contrast of what the network saw."""


@dataclass(frozen=True)
class Rejection:
    """A file without an answer."""

    path: str
    reason: str


@dataclass(frozen=True)
class Piece:
    """What one call of the engine gave."""

    answers: tuple[Prediction | Rejection, ...]
    """One for each path, in order."""
    seconds: float
    """Seconds of decoding and computing, without waiting for the files."""


def iter_predictions(
    predictor: Predictor,
    source: ImageReader,
    paths: Sequence[str],
    wanted: Wanted,
    *,
    readers: int,
    decoders: int = 0,
) -> Iterator[Piece]:
    """Label files in the order given.

    Args:
        predictor: the engine.
        source: where ``paths`` are read from.
        paths: files as the source calls them.
        wanted: what an answer holds.
        readers: threads that read files.
        decoders: threads that only decode; 0 lets the workers decode what they compute. An engine without
            workers has one a core then.

    Yields:
        Pieces of answers: a prediction for each path, or why there is none.

    Raises:
        StoreError: the source is lost.
    """
    chunks = _chunks(paths, predictor.micro_batch)
    if not predictor.workers:
        decoders = decoders or len(available_cores())
    with (
        _pool(readers, "reader") as reading,
        _pool(max(1, decoders), "decoder") as decoding,
        _pool(max(1, predictor.workers), "worker") as working,
    ):

        def contents(chunk: Sequence[str]) -> list[Future[bytes]]:
            return [reading.submit(source.read, path) for path in chunk]

        def pixels(chunk: Sequence[str]) -> list[Future[Decoded]]:
            return [
                decoding.submit(_decode, path, content, predictor.preprocess, wanted)
                for path, content in zip(chunk, contents(chunk), strict=True)
            ]

        def start(chunk: Sequence[str]) -> Callable[[], Piece]:
            if not decoders:
                return working.submit(_label, predictor, chunk, contents(chunk), wanted).result
            call = partial(_compute, predictor, chunk, pixels(chunk), wanted)
            return working.submit(call).result if predictor.workers else call

        ahead = MICRO_BATCHES_AHEAD * predictor.workers or 2
        waiting: deque[Callable[[], Piece]] = deque()
        for chunk in chunks:
            waiting.append(start(chunk))
            if len(waiting) >= ahead:
                yield waiting.popleft()()
        while waiting:
            yield waiting.popleft()()


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities of each row, (N, num_classes) float32."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), dtype=np.float32)


def _chunks(paths: Sequence[str], size: int) -> Iterator[list[str]]:
    remaining = iter(paths)
    while chunk := list(itertools.islice(remaining, size)):
        yield chunk


@contextmanager
def _pool(threads: int, name: str) -> Iterator[Threads]:
    """Threads; work that has not begun is dropped when the block ends."""
    pool = Threads(threads, thread_name_prefix=name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _label(
    predictor: Predictor,
    paths: Sequence[str],
    contents: Sequence[Future[bytes]],
    wanted: Wanted,
) -> Piece:
    """A worker's work: decode a micro-batch and compute its answers."""
    for content in contents:  # wait here, so that the time below is work
        content.exception()
    started = time.perf_counter()
    items = [
        _decode(path, content, predictor.preprocess, wanted)[0]
        for path, content in zip(paths, contents, strict=True)
    ]
    answers = _answers(predictor, paths, items, wanted)
    return Piece(answers, time.perf_counter() - started)


def _decode(path: str, content: Future[bytes], spec: PreprocessSpec, wanted: Wanted) -> Decoded:
    content.exception()  # wait here, so that the time below is work
    started = time.perf_counter()
    item: Item
    try:
        item = (
            decode_square(
                content.result(),
                spec,
                fast=wanted.fast_decode,
                max_pixels=wanted.max_pixels,
                resize=wanted.resize,
            )
            if is_unicode(path)
            else "file name is not valid UTF-8"
        )
    except ImageProblem as problem:
        item = str(problem)
    return item, time.perf_counter() - started


def _compute(
    predictor: Predictor, paths: Sequence[str], pixels: Sequence[Future[Decoded]], wanted: Wanted
) -> Piece:
    """The answers to a micro-batch that decoders prepare."""
    decoded = [square.result() for square in pixels]
    started = time.perf_counter()
    answers = _answers(predictor, paths, [item for item, _ in decoded], wanted)
    return Piece(answers, time.perf_counter() - started + sum(seconds for _, seconds in decoded))


def _answers(
    predictor: Predictor, paths: Sequence[str], items: Sequence[Item], wanted: Wanted
) -> tuple[Prediction | Rejection, ...]:
    """The answers to a micro-batch of which every item is a square or a reason."""
    pixels = [item for item in items if not isinstance(item, str)]
    answers: Iterator[Prediction] = iter(())
    if pixels:
        readable = [
            path for path, item in zip(paths, items, strict=True) if not isinstance(item, str)
        ]
        outputs = predictor.forward(np.stack(pixels))
        answers = _predictions(readable, outputs, predictor.class_names, wanted)
        if wanted.looks:
            pairs = zip(answers, pixels, strict=True)
            answers = (replace(one, looks=look_at(square)) for one, square in pairs)
    return tuple(
        Rejection(path, item) if isinstance(item, str) else next(answers)
        for path, item in zip(paths, items, strict=True)
    )


def _predictions(
    paths: Sequence[str], outputs: Outputs, class_names: tuple[str, ...], wanted: Wanted
) -> Iterator[Prediction]:
    shares = softmax(outputs.logits)
    best = np.argsort(-shares, axis=1, kind="stable")[:, : wanted.top_k]
    for row, path in enumerate(paths):
        ids = best[row].tolist()
        yield Prediction(
            image_id(path),
            path,
            ids,
            [class_names[i] for i in ids],
            shares[row, ids].tolist(),
            shares[row] if wanted.probabilities else None,
            outputs.features[row] if wanted.features and outputs.features is not None else None,
        )
