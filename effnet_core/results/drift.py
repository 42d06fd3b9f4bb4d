"""Whether pictures are still like those that a model was made for: one number against a threshold.

A version carries what its features look like on held-out pictures, in a few main directions. The same is
taken of the pictures of a labelling, and the distance is Fréchet's between two normal distributions after
whitening: how far the mean has moved, and how far the spread is another. Few pictures are apart by chance, so
the threshold depends on their number; it is drawn from the held-out pictures themselves.

Single pictures are far out where no held-out picture is near.

Sources: of the distance, Dowson and Landau (Journal of Multivariate Analysis 12, 1982); of the nearest
neighbour, Sun et al., Out-of-Distribution Detection with Deep Nearest Neighbors (arXiv 2204.06507).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.errors import DataError
from effnet_core.results.checked import NONSENSE, check_fields
from effnet_core.system.files import atomic_path

REFERENCE_NAME = "reference.npz"
DIRECTIONS = 16
"""Main directions of the features that are looked at."""
SIZES = (20, 50, 100, 200, 500, 1000, 2000)
"""Numbers of pictures for which a threshold is drawn."""
DRAWS = 400
QUANTILE = 0.99
"""One labelling in a hundred of pictures like the held-out ones is called drifted."""
FEWEST_REFERENCE = 60
FEWEST_IMAGES = SIZES[0]
LOOKS = ("brightness", "contrast")
"""Of the square that the network sees, 0-255: mean, and standard deviation."""
MOST_FARTHEST = 24
"""Pictures in a finding."""
MOST_KEPT = 400
"""Of the farthest pictures of a part; a review queue takes them from there."""
AT_ONCE = 512
"""Pictures that are compared with the held-out ones together; memory is this times 16 kB at most."""
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Reference:
    """What held-out pictures look like to a model."""

    checkpoint_sha256: str
    images: int
    centre: FloatArray
    """(channels,): mean of the features."""
    directions: FloatArray
    """(K, channels): main directions, scaled so that the projected features have variance 1."""
    thresholds: FloatArray
    """(SIZES,): distance that so many held-out pictures exceed once in a hundred draws."""
    held_out: NDArray[np.float32]
    """(N, K): features of the held-out pictures in these directions."""
    far: float
    """Distance from the nearest other one that one held-out picture in a hundred exceeds."""
    class_shares: FloatArray
    """(classes,): share of each answer."""
    certainty: float
    """Mean probability of the best class."""
    looks: FloatArray
    """(2, LOOKS): mean and standard deviation over the pictures."""

    def project(self, features: NDArray[np.float32]) -> FloatArray:
        """Features (N, channels) in the main directions, (N, K)."""
        projected: FloatArray = (features.astype(np.float64) - self.centre) @ self.directions.T
        return projected

    def outside(self, projected: FloatArray) -> FloatArray:
        """How far out projected features (N, K) are, (N,): 1 is as far as 99 of 100 held-out pictures go.

        It is the distance from the nearest held-out picture. That from the centre would not do: the classes
        lie around it, and what belongs to none of them lies between.
        """
        return _nearest(projected, self.held_out.astype(np.float64)) / self.far

    def threshold(self, images: int) -> float:
        """The distance that so many pictures may have by chance."""
        scale = np.log(np.array(SIZES, np.float64))
        return float(np.interp(np.log(max(images, SIZES[0])), scale, self.thresholds))

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        facts = {"checkpoint_sha256": self.checkpoint_sha256, "images": self.images}
        facts |= {"far": self.far, "certainty": self.certainty}
        arrays = {name: getattr(self, name) for name in ARRAYS}
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez_compressed(
                stream, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays
            )

    @classmethod
    def read(cls, path: Path) -> Reference:
        """The reference in a file.

        Raises:
            DataError: there is none, or it is damaged.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                facts = json.loads(found["facts"].tobytes())
                return cls(**facts, **{name: found[name] for name in ARRAYS})
        except (OSError, *NONSENSE) as cause:
            reason = " ".join(str(cause).split())[:200]
            raise DataError(f"reference {path} cannot be read ({reason})") from cause
        except Exception as cause:  # zipfile and zlib have errors of their own
            raise DataError(f"reference {path} is damaged ({cause})") from cause


ARRAYS = ("centre", "directions", "held_out", "thresholds", "class_shares", "looks")


@dataclass(frozen=True)
class Drift:
    """How far a labelling's pictures are from those that the model was made for."""

    images: int
    distance: float
    threshold: float
    drifted: bool
    far_share: float
    """Share of pictures that are farther from every held-out one than 99 of 100 of those are."""
    certainty: float
    """Mean probability of the best class less that of held-out pictures."""
    brightness: float
    """Change of the mean, in standard deviations of held-out pictures."""
    contrast: float
    classes: list[tuple[str, float, float]] = field(default_factory=list)
    """Name, share then and share now of the classes that changed most."""
    farthest: list[tuple[str, float]] = field(default_factory=list)
    """Paths and distances of the pictures that are farthest out."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        lists = {
            name: [list(row) for row in getattr(self, name)] for name in ("classes", "farthest")
        }
        return {**asdict(self), **lists}

    @classmethod
    def from_dict(cls, values: Any) -> Drift:
        """The finding that ``to_dict`` described.

        Raises:
            ValueError: it is not one.
        """
        if not isinstance(values, dict):
            raise ValueError("a finding is not an object with names and values")
        classes = [(str(name), float(a), float(b)) for name, a, b in values.get("classes", [])]
        farthest = [(str(path), float(far)) for path, far in values.get("farthest", [])]
        return check_fields(cls, {**values, "classes": classes, "farthest": farthest})

    def sentence(self) -> str:
        """The finding for a log."""
        verdict = (
            "these pictures are unlike those that the model was made for"
            if self.drifted
            else ("these pictures are like those that the model was made for")
        )
        return f"{verdict}: distance {self.distance:.2f}, threshold {self.threshold:.2f}"


def distance(projected: FloatArray) -> float:
    """Squared Fréchet distance of whitened features (N, K) to the standard normal distribution."""
    mean = projected.mean(axis=0)
    spread = np.linalg.eigvalsh(np.cov(projected, rowvar=False, bias=True))
    roots = np.sqrt(np.maximum(spread, 0))
    return float((mean**2).sum() + ((roots - 1) ** 2).sum())


def make_reference(
    features: NDArray[np.float32],
    answers: NDArray[np.int64],
    certainty: NDArray[Any],
    looks: NDArray[Any],
    *,
    classes: int,
    checkpoint_sha256: str,
    seed: int = 0,
) -> Reference:
    """What held-out pictures look like.

    Args:
        features: (N, channels).
        answers: (N,): the best class of each.
        certainty: (N,): its probability.
        looks: (N, LOOKS).
        classes: of the model.
        checkpoint_sha256: of the model.
        seed: of the draws.

    Raises:
        DataError: they are too few.
    """
    if len(features) < FEWEST_REFERENCE:
        raise DataError(
            f"{len(features)} held-out pictures are too few to know what is usual; at least "
            f"{FEWEST_REFERENCE} are needed"
        )
    values = features.astype(np.float64)
    centre, directions = _whitening(values)
    projected = (values - centre) @ directions.T
    others = _nearest(projected, projected, is_same=True)
    return Reference(
        checkpoint_sha256,
        len(features),
        centre,
        directions,
        _thresholds(values, np.random.default_rng(seed)),
        projected.astype(np.float32),
        max(float(np.quantile(others, QUANTILE)), 1e-6),
        np.bincount(answers, minlength=classes) / len(answers),
        float(np.mean(certainty)),
        np.stack([np.mean(looks, axis=0), np.maximum(np.std(looks, axis=0), 1e-6)]),
    )


@dataclass(frozen=True, eq=False)
class Observed:
    """What is kept of labelled pictures: some numbers each."""

    projected: NDArray[np.float32]
    """(N, K): features in the reference's directions."""
    answers: NDArray[np.int32]
    """(N,): the best class."""
    certainty: NDArray[np.float32]
    """(N,): its probability."""
    looks: NDArray[np.float32]
    """(N, LOOKS)."""
    outside: NDArray[np.float32]
    """(N,): as ``Reference.outside``."""
    farthest: list[tuple[str, float]]
    """Paths and that distance of the pictures that are farthest out, farthest first."""

    @classmethod
    def of(
        cls,
        reference: Reference,
        features: NDArray[np.float32],
        answers: NDArray[Any],
        certainty: NDArray[Any],
        looks: NDArray[Any],
        paths: Sequence[str],
    ) -> Observed:
        """Of the features (N, channels) and answers of some pictures."""
        projected = reference.project(features)
        outside = reference.outside(projected)
        order = np.argsort(-outside, kind="stable")[:MOST_KEPT]
        return cls(
            projected.astype(np.float32),
            np.asarray(answers, np.int32),
            np.asarray(certainty, np.float32),
            np.asarray(looks, np.float32),
            outside.astype(np.float32),
            [(paths[i], round(float(outside[i]), 3)) for i in order],
        )

    @classmethod
    def together(cls, parts: Sequence[Observed]) -> Observed:
        """Several parts as one."""
        far = sorted((one for part in parts for one in part.farthest), key=lambda one: -one[1])
        return cls(
            np.concatenate([part.projected for part in parts]),
            np.concatenate([part.answers for part in parts]),
            np.concatenate([part.certainty for part in parts]),
            np.concatenate([part.looks for part in parts]),
            np.concatenate([part.outside for part in parts]),
            far[:MOST_KEPT],
        )

    def save(self, path: Path) -> None:
        """Write it, atomically."""
        far = np.frombuffer(json.dumps(self.farthest).encode(), np.uint8)
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                projected=self.projected,
                answers=self.answers,
                certainty=self.certainty,
                looks=self.looks,
                outside=self.outside,
                farthest=far,
            )

    @classmethod
    def read(cls, path: Path) -> Observed:
        """What lies in a file.

        Raises:
            DataError: there is none, or it is damaged.
        """
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as found:
                far = json.loads(found["farthest"].tobytes())
                return cls(
                    found["projected"],
                    found["answers"],
                    found["certainty"],
                    found["looks"],
                    found["outside"],
                    [(str(path), float(distance)) for path, distance in far],
                )
        except Exception as cause:  # zipfile and zlib have errors of their own
            raise DataError(f"{path} cannot be read ({cause}); label again") from cause


def measure(reference: Reference, seen: Observed, *, class_names: tuple[str, ...]) -> Drift:
    """Compare a labelling with the reference of its model."""
    images = len(seen.answers)
    projected = seen.projected.astype(np.float64)
    found = distance(projected) if images >= FEWEST_IMAGES else 0.0
    limit = reference.threshold(images)
    shares = np.bincount(seen.answers, minlength=len(class_names)) / max(1, images)
    changed = np.argsort(-np.abs(shares - reference.class_shares), kind="stable")[:5]
    moved = (seen.looks.mean(axis=0) - reference.looks[0]) / reference.looks[1]
    return Drift(
        images,
        round(found, 4),
        round(limit, 4),
        found > limit,
        float((seen.outside > 1).mean()),
        float(seen.certainty.mean() - reference.certainty),
        float(moved[0]),
        float(moved[1]),
        [(class_names[k], float(reference.class_shares[k]), float(shares[k])) for k in changed],
        seen.farthest[:MOST_FARTHEST],
    )


def _nearest(points: FloatArray, others: FloatArray, *, is_same: bool = False) -> FloatArray:
    """Distance of each point (N, K) from the nearest of others (M, K), (N,).

    Args:
        points: whose distance is wanted.
        others: what they are near to.
        is_same: both are the same, and a point is not compared with itself.
    """
    found = np.zeros(len(points))
    squares = (others**2).sum(axis=1)
    for start in range(0, len(points), AT_ONCE):
        some = points[start : start + AT_ONCE]
        apart = (some**2).sum(axis=1)[:, None] - 2 * some @ others.T + squares
        if is_same:
            rows = np.arange(len(some))
            apart[rows, start + rows] = np.inf
        found[start : start + AT_ONCE] = np.sqrt(np.maximum(apart.min(axis=1), 0))
    return found


def look_at(square: NDArray[np.uint8]) -> tuple[float, float]:
    """Brightness and contrast of what the network sees, 0-255."""
    return float(square.mean()), float(square.std())


def _whitening(values: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The mean of some features, and their main directions, scaled to variance 1."""
    centre = values.mean(axis=0)
    kept = min(DIRECTIONS, values.shape[1], len(values) // 4)
    _, scale, rows = np.linalg.svd(values - centre, full_matrices=False)
    deviation = np.maximum(scale[:kept] / np.sqrt(len(values)), 1e-9)
    return centre, rows[:kept] / deviation[:, None]


def _thresholds(values: FloatArray, rng: np.random.Generator) -> FloatArray:
    """The distances that pictures of the same kind exceed once in a hundred draws.

    One half of them is the reference and the other half is drawn from, so that the error of the reference
    itself is in the threshold.
    """
    found = np.zeros((DRAWS, len(SIZES)))
    half = len(values) // 2
    for draw in range(DRAWS):
        if draw % 10 == 0:  # the decomposition costs more than all the draws
            order = rng.permutation(len(values))
            centre, directions = _whitening(values[order[:half]])
            rest = (values[order[half:]] - centre) @ directions.T
        for place, images in enumerate(SIZES):
            found[draw, place] = distance(rest[rng.integers(0, len(rest), images)])
    thresholds: FloatArray = np.quantile(found, QUANTILE, axis=0)
    return thresholds
