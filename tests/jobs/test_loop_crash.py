"""The loop is killed again and again, wherever it is: it continues, and nothing is there twice."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from effnet_core import api
from effnet_core.config.load import write_config
from effnet_core.config.schema import StorageConfig
from effnet_core.data.corrections import COLUMNS
from effnet_core.data.manifest import open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.infer.parts import read_parts
from effnet_core.kernels import build as operators
from effnet_core.model_store.maintenance import verify
from effnet_core.model_store.versions import list_versions, resolve_version
from effnet_core.quality.champion import CACHE_NAME
from effnet_core.quality.gate import publish
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.system.files import read_json
from tests.flows.service import ROOT, processes_naming
from tests.support.images import class_folders, draw, encode
from tests.support.tiny import tiny_config
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore

LOOP = """
import sys
from pathlib import Path
from effnet_core import api
from effnet_core.quality.gate import publish
from effnet_core.reports.review import write_queue
from tests.support.tiny import tiny_config

root = Path(sys.argv[1])
config = tiny_config(f"storage.root={root / 'store'}", "storage.name=animals", "evaluate.promote_margin=1.0",
                     "infer.shard_images=20", "infer.engine_threads=1")
print("begun", flush=True)
api.stage(root / "source", root / "data", config=config, corrections=root / "reviews")
print("staged", flush=True)
run = root / "run"
api.evaluate(run / "model.ckpt", root / "data", config=config, work_dir=run / "measured")
print("evaluated", flush=True)
publish(run, config=config, evaluation=run / "measured", data_dir=root / "data")
print("published", flush=True)
api.infer("production", [root / "inbox"], root / "labels", config=config)
print("labelled", flush=True)
queue = write_queue(root / "labels", root / "queue", count=10, config=config)
print("finished", flush=True)
"""
KILLS = (
    ("begun", 0.04),
    ("staged", 0.02),
    ("staged", 0.1),
    ("evaluated", 0.02),
    ("evaluated", 0.1),
    ("published", 0.02),
    ("labelled", 0.0),
)
"""What it has said when it is killed, and how long ago, as a share of a whole loop."""


def begin(root: Path) -> Path:
    """A store with a production, a labelled source, a review, a challenger and an inbox."""
    class_folders(root / "source", {"cat": 160, "dog": 160})
    stage_dataset(root / "source", root / "before")
    names = open_dataset(root / "before").class_names
    for name, seed in (("first", 0), ("run", 1)):
        (root / name).mkdir()
        write_config(tiny_config(), root / name)
        make_checkpoint(root / name / "model.ckpt", class_names=names, image_size=32, seed=seed)
    config = tiny_config(f"storage.root={root / 'store'}", "storage.name=animals")
    first = root / "first"
    api.evaluate(first / "model.ckpt", root / "before", config=config, work_dir=first / "measured")
    shown = {"evaluation": first / "measured", "data_dir": root / "before"}
    assert publish(first, config=config, version="first", **shown).promoted
    (root / "inbox").mkdir()
    for i in range(70):
        (root / "inbox" / f"{i:02d}.png").write_bytes(encode(draw(seed=9000 + i, label=i % 2)))
    _review(root)
    return root


def _review(root: Path) -> None:
    """Three labels are changed, one picture is left out, two are new."""
    folder = root / "reviews" / "monday"
    folder.mkdir(parents=True)
    rows: list[tuple[Any, ...]] = []
    for i in range(4):
        digest = hashlib.sha256((root / "source/cat" / f"{i:03d}.jpg").read_bytes()).hexdigest()
        label, action = ("dog", "label") if i else ("", "leave out")
        rows.append((digest, "", label, "cat", action, "label"))
    for i in range(2):
        content = encode(draw(seed=500 + i, label=1))
        (folder / f"{i}.png").write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        rows.append((digest, f"{i}.png", "dog", "cat", "label", "uncertain"))
    with (folder / "labels.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([COLUMNS, *rows])


class Looping:
    """The loop of a folder, in processes of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.cache = root / "cache"
        self.cache.mkdir()
        kernels = Path(os.environ[CACHE_VARIABLE]) / operators.CACHE_NAME  # take long to build
        (self.cache / operators.CACHE_NAME).symlink_to(kernels)

    def run(self, *, until: str = "", after_s: float = 0.0) -> int:
        """Let it run to its end, or kill it so many seconds after it has said something.

        Returns:
            Its exit status: -9 if it was killed before it was done.
        """
        environment = {"PYTHONPATH": str(ROOT), CACHE_VARIABLE: str(self.cache)}
        said: list[str] = []
        with subprocess.Popen(
            [sys.executable, "-c", LOOP, str(self.root)],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                said.append(line.strip())
                if said[-1] == until:
                    time.sleep(after_s)
                    process.kill()
        assert process.returncode in (0, -9 if until else 0), "\n".join(said[-20:])
        return process.returncode

    def production(self) -> str:
        storage = StorageConfig(root=str(self.root / "store"), name="animals")
        assert verify(storage) == []
        return str(resolve_version(storage, "production")["version"])


def what_is_there(root: Path) -> dict[str, Any]:
    """Everything that the loop makes, without times."""
    storage = StorageConfig(root=str(root / "store"), name="animals")
    versions = {item["version"]: item["checkpoint_sha256"] for item in list_versions(storage)}
    pointer = read_json(root / "store" / "animals" / "production.json")
    with (root / "queue" / "queue.csv").open(newline="") as stream:
        queue = [row["path"] for row in csv.DictReader(stream)]
    return {
        "data": open_dataset(root / "data").digest,
        "notes": read_json(root / "data" / "dataset.json").get("notes"),
        "models": sorted(versions.values()),
        "production": versions[pointer["version"]],
        "before it": pointer["previous"],
        "compared": {**pointer["comparison"], "version": ""},
        "answers": sorted(
            (row["path"], row["class_ids"][0]) for row in read_parts(root / "labels")
        ),
        "drift": read_json(root / "labels" / "summary.json")["drift"],
        "queue": queue,
        "pictures": sorted(path.name for path in (root / "queue" / "pictures").iterdir()),
        "measured": len(list((root / "cache" / CACHE_NAME).glob("*.npz"))),
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_in_the_middle_of_the_loop(tmp_path: Path) -> None:
    straight = Looping(begin(tmp_path / "straight"))
    began = time.monotonic()
    straight.run()
    whole_s = time.monotonic() - began
    looping = Looping(begin(tmp_path / "killed"))
    seen, killed = [], 0
    for step, share in KILLS:
        killed += looping.run(until=step, after_s=share * whole_s) == -9
        seen.append(looping.production())
    assert killed >= len(KILLS) - 1
    looping.run()
    looping.run()  # once more changes nothing
    found, wanted = what_is_there(looping.root), what_is_there(straight.root)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(wanted))
    assert len(found["models"]) == 2 and found["before it"] == "first"
    assert seen == sorted(seen, key=lambda version: version != "first")  # never back to the first
    left = [path for path in looping.root.rglob("*") if ".part" in path.name]
    hidden = [
        path for path in looping.root.rglob(".*") if path.is_file() and "lock" not in path.name
    ]
    assert not left and not hidden
    assert processes_naming(looping.root) == []
