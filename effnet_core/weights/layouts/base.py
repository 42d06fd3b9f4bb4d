"""What a table of names consists of, and the one rule that turns it into pairs of names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from effnet_core.data.images import WHITE
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.model.scaling import Block, expand
from effnet_core.model.spec import Padding, Variant

Family = Literal["b", "lite", "v2"]
Kind = Literal["mb", "mb_expand", "fused", "fused_expand"]

MINDSPORE_NORM = ("gamma", "beta", "moving_mean", "moving_variance")
TORCH_NORM = ("weight", "bias", "running_mean", "running_var")

# The parts of a block by their native names; "se" only where there is a gate.
PARTS: Mapping[Kind, tuple[str, ...]] = {
    "mb": (
        "depthwise.conv",
        "depthwise.norm",
        "se.reduce",
        "se.expand",
        "project.conv",
        "project.norm",
    ),
    "mb_expand": (
        *("expand.conv", "expand.norm", "depthwise.conv", "depthwise.norm"),
        *("se.reduce", "se.expand", "project.conv", "project.norm"),
    ),
    "fused": ("fused.conv", "fused.norm"),
    "fused_expand": ("fused.conv", "fused.norm", "project.conv", "project.norm"),
}


def variant_eps(row: Variant) -> float:
    """BatchNorm's eps in the code bases that follow torchvision: larger from B5 on, and in V2."""
    return 1e-3 if row.width_mult >= 1.6 or family(row) == "v2" else 1e-5


@dataclass(frozen=True)
class Layout:
    """How one publisher names the parameters, and what else comes with the names."""

    name: str
    stem: tuple[str, str]
    """Convolution and norm before the blocks."""
    head: tuple[str, str]
    """Convolution and norm after the blocks; ``{stages}`` is the number of stages."""
    classifier: str
    block: str
    """What a block's names begin with: ``{stage}`` and ``{index}`` count from 0, ``{flat}`` over all."""
    parts: Mapping[Kind, tuple[str, ...]]
    """The parts of a block, in the order of ``PARTS``."""
    norm: tuple[str, str, str, str] = TORCH_NORM
    families: tuple[Family, ...] = ("b", "lite", "v2")
    eps: Callable[[Variant], float] = variant_eps
    padding: Padding = "symmetric"
    ignored: tuple[str, ...] = ("num_batches_tracked",)
    """Ends of names that carry nothing."""
    preprocess: Callable[[Variant], dict[str, object]] = field(default=lambda row: {})
    """What differs from the variant's own preprocessing."""
    tells: str = ""
    """Part of a file's name that tells this layout from another with the same names."""

    def names(self, row: Variant) -> dict[str, str]:
        """This layout's name of every parameter of a variant, by its native name."""
        architecture = expand(row)
        pairs = [("stem.conv", self.stem[0]), ("stem.norm", self.stem[1])]
        for flat, block in enumerate(architecture.blocks):
            prefix = self.block.format(
                stage=block.stage,
                stage1=block.stage + 1,
                stage3=block.stage + 3,
                index=block.index_in_stage,
                flat=flat,
            )
            for part, foreign in zip(PARTS[_kind(block)], self.parts[_kind(block)], strict=True):
                if block.squeeze_channels or not part.startswith("se."):
                    pairs.append((f"blocks.{flat}.{part}", prefix + foreign))
        count = len(row.stages)
        stages = {"after": count + 1, "flat_conv": count + 3, "flat_norm": count + 4}
        pairs += [
            ("head.conv", self.head[0].format(**stages)),
            ("head.norm", self.head[1].format(**stages)),
            ("classifier", self.classifier),
        ]
        return {
            f"{native}.{mine}": f"{foreign}.{theirs}"
            for native, foreign in pairs
            for mine, theirs in self._leaves(native)
        }

    def _leaves(self, part: str) -> list[tuple[str, str]]:
        if part.endswith("norm"):
            return list(zip(MINDSPORE_NORM, self.norm, strict=True))
        if part.endswith("conv"):
            return [("weight", "weight")]
        return [("weight", "weight"), ("bias", "bias")]

    def spec(self, row: Variant) -> PreprocessSpec:
        """The preprocessing that weights of this layout expect."""
        own = PreprocessSpec(
            row.image_size, row.crop_pct, row.interpolation, row.mean, row.std, WHITE
        )
        return replace(own, **self.preprocess(row))  # type: ignore[arg-type]


def _kind(block: Block) -> Kind:
    if block.op == "mb":
        return "mb_expand" if block.expands else "mb"
    return "fused_expand" if block.expands else "fused"


def family(row: Variant) -> Family:
    """Which branch of the family a variant is of."""
    if any(stage.op == "fused" for stage in row.stages):
        return "v2"
    return "b" if row.squeeze_excite else "lite"


def shapes(row: Variant, *, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Shape of every parameter by its native name, in the order of the network."""
    architecture = expand(row)
    result: dict[str, tuple[int, ...]] = {}

    def conv(name: str, out: int, inside: int, kernel: int) -> None:
        result[f"{name}.conv.weight"] = (out, inside, kernel, kernel)
        result.update({f"{name}.norm.{leaf}": (out,) for leaf in MINDSPORE_NORM})

    conv("stem", architecture.stem_channels, 3, 3)
    for flat, block in enumerate(architecture.blocks):
        name, hidden = f"blocks.{flat}", block.hidden_channels
        if block.op == "fused":
            wide = hidden if block.expands else block.out_channels
            conv(f"{name}.fused", wide, block.in_channels, block.kernel)
            if block.expands:
                conv(f"{name}.project", block.out_channels, wide, 1)
            continue
        if block.expands:
            conv(f"{name}.expand", hidden, block.in_channels, 1)
        conv(f"{name}.depthwise", hidden, 1, block.kernel)
        if squeeze := block.squeeze_channels:
            result[f"{name}.se.reduce.weight"] = (squeeze, hidden, 1, 1)
            result[f"{name}.se.reduce.bias"] = (squeeze,)
            result[f"{name}.se.expand.weight"] = (hidden, squeeze, 1, 1)
            result[f"{name}.se.expand.bias"] = (hidden,)
        conv(f"{name}.project", block.out_channels, hidden, 1)
    conv("head", architecture.head_channels, architecture.blocks[-1].out_channels, 1)
    result["classifier.weight"] = (num_classes, architecture.head_channels)
    result["classifier.bias"] = (num_classes,)
    return result
