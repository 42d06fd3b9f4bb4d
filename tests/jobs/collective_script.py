"""Run by two ranks under msrun: what ``Group`` promises. Rank 0 prints one JSON line."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
from mindspore import Parameter, Tensor

from effnet_core import environment
from effnet_core.collective import Group, join_group, parameters_digest
from effnet_core.config import RuntimeConfig
from effnet_core.errors import JobError


def parameter(name: str, values: list[float], group: Group, *, offset: float) -> Parameter:
    array = np.array(values, dtype=np.float32) + np.float32(offset * group.rank)
    return Parameter(Tensor(array), name=name)


def refuses(action: object) -> bool:
    try:
        action()  # type: ignore[operator]
    except JobError:
        return True
    return False


def main() -> None:
    environment.prepare()
    group = join_group(RuntimeConfig(world_size=2))
    counts = np.array([0, 1, 4095, 4096, 2**31 + 1, 2**35 + 7], dtype=np.int64) + group.rank
    close = parameter("w", [1.0, 2.0], group, offset=1e-6)
    far = parameter("w", [1.0, 2.0], group, offset=1.0)
    step = Parameter(Tensor(np.int32(7)), name="global_step")
    moving = parameter("norm.moving_mean", [1.0, 3.0], group, offset=2.0)
    group.average_statistics([moving])
    answer = {
        "rank": group.rank,
        "counts": group.sum_counts(counts).tolist(),
        "floats": group.sum_floats(np.array([0.5 + group.rank], dtype=np.float32)).tolist(),
        "average": moving.asnumpy().tolist(),
        "no_drift": group.keep_equal([step]),
        "drift": group.keep_equal([close, step]),
        "after": [close.asnumpy().tolist(), int(step.asnumpy())],
        "equal_after": not refuses(
            lambda: group.require_equal(parameters_digest([close]), what="weights")
        ),
        "different_refused": refuses(
            lambda: group.require_equal(parameters_digest([far]), what="weights")
        ),
        "far": refuses(lambda: group.keep_equal([far])) if group.rank else None,
    }
    if not group.rank:
        group.keep_equal([far])  # rank 0 never differs from itself; the other rank refuses
    (Path(sys.argv[1]) / f"rank-{os.environ['MS_NODE_ID']}.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main()
