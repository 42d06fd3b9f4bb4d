"""Why a model answered: class activation maps.

The network ends in the mean over the last features' places and one matrix, so the logit of a class is the
mean of that matrix' row times the features of each place: these products are the map, and nothing has to be
estimated.

Source: Zhou et al., Learning Deep Features for Discriminative Localization (arXiv 1512.04150), section 2.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effnet_core.data.images import ImageProblem
from effnet_core.data.preprocess import PixelArray, decode_square
from effnet_core.errors import EffnetError
from effnet_core.events import Event, emit
from effnet_core.export.onnx_model import MAPS, PIXELS, build_model
from effnet_core.infer.readers import ImageReader
from effnet_core.system.machine import available_cores
from effnet_core.weights.checkpoint import CLASSIFIER, Checkpoint, calibrated

FloatArray = NDArray[np.float32]
SHOWN_PX = 192
"""Side of a picture with its map on a page."""
COLOURS = np.array(
    [(20, 20, 60), (60, 30, 130), (180, 50, 100), (245, 140, 40), (255, 240, 120)], np.float64
)
"""Of places that spoke against the class or not for it, up to those that spoke most for it."""
OPACITY = 0.55


@dataclass(frozen=True)
class Explainer:
    """A model that also says which places of an image spoke for a class."""

    session: object
    """Of ONNX Runtime."""
    weight: FloatArray
    """(classes, channels): the classifier's matrix."""
    checkpoint: Checkpoint

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Explainer:
        """Of a checkpoint; it computes on the CPU.

        Raises:
            CheckpointError: the checkpoint does not hold exactly the parameters of its variant.
        """
        import onnxruntime

        parameters = calibrated(checkpoint.load(), checkpoint.sidecar.temperature)
        model = build_model(parameters, checkpoint.sidecar, pixels=True, maps=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(available_cores())
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return cls(session, parameters[CLASSIFIER[0]].astype(np.float32), checkpoint)

    def maps(self, pixels: PixelArray, classes: Sequence[int]) -> FloatArray:
        """What each place adds to the logit of a class, (N, h, w); its mean and the bias are the logit.

        Args:
            pixels: (N, S, S, 3) uint8.
            classes: one for each image.
        """
        (features,) = self.session.run([MAPS], {PIXELS: pixels})  # type: ignore[attr-defined]
        rows = self.weight[np.asarray(classes)]  # (N, channels)
        found: FloatArray = np.einsum("nc,nchw->nhw", rows, features)
        return found

    def explain(self, content: bytes, class_id: int) -> Image.Image:
        """The square that the network saw, coloured by what spoke for a class.

        Raises:
            ImageProblem: the picture cannot be decoded.
        """
        square = decode_square(content, self.checkpoint.sidecar.preprocess, fast=False)
        return overlay(square, self.maps(square[None], [class_id])[0])


def overlay(square: PixelArray, heat: FloatArray) -> Image.Image:
    """A picture (S, S, 3) with a map (h, w) over it; what spoke against the class stays dark."""
    strength = np.maximum(heat, 0)
    peak = float(strength.max())
    strength = strength / peak if peak > 0 else strength
    size = (square.shape[1], square.shape[0])
    smooth = Image.fromarray((255 * strength).astype(np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    place = np.asarray(smooth, np.float64) / 255 * (len(COLOURS) - 1)
    low = np.minimum(place.astype(np.int64), len(COLOURS) - 2)
    share = (place - low)[..., None]
    colours = COLOURS[low] * (1 - share) + COLOURS[low + 1] * share
    mixed = (1 - OPACITY) * square + OPACITY * colours
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


def as_address(picture: Image.Image) -> str:
    """A picture as the address that embeds it in a page."""
    stream = io.BytesIO()
    picture.resize((SHOWN_PX, SHOWN_PX), Image.Resampling.BICUBIC).save(stream, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def explain_pictures(
    checkpoint: Checkpoint, source: ImageReader, wanted: Sequence[tuple[str, int]]
) -> dict[str, Image.Image]:
    """Pictures with their maps, by path; those that cannot be read any more are left out.

    Args:
        checkpoint: the model.
        source: reads the paths.
        wanted: path and class of each picture.
    """
    if not wanted:
        return {}
    explainer = Explainer.of(checkpoint)
    found = {}
    for done, (path, class_id) in enumerate(wanted, start=1):
        try:
            found[path] = explainer.explain(source.read(path), class_id)
        except (ImageProblem, EffnetError, OSError):
            continue
        emit(Event("explain", "", done, len(wanted)))
    return found
