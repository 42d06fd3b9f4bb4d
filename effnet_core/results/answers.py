"""What a model answered for each image of a split, in the order of the split: ``answers.npz``.

A result counts; this says which images it counts. Two models' answers to the same images are compared
pair by pair.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.errors import DataError
from effnet_core.results.checked import NONSENSE, check_fields
from effnet_core.system.files import atomic_path

ANSWERS_NAME = "answers.npz"
MOST_CLASSES = 5
"""Classes that are kept for an image."""
UNKNOWN = -1
"""The class of images whose true class the model does not know."""


@dataclass(frozen=True)
class Origin:
    """Which model answered, and what it was asked."""

    checkpoint_sha256: str
    data_digest: str
    split: str
    image_size: int
    """Side in pixels of what the network saw."""
    classes: int
    """How many the model knows."""
    calibrated: bool
    """Whether the probabilities are divided by the sidecar's temperature."""


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers to N images."""

    origin: Origin
    true: NDArray[np.int32]
    """(N,): the model's number of the true class, or ``UNKNOWN``."""
    classes: NDArray[np.int32]
    """(N, K): best first."""
    probs: NDArray[np.float32]
    """(N, K)."""
    of_true: NDArray[np.float32]
    """(N,): probability of the true class; 0 where the model does not know it."""

    @property
    def answer(self) -> NDArray[np.int32]:
        """The best class of each image, (N,)."""
        return self.classes[:, 0]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the best class is the true one, (N,)."""
        right: NDArray[np.bool_] = self.answer == self.true
        return right

    def __len__(self) -> int:
        return len(self.true)

    def save(self, path: Path) -> None:
        """Write them, atomically."""
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream,
                origin=np.frombuffer(json.dumps(asdict(self.origin)).encode(), np.uint8),
                true=self.true,
                classes=self.classes,
                probs=self.probs,
                of_true=self.of_true,
            )

    @classmethod
    def read(cls, path: Path) -> Answers:
        """The answers in a file.

        Raises:
            DataError: there are none, or the file is damaged.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                origin = check_fields(Origin, json.loads(found["origin"].tobytes()))
                answers = cls(
                    origin, *(found[name] for name in ("true", "classes", "probs", "of_true"))
                )
            answers._require_sense()
        except (OSError, *NONSENSE) as cause:  # a damaged archive is a ValueError or an OSError
            raise DataError(
                f"answers {path} cannot be read ({' '.join(str(cause).split())[:200]}); evaluate again"
            ) from cause
        except Exception as cause:  # zipfile and zlib have errors of their own
            raise DataError(f"answers {path} are damaged ({cause}); evaluate again") from cause
        return answers

    def _require_sense(self) -> None:
        images, kept = self.classes.shape
        shapes: list[tuple[Any, tuple[int, ...]]] = [
            (self.true, (images,)),
            (self.probs, (images, kept)),
            (self.of_true, (images,)),
        ]
        if kept < 1 or any(array.shape != shape for array, shape in shapes):
            raise ValueError("its arrays are not of the same length")


def rank_answers(
    logits: NDArray[np.float32], labels: NDArray[np.int32], *, temperature: float = 1.0
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """The best classes of each row of logits, their probabilities, and that of the true class.

    Args:
        logits: (N, classes).
        labels: (N,); ``UNKNOWN`` for classes that the model does not know.
        temperature: what the logits are divided by.

    Returns:
        (N, K) int32, (N, K) float32, (N,) float32; K is 5, or the number of classes where that is less.
    """
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    shares = np.exp(scaled)
    shares /= shares.sum(axis=1, keepdims=True)
    kept = min(MOST_CLASSES, logits.shape[1])
    best = np.argsort(-logits, axis=1, kind="stable")[:, :kept]
    rows = np.arange(len(logits))
    of_true = np.where(labels >= 0, shares[rows, np.maximum(labels, 0)], 0.0)
    probs = np.take_along_axis(shares, best, axis=1)
    return best.astype(np.int32), probs.astype(np.float32), of_true.astype(np.float32)


def require_same_images(first: Answers, second: Answers) -> None:
    """Refuse answers to different images.

    Raises:
        DataError: they are of other data or of another split.
    """
    asked = [(a.origin.data_digest, a.origin.split, len(a)) for a in (first, second)]
    if asked[0] != asked[1]:
        texts = [f"{n} images of {split!r} of {digest[:12]}" for digest, split, n in asked]
        raise DataError(f"the answers are to different images: {texts[0]}, and {texts[1]}")
