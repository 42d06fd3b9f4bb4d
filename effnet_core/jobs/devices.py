"""Which GPUs of a machine a job has: each is one job's at a time, as long as any process of the job lives."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from effnet_core.config.schema import RuntimeConfig
from effnet_core.errors import ConfigError, DataError
from effnet_core.events import Event, emit
from effnet_core.storage.cache import cache_dir
from effnet_core.system import machine
from effnet_core.system.locks import some_of
from effnet_core.text import os_reason

CACHE_NAME = "devices"


def require_devices(runtime: RuntimeConfig) -> None:
    """Refuse more processes than this machine has devices; that it has none is for MindSpore to say.

    Raises:
        ConfigError: there are not as many.
    """
    there, wanted = machine.devices(runtime.device), runtime.local_world_size
    if there and wanted > len(there):
        here = " on this host" if runtime.hosts else ""
        raise ConfigError(
            f"runtime.world_size={wanted} processes{here} need as many devices, but {len(there)} "
            f"{runtime.device} device(s) are visible ({', '.join(there)}); lower runtime.world_size, or "
            "leave it out for all"
        )


@contextmanager
def reserved(runtime: RuntimeConfig) -> Iterator[dict[str, str]]:
    """Keep as many devices of this machine as a job has processes here, once they are free.

    Only runs of the same user are known. Each rank sees the job's devices and computes on the one of its
    place among this machine's ranks.

    Returns:
        What the job's processes get in their environment; empty on CPUs.

    Raises:
        DataError: the cache folder, where the locks are, cannot be written to.
    """
    names = machine.devices(runtime.device)
    if not names:
        yield {}
        return
    folder, host = cache_dir(CACHE_NAME), socket.gethostname()
    locks = [
        folder / f"{host}-{runtime.device}-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock"
        for name in names
    ]
    try:
        with some_of(locks, runtime.local_world_size, _tell) as mine:
            yield {machine.VISIBLE[runtime.device]: ",".join(names[place] for place in mine)}
    except OSError as cause:
        if str(folder) not in str(cause.filename):
            raise
        raise DataError(
            f"devices cannot be reserved in {folder} ({os_reason(cause)}); make room, or set "
            "EFFNET_CACHE_DIR to another folder"
        ) from cause


def _tell(line: str) -> None:
    emit(Event("launch", f"{line}, which has devices of this machine"))


def use_place(local_rank: int) -> None:
    """Say to MindSpore, as ``msrun`` does, which of the visible devices is this process's."""
    os.environ["DEVICE_ID"] = str(local_rank)
