"""What 50 pictures of the review queue are worth, beside 50 drawn at random.

    python -m benchmarks.queue_lift --seeds 5

For each seed: a model of 900 labelled digits labels an inbox of four days, of which the last has inverted and
shifted pictures. 50 pictures of the queue, 50 drawn from the whole inbox and 50 drawn from the last day alone
are labelled by the known answers, staged with the others, and learned from. Each model is measured on
pictures of the changed world that nobody has seen; that of the queue goes through the gate, and the first
model tries to come back.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.changing_world import World, settings  # noqa: E402
from effnet_core import api  # noqa: E402
from effnet_core.config.load import load_config  # noqa: E402
from effnet_core.errors import GateRefused  # noqa: E402
from effnet_core.infer.parts import iter_rows  # noqa: E402
from effnet_core.quality.gate import promote, publish  # noqa: E402
from effnet_core.reports.review import write_queue  # noqa: E402
from effnet_core.system.files import write_json  # noqa: E402

LABELLED, A_DAY, UNSEEN, REVIEWED = 900, 100, 200, 50
DAYS = 4
QUEUE, RANDOM, LAST_DAY = "the queue", "drawn from all four days", "drawn from day 4"


@dataclass
class Lift:
    """Accuracy on unseen pictures of the changed world."""

    seed: int
    before: float
    after: dict[str, float]
    """By the way in which 50 pictures were chosen."""
    changed: dict[str, int]
    """How many of the 50 are from the changed world."""
    promoted: bool
    """Whether the gate let the queue's model through."""
    gate: str
    refused: bool
    """Whether it kept the first model out afterwards."""


def measure(seed: int, folder: Path) -> Lift:
    """All of it for one world."""
    world = World(folder, seed)
    config = load_config("digits", settings(folder, probe=True))
    world.label(LABELLED)
    for day in range(1, DAYS + 1):
        world.bring(A_DAY, f"day{day}", changed=day == DAYS)
    unseen = folder / "unseen"
    world.bring(UNSEEN, "unseen", changed=True, folder=unseen)

    def learn(name: str, corrections: Path | None = None) -> tuple[float, Path]:
        """A model of the labelled pictures and some corrections: its accuracy, and its run."""
        data, run = folder / name / "data", folder / name / "run"
        api.stage(str(world.labelled), data, config=config, corrections=corrections)
        api.train(config, data, run)
        output = folder / name / "unseen"
        api.infer(run / "model.ckpt", [unseen], output, config=config)
        return world.accuracy(output, unseen), run

    before, first = learn("first")
    publish(first, config=config, version="first")
    output = folder / "labels"
    api.infer("production", [world.inbox], output, config=config)
    after, changed = {}, {}
    for way, path in _choices(world, output, np.random.default_rng(seed)).items():
        name = hashlib.sha256(way.encode()).hexdigest()[:8]
        after[way], run = learn(name, path)
        changed[way] = path.read_text().count(f"day{DAYS}-") if way != QUEUE else _of_last(folder)
        if way == QUEUE:
            second = publish(run, config=config, version="second")
            queue_data = folder / name / "data"
    try:
        promote("first", config=config, data_dir=queue_data)
        refused = False
    except GateRefused:
        refused = True
    return Lift(
        seed, before, after, changed, second.promoted, second.gate or second.reason, refused
    )


def _choices(world: World, output: Path, rng: np.random.Generator) -> dict[str, Path]:
    """The labels of 50 pictures, by the way in which they were chosen."""
    queue = write_queue(
        output, world.folder / "queue", count=REVIEWED, config=load_config(None, [])
    )
    world.decide(queue.path.parent)
    found = {QUEUE: queue.path.parent / "labels.csv"}
    answers = {
        row["path"]: row["class_names"][0] for row in iter_rows(output, ("path", "class_names"))
    }
    paths = sorted(answers)
    last = [path for path in paths if path.startswith(f"day{DAYS}-")]
    for way, some in ((RANDOM, paths), (LAST_DAY, last)):
        chosen = rng.choice(some, REVIEWED, replace=False)
        path = world.inbox.parent / f"{len(found)}.csv"
        world.save(path, [(f"inbox/{name}", answers[name]) for name in chosen])
        found[way] = path
    return found


def _of_last(folder: Path) -> int:
    text = (folder / "queue" / "queue.csv").read_text()
    return text.count(f"day{DAYS}-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the figures")
    options = parser.parse_args()
    rows = []
    for seed in range(options.seeds):
        folder = Path(tempfile.mkdtemp(prefix="lift-"))
        try:
            rows.append(asdict(measure(seed, folder)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        print(rows[-1], flush=True)
        write_json(options.out, rows)


if __name__ == "__main__":
    main()
