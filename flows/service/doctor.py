"""What ``effnet doctor`` says about the service: the server, its worker, what it keeps on the disk."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from importlib import metadata

from effnet_core.cli.doctor import Finding, size_of
from effnet_core.errors import EffnetError
from effnet_core.text import human_bytes
from flows.service import lifecycle
from flows.service.api import Api
from flows.service.server import API_URL, state_dir

LEAST_FREE = 250_000_000
NEWER = "Bring both to the same version: a server must not be older than its clients."


def server() -> Iterator[Finding]:
    """Whether a server answers, is of this version, and has somebody to do its work."""
    running = lifecycle.running()
    url = os.environ.get(API_URL) or (running.url if running else "")
    if not url:
        yield Finding(*("server", "none", "note"), "effnet up starts one on this machine.")
        return
    api = lifecycle.server_api()
    if not api.healthy():
        advice = f"Start it, or correct {API_URL}." if os.environ.get(API_URL) else "effnet up"
        yield Finding("server", f"{url} does not answer", "problem", advice)
        return
    try:
        found, here = str(api.get("/admin/version")), metadata.version("prefect")
        workers = _workers_online(api)
    except EffnetError as error:
        yield Finding("server", str(error), "problem", "Set the variable that the message names.")
        return
    said = f"{url}, Prefect {found}"
    yield Finding("server", said) if found == here else Finding("server", said, "problem", NEWER)
    if workers:
        yield Finding("workers", f"{workers} online")
    else:
        yield Finding(
            *("workers", "none online", "problem"),
            "Runs wait until one comes: effnet up on this machine, or start your workers.",
        )


def state_folder() -> Iterator[Finding]:
    """Size of the server's data and logs."""
    folder = state_dir()
    if not folder.exists():
        return
    free = shutil.disk_usage(folder).free
    found = f"{folder}: {human_bytes(size_of(folder))}, {human_bytes(free)} free"
    if free < LEAST_FREE:
        yield Finding(
            *("state folder", found, "problem"),
            "Make room: the server cannot write its database on a full disk.",
        )
    else:
        yield Finding("state folder", found)


def _workers_online(api: Api) -> int:
    return sum(
        worker["status"] == "ONLINE"
        for pool in api.post("/work_pools/filter")
        for worker in api.post(f"/work_pools/{pool['name']}/workers/filter")
    )
