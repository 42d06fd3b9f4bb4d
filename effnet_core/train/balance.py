"""Weight of each class in the loss, in plain numpy."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from effnet_core.data.manifest import Split
from effnet_core.errors import ConfigError


def weights_of_classes(
    wanted: Literal["balanced"] | tuple[float, ...] | None,
    split: Split,
    class_names: tuple[str, ...],
) -> NDArray[np.float64] | None:
    """Weight of each class, (num_classes,), or None for one each.

    Args:
        wanted: ``train.class_weights``.
        split: the images that are learned from.
        class_names: of the data set.

    Raises:
        ConfigError: there are not as many as classes.
    """
    if wanted is None:
        return None
    classes = len(class_names)
    if wanted == "balanced":
        counts = np.bincount(split.labels, minlength=classes)
        return np.asarray(len(split) / (classes * np.maximum(counts, 1)))
    if len(wanted) != classes:
        raise ConfigError(
            f"train.class_weights has {len(wanted)} numbers, the data set {classes} classes "
            f"({', '.join(class_names[:3])}, ...); give one for each"
        )
    return np.array(wanted)
