"""What a process that computes on an NVIDIA GPU must find in its environment (docs/gpu.md).

The packages of the extra ``gpu`` put CUDA's libraries where no linker looks, and MindSpore asks for two
things that they do not have: a program ``nvcc``, of which it reads the version, and CUPTI by its name
without a version.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping
from importlib.util import find_spec
from pathlib import Path

from effnet_core.storage.cache import cache_dir
from effnet_core.system.files import write_text

CACHE_NAME = "cuda"
LIBRARIES = "LD_LIBRARY_PATH"
TOOLKIT = "CUDA_HOME"
KERNELS = "CUDA_CACHE_PATH"
KERNELS_SIZE = "CUDA_CACHE_MAXSIZE"
LOADING = "CUDA_MODULE_LOADING"
KERNELS_BYTES = 4 << 30
"""The most that the driver takes."""
NVCC = """#!/bin/sh
# In place of CUDA's compiler: MindSpore asks for its version only.
echo "Cuda compilation tools, release 11.8, V11.8.89"
"""


def prepare(environment: MutableMapping[str, str], *, lazy_kernels: bool = True) -> None:
    """Set what CUDA needs, where the user has not set it.

    Args:
        environment: changed in place.
        lazy_kernels: as ``runtime.lazy_kernels``.

    Raises:
        DataError: the cache folder cannot be written to.
    """
    environment.setdefault(KERNELS, str(cache_dir(CACHE_NAME) / "kernels"))
    environment.setdefault(KERNELS_SIZE, str(KERNELS_BYTES))
    environment.setdefault(LOADING, "LAZY" if lazy_kernels else "EAGER")
    folders = library_folders()
    if not folders:
        return
    toolkit = make_toolkit(folders)
    environment.setdefault(TOOLKIT, str(toolkit))
    before = environment.get(LIBRARIES, "").split(os.pathsep)
    new = [str(folder) for folder in (*folders, toolkit / "lib")]
    rest = [folder for folder in before if folder and folder not in new]
    environment[LIBRARIES] = os.pathsep.join([*new, *rest])


def library_folders() -> list[Path]:
    """Where NVIDIA's packages of this interpreter have their libraries; empty without the extra ``gpu``."""
    found = find_spec("nvidia")
    places = found.submodule_search_locations if found else None
    return sorted(lib for place in places or () for lib in Path(place).glob("*/lib"))


def make_toolkit(folders: list[Path]) -> Path:
    """A folder in the cache with what MindSpore misses beside these libraries."""
    toolkit = cache_dir(CACHE_NAME) / "toolkit"
    program = toolkit / "bin" / "nvcc"
    if not program.exists() or program.read_text() != NVCC:
        program.parent.mkdir(parents=True, exist_ok=True)
        write_text(program, NVCC)
        program.chmod(0o755)
    for cupti in (file for folder in folders for file in folder.glob("libcupti.so.11*")):
        link = toolkit / "lib" / "libcupti.so"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink() or link.readlink() != cupti:
            temporary = link.with_name(f".{link.name}.{os.getpid()}")
            temporary.symlink_to(cupti)
            temporary.replace(link)
    return toolkit


def restart_with_libraries(*, lazy_kernels: bool = True) -> None:
    """Start this process anew with what CUDA needs, unless it has that: linkers read it at the start only.

    For ranks that ``mpirun`` or a person's ``msrun`` has started; others get it from their parent.
    """
    before = os.environ.get(LIBRARIES)
    prepare(os.environ, lazy_kernels=lazy_kernels)
    if os.environ.get(LIBRARIES) != before:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # this command
