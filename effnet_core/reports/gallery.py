"""Which of many labelled images a report shows, and their thumbnails."""

from __future__ import annotations

import base64
import heapq
import io
import sys
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from effnet_core.data.images import WHITE, Colour, ImageProblem, decode_image, to_rgb
from effnet_core.infer.readers import ImageReader

MAX_PICTURES = 60
"""Pictures in the gallery by class, all classes together."""
MAX_PICTURES_PER_CLASS = 6
MAX_UNCERTAIN = 24
MAX_ANSWERS = 3
"""Classes listed for one picture."""
CERTAINTY_BINS = 20
THUMBNAIL_PX = 192
PIXELATED_PX = 64
"""Pictures up to this side are shown enlarged, pixel by pixel."""

COLUMNS = ("path", "class_ids", "class_names", "probs")
"""What a choice needs to know of each prediction."""

Row = dict[str, Any]
"""As ``predictions.iter_rows`` gives them."""
Kept = tuple[float, str, int, Row]
"""What decides whether a row is kept, its path, its number, the row."""


@dataclass(frozen=True)
class Picture:
    """A labelled image."""

    path: str
    answers: list[tuple[str, float]]
    """Class names and probabilities, best first."""
    uri: str = ""
    """Empty where the file cannot be read."""
    problem: str = ""
    pixelated: bool = False
    heat: str = ""
    """What spoke for the best class, as a picture; empty where nobody asked."""

    @property
    def title(self) -> str:
        """Path and probabilities, a line each."""
        return "\n".join([self.path, *(f"{name} {prob:.1%}" for name, prob in self.answers)])


@dataclass(frozen=True)
class Group:
    """Pictures of one predicted class."""

    name: str
    count: int
    """Images that got this class, shown or not."""
    pictures: list[Picture]


class Selection:
    """Pictures of each class and those that the model is least sure of, chosen row by row.

    What it holds does not grow with the number of rows. The same rows give the same choice, in any order.
    """

    def __init__(self, background: Colour | None = WHITE) -> None:
        self.background = background
        """What the model saw transparent pictures on."""
        self.counts: Counter[int] = Counter()
        """Images by class."""
        self.names: dict[int, str] = {}
        self.certainty = np.zeros(CERTAINTY_BINS, np.int64)
        """Images by the probability of their best class, from 0 to 1 in equal steps."""
        self._samples: dict[int, list[Kept]] = {}
        self._uncertain: list[Kept] = []

    @classmethod
    def of(cls, rows: Iterable[Row], background: Colour | None = WHITE) -> Selection:
        """The choice among some rows."""
        selection = cls(background)
        for row in rows:
            selection.add(row)
        return selection

    @property
    def labelled(self) -> int:
        """Rows that were added."""
        return self.counts.total()

    def add(self, row: Row) -> None:
        """Look at one more row."""
        label, prob, path = row["class_ids"][0], row["probs"][0], row["path"]
        self.counts[label] += 1
        self.names.setdefault(label, row["class_names"][0])
        self.certainty[min(CERTAINTY_BINS - 1, int(prob * CERTAINTY_BINS))] += 1
        # A checksum of the path orders the rows of a class at random, but always in the same way.
        chance = zlib.crc32(path.encode("utf-8", "surrogateescape"))
        number = self.labelled  # so that two items never compare as rows
        own = self._samples.setdefault(label, [])
        _keep(own, (-chance, path, number, row), MAX_PICTURES_PER_CLASS)
        _keep(self._uncertain, (-prob, path, number, row), MAX_UNCERTAIN)

    def paths(self) -> list[str]:
        """The pictures that will be read."""
        rows = [row for _, some in self._chosen() for row in some]
        return [row["path"] for row in [*rows, *(kept[-1] for kept in self._uncertain)]]

    def _chosen(self) -> list[tuple[int, list[Row]]]:
        """The most frequent classes in their order, and some rows of each."""
        most = sorted(self.counts, key=lambda label: (-self.counts[label], label))[:MAX_PICTURES]
        each = min(MAX_PICTURES_PER_CLASS, MAX_PICTURES // max(1, len(most)))
        found = []
        for label in sorted(most):
            chosen = sorted(self._samples[label], reverse=True)[:each]
            found.append(
                (label, sorted((kept[-1] for kept in chosen), key=lambda row: str(row["path"])))
            )
        return found

    def groups(self, source: ImageReader) -> tuple[list[Group], str]:
        """Pictures of the most frequent classes, and a sentence on what was left out."""
        chosen = self._chosen()
        each = min(MAX_PICTURES_PER_CLASS, MAX_PICTURES // max(1, len(chosen)))
        groups = []
        for label, rows in chosen:
            pictures = [read_picture(row, source, self.background) for row in rows]
            groups.append(Group(self.names[label], self.counts[label], pictures))
        shown = sum(len(group.pictures) for group in groups)
        note = f"{shown:,} of {self.labelled:,} images, at most {each} of a class"
        if len(chosen) < len(self.counts):
            note += (
                f"; the {len(chosen)} most frequent of {len(self.counts):,} classes that were given"
            )
        return groups, note + "."

    def uncertain(self, source: ImageReader) -> list[Picture]:
        """Pictures whose best class has the lowest probability, least certain first."""
        rows = sorted(self._uncertain, key=lambda kept: (-kept[0], kept[1]))
        return [read_picture(kept[-1], source, self.background) for kept in rows]


def _keep(heap: list[Kept], item: Kept, most: int) -> None:
    """Keep the ``most`` items whose first value is largest."""
    if len(heap) < most:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def read_picture(row: Row, source: ImageReader, background: Colour | None = WHITE) -> Picture:
    """A row with its thumbnail; one that cannot be read must not cost the report."""
    answers = list(zip(row["class_names"], row["probs"], strict=True))[:MAX_ANSWERS]
    try:
        content = source.read(row["path"])
        image = decode_image(content, at_least_px=2 * THUMBNAIL_PX, max_pixels=sys.maxsize)
        image = to_rgb(image, background)
    except ImageProblem as problem:
        return Picture(row["path"], answers, problem=str(problem))
    except Exception as error:  # a strange path, strange metadata or a lost server
        return Picture(row["path"], answers, problem=" ".join(str(error).split()))
    pixelated = max(image.size) <= PIXELATED_PX
    image.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    stream = io.BytesIO()
    image.save(stream, format="WEBP", lossless=pixelated, quality=80)
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Picture(row["path"], answers, uri=uri, pixelated=pixelated)
