"""What Prefect adds: the demo's pipeline as a deployment's run, and the same work by the library alone.

Both are run turn by turn on fresh folders. The second table is of one training: seconds from the command to
the first finished step. What Prefect adds does not depend on how long the work takes, so the smallest network
does it, and the whole is done in five minutes; ``--full`` takes the demo's own settings, for half an hour.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

from machine import write_note

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
SMALL = [
    "model.variant=efficientnet_tiny",
    "model.weights=null",
    "data.image_size=32",
    "train.epochs=2",
]

ALONE = """
import sys
from pathlib import Path
from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.data.digits import write_digits
from effnet_core.data.staging import stage_dataset
from effnet_core.reports.pipeline import write_pipeline_report
from effnet_core.model_store.publication import publish_model

out = Path(sys.argv[1])
config = load_config("digits", [f"storage.root={out / 'store'}", *sys.argv[2:]])
write_digits(out / "digits")
stage_dataset(out / "digits" / "labelled", out / "data", val_share=0.2, seed=0, max_rejected_share=0.1)
trained = api.train(config, out / "data", out / "train")
weights = out / "train" / "model.ckpt"
evaluation = api.evaluate(weights, out / "data", config=config, work_dir=out / "evaluate")
published = publish_model(
    out / "train", evaluation=evaluation, storage=config.storage, gate=config.evaluate
)
inference = api.infer(weights, [out / "digits" / "unlabelled"], out / "predictions", config=config)
write_pipeline_report(
    config, out, data_dir=out / "data", trained=trained,
    evaluation=evaluation, published=published, inference=inference, seconds={}, flow_run_id="",
)
"""


def command(arguments: list[str], state: Path) -> float:
    """Seconds that a command takes."""
    started = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "EFFNET_STATE_DIR": str(state)}
    done = subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - started


def deployed(name: str, parameters: dict[str, object], state: Path) -> float:
    """Seconds of ``effnet run NAME --watch``."""
    options = [part for key, value in parameters.items() for part in ("-p", f"{key}={value}")]
    return command(["-m", "flows.cli", "run", name, *options, "--watch"], state)


def first_step_after(run_dir: Path, started: float) -> float:
    """Seconds from a time to the first line of ``metrics.jsonl``."""
    from effnet_core.system.files import read_jsonl

    return float(read_jsonl(run_dir / "metrics.jsonl")[0]["time"]) - started


def row(name: str, seconds: list[float]) -> str:
    shown = ", ".join(f"{value:.1f}" for value in seconds)
    return f"| {name} | {statistics.median(seconds):.1f} | {shown} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=4280)
    options = parser.parse_args()
    settings, rounds = [] if options.full else SMALL, options.rounds
    with tempfile.TemporaryDirectory(prefix="effnet-bench-") as temporary:
        folder = Path(temporary)
        state = folder / "state"
        up = command(["-m", "flows.cli", "up", "--port", str(options.port)], state)
        again = command(["-m", "flows.cli", "up", "--port", str(options.port)], state)
        try:
            whole = measure_pipelines(folder, state, settings, rounds)
            first = measure_first_steps(folder, state, settings, rounds)
        finally:
            command(["-m", "flows.cli", "down"], state)
    cost = statistics.median(whole["deployment"]) - statistics.median(whole["alone"])
    share = cost / 600
    what = "the demo's own settings" if options.full else f"settings: `{' '.join(SMALL)}`"
    lines = [
        f"{rounds} rounds, turn by turn; {what}. Deployment and library do the same work.",
        "",
        "| the demo's pipeline | median s | all |",
        "|---|---:|---|",
        row("`effnet run demo --watch`", whole["deployment"]),
        row("the same functions in one process, without Prefect", whole["alone"]),
        "",
        f"Prefect adds {cost:.1f} s (aim: under 15 s), {share:.1%} of a run of 10 minutes (aim: 3 %).",
        "",
        "| from the command to the first training step | median s | all |",
        "|---|---:|---|",
        row("`effnet run train-b0`", first["deployment"]),
        row("`effnet train`", first["alone"]),
        "",
        f"`effnet up` took {up:.1f} s on a new database, {again:.1f} s when all was running.",
    ]
    write_note(__file__, "What orchestration costs", lines)


def measure_pipelines(
    folder: Path, state: Path, settings: list[str], rounds: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"deployment": [], "alone": []}
    for turn in range(rounds):
        out = folder / f"demo-{turn}"
        seconds["deployment"].append(deployed("demo", {"out": out, "overrides": settings}, state))
        alone = folder / f"alone-{turn}"
        alone.mkdir()
        seconds["alone"].append(command(["-c", ALONE, str(alone), *settings], state))
    return seconds


def measure_first_steps(
    folder: Path, state: Path, settings: list[str], rounds: int
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {"deployment": [], "alone": []}
    data = folder / "alone-0" / "data"
    settings = [*settings, "train.epochs=2"]
    overrides = [part for setting in settings for part in ("-o", setting)]
    for turn in range(rounds):
        run_dir = folder / f"run-{turn}"
        parameters = {"data": data, "run_dir": run_dir, "recipe": "digits", "overrides": settings}
        started = datetime.now().timestamp()
        deployed("train-b0", parameters, state)
        seconds["deployment"].append(first_step_after(run_dir, started))
        run_dir = folder / f"alone-run-{turn}"
        started = datetime.now().timestamp()
        train = ["train", "--data", str(data), "--run-dir", str(run_dir), "--recipe", "digits"]
        command(["-m", "effnet_core", *train, *overrides], state)
        seconds["alone"].append(first_step_after(run_dir, started))
    return seconds


if __name__ == "__main__":
    main()
