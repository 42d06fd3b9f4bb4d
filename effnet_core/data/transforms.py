"""``PreprocessSpec`` and the augmentation settings as operations of MindSpore's C++ pipeline."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

import numpy as np
from mindspore.dataset import vision
from mindspore.dataset.vision import Inter
from numpy.typing import NDArray

from effnet_core.config.schema import DataConfig
from effnet_core.data.images import decode_image
from effnet_core.data.preprocess import PreprocessSpec, preprocess

_CROP_INTERPOLATION = {"bicubic": Inter.BICUBIC, "bilinear": Inter.LINEAR}


def train_transforms(spec: PreprocessSpec, data: DataConfig) -> list[Any]:
    """Encoded bytes to (3, S, S) float32: random crop, mirror and policy, then normalised."""
    return [
        vision.RandomCropDecodeResize(
            spec.image_size,
            scale=data.crop_scale,
            ratio=data.crop_ratio,
            interpolation=_CROP_INTERPOLATION[spec.interpolation],
        ),
        vision.RandomHorizontalFlip(data.flip_rate),
        *_policy(data),
        *_to_network_input(spec),
    ]


def _policy(data: DataConfig) -> list[Any]:
    """Changes of shape and colours on pixels of 8 bits, drawn by MindSpore."""
    if data.policy == "randaugment":
        return [vision.RandAugment(data.policy_ops, data.policy_magnitude)]
    if data.policy == "autoaugment":
        return [vision.AutoAugment()]
    if data.policy == "trivialaugment":
        return [vision.TrivialAugmentWide()]
    return []


def eval_transforms(spec: PreprocessSpec) -> list[Any]:
    """Encoded bytes to (3, S, S) float32: resize, centre crop, normalised.

    The pixels are those of ``preprocess``: PILCUBIC is Pillow's bicubic to the last bit. MindSpore has
    no such bilinear, its own does not smooth when it shrinks, so there the reference itself is used.
    """
    if spec.interpolation == "bilinear":
        return [partial(_reference, spec=spec)]
    side = spec.resize_size
    return [
        vision.Decode(),
        vision.Resize(
            (side, side) if spec.crop_mode == "squash" else side, interpolation=Inter.PILCUBIC
        ),
        vision.CenterCrop(spec.image_size),
        *_to_network_input(spec),
    ]


def _reference(content: NDArray[np.uint8], spec: PreprocessSpec) -> NDArray[np.float32]:
    return preprocess(decode_image(content.tobytes(), max_pixels=sys.maxsize), spec)


def _to_network_input(spec: PreprocessSpec) -> list[Any]:
    mean = [value * 255 for value in spec.mean]
    std = [value * 255 for value in spec.std]
    return [vision.Normalize(mean, std), vision.HWC2CHW()]
