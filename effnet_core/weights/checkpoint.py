"""Checkpoints that are whole, and loads that are strict.

A checkpoint is ``NAME.ckpt`` and beside it ``NAME.json``, the sidecar: which model, which classes,
which preprocessing, how far, how good, and the SHA-256 of the file. It counts only once its sidecar is
there. MindSpore's own ``save_checkpoint`` deletes the old file before it writes the new one, and its
``load_param_into_net`` matches names by suffix; this project does not call them.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import CheckpointError, DataError
from effnet_core.family.variants import DEFAULT_PADDING, VARIANTS, Padding
from effnet_core.results.checked import Count, check_fields, whole, with_tuples
from effnet_core.system.files import NO_ROOM, atomic_path, read_json, sha256_of_file, write_json
from effnet_core.text import nearest, os_reason
from effnet_core.weights.ckpt_file import read_ckpt, write_ckpt

if TYPE_CHECKING:
    from mindspore import Parameter

SUFFIX = ".ckpt"
MODEL_NAME = "model.ckpt"
"""The finished model in a run folder: weights only."""
BEST_NAME = "best.ckpt"
"""The weights of the best evaluation, among a run's checkpoints."""


@dataclass(frozen=True)
class Sidecar:
    """What must be known to use a checkpoint; lies beside it as JSON."""

    variant: str
    class_names: Annotated[tuple[str, ...], Field(min_length=1)]
    preprocess: PreprocessSpec
    bn_momentum: Annotated[float, Field(ge=0, le=1)]
    bn_eps: Annotated[float, Field(gt=0, le=1)]
    epoch: Count
    """Finished passes over the training split."""
    step: Count
    """Finished updates since scratch."""
    training_state: bool
    """Whether optimizer state is inside, so that training can continue."""
    padding: Padding = DEFAULT_PADDING
    """Padding of convolutions: ``symmetric`` or TensorFlow's ``same``."""
    temperature: Annotated[float, Field(gt=0, le=1000)] = 1.0
    """What logits are divided by for their probabilities to be honest; 1 changes nothing. The weights of
    the file do not have it in them, what is loaded or exported for inference has."""
    source: str = ""
    """Where imported weights came from, in words."""
    data_digest: str = ""
    """Digest of the data set that it was trained on."""
    metrics: dict[str, Any] = field(default_factory=dict)
    progress: dict[str, Any] = field(default_factory=dict)
    """In a training checkpoint: what else a run must know to continue as if it had not been cut."""
    int8: dict[str, Any] = field(default_factory=dict)
    """Of the int8 network beside the file, where there is one: see ``quantized.Quantized``."""
    sha256: Annotated[str, Field(pattern="^([0-9a-f]{64})?$")] = ""
    size_bytes: Count = 0
    libraries: dict[str, str] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        """Outputs of the classifier."""
        return len(self.class_names)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {**asdict(self), "class_names": list(self.class_names)}

    @classmethod
    def from_dict(cls, values: Any) -> Sidecar:
        """The sidecar that ``to_dict`` described.

        Raises:
            ValueError: it is not one, or a value is out of its range.
        """
        if not isinstance(values, dict):
            raise ValueError("it is not an object with names and values")
        given = with_tuples(values, "class_names")
        found = check_fields(
            cls, {**given, "preprocess": PreprocessSpec.from_dict(values.get("preprocess"))}
        )
        if found.variant not in VARIANTS:
            hint = nearest(found.variant, VARIANTS)
            raise ValueError(f"variant {found.variant!r} is not known here{hint}")
        return found


def sidecar_path(checkpoint: Path) -> Path:
    """Where the sidecar of a checkpoint lies."""
    return checkpoint.with_suffix(".json")


def find(weights: Path) -> Path:
    """The checkpoint that a person means: the file itself, or the model of a run folder.

    Raises:
        CheckpointError: the folder holds no finished model.
    """
    if not weights.is_dir():
        return weights
    if not (weights / MODEL_NAME).exists():
        raise CheckpointError(
            f"folder {weights} holds no finished model ({MODEL_NAME}); is it the folder of a "
            "training run, and has the run ended?"
        )
    return weights / MODEL_NAME


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was opened and verified; who has one need not look at its digest again."""

    path: Path
    sidecar: Sidecar

    @property
    def sha256(self) -> str:
        """Digest of the file."""
        return self.sidecar.sha256

    def with_image_size(self, side: int) -> Checkpoint:
        """The same weights for images of another side, px: no layer depends on it."""
        spec = replace(self.sidecar.preprocess, image_size=side)
        return replace(self, sidecar=replace(self.sidecar, preprocess=spec))

    def load(self) -> dict[str, NDArray[Any]]:
        """Every array of the file by its name, training state included.

        Raises:
            CheckpointError: the file cannot be read any more.
        """
        try:
            return read_ckpt(self.path)
        except Exception as cause:
            raise CheckpointError(
                f"checkpoint {self.path} cannot be read; it is damaged"
            ) from cause


def open_checkpoint(path: Path, *, sha256: str | None = None) -> Checkpoint:
    """Open a checkpoint: read its sidecar and check the file's bytes against it.

    The whole file is read for that, so it is done once a process; pass on what comes back.

    Args:
        path: the ``.ckpt`` file, its sidecar beside it.
        sha256: the digest that it must have, where another process has opened it before.

    Raises:
        CheckpointError: file or sidecar is missing, the file is not the one described, or not the one
            that the other process opened.
    """
    checkpoint = opened_before(path, sha256)
    if sha256_of_file(path) != checkpoint.sha256:
        raise CheckpointError(
            f"checkpoint {path} is damaged: its SHA-256 is not the one in its sidecar; "
            "copy it again or use an earlier one"
        )
    return checkpoint


def opened_before(path: Path, sha256: str | None) -> Checkpoint:
    """A checkpoint whose bytes were verified before and are not read again here.

    Args:
        path: the ``.ckpt`` file, its sidecar beside it.
        sha256: the digest that was found; None where the caller is about to verify it.

    Raises:
        CheckpointError: file or sidecar is missing, or they are of another checkpoint now.
    """
    sidecar = _read_sidecar(path)
    if sha256 is not None and sidecar.sha256 != sha256:
        raise CheckpointError(
            f"checkpoint {path} was replaced while it was in use: its SHA-256 was {sha256[:12]} and is "
            f"{sidecar.sha256[:12]} now; start again"
        )
    return Checkpoint(path, sidecar)


def _read_sidecar(checkpoint: Path) -> Sidecar:
    if not checkpoint.is_file():
        raise CheckpointError(f"checkpoint {checkpoint} does not exist")
    path = sidecar_path(checkpoint)
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {checkpoint} has no sidecar {path.name} beside it, which tells variant, classes "
            "and preprocessing; copy both files"
        )
    how = "copy it again, with its checkpoint, from where that came from"
    with whole(path, "sidecar", error=CheckpointError, remedy=how):
        try:
            sidecar = Sidecar.from_dict(read_json(path))
        except DataError as cause:
            raise ValueError(str(cause)) from cause
    size = checkpoint.stat().st_size
    if size != sidecar.size_bytes:
        raise CheckpointError(
            f"checkpoint {checkpoint} is damaged: {size:,} bytes where its sidecar says "
            f"{sidecar.size_bytes:,}; copy it again or use an earlier one"
        )
    return sidecar


def save(path: Path, parameters: Iterable[Parameter], sidecar: Sidecar) -> Sidecar:
    """As ``save_arrays``, of MindSpore's parameters."""
    return save_arrays(path, {p.name: p.asnumpy() for p in parameters}, sidecar)


def save_arrays(
    path: Path,
    arrays: Mapping[str, NDArray[Any]],
    sidecar: Sidecar,
    *,
    inside: Path | None = None,
) -> Sidecar:
    """Write a checkpoint and then its sidecar; a reader meets both or neither.

    Args:
        inside: a folder that must be there, at most one level above; a network share that has gone is
            then not replaced by a folder of this machine. Otherwise what is missing is made.

    Returns:
        The sidecar as written, with digest, size and library versions.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written to; what was there before
            is untouched.
    """
    try:
        if inside is not None and path.parent != inside:
            path.parent.mkdir(exist_ok=True)
        make = inside is None
        with (
            atomic_path(sidecar_path(path), make_folder=make) as beside,
            atomic_path(path, make_folder=make) as temporary,
        ):
            write_ckpt(temporary, arrays)
            written = {"sha256": sha256_of_file(temporary), "size_bytes": temporary.stat().st_size}
            complete = Sidecar(**{**vars(sidecar), **written, "libraries": library_versions()})
            write_json(beside, complete.to_dict())
            sidecar_path(path).unlink(missing_ok=True)
    except (OSError, CheckpointError) as cause:
        system = cause if isinstance(cause, OSError) else cause.__cause__
        reason = os_reason(system) if isinstance(system, OSError) else str(cause)
        if isinstance(system, OSError) and system.errno not in NO_ROOM:
            what = "bring its folder back, or mend its rights"
        else:
            needed = sum(array.nbytes for array in arrays.values())
            what = f"it needs {needed:,} bytes{_free_space(path)}, and earlier checkpoints are untouched"
        raise CheckpointError(f"checkpoint {path} cannot be written ({reason}); {what}") from cause
    return complete


def _free_space(path: Path) -> str:
    try:
        return f" and {shutil.disk_usage(path.parent).free:,} are free"
    except OSError:
        return ""


CLASSIFIER = ("classifier.weight", "classifier.bias")
"""Names of the head, which fine-tuning on other classes starts anew."""


def calibrated(arrays: Mapping[str, NDArray[Any]], temperature: float) -> dict[str, NDArray[Any]]:
    """The same arrays with the temperature in the classifier, so that its logits need no division."""
    if temperature == 1.0:
        return dict(arrays)
    head = {
        name: (arrays[name].astype(np.float64) / temperature).astype(arrays[name].dtype)
        for name in CLASSIFIER
        if name in arrays
    }
    return {**arrays, **head}


OPTIMIZER_PREFIXES = (
    "mean_square.",
    "moment.",
    "moments.",
    "moment1.",
    "moment2.",
    "beta1_power",
    "beta2_power",
    "momentum",
    "global_step",
    "learning_rate",
    "ema.",
    "loss_scale.",
    "ranks.",
)
"""Names of training state, which a checkpoint may hold beside the weights."""


def step_path(folder: Path, step: int) -> Path:
    """Where the training checkpoint of a step lies."""
    return folder / f"step-{step:08d}{SUFFIX}"


def newest(folder: Path) -> Checkpoint | None:
    """The whole training checkpoint with the most steps in a folder; damaged ones are passed over."""
    for path in sorted(folder.glob(f"step-*{SUFFIX}"), reverse=True):
        try:
            return open_checkpoint(path)
        except CheckpointError:
            continue
    return None


def prune(folder: Path, keep: int) -> None:
    """Delete all but the ``keep`` newest training checkpoints."""
    for path in sorted(folder.glob(f"step-*{SUFFIX}"), reverse=True)[keep:]:
        sidecar_path(path).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


def _some(what: str, names: list[str]) -> str:
    """A count and the first ten names."""
    return f"{len(names)} parameters {what}" + (f" ({', '.join(names[:10])})" if names else "")


def library_versions() -> dict[str, str]:
    """Versions that a checkpoint was made with."""
    return {name: version(name) for name in ("effnet-flows", "mindspore", "numpy")}
