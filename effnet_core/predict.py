"""From image files to class probabilities, with any engine, in constant memory."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from effnet_core.data.images import ImageProblem, read_image
from effnet_core.data.manifest import image_id
from effnet_core.data.preprocess import PreprocessSpec, preprocess
from effnet_core.environment import available_cores
from effnet_core.files import is_unicode

FloatArray = NDArray[np.float32]


class Predictor(Protocol):
    """An engine that holds one model."""

    preprocess: PreprocessSpec
    """How its inputs must be made."""
    class_names: tuple[str, ...]

    def logits(self, images: FloatArray) -> FloatArray:
        """Map (N, 3, S, S) to (N, num_classes) float32."""
        ...


@dataclass(frozen=True)
class Prediction:
    """The answer for one image."""

    image_id: str
    path: str
    class_ids: list[int]
    """Best first."""
    class_names: list[str]
    probs: list[float]


@dataclass(frozen=True)
class Rejection:
    """A file without an answer."""

    path: str
    reason: str


def iter_predictions(
    predictor: Predictor,
    root: Path,
    paths: Sequence[str],
    *,
    batch_size: int,
    top_k: int,
) -> Iterator[list[Prediction | Rejection]]:
    """Label files, batch by batch, in the order given.

    Args:
        root: folder that ``paths`` are relative to.
        batch_size: images in one call of the engine.
        top_k: classes kept for each image, at most as many as there are.

    Yields:
        One entry for each path of a batch: a prediction, or why there is none.
    """
    decoded = _decode_ahead(root, paths, predictor.preprocess, ahead=2 * batch_size)
    while chunk := list(itertools.islice(decoded, batch_size)):
        images = [item for _, item in chunk if not isinstance(item, Rejection)]
        answers: Iterator[FloatArray] = iter(())
        if images:
            answers = iter(softmax(predictor.logits(np.stack(images))))
        yield [
            item
            if isinstance(item, Rejection)
            else _prediction(path, next(answers), predictor.class_names, top_k)
            for path, item in chunk
        ]


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities of each row, (N, num_classes) float32."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), dtype=np.float32)


def _decode_ahead(
    root: Path, paths: Iterable[str], spec: PreprocessSpec, *, ahead: int
) -> Iterator[tuple[str, FloatArray | Rejection]]:
    """Decode on all cores, at most ``ahead`` images in advance, in order."""
    remaining = iter(paths)
    with ThreadPoolExecutor(len(available_cores())) as pool:
        waiting: deque[tuple[str, Future[FloatArray | Rejection]]] = deque()
        while True:
            for path in itertools.islice(remaining, ahead - len(waiting)):
                waiting.append((path, pool.submit(_decode, root, path, spec)))
            if not waiting:
                return
            path, future = waiting.popleft()
            yield path, future.result()


def _decode(root: Path, path: str, spec: PreprocessSpec) -> FloatArray | Rejection:
    if not is_unicode(path):
        return Rejection(path, "file name is not valid UTF-8")
    try:
        image = read_image(root / path)
        return preprocess(image, spec)
    except ImageProblem as problem:
        return Rejection(path, str(problem))


def _prediction(
    path: str, probs: FloatArray, class_names: tuple[str, ...], top_k: int
) -> Prediction:
    best = np.argsort(-probs, kind="stable")[:top_k]
    return Prediction(
        image_id(path),
        path,
        [int(i) for i in best],
        [class_names[i] for i in best],
        [float(probs[i]) for i in best],
    )
