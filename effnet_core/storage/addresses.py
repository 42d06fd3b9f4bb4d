"""Addresses of objects: ``s3://bucket/key``, taken apart without decoding anything."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from effnet_core.errors import ConfigError

S3_SCHEME = "s3://"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
"""What servers accept as a bucket; AWS itself is stricter and says so."""


@dataclass(frozen=True)
class S3Url:
    """A bucket and a key or the beginning of keys in it."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{S3_SCHEME}{self.bucket}/{self.key}" if self.key else f"{S3_SCHEME}{self.bucket}"

    def join(self, key: str) -> S3Url:
        """The address of ``key`` below this one, as below a folder."""
        return S3Url(self.bucket, f"{self.key.rstrip('/')}/{key}" if self.key else key)


def is_s3(text: str) -> bool:
    """Whether ``text`` is meant as an address of an object store."""
    return text[: len(S3_SCHEME) - 1].lower() == S3_SCHEME[:-1]


def parse_s3(text: str) -> S3Url:
    """The bucket and key of ``s3://bucket/key``; the key may be empty.

    The key is everything after the first slash, as it stands: ``%20``, ``?`` and ``#`` are characters
    of keys and mean nothing else.

    Raises:
        ConfigError: it has no bucket, or holds credentials, which do not belong into addresses.
    """
    if not is_s3(text) or not text[len(S3_SCHEME) - 1 :].startswith("/"):
        raise ConfigError(
            f"{without_userinfo(text)!r} is not an address of the form s3://bucket/key"
        )
    bucket, _, key = text[len(S3_SCHEME) :].partition("/")
    if "@" in bucket:
        raise ConfigError(
            f"{without_userinfo(text)!r} holds credentials, and addresses are logged; leave them out "
            "and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if not BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"{text!r} has no usable bucket: {bucket!r} is not 3-63 letters, digits, dots, dashes "
            "and underscores; give s3://bucket/key"
        )
    return S3Url(bucket, key)


def without_userinfo(text: str) -> str:
    """``text`` with what stands before an ``@`` in an address starred out."""
    return re.sub(r"//[^/]*@", "//***@", text)


SEGMENT_BYTES = 255
PATH_BYTES = 2000
MAX_DEPTH = 100
"""Folders in one another at most; deeper ones exist to break programs."""


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
        (len(segments) > MAX_DEPTH, f"more than {MAX_DEPTH} folders in its name"),
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
