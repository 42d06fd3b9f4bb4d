"""One user at a time: of folders, of files, across processes, and where the file system has no locks."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.cli.copy import copy
from effnet_core.data.manifest import open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError, FolderInUse
from effnet_core.export.export import export
from effnet_core.storage import trees
from effnet_core.system import locks
from effnet_core.system.files import LOCK_NAME
from effnet_core.system.locks import Owner, alone, inherited, sole_user, sole_writer, turn
from tests.support.images import source_with_splits
from tests.support.tiny import tiny_config
from tests.support.weights import make_checkpoint

HOLD = (
    "import sys, time; from pathlib import Path; from effnet_core.system.locks import sole_user\n"
    "with sole_user(Path(sys.argv[2]), what='it'):\n"
    "    print('held', flush=True); sys.stdin.read()\n"
)


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A folder that another process uses, until the block ends."""
    command = [sys.executable, "-c", HOLD, "stage", str(folder)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_second_user_of_a_folder_hears_who_is_the_first(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with held_elsewhere(folder) as first:
        with pytest.raises(FolderInUse) as caught, sole_user(folder, what="output folder"):
            pass
        assert f"output folder {folder} is in use by '-c stage' (process {first.pid} on " in str(
            caught.value
        )
        assert socket.gethostname() in str(caught.value)
        assert caught.value.retryable
        (folder / "result").write_text("")
    with sole_user(folder, what="output folder"):
        assert (folder / LOCK_NAME).exists()
    assert [path.name for path in folder.iterdir()] == ["result"]


def test_threads_of_one_process_keep_each_other_out(tmp_path: Path) -> None:
    with (
        sole_user(tmp_path, what="it"),
        pytest.raises(FolderInUse),
        sole_user(tmp_path, what="it"),
    ):
        pass


def test_a_folder_that_nothing_was_written_to_is_removed(tmp_path: Path) -> None:
    with pytest.raises(DataError), sole_user(tmp_path / "new", what="run folder"):
        raise DataError("no data set")
    (tmp_path / "old").mkdir()
    with sole_user(tmp_path / "old", what="run folder"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_killed_user_keeps_nobody_out(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path) as first:
        first.kill()
        first.wait()
        assert (tmp_path / LOCK_NAME).exists()
        with sole_user(tmp_path, what="it"):
            owner = Owner.read(tmp_path / LOCK_NAME)
            assert owner is not None
            assert owner.pid == os.getpid()
    assert not (tmp_path / LOCK_NAME).exists()


def test_children_of_a_killed_user_keep_the_folder_until_they_end(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from pathlib import Path\n"
        "from effnet_core.system.locks import inherited, sole_user\n"
        "with sole_user(Path(sys.argv[1]), what='it'), inherited() as locks:\n"
        "    child = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=0, pass_fds=locks)\n"
        "    print(child.pid, flush=True); child.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as first:
        assert first.stdout is not None
        assert first.stdin is not None
        child = int(first.stdout.readline())
        first.kill()
        os.waitid(os.P_PID, first.pid, os.WEXITED | os.WNOWAIT)
        entered: list[bool] = []

        def second() -> None:
            with sole_user(tmp_path, what="it"):
                entered.append(Path(f"/proc/{child}").exists())

        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        assert not entered
        os.kill(child, signal.SIGKILL)
        waiting.join(20)
    assert len(entered) == 1


def test_two_writers_of_a_file_beside_others(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path / "new" / "a.onnx", what="exported file"),
        sole_writer(tmp_path / "new" / "b.onnx", what="exported file"),
        pytest.raises(FolderInUse, match=r"exported file .*a\.onnx is in use by"),
        sole_writer(tmp_path / "new" / "a.onnx", what="exported file"),
    ):
        pass
    assert list((tmp_path / "new").iterdir()) == []


def test_those_that_wait_come_one_after_the_other(tmp_path: Path) -> None:
    inside: list[int] = []
    most: list[int] = []

    def work() -> None:
        for _ in range(20):
            with alone(tmp_path / "file"):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 80
    assert list(tmp_path.iterdir()) == []


def test_who_waits_long_is_told_for_whom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "TELL_AFTER_S", 0.0)
    told: list[str] = []
    with held_elsewhere(tmp_path) as first:

        def tell(line: str) -> None:
            told.append(line)
            assert first.stdin is not None
            first.stdin.close()

        with turn(tmp_path / LOCK_NAME, tell):
            pass
    assert len(told) == 1
    assert f"process {first.pid} on" in told[0]


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / LOCK_NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"it .* cannot be locked"), sole_user(tmp_path, what="it"):
        pass
    assert not (tmp_path / "elsewhere").exists()


def test_inherited_are_the_locks_of_now(tmp_path: Path) -> None:
    with sole_user(tmp_path, what="it"), inherited() as inside:
        assert len(inside) == 1
    with inherited() as after:
        assert after == ()


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that has no locks."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.usefixtures("without_locks")
def test_without_kernel_locks_the_file_is_the_lock(tmp_path: Path) -> None:
    with (
        sole_user(tmp_path, what="it"),
        pytest.raises(FolderInUse, match=f"where it has ended already, delete .*{LOCK_NAME}"),
        sole_user(tmp_path, what="it"),
    ):
        pass
    with sole_user(tmp_path, what="it"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_locks")
def test_without_kernel_locks_a_dead_owner_of_this_machine_is_replaced(tmp_path: Path) -> None:
    dead = replace(Owner.this_process(), pid=2**22 + 1)
    (tmp_path / LOCK_NAME).write_text(json.dumps(asdict(dead)))
    with sole_user(tmp_path, what="it"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_locks")
def test_without_kernel_locks_an_owner_of_another_machine_is_respected(tmp_path: Path) -> None:
    other = replace(Owner.this_process(), pid=2**22 + 1, host="another-host")
    (tmp_path / LOCK_NAME).write_text(json.dumps(asdict(other)))
    with pytest.raises(FolderInUse, match="on another-host"), sole_user(tmp_path, what="it"):
        pass


def stage(folder: Path) -> None:
    stage_dataset(folder.parent / "source", folder)


def stage_in_a_child(folder: Path) -> None:
    api.stage(folder.parent / "source", folder)


def label(folder: Path) -> None:
    weights = make_checkpoint(folder.parent / "model.ckpt")
    api.infer(weights, [folder.parent / "source"], folder, only_new=True)


def evaluate(folder: Path) -> None:
    api.evaluate("model", folder.parent / "data", work_dir=folder)


def train(folder: Path) -> None:
    api.train(tiny_config(), folder.parent / "data", folder)


def fetch(folder: Path) -> None:
    copy("s3://bucket/prefix", str(folder))


def show_demo(folder: Path) -> None:
    from flows.demo import run_demo

    run_demo(folder, [])


@pytest.mark.parametrize(
    "command", [stage, stage_in_a_child, label, evaluate, train, fetch, show_demo]
)
def test_every_command_keeps_its_folder_to_itself(
    command: Callable[[Path], None], tmp_path: Path
) -> None:
    source_with_splits(tmp_path / "source", train=2, val=1)
    with held_elsewhere(tmp_path / "out") as first:
        with pytest.raises(FolderInUse, match=f"{tmp_path}/out is in use by .*process {first.pid}"):
            command(tmp_path / "out")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [LOCK_NAME]


def test_an_export_keeps_its_file_to_itself(tmp_path: Path) -> None:
    with (
        sole_writer(tmp_path / "model.onnx", what="it"),
        pytest.raises(FolderInUse, match=r"exported file .*model\.onnx is in use by"),
    ):
        export("model", tmp_path / "model.onnx", format="onnx")


@pytest.mark.costly
def test_the_second_of_two_stagings_leaves_the_first_whole(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source_with_splits(source, train=40, val=10)
    command = [sys.executable, "-m", "effnet_core", "stage", str(source), "--out", str(out)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    ended = {process.wait(): process.communicate()[1] for process in both}
    if 2 in ended:  # unless one had ended before the other one began
        assert "is in use by" in ended[2]
    assert 0 in ended
    dataset = open_dataset(out)
    assert dataset.counts == {"train": 120, "val": 30}
    assert all((out / path).is_file() for path in dataset.split("train").paths)
    assert not (out / LOCK_NAME).exists()


def test_a_lock_is_not_uploaded(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with sole_user(tmp_path, what="it"):
        assert [path.name for path in trees._files(tmp_path)] == ["file"]


def test_a_later_process_of_the_same_id_is_another_one() -> None:
    now = Owner.this_process()
    namespace = now.process.partition(" ")[0]
    assert not now.is_gone()
    assert replace(now, process=f"{namespace} 1").is_gone()
    assert not replace(now, process="another-namespace 1").is_gone()
