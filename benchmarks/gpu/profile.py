"""Where a step's time goes, from the tables that MindSpore's profiler writes."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

BY_KERNEL, BY_OPERATOR, BY_CPU_OPERATOR = (
    "gpu_activity_data_*.csv",
    "gpu_op_detail_info_*.csv",
    "cpu_op_detail_info_*.csv",
)
"""The first that is there is read: kernels themselves before operators."""
TIMES = {
    "total_duration(us)": 1e-3,
    "cuda_activity_cost_time(us)": 1e-3,
    "op_total_time(us)": 1e-3,
    "op_total_time(ms)": 1.0,
}
"""Columns of a time, and what one of it is in ms."""
NAMES = ("op_full_name", "full_op_name", "op_name")
GAPS = "gaps between kernels"
KINDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("BatchNorm", ("batchnorm",)),
    ("casts", ("cast",)),
    ("transpositions", ("transpose", "transdata", "nchw2nhwc", "nhwc2nchw")),
    ("activations and gates", ("silu", "sigmoid", "relu", "swish")),
    ("collectives", ("allreduce", "nccl")),
    ("matrix products", ("matmul",)),
)
"""Other kinds by words in an operator's type or name."""
PLACES = (
    ("optimizer and weight decay", "/optimizer-"),
    ("loss", "/loss-"),
    ("activations and gates", "_silu"),
    ("squeeze-excite", "/se-"),
)
"""And by the cells that an operator belongs to."""
DEPTHWISE, POINTWISE, CONVOLUTION = (
    "depthwise convolutions",
    "1x1 convolutions",
    "other convolutions",
)
POINTWISE_CELLS = ("expand", "project", "head-", "reduce", "/se-")


def kind_of(row: Mapping[str, str]) -> str:
    """The kind of layer that a row of a profile is of."""
    place = next((row[name] for name in NAMES if row.get(name)), "").lower()
    words = f"{row.get('type') or row.get('op_type') or ''} {place.rpartition('/')[2]}".lower()
    if "conv2d" in words:
        if "depthwise" in place:
            return DEPTHWISE
        return POINTWISE if any(cell in place for cell in POINTWISE_CELLS) else CONVOLUTION
    named = (kind for kind, signs in KINDS if any(sign in words for sign in signs))
    placed = (kind for kind, sign in PLACES if sign in place)
    return next(named, None) or next(placed, "other")


def by_kind(rows: Iterable[Mapping[str, str]]) -> dict[str, float]:
    """Milliseconds of each kind, the longest first."""
    total: dict[str, float] = {}
    for row in rows:
        kind = kind_of(row)
        total[kind] = total.get(kind, 0.0) + milliseconds(row)
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def milliseconds(row: Mapping[str, str]) -> float:
    """The time of a row."""
    return next((float(row[name]) * factor for name, factor in TIMES.items() if row.get(name)), 0.0)


def read(folder: Path, *, steps: int, step_ms: float) -> dict[str, object]:
    """Shares of a step, and its longest kernels.

    Args:
        folder: of the profiler.
        steps: that were profiled.
        step_ms: how long a step takes without the profiler.

    Returns:
        ``source``, the file; ``ms_a_step`` by kind, with the gaps; ``kernels``, the longest ones.
    """
    for pattern in (BY_KERNEL, BY_OPERATOR, BY_CPU_OPERATOR):
        files = sorted(folder.rglob(pattern))
        if files:
            break
    else:
        return {"error": f"the profiler wrote no table into {folder.name}"}
    with files[0].open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    kinds = {kind: spent / steps for kind, spent in by_kind(rows).items()}
    kinds[GAPS] = max(0.0, step_ms - sum(kinds.values()))
    longest = sorted(rows, key=milliseconds, reverse=True)[:25]
    return {
        "source": files[0].name,
        "step_ms": step_ms,
        "ms_a_step": kinds,
        "kernels": [
            {
                "name": (row.get("name") or row.get("op_name") or "")[:90],
                "of": next((row[name] for name in NAMES if row.get(name)), "")[-90:],
                "kind": kind_of(row),
                "ms_a_step": milliseconds(row) / steps,
            }
            for row in longest
        ],
    }
