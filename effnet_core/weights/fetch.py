"""Downloads that are whole or absent: resumed only where nothing has changed, limited, checked, renamed.

Beside a file that is being fetched lie ``.part``, what has come so far, and ``.part.json``, which version
of the file that is. The server is asked for the rest on the condition that it still has that version
(``If-Range``), and sends all of it otherwise.
"""

from __future__ import annotations

import http
import http.client
import os
import re
import time
import urllib.error
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from effnet_core.errors import CheckpointError, DataError, DownloadFailed
from effnet_core.events import Event, emit
from effnet_core.system.files import (
    CHUNK_BYTES,
    read_json,
    require_space,
    sha256_of_file,
    write_json,
)
from effnet_core.text import human_bytes, os_reason
from effnet_core.weights.web import open_address, redacted

TOPIC = "download"
TRY_AGAIN = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)
MAX_BYTES = 20_000_000_000
"""Largest file that is fetched; the largest checkpoints of the family have one GB."""
MAX_SECONDS = 6 * 3600.0
"""That a file may take at all."""
SLOW_SECONDS, SLOW_BYTES = 60.0, 60_000
"""A server that sends less than so much in such a time has stopped."""


class Response(Protocol):
    """What is used of an answer."""

    status: int
    headers: http.client.HTTPMessage

    def read1(self, amount: int) -> bytes:
        """The next bytes, as many as have come."""


def download(url: str, path: Path, *, size_bytes: int = 0, sha256: str = "") -> Path:
    """Fetch ``url`` to ``path``, or leave it there where it is whole already.

    What an earlier try left beside it is continued where the server says that the file is the same.

    Args:
        size_bytes: expected size; unknown where 0.
        sha256: expected digest, or its beginning; unknown where empty.

    Raises:
        DownloadFailed: the server cannot be reached, refuses, ended early, or sends next to nothing.
        CheckpointError: it is not there, leads where it may not, is too large, or what came is not the
            file that was expected.
        DataError: there is no room.
    """
    if path.exists():
        return path
    part = path.with_name(path.name + ".part")
    try:
        _continue(url, part)
    except urllib.error.HTTPError as cause:
        failed = _failed(url, path, f"the server answered {cause.code} {cause.reason}")
        if cause.code in TRY_AGAIN or cause.code >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
            raise failed from cause
        raise CheckpointError(str(failed)) from cause
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as cause:
        raise _failed(url, path, _why(cause)) from cause
    except OSError as cause:
        raise _failed(url, path, os_reason(cause)) from cause
    _verify(url, part, size_bytes=size_bytes, sha256=sha256)
    with part.open("rb") as stream:
        os.fsync(stream.fileno())
    part.replace(path)
    _note(part).unlink(missing_ok=True)
    return path


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _continue(url: str, part: Path) -> None:
    """Fetch what is missing of ``part``; all of it where it is not known to be the same file."""
    version = _version_of(part)
    have, headers = 0, {}
    if version is not None and (have := part.stat().st_size):
        headers = {"Range": f"bytes={have}-", "If-Range": version}
    try:
        answer: Any = open_address(url, headers)
    except urllib.error.HTTPError as error:
        error.close()
        if not have or error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        _forget(part)
        return _continue(url, part)
    with answer:
        total = _total(answer, have)
        if answer.status == http.HTTPStatus.PARTIAL_CONTENT and total is None:
            _forget(part)  # not the range that was asked for
            raise http.client.HTTPException("the server sent another part than the one asked for")
        done = have if answer.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            raise CheckpointError(
                f"{redacted(url)} gives a compressed answer, which was not asked for"
            )
        _require_size(url, total or 0)
        require_space(part.parent, (total or 0) - done, what=f"fetching {redacted(url)}")
        if not done:
            _remember(part, answer)
        with part.open("ab" if done else "wb") as stream:
            _copy(url, answer, stream, done=done, total=total)


def _version_of(part: Path) -> str | None:
    """How the server can tell that it still has the file that ``part`` is the beginning of."""
    if not part.exists():
        return None
    with suppress(DataError):
        found = read_json(_note(part))
        if isinstance(found, dict) and isinstance(found.get("validator"), str):
            return str(found["validator"])
    return None


def _remember(part: Path, answer: Response) -> None:
    """Note the version that an answer is of: a strong ETag, or else when it was changed last."""
    etag, modified = answer.headers.get("ETag"), answer.headers.get("Last-Modified")
    strong = etag if etag and etag.startswith('"') else None
    _forget(part)
    if validator := strong or modified:
        write_json(_note(part), {"validator": validator})


def _forget(part: Path) -> None:
    for path in (_note(part), part):
        path.unlink(missing_ok=True)


def _total(answer: Response, have: int) -> int | None:
    """Size of the whole file, where the answer says it; None also where it is of another range."""
    if answer.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        return int(found[2]) if found and int(found[1]) == have else None
    length = answer.headers.get("Content-Length")
    return int(length) if length and length.isdecimal() else None


def _require_size(url: str, size: int) -> None:
    if size > MAX_BYTES:
        raise CheckpointError(
            f"{redacted(url)} has {human_bytes(size)} or more, at most {human_bytes(MAX_BYTES)} are fetched"
        )


def _copy(url: str, answer: Response, stream: BinaryIO, *, done: int, total: int | None) -> None:
    name = redacted(url).partition("?")[0].rpartition("/")[2]
    if done:
        emit(Event(TOPIC, f"resuming {name} at {human_bytes(done)}", done, total))
    else:
        emit(Event(TOPIC, f"fetching {redacted(url)}", 0, total))
    began = since = time.monotonic()
    before = done
    while chunk := answer.read1(CHUNK_BYTES):
        stream.write(chunk)
        done += len(chunk)
        _require_size(url, done)
        emit(Event(TOPIC, done=done, total=total))
        now = time.monotonic()
        if now - began > MAX_SECONDS:
            raise http.client.HTTPException(
                f"it was not there after {MAX_SECONDS / 3600:.0f} hours"
            )
        if now - since > SLOW_SECONDS:
            if done - before < SLOW_BYTES:
                raise http.client.HTTPException(
                    f"the server sent {human_bytes(done - before)} in {now - since:.0f} s"
                )
            since, before = now, done
    if total is not None and done != total:
        raise http.client.IncompleteRead(b"", total - done)


def _verify(url: str, part: Path, *, size_bytes: int, sha256: str) -> None:
    size = part.stat().st_size
    if size_bytes and size != size_bytes:
        _forget(part)
        raise CheckpointError(
            f"{redacted(url)} gave {size:,} bytes where {size_bytes:,} are expected; try again"
        )
    if sha256 and not (found := sha256_of_file(part)).startswith(sha256):
        _forget(part)
        raise CheckpointError(
            f"{redacted(url)} gave a file with SHA-256 {found[:16]}... where {sha256[:16]}... is expected; "
            "deleted"
        )


def _failed(url: str, path: Path, reason: str) -> DownloadFailed:
    return DownloadFailed(
        f"{redacted(url)} cannot be fetched ({redacted(reason)}); where there is no network, place the file "
        f"by hand at {path}"
    )


def _why(error: Exception) -> str:
    """The reason inside an error of urllib, in words."""
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection ended {error.expected or 0:,} bytes early; the rest is fetched next time"
    reason = getattr(error, "reason", error)
    if isinstance(reason, OSError) and reason.strerror:
        return os_reason(reason)
    return str(reason) or type(error).__name__
