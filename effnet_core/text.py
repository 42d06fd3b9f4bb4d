"""Words and numbers for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def is_unicode(name: str) -> bool:
    """Whether a file name is valid UTF-8, so that it can be put into tables and shown."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def os_reason(error: OSError) -> str:
    """The system's own words for an error, in lower case, without number and path."""
    return (error.strerror or str(error)).lower()


def human_bytes(count: float) -> str:
    """A size for people, such as ``21.4 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def in_one_line(error: BaseException) -> str:
    """What an error of a library says first, without the rules and headings that MindSpore draws."""
    lines = (line.strip() for line in str(error).splitlines())
    said = [line for line in lines if line.strip("-=")]
    if not said:
        return "no message"
    if said[0].startswith("- "):  # such as "- Cuda error:" over "out of memory"
        return " ".join(said[:2]).removeprefix("- ")
    return said[0]


_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""What moves a cursor, sets a title, breaks a line, turns the direction of writing, or is no character."""


def visible(text: str) -> str:
    """``text`` in one line, with nothing that a terminal would obey: such characters as their escapes.

    Names of files and classes come from strangers, and end in messages, logs and terminals.
    """
    return _HIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)


def visible_lines(text: str) -> str:
    """As ``visible``, but lines stay lines."""
    return "\n".join(map(visible, text.split("\n")))


def shown(value: object, limit: int = 200) -> str:
    """A value as Python writes it, cut where it is long; for messages."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint such as ``; did you mean 'digits'?``, or an empty string when nothing is close."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


NO_VALUE = "\N{EN DASH}"


def format_share(value: float | None, digits: int = 1) -> str:
    """A ratio as percent; a dash where there is none."""
    return NO_VALUE if value is None else f"{value:.{digits}%}"


def format_seconds(seconds: float) -> str:
    """A duration for people, such as ``2 min 05 s``."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def markdown_text(text: str) -> str:
    """Names of files and classes without what Markdown would read as markup."""
    text = visible(" ".join(text.split()))
    for mark in "\\|`*_[]()!#~":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;").replace("<", "&lt;")


def markdown_code(text: str) -> str:
    """A path or address as code in Markdown, also inside a table, whatever characters it has."""
    text = visible(text).replace("|", "\\|")
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{space}{text}{space}{fence}"
