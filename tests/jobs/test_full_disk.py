"""A disk that becomes full at any moment of a command: one sentence, and nothing is left behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.data.manifest import DATASET_NAME
from effnet_core.errors import DataError
from effnet_core.jobs.job import LOGS_NAME, read_error, reserve_room, write_error, write_result
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.system.files import UNFINISHED, read_json
from effnet_core.weights.checkpoint import open_checkpoint
from tests.flows.service import ROOT
from tests.support.images import class_folders
from tests.support.weights import make_checkpoint

SIZE = "210m"
"""More than the 200 MB that staging leaves free."""
HOOK = ROOT / "tests" / "support" / "filling"


@dataclass
class Disk:
    """A disk that a command finds full from some moment on."""

    root: Path
    beside: Path

    def run(self, at: str | int, *command: str) -> subprocess.CompletedProcess[str]:
        """Run ``effnet`` with its temporary folder on the disk, which is full once ``at`` has come."""
        (self.root / "tmp").mkdir(exist_ok=True)
        self.count.unlink(missing_ok=True)
        done = subprocess.run(
            [sys.executable, "-m", "effnet_core", *command],
            env={
                **os.environ,
                "TMPDIR": str(self.root / "tmp"),
                CACHE_VARIABLE: str(self.beside / "cache"),
                "PYTHONPATH": str(HOOK),
                "FILL_DISK": str(self.root),
                "FILL_AT": str(at),
                "FILL_COUNT": str(self.count),
            },
            capture_output=True,
            text=True,
            check=False,
        )
        (self.root / "filler").unlink(missing_ok=True)
        return done

    def clear(self) -> None:
        """Empty the disk."""
        for path in self.root.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    @property
    def count(self) -> Path:
        return self.beside / "opened"

    def opened(self) -> list[str]:
        """Files that the last command has opened for writing on the disk."""
        return self.count.read_text().splitlines()

    def leftovers(self) -> list[str]:
        """What should have been removed."""
        found = [*(self.root / "tmp").iterdir(), *self.root.rglob(f".*{UNFINISHED}")]
        return [str(path) for path in [*found, *self.root.rglob(".effnet.lock")]]


@pytest.fixture
def disk(tmp_path: Path, mount: Callable[[str], Path]) -> Disk:
    return Disk(mount(SIZE), tmp_path)


def refuses(disk: Disk, done: subprocess.CompletedProcess[str]) -> str:
    """What a command said, which ended as it should on a full disk."""
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert "no space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert disk.leftovers() == []
    return done.stderr


def test_staging_says_it_in_one_sentence(disk: Disk, tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", {"cat": 2, "dog": 2})
    out = disk.root / "out"
    command = ("stage", str(source), "--out", str(out))
    text = refuses(disk, disk.run("rank_0.pid", *command))
    assert f"staging into {out} failed" in text and "make room, and run the same" in text
    done = disk.run(".result.json", *command)  # its answer has room, whatever else has none
    assert done.returncode == 0, done.stderr
    assert read_json(out / DATASET_NAME)["complete"] and disk.leftovers() == []


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as stream, suppress(OSError):
        while True:
            stream.write(bytes(4096))


def test_planning_an_inference_says_which_folder_has_no_room(
    tmp_path: Path, mount: Callable[[str], Path]
) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "model.ckpt"))
    images = class_folders(tmp_path / "images", {"cat": 2})
    disk = mount("100k")
    fill(disk)
    with pytest.raises(DataError, match=r"output folder .*out can no longer .*make room"):
        api.plan_inference(checkpoint, [images], disk / "out")


def test_where_there_is_no_room_for_a_result_there_is_for_an_error(
    mount: Callable[[str], Path],
) -> None:
    run_dir = mount("100k")
    (run_dir / LOGS_NAME).mkdir()
    reserve_room(run_dir)
    fill(run_dir)
    with pytest.raises(OSError, match="No space left") as caught:
        write_result(run_dir, {"long": "x" * 100_000})
    write_error(run_dir, caught.value, rank=0)
    assert "No space left" in str(read_error(run_dir))
    assert sorted(path.name for path in run_dir.iterdir()) == ["error.json", "filler", "logs"]
    assert not list((run_dir / LOGS_NAME).iterdir())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_staging_at_every_moment(disk: Disk, tmp_path: Path) -> None:
    source = class_folders(tmp_path / "source", {"cat": 2, "dog": 2})
    command = ("stage", str(source), "--out", str(disk.root / "out"))
    assert disk.run("never", *command).returncode == 0
    moments = range(1, 1 + len(disk.opened()), 3)
    refused = 0
    for moment in moments:
        disk.clear()
        done = disk.run(moment, *command)
        if done.returncode == 0:
            continue  # the file at which it became full had been opened for nothing
        refuses(disk, done)
        refused += 1
    assert refused > 0.9 * len(moments)
