"""The recipes that come with the library."""

from __future__ import annotations

from pathlib import Path

RECIPES_DIR = Path(__file__).parent


def recipe_names() -> list[str]:
    """Names of the recipes that come with the library, sorted."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.yaml"))
