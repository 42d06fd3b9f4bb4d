"""A network with the parameters of a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from effnet_core.errors import CheckpointError
from effnet_core.model.network import EfficientNet, create_model
from effnet_core.weights.checkpoint import OPTIMIZER_PREFIXES, Checkpoint, _some, calibrated

if TYPE_CHECKING:
    from mindspore import Parameter


def load_network(
    checkpoint: Checkpoint, *, library: Path | None = None, is_calibrated: bool = True
) -> EfficientNet:
    """The network of a checkpoint, for inference.

    Args:
        checkpoint: the model.
        is_calibrated: whether its logits are divided by the sidecar's temperature.
        library: of native kernels; not for a network that is exported.

    Raises:
        CheckpointError: the checkpoint does not hold exactly the network's parameters.
    """
    sidecar = checkpoint.sidecar
    network = create_model(
        sidecar.variant,
        num_classes=sidecar.num_classes,
        bn_momentum=sidecar.bn_momentum,
        bn_eps=sidecar.bn_eps,
        padding=sidecar.padding,
        library=library,
    )
    temperature = sidecar.temperature if is_calibrated else 1.0
    load_parameters(checkpoint, network.get_parameters(), temperature=temperature)
    network.set_train(False)
    return network


def load_parameters(
    checkpoint: Checkpoint,
    parameters: Iterable[Parameter],
    *,
    skip: Collection[str] = (),
    temperature: float = 1.0,
) -> dict[str, NDArray[Any]]:
    """Fill parameters from a checkpoint, every one of them and by its exact name.

    Args:
        checkpoint: where the values are.
        parameters: the ones to fill; the checkpoint may hold training state besides, nothing else.
        skip: names in the checkpoint that are left out on purpose.
        temperature: what the logits are to be divided by.

    Returns:
        What the checkpoint holds besides, by name.

    Raises:
        CheckpointError: a parameter is missing, left over or of another shape; nothing was changed.
    """
    import mindspore as ms

    parameters = list(parameters)
    path, stored = checkpoint.path, calibrated(checkpoint.load(), temperature)
    wanted = {p.name for p in parameters}
    missing = sorted(wanted - set(stored))
    unknown = sorted(
        name for name in set(stored) - wanted - set(skip) if not name.startswith(OPTIMIZER_PREFIXES)
    )
    if missing or unknown:
        raise CheckpointError(
            f"checkpoint {path} is of another model: {_some('missing', missing)}, "
            f"{_some('left over', unknown)}"
        )
    for parameter in parameters:
        shape = tuple(stored[parameter.name].shape)
        if shape != tuple(parameter.shape):
            raise CheckpointError(
                f"checkpoint {path} is of another model: {parameter.name} has shape {shape}, "
                f"wanted is {tuple(parameter.shape)}"
            )
    for parameter in parameters:
        parameter.set_data(ms.Tensor(stored[parameter.name], parameter.dtype))
    return {name: stored[name] for name in set(stored) - wanted}
