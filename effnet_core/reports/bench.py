"""The measurements of ``effnet bench`` as a table for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from effnet_core.infer.bench import Speed
from effnet_core.system.files import write_text

COLUMNS = (
    *("variant", "engine", "precision", "images_per_s", "ms", "memory_mb"),
    *("images", "hours", "cost", "problem"),
)


def write_csv(path: Path, results: Sequence[Speed], *, count: int, price: float | None) -> None:
    """One row a measurement; what was not measured is empty.

    Args:
        path: the file.
        results: the measurements.
        count: images of the estimate.
        price: of the machine an hour.
    """
    stream = io.StringIO()
    rows = csv.writer(stream, lineterminator="\n")
    rows.writerow(COLUMNS)
    for speed in results:
        case = (speed.case.variant, speed.case.engine, speed.case.precision)
        if not speed.images_per_s:
            rows.writerow([*case, "", "", "", count, "", "", speed.problem])
            continue
        hours = speed.seconds_for(count) / 3600
        cost = "" if price is None else f"{hours * price:.4f}"
        measured = (speed.images_per_s, speed.ms, speed.memory_mb)
        rows.writerow([*case, *measured, count, f"{hours:.4f}", cost, ""])
    write_text(path, stream.getvalue())
