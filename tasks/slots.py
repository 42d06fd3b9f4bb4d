"""Whose turn it is at the devices of a machine: a global concurrency limit of the Prefect server.

A slot is a device. A job takes one for each of its processes, and all where there are not as many: then it
is alone. Deployments name the limit; a flow that a person runs alone takes no slot. Which GPUs a job gets
is settled on the machine itself (``effnet_core.jobs.devices``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound
from prefect.logging import get_run_logger

SLOT_VARIABLE = "EFFNET_DEVICE_SLOT"
LEASE_S = 60.0
"""Seconds after which the slot of a killed process is free again; it is renewed while that lives."""


@contextmanager
def device_slot(what: str, *, devices: int = 1) -> Iterator[None]:
    """Hold slots inside the block, once as many are free.

    Args:
        what: is done with them, for the log.
        devices: that the job uses.

    Raises:
        ConcurrencySlotAcquisitionError: the deployment names a limit that the server does not have.
    """
    name = os.environ.get(SLOT_VARIABLE)
    if not name:
        yield
        return
    logger = get_run_logger()
    slots = _slots(name, devices)
    many = f"{slots} of the slots" if slots > 1 else "slot"
    logger.info(f"{what} waits for its turn at the devices ({many} {name})")
    since = time.monotonic()
    # A server that is being restarted cannot renew; the work continues, since it has the devices.
    with concurrency(
        name,
        occupy=slots,
        strict=True,
        lease_duration=LEASE_S,
        raise_on_lease_renewal_failure=False,
    ):
        logger.info(f"{what} starts after {time.monotonic() - since:.0f} s of waiting")
        yield


def _slots(name: str, devices: int) -> int:
    """How many slots so many devices are: no more than there are."""
    try:
        with get_client(sync_client=True) as client:
            there = client.read_global_concurrency_limit_by_name(name).limit
    except ObjectNotFound:  # which taking it will tell
        return 1
    return max(1, min(devices, there))
