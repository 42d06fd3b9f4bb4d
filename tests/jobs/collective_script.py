"""Run by two ranks under msrun: what ``Group`` promises. Rank 0 prints one JSON line."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor

from effnet_core.config.schema import RuntimeConfig
from effnet_core.errors import JobError
from effnet_core.jobs import environment, sharing
from effnet_core.jobs.collective import Group, join_group, parameters_digest
from effnet_core.kernels import choice
from effnet_core.kernels.operators import mean_over_ranks
from effnet_core.train.evaluate import evaluate_checkpoint
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.tiny import tiny_config


def parameter(name: str, values: list[float], group: Group, *, offset: float) -> Parameter:
    array = np.array(values, dtype=np.float32) + np.float32(offset * group.rank)
    return Parameter(Tensor(array), name=name)


def refuses(action: object) -> bool:
    try:
        action()  # type: ignore[operator]
    except JobError:
        return True
    return False


def library_of_rank_0(group: Group) -> Path | None:
    """As on two machines of which one has no compiler."""
    library = choice.library("native", "CPU", print)
    return library if group.is_first else None


def mean_through_shared_memory(group: Group) -> str:
    """Whether the own operator gives the bits of the collective, for several lengths one after another."""
    library = choice.library("native", "CPU", print)
    shared = sharing.join(library, group)
    if library is None or shared is None:
        return f"not shared: {library}, {shared}"
    mean = mean_over_ranks(library)
    for size in (1, 65536, 200_001, 131_072, 3):
        values = np.random.default_rng([group.rank, size]).standard_normal(size).astype(np.float32)
        wanted = group.sum_floats(values) * np.float32(0.5)
        for _ in range(2):
            if not np.array_equal(mean(Tensor(values)).asnumpy(), wanted):
                return f"{size} values differ"
    return "equal"


def evaluated(group: Group, folder: Path) -> dict[str, Any]:
    """What an evaluation of the model in the folder by a group of ranks says of its data set."""
    result = evaluate_checkpoint(
        tiny_config(),
        group,
        checkpoint=open_checkpoint(folder / "model.ckpt"),
        data_dir=folder / "data",
        split="val",
    )
    left_out = ("seconds", "world_size", "calibration")
    return {key: value for key, value in result.to_dict().items() if key not in left_out}


def main() -> None:
    environment.prepare()
    group = join_group(RuntimeConfig(world_size=2))
    counts = np.array([0, 1, 4095, 4096, 2**31 + 1, 2**35 + 7], dtype=np.int64) + group.rank
    close = parameter("w", [1.0, 2.0], group, offset=1e-6)
    apart = parameter("w", [1.0, 2.0], group, offset=0.01)
    far = parameter("w", [1.0, 2.0], group, offset=1.0)
    step = Parameter(Tensor(np.int32(7)), name="global_step")
    moving = parameter("norm.moving_mean", [1.0, 3.0], group, offset=2.0)
    group.average_statistics([moving])
    answer = {
        "rank": group.rank,
        "counts": group.sum_counts(counts).tolist(),
        "floats": group.sum_floats(np.array([0.5 + group.rank], dtype=np.float32)).tolist(),
        "average": moving.asnumpy().tolist(),
        "no_drift": group.keep_equal([step], steps=1),
        "drift": group.keep_equal([close, step], steps=3),
        "after": [close.asnumpy().tolist(), int(step.asnumpy())],
        "equal_after": not refuses(
            lambda: group.require_equal(parameters_digest([close]), what="weights")
        ),
        "different_refused": refuses(
            lambda: group.require_equal(parameters_digest([far]), what="weights")
        ),
        "shared": mean_through_shared_memory(group),
        "together": evaluated(group, Path(sys.argv[1])),
        "alone": evaluated(Group(0, 1), Path(sys.argv[1])) if group.is_first else None,
        "not_shared": str(sharing.join(library_of_rank_0(group), group)),
        "far": [
            refuses(partial(group.keep_equal, [close, values], steps=1000))
            for values in (far, apart)
        ],
    }
    (Path(sys.argv[1]) / f"rank-{os.environ['MS_NODE_ID']}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
