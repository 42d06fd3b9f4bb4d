"""The recipes that come with the library: files, and one for each variant of the paper."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

RECIPES_DIR = Path(__file__).parent
IMAGENET = "_imagenet2012"
"""File of what the paper's recipes share, and the end of their names."""
PAPER = tuple(f"efficientnet_b{number}" for number in range(8))
"""Variants that have one; image size, crop and dropout are the variant's own."""


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library, sorted."""
    files = [path.stem for path in RECIPES_DIR.glob("[!_]*.yaml")]
    return sorted([*files, *(f"{variant}{IMAGENET}" for variant in PAPER)])


def packaged_recipe(name: str) -> dict[str, Any]:
    """The settings of a recipe, by section.

    Args:
        name: one of ``recipe_names``.
    """
    from effnet_core.config.yaml_text import parse_yaml  # not for --help, which shows the names

    found = re.fullmatch(rf"({'|'.join(PAPER)}){IMAGENET}", name)
    file = IMAGENET if found else name
    content: dict[str, Any] = parse_yaml((RECIPES_DIR / f"{file}.yaml").read_text(encoding="utf-8"))
    if not found:
        return content
    variant = found[1]
    return {"model": {"variant": variant}, **content, "storage": {"name": variant}}
