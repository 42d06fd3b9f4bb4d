"""The check of GPUs: what it plans, what it keeps when it is cut, how it reads a profile."""

from __future__ import annotations

import json
import re
import threading
import time
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from benchmarks.gpu import __main__ as check
from benchmarks.gpu import profile
from benchmarks.gpu.child import config_of
from benchmarks.gpu.report import TITLE, section
from benchmarks.gpu.switches import DEFAULT, SWITCHES
from effnet_core.system.files import read_json

GPU_TABLE = """\
name,type,op_full_name,stream_id,block_dim,grid_dim,occurrences,total_duration(us),avg_duration(us)
cudnn::dgrad,kernel,Gradients/Default/net/blocks-CellList/1-MBConv/depthwise-ConvNormAct/conv-Conv2d/Grad_Conv2D/Conv2DBackpropInput-op3,2,a,b,4,8000,2000
sm80_gemm,kernel,Default/net/blocks-CellList/1-MBConv/expand-ConvNormAct/conv-Conv2d/Conv2D-op7,2,a,b,4,4000,1000
bn_fw,kernel,Default/net/blocks-CellList/1-MBConv/depthwise-ConvNormAct/norm-BatchNorm2d/BatchNorm-op1,2,a,b,4,2000,500
CastKernel,kernel,Default/net/Cast-op9,2,a,b,4,1000,250
MulKernel,kernel,Default/optimizer-RMSProp/Mul-op0,2,a,b,4,600,150
MulKernel,kernel,Default/forward_cell/net/Mul-op4,2,a,b,4,400,100
"""


def facts(**parts: dict[str, object]) -> dict[str, object]:
    machine = {
        "gpus": ["GPU X"],
        "processor": "P",
        "cores": 2,
        "python": "3",
        "versions": {"a": "1"},
    }
    return {
        "date": "2000-01-01",
        "dry_run": False,
        "machine": {**machine, "kernel_cache_bytes": 0},
        "sizes": check.SIZES,
        "parts": parts,
    }


def results(tmp_path: Path) -> check.Results:
    return check.Results(tmp_path / "gpu", facts())


def stub(tmp_path: Path, script: str) -> check.Part:
    """A part whose interpreter is a shell script."""
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return check.Part("part", "step", {"device": "CPU"}, 3.0, str(program))


@pytest.mark.parametrize("name", SWITCHES)
def test_every_switch_is_made_of_settings(name: str) -> None:
    config = config_of({"device": "GPU"}, *SWITCHES[name])
    assert config.runtime.device == "GPU"
    assert (config == config_of({"device": "GPU"})) == (name == DEFAULT)


def test_the_most_telling_parts_come_first_and_fit_into_ten_minutes() -> None:
    groups = list(check.parts({"device": "GPU"}, dry=False, gpus=2))
    names = [part.name for group in groups for part in group]
    assert names[:2] == ["first start", f"step: {DEFAULT}"]
    assert {"correctness", "labelling", "operators", "two ranks"} <= set(names)
    assert len([name for name in names if name.startswith("step:")]) == len(SWITCHES)
    assert check.TOTAL_S < 600
    one = [part.name for group in check.parts({}, dry=False, gpus=1) for part in group]
    assert "two ranks" not in one


def test_a_part_that_is_cut_keeps_what_it_found(tmp_path: Path) -> None:
    found = results(tmp_path)
    part = stub(tmp_path, 'echo \'found: {"ms": 7.0, "images_per_s": 2}\'; sleep 60')
    thread = threading.Thread(target=check.run, args=(part, found, time.monotonic() + 60))
    thread.start()
    early: dict[str, object] = {}
    while thread.is_alive() and not early:  # before the end
        time.sleep(0.02)
        if (tmp_path / "gpu.json").exists():
            early = read_json(tmp_path / "gpu.json")["parts"]["part"]["found"]
    assert early == {"ms": 7.0, "images_per_s": 2}
    thread.join(20)
    ended = read_json(tmp_path / "gpu.json")["parts"]["part"]
    assert (ended["state"], ended["found"]["ms"]) == ("cut", 7.0)
    assert "Not whole: part (cut)." in (tmp_path / "gpu.md").read_text()


def test_a_part_that_fails_says_its_last_lines_and_the_others_go_on(tmp_path: Path) -> None:
    found = results(tmp_path)
    bad, good = stub(tmp_path, "echo no cuDNN; exit 3"), tmp_path / "good"
    good.mkdir()
    check.check(found, iter([[bad], [stub(good, "echo 'found: {}'")]]), total_s=30)
    assert found.parts["part"]["state"] == "done"
    check.run(bad, found, time.monotonic() + 9)
    assert found.parts["part"]["state"] == "failed"
    assert found.parts["part"]["last_lines"] == ["no cuDNN"]


def test_when_time_is_up_nothing_more_is_begun(tmp_path: Path) -> None:
    found = results(tmp_path)
    check.run(stub(tmp_path, "touch begun"), found, time.monotonic())
    assert found.parts["part"]["state"] == "not begun"


def test_a_profile_by_kernel(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "gpu_activity_data_0.csv").write_text(GPU_TABLE)
    (tmp_path / "deep" / "gpu_op_detail_info_0.csv").write_text("op_type\n")
    read = profile.read(tmp_path, steps=4, step_ms=5.0)
    assert read["ms_a_step"] == pytest.approx(
        {
            profile.DEPTHWISE: 2.0,
            profile.POINTWISE: 1.0,
            "BatchNorm": 0.5,
            "casts": 0.25,
            "optimizer and weight decay": 0.15,
            "other": 0.1,
            profile.GAPS: 1.0,
        }
    )
    assert read["kernels"][0]["name"] == "cudnn::dgrad"
    assert "error" in profile.read(tmp_path / "nowhere", steps=1, step_ms=1.0)


def test_sections_of_other_machines_stay(tmp_path: Path) -> None:
    note = tmp_path / "gpu.md"
    note.write_text(f"{TITLE}\n\n## Another GPU\n\n3 ms\n\n## GPU X\n\nold\n")
    found = results(tmp_path)
    step = {"state": "done", "found": {"ms": 10.0, "images_per_s": 5.0}}
    faster = {"state": "done", "found": {"ms": 5.0, "images_per_s": 9.0}}
    parts = {f"step: {DEFAULT}": step, "torch, eager, float32": faster}
    for name, part in parts.items():
        found.put(name, **part)
    text = note.read_text()
    assert "old" not in text
    assert text.index("## GPU X") < text.index("## Another GPU\n\n3 ms")
    assert re.search(r"as installed \| 10.0 \| 5 \| 1.00 \| 0.50 \|", text)
    heading, lines = section(json.loads((tmp_path / "gpu.json").read_text()))
    assert heading == "## GPU X"
    assert "\n".join(lines).rstrip() in text


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_dry_run_goes_the_whole_way_on_a_cpu(tmp_path: Path) -> None:
    assert check.main(["--dry-run", "--out", str(tmp_path)]) == 0
    written = read_json(tmp_path / "gpu.json")
    assert {part["state"] for part in written["parts"].values()} == {"done"}
    correct = written["parts"]["correctness"]["found"]
    straight = pytest.approx(correct["straight"], rel=1e-3)  # on several cores to rounding
    assert correct["resumed"] == straight
    assert correct["evaluated_on_cpu"] == straight
    assert correct["labels_same"] == correct["labelled"] > 0
    assert written["parts"]["labelling"]["found"]["onnxruntime, float32"]["images_per_s"] > 0
    assert {"1 rank(s)", "2 rank(s)"} == set(written["parts"]["two ranks"]["found"])
    text = (tmp_path / "gpu.md").read_text()
    for word in ("First start", "A training step", "depthwise convolutions", "Correctness"):
        assert word in text


def pinned(name: str) -> dict[str, str]:
    """Versions of a lock; fails where a file has no hash or the lock names an index."""
    text = (check.ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text.replace("# This file", "")
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", "\n" + text)[1:]:
        requirement = Requirement(entry.partition("\\")[0].strip())
        assert "--hash=sha256:" in entry, requirement
        found[requirement.name] = next(iter(requirement.specifier)).version
    return found


def test_the_lock_for_gpus_has_the_extra_and_agrees_with_the_ordinary_one() -> None:
    wanted = [
        Requirement(text)
        for text in metadata.requires("effnet-flows") or []
        if 'extra == "gpu"' in text
    ]
    gpu, usual = pinned("requirements-gpu.lock"), pinned("requirements.lock")
    assert len(wanted) == 10
    for requirement in wanted:
        assert requirement.specifier.contains(gpu[requirement.name])
    assert {name: usual[name] for name in gpu.keys() & usual.keys()} == {
        name: gpu[name] for name in gpu.keys() & usual.keys()
    }
    assert "onnxruntime" not in gpu
