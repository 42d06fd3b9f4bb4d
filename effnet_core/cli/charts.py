"""``effnet models --chart``: the family as a picture, and one's own runs in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effnet_core.config.load import CONFIG_NAME, read_config
from effnet_core.errors import ConfigError, DataError
from effnet_core.family.variants import VARIANTS, variant
from effnet_core.jobs.job import RESULT_NAME
from effnet_core.system.files import atomic_path, read_json


def draw_family(file: Path, *, architecture: str, measured: Sequence[Path]) -> None:
    """Write the chart of accuracies, or the stages of one variant, as PNG.

    Args:
        file: ends in ``.png``.
        architecture: a variant's name; empty for the accuracies of all.
        measured: run folders of ImageNet's 1,000 classes whose top-1 is drawn over the published points.

    Raises:
        ConfigError: the file is not a PNG, the variant is unknown, or the two options are mixed.
        DataError: a run folder has no result.
    """
    from effnet_core.render.family import accuracy_chart, architecture_chart

    if file.suffix.lower() != ".png":
        raise ConfigError(f"--chart {file} must end in .png")
    if architecture and measured:
        raise ConfigError("--measured goes with the chart of accuracies, not with --architecture")
    if architecture:
        picture = architecture_chart(variant(architecture))
    else:
        found: dict[str, list[float]] = {}
        for run_dir in measured:
            name, top1 = _result(run_dir)
            found.setdefault(name, []).append(top1)
        picture = accuracy_chart(found)
    with atomic_path(file) as temporary:
        temporary.write_bytes(picture)


def _result(run_dir: Path) -> tuple[str, float]:
    """Variant and top-1 of a finished run."""
    config = read_config(run_dir / CONFIG_NAME)
    result = read_json(run_dir / RESULT_NAME)
    try:
        top1 = float(result["evaluation"]["top1"])
    except (KeyError, TypeError, ValueError) as cause:
        raise DataError(f"{run_dir / RESULT_NAME} has no top-1; has the run ended?") from cause
    if VARIANTS[config.model.variant].hidden:
        raise ConfigError(f"{run_dir} holds {config.model.variant}, which the chart does not show")
    return config.model.variant, top1
