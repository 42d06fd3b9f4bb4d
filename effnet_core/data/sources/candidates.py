"""A file with a label, before anybody has looked into it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote

from effnet_core.system.files import sha256_of_text

CLASS_BYTES = 200
"""Bytes of a class name that is also a folder's; longer ones are cut there and distinguished by a digest."""

_UNSAFE = re.compile(r"[/\\\x00-\x1f\x7f]|^\.|^\s|[\s.]$|%(?=[0-9A-F]{2})")
"""What is spelled as in a URL; also what looks like that already, so that no two classes share a folder."""


@dataclass(frozen=True)
class Candidate:
    """A file found in the source, not yet looked into."""

    path: Path
    split: str
    """Empty where the source does not say; then a rule decides."""
    class_name: str
    inner: str
    """Path inside the class folder."""
    shown: str = ""
    """What people know the file by; its path where empty."""
    problem: str = ""
    """Why it cannot be used, where that is known already."""


@lru_cache(10_000)
def class_folder(name: str) -> str:
    """A name for a class's folder: the class's own, but for what a file system or a path would not take."""
    safe = _UNSAFE.sub(lambda found: quote(found[0], safe="").replace(".", "%2E"), name)
    if len(safe.encode(errors="replace")) <= CLASS_BYTES:
        return safe
    cut = safe.encode(errors="replace")[: CLASS_BYTES - 20].decode(errors="ignore")
    return f"{cut}~{sha256_of_text(name)[:16]}"
