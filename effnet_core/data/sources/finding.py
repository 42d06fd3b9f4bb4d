"""Which files of a folder, archive or bucket are pictures: one rule for staging, labelling and training.

A file is a picture, damaged or not, if its name ends as pictures' names do or its bytes begin as theirs;
every other file is listed apart. What systems leave behind is left out: hidden names, thumbnails, bins.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from effnet_core.data.encoded import HEAD_BYTES, is_picture
from effnet_core.data.images import IMAGE_SUFFIXES
from effnet_core.storage.folders import walk

HIDDEN = "hidden"
SYSTEM_FOLDERS = {
    **dict.fromkeys(("__macosx", "network trash folder", "temporary items"), "of macOS"),
    "thevolumesettingsfolder": "of macOS",
    **dict.fromkeys(("@eadir", "@tmp", "#recycle", "#snapshot", "@sharebin"), "of a Synology"),
    **dict.fromkeys(("@__thumb", "@recycle", "@recently-snapshot"), "of a QNAP"),
    **dict.fromkeys(("$recycle.bin", "recycler", "system volume information"), "of Windows"),
    **dict.fromkeys(("$recycle", "recycled", "found.000", "$winreagent"), "of Windows"),
    "lost+found": "of the file system",
    "__pycache__": "of Python",
    "_gsdata_": "of GoodSync",
}
"""Folders that systems make, in lower case, and whose they are."""

RAW_SUFFIXES = frozenset(
    [
        *(".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".raf", ".orf", ".rw2"),
        *(".pef", ".dng", ".x3f", ".raw", ".rwl", ".3fr", ".iiq", ".erf", ".mrw", ".kdc", ".dcr"),
    ]
)
"""Cameras' own files: what is read of them without the maker's program is a thumbnail."""

NEVER_SUFFIXES = {
    **dict.fromkeys(RAW_SUFFIXES, "a camera's raw file; export it as JPEG or TIFF"),
    **dict.fromkeys((".part", ".partial", ".crdownload", ".download"), "an unfinished download"),
    ".thm": "a camera's thumbnail",
}
"""Names that decide against what a file holds, and what it is."""

OTHER_SUFFIXES = frozenset(
    [
        *(".txt", ".md", ".rst", ".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".xml", ".yaml"),
        *(".yml", ".toml", ".ini", ".cfg", ".log", ".pdf", ".doc", ".docx", ".xls", ".xlsx"),
        *(".svg", ".eps", ".ai", ".xcf", ".aae", ".xmp", ".lnk", ".url", ".webloc", ".db"),
        *(".mov", ".mp4", ".m4v", ".avi", ".mkv", ".webm", ".wmv", ".mpg", ".mpeg", ".3gp"),
        *(".mp3", ".wav", ".ogg", ".flac", ".m4a", ".aac", ".py", ".ipynb", ".sh", ".bat"),
        *(".npy", ".npz", ".pkl", ".parquet", ".arrow", ".h5", ".hdf5", ".pt", ".pth", ".ckpt"),
        *(".cls", ".idx", ".index", ".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"),
        *(".zst", ".sqlite", ".exe", ".dll", ".tmp", ".bak", ".icloud"),
        *(".md5", ".sha1", ".sha256", ".tfrecord", ".lock"),
    ]
)
"""Names that nobody gives to a picture: objects of a bucket with them are not fetched."""


@dataclass
class Found:
    """The files of a folder, sorted by kind."""

    pictures: list[str] = field(default_factory=list)
    """Paths below the root, sorted; some may turn out to be damaged."""
    other: list[tuple[str, str]] = field(default_factory=list)
    """Paths of other files, and what they are."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    """Hidden names and folders of systems, and links that lead in circles."""


def find_files(root: Path, *, recursive: bool = True) -> Found:
    """The files of a folder, sorted by kind; links to folders are followed once.

    Raises:
        OSError: the folder cannot be listed.
    """
    walked = walk(root, skip=why_left_out, recursive=recursive)
    found = tell_apart(root, walked.files)
    found.left_out = walked.left_out
    return found


def tell_apart(root: Path, paths: Iterable[str]) -> Found:
    """Files below a root, in the order given, sorted by kind."""
    found = Found()
    for path in paths:
        if reason := why_other(path, lambda path=path: _head(root / path)):  # type: ignore[misc]
            found.other.append((path, reason))
        else:
            found.pictures.append(path)
    return found


def why_left_out(name: str, is_folder: bool) -> str:
    """Why a name is not looked at; empty where it is."""
    if name.startswith("."):
        return HIDDEN
    if not is_folder:
        return "of macOS" if name == "Icon\r" else ""
    return SYSTEM_FOLDERS.get(name.lower(), "")


def why_key_left_out(path: str) -> str:
    """As ``why_left_out``, of every part of an object's key or an archive member's name."""
    *folders, name = path.split("/")
    for folder in folders:
        if reason := why_left_out(folder, True):
            return reason
    return why_left_out(name, False)


def why_other(path: str, head: Callable[[], bytes]) -> str:
    """What a file is that is not a picture; empty for pictures, whole or damaged.

    Args:
        path: its name.
        head: gives its first bytes; called only where the name does not tell.
    """
    suffix = suffix_of(path)
    if suffix in NEVER_SUFFIXES:
        return NEVER_SUFFIXES[suffix]
    if suffix in IMAGE_SUFFIXES:
        return ""
    try:
        if is_picture(head()):
            return ""
    except OSError:  # reading it will tell the reason
        return "" if suffix not in OTHER_SUFFIXES else other_reason(path)
    return other_reason(path)


def why_other_by_name(path: str) -> str:
    """As ``why_other``, of an object that is not worth fetching to be sure."""
    suffix = suffix_of(path)
    if suffix in NEVER_SUFFIXES:
        return NEVER_SUFFIXES[suffix]
    return other_reason(path) if suffix in OTHER_SUFFIXES else ""


def other_reason(path: str) -> str:
    """What to say of a file that is not a picture by name and by content."""
    suffix = suffix_of(path)
    return f"not a picture ({suffix})" if suffix else "not a picture"


def turned_out_other(path: str, problem: str) -> bool:
    """Whether a file that could not be decoded is not a picture: an object whose name did not tell."""
    named = suffix_of(path) in IMAGE_SUFFIXES
    return not named and problem.startswith(("not an image", "empty file"))


def suffix_of(path: str) -> str:
    """The end of a name from its last dot, in lower case; empty where there is none."""
    name = path.rpartition("/")[2]
    stem, dot, end = name.rpartition(".")
    return f".{end.strip().lower()}" if dot and stem else ""


def in_a_line(left_out: Iterable[tuple[str, str]]) -> str:
    """What was left out, for people: how many of each kind, and some names."""
    kinds: Counter[str] = Counter()
    names: dict[str, str] = {}
    for path, reason in left_out:
        kinds[reason] += 1
        names.setdefault(reason, path)
    return ", ".join(
        f"{n:,} {reason} (such as {names[reason]})" for reason, n in kinds.most_common()
    )


def _head(path: Path) -> bytes:
    """The first bytes of a regular file; never waits for a pipe or device."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)
