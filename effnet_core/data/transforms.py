"""``PreprocessSpec`` and the augmentation settings as operations of MindSpore's C++ pipeline."""

from __future__ import annotations

from typing import Any

from mindspore.dataset import vision
from mindspore.dataset.vision import Inter

from effnet_core.config import DataConfig
from effnet_core.data.preprocess import PreprocessSpec

# PILCUBIC gives Pillow's bicubic pixels to the last bit; plain BICUBIC is OpenCV's and does not.
_INTERPOLATION = {"bicubic": Inter.PILCUBIC, "bilinear": Inter.LINEAR}
_CROP_INTERPOLATION = {"bicubic": Inter.BICUBIC, "bilinear": Inter.LINEAR}


def train_transforms(spec: PreprocessSpec, data: DataConfig) -> list[Any]:
    """Encoded bytes to (3, S, S) float32: random crop and mirror, then normalised."""
    return [
        vision.RandomCropDecodeResize(
            spec.image_size,
            scale=data.crop_scale,
            ratio=data.crop_ratio,
            interpolation=_CROP_INTERPOLATION[spec.interpolation],
        ),
        vision.RandomHorizontalFlip(data.flip_rate),
        *_to_network_input(spec),
    ]


def eval_transforms(spec: PreprocessSpec) -> list[Any]:
    """Encoded bytes to (3, S, S) float32: resize, centre crop, normalised."""
    return [
        vision.Decode(),
        vision.Resize(spec.resize_size, interpolation=_INTERPOLATION[spec.interpolation]),
        vision.CenterCrop(spec.image_size),
        *_to_network_input(spec),
    ]


def _to_network_input(spec: PreprocessSpec) -> list[Any]:
    mean = [value * 255 for value in spec.mean]
    std = [value * 255 for value in spec.std]
    return [vision.Normalize(mean, std), vision.HWC2CHW()]
