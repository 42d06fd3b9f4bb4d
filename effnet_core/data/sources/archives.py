"""Unpacking archives that nobody vouches for: what could leave the folder or fill the disk is refused.

Members are read one by one and written to paths that are built here; the libraries' own extraction,
which obeys the archive, is never called.
"""

from __future__ import annotations

import lzma
import os
import posixpath
import re
import shlex
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from effnet_core.data.sources.tar_stream import read_tar
from effnet_core.data.sources.zip_names import names_of
from effnet_core.errors import DataError
from effnet_core.storage.addresses import SEGMENT_BYTES, require_name
from effnet_core.system.files import CHUNK_BYTES, require_space, sha256_of_text, short_name
from effnet_core.text import human_bytes, os_reason

TAR_SUFFIXES = (
    *(".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst"),
)
SUFFIXES = (*TAR_SUFFIXES, ".zip")
UNREAD = {".7z": "a 7-Zip archive", ".rar": "a RAR archive"}
"""Archives whose programs are not part of Python, by suffix."""

DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError),
    *(NotImplementedError, struct.error, OverflowError, RecursionError),
)
"""What the libraries raise for an archive that is damaged or none."""
MAX_TARGET_BYTES = 4096
"""Bytes of a link in a zip, whose content is what it leads to."""
CONTROL = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True)
class Limits:
    """How much an archive may unpack to."""

    members: int = 20_000_000
    total_bytes: int = 2_000_000_000_000
    member_bytes: int = 20_000_000_000
    ratio: float = 50.0
    """Unpacked size by packed size; archives of images have about 1."""
    always_bytes: int = 50_000_000
    """Up to this size the ratio does not count."""

    def unpacked(self, archive: Path) -> int:
        """Bytes that an archive of this size may unpack to."""
        return self.of_size(archive.stat().st_size)

    def of_size(self, packed_bytes: int) -> int:
        """As ``unpacked``, by the size itself."""
        return min(self.total_bytes, max(self.always_bytes, int(packed_bytes * self.ratio)))


DEFAULT_LIMITS = Limits()


@dataclass(frozen=True)
class Member:
    """One entry, before it is trusted."""

    name: str
    size_bytes: int
    kind: str
    """``file``, ``folder``, ``link``, or what else it is."""
    target: str = ""
    """Where it is a link: the member whose content it has."""


def is_archive(name: str) -> bool:
    """Whether a file is an archive by its name."""
    return name.lower().endswith(SUFFIXES)


def require_read(name: str) -> None:
    """Refuse an archive of a kind that is not read.

    Raises:
        DataError: with what to do.
    """
    if kind := UNREAD.get(name[name.rfind(".") :].lower()):
        raise DataError(
            f"{name} is {kind}, which is not read here; unpack it (7z x {shlex.quote(name)}) and give the "
            "folder, or pack it anew as .zip or .tar"
        )


def stem(name: str) -> str:
    """An archive's file name without its suffix."""
    suffix = max((s for s in SUFFIXES if name.lower().endswith(s)), key=len, default="")
    return name[: len(name) - len(suffix)]


def unpack(
    archive: Path, out: Path, *, limits: Limits = DEFAULT_LIMITS, encoding: str | None = None
) -> Path:
    """Unpack an archive into a folder that appears only when all of it is there.

    Args:
        archive: ``.zip``, or ``.tar`` as it is or compressed by gzip, bzip2, xz or Zstandard.
        out: the folder; one that exists is taken as done.
        limits: what it may unpack to.
        encoding: of the names in a zip that does not say; guessed when None.

    Returns:
        ``out``.

    Raises:
        DataError: the archive is damaged, has a member that is not allowed, is too large, or the disk
            is full; ``out`` does not exist then.
    """
    if out.exists():
        return out
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        require_space(partial, _declared_bytes(archive), what=f"unpacking {archive.name}")
        with _refusing(archive):
            _unpack_all(archive, partial, limits, encoding)
        partial.rename(out)
    except OSError as cause:
        raise DataError(
            f"{archive} cannot be unpacked into {out} ({os_reason(cause)}); choose a folder that can be "
            "written to and has room"
        ) from cause
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def members(
    archive: Path, encoding: str | None = None
) -> Iterator[tuple[Member, IO[bytes] | None]]:
    """Every entry in the archive's order, and for files a stream that is valid until the next one."""
    if archive.name.lower().endswith(".zip"):
        yield from _zip_members(archive, encoding)
    else:
        with archive.open("rb") as stream:
            yield from tar_members(stream, largest=DEFAULT_LIMITS.unpacked(archive))


def tar_members(
    stream: IO[bytes], *, largest: int | None = None
) -> Iterator[tuple[Member, IO[bytes] | None]]:
    """As ``members``, for a tar file that is read from a stream, compressed or not.

    Args:
        stream: the file.
        largest: bytes of the unpacked stream beyond which nothing is read or skipped.
    """
    for info, content in read_tar(stream, largest=largest):
        target = info.linkname
        if info.issym():
            target = posixpath.join(posixpath.dirname(info.name), target)
        yield Member(info.name, info.size, _tar_kind(info), posixpath.normpath(target)), content


def _zip_members(archive: Path, encoding: str | None) -> Iterator[tuple[Member, IO[bytes] | None]]:
    with zipfile.ZipFile(archive) as container:
        entries = container.infolist()
        # orig_filename, which is read here, keeps what zipfile would mend silently.
        for info, name in zip(entries, names_of(entries, encoding), strict=True):
            mode = info.external_attr >> 16
            if info.flag_bits & 1:
                kind = "an encrypted file"
            elif stat.S_ISLNK(mode):
                kind = "link"
            elif stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
                kind = "a device or pipe"
            else:
                kind = "folder" if name.endswith("/") else "file"
            if kind == "link":
                with container.open(info) as stream:
                    said = os.fsdecode(stream.read(MAX_TARGET_BYTES))
                target = posixpath.normpath(posixpath.join(posixpath.dirname(name), said))
                yield Member(name, info.file_size, kind, target), None
            elif kind == "file":
                with container.open(info) as stream:
                    yield Member(name, info.file_size, kind), stream
            else:
                yield Member(name, info.file_size, kind), None


def _tar_kind(info: tarfile.TarInfo) -> str:
    if info.isreg():
        return "file"
    if info.isdir():
        return "folder"
    return "link" if info.issym() or info.islnk() else "a device or pipe"


def _unpack_all(archive: Path, out: Path, limits: Limits, encoding: str | None) -> None:
    packed = max(1, archive.stat().st_size)
    largest = limits.unpacked(archive)
    total = count = 0
    links: list[tuple[Member, Path]] = []
    for member, stream in members(archive, encoding):
        count += 1
        if count > limits.members:
            raise _refusal(archive, f"more than {limits.members:,} members")
        path = out / _allowed_name(archive, member)
        if member.kind == "folder":
            _make_folder(archive, member, path)
            continue
        if member.kind == "link":
            links.append((member, path))
            continue
        if member.kind != "file" or stream is None:
            raise _refusal(archive, f"{member.kind} ({member.name!r})")
        if member.size_bytes > limits.member_bytes or total + member.size_bytes > largest:
            raise _too_large(archive, packed, total + member.size_bytes)
        _make_folder(archive, member, path.parent)
        total += _copy(archive, member, stream, path, room=largest - total)
    for member, path in links:
        _resolve(archive, member, out, path)


def _resolve(archive: Path, member: Member, out: Path, path: Path) -> None:
    """Give a link the content of the file that it names; one to a folder or to nothing is left out.

    No link is made, so that whatever is found below ``out`` was written by ``_copy``.
    """
    try:
        target = out / _safe_name(member.target)
    except ValueError:
        raise _refusal(archive, f"a link ({member.name!r}) that leads out of it") from None
    if not target.is_file():
        return
    _make_folder(archive, member, path.parent)
    try:
        os.link(target, path)
    except FileExistsError:
        raise _refusal(archive, f"two members of one name ({member.name!r})") from None
    except OSError:  # a file system without hard links
        shutil.copyfile(target, path)


def _allowed_name(archive: Path, member: Member) -> str:
    if member.kind == "folder" and member.name.strip("./") == "":
        return ""
    try:
        return _safe_name(member.name)
    except ValueError as reason:
        raise _refusal(archive, f"a member with {reason} ({member.name[:100]!r})") from None


def _safe_name(name: str) -> str:
    """A member's name below the folder; parts that no file system takes are spelled otherwise.

    Raises:
        ValueError: it leads out of the folder.
    """
    plain = re.sub(r"(?<=/)(\./|/)+|^(\./)+", "", name)
    parts = [_safe_part(part) for part in plain.rstrip("/").split("/")]
    return require_name("/".join(parts))


def _safe_part(part: str) -> str:
    safe = CONTROL.sub(lambda found: f"%{ord(found[0]):02X}", part)
    if len(os.fsencode(safe)) <= SEGMENT_BYTES:
        return safe
    _, dot, suffix = safe.rpartition(".")
    suffix = f"{dot}{suffix}" if dot and len(suffix) < 8 else ""
    return f"{short_name(safe)}~{sha256_of_text(part)[:16]}{suffix}"


def _make_folder(archive: Path, member: Member, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _refusal(archive, f"a file and a folder of one name ({member.name!r})") from None


def _copy(archive: Path, member: Member, stream: IO[bytes], path: Path, *, room: int) -> int:
    """Write a member's bytes; sizes are counted, not believed."""
    done = 0
    try:
        target = path.open("xb")
    except (FileExistsError, IsADirectoryError):
        raise _refusal(archive, f"two members of one name ({member.name!r})") from None
    with target:
        while chunk := stream.read(CHUNK_BYTES):
            done += len(chunk)
            if done > room:
                raise _too_large(archive, archive.stat().st_size, done)
            target.write(chunk)
    if done != member.size_bytes:
        raise _damaged(archive, f"{member.name} has {done:,} of {member.size_bytes:,} bytes")
    return done


def _declared_bytes(archive: Path) -> int:
    """The size that an archive says it unpacks to; its own size where that takes unpacking."""
    with suppress(Exception):  # unpacking says what is wrong
        if archive.name.lower().endswith(".zip"):
            with zipfile.ZipFile(archive) as container:
                return sum(info.file_size for info in container.infolist())
    return archive.stat().st_size


@contextmanager
def _refusing(archive: Path) -> Iterator[None]:
    """Turn what the libraries raise into a sentence."""
    try:
        yield
    except DataError:
        raise
    except UnicodeError as cause:
        raise _damaged(archive, "a name that cannot be read") from cause
    except Exception as cause:  # a damaged archive can raise nearly anything inside the libraries
        if isinstance(cause, OSError) and cause.errno is not None:
            raise
        raise _damaged(archive, " ".join(str(cause).split()) or type(cause).__name__) from cause


def _refusal(archive: Path, what: str) -> DataError:
    return DataError(
        f"{archive} is refused: it has {what}; nothing of it was kept, make the archive anew from plain "
        "files and folders"
    )


def _too_large(archive: Path, packed: int, size: int) -> DataError:
    return DataError(
        f"{archive} is refused: it unpacks to {human_bytes(size)} or more from {human_bytes(packed)}, as "
        "archives do that are made to fill disks; unpack it by hand if it is right, and stage the folder"
    )


def _damaged(archive: Path, what: str) -> DataError:
    return DataError(f"{archive} is damaged or cut ({what[:200]}); fetch it again")
