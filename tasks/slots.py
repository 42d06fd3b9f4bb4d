"""Whose turn it is at the devices of a machine: a global concurrency limit of the Prefect server.

Each job takes all devices that it can see, so two at once would use the same ones. Deployments name the
limit; a flow that a person runs alone takes no slot.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.concurrency.sync import concurrency
from prefect.logging import get_run_logger

SLOT_VARIABLE = "EFFNET_DEVICE_SLOT"
LEASE_S = 60.0
"""Seconds after which the slot of a killed process is free again; it is renewed while that lives."""


@contextmanager
def device_slot(what: str) -> Iterator[None]:
    """Hold a slot inside the block, once one is free.

    Args:
        what: is done with it, for the log.

    Raises:
        ConcurrencySlotAcquisitionError: the deployment names a limit that the server does not have.
    """
    name = os.environ.get(SLOT_VARIABLE)
    if not name:
        yield
        return
    logger = get_run_logger()
    logger.info(f"{what} waits for its turn at the devices (slot {name})")
    since = time.monotonic()
    # A server that is being restarted cannot renew; the work continues, since it has the devices.
    with concurrency(
        name, occupy=1, strict=True, lease_duration=LEASE_S, raise_on_lease_renewal_failure=False
    ):
        logger.info(f"{what} starts after {time.monotonic() - since:.0f} s of waiting")
        yield
