"""A PostgreSQL server on a loopback port, from the system's own packages."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.services import missing

SYSTEM_USER = "postgres"


@contextmanager
def postgres() -> Iterator[str]:
    """The address of an empty database, as Prefect takes it."""
    programs = _programs()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="effnet-postgres-"))
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        os.chown(folder, pwd.getpwnam(SYSTEM_USER).pw_uid, -1)
    data, log = str(folder / "data"), str(folder / "log")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
    try:
        _run([str(programs / "initdb"), "-D", data, "-A", "trust", "-U", "prefect"])
        control = [str(programs / "pg_ctl"), "-D", data, "-w"]
        _run([*control, "-l", log, "-o", options, "start"])
        try:
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
        finally:
            _run([*control, "-m", "fast", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    """The folder of the newest installed server."""
    if found := shutil.which("initdb"):
        return Path(found).parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not installed:
        missing("PostgreSQL", how="apt-get install postgresql")
    return installed[-1].parent


def _run(command: list[str]) -> None:
    user = ["runuser", "-u", SYSTEM_USER, "--"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*user, *command],
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
