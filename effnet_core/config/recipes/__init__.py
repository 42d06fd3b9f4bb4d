"""The recipes that come with the library: files, and some for each variant of the paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RECIPES_DIR = Path(__file__).parent
SHARED = ("_google", "_imagenet2012")
"""Files of what the recipes of all variants share, and the ends of their names."""
PAPER = tuple(f"efficientnet_b{number}" for number in range(8))
"""Variants that have them; image size, crop and dropout are the variant's own."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library, sorted."""
    files = [path.stem for path in RECIPES_DIR.glob("[!_]*.yaml")]
    return sorted([*files, *(f"{variant}{shared}" for variant in PAPER for shared in SHARED)])


def packaged_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, by section.

    Args:
        name: one of ``recipe_names``.
    """
    from effnet_core.config.yaml_text import parse_yaml  # not for --help, which shows the names

    content: dict[str, Any] = parse_yaml(recipe_text(name))
    return content


def recipe_text(name: str) -> str:
    """A recipe as a file of its own: what it costs and is expected to reach, then its settings.

    Args:
        name: one of ``recipe_names``.
    """
    found = re.fullmatch(rf"({'|'.join(PAPER)})({'|'.join(SHARED)})", name)
    text = (RECIPES_DIR / f"{found[2] if found else name}.yaml").read_text(encoding="utf-8")
    if not found:
        return text
    variant = found[1]
    number = variant[-1]
    text = re.sub(r"\bEfficientNet-BN\b", f"EfficientNet-B{number}", text)
    text = re.sub(r"\b(efficientnet_b|runs/b)N", rf"\g<1>{number}", text)
    return f"{text}model:\n  variant: {variant}\nstorage:\n  name: {variant}\n"
