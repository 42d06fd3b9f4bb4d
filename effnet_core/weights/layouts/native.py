"""This project's own names (``model/network.py``)."""

from effnet_core.model.spec import DEFAULT_BN_EPS
from effnet_core.weights.layouts.base import MINDSPORE_NORM, PARTS, Layout

NATIVE = Layout(
    name="native",
    stem=("stem.conv", "stem.norm"),
    head=("head.conv", "head.norm"),
    classifier="classifier",
    block="blocks.{flat}.",
    parts=PARTS,
    norm=MINDSPORE_NORM,
    eps=lambda row: DEFAULT_BN_EPS,
    ignored=(),
)
