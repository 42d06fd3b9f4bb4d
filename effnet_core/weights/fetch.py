"""Downloads that are whole or absent: resumed where they were cut, checked, renamed into place."""

from __future__ import annotations

import http
import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import BinaryIO, Protocol

from effnet_core.errors import CheckpointError, DownloadFailed
from effnet_core.events import Event, emit
from effnet_core.files import CHUNK_BYTES, sha256_of_file
from effnet_core.text import human_bytes, os_reason

TIMEOUT_S = 30
STAGE = "download"
TRY_AGAIN = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_MANY_REQUESTS)
USER_AGENT = "effnet-flows"


class Response(Protocol):
    """What is used of an answer."""

    status: int
    headers: http.client.HTTPMessage

    def read(self, amount: int) -> bytes:
        """The next bytes."""


def download(url: str, path: Path, *, size_bytes: int = 0, sha256: str = "") -> Path:
    """Fetch ``url`` to ``path``, or leave it there where it is whole already.

    What an earlier try left beside it (``.part``) is continued where the server can.

    Args:
        size_bytes: expected size; unknown where 0.
        sha256: expected digest; unknown where empty.

    Raises:
        DownloadFailed: the server cannot be reached, refuses, or ended early.
        CheckpointError: it is not there, or what came is not the file that was expected.
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
    return path


def _continue(url: str, part: Path) -> None:
    """Fetch what is missing of ``part``."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": USER_AGENT, **({"Range": f"bytes={have}-"} if have else {})}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - http(s) only, see resolve
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        error.close()
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "").rpartition("/")[2] == str(have):
            return  # all of it was there already
        part.unlink()
        return _continue(url, part)
    with answer:
        resumes = answer.status == http.HTTPStatus.PARTIAL_CONTENT
        with part.open("ab" if resumes else "wb") as stream:
            _copy(url, answer, stream, done=have if resumes else 0)


def _copy(url: str, answer: Response, stream: BinaryIO, *, done: int) -> None:
    length = answer.headers.get("Content-Length")
    total = done + int(length) if length and length.isdigit() else None
    name = url.rpartition("/")[2]
    if done:
        emit(Event(STAGE, f"going on with {name} at {human_bytes(done)}", done, total))
    else:
        emit(Event(STAGE, f"fetching {url}", 0, total))
    while chunk := answer.read(CHUNK_BYTES):
        stream.write(chunk)
        done += len(chunk)
        emit(Event(STAGE, done=done, total=total))
    if total is not None and done != total:
        raise http.client.IncompleteRead(b"", total - done)


def _verify(url: str, part: Path, *, size_bytes: int, sha256: str) -> None:
    size = part.stat().st_size
    if size_bytes and size != size_bytes:
        part.unlink()
        raise CheckpointError(
            f"{url} gave {size:,} bytes where {size_bytes:,} are expected; try again"
        )
    if sha256 and (found := sha256_of_file(part)) != sha256:
        part.unlink()
        raise CheckpointError(
            f"{url} gave a file with SHA-256 {found[:16]}... where {sha256[:16]}... is expected; deleted"
        )


def _failed(url: str, path: Path, reason: str) -> DownloadFailed:
    return DownloadFailed(
        f"{url} cannot be fetched ({reason}); where there is no network, place the file by hand at {path}"
    )


def _why(error: Exception) -> str:
    """The reason inside an error of urllib, in words."""
    if isinstance(error, http.client.IncompleteRead):
        return f"the connection ended {error.expected or 0:,} bytes early; the rest is fetched next time"
    reason = getattr(error, "reason", error)
    if isinstance(reason, OSError) and reason.strerror:
        return os_reason(reason)
    return str(reason) or type(error).__name__
