"""Slots that are taken though nobody holds them: found beside the server, and freed.

Prefect's server counts a slot in its database first and writes down who holds it, a lease, afterwards. A
server that is killed in between, or finds the disk full, has a slot that no lease will ever give back. A
lease that is missing from the index of leases is never looked at again. Both keep a run waiting for ever.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

from flows.service.api import Api

LOOK_EVERY_S = 10.0
LOST_AFTER_S = 30.0
"""How long a slot may be taken without a lease: a server under load writes the lease late."""
OVERDUE = timedelta(minutes=2)
"""Prefect frees an expired lease within 15 seconds; one so old is not in its index."""


class LostSlots:
    """Looks for slots that no lease accounts for.

    Args:
        api: the server.
        leases: folder in which the server keeps its leases.
        clock: seconds that only grow.
    """

    def __init__(
        self, api: Api, leases: Path, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.api, self.leases, self.clock = api, leases, clock
        self.next_look = 0.0
        self.unaccounted: dict[str, tuple[int, float]] = {}
        """Fewest slots of a limit that had no lease, and since when."""

    def look(self) -> list[str]:
        """Free what has been without a lease for long.

        Returns:
            A line for each limit of which slots were freed.

        Raises:
            ApiError: the server does not answer.
            OSError: the leases cannot be read now.
        """
        now = self.clock()
        if now < self.next_look:
            return []
        self.next_look = now + LOOK_EVERY_S
        limits = self.api.limits()
        held = self._held()
        said = []
        for limit in limits:
            key, lost = str(limit["id"]), limit["active_slots"] - held[str(limit["id"])]
            if lost <= 0 or limit["slot_decay_per_second"]:
                self.unaccounted.pop(key, None)
                continue
            fewest, since = self.unaccounted.pop(key, (lost, now))
            fewest = min(fewest, lost)
            if now - since < LOST_AFTER_S:
                self.unaccounted[key] = fewest, since
            else:
                self._free(limit["name"], fewest)
                said.append(f"{fewest} of the slots {limit['name']} had no holder: freed")
        return said

    def _free(self, name: str, slots: int) -> None:
        self.api.post("/v2/concurrency_limits/decrement", {"names": [name], "slots": slots})

    def _held(self) -> Counter[str]:
        """Slots of each limit that leases account for; a lease that is long overdue is removed."""
        held = Counter[str]()
        for path in self.leases.glob("*.json"):
            if not _is_lease(path):
                continue
            try:
                lease = json.loads(path.read_bytes())
                ends = datetime.fromisoformat(lease["expiration"])
                overdue = ends < datetime.now(timezone.utc) - OVERDUE
                slots, limits = (lease["metadata"] or {}).get("slots", 0), lease["resource_ids"]
            except (FileNotFoundError, ValueError, KeyError, TypeError):
                continue  # given back meanwhile, or damaged, which the server removes
            if overdue:
                path.unlink(missing_ok=True)
                continue
            held.update(dict.fromkeys(limits, slots))
        return held


def _is_lease(path: Path) -> bool:
    """Leases are named by their ids; the index lies beside them."""
    try:
        UUID(path.stem)
    except ValueError:
        return False
    return True
