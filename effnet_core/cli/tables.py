"""Tables that commands print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic.fields import FieldInfo
from rich.table import Table

from effnet_core.config.load import meanings
from effnet_core.config.recipes import packaged_recipe, recipe_names
from effnet_core.config.schema import RunConfig
from effnet_core.family.scaling import cost
from effnet_core.family.variants import VARIANTS
from effnet_core.text import format_seconds

if TYPE_CHECKING:
    from effnet_core.infer.bench import Speed

PAGE_HEADINGS = (
    *("model", "MindSpore top-1", "MindSpore top-5", "TensorFlow top-1", "px", "parameters"),
    *("MACs", "Config", "Download"),
)
"""Columns of ``docs/models.md``, the table of MindVision's page and what the variant costs."""


def bench_table(results: Sequence[Speed], *, count: int, price: float | None) -> Table:
    """The measurements of ``effnet bench``; the estimate is for ``count`` images."""
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    for heading in ("variant", "engine", "precision"):
        table.add_column(heading, no_wrap=True)
    estimate = f"{count:,} images take"
    cost = () if price is None else ("and cost",)
    for heading in ("images/s", "ms", "MB", estimate, *cost):
        table.add_column(heading, justify="right")
    for speed in results:
        case = speed.case
        names = (case.variant.removeprefix("efficientnet_"), case.engine, case.precision)
        if not speed.images_per_s:
            table.add_row(*names, "-", "-", "-", speed.problem)
            continue
        seconds = speed.seconds_for(count)
        paid = () if price is None else (f"{seconds / 3600 * price:.2f}",)
        measured = (f"{speed.images_per_s:.1f}", f"{speed.ms:.1f}", f"{speed.memory_mb:.0f}")
        table.add_row(*names, *measured, format_seconds(seconds), *paid)
    table.caption = (
        "images/s: from JPEG to answer, on all cores. ms: one image alone, without decoding. MB: peak of "
        "the process."
    )
    table.caption_justify = "left"
    return table


def family_table(*, show_all: bool = False) -> Table:
    """One row a variant, with 1000 classes at its own image size.

    Args:
        show_all: also variants that exist for tests.
    """
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column("variant", no_wrap=True)
    headings = ("parameters", "MACs", "px", "crop", "drop", "top-1", "top-5", "TF top-1")
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in VARIANTS.values():
        if row.hidden and not show_all:
            continue
        size = cost(row)
        table.add_row(
            row.name,
            f"{size.parameters:,}",
            f"{size.multiply_adds / 1e9:.2f}G",
            str(row.image_size),
            f"{row.crop_pct:g}",
            f"{row.drop_rate:g}",
            *(_percent(share) for share in (row.top1, row.top5, row.reference_top1)),
        )
    table.caption = (
        "MACs: multiply-accumulates of one image. 1000 classes at the variant's own input side (px). "
        "crop: crop_pct of evaluation; drop: dropout of the classifier; top-1, top-5: ImageNet, %, "
        "published with MindVision's checkpoints; TF top-1: TensorFlow's."
    )
    table.caption_justify = "left"
    return table


def family_markdown() -> str:
    """``docs/models.md``: the family with its accuracies, its recipes and where its weights are."""
    from effnet_core.weights.catalogue import PUBLISHED

    known = set(recipe_names())
    addresses = {entry.variant: entry for entry in PUBLISHED.values()}
    lines = [
        "# Models",
        "",
        "Made by `make docs` from the table of the family; a test keeps it true. Accuracies are",
        "ImageNet's, in %, as MindVision publishes them for its checkpoints (MindSpore) and the TensorFlow",
        "release for its own. *Config* is the recipe of `effnet train --recipe NAME`: MindVision's run and",
        "Google's, whose cost and accuracy `effnet recipes NAME` tells. *Download* is what `--weights NAME`",
        "fetches.",
        "",
        "![Published accuracy of the family](images/accuracy.png)",
        "",
        "`effnet models --chart accuracy.png` draws this chart, with `--measured RUN_DIR` one's own",
        "models in it.",
        "",
        f"| {' | '.join(PAGE_HEADINGS)} |",
        "|---" * len(PAGE_HEADINGS) + "|",
    ]
    for row in VARIANTS.values():
        if row.hidden:
            continue
        size = cost(row)
        recipes = [f"`{name}`" for name in (f"{row.name}_imagenet2012", f"{row.name}_google")]
        entry = addresses.get(row.name)
        place = "-"
        if entry is not None:
            place = (
                f"[{entry.file_name}]({entry.url})" if entry.url else f"`{entry.package}` of PyPI"
            )
        cells = (
            row.name,
            *(_percent(share) for share in (row.top1, row.top5, row.reference_top1)),
            f"{row.image_size}",
            f"{size.parameters / 1e6:.1f} M",
            f"{size.multiply_adds / 1e9:.2f} G",
            ", ".join(name for name in recipes if name.strip("`") in known) or "-",
            place,
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "## Architecture",
        "",
        "Every picture is drawn from the same rows that the network is built from:",
        "`effnet models --architecture efficientnet_b0 --chart b0.png`.",
        "",
        "![Stages of EfficientNet-B0](images/efficientnet_b0.png)",
    ]
    return "\n".join(lines) + "\n"


def recipe_table() -> Table:
    """One row a recipe, with the settings that it changes."""
    table = Table()
    table.add_column("recipe", no_wrap=True)
    table.add_column("settings that differ from the defaults")
    for name in recipe_names():
        table.add_row(name, "  ".join(_flatten(packaged_recipe(name))))
    return table


def settings_table() -> Table:
    """One row a setting: key, default, meaning."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("default")
    table.add_column("meaning")
    for key, default, meaning in _settings():
        table.add_row(key, default, meaning)
    return table


def settings_markdown() -> str:
    """``docs/configuration.md``: how settings are read, and a table for each section."""
    lines = [
        "# Settings",
        "",
        "Made by `make docs` from `effnet_core/config/schema.py`; a test keeps it true.",
        "",
        "A run's settings are the defaults below, overlaid by a recipe (`--recipe NAME` or a `.yaml` file),",
        "overlaid by `-o section.key=value`. Values are read as YAML: `-o data.crop_scale=[0.5,1]`,",
        "`-o model.num_classes=null`. Unknown names are refused. `effnet recipes` lists the recipes; the",
        "whole tree of a run is in its folder as `config.yaml`.",
    ]
    section = ""
    for key, default, meaning in _settings():
        if key.partition(".")[0] != section:
            section = key.partition(".")[0]
            about = RunConfig.model_fields[section].annotation
            lines += ["", f"## {section}", "", (about.__doc__ or "").strip(), ""]
            lines += ["| setting | default | meaning |", "|---|---|---|"]
        lines.append(f"| `{key}` | {f'`{default}`' if default else ''} | {meaning} |")
    return "\n".join(lines) + "\n"


def _settings() -> list[tuple[str, str, str]]:
    """Key, default and meaning of every setting."""
    rows, texts = [], meanings()
    for section, part in RunConfig.model_fields.items():
        fields: dict[str, FieldInfo] = part.annotation.model_fields  # type: ignore[union-attr]
        for name, field in fields.items():
            default = "" if field.default is None else str(field.default)
            rows.append((f"{section}.{name}", default, texts[f"{section}.{name}"]))
    return rows


def weights_lines(*, show_all: bool = False) -> list[str]:
    """One line a published file of weights; lines, not a table, so that addresses stay whole.

    Args:
        show_all: also those of timm, torchvision and lukemelas.
    """
    from effnet_core.weights.catalogue import PUBLISHED, every

    entries = (every() if show_all else PUBLISHED).values()
    width = max(len(entry.name) for entry in entries)
    form = f"{{:<{width}}}{{:>7}}{{:>7}}{{:>9}}  {{:<13}} {{}}"
    lines = [form.format("name", "top-1", "top-5", "classes", "licence", "from")]
    for entry in entries:
        accuracies = map(_percent, (entry.top1, entry.top5))
        classes = f"{entry.num_classes:,}"
        lines.append(form.format(entry.name, *accuracies, classes, entry.licence, entry.place))
    more = (
        [] if show_all else ["--all lists those of timm, torchvision and lukemelas too, about 80."]
    )
    return [
        *lines,
        "top-1, top-5: ImageNet, %, as the publisher states them for this very file.",
        *more,
        "--weights takes these names, names of the files, hf-hub:OWNER/NAME, any address, and files of",
        "MindVision, mindcv, torchvision, timm and lukemelas (.ckpt, .safetensors, .pth).",
    ]


def _flatten(tree: dict[str, dict[str, Any]]) -> list[str]:
    return [
        f"{section}.{key}={value}" for section, keys in tree.items() for key, value in keys.items()
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
