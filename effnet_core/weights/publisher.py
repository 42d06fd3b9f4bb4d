"""What a publisher says about a file of weights: how images are prepared for it, and its classes.

Best first: ``config.json`` beside the file (timm's files on the hub have one), then the file's name, where
``published.tsv`` knows it. Else only a guess is left, the usual preprocessing of the layout.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effnet_core.errors import CheckpointError, DataError
from effnet_core.family.variants import Padding
from effnet_core.system.files import read_json
from effnet_core.weights.catalogue import HALF, PublishedWeights, every
from effnet_core.weights.catalogue import find as find_published

CONFIG_NAME = "config.json"
FIXED = ("native", "mindvision", "mindcv")
"""Layouts whose weights all want the same preprocessing."""
FILTERS = ("bicubic", "bilinear")
CROPS = ("center", "squash")
DIGEST = re.compile(r"-([0-9a-f]{8})\.(?:pth|pt|bin|safetensors|ckpt)$")
"""The first eight digits of the SHA-256, where torch's hub looks for them."""


@dataclass(frozen=True)
class Statement:
    """What a publisher says."""

    source: str
    """Where it says so, in words."""
    preprocess: Mapping[str, object] = field(default_factory=dict)
    """Fields of ``PreprocessSpec``."""
    class_names: tuple[str, ...] = ()
    bn_eps: float | None = None
    padding: Padding | None = None


def read_statement(path: Path) -> tuple[str, Statement] | None:
    """The architecture's name and what ``config.json`` beside a file says; None where there is none.

    Raises:
        CheckpointError: it says what cannot be done here.
    """
    beside = path.with_name(CONFIG_NAME)
    if not beside.is_file():
        return None
    try:
        config = read_json(beside)
    except DataError:
        return None
    if not isinstance(config, dict) or not isinstance(config.get("architecture"), str):
        return None
    stated = config.get("pretrained_cfg")
    stated = stated if isinstance(stated, dict) else config
    arguments = config.get("model_args")
    arguments = arguments if isinstance(arguments, dict) else {}
    try:
        statement = Statement(
            source=f"{CONFIG_NAME} beside it",
            preprocess={**_preprocess(stated, beside), **_background(config)},
            class_names=_class_names(config, stated),
            bn_eps=float(arguments["bn_eps"]) if "bn_eps" in arguments else None,
            padding="same" if arguments.get("pad_type") == "same" else None,
        )
    except (TypeError, ValueError, LookupError) as cause:
        raise CheckpointError(
            f"{beside} does not say in timm's way how images are prepared ({cause}); mend it, or move it "
            "away and say so by --mean, --std, --crop-pct, --interpolation and --image-size"
        ) from cause
    tag = stated.get("tag")
    name = f"{config['architecture']}.{tag}" if tag else config["architecture"]
    return str(name), statement


def _preprocess(stated: Mapping[str, Any], beside: Path) -> dict[str, object]:
    """Timm's words as fields of ``PreprocessSpec``; the size is that of its evaluation."""
    found: dict[str, object] = {}
    if size := stated.get("test_input_size") or stated.get("input_size"):
        found["image_size"] = int(size[-1])
    if crop := stated.get("test_crop_pct") or stated.get("crop_pct"):
        found["crop_pct"] = float(crop)
    for key in ("mean", "std"):
        if stated.get(key):
            red, green, blue = map(float, stated[key])
            found[key] = (red, green, blue)
    for key, known in (("interpolation", FILTERS), ("crop_mode", CROPS)):
        if value := stated.get(key):
            if value not in known:
                raise CheckpointError(
                    f"{beside} asks for {key} {value!r}, known here are {' and '.join(known)}; mend it"
                )
            found[key] = value
    return found


def _background(config: Mapping[str, Any]) -> dict[str, object]:
    """What this project's own repositories say besides (``model_store/hub_repository.py``)."""
    own = config.get("effnet")
    if not isinstance(own, dict) or "background" not in own:
        return {}
    colour = own["background"]
    return {"background": None if colour is None else tuple(map(int, colour))}


def _class_names(config: Mapping[str, Any], stated: Mapping[str, Any]) -> tuple[str, ...]:
    names = config.get("label_names") or stated.get("label_names") or ()
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()


def of_name(text: str, layout: str, variant: str) -> Statement | None:
    """What the name of a file, an address or a repository says; None where it is not known.

    Args:
        text: may be longer than the name.
        layout: of the file, as found inside.
        variant: likewise.
    """
    known = [
        one
        for one in every().values()
        if one.preprocess and (one.layout, one.variant) == (layout, variant)
    ]
    named = [one for one in known if any(_has(text, name) for name in _names(one))]
    if named:
        best = max(named, key=lambda one: len(one.name))
        return Statement(f"the name {best.name}", best.preprocess)
    if layout == "lukemelas" and "adv-efficientnet" in text:
        return Statement("the name (adv-: AdvProp)", {"mean": HALF, "std": HALF})
    return None


def _names(entry: PublishedWeights) -> tuple[str, ...]:
    stem = entry.file_name.rpartition(".")[0]
    without_digest = re.sub(r"-[0-9a-f]{8}$", "", stem)
    # "efficientnet_b0" alone says nothing: every file of that network may be called so.
    telling = without_digest.count("_") + without_digest.count("-") > 1 + stem.startswith("tf_")
    return tuple(filter(None, (entry.name, stem, without_digest if telling else "")))


def _has(text: str, name: str) -> bool:
    end = r"(?![\w-])(?!\.(?!pth|pt|bin|safetensors|ckpt|json)\w)"
    return re.search(rf"(?<![\w-]){re.escape(name)}{end}", text) is not None


@dataclass(frozen=True)
class NamedDigest:
    """The beginning of a SHA-256 that a file's name gives, and what the file has."""

    name: str
    wanted: str
    found: str
    published: bool
    """Whether it is the name of a published file, and not merely one that looks like it."""

    @property
    def differs(self) -> bool:
        """Whether the file is another one."""
        return not self.found.startswith(self.wanted)


def named_digest(name: str, sha256: str) -> NamedDigest | None:
    """The eight digits in a file's name beside the file's own; None where there are none."""
    last = name.rpartition("/")[2]
    if not (digits := DIGEST.search(last)):
        return None
    return NamedDigest(last, digits[1], sha256, published=find_published(last) is not None)


def promised_digest(name: str) -> str:
    """The eight digits of the SHA-256 in the name of a published file; empty for other files."""
    last = name.rpartition("/")[2]
    found = DIGEST.search(last)
    return found[1] if found and find_published(last) is not None else ""


def require_named_digest(path: Path, name: str, sha256: str) -> str:
    """Refuse a published file whose bytes are not those that its name promises.

    Returns:
        A warning where another file's name looks as if it gave a digest, and it is not the file's.

    Raises:
        CheckpointError: it is the name of a published file, and the file is another one.
    """
    digest = named_digest(name, sha256)
    if digest is None or not digest.differs:
        return ""
    difference = (
        f"{digest.name} says that its SHA-256 begins with {digest.wanted}, but it begins with "
        f"{digest.found[:8]}"
    )
    if digest.published:
        raise CheckpointError(
            f"weights {path}: the name {difference}; the file is damaged or another one: fetch it again, or "
            "rename it if it is yours"
        )
    return f"the name {difference}, if these digits are one"
