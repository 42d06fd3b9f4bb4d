"""What an evaluation keeps of each image, beside its counts: best classes, and logits to calibrate with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from effnet_core.jobs.collective import Group
from effnet_core.results import EvalResult
from effnet_core.results.answers import ANSWERS_NAME, Answers, Origin, rank_answers
from effnet_core.results.calibration import (
    BINS,
    Calibration,
    Reliability,
    bin_sums,
    calibrate,
    fit_calibration,
)

Number = TypeVar("Number", np.int64, np.float32)

MOST_LOGITS = 1 << 25
"""Logits kept over all ranks, 128 MiB; of more, those of every second, third, ... image."""


class Scores:
    """What one rank's images got, row by row in the order of the split."""

    def __init__(self, *, temperature: float = 1.0, keep_logits: bool = False) -> None:
        """Make an empty one.

        Args:
            temperature: of the checkpoint; what probabilities are computed with.
            keep_logits: whether a temperature will be fitted.
        """
        self.temperature, self.keep_logits = temperature, keep_logits
        self.start = 0
        """Position of the first row in the split."""
        self.images = 0
        """Images of the whole split."""
        self._seen = 0
        self._best: list[NDArray[np.int32]] = []
        self._probs: list[NDArray[np.float32]] = []
        self._of_true: list[NDArray[np.float32]] = []
        self._logits: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int32]] = []
        self._sums = np.zeros((2, 3, BINS))  # before the temperature, and with it
        self._losses = np.zeros(2)

    def begin(self, rows: range, images: int) -> None:
        """Say which rows of a split of so many images will come."""
        self.start, self.images = rows.start, images

    def add(self, logits: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
        """Keep a batch of logits before calibration (N, classes) of images with labels (N,)."""
        best, probs, of_true = rank_answers(logits, labels, temperature=self.temperature)
        self._best.append(best)
        self._probs.append(probs)
        self._of_true.append(of_true)
        known = labels >= 0
        right = best[:, 0] == labels
        plain = probs if self.temperature == 1.0 else rank_answers(logits, labels)[1]
        self._sums += np.stack([bin_sums(shares[:, 0], right) for shares in (plain, probs)])
        if known.any():
            found = calibrate(logits[known], labels[known], self.temperature)
            self._losses += np.array([found.loss_before, found.loss_after]) * known.sum()
        if self.keep_logits:
            every = max(1, math.ceil(self.images * logits.shape[1] / MOST_LOGITS))
            rows = np.arange(self.start + self._seen, self.start + self._seen + len(logits))
            self._logits.append(logits[rows % every == 0])
            self._labels.append(labels[rows % every == 0])
        self._seen += len(logits)

    def calibration(self, group: Group) -> Calibration:
        """How honest the probabilities are with the checkpoint's temperature, over all ranks."""
        sums = self._sums
        images = sums[0, 0].sum()
        if group.world_size > 1:
            counts = group.sum_counts(sums[:, :2].astype(np.int64))
            certainty = group.sum_floats(sums[:, 2].astype(np.float32))
            sums = np.concatenate([counts, certainty[:, None]], axis=1)
            self._losses = group.sum_floats(self._losses.astype(np.float32)).astype(np.float64)
            images = counts[0, 0].sum()
        before, after = (Reliability.of_sums(part) for part in sums)
        loss_before, loss_after = (float(loss / max(1, images)) for loss in self._losses)
        return Calibration(self.temperature, int(images), before, after, loss_before, loss_after)

    def fit(self, group: Group) -> Calibration | None:
        """The temperature that fits these images, on rank 0; every rank must call it.

        Returns:
            None on the other ranks, and where no logits were kept.
        """
        if not self._logits:
            return None
        logits, labels = np.concatenate(self._logits), np.concatenate(self._labels)
        if group.world_size > 1:
            logits, labels = _gather(group, logits, labels)
        if not group.is_first:
            return None
        return fit_calibration(logits, labels)

    def answers(self, group: Group, labels: NDArray[np.int32], origin: Origin) -> Answers | None:
        """The answers to every image, on rank 0; every rank must call it.

        Args:
            group: this rank and the others.
            labels: of the whole split, (images,).
            origin: which model was asked what.

        Returns:
            None on the other ranks, and where nothing was kept.
        """
        if not self._best:
            return None
        best = np.concatenate(self._best)
        probs, of_true = np.concatenate(self._probs), np.concatenate(self._of_true)
        if group.world_size > 1:
            best = group.sum_counts(self._in_place(best.astype(np.int64))).astype(np.int32)
            probs = group.sum_floats(self._in_place(probs))
            of_true = group.sum_floats(self._in_place(of_true))
        return Answers(origin, labels, best, probs, of_true) if group.is_first else None

    def write(
        self,
        folder: Path,
        group: Group,
        labels: NDArray[np.int32],
        *,
        result: EvalResult,
        image_size: int,
        classes: int,
    ) -> None:
        """Write ``answers.npz`` beside a result, on rank 0; every rank must call it."""
        origin = Origin(
            result.checkpoint_sha256,
            result.data_digest,
            result.split,
            image_size,
            classes,
            calibrated=self.temperature != 1.0,
        )
        found = self.answers(group, labels, origin)
        if found is not None:
            found.save(folder / ANSWERS_NAME)

    def _in_place(self, mine: NDArray[Number]) -> NDArray[Number]:
        """This rank's rows among zeros for those of the others."""
        whole = np.zeros((self.images, *mine.shape[1:]), mine.dtype)
        whole[self.start : self.start + len(mine)] = mine
        return whole


def _gather(
    group: Group, logits: NDArray[np.float32], labels: NDArray[np.int32]
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """The rows of all ranks, which may have different numbers of them."""
    lengths = np.zeros(group.world_size, np.int64)
    lengths[group.rank] = len(logits)
    lengths = group.sum_counts(lengths)
    rows = np.zeros((int(lengths.max()), logits.shape[1] + 1), np.float32)
    rows[: len(logits)] = np.column_stack([logits, labels])
    parts = group.gather_floats(rows.reshape(-1)).reshape(group.world_size, *rows.shape)
    found = np.concatenate([part[:n] for part, n in zip(parts, lengths, strict=True)])
    return found[:, :-1].astype(np.float32), found[:, -1].astype(np.int32)
