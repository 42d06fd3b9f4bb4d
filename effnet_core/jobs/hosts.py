"""Several machines that train together: which one this is, and how it waits for the first one.

The run folder is on a shared file system. The first machine prepares it and starts MindSpore's scheduler;
that the scheduler answers tells the others that the folder is ready for this launch, not for an earlier.
"""

from __future__ import annotations

import socket
import time

from effnet_core.config.schema import RuntimeConfig
from effnet_core.errors import ConfigError, WorkerLost

LOOPBACK = "127.0.0.1"
POLL_S = 0.5


def host_index(runtime: RuntimeConfig) -> int:
    """Which of ``runtime.hosts`` this machine is; 0 where it works alone.

    Raises:
        ConfigError: it is none of them, or more than one.
    """
    if not runtime.hosts:
        return 0
    if runtime.host_index is not None:
        return runtime.host_index
    mine = [index for index, host in enumerate(runtime.hosts) if _is_here(host)]
    if len(mine) != 1:
        found = "none" if not mine else " and ".join(runtime.hosts[index] for index in mine)
        raise ConfigError(
            f"{found} of runtime.hosts={', '.join(runtime.hosts)} is an address of this machine; "
            f"set runtime.host_index to its place in the list, 0 to {len(runtime.hosts) - 1}"
        )
    return mine[0]


def first_address(runtime: RuntimeConfig) -> str:
    """Where the scheduler of MindSpore's ranks listens."""
    return runtime.hosts[0] if runtime.hosts else LOOPBACK


def wait_for_first(runtime: RuntimeConfig) -> None:
    """Wait until the first machine has prepared the run and started its scheduler.

    Raises:
        WorkerLost: it has not within ``runtime.startup_timeout_s``.
    """
    deadline = time.monotonic() + runtime.startup_timeout_s
    place = first_address(runtime), runtime.master_port
    while True:
        try:
            socket.create_connection(place, timeout=POLL_S).close()
        except OSError as cause:
            if time.monotonic() > deadline:
                raise WorkerLost(
                    f"the first of runtime.hosts, {place[0]}, did not start training at port {place[1]} "
                    f"within runtime.startup_timeout_s={runtime.startup_timeout_s} s; start the same "
                    "command there, or see what it says"
                ) from cause
            time.sleep(POLL_S)
        else:
            return


def local_ranks(runtime: RuntimeConfig) -> range:
    """The ranks that this machine runs.

    Raises:
        ConfigError: as ``host_index``.
    """
    size = runtime.local_world_size
    first = host_index(runtime) * size
    return range(first, first + size)


def _is_here(host: str) -> bool:
    """Whether a name or address belongs to this machine: only then can a socket be bound to it."""
    try:
        candidates = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
    except OSError:
        return False
    for family, kind, protocol, _, address in candidates:
        with socket.socket(family, kind, protocol) as probe:
            try:
                probe.bind(address)
            except OSError:
                continue
            return True
    return False
