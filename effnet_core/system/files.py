"""Files that are either whole or absent: atomic writers, digests, readable refusals."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from effnet_core.errors import ConfigError, DataError, EffnetError, OutputExists
from effnet_core.text import human_bytes, os_reason

CHUNK_BYTES = 1 << 20
LOCK_NAME = ".effnet.lock"
"""File inside a folder while a command writes there; see ``locks.py``."""

UNFINISHED = ".effnet-new"
"""How the names of files end that ``atomic_path`` has begun."""

SHORT_BYTES = 200
"""Bytes of a file name that something is added to; file systems take 255."""

FICLONE = 0x40049409
"""Linux's ioctl that makes such a copy, on Btrfs, XFS and others."""
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
"""How a path begins that was meant as an address."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk, a share of it or a file is full."""


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk, a share of it or a file is full."""
    return isinstance(error, OSError) and error.errno in NO_ROOM


def sha256_of_file(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    return digest_of_file(path, "sha256")


def digest_of_file(path: Path, algorithm: str) -> str:
    """Hexadecimal digest of a file's bytes, by one of ``hashlib``'s names."""
    digest = hashlib.new(algorithm)
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of_text(*parts: str) -> str:
    """Hexadecimal SHA-256 of several strings, kept apart by a byte that none of them holds."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()


@contextmanager
def atomic_path(path: Path, *, make_folder: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its name once the block ends without error.

    The content is flushed to the disk before the rename, so a reader meets the old file or the new
    one, never a part. After an error nothing is left behind.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{short_name(path.name)}."
    handle, name = tempfile.mkstemp(prefix=prefix, suffix=UNFINISHED, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        put_in_place(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_temporaries(folder: Path, names: Iterable[str] = ("",)) -> None:
    """Remove what ``atomic_path`` of a killed process left in a folder, not in those inside.

    The caller has the folder, or the files of these names, to itself. What cannot be removed stays.

    Args:
        folder: need not exist.
        names: of the files; all by default. Nothing is touched that ``atomic_path`` has not named.
    """
    beginnings = tuple(f".{short_name(name)}." if name else "." for name in names)
    with suppress(OSError):
        for entry in os.scandir(folder):
            if entry.name.endswith(UNFINISHED) and entry.name.startswith(beginnings):
                with suppress(OSError):
                    Path(entry).unlink()


def short_name(name: str) -> str:
    """The beginning of a file name that leaves room for what a temporary file's name adds."""
    return os.fsdecode(os.fsencode(name)[:SHORT_BYTES])


def part_name(name: str) -> str:
    """What a file is called until it is whole: always the same, and of a length that file systems take."""
    if len(os.fsencode(name)) <= SHORT_BYTES:
        return f".{name}.part"
    return f".{short_name(name)}~{sha256_of_text(name)[:16]}.part"


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a finished file of the same file system its name, once its content is on the disk."""
    with temporary.open("rb") as stream:
        os.fsync(stream.fileno())
    temporary.chmod(usual_mode())
    temporary.replace(path)


def usual_mode() -> int:
    """Rights of a new file by this process's umask, such as 0o644."""
    # Asked of the kernel: os.umask() tells it only by changing it, for all threads.
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    umask = next(line for line in status.splitlines() if line.startswith("Umask:"))
    return 0o666 & ~int(umask.split()[1], 8)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` atomically, as UTF-8."""
    # Names of files that are not valid UTF-8 hold surrogates; as escapes they stay the same in JSON.
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: the file is missing, cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as cause:
        raise DataError(f"{path} does not exist") from cause
    except OSError as cause:
        raise DataError(f"{path} cannot be read ({os_reason(cause)})") from cause
    except RecursionError as cause:
        raise DataError(f"{path} is not valid JSON (it is nested too deeply)") from cause
    except ValueError as cause:
        raise DataError(f"{path} is not valid JSON ({cause})") from cause


def append_jsonl(path: Path, row: dict[str, Any]) -> None:
    """Add one line to a JSON Lines file, in one write."""
    with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON Lines file; a last line that was cut while being written is left out."""
    return list(iter_jsonl(path))


def iter_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """As ``read_jsonl``, one by one; ends before the first line that is not an object."""
    if not path.exists():
        return
    # Lines end at "\n" only: splitlines() would also split at U+2028.
    with path.open(encoding="utf-8", errors="replace", newline="\n") as stream:
        for line in stream:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                return
            if not isinstance(row, dict):
                return
            yield row


def link_or_copy(source: Path, target: Path) -> None:
    """Put ``source`` at ``target`` as a hard link where the file system allows it, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)


def make_folder(path: Path, *, what: str) -> Path:
    """Create ``path`` and make sure that it can be written to.

    Raises:
        ConfigError: it is an address such as ``s3://bucket/prefix``.
        DataError: it cannot be created or written to; the message names it as ``what``.
    """
    if address := ADDRESS.match(str(path)):
        said = f"{address[1]}://{str(path)[address.end() :]}"  # a path has one slash of them
        raise ConfigError(
            f"{what} {said} must be a folder of this machine; write to one, then: effnet copy FOLDER "
            "s3://bucket/prefix"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as cause:
        raise DataError(
            f"{what} {path} cannot be written to ({os_reason(cause)}); "
            "choose another folder or mend its rights"
        ) from cause
    return path


def clone(source: Path, target: Path) -> bool:
    """Let a new file share another one's blocks until either changes; False where that cannot be."""
    with source.open("rb") as old, target.open("wb") as new:
        try:
            fcntl.ioctl(new, FICLONE, old.fileno())
        except OSError:
            return False
    return True


def is_empty(folder: Path) -> bool:
    """Whether an existing folder holds nothing but the lock of whoever uses it."""
    return all(path.name == LOCK_NAME for path in folder.iterdir())


def require_empty_or_own(path: Path, marker: str, *, what: str) -> None:
    """Refuse a folder that has content but not our ``marker`` file.

    Raises:
        OutputExists: the folder holds something that we did not write.
    """
    if path.is_dir() and not is_empty(path) and not (path / marker).exists():
        raise OutputExists(
            f"{what} {path} already holds files that are not ours (no {marker} there); choose an empty folder"
        )


def no_longer_writable(
    run_dir: Path,
    error: OSError,
    *,
    step: int | None = None,
    kind: str = "run folder",
    resumes: str = "from the last checkpoint",
) -> DataError:
    """The sentence about a folder that could be written to before."""
    what = "make room" if is_full(error) else "bring it back"
    at = "" if step is None else f" at step {step}"
    return DataError(
        f"{kind} {run_dir} can no longer be written to ({os_reason(error)}){at}; {what}, and the "
        f"same command continues {resumes}"
    )


def refuse_os_errors(what: str) -> Callable[[OSError], EffnetError]:
    """A function that turns an ``OSError`` met while doing ``what`` into a sentence."""

    def convert(error: OSError) -> EffnetError:
        place = f" ({error.filename})" if error.filename else ""
        advice = "; make room, and run the same command again" if is_full(error) else ""
        return DataError(f"{what} failed: {os_reason(error)}{place}{advice}")

    return convert


RESERVE_BYTES = 200_000_000
"""Left free for everything else on the disk."""


def require_space(folder: Path, size_bytes: int, *, what: str) -> None:
    """Refuse what does not fit on the disk of ``folder``, which need not exist yet.

    Raises:
        DataError: with the size of what is to be written and of what is free.
    """
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if size_bytes > free - RESERVE_BYTES:
        raise DataError(
            f"{what} needs {human_bytes(size_bytes)}, but {folder} has {human_bytes(free)} free and "
            f"{human_bytes(RESERVE_BYTES)} of it are left for others; choose another folder or make room"
        )
