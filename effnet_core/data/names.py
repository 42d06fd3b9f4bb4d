"""Names of files that strangers chose: members of archives, keys of buckets, cells of tables."""

from __future__ import annotations

import os

SEGMENT_BYTES = 255
PATH_BYTES = 2000


def require_name(name: str) -> str:
    """``name`` itself without a trailing slash, if it stays below the folder it is joined to.

    Raises:
        ValueError: it does not; the text says why.
    """
    plain = name[2:] if name.startswith("./") else name
    plain = plain.rstrip("/")
    segments = plain.split("/")
    rules = (
        (name.startswith("/"), "an absolute name"),
        ("\\" in plain, "a backslash in its name"),
        (len(plain) > 1 and plain[1] == ":", "a drive letter in its name"),
        (any(ord(c) < 32 or ord(c) == 127 for c in plain), "a control character in its name"),
        (".." in segments, "'..' in its name, which leads out of the folder"),
        (any(s in ("", ".") for s in segments), "an empty part in its name"),
        (len(os.fsencode(plain)) > PATH_BYTES, f"a name of more than {PATH_BYTES} bytes"),
        (
            max(len(os.fsencode(s)) for s in segments) > SEGMENT_BYTES,
            f"a part of more than {SEGMENT_BYTES} bytes in its name",
        ),
    )
    reason = next((reason for broken, reason in rules if broken), "")
    if reason:
        raise ValueError(reason)
    return plain
