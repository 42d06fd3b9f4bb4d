"""What the auditor has to say, each kind once with its count."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field

TRACEBACK = "Traceback (most recent call last)"
OURS = re.compile(r'File "[^"]*/(effnet_core|flows|tasks)/[^"]*"')


@dataclass
class Findings:
    """Faults of the product, in the order in which they were met."""

    seen: dict[str, list[str]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def add(self, what: str, detail: str = "") -> None:
        """Note one."""
        if what not in self.seen:
            minutes = (time.monotonic() - self.began) / 60
            print(f"FINDING after {minutes:.1f} min: {what}\n        {detail[:1500]}", flush=True)
        self.seen.setdefault(what, []).append(detail)

    def look_at(self, whose: str, text: str) -> None:
        """Note a traceback in what a command said."""
        if TRACEBACK in text:
            start = text.index(TRACEBACK)
            last = [line for line in text[start:].splitlines() if line and line[0] not in " \t"]
            kind = last[1].partition(":")[0] if len(last) > 1 else "?"
            if kind.startswith(("prefect.", "httpcore.", "httpx.")):
                return  # Prefect's own words about a server that was killed
            self.add(f"{whose} printed a traceback ({kind})", text[start : start + 3000])
