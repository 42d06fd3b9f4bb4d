"""A small world that changes: handwritten digits that come day by day, and a person who knows all answers.

scikit-learn's 1,797 digits in an order that a seed draws: some are labelled from the start, the others come
in the days after. Pictures of the changed world are inverted and shifted by a quarter of their width.
"""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from effnet_core.data.corrections import COLUMNS
from effnet_core.infer.parts import iter_rows

SIDE_PX = 32
SHIFT_PX = 8


@dataclass
class World:
    """Where its pictures are, and what each shows."""

    folder: Path
    seed: int
    answers: dict[str, str] = field(default_factory=dict)
    """The digit of every picture that was written, by its digest."""
    given: int = 0
    """Digits that were written so far."""

    def __post_init__(self) -> None:
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = np.random.default_rng(self.seed).permutation(len(digits.images))
        self._images, self._labels = digits.images[order], digits.target[order]

    @property
    def labelled(self) -> Path:
        """Folder of class folders."""
        return self.folder / "images"

    @property
    def inbox(self) -> Path:
        """Folder that pictures come into."""
        return self.folder / "inbox"

    def label(self, count: int) -> None:
        """Write the next digits into the folders of their classes."""
        for number in self._next(count):
            path = self.labelled / str(self._labels[number]) / f"{number:04d}.png"
            self._write(number, path, changed=False)

    def bring(self, count: int, name: str, *, changed: bool, folder: Path | None = None) -> None:
        """Write the next digits into the inbox, or another folder, as ``NAME-0000.png``."""
        for number in self._next(count):
            path = (folder or self.inbox) / f"{name}-{number:04d}.png"
            self._write(number, path, changed=changed)

    def decide(self, queue: Path) -> int:
        """Do what a person does on the page of a review queue: save ``labels.csv`` beside it.

        Returns:
            How many of its answers the model had wrong.
        """
        with (queue / "queue.csv").open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return self.save(queue / "labels.csv", [(row["file"], row["given"]) for row in rows])

    def save(self, path: Path, shown: list[tuple[str, str]]) -> int:
        """Write right labels of pictures, each a path from the file's folder and the model's answer."""
        wrong = 0
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(COLUMNS)
            for file, given in shown:
                digest = _digest(path.parent / file)
                wrong += self.answers[digest] != given
                writer.writerow((digest, file, self.answers[digest], given, "label", "uncertain"))
        return wrong

    def accuracy(self, output: Path, root: Path, name: str = "") -> float:
        """Share of a labelling's answers that are right, over the pictures whose names begin so."""
        right = [
            row["class_names"][0] == self.answers[_digest(root / row["path"])]
            for row in iter_rows(output, ("path", "class_names"))
            if row["path"].startswith(name)
        ]
        return sum(right) / len(right)

    def _next(self, count: int) -> range:
        first, self.given = self.given, self.given + count
        if self.given > len(self._images):
            raise ValueError(f"there are {len(self._images)} digits, not {self.given}")
        return range(first, self.given)

    def _write(self, number: int, path: Path, *, changed: bool) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        grey = Image.fromarray((self._images[number] * 255 / 16).astype(np.uint8))
        grey = grey.resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC)
        if changed:
            grey = Image.fromarray(np.roll(255 - np.asarray(grey), SHIFT_PX, axis=1))
        grey.save(path)
        self.answers[_digest(path)] = str(self._labels[number])


def settings(folder: Path, *, probe: bool) -> list[str]:
    """Settings of every run: the recipe ``digits`` in one process, or its first answer only.

    Args:
        folder: of the model store.
        probe: fit the classifier alone on the features of the weights: seconds instead of minutes.
    """
    return [
        f"storage.root={json.dumps(str(folder / 'store'))}",
        "storage.name=digits",
        "runtime.world_size=1",
        "evaluate.promote_if=better",
        *(["train.probe=only"] if probe else []),
    ]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
