"""The ancestor's commands, run: alone, under msrun and under mpirun."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effnet_core.data.digits import write_digits
from effnet_core.jobs.job import METRICS_NAME
from effnet_core.system.files import read_jsonl
from tests.support.mindvision_yaml import write_yaml
from tests.support.services import missing
from tests.support.tiny import ONE_BLOCK

pytestmark = pytest.mark.mindspore

LINE = re.compile(
    r"Epoch:\[ *(\d+)/ *2\], step:\[ *(\d+)/ *(\d+)\], "
    r"loss:\[\d+\.\d{3}/\d+\.\d{3}\], time:\d+\.\d{3}, lr:\d\.\d{5}\."
)
COMMAND = [sys.executable, "-m", "effnet_core.mindvision"]
FLAGS = [
    *("--model", ONE_BLOCK, "--num_classes", "3", "--device_target", "CPU"),
    *("--resize", "32", "--batch_size", "4", "--num_parallel_workers", "1"),
]
TINY = {
    "variant": ONE_BLOCK,
    "device": "CPU",
    "width": 1.0,
    "depth": 1.0,
    "channels": 32,
    "size": 32,
    "rate": 0.01,
    "epochs": 2,
    "batch": 4,
}
"""The same for MindVision's YAML."""
TRAIN = ["train", *FLAGS, "--epoch_size", "2", "--decay_epoch", "2", "--max_lr", "0.01"]


def run(
    command: list[str], folder: Path, *, code: int = 0, timeout_s: int = 240
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": str(root),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def epochs_and_steps(output: str) -> list[tuple[int, int, int]]:
    found = LINE.findall(output)
    return [(int(epoch), int(step), int(steps)) for epoch, step, steps in found]


def accuracies(output: str) -> list[dict[str, float]]:
    """The dictionaries that were printed, as they stand."""
    return [ast.literal_eval(line) for line in output.splitlines() if line.startswith("{'Top_1")]


@pytest.fixture(scope="module")
def trained(source_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which a run was done as on the page, and what it printed."""
    folder = tmp_path_factory.mktemp("mindvision")
    command = [*COMMAND, *TRAIN, "--data_url", str(source_dir), "--ckpt_save_dir", "./device"]
    return folder, run(command, folder).stdout


def test_training_prints_a_line_a_step_and_leaves_checkpoints(trained: tuple[Path, str]) -> None:
    folder, output = trained
    assert epochs_and_steps(output) == [(e, s, 6) for e in (0, 1) for s in range(1, 7)]
    assert (folder / "device" / "model.ckpt").exists()
    assert len(list((folder / "device" / "checkpoints").glob("step-*.ckpt"))) == 2


@pytest.fixture(scope="module")
def evaluated(trained: tuple[Path, str], source_dir: Path) -> list[dict[str, float]]:
    """What ``eval -c FILE`` prints, with MindVision's YAML."""
    folder, _ = trained
    path = write_yaml(folder / "config", **TINY, classes=3, path=source_dir, weights="device")
    return accuracies(run([*COMMAND, "eval", "-c", str(path)], folder).stdout)


def test_eval_prints_the_dictionary(evaluated: list[dict[str, float]]) -> None:
    """By a file; test_eval_under_msrun below does it by flags."""
    [found] = evaluated
    assert list(found) == ["Top_1_Accuracy", "Top_5_Accuracy"]
    assert found["Top_1_Accuracy"] * 12 == pytest.approx(round(found["Top_1_Accuracy"] * 12))


def test_infer_prints_class_and_name_and_draws_on_a_copy(
    trained: tuple[Path, str], source_dir: Path
) -> None:
    folder, _ = trained
    picture = source_dir / "val" / "dog" / "001.jpg"
    before = picture.read_bytes()
    arguments = ["--data_url", str(picture), "--checkpoint", "device", "--output", "out"]
    last = run([*COMMAND, "infer", *FLAGS, *arguments], folder).stdout.splitlines()[-1]
    [(number, name)] = ast.literal_eval(last).items()
    assert ["cat", "dog", "owl"][number] == name
    assert (folder / "out" / "pictures" / "001.jpg.png").exists()
    assert picture.read_bytes() == before


@pytest.mark.slow
def test_a_yaml_of_mindvision_trains_and_evaluates_the_digits(tmp_path: Path) -> None:
    """``train_config.py -c FILE`` and ``eval_config.py -c FILE`` of the page; the dictionary as there."""
    digits = tmp_path / "digits"
    write_digits(digits)
    given = {
        **TINY,
        "classes": 10,
        "path": digits / "labelled",
        "weights": "output",
        "epochs": 2,
        "batch": 32,
    }
    path = write_yaml(tmp_path / "config", **given)
    output = run([*COMMAND, "train", "-c", str(path)], tmp_path / "work").stdout
    steps = epochs_and_steps(output)
    assert {epoch for epoch, _, _ in steps} == {0, 1}
    assert len(steps) == 2 * steps[0][2]
    last = run([*COMMAND, "eval", "-c", str(path)], tmp_path / "work").stdout.splitlines()[-1]
    assert re.fullmatch(r"\{'Top_1_Accuracy': [\d.]+, 'Top_5_Accuracy': [\d.]+\}", last)
    [found] = accuracies(last)
    right = [found[f"Top_{k}_Accuracy"] * 297 for k in (1, 5)]  # of the 297 digits to evaluate on
    assert right == pytest.approx([round(one) for one in right])
    assert 0 < right[0] <= right[1] <= 297


def digests(output: str) -> set[str]:
    return set(re.findall(r"final weights sha256 (\w{64})", output))


def msrun(arguments: list[str], folder: Path, *, ranks: int = 2) -> list[str]:
    """What each process says, the scheduler last."""
    command = [
        *("msrun", f"--worker_num={ranks}", f"--local_worker_num={ranks}", "--master_port=18435"),
        *("--join=True", "--log_dir=logs", "--cluster_time_out=120"),
        *("python", "-m", "effnet_core.mindvision", *arguments),
    ]
    run(command, folder)
    names = [*(f"worker_{rank}" for rank in range(ranks)), "scheduler"]
    return [(folder / "logs" / f"{name}.log").read_text() for name in names]


def test_under_msrun(source_dir: Path, tmp_path: Path) -> None:
    arguments = [*TRAIN, "--data_url", str(source_dir), "--ckpt_save_dir", "./device"]
    logs = msrun(arguments, tmp_path / "work")
    assert epochs_and_steps(logs[0]) == [(e, s, 3) for e in (0, 1) for s in (1, 2, 3)]
    assert len(digests(logs[0])) == 1
    assert digests(logs[0]) == digests(logs[1])
    assert not [log for log in logs if "Exception ignored" in log]


def test_eval_under_msrun_is_one_evaluation_by_all_ranks(
    trained: tuple[Path, str],
    evaluated: list[dict[str, float]],
    source_dir: Path,
    tmp_path: Path,
) -> None:
    """By flags, and the same dictionary as by a file and one process."""
    arguments = ["eval", *FLAGS, "--data_url", str(source_dir)]
    arguments += ["--checkpoint", str(trained[0] / "device")]
    logs = msrun(arguments, tmp_path / "work")
    assert [accuracies(log) for log in logs] == [evaluated, [], []]
    assert '"world_size": 2' in (tmp_path / "work/efficientnet_eval/result.json").read_text()


def test_infer_under_msrun_is_done_once(
    trained: tuple[Path, str], source_dir: Path, tmp_path: Path
) -> None:
    arguments = ["infer", *FLAGS, "--data_url", str(source_dir / "val" / "dog")]
    logs = msrun([*arguments, "--checkpoint", str(trained[0] / "device")], tmp_path / "work")
    assert [log.count("{") for log in logs] == [4, 0, 0]


@pytest.mark.slow
def test_one_process_under_msrun_trains_once(source_dir: Path, tmp_path: Path) -> None:
    """Its scheduler has nobody to bring together, and must not train too."""
    arguments = [*TRAIN, "--data_url", str(source_dir), "--ckpt_save_dir", "./device"]
    logs = msrun(arguments, tmp_path / "work", ranks=1)
    assert [len(epochs_and_steps(log)) for log in logs] == [2 * 6, 0]
    assert len(read_jsonl(tmp_path / "work" / "device" / METRICS_NAME)) == 2 * (6 + 1)


@pytest.mark.slow
def test_under_mpirun(source_dir: Path, tmp_path: Path) -> None:
    """MPI gives the ranks; the collective is MindSpore's own, which knows nothing of MPI."""
    if shutil.which("mpirun") is None:
        missing("mpirun", how="apt-get install openmpi-bin")
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2"]
    arguments = [*TRAIN, "--data_url", str(source_dir), "--ckpt_save_dir", "./device"]
    output = run([*mpirun, *COMMAND, *arguments], tmp_path / "work").stdout
    assert epochs_and_steps(output) == [(e, s, 3) for e in (0, 1) for s in (1, 2, 3)]
    assert output.count("final weights sha256") == 2
    assert len(digests(output)) == 1
    assert "Exception ignored" not in output
    arguments = ["eval", *FLAGS, "--data_url", str(source_dir), "--checkpoint", "device"]
    output = run([*mpirun, *COMMAND, *arguments], tmp_path / "work").stdout
    assert len(accuracies(output)) == 1


@pytest.mark.slow
@pytest.mark.timeout(960)
def test_eight_processes_under_mpirun_on_two_cores(source_dir: Path, tmp_path: Path) -> None:
    """``mpirun -n 8`` as on the page: each says its lines, and all end with the same weights."""
    if shutil.which("mpirun") is None:
        missing("mpirun", how="apt-get install openmpi-bin")
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "8"]
    path = write_yaml(tmp_path / "config", **TINY, classes=3, path=source_dir)
    arguments = ["train", "-c", str(path), "--batch_size", "1", "--ckpt_save_dir", "./device"]
    output = run([*mpirun, *COMMAND, *arguments], tmp_path / "work", timeout_s=900).stdout
    assert epochs_and_steps(output) == [(e, s, 3) for e in (0, 1) for s in (1, 2, 3)]
    assert output.count("final weights sha256") == 8
    assert len(digests(output)) == 1


def test_a_device_that_is_not_there(source_dir: Path, tmp_path: Path) -> None:
    command = [*COMMAND, *TRAIN, "--data_url", str(source_dir), "--device_target", "GPU"]
    error = run(command, tmp_path / "work", code=2).stderr
    assert "runtime.device=GPU is not available on this machine" in error
    assert "Traceback" not in error
