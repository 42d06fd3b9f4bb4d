"""Tables that commands print."""

from __future__ import annotations

from typing import Any

import yaml
from rich.table import Table

from effnet_core.config import RECIPES_DIR, recipe_names
from effnet_core.model.scaling import cost
from effnet_core.model.spec import VARIANTS


def family_table(*, show_all: bool = False) -> Table:
    """One row a variant, with 1000 classes at its own image size.

    Args:
        show_all: also variants that exist for tests.
    """
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("variant", no_wrap=True)
    headings = ("parameters", "mult-adds", "px", "crop", "drop", "top-1", "top-5", "TF top-1")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in VARIANTS.values():
        if row.hidden and not show_all:
            continue
        size = cost(row)
        table.add_row(
            row.name,
            f"{size.parameters:,}",
            f"{size.multiply_adds / 1e9:.2f} G",
            str(row.image_size),
            f"{row.crop_pct:g}",
            f"{row.drop_rate:g}",
            *(_percent(share) for share in (row.top1, row.top5, row.reference_top1)),
        )
    table.caption = (
        "1000 classes at the variant's own input side (px). crop: crop_pct of evaluation; drop: dropout "
        "of the classifier; top-1, top-5: ImageNet, %, published with MindVision's checkpoints; "
        "TF top-1: TensorFlow's."
    )
    table.caption_justify = "left"
    return table


def recipe_table() -> Table:
    """One row a recipe, with the settings that it changes."""
    table = Table()
    table.add_column("recipe", no_wrap=True)
    table.add_column("settings that differ from the defaults")
    for name in recipe_names():
        content = yaml.safe_load((RECIPES_DIR / f"{name}.yaml").read_text(encoding="utf-8"))
        table.add_row(name, "  ".join(_flatten(content)))
    return table


def _flatten(tree: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{section}.{key}={value}" for section, keys in tree.items() for key, value in keys.items()
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
