"""Counting answers: how many are right, how sure, and what is taken for what. Knows no MindSpore."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from effnet_core.results.confusion import Confusion, ConfusionCounter

if TYPE_CHECKING:
    from effnet_core.jobs.collective import Group

MOST_CLASSES_AT_ONCE = 500
"""Classes of which the whole matrix is summed over the ranks: 250,000 numbers in one call."""


class Tally:
    """What is counted over the images of a split, first of one rank, then of all."""

    def __init__(self, num_classes: int) -> None:
        self.pairs = ConfusionCounter(num_classes)
        self.seen = self.correct5 = self.known = 0
        self.loss_sum = 0.0

    def add(self, logits: NDArray[np.float32], labels: NDArray[np.int32]) -> None:
        """Count a batch of logits (N, classes) and labels (N,); larger labels are of unknown classes."""
        self.pairs.add(labels, logits.argmax(axis=1))
        self.seen += len(labels)
        known = labels < logits.shape[1]
        logits, labels = logits[known], labels[known]
        self.correct5 += count_top_k(logits, labels, 5)
        self.loss_sum += float(cross_entropy(logits, labels).sum())
        self.known += len(labels)

    def sum_over(self, group: Group) -> Confusion:
        """Take over the sums over all ranks; returns the pairs of all ranks."""
        counts = np.array([self.seen, self.correct5, self.known], dtype=np.int64)
        self.seen, self.correct5, self.known = (int(n) for n in group.sum_counts(counts))
        self.loss_sum = float(group.sum_floats(np.array([self.loss_sum], dtype=np.float32))[0])
        return _sum_confusions(group, self.pairs.total())


def _sum_confusions(group: Group, mine: Confusion) -> Confusion:
    """The pairs of all ranks together.

    The cells of few classes are summed at once. Of many classes the pairs are put side by side, so that
    what travels grows with the images and not with the square of the classes.
    """
    if group.world_size == 1:
        return mine
    if mine.classes <= MOST_CLASSES_AT_ONCE:
        return Confusion.from_dense(group.sum_counts(mine.dense()).tolist())
    lengths = np.zeros(group.world_size, np.int64)
    lengths[group.rank] = len(mine.images)
    lengths = group.sum_counts(lengths)
    start = int(lengths[: group.rank].sum())
    pairs = np.zeros((2, int(lengths.sum())), np.int64)
    pairs[:, start : start + len(mine.images)] = mine.codes, mine.images
    codes, images = group.sum_counts(pairs)
    return Confusion.of_codes(codes, images, mine.classes)


def count_top_k(logits: NDArray[np.float32], labels: NDArray[np.int32], k: int) -> int:
    """How many rows have their label among the ``k`` largest logits; ties count for the row."""
    of_label = logits[np.arange(len(labels)), labels][:, None]
    return int(((logits > of_label).sum(axis=1) < k).sum())


def cross_entropy(logits: NDArray[np.float32], labels: NDArray[np.int32]) -> NDArray[np.float64]:
    """Negative log-likelihood of each row's label, (N,)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1))
    loss: NDArray[np.float64] = log_sum - shifted[np.arange(len(labels)), labels]
    return loss
