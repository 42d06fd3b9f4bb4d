"""What the auditor has to say, each kind once with its count."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field

TRACEBACK = "Traceback (most recent call last)"
OURS = re.compile(r'File "(?![^"]*/site-packages/)[^"]*/(effnet_core|flows|tasks)/')
LIBRARY = re.compile(r'File "[^"]*/site-packages/(prefect|anyio)/')
MARGIN = re.compile(r"^[ +|-]*\| ?", flags=re.MULTILINE)
"""What a group of exceptions puts before its lines."""
FIRST = re.compile(rf"^(?=(?:  \+ Exception Group )?{re.escape(TRACEBACK)})", flags=re.MULTILINE)
LEADS_TO = (
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
)
ENDS = re.compile(r"^([A-Za-z_][\w.]*)(?:: (.*))?$", flags=re.MULTILINE)
"""Lines that say what was raised."""
FULL = "[Errno 28] No space left on device"
TEMPORARY = re.compile(r"effnet-[a-z]+-[a-z0-9_]{8}")
"""Names of temporary folders."""


@dataclass
class Findings:
    """Faults of the product, in the order in which they were met."""

    seen: dict[str, list[str]] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)
    of_libraries: Counter[str] = field(default_factory=Counter)
    """Tracebacks that are not ours, by the reason."""
    named: set[str] = field(default_factory=set)
    """Temporary folders that commands and runs have told people to look into."""

    def add(self, what: str, detail: str = "") -> None:
        """Note one."""
        if what not in self.seen:
            minutes = (time.monotonic() - self.began) / 60
            print(f"FINDING after {minutes:.1f} min: {what}\n        {detail[:6000]}", flush=True)
        self.seen.setdefault(what, []).append(detail)

    def look_at(self, whose: str, text: str) -> None:
        """Note a traceback in what a command or run said, and the temporary folders that it names."""
        self.named.update(TEMPORARY.findall(text))
        for trace in tracebacks(text):
            if reason := not_ours(trace):
                self.of_libraries[reason] += 1
                continue
            kinds = [kind for kind, _ in raised(trace)]
            self.add(f"{whose} printed a traceback ({kinds[0] if kinds else '?'})", trace[:6000])


def tracebacks(text: str) -> list[str]:
    """The tracebacks in a text, each with those that led to it."""
    found: list[str] = []
    for piece in FIRST.split(text)[1:]:
        if found and found[-1].rstrip().endswith(LEADS_TO):
            found[-1] += piece
        else:
            found.append(piece)
    return found


def raised(trace: str) -> list[tuple[str, str]]:
    """Kinds and messages of the exceptions of a traceback; of a group, those inside it."""
    found = [(kind, text) for kind, text in ENDS.findall(MARGIN.sub("", trace))]
    return [pair for pair in found if not pair[0].endswith("ExceptionGroup")]


def not_ours(trace: str) -> str:
    """Why a traceback is Prefect's own affair; empty where it is not.

    Two are: its words about a server that was killed or a lease that is gone, and files of its own for which
    a full disk had no room, as long as none of our code stands in the traceback.
    """
    pairs = raised(trace)
    if not pairs:
        return ""
    if pairs[0][0].startswith(("prefect.", "httpcore.", "httpx.")):
        return "Prefect's server was away"
    full = all(kind == "OSError" and text.startswith(FULL) for kind, text in pairs)
    if full and LIBRARY.search(trace) and not OURS.search(trace):
        return "no room for a file of Prefect's own"
    return ""
