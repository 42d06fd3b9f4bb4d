"""A process that ``msrun`` or ``mpirun`` has started as a rank, and how it joins a job.

``launch.py`` starts ranks; here they are there already. Rank 0 prepares the job's folder while the others
wait for its marker, then all of them work in it.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from effnet_core.config.schema import RunConfig
from effnet_core.errors import JobError
from effnet_core.events import Event
from effnet_core.jobs import cuda, environment
from effnet_core.jobs.devices import use_place
from effnet_core.system.files import write_text

WAIT_S = 0.2
STARTUP_S = 12 * 3600
"""How long other ranks wait for rank 0 to stage the data."""

PLACES = ("MS_ROLE", "MS_NODE_ID", "MS_WORKER_NUM", "MS_SCHED_HOST", "MS_SCHED_PORT")
"""Variables by which MindSpore knows that a process is a rank."""


@dataclass(frozen=True)
class Launch:
    """What started this process."""

    name: str
    rank: int = 0
    world_size: int = 1
    scheduler: bool = False
    nonce: str = ""
    """The same in all processes of a launch, and only there."""

    @classmethod
    def of(cls, environ: dict[str, str]) -> Launch:
        """The launch that environment variables tell of."""
        shared = environ.get("EFFNET_LAUNCH_ID")
        if "MS_ROLE" in environ and "MS_WORKER_NUM" in environ:
            return cls(
                "msrun",
                int(environ.get("MS_NODE_ID", "0")),
                int(environ["MS_WORKER_NUM"]),
                environ["MS_ROLE"] == "MS_SCHED",
                shared or str(os.getppid()),
            )
        if "OMPI_COMM_WORLD_SIZE" in environ:
            return cls(
                "mpirun",
                int(environ["OMPI_COMM_WORLD_RANK"]),
                int(environ["OMPI_COMM_WORLD_SIZE"]),
                nonce=shared or environ.get("PMIX_NAMESPACE") or str(os.getppid()),
            )
        return cls("")

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0 and not self.scheduler

    @property
    def alone(self) -> bool:
        """Whether there are no other ranks to meet."""
        return self.world_size == 1

    @property
    def idle(self) -> bool:
        """Whether this is a scheduler for which there is nobody to bring together."""
        return self.scheduler and self.alone


def forget_launch(environ: MutableMapping[str, str]) -> None:
    """Let this process and its children be no ranks."""
    for name in PLACES:
        environ.pop(name, None)


def join_as_rank(
    launch: Launch,
    config: RunConfig,
    run_dir: Path,
    *,
    prepare: Callable[[], bool],
    show: Callable[[Event], None] | None = None,
) -> int:
    """Do this rank's share of the job that rank 0 prepares in ``run_dir``.

    Args:
        prepare: called on rank 0 alone; writes the job, and says whether there is anything left to do.
        show: what rank 0 does with its events.

    Returns:
        The exit code.

    Raises:
        JobError: rank 0 does not prepare the folder.
    """
    from effnet_core.worker import rank

    if config.runtime.device == "GPU":
        cuda.restart_with_libraries(lazy_kernels=config.runtime.lazy_kernels)
    environment.set_log_level(os.environ, config.runtime.mindspore_log)
    marker = run_dir.parent / f".{run_dir.name}.{launch.nonce}"
    scheduler = None
    if launch.leads:
        try:
            if not prepare():
                write_text(marker, "finished")
                return 0
            port = _free_port() if launch.name == "mpirun" else 0
            write_text(marker, f"{socket.gethostname()} {port}")
        except BaseException:
            write_text(marker, "failed")
            raise
    word = _read_when_there(marker)
    if word in ("finished", "failed"):
        return 0 if word == "finished" else 1
    try:
        if launch.name == "mpirun":
            scheduler = _take_places(launch, run_dir, port=int(word.split()[1]))
        return rank.main(run_dir.resolve(), show=show or rank.show_message)
    except BaseException:
        if scheduler is not None:
            scheduler.kill()
        raise
    finally:  # the scheduler ends by itself once every rank has taken its leave, which it does at its exit
        if launch.leads:
            marker.unlink(missing_ok=True)


def _take_places(launch: Launch, run_dir: Path, *, port: int) -> subprocess.Popen[bytes] | None:
    """Give MindSpore's own cluster the places that mpirun gave, and start its scheduler with rank 0.

    MindSpore's collective for CPUs knows its own launcher only; it needs nothing of MPI but ranks.
    """
    host = os.environ.get("MS_SCHED_HOST", "127.0.0.1")
    places = {
        "MS_SCHED_HOST": host,
        "MS_SCHED_PORT": str(port),
        "MS_WORKER_NUM": str(launch.world_size),
        "MS_NODE_ID": str(launch.rank),
    }
    os.environ.update(places, MS_ROLE="MS_WORKER")
    use_place(int(os.environ.get("OMPI_COMM_WORLD_LOCAL_RANK", "0")))
    if launch.rank != 0:
        return None
    scheduler = {**os.environ, "MS_ROLE": "MS_SCHED"}
    del scheduler["MS_NODE_ID"]  # it is not a rank
    return subprocess.Popen(
        [sys.executable, "-m", "effnet_core.worker", str(run_dir.resolve())],
        env=scheduler,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def _read_when_there(marker: Path) -> str:
    deadline = time.monotonic() + STARTUP_S
    while not marker.exists():
        if time.monotonic() > deadline:
            raise JobError(f"rank 0 did not prepare {marker.parent} in {STARTUP_S // 3600} hours")
        time.sleep(WAIT_S)
    return marker.read_text(encoding="utf-8")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
