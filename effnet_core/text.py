"""Words and numbers for people."""

from __future__ import annotations

import difflib
import unicodedata
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


UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode's control and format characters, halves of characters, ends of lines and paragraphs."""
JOINERS = "\N{ZERO WIDTH JOINER}\N{ZERO WIDTH NON-JOINER}"
"""Format characters that words and emoji are written with."""
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


def visible(text: str) -> str:
    """A text of others, such as a file name, in one line, with its control characters as escapes.

    Else it moves the cursor of a terminal, forges a line of a log, or turns the direction of a page.
    """
    return "".join(
        char.encode("unicode_escape").decode("ascii")
        if unicodedata.category(char) in UNSEEN and char not in JOINERS
        else char
        for char in text
    )


def markdown_text(text: str) -> str:
    """Names of files and classes without what Markdown would read as markup."""
    text = visible(" ".join(text.split()))
    for mark in "\\|`*_[]()!#~":
        text = text.replace(mark, f"\\{mark}")
    return text.replace("&", "&amp;").replace("<", "&lt;")


def markdown_code(text: str) -> str:
    """A path or an address as Markdown's code, for tables as well."""
    text = visible(text).replace("`", "'").replace("|", "\\|")
    return f"`{text}`"
