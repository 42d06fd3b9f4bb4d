"""The int8 network that may lie beside a checkpoint, and how good it was found to be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from effnet_core.errors import CheckpointError
from effnet_core.results.checked import Count, check_fields
from effnet_core.system.files import sha256_of_file
from effnet_core.weights.checkpoint import Checkpoint

ONNX_NAME = "model.int8.onnx"
IR_NAMES = ("model.int8.xml", "model.int8.bin")
"""The same for OpenVINO."""
NAMES = (ONNX_NAME, *IR_NAMES)

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Quantized:
    """What is known of an int8 network; stands in the sidecar of the checkpoint it was made from."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    """Of the ONNX file."""
    top1: Share
    """On all images of the split."""
    fp32_top1: Share
    """Of the checkpoint, on the same images by the same engine."""
    images: Count
    split: str
    data_digest: str
    calibration_images: Count
    """Training images from which the ranges of activations were taken."""
    kept_fp32: str = ""
    """Layers that stayed in 32 bits, in words."""

    @property
    def drop(self) -> float:
        """How much top-1 is lost; negative where it rose."""
        return self.fp32_top1 - self.top1

    def __str__(self) -> str:
        kept = f", {self.kept_fp32} in fp32" if self.kept_fp32 else ""
        return (
            f"int8 has top-1 {self.top1:.2%}, fp32 {self.fp32_top1:.2%} on the same {self.images:,} "
            f"images of {self.split} ({round(-100 * self.drop, 2) + 0.0:+.2f} points; ranges from "
            f"{self.calibration_images:,} training images{kept})"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Quantized:
        """What ``to_dict`` described.

        Raises:
            ValueError: it is not that.
        """
        return check_fields(cls, values)


def path_of(checkpoint: Checkpoint) -> Path | None:
    """The int8 network beside a checkpoint, verified; None where it has none.

    Raises:
        CheckpointError: the file is not the one that the sidecar describes.
    """
    found = checkpoint.sidecar.int8
    path = checkpoint.path.with_name(ONNX_NAME)
    if not found or not path.is_file():
        return None
    if sha256_of_file(path) != Quantized.from_dict(found).sha256:
        raise CheckpointError(
            f"int8 network {path} is damaged: its SHA-256 is not the one in the checkpoint's sidecar; copy "
            "it again, or make it again with effnet quantize"
        )
    return path
