"""The list of a data set's images, and the folder in which a staged data set lives.

DATA/
  dataset.json      digest, counts, source; written last
  manifest.parquet  one row an image
  classes.json      class names, sorted; the position is the label
  rejected.jsonl    files that were set aside, with the reason
  images/SPLIT/CLASS/FILE
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effnet_core.errors import DataError
from effnet_core.results.checked import NONSENSE, Count, check_fields, whole
from effnet_core.system.files import atomic_path, read_json, sha256_of_text
from effnet_core.text import nearest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

DATASET_NAME = "dataset.json"
MANIFEST_NAME = "manifest.parquet"
CLASSES_NAME = "classes.json"
REJECTED_NAME = "rejected.jsonl"
AGAIN = "run the same effnet stage again"

COLUMNS = {
    "image_id": "string",
    "path": "string",
    "split": "string",
    "label": "int32",
    "size_bytes": "int64",
    "sha256": "string",
    "width": "int32",
    "height": "int32",
}
"""Of the manifest, and Arrow's names of their types."""


def schema(columns: Iterable[str] = COLUMNS) -> pa.Schema:
    """Some columns of the manifest, as Arrow has them."""
    import pyarrow as pa

    return pa.schema([(name, COLUMNS[name]) for name in columns])


def image_id(relative_path: str) -> str:
    """The identity of an image in its data set or folder: a digest of its relative path."""
    return sha256_of_text(relative_path)[:16]


def mark_of(sha256: str) -> int:
    """The first 64 bits of a digest: enough to see that a file has changed."""
    return int(sha256[:16], 16)


@dataclass(frozen=True)
class Split:
    """One split of a staged data set: paths and labels in manifest order."""

    name: str
    root: Path
    """Folder that ``paths`` are relative to."""
    image_ids: tuple[str, ...]
    paths: tuple[str, ...]
    labels: NDArray[np.int32]
    marks: NDArray[np.uint64]
    """The first 64 bits of each file's SHA-256."""
    records: tuple[Path, ...] = ()
    """MindRecord files that hold the same images in the same order; where given, they are read."""

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Dataset:
    """A staged data set."""

    root: Path
    digest: str
    """SHA-256 over every row: equal digests are equal data."""
    class_names: tuple[str, ...]
    counts: dict[str, Count]
    """Images of each split."""
    rejected: Count
    """Files that were set aside."""
    source: str

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    def split(self, name: str) -> Split:
        """The images of one split.

        Raises:
            DataError: there is no such split, it is empty, or the manifest is damaged.
        """
        if not self.counts.get(name):
            raise DataError(
                f"{self.root} has no images in split {name!r}{nearest(name, self.counts)} "
                f"(it has: {', '.join(f'{key} {n}' for key, n in self.counts.items())})"
            )
        import numpy as np

        columns = ["image_id", "path", "label", "sha256"]
        table = read_manifest(self.root, columns, filters=[("split", "=", name)])
        with whole(self.root / MANIFEST_NAME, "manifest", remedy=AGAIN):
            paths = tuple(table["path"].to_pylist())
            labels = table["label"].to_numpy().astype(np.int32)
            if len(paths) != self.counts[name]:
                raise ValueError(f"{len(paths)} images of {name!r}, not {self.counts[name]}")
            for path in paths:
                if path.startswith("/") or ".." in path.split("/"):
                    raise ValueError(f"path {path!r} leaves the folder")
            if labels.min() < 0 or labels.max() >= self.num_classes:
                raise ValueError(f"a label that is none of {self.num_classes} classes")
            marks = [mark_of(digest) for digest in table["sha256"].to_pylist()]
            ids = tuple(table["image_id"].to_pylist())
            return Split(name, self.root, ids, paths, labels, np.array(marks, np.uint64))


def read_manifest(
    root: Path, columns: list[str], *, filters: list[tuple[str, str, str]] | None = None
) -> pa.Table:
    """Columns of a data set's manifest, none of them with empty values.

    Raises:
        DataError: it is missing or damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = root / MANIFEST_NAME
    try:
        table = pq.read_table(path, columns=columns, filters=filters)
        table = table.select(columns).cast(schema(columns))
    except (OSError, MemoryError, pa.ArrowException, *NONSENSE) as cause:
        reason = " ".join(str(cause).split())[:200]
        raise DataError(f"manifest {path} cannot be read ({reason}); {AGAIN}") from cause
    if any(column.null_count for column in table.columns):
        raise DataError(f"manifest {path} is damaged (a value is missing); {AGAIN}")
    return table


def write_manifest(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows with the columns ``COLUMNS`` as Parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema()), temporary)


def rows_digest(rows: list[dict[str, Any]], class_names: list[str]) -> str:
    """SHA-256 over path, split, label and content of every row, and over the class names."""
    lines = [f"{row['path']}\t{row['split']}\t{row['label']}\t{row['sha256']}" for row in rows]
    return sha256_of_text(*class_names, "", *lines)


def open_dataset(root: Path) -> Dataset:
    """The staged data set in a folder.

    Raises:
        DataError: the folder does not exist, holds no staged data set, or one that is damaged.
    """
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist")
    if not (root / DATASET_NAME).exists():
        raise DataError(
            f"{root} holds no staged data set (no {DATASET_NAME}); "
            f"stage one first: effnet stage {root} --out DATA"
        )
    facts = read_facts(root)
    if not facts.get("complete"):
        raise DataError(f"staging into {root} was not finished; run the same effnet stage again")
    names = read_json(root / CLASSES_NAME)
    with whole(root / CLASSES_NAME, "list of classes", remedy=AGAIN):
        are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not are_names or len(set(names)) < max(2, len(names)):
            raise ValueError("it is not a list of two or more different names")
    with whole(root / DATASET_NAME, "record of the data set", remedy=AGAIN):
        given = {key: facts[key] for key in ("digest", "counts", "rejected", "source")}
        return check_fields(Dataset, {**given, "root": root, "class_names": tuple(names)})


def read_facts(root: Path) -> dict[str, Any]:
    """The content of ``dataset.json``.

    Raises:
        DataError: it is missing or damaged.
    """
    facts = read_json(root / DATASET_NAME)
    if not isinstance(facts, dict):
        raise DataError(
            f"record of the data set {root / DATASET_NAME} is damaged (it is not an object with names and "
            f"values); {AGAIN}"
        )
    return facts
