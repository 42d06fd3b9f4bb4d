"""The mean of B0's gradients over two ranks: through shared memory, by one collective, by one a gradient.

All are timed in turns in the same two processes, so their ratios do not depend on the machine's
mood. Run it directly; it starts msrun and itself twice.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from effnet_core.system import machine

RANKS = 2
ROUNDS = 15
SHARED_MEMORY = "one vector, through shared memory (one machine, native kernels)"
COLLECTIVE = "one vector, by MindSpore's collective"
THEIRS = "nn.DistributedGradReducer, a collective a gradient"


def worker(out: Path) -> None:
    """Time both on this rank; rank 0 leaves the seconds of every round."""
    from effnet_core.jobs import environment

    environment.prepare()
    cores = machine.available_cores()
    rank = int(os.environ.get("MS_NODE_ID", "0"))
    os.sched_setaffinity(0, machine.cores_of_rank(cores, rank, RANKS))
    import mindspore as ms
    import numpy as np
    from mindspore import nn

    from effnet_core.config.schema import RuntimeConfig
    from effnet_core.jobs.collective import join_group
    from effnet_core.jobs.sharing import join
    from effnet_core.kernels import choice
    from effnet_core.model.network import create_model
    from effnet_core.train.step import SHARED, MeanOverRanks

    runtime = RuntimeConfig(world_size=RANKS, kernels="native")
    group = join_group(runtime)
    library = join(choice.library(runtime.kernels, runtime.device, print), group)
    assert library is not None, "the ranks share no memory"
    parameters = list(create_model("efficientnet_b0", num_classes=1000).trainable_params())
    rng = np.random.default_rng(group.rank)
    grads = tuple(ms.Tensor(rng.random(p.shape).astype(np.float32)) for p in parameters)
    cells = {
        SHARED_MEMORY: MeanOverRanks(parameters, world_size=RANKS, shared_by=library),
        COLLECTIVE: MeanOverRanks(parameters, world_size=RANKS),
        THEIRS: nn.DistributedGradReducer(parameters, mean=True, degree=RANKS),
    }
    shared = ms.Tensor(np.zeros(SHARED, np.float32))
    inputs = {SHARED_MEMORY: (grads, shared), COLLECTIVE: (grads, shared), THEIRS: (grads,)}
    seconds: dict[str, list[float]] = {name: [] for name in cells}
    for _ in range(ROUNDS + 1):
        for name, cell in cells.items():
            started = time.perf_counter()
            answer = cell(*inputs[name])[-1]
            answer.asnumpy()
            seconds[name].append(time.perf_counter() - started)
    if group.is_first:
        answer = {name: times[1:] for name, times in seconds.items()}  # the first round compiles
        out.write_text(json.dumps({"gradients": len(grads), "seconds": answer}))


def row(name: str, times: list[float], fastest: list[float]) -> str:
    """A line of the table."""
    ratios = [b / a for a, b in zip(fastest, times, strict=True)]
    return (
        f"| {name} | {1000 * statistics.median(times):.1f} | "
        f"{1000 * min(times):.1f} - {1000 * max(times):.1f} | "
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f} - {max(ratios):.2f}) |"
    )


def main() -> None:
    """Start the ranks and write the note."""
    from machine import write_note

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        subprocess.run(
            [
                str(Path(sys.executable).with_name("msrun")),
                f"--worker_num={RANKS}",
                f"--local_worker_num={RANKS}",
                "--master_port=18118",
                f"--log_dir={folder}/logs",
                "--join=True",
                __file__,
                str(out),
            ],
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
                "GLOG_v": "3",
            },
            stdout=subprocess.DEVNULL,
            check=True,
        )
        answer = json.loads(out.read_text())
    seconds = answer["seconds"]
    rows = [
        f"Mean of EfficientNet-B0's {answer['gradients']} gradients over {RANKS} ranks, {ROUNDS} "
        "alternating rounds, milliseconds:",
        "",
        "| | median | range | times the first is faster, round by round |",
        "|---|---|---|---|",
        *(row(name, times, seconds[SHARED_MEMORY]) for name, times in seconds.items()),
    ]
    write_note(__file__, "Gradient mean over ranks", rows)


if __name__ == "__main__":
    if "MS_ROLE" in os.environ:
        worker(Path(sys.argv[1]))
    else:
        main()
