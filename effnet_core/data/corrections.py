"""What a person found while looking through pictures: right labels, and pictures to leave out.

A CSV file with the columns ``sha256`` (of the picture), ``label`` and ``action`` (``label`` or ``leave
out``), and ``file`` for pictures that are to be added where the source has none of this digest. Pictures are
known by their content, so a correction follows them wherever they lie.
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from effnet_core.errors import DataError
from effnet_core.text import os_reason

T = TypeVar("T")
LABEL, LEAVE_OUT = "label", "leave out"
COLUMNS = ("sha256", "file", "label", "given", "action", "reason")
"""Of the file that the review page saves."""
PATTERN = "labels*.csv"
"""Names of such files in a folder."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Decision:
    """What is to become of a picture."""

    label: str
    digest: str = ""
    """By which it was known; empty where nobody decided."""
    was: str = ""
    """The label before."""
    leave_out: bool = False


@dataclass(frozen=True)
class Corrections:
    """Decisions by the digest of the picture."""

    labels: dict[str, str] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    files: dict[str, Path] = field(default_factory=dict)
    """Where pictures lie that have a label here."""

    def decision(self, class_name: str, *digests: str) -> Decision:
        """What was decided about a picture.

        Args:
            class_name: its label in the source.
            digests: of its bytes, as they were and as they are staged.
        """
        for digest in digests:
            if digest in self.left_out:
                return Decision(class_name, digest=digest, leave_out=True)
            if digest in self.labels:
                return Decision(self.labels[digest], digest=digest, was=class_name)
        return Decision(class_name)

    def then(self, later: Corrections) -> Corrections:
        """These, with later ones that win."""
        decided = later.left_out | later.labels.keys()
        return Corrections(
            {**_without(self.labels, decided), **later.labels},
            (self.left_out - decided) | later.left_out,
            {**_without(self.files, decided), **later.files},
        )

    def __len__(self) -> int:
        return len(self.labels) + len(self.left_out)

    def __contains__(self, digest: str) -> bool:
        return digest in self.labels or digest in self.left_out

    def __bool__(self) -> bool:
        return bool(self.labels or self.left_out)

    def key(self) -> str:
        """A text that is another one where a decision is."""
        pairs = sorted(self.labels.items()) + sorted((digest, "") for digest in self.left_out)
        return repr(pairs) if pairs else ""


def _without(values: dict[str, T], keys: Set[str]) -> dict[str, T]:
    return {key: value for key, value in values.items() if key not in keys}


def read_corrections(path: Path) -> Corrections:
    """The corrections in a CSV file, or in all ``labels*.csv`` below a folder.

    Lines without a decision are passed over. Of two files in a folder that contradict each other, the one
    whose path sorts later counts, so a folder may be named by its date.

    Raises:
        DataError: a file cannot be read, a column is missing, two lines of a file contradict each other, or a
            folder has no such file.
    """
    if not path.is_dir():
        return _read_file(path)
    files = sorted(path.rglob(PATTERN))
    if not files:
        raise DataError(f"corrections {path} is a folder without a file {PATTERN}")
    together = NO_CORRECTIONS
    for file in files:
        together = together.then(_read_file(file))
    return together


def _read_file(path: Path) -> Corrections:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            rows = list(reader)
            columns = reader.fieldnames or []
    except OSError as cause:
        raise DataError(f"corrections {path} cannot be read ({os_reason(cause)})") from cause
    except (UnicodeDecodeError, csv.Error) as cause:
        raise DataError(f"corrections {path} are not a CSV file in UTF-8 ({cause})") from cause
    missing = [name for name in ("sha256", "label") if name not in columns]
    if missing:
        raise DataError(
            f"corrections {path} have no column {missing[0]!r} (they have: {', '.join(columns) or 'none'}); "
            "the page of effnet review saves one that fits"
        )
    labels: dict[str, str] = {}
    left_out: set[str] = set()
    files: dict[str, Path] = {}
    for number, row in enumerate(rows, start=2):
        _take(row, f"line {number} of corrections {path}", path.parent, labels, left_out, files)
    both = left_out & set(labels)
    if both:
        raise DataError(
            f"corrections {path} label {min(both)[:12]} and leave it out; keep one line"
        )
    return Corrections(labels, frozenset(left_out), files)


def _take(
    row: dict[str, str | None],
    where: str,
    base: Path,
    labels: dict[str, str],
    left_out: set[str],
    files: dict[str, Path],
) -> None:
    digest, label = (row.get("sha256") or "").strip(), (row.get("label") or "").strip()
    action = (row.get("action") or LABEL).strip() or LABEL
    if action not in (LABEL, LEAVE_OUT):
        raise DataError(f"{where}: action {action!r} is neither {LABEL!r} nor {LEAVE_OUT!r}")
    if not label and action == LABEL:
        return  # nobody decided
    if not _DIGEST.fullmatch(digest):
        raise DataError(f"{where}: sha256 {digest[:20]!r} is not a SHA-256 of 64 characters")
    if action == LEAVE_OUT:
        left_out.add(digest)
        return
    if labels.setdefault(digest, label) != label:
        raise DataError(f"{where} labels {digest[:12]} {label!r}, a line before {labels[digest]!r}")
    if file := (row.get("file") or "").strip():
        files[digest] = base / file


NO_CORRECTIONS = Corrections()


def sentence(given: Corrections, counts: Counter[str], *, used: int) -> str:
    """What became of corrections.

    Args:
        given: all of them.
        counts: ``changed``, ``confirmed``, ``left out`` and ``added`` pictures.
        used: corrections whose picture was there.
    """
    kinds = (
        ("changed", "label(s) changed"),
        ("confirmed", "confirmed"),
        ("left out", "picture(s) left out"),
        ("added", "picture(s) added"),
    )
    parts = [f"{counts[key]:,} {text}" for key, text in kinds if counts[key]]
    if unused := len(given.labels) + len(given.left_out) - used:
        parts.append(f"{unused:,} of pictures that are not here")
    return f"corrections by people: {', '.join(parts) or 'none'}"
