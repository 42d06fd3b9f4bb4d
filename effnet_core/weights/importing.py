"""Weights of another publisher become a checkpoint of this project, and back.

Strict: every tensor of the file has its place and every parameter its tensor, or the file is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effnet_core.data import imagenet
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import CheckpointError, ConfigError
from effnet_core.events import Event, emit
from effnet_core.family.variants import VARIANTS, Variant
from effnet_core.family.variants import variant as variant_row
from effnet_core.results.checked import check_fields
from effnet_core.system.files import sha256_of_file
from effnet_core.text import nearest
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import (
    CLASSIFIER,
    OPTIMIZER_PREFIXES,
    Checkpoint,
    Sidecar,
    calibrated,
)
from effnet_core.weights.ckpt_file import write_ckpt
from effnet_core.weights.containers import read_tensors, write_safetensors
from effnet_core.weights.layouts import LAYOUTS, Layout, family, shapes
from effnet_core.weights.publisher import (
    FIXED,
    Statement,
    of_name,
    read_statement,
    require_named_digest,
)

Array = NDArray[Any]

TOPIC = "weights"
BN_MOMENTUM = 0.99
SHOWN = 10
"""Names that a message lists before it counts."""


@dataclass(frozen=True)
class Match:
    """How the tensors of a file fit a variant in a layout."""

    row: Variant
    layout: Layout
    num_classes: int
    """Outputs of the head; 0 where the file has no head."""
    missing: tuple[str, ...]
    """Names that the file lacks."""
    left_over: tuple[str, ...]
    """Names of the file that have no place."""
    misshapen: tuple[str, ...]
    """Names with both shapes."""

    @property
    def fits(self) -> bool:
        """Whether everything has its place."""
        return not (self.missing or self.left_over or self.misshapen)

    @property
    def faults(self) -> int:
        """How much does not fit."""
        return len(self.missing) + len(self.left_over) + len(self.misshapen)


@dataclass(frozen=True)
class Imported:
    """What was found in a file and became of it."""

    checkpoint: Path
    sidecar: Sidecar
    container: str
    layout: str
    tensors: int
    file_classes: int
    """Classes of the file's own head; 0 where it has none."""
    told_by: str
    """Who says how images are prepared, in words; empty where it is a guess."""

    @property
    def new_head(self) -> bool:
        """Whether the classifier was replaced."""
        return self.sidecar.num_classes != self.file_classes

    def describe(self) -> str:
        """One sentence for people."""
        new = f"a new, untrained one of {self.sidecar.num_classes}"
        head = f", {self.file_classes} classes"
        if self.new_head:
            had = f"its head of {self.file_classes} classes" if self.file_classes else "no head"
            head = f"; {had} was replaced by {new}" if self.file_classes else f"; {had}, {new}"
        spec = self.sidecar.preprocess
        shape = "squash" if spec.crop_mode == "squash" else f"crop {spec.crop_pct:.4g}"
        return (
            f"{self.container} with {self.tensors} tensors in {self.layout}'s layout: "
            f"{self.sidecar.variant}{head}; eps {self.sidecar.bn_eps:g}, {self.sidecar.padding} padding; "
            f"images {spec.image_size} px, {shape}, {spec.interpolation}, mean {_numbers(spec.mean)}, "
            f"std {_numbers(spec.std)} ({self.told_by or 'a guess'})"
        )


def import_weights(
    path: Path,
    out: Path,
    *,
    variant: str | None = None,
    layout: str | None = None,
    num_classes: int | None = None,
    class_names: tuple[str, ...] | None = None,
    seed: int = 0,
    hint: str = "",
    native: bool = True,
    preprocess: Mapping[str, object] | None = None,
) -> Imported:
    """Read weights of any known publisher and write them as a checkpoint with its sidecar.

    Args:
        path: the file; it is recognised by what is in it.
        out: the checkpoint to write.
        variant: what it must be; found from names and shapes by default.
        layout: which of two layouts with the same names it is; found from the file's name by default.
        num_classes: another number of classes than the file's starts a new, random head.
        class_names: their names; ImageNet's for 1000 classes, else numbers, by default.
        seed: of a new head.
        hint: a name that the file had where it came from.
        native: accept this project's own names too; without the sidecar, eps and padding are then those
            of the defaults.
        preprocess: fields of ``PreprocessSpec`` that are known better than what the publisher says.

    Raises:
        CheckpointError: the file is damaged, unknown, not exactly one of the family, or not the file that
            its name promises.
        ConfigError: no such variant or layout, or a value of ``preprocess`` is out of its range.
    """
    if class_names is not None and num_classes not in (None, len(class_names)):
        raise ConfigError(f"num_classes={num_classes} but {len(class_names)} class names are given")
    digest = sha256_of_file(path)
    doubt = require_named_digest(path, hint or path.name, digest)
    container, tensors = read_tensors(path)
    architecture, stated = read_statement(path) or ("", None)
    name = architecture or hint or path.name
    match = recognise(path, tensors, variant=variant, layout=layout, hint=name)
    if match.layout.name == "native" and not native:
        raise CheckpointError(
            f"checkpoint {path} has no sidecar {path.with_suffix('.json').name} beside it, which tells "
            "variant, classes and preprocessing; copy both files (or say what it is: effnet weights import)"
        )
    statement = stated or of_name(f"{hint} {path.name}", match.layout.name, match.row.name)
    spec, told_by = _spec(match, statement, preprocess or {})
    if doubt:
        emit(Event(TOPIC, f"warning: {doubt}"))
    if not told_by:
        emit(Event(TOPIC, f"warning: {_guess(path, match, spec)}"))
    if not class_names and statement and len(statement.class_names) == match.num_classes:
        class_names = statement.class_names if num_classes in (None, match.num_classes) else None
    arrays = _native(match, tensors)
    wanted = num_classes or (len(class_names) if class_names else match.num_classes)
    if not wanted:
        raise CheckpointError(
            f"weights {path} have no head (a backbone, num_classes=0); say how many classes a new one gets: "
            "effnet weights import FILE --num-classes N --out OUT.ckpt"
        )
    if wanted != match.num_classes:
        arrays.update(
            _new_head(shapes(match.row, num_classes=1)["classifier.weight"][1], wanted, seed)
        )
    eps = statement.bn_eps if statement else None
    padding = statement.padding if statement else None
    sidecar = Sidecar(
        variant=match.row.name,
        class_names=class_names or default_class_names(wanted),
        preprocess=spec,
        bn_momentum=BN_MOMENTUM,
        bn_eps=match.layout.eps(match.row) if eps is None else eps,
        padding=padding or match.layout.padding,
        epoch=0,
        step=0,
        training_state=False,
        source=f"{hint or path.name} ({container}, {match.layout.name}), sha256 {digest}; images are "
        f"prepared by {told_by or 'a guess'}",
    )
    written = checkpoints.save_arrays(out, arrays, sidecar)
    return Imported(
        out, written, container, match.layout.name, len(tensors), match.num_classes, told_by
    )


def _spec(
    match: Match, statement: Statement | None, given: Mapping[str, object]
) -> tuple[PreprocessSpec, str]:
    """How images are prepared, and who says so: the caller, the publisher, or nobody."""
    spec, told_by = match.layout.spec(match.row), ""
    if match.layout.name in FIXED:
        told_by = f"the rule of {match.layout.name}"
    if statement and statement.preprocess:
        spec, told_by = replace(spec, **statement.preprocess), statement.source  # type: ignore[arg-type]
    if given:
        spec = replace(spec, **given)  # type: ignore[arg-type]
        told_by = f"{told_by} and what was given" if told_by else "what was given"
    try:
        return check_fields(PreprocessSpec, vars(spec)), told_by
    except ValueError as cause:
        raise ConfigError(f"images cannot be prepared so: {cause}") from cause


def _guess(path: Path, match: Match, spec: PreprocessSpec) -> str:
    return (
        f"{path.name} does not say how images are prepared for it; the usual of {match.layout.name} is taken "
        f"(mean {_numbers(spec.mean)}, std {_numbers(spec.std)}, {spec.image_size} px, crop "
        f"{spec.crop_pct:.4g}, {spec.interpolation}), and a wrong one costs accuracy: place its config.json "
        "beside it, or tell: effnet weights import FILE --mean --std --crop-pct --interpolation --image-size"
    )


def _numbers(values: tuple[float, float, float]) -> str:
    return " ".join(f"{value:.4g}" for value in values)


def recognise(
    path: Path,
    tensors: Mapping[str, Array],
    *,
    variant: str | None = None,
    layout: str | None = None,
    hint: str = "",
) -> Match:
    """The variant and layout that the tensors are, exactly.

    Raises:
        CheckpointError: none fits; the message lists what is missing and left over.
        ConfigError: no such variant or layout.
    """
    if layout is not None and layout not in LAYOUTS:
        known = ", ".join(LAYOUTS)
        raise ConfigError(
            f"layout {layout!r} is unknown{nearest(layout, LAYOUTS)} (known: {known})"
        )
    asked = variant_row(variant) if variant else None
    matches = [
        _compare(row, one, tensors)
        for one in LAYOUTS.values()
        for row in VARIANTS.values()
        if family(row) in one.families and layout in (None, one.name)
    ]
    fitting = [match for match in matches if match.fits]
    if asked is not None:
        others = {match.row.name for match in fitting} - {asked.name}
        fitting = [match for match in fitting if match.row == asked]
        if others and not fitting:
            raise CheckpointError(
                f"weights {path} are {', '.join(sorted(others))}, not the {asked.name} that was asked for; "
                "change the variant or the file"
            )
        matches = [match for match in matches if match.row == asked]
    if fitting:
        return _only(path, fitting, hint or path.name)
    if not matches:
        raise ConfigError(f"layout {layout} has no {asked.name if asked else 'such variant'}")
    raise _refusal(path, min(matches, key=lambda match: match.faults), len(tensors))


@dataclass(frozen=True)
class Converted:
    """What was written for another publisher's code."""

    tensors: int
    differences: tuple[str, ...]
    """What that code must be given to return the same logits."""


def convert(checkpoint: Checkpoint, out: Path, *, to: str) -> Converted:
    """Write a checkpoint with the names of another publisher.

    ``.safetensors`` or MindSpore's ``.ckpt`` by the name of ``out``.

    Raises:
        CheckpointError: the checkpoint cannot be read.
        ConfigError: no such layout or kind of file, or that publisher has no such variant.
    """
    if to not in LAYOUTS:
        raise ConfigError(
            f"layout {to!r} is unknown{nearest(to, LAYOUTS)} (known: {', '.join(LAYOUTS)})"
        )
    if out.suffix not in (".ckpt", ".safetensors"):
        raise ConfigError(f"{out} must end in .ckpt or .safetensors")
    sidecar = checkpoint.sidecar
    row, layout = variant_row(sidecar.variant), LAYOUTS[to]
    if family(row) not in layout.families:
        others = [name for name, other in LAYOUTS.items() if family(row) in other.families]
        raise ConfigError(f"{to} has no {row.name}; these layouts have: {', '.join(others)}")
    stored = calibrated(checkpoint.load(), sidecar.temperature)
    names = layout.names(row)
    arrays = {foreign: stored[native] for native, foreign in names.items()}
    if (
        layout.ignored
    ):  # torch counts the batches of each norm, and loads strictly only with the count
        norms = [
            foreign for native, foreign in names.items() if native.endswith("norm.moving_variance")
        ]
        arrays.update(
            {
                f"{name.rpartition('.')[0]}.num_batches_tracked": np.array(0, np.int64)
                for name in norms
            }
        )
    (write_ckpt if out.suffix == ".ckpt" else write_safetensors)(out, arrays)
    differences = []
    if not math.isclose(sidecar.bn_eps, layout.eps(row)):
        differences.append(f"eps of BatchNorm {sidecar.bn_eps:g}, not its own {layout.eps(row):g}")
    if sidecar.padding != layout.padding:
        differences.append(f"{sidecar.padding} padding, not its own {layout.padding}")
    return Converted(len(arrays), tuple(differences))


def default_class_names(count: int) -> tuple[str, ...]:
    """ImageNet's ids for 1000 classes, else numbers."""
    if count == len(imagenet.wordnet_ids()):
        return imagenet.wordnet_ids()
    return tuple(str(index) for index in range(count))


def _compare(row: Variant, layout: Layout, tensors: Mapping[str, Array]) -> Match:
    weight, bias, backbone, features = _expected(row.name, layout.name)
    head = tensors.get(bias)
    num_classes = head.shape[0] if head is not None and head.ndim == 1 else 1000
    wanted = {**backbone, weight: (num_classes, features), bias: (num_classes,)}
    if weight not in tensors and bias not in tensors:  # a backbone without a head
        num_classes, wanted = 0, backbone
    left_over = [
        name
        for name in tensors
        if name not in wanted
        and not (layout.ignored and name.endswith(layout.ignored))
        and not (layout.name == "native" and name.startswith(OPTIMIZER_PREFIXES))
    ]
    misshapen = [
        f"{name} {tensors[name].shape} for {shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    missing = [name for name in wanted if name not in tensors]
    return Match(row, layout, num_classes, tuple(missing), tuple(left_over), tuple(misshapen))


@cache
def _expected(variant: str, layout: str) -> tuple[str, str, dict[str, tuple[int, ...]], int]:
    """Names of the head's weight and bias, shapes of all else by name, and the head's inputs."""
    row = VARIANTS[variant]
    names, sizes = LAYOUTS[layout].names(row), shapes(row, num_classes=1)
    weight, bias = (names[name] for name in CLASSIFIER)
    backbone = {names[name]: shape for name, shape in sizes.items() if name not in CLASSIFIER}
    return weight, bias, backbone, sizes[CLASSIFIER[0]][1]


def _only(path: Path, fitting: list[Match], hint: str) -> Match:
    """The one match; a file's name decides between layouts with the same names."""
    if len(fitting) == 1:
        return fitting[0]
    named = [match for match in fitting if match.layout.tells and match.layout.tells in hint]
    if named:
        return max(named, key=lambda match: len(match.layout.tells))
    choices = " or ".join(match.layout.name for match in fitting)
    raise CheckpointError(
        f"weights {path} fit {fitting[0].row.name} as {choices}, which pad and normalise differently; "
        f"say which (--layout)"
    )


def _refusal(path: Path, match: Match, count: int) -> CheckpointError:
    lists = [
        f"{len(names)} {what} ({', '.join(names[:SHOWN])}{', ...' if len(names) > SHOWN else ''})"
        for what, names in (
            ("missing", match.missing),
            ("left over", match.left_over),
            ("of another shape", match.misshapen),
        )
        if names
    ]
    return CheckpointError(
        f"weights {path} hold {count} tensors that are not a variant of the family; nearest is "
        f"{match.row.name} in {match.layout.name}'s layout: {'; '.join(lists)}"
    )


def _native(match: Match, tensors: Mapping[str, Array]) -> dict[str, Array]:
    names = match.layout.names(match.row)
    order = shapes(match.row, num_classes=match.num_classes)
    return {
        name: np.asarray(tensors[names[name]], dtype=np.float32)
        for name in order
        if names[name] in tensors
    }


def _new_head(features: int, num_classes: int, seed: int) -> dict[str, Array]:
    """A random classifier, as ``network.initialise`` draws it."""
    bound = 1.0 / math.sqrt(num_classes)
    weight = np.random.default_rng([seed, 1]).uniform(-bound, bound, (num_classes, features))
    values = (weight.astype(np.float32), np.zeros(num_classes, np.float32))
    return dict(zip(CLASSIFIER, values, strict=True))
