"""How each publisher names the parameters of this family: one small table a publisher, read both ways."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from effnet_core.weights.layouts.base import Layout
from effnet_core.weights.layouts.lukemelas import LUKEMELAS
from effnet_core.weights.layouts.mindcv import MINDCV
from effnet_core.weights.layouts.mindvision import MINDVISION
from effnet_core.weights.layouts.native import NATIVE
from effnet_core.weights.layouts.timm import TIMM, TIMM_TF
from effnet_core.weights.layouts.torchvision import TORCHVISION

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (NATIVE, MINDVISION, MINDCV, TORCHVISION, TIMM, TIMM_TF, LUKEMELAS)
    }
)
