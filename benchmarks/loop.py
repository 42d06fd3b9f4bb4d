"""What a training run takes besides its bare steps: input, masks, rate, messages of rank 0, losses, saving.

The demo's run (recipe ``digits``: Lite0 at 64 px, two ranks of one core each) in turns with its compiled
step alone on a batch that lies ready, in the same processes, so that both meet the machine's moods.
Then checkpoints, written beside the steps as often as there are steps in a save interval.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from effnet_core.system import machine

RANKS = 2
SAVING = ("copy", "writer", "beside a save", "beside none")
BLOCK = 10
"""Steps of one kind before those of the other."""


class Turns:
    """One rank's run of the demo, whose steps are done in the loop or bare, as one asks for."""

    def __init__(self, options: argparse.Namespace) -> None:

        from effnet_core.config.load import load_config
        from effnet_core.jobs.collective import join_group
        from effnet_core.train.control import Control
        from effnet_core.train.run import start
        from effnet_core.train.saving import open_saver
        from effnet_core.train.session import Clock, Session
        from effnet_core.train.setup import prepare
        from effnet_core.train.tracking import Trackers

        world, rank = int(os.environ["MS_WORKER_NUM"]), int(os.environ.get("MS_NODE_ID", "0"))
        cores = machine.available_cores()
        os.sched_setaffinity(0, machine.cores_of_rank(cores, rank, world))
        config = load_config("digits", ["model.weights=null", f"runtime.world_size={world}"])
        group = join_group(config.runtime)
        run_dir = options.out.parent / "run"
        run_dir.mkdir(exist_ok=True)
        self.run = start(prepare(config, group, data_dir=options.data, run_dir=run_dir))
        self.session = Session(open_saver(self.run), Trackers([]), Clock())
        self.run.set_train()
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.batches = self._batches()
        self.ready, self.nothing = next(self.batches), Control().encode()

    def _batches(self) -> Iterator[Any]:
        from effnet_core.train.batches import epoch_batches

        while True:
            self.run.progress.step = 0
            yield from epoch_batches(self.run)

    def timed(self, name: str, function: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = function()
        self.seconds[name].append(time.perf_counter() - started)
        return result

    def bare(self) -> None:
        batch = self.ready
        cell = self.run.cell
        self.timed("bare", lambda: cell(batch.images, batch.labels, self.nothing).asnumpy())

    def whole(self) -> None:
        self.timed("loop", self._whole)

    def _whole(self) -> None:
        from effnet_core.train import loop, update

        batch = self.timed("input", lambda: next(self.batches))
        control = self.timed("control", lambda: loop._control(self.run, self.session))
        self.timed("update", lambda: update.update(self.run, [batch], control))

    def steps(self, options: argparse.Namespace) -> None:
        """Both kinds in turns, after those that compile and let the kernels choose their pieces."""
        for _ in range(options.warm):
            self.bare()
            self.whole()
        self.seconds.clear()
        for _ in range(options.blocks):
            for kind in (self.bare, self.whole):
                for _ in range(BLOCK):
                    kind()

    def saves(self, count: int) -> dict[str, list[float]]:
        """Seconds of blocks of steps with and without a checkpoint, of its copy, and of its writer."""
        from effnet_core.train import saving

        found: dict[str, list[float]] = {name: [] for name in SAVING}

        def counted(*arguments: Any) -> None:
            started = time.thread_time()
            write(*arguments)
            found["writer"].append(time.thread_time() - started)

        saver = self.session.saver
        write, saver._write = saver._write, counted  # type: ignore[method-assign]
        for index in range(count):
            for kind in ("beside none", "beside a save"):
                started = time.perf_counter()
                if kind == "beside a save":
                    self.run.progress.step = index
                    saving.save(self.run, saver)
                    found["copy"].append(time.perf_counter() - started)
                for _ in range(BLOCK):
                    self.whole()
                found[kind].append(time.perf_counter() - started)
                saver.join()
        return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run the ranks, and give the seconds of rank 0."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "seconds.json"
        command = [
            *(str(Path(sys.executable).with_name("msrun")), f"--worker_num={RANKS}"),
            *(f"--local_worker_num={RANKS}", "--master_port=18131", "--join=True"),
            *(
                f"--log_dir={folder}/logs",
                "--tail_worker_log=0",
                "python",
                str(Path(__file__).resolve()),
            ),
            *("--in-rank", "--out", str(out), "--data", str(options.data.resolve())),
            *("--blocks", str(options.blocks), "--saves", str(options.saves)),
            *("--warm", str(options.warm)),
        ]
        environment = {
            **os.environ,
            "GLOG_v": "3",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        if not out.exists():
            sys.exit(f"failed:\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        return json.loads(out.read_text())


def staged_digits(folder: Path) -> Path:
    """The demo's data set, staged in ``folder``."""
    from effnet_core.data.digits import write_digits
    from effnet_core.data.staging import stage_dataset

    write_digits(folder / "digits")
    stage_dataset(folder / "digits" / "labelled", folder / "data")
    return folder / "data"


def report(seconds: dict[str, Any], images: int, minutes: float) -> list[str]:
    """The note's lines."""
    ms = {name: 1000 * statistics.median(values) for name, values in seconds.items()}
    bare, loop = ms["bare"], ms["loop"]
    beside = [b - a for a, b in zip(seconds["beside none"], seconds["beside a save"], strict=True)]
    cost = ms["copy"] + ms["writer"]
    interval = 60_000 * minutes
    return [
        "Recipe `digits` (EfficientNet-Lite0, 64 px, global batch 32) on 2 ranks of one core each; medians "
        f"of rank 0 over {len(seconds['bare'])} steps of each kind, in turns.",
        "",
        "| | ms a step |",
        "|---|---|",
        f"| compiled step alone, on a batch that lies ready | {bare:.1f} |",
        f"| step of the training loop | {loop:.1f} |",
        f"| of it: waiting for input | {ms['input']:.2f} |",
        f"| of it: masks, rate and compiled step | {ms['update']:.1f} |",
        f"| of it: what rank 0 asks for | {ms['control']:.2f} |",
        "",
        f"The loop takes {loop / bare:.3f} times the bare step ({images / loop * 1000:.0f} images/s against "
        f"{images / bare * 1000:.0f}).",
        "",
        f"A checkpoint stops the steps for {ms['copy']:.0f} ms (the copy), and the thread that writes it "
        f"takes {ms['writer']:.0f} ms of the rank's processor: {cost:.0f} ms in all. Every "
        f"{minutes:g} minutes (`train.checkpoint_every_minutes`) that is {cost / interval:.3%} of the time; "
        f"it stays below 2 % where checkpoints are at least {cost / 20:.0f} s apart. (The clock says: "
        f"{BLOCK} steps with one took {1000 * statistics.median(beside):.0f} ms more than {BLOCK} without, "
        f"{1000 * min(beside):.0f} to {1000 * max(beside):.0f} in {len(beside)} turns, which is the "
        "machine's noise.)",
    ]


def main() -> None:
    """Measure, print and write the note."""
    reader = argparse.ArgumentParser(description=__doc__)
    reader.add_argument("--blocks", type=int, default=12)
    reader.add_argument("--saves", type=int, default=6)
    reader.add_argument("--warm", type=int, default=8)
    reader.add_argument(
        "--data", type=Path, help="the demo's staged digits; staged anew when absent"
    )
    reader.add_argument("--in-rank", action="store_true", help=argparse.SUPPRESS)
    reader.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = reader.parse_args()
    if options.in_rank:
        turns = Turns(options)
        turns.steps(options)
        seconds = {**turns.seconds, **turns.saves(options.saves)}
        if os.environ.get("MS_NODE_ID", "0") == "0" and os.environ.get("MS_ROLE") != "MS_SCHED":
            options.out.write_text(json.dumps(seconds))
        return
    from machine import write_note

    from effnet_core.config.load import load_config

    config = load_config("digits")
    with tempfile.TemporaryDirectory() as folder:
        options.data = options.data or staged_digits(Path(folder))
        seconds = measure(options)
    lines = report(seconds, config.data.global_batch_size, config.train.checkpoint_every_minutes)
    write_note(__file__, "The training loop", lines)


if __name__ == "__main__":
    main()
