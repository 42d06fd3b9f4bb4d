"""What CUDA needs in a job's environment, from the packages of the extra ``gpu``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from effnet_core.config.schema import RuntimeConfig
from effnet_core.jobs import cuda, launch
from effnet_core.storage.cache import CACHE_VARIABLE


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """NVIDIA's packages, as pip lays them out, on this interpreter's path."""
    for file in ("cudnn/lib/libcudnn.so.8", "cuda_cupti/lib/libcupti.so.11.8"):
        (tmp_path / "site/nvidia" / file).parent.mkdir(parents=True)
        (tmp_path / "site/nvidia" / file).touch()
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    sys.modules.pop("nvidia", None)
    return tmp_path / "site" / "nvidia"


def test_a_job_finds_libraries_a_toolkit_and_kernels_of_earlier_runs(packages: Path) -> None:
    environment = {"LD_LIBRARY_PATH": "/elsewhere"}
    cuda.prepare(environment)
    cuda.prepare(environment)  # again: nothing more
    cache = packages.parents[1] / "cache" / "cuda"
    assert environment == {
        "CUDA_CACHE_PATH": str(cache / "kernels"),
        "CUDA_CACHE_MAXSIZE": "4294967296",
        "CUDA_MODULE_LOADING": "LAZY",
        "CUDA_HOME": str(cache / "toolkit"),
        "LD_LIBRARY_PATH": f"{packages}/cuda_cupti/lib:{packages}/cudnn/lib:{cache}/toolkit/lib:/elsewhere",
    }
    cupti = cache / "toolkit/lib/libcupti.so"
    assert cupti.resolve() == packages / "cuda_cupti/lib/libcupti.so.11.8"


def test_the_stand_in_says_the_version_that_mindspore_asks_for(packages: Path) -> None:
    program = cuda.make_toolkit(cuda.library_folders()) / "bin" / "nvcc"
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    assert "release 11.8, V11.8.89" in told.stdout


def test_what_a_person_has_set_stays(packages: Path) -> None:
    environment = {
        "CUDA_HOME": "/usr/local/cuda",
        "CUDA_CACHE_PATH": "/c",
        "CUDA_MODULE_LOADING": "x",
    }
    cuda.prepare(environment, lazy_kernels=False)
    assert environment["CUDA_HOME"] == "/usr/local/cuda"
    assert (environment["CUDA_CACHE_PATH"], environment["CUDA_MODULE_LOADING"]) == ("/c", "x")


def test_without_the_packages_only_the_cache_is_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    environment: dict[str, str] = {}
    cuda.prepare(environment)
    assert sorted(environment) == ["CUDA_CACHE_MAXSIZE", "CUDA_CACHE_PATH", "CUDA_MODULE_LOADING"]


def test_only_jobs_on_a_gpu_get_it(packages: Path) -> None:
    assert "CUDA_HOME" not in launch._child_environment(RuntimeConfig())
    gpu = RuntimeConfig(device="GPU", world_size=1)
    assert "CUDA_HOME" in launch._child_environment(gpu)


def test_a_rank_of_mpirun_starts_anew_once(packages: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(packages.parent)!r})\n"
        "from effnet_core.jobs import cuda\n"
        "print('started', os.getpid(), sys.argv[1:], flush=True)\n"
        "cuda.restart_with_libraries()\n"
        "print('cudnn' in os.environ['LD_LIBRARY_PATH'])\n"
    )
    done = subprocess.run(
        [sys.executable, script, "--flag"], capture_output=True, text=True, check=True
    )
    first, second, found = done.stdout.splitlines()
    assert first == second  # the same process, with the same arguments
    assert "--flag" in first
    assert found == "True"
