"""``effnet doctor``: what it finds, what it advises, when it fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from effnet_core.cli import doctor
from effnet_core.cli.doctor import Finding
from effnet_core.infer.engines import onnxruntime
from effnet_core.jobs.environment import ONEDNN_ISA
from effnet_core.kernels import build
from flows.cli import CHECKS, app


def one(findings: Iterator[Finding], what: str) -> Finding:
    (found,) = [finding for finding in findings if finding.what == what]
    return found


def test_this_machine_can_run_the_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv(ONEDNN_ISA, raising=False)
    result = CliRunner().invoke(app, ["doctor"], obj=CHECKS, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    for words in ("Python", "mindspore", "prefect", "vector instructions", "cores", "memory"):
        assert words in result.output
    assert f"free in {tmp_path}" in result.output
    assert "effnet up starts one on this machine." in result.output
    document = json.loads(CliRunner().invoke(app, ["doctor", "--json"], obj=CHECKS).output)
    assert document["well"] is True
    assert {row["what"] for row in document["findings"]} >= {"Python", "cache", "server"}
    for row in document["findings"]:
        assert bool(row["advice"]) is (row["level"] != "ok"), row


def test_a_device_that_takes_too_long_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_count", lambda asked: int(asked.startswith("nvidia")))
    monkeypatch.setattr(doctor, "DEVICE_TIMEOUT_S", 0.01)
    assert "no answer within 0.01 s" in one(doctor.devices(), "devices").found


def test_a_server_that_does_not_answer_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    result = CliRunner().invoke(app, ["doctor"], obj=CHECKS, env={"COLUMNS": "200"})
    assert result.exit_code == 1
    assert "http://127.0.0.1:9/api does not answer" in result.output
    assert "correct PREFECT_API_URL" in result.output


def test_the_library_alone_asks_no_server() -> None:
    command = [sys.executable, "-m", "effnet_core", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "server" not in {row["what"] for row in json.loads(done.stdout)["findings"]}


@pytest.mark.parametrize(("setting", "level"), [(None, "ok"), ("AVX512_CORE", "problem")])
def test_avx512_is_a_problem_where_the_processor_has_it(
    setting: str | None, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "processor_features", lambda: {"avx", "avx2", "avx512f"})
    monkeypatch.delenv(ONEDNN_ISA, raising=False)
    if setting:
        monkeypatch.setenv(ONEDNN_ISA, setting)
    found = one(doctor.vector_setting(), "vector instructions")
    assert found.level == level
    monkeypatch.setattr(doctor, "processor_features", lambda: {"avx", "avx2"})
    assert one(doctor.vector_setting(), "vector instructions").level == "ok"


def test_a_package_of_the_wrong_version_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    true_version = metadata.version
    monkeypatch.setattr(
        doctor.metadata,
        "version",
        lambda name: "26.0.0" if name == "pyarrow" else true_version(name),
    )
    found = one(doctor.packages(), "pyarrow")
    assert (found.found, found.level) == ("26.0.0", "problem")
    assert "pip install 'pyarrow" in found.advice


def test_little_memory_and_a_full_disk_are_problems(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_memory_limit", lambda: 1e9)
    assert one(doctor.memory(), "memory").level == "problem"
    monkeypatch.setattr(doctor, "LEAST_DISK", 1e30)
    monkeypatch.chdir(tmp_path)
    assert one(doctor.disk(), "disk").level == "problem"
    monkeypatch.setattr(doctor, "_cpu_share", lambda: 0.5)
    assert one(doctor.cores(), "cores").level == "note"


def test_what_only_some_need_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    monkeypatch.delenv("CXX", raising=False)
    found = one(doctor.operators(), "CPU kernels")
    assert found.level == "note"
    assert "built-in kernels: no C++ compiler was found" in found.found
    findings = list(doctor.programs())
    assert one(iter(findings), "Chromium").level == "note"
    assert doctor.is_well(findings)


def test_own_operators_are_shown_with_how_they_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = build.BuildPlan(
        "/usr/bin/c++", "c++ 12", ("-mavx2", "-mfma"), Path("no-such-library.so")
    )
    monkeypatch.setattr(build, "plan", lambda: plan)
    found = one(doctor.operators(), "CPU kernels")
    assert found.level == "ok"
    assert found.found == "native kernels: built at first use, avx2 fma; c++: c++ 12"


def test_a_folder_that_is_only_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)  # root may write everywhere
    assert one(doctor.disk(), "disk").level == "problem"


def test_labelling_on_a_gpu_needs_another_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_count", lambda asked: int(asked.startswith("nvidia")))
    monkeypatch.setattr(doctor, "_unusable", lambda device: None)
    found = one(doctor.devices(), "labelling")
    assert (found.level, "make gpu" in found.advice) == ("note", True)
    monkeypatch.setattr(onnxruntime, "built_for", lambda: [onnxruntime.CUDA])
    assert one(doctor.devices(), "labelling").level == "ok"


def test_onnxruntime_for_gpus_counts_as_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime-gpu": "1.23.2"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)
    assert doctor._version("onnxruntime") == "1.23.2"
    assert doctor._version("openvino") == ""
