"""``effnet export``: write a checkpoint in another format, and trust it only after a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from effnet_core.config.schema import RunConfig, RuntimeConfig
from effnet_core.data.images import ImageProblem, read_image
from effnet_core.errors import ConfigError, DataError, ExportError
from effnet_core.jobs.job import MindirJob, VerifyJob
from effnet_core.jobs.launch import run_job
from effnet_core.system.files import put_in_place
from effnet_core.system.locks import scratch_folder, sole_writer
from effnet_core.text import os_reason
from effnet_core.weights.checkpoint import OPTIMIZER_PREFIXES, Checkpoint, calibrated

Format = Literal["onnx", "mindir", "safetensors"]

TOLERANCE = 1e-4
"""Largest difference of a logit that is put down to rounding, for logits that spread by 1."""


OTHER_SIDE_PX = 33
LEAST_SIDE_PX = 32
"""The network halves its input five times."""


@dataclass(frozen=True)
class Agreement:
    """How an exported file compares with MindSpore."""

    difference: float
    """Largest difference between two logits; of weights, where only those are in the file."""
    spread: float
    """Standard deviation of the logits."""
    images: int
    """Images that were compared, random and real."""

    def __str__(self) -> str:
        if not self.images:
            return "holds the checkpoint's weights to the last bit"
        return (
            f"agrees with MindSpore on {self.images} images, logits differ by at most "
            f"{self.difference:.1e} (their spread is {self.spread:.3g})"
        )

    def with_another(self, other: Agreement) -> Agreement:
        """Both comparisons as one: the worse of them, over the images of both."""
        worse = max(self, other, key=lambda found: found.difference)
        return Agreement(worse.difference, worse.spread, self.images + other.images)

    @property
    def is_close(self) -> bool:
        """Whether the difference is rounding."""
        return self.difference <= TOLERANCE * max(1.0, self.spread)  # NaN is not


def export(
    checkpoint: Checkpoint,
    out: Path,
    *,
    format: str,
    pictures: Sequence[Path] = (),
    features: bool = False,
    image_size: int | None = None,
    dynamic: bool = False,
    config: RunConfig | None = None,
) -> Agreement:
    """Write a checkpoint in another format; ``out`` appears only once it was compared.

    Args:
        checkpoint: the model.
        out: the file; what lies there is replaced.
        format: ``onnx``, ``mindir`` or ``safetensors``.
        pictures: images that are compared besides random ones and a packaged photograph.
        features: give an ONNX file the pooled features as a second output.
        image_size: side of the input, px; the checkpoint's own by default.
        dynamic: let an ONNX file take images of any height and width; compared at two sizes.
        config: settings of the child processes.

    Raises:
        ConfigError: there is no such format, or not with these options.
        CheckpointError, DataError: the checkpoint or a picture cannot be read.
        ExportError: the file does not agree with MindSpore; nothing was written.
        FolderInUse: another command writes ``out`` now.
    """
    _check_options(out, format, features=features, image_size=image_size, dynamic=dynamic)
    if image_size is not None:
        checkpoint = checkpoint.with_image_size(image_size)
    for picture in pictures:
        _require_image(picture)
    config = config or RunConfig()
    with (
        sole_writer(out, what="exported file"),
        scratch_folder("new", beside=out.parent) as folder,
    ):
        fresh = folder / f"model.{format}"
        try:
            _write(checkpoint, fresh, format, features=features, dynamic=dynamic, config=config)
        except OSError as cause:
            raise DataError(f"{out} cannot be written ({os_reason(cause)}); make room") from cause
        if format == "safetensors":
            agreement = _compare_weights(checkpoint, fresh)
        else:
            agreement = require_agreement(
                checkpoint, fresh, format, pictures=pictures, config=config
            )
            if dynamic:
                other = checkpoint.with_image_size(agreement_size(checkpoint))
                more = require_agreement(other, fresh, format, pictures=pictures, config=config)
                agreement = agreement.with_another(more)
        put_in_place(fresh, out)
    return agreement


def require_agreement(
    checkpoint: Checkpoint,
    file: Path,
    format: str,
    *,
    pictures: Sequence[Path] = (),
    config: RunConfig,
) -> Agreement:
    """Compare an ONNX or MindIR file with MindSpore, in a child process.

    Raises:
        ExportError: they do not agree, or the file cannot be loaded.
    """
    job = VerifyJob(
        checkpoint.path.resolve(),
        checkpoint.sha256,
        file.resolve(),
        format,
        tuple(path.resolve() for path in (packaged_photograph(), *pictures)),
        image_size=checkpoint.sidecar.preprocess.image_size,
    )
    with scratch_folder("verify") as folder:
        result = run_job(job, _alone(config), folder)
    agreement = Agreement(**result)
    if not agreement.is_close:
        raise ExportError(
            f"the {format} file does not agree with MindSpore: logits differ by up to "
            f"{agreement.difference:.3g} on {agreement.images} images, allowed is "
            f"{TOLERANCE * max(1.0, agreement.spread):.3g}; it was not kept"
        )
    return agreement


def agreement_size(checkpoint: Checkpoint) -> int:
    """Another side at which a file for any size is compared: odd, which padding must follow."""
    return checkpoint.sidecar.preprocess.image_size + OTHER_SIDE_PX


def packaged_photograph() -> Path:
    """A real photograph that is on every machine: matplotlib's."""
    import matplotlib

    return Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"


def _write(
    checkpoint: Checkpoint,
    out: Path,
    format: str,
    *,
    features: bool,
    dynamic: bool,
    config: RunConfig,
) -> None:
    if format == "onnx":
        from effnet_core.export.onnx_model import write_onnx

        write_onnx(checkpoint, out, features=features, dynamic=dynamic)
    elif format == "safetensors":
        _write_safetensors(checkpoint, out)
    else:
        side = checkpoint.sidecar.preprocess.image_size
        job = MindirJob(checkpoint.path.resolve(), checkpoint.sha256, out.resolve(), side)
        with scratch_folder("export") as folder:
            run_job(job, _alone(config), folder)


def _write_safetensors(checkpoint: Checkpoint, out: Path) -> None:
    """Weights without optimizer state, under their own names, with the sidecar as metadata."""
    import json

    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    sidecar = {**checkpoint.sidecar.to_dict(), "temperature": 1.0}  # the weights have it in them
    metadata = {"effnet": json.dumps(sidecar), "format": "np"}
    try:
        save_file(_weights(checkpoint), out, metadata=metadata)
    except SafetensorError as cause:  # what it makes of the system's answer
        raise OSError(0, str(cause).lower()) from cause


def _compare_weights(checkpoint: Checkpoint, file: Path) -> Agreement:
    from safetensors.numpy import load_file

    wanted, found = _weights(checkpoint), load_file(file)
    if set(wanted) != set(found) or any(
        not np.array_equal(wanted[name], found[name], equal_nan=True) for name in wanted
    ):
        raise ExportError("the safetensors file does not hold the checkpoint's weights")
    return Agreement(0.0, 0.0, 0)


def _weights(
    checkpoint: Checkpoint,
) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    """The weights, the temperature in the classifier."""
    arrays = calibrated(checkpoint.load(), checkpoint.sidecar.temperature)
    return {
        name: value for name, value in arrays.items() if not name.startswith(OPTIMIZER_PREFIXES)
    }


def _check_options(
    out: Path, format: str, *, features: bool, image_size: int | None, dynamic: bool
) -> None:
    if format not in get_args(Format):
        raise ConfigError(f"format {format!r} is unknown (known: {', '.join(get_args(Format))})")
    if features and format != "onnx":
        raise ConfigError(f"--features goes with --format onnx, not {format}")
    if dynamic and format != "onnx":
        raise ConfigError(f"--dynamic goes with --format onnx, not {format}")
    if image_size is not None and format == "safetensors":
        raise ConfigError(
            "--image-size goes with --format onnx or mindir: safetensors holds weights only"
        )
    if image_size is not None and image_size < LEAST_SIDE_PX:
        raise ConfigError(f"--image-size {image_size} is too small; give {LEAST_SIDE_PX} or more")
    if out.is_dir():
        raise ConfigError(f"{out} is a folder; give the name of a file")


def _require_image(path: Path) -> None:
    try:
        read_image(path)
    except ImageProblem as cause:
        raise DataError(f"image {path} cannot be used: {cause}") from cause


def _alone(config: RunConfig) -> RunConfig:
    """The same for one process; on a CPU in place of a GPU, where convolutions round to TF32."""
    one = config.runtime.model_copy(update={"world_size": 1})
    if one.device == "GPU":
        one = RuntimeConfig(mindspore_log=one.mindspore_log, timeout_s=one.timeout_s)
    return config.model_copy(update={"runtime": one})
