"""Seeded changes of valid files: of bytes, of JSON, of text; and archives with members that nobody wants.

Standard library only, so that the same seed gives the same changes to any version of this project.
"""

from __future__ import annotations

import io
import json
import random
import tarfile
import zipfile
from copy import deepcopy
from typing import Any

WORDS = (
    *("", "x", "\0", "\n", "../../etc/passwd", "/etc/passwd", "a" * 5000, "\ud800", "\u202e"),
    *(
        "[Infinity]",
        "=1+1",
        "'",
        '"',
        "{",
        "[[",
        "production",
        "é",
        "\x1b[2J",
        "-1",
        "1e999",
        "NaN",
    ),
)
NUMBERS = (0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 1e308, 10**40, 0.5, float("inf"), float("nan"))
OTHERS = (None, True, False, [], {}, [[]], {"a": 1}, [None], [1, "x"])
BYTES = (
    b"",
    b"\0",
    b"\xff" * 8,
    b"\x80\x02",
    b"PK\x03\x04",
    b"{",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"\x1f\x8b",
)


def of_bytes(chance: random.Random, content: bytes) -> bytes:
    """A file of which some bytes were changed, taken away, doubled or put in."""
    data = bytearray(content)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(6)
        if kind == 0 and data:
            data[at % len(data)] = chance.randrange(256)
        elif kind == 1:
            del data[at:]
        elif kind == 2:
            del data[at : at + chance.randint(1, 64)]
        elif kind == 3:
            data[at:at] = data[at : at + chance.randint(1, 200)]
        elif kind == 4:
            data[at:at] = chance.choice(BYTES)
        else:  # a length field, as likely as not
            data[at : at + 4] = chance.choice((0, 1, 2**16, 2**31, 2**32 - 1)).to_bytes(4, "little")
    return bytes(data)


def of_values(chance: random.Random, value: Any) -> Any:
    """JSON-like values of which one was replaced, removed or added."""
    places = list(_places(value))
    holder, key = chance.choice(places)
    kind = chance.randrange(8)
    if holder is None:
        return deepcopy(chance.choice((*OTHERS, *NUMBERS, *WORDS)))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[chance.choice(WORDS)] = deepcopy(holder[key])
    elif kind == 2 and isinstance(holder, list):
        holder.append(deepcopy(holder[key]))
    else:
        holder[key] = deepcopy(chance.choice(chance.choice((OTHERS, NUMBERS, WORDS))))
    return value


def _places(value: Any) -> Any:
    """Every place of a value: what holds it and under which key; the whole has neither."""
    yield None, None
    waiting = [value]
    while waiting:
        item = waiting.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item))
        for key in keys:
            yield item, key
            if isinstance(item[key], dict | list):
                waiting.append(item[key])


def of_json(chance: random.Random, text: str) -> bytes:
    """A JSON file with changed values, or with changed bytes."""
    if chance.random() < 0.3:
        return of_bytes(chance, text.encode())
    value = json.loads(text)
    for _ in range(chance.randint(1, 2)):
        value = of_values(chance, value)
        if not isinstance(value, dict | list):
            break
    try:
        return json.dumps(value).encode("utf-8", "surrogatepass")
    except ValueError:
        return b"NaN"


def of_text(chance: random.Random, text: str) -> bytes:
    """A text of which lines were changed, or with changed bytes."""
    if chance.random() < 0.4:
        return of_bytes(chance, text.encode())
    lines = text.splitlines()
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(lines) + 1)
        kind = chance.randrange(4)
        if kind == 0 and at < len(lines):
            lines[at] = lines[at].replace(
                ":", chance.choice((": !!python/none", "&a *a", "::", " -"))
            )
        elif kind == 1:
            lines.insert(at, chance.choice(WORDS) * chance.randint(1, 3))
        elif kind == 2 and at < len(lines):
            before, colon, _ = lines[at].partition(":")
            lines[at] = before + colon + " " + str(chance.choice((*NUMBERS, *WORDS, *OTHERS)))
        else:
            lines.insert(at, "  " * chance.randrange(5) + f"{chance.choice(WORDS)}: *b")
    encoding = chance.choice(("utf-8", "utf-8", "utf-8", "utf-16", "latin-1"))
    return "\n".join(lines).encode(encoding, "ignore")


def tar(chance: random.Random, picture: bytes) -> bytes:
    """A tar file of class folders with members that lead elsewhere, repeat, or are no files."""
    stream = io.BytesIO()
    form = chance.choice((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT))
    with tarfile.open(fileobj=stream, mode=chance.choice(("w", "w:gz")), format=form) as archive:
        for index in range(8):
            name = f"{chance.choice(('cat', 'dog'))}/{index}.png"
            if chance.random() < 0.3:
                name = chance.choice(
                    ("../x.png", "/x.png", "cat/\udcff.png", "cat", "c" * 90 + "/x.png")
                )
            member = tarfile.TarInfo(name)
            kinds = (
                tarfile.SYMTYPE,
                tarfile.LNKTYPE,
                tarfile.FIFOTYPE,
                tarfile.CHRTYPE,
                tarfile.DIRTYPE,
            )
            if chance.random() < 0.3:
                member.type = chance.choice(kinds)
                member.linkname = chance.choice(("../../x", "/etc/passwd", "cat/0.png", name))
                archive.addfile(member)
                continue
            content = picture if chance.random() < 0.8 else of_bytes(chance, picture)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = stream.getvalue()
    return data if chance.random() < 0.5 else of_bytes(chance, data)


def zipped(chance: random.Random, picture: bytes) -> bytes:
    """A zip file of class folders, likewise."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", chance.choice((0, zipfile.ZIP_DEFLATED))) as archive:
        names = set()
        for index in range(8):
            name = f"{chance.choice(('cat', 'dog'))}/{index}.png"
            if chance.random() < 0.3:
                name = chance.choice(("../x.png", "/x.png", "cat\\x.png", "cat/", "C:/x.png"))
            if name not in names:
                names.add(name)
                archive.writestr(
                    name, picture if chance.random() < 0.8 else of_bytes(chance, picture)
                )
    data = stream.getvalue()
    return data if chance.random() < 0.5 else of_bytes(chance, data)
