"""What a killed command was writing is removed by the next one in its place, and nothing else is."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from effnet_core.config.schema import InferConfig, StorageConfig
from effnet_core.errors import DataError, FolderInUse, WorkerLost
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.plan import PARTS_NAME, SHARDS_NAME, plan
from effnet_core.jobs.job import RecordsJob
from effnet_core.jobs.launch import write_job
from effnet_core.model_store.versions import cached_model, fetch_model
from effnet_core.system.locks import scratch_folder, sole_user, sole_writer
from tests.support.images import class_folders
from tests.support.tiny import tiny_config
from tests.unit.model_store.test_publication import put

BEGIN = (
    "import os, sys; from pathlib import Path; from effnet_core.system.files import atomic_path\n"
    "for name in sys.argv[1:]:\n"
    "    atomic_path(Path(name)).__enter__().write_text('half')\n"
    "os.kill(os.getpid(), 9)\n"
)
SCRATCH = (
    "import os; from effnet_core.system.locks import scratch_folder\n"
    "with scratch_folder('test') as folder:\n"
    "    print(folder, flush=True); input()\n"
)


def begin(*paths: Path) -> None:
    """Begin files in a process that is killed before they are whole."""
    done = subprocess.run([sys.executable, "-c", BEGIN, *map(str, paths)], check=False)
    assert done.returncode == -9
    for path in paths:
        assert hidden(path.parent, path.name)


def hidden(folder: Path, name: str = "") -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(f".{name}")]


def test_whoever_has_a_folder_next_removes_it(tmp_path: Path) -> None:
    foreign = [".result.json.swp", ".result.json.abcdefgh", ".hidden"]
    for name in foreign:
        (tmp_path / name).write_text("mine")
    begin(tmp_path / "result.json")
    with sole_user(tmp_path, what="folder"):
        pass
    assert sorted(hidden(tmp_path)) == sorted(foreign)


def test_whoever_writes_a_file_next_removes_only_what_is_of_that_file(tmp_path: Path) -> None:
    begin(tmp_path / "a.onnx", tmp_path / "b.onnx")
    with sole_writer(tmp_path / "a.onnx", what="exported file"):
        pass
    assert len(hidden(tmp_path, "a.onnx")) == 0
    assert len(hidden(tmp_path, "b.onnx")) == 1


def test_a_labelling_removes_parts_that_were_begun(tmp_path: Path) -> None:
    images = class_folders(tmp_path / "images", {"cat": 2})
    output = tmp_path / "out"
    listed = list_inputs([images], output, recursive=True, storage=StorageConfig())

    def planned() -> None:
        plan(listed, output, model_sha256="0" * 64, infer=InferConfig())

    planned()
    for folder in (PARTS_NAME, SHARDS_NAME):
        (output / folder).mkdir(exist_ok=True)
        begin(output / folder / "part-00000-0123.parquet")
    planned()
    assert hidden(output / PARTS_NAME) == hidden(output / SHARDS_NAME) == []


def test_a_job_removes_what_an_earlier_try_began(tmp_path: Path) -> None:
    begin(tmp_path / "result.json")
    write_job(RecordsJob(tmp_path, ("val",)), tiny_config(), tmp_path)
    assert hidden(tmp_path) == []


def test_a_fetch_has_its_folder_to_itself_and_removes_what_was_begun(tmp_path: Path) -> None:
    storage = StorageConfig(root=str(tmp_path / "store"), name="animals")
    put(tmp_path, storage, "v1", content="one")
    out = tmp_path / "out"
    with sole_user(out, what="folder"), pytest.raises(FolderInUse):
        fetch_model(storage, "v1", out)
    cached = cached_model(storage).path.parent
    begin(cached / "model.ckpt")
    cached_model(storage)
    assert hidden(cached) == []


def start_scratch(temporary: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRATCH],
        env={"PATH": "", "TMPDIR": str(temporary)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_temporary_folders_of_killed_commands_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    dead, of_dead = start_scratch(tmp_path)
    living, of_living = start_scratch(tmp_path)
    other = tmp_path / "effnet-test-of-a-person"
    other.mkdir()
    with pytest.raises(DataError), scratch_folder("test") as full:
        raise DataError(f"{full} can no longer be written to")
    assert not full.exists()
    with pytest.raises(WorkerLost), scratch_folder("test") as told:
        raise WorkerLost(f"look into {told}")
    dead.kill()
    dead.communicate()
    assert of_dead.exists()
    with scratch_folder("test") as mine:
        assert sorted(tmp_path.iterdir()) == sorted([of_living, other, told, mine])
    living.communicate("\n")
    assert sorted(tmp_path.iterdir()) == sorted([other, told])


def test_a_folder_that_an_error_names_stays_for_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(WorkerLost), scratch_folder("test") as told:
        raise WorkerLost(f"look into {told}")
    for hours, there in ((23, True), (25, False)):
        for path in told.iterdir():
            os.utime(path, (time.time() - 3600 * hours,) * 2)
        with scratch_folder("test"):
            assert told.exists() == there
