"""The names in a zip, as its maker meant them.

Only names with a certain flag are UTF-8 by the standard, and all others are of the first IBM PC. In fact
macOS writes UTF-8 without the flag, and Windows the letters of its country.
"""

from __future__ import annotations

import re
import struct
import zipfile
from collections.abc import Callable, Sequence

UTF8_FLAG = 0x800
UNICODE_PATH = 0x7075
"""Extra field of Info-ZIP that holds the name in UTF-8."""
DOS = 0
STANDARD = "cp437"
_MIXED = re.compile(r"[A-Za-z][^\x00-\x7f]|[^\x00-\x7f][A-Za-z]")


def names_of(entries: Sequence[zipfile.ZipInfo], encoding: str | None = None) -> list[str]:
    """The name of every entry, with slashes between folders.

    Args:
        entries: as ``zipfile`` reads them.
        encoding: of names that do not say theirs; guessed from all of them together when None.
    """
    unknown = [info for info in entries if not info.flag_bits & UTF8_FLAG]
    raw = {id(info): info.orig_filename.encode(STANDARD, "replace") for info in unknown}
    chosen = encoding or guess([name for name in raw.values() if not name.isascii()])
    names = []
    for info in entries:
        name = _unicode_path(info) or info.orig_filename
        if id(info) in raw and name == info.orig_filename:
            name = raw[id(info)].decode(chosen, "replace")
        names.append(name)
    slashes = any("/" in name for name in names)
    return [
        name.replace("\\", "/") if info.create_system == DOS or not slashes else name
        for info, name in zip(entries, names, strict=True)
    ]


def guess(names: Sequence[bytes]) -> str:
    """The encoding in which all of the names make sense."""
    text = b"\n".join(names)
    if not names:
        return STANDARD
    for name, makes_sense in _SENSIBLE:
        if makes_sense(_decoded(text, name)):
            return _WIDER.get(name, name)
    return STANDARD


def _is_japanese(text: str) -> bool:
    half_width = any("\uff61" <= c <= "\uff9f" for c in text)
    return not half_width and any("\u3041" <= c <= "\u30fa" for c in text)


def _is_korean(text: str) -> bool:
    return _all_between(text, "\uac00", "\ud7a3")


def _is_simple_chinese(text: str) -> bool:
    """Whether most characters are among the 3,755 common ones, which come first in GB 2312."""
    letters = [c for c in text if not c.isascii()]
    return 2 * sum(0xB0 <= c.encode("gb2312")[0] <= 0xD7 for c in letters) > len(letters)


def _is_traditional_chinese(text: str) -> bool:
    return _all_between(text, "\u4e00", "\u9fff")


def _is_russian(text: str) -> bool:
    return _all_between(text, "\u0401", "\u0451") and not _MIXED.search(text)


_SENSIBLE: tuple[tuple[str, Callable[[str], bool]], ...] = (
    ("utf-8", bool),
    ("cp932", _is_japanese),
    ("euc_kr", _is_korean),
    ("gb2312", _is_simple_chinese),
    ("big5", _is_traditional_chinese),
    ("cp866", _is_russian),
    ("cp1251", _is_russian),
)
"""Encodings, the most telling first, and whether text in them makes sense."""
_WIDER = {"euc_kr": "cp949", "gb2312": "gb18030"}
"""What Windows makes of an encoding."""


def _decoded(text: bytes, encoding: str) -> str:
    """The text; empty where it is not in this encoding."""
    try:
        return text.decode(encoding)
    except UnicodeDecodeError:
        return ""


def _all_between(text: str, first: str, last: str) -> bool:
    letters = [c for c in text if not c.isascii()]
    return bool(letters) and all(first <= c <= last for c in letters)


def _unicode_path(info: zipfile.ZipInfo) -> str:
    place, extra = 0, info.extra
    while place + 4 <= len(extra):
        kind, size = struct.unpack_from("<HH", extra, place)
        if kind == UNICODE_PATH and size > 5:
            return extra[place + 9 : place + 4 + size].decode("utf-8", "replace")
        place += 4 + size
    return ""
