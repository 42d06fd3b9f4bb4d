"""From image files to class probabilities, with any engine, in constant memory and in order.

Files are read ahead by threads of their own. An engine that may be called side by side gets lanes, one
a core: a lane decodes a few images, computes their answers and starts over, so no core waits for a
stage and what was decoded is still in its cache. Other engines are called from one thread, with
decoders beside them.
"""

from __future__ import annotations

import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from effnet_core.data.images import ImageProblem
from effnet_core.data.manifest import image_id
from effnet_core.data.preprocess import PixelArray, PreprocessSpec, decode_square
from effnet_core.environment import available_cores
from effnet_core.files import is_unicode
from effnet_core.input_sources import Source

FloatArray = NDArray[np.float32]
Item = PixelArray | str
"""A decoded square, or the reason why there is none."""

PIECES_AHEAD = 3
"""Pieces a lane that are being read or wait to be written: what bounds the memory."""


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
    """How its squares must be made; it normalises them itself."""
    class_names: tuple[str, ...]
    lanes: int
    """Threads that may call it side by side; 0 means one, and that it uses all cores by itself."""
    piece: int
    """Images in a call, at most."""

    def forward(self, pixels: PixelArray) -> Outputs:
        """Answers to squares, (N, S, S, 3) uint8; N is from 1 to ``piece``."""
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
    """Of every class, (num_classes,)."""
    features: FloatArray | None = None
    """(channels,)."""


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
    """Of decoding and computing, without waiting for the files."""


def iter_predictions(
    predictor: Predictor,
    source: Source,
    paths: Sequence[str],
    wanted: Wanted,
    *,
    readers: int,
) -> Iterator[Piece]:
    """Label files in the order given.

    Args:
        predictor: the engine.
        source: where ``paths`` are read from.
        paths: files as the source calls them.
        wanted: what an answer holds.
        readers: threads that read files.

    Yields:
        Pieces of answers: a prediction for each path, or why there is none.

    Raises:
        StoreError: the source is lost.
    """
    chunks = _chunks(paths, predictor.piece)
    lanes = predictor.lanes or len(available_cores())
    with _pool(readers, "reader") as reading, _pool(lanes, "lane") as working:

        def contents(chunk: Sequence[str]) -> list[Future[bytes]]:
            return [reading.submit(source.read, path) for path in chunk]

        if predictor.lanes:

            def start(chunk: Sequence[str]) -> Callable[[], Piece]:
                return working.submit(_label, predictor, chunk, contents(chunk), wanted).result
        else:

            def start(chunk: Sequence[str]) -> Callable[[], Piece]:
                spec, fast = predictor.preprocess, wanted.fast_decode
                decoding = [
                    working.submit(_decode, path, content, spec, fast)
                    for path, content in zip(chunk, contents(chunk), strict=True)
                ]
                return lambda: _compute(predictor, chunk, [f.result() for f in decoding], wanted)

        ahead = PIECES_AHEAD * lanes if predictor.lanes else 2
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
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads; work that has not begun is dropped when the block ends."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
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
    """A lane's work: decode a piece and compute its answers."""
    for content in contents:  # wait here, so that the time below is work
        content.exception()
    started = time.perf_counter()
    items = [
        _decode(path, content, predictor.preprocess, wanted.fast_decode)
        for path, content in zip(paths, contents, strict=True)
    ]
    piece = _compute(predictor, paths, items, wanted)
    return Piece(piece.answers, time.perf_counter() - started)


def _decode(path: str, content: Future[bytes], spec: PreprocessSpec, fast: bool) -> Item:
    if not is_unicode(path):
        return "file name is not valid UTF-8"
    try:
        return decode_square(content.result(), spec, fast=fast)
    except ImageProblem as problem:
        return str(problem)


def _compute(
    predictor: Predictor, paths: Sequence[str], items: Sequence[Item], wanted: Wanted
) -> Piece:
    """The answers to a piece of which every item is a square or a reason."""
    started = time.perf_counter()
    squares = [item for item in items if not isinstance(item, str)]
    answers: Iterator[Prediction] = iter(())
    if squares:
        readable = [
            path for path, item in zip(paths, items, strict=True) if not isinstance(item, str)
        ]
        outputs = predictor.forward(np.stack(squares))
        answers = _predictions(readable, outputs, predictor.class_names, wanted)
    whole = tuple(
        Rejection(path, item) if isinstance(item, str) else next(answers)
        for path, item in zip(paths, items, strict=True)
    )
    return Piece(whole, time.perf_counter() - started)


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
