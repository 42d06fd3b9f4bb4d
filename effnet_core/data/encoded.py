"""What the bytes of a picture say without decoding them: its kind, and which decoder gives its pixels.

MindSpore decodes with OpenCV: it drops transparency, reads a picture of any size in full, and refuses a
PNG with a wrong checksum or without its last bytes, which Pillow reads.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
JPEG_SIGNATURE = b"\xff\xd8\xff"
HEAD_BYTES = 512
"""Enough of a file to tell what it is."""

LARGE_PIXELS = 100_000_000
"""A JPEG of more pixels is shrunk while it is decoded, by the same factor everywhere."""
LARGE_BYTES = 400_000
"""No JPEG of so many pixels is smaller, so the headers of others need not be read."""

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_KNOWN_CRITICAL = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
_KEPT_NOTES = (b"tRNS", b"eXIf")
_ALPHA_TYPES = (4, 6)
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
"""Markers of a JPEG's frame header, which holds its size."""


def is_heic(head: bytes) -> bool:
    """Whether a file begins as the pictures of iPhones do."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIC_BRANDS


def is_picture(head: bytes) -> bool:
    """Whether a file begins with the signature of a picture, whatever its name says."""
    if head.startswith((JPEG_SIGNATURE, PNG_SIGNATURE, b"GIF87a", b"GIF89a", b"8BPS")):
        return True
    if head.startswith((b"II*\0", b"MM\0*")):  # TIFF
        return True
    if head.startswith(b"BM") and head[6:10] == b"\0\0\0\0" and len(head) > 30:
        return True
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return True
    if head.startswith((b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")):  # JPEG 2000
        return True
    return is_heic(head) or (head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis"))


def what_instead(head: bytes) -> str:
    """What a file with the name of a picture holds, where that is a common mistake; else empty."""
    start = head.lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, such as a server's refusal"
    if start.startswith(b"version https://git-lfs"):
        return "a pointer of Git LFS; git lfs pull fetches the picture"
    if start.startswith((b"<?xml", b"<svg")):
        return "XML or SVG"
    if head.startswith(b"\0\x05\x16\x07"):
        return "what macOS keeps beside a file"
    return ""


def png_chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every chunk of a PNG that is there in full, headers included."""
    place = len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        (size,) = struct.unpack_from(">I", content, place)
        end = place + 12 + size
        if end > len(content):
            return
        kind = content[place + 4 : place + 8]
        yield kind, place, end
        if kind == b"IEND":
            return
        place = end


def is_whole_png(content: bytes) -> bool:
    """Whether every chunk is there, is known, and has the checksum that it should."""
    view = memoryview(content)
    kind = b""
    for kind, start, end in png_chunks(content):
        if kind[:1].isupper() and kind not in _KNOWN_CRITICAL:
            return False
        if zlib.crc32(view[start + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
            return False
    return kind == b"IEND"


def without_notes(content: bytes) -> bytes:
    """A PNG without what is not part of its picture: texts, colour profiles, other frames."""
    parts = [PNG_SIGNATURE]
    for kind, start, end in png_chunks(content):
        if kind[:1].isupper() or kind in _KEPT_NOTES:
            parts.append(content[start:end])
    return b"".join(parts)


def needs_pillow(content: bytes) -> bool:
    """Whether MindSpore would give other pixels than Pillow: of transparent and very large pictures."""
    if content.startswith(PNG_SIGNATURE):
        return _has_alpha_png(content)
    if content.startswith(JPEG_SIGNATURE):
        if len(content) < LARGE_BYTES:
            return False
        width, height = jpeg_size(content)
        return width * height > LARGE_PIXELS
    return content.startswith(b"BM") and content[28:30] == b"\x20\0"


def jpeg_size(content: bytes) -> tuple[int, int]:
    """Width and height by a JPEG's frame header; zeros where it has none."""
    place = 2
    while place + 9 <= len(content):
        if content[place] != 0xFF:
            return 0, 0
        marker = content[place + 1]
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", content, place + 5)
            return width, height
        if marker == 0xFF:  # filled up
            place += 1
        elif marker == 1 or 0xD0 <= marker <= 0xD8:  # without a length
            place += 2
        else:
            place += 2 + struct.unpack_from(">H", content, place + 2)[0]
    return 0, 0


def _has_alpha_png(content: bytes) -> bool:
    if len(content) > 25 and content[25] in _ALPHA_TYPES:
        return True
    for kind, _, _ in png_chunks(content):
        if kind == b"tRNS":
            return True
        if kind == b"IDAT":
            return False
    return False
