"""Batches from a staged data set: files or records in our own order, decoded by MindSpore's C++ pipeline."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import mindspore as ms
import mindspore.dataset as ds
import numpy as np
from mindspore import Tensor
from mindspore.dataset import vision
from numpy.typing import NDArray

from effnet_core.data.encoded import needs_pillow
from effnet_core.data.images import Colour, ImageProblem, decode_image, read_bytes, to_rgb
from effnet_core.data.manifest import Split, mark_of
from effnet_core.errors import DataError
from effnet_core.system.machine import available_cores
from effnet_core.text import in_one_line, os_reason

PREFETCH_BATCHES = 4
COLUMNS = ["image", "label"]


class FileSource:
    """Encoded images by position, for ``GeneratorDataset``."""

    def __init__(
        self,
        split: Split,
        indices: Sequence[int],
        background: Colour | None,
        checked: NDArray[np.bool_],
    ) -> None:
        self.root, self.paths = split.root, [split.paths[i] for i in indices]
        self.labels, self.marks = split.labels[indices], split.marks[indices]
        self.background, self.checked = background, checked
        self.problem: DataError | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[NDArray[np.uint8], np.int32]:
        path = self.root / self.paths[index]
        try:
            content = path.read_bytes()
            if self.checked[index]:
                self._check(path, content, self.marks[index])
            content = for_mindspore(content, self.background)
        except OSError as cause:
            self.problem = DataError(
                f"image {path} cannot be read ({os_reason(cause)}); stage the data set again"
            )
            raise self.problem from cause
        except ImageProblem as cause:
            self.problem = _no_longer_good(path, cause)
            raise self.problem from cause
        return np.frombuffer(content, np.uint8), self.labels[index]

    def _check(self, path: Path, content: bytes, mark: np.uint64) -> None:
        """Compare a file with the manifest."""
        if mark_of(hashlib.sha256(content).hexdigest()) != mark:
            self.problem = DataError(
                f"image {path} has changed since it was staged (its SHA-256 is not the manifest's); "
                "stage the data set again"
            )
            raise self.problem


def for_mindspore(content: bytes, background: Colour | None) -> bytes:
    """An encoded image as MindSpore decodes it to the pixels that ``to_rgb`` gives.

    Raises:
        ImageProblem: it cannot be decoded.
    """
    if not needs_pillow(content):
        return content
    image = decode_image(content, max_pixels=sys.maxsize)  # staging has looked at its size
    stream = io.BytesIO()
    to_rgb(image, background).save(stream, "BMP")  # neither side has to compress
    return stream.getvalue()


@dataclass(frozen=True)
class Batch:
    """Images and labels for one step."""

    images: Tensor
    """(N, 3, S, S) float32, normalised."""
    labels: Tensor
    """(N,) int32."""
    valid: int
    """The first ``valid`` rows count; the others repeat the last image to keep the shape."""


def batches(
    split: Split,
    indices: Sequence[int],
    *,
    transforms: list[Any],
    batch_size: int,
    workers: int,
    seed: int,
    background: Colour | None,
    check_share: float = 0.0,
    sink: bool = False,
) -> Iterator[Batch]:
    """The images at ``indices``, in that order, in batches of one shape.

    The pipeline starts with the call and runs a few batches ahead.

    Args:
        split: where paths and labels come from.
        indices: positions in ``split``.
        transforms: operations from encoded bytes to (3, S, S).
        batch_size: rows of each batch; a last one that is short is filled and says so.
        workers: threads that decode, at most the machine's cores.
        seed: of the random operations, and of which files are checked.
        background: colour that transparent images are laid on; None drops transparency.
        check_share: share of the files whose digest is compared with the manifest.
        sink: let batches come through a queue on the device, which MindSpore fills ahead of the steps.

    Raises:
        DataError: a file disappeared, has changed or cannot be decoded.
    """
    count = len(indices)
    if count == 0:
        return iter(())
    missing = -count % batch_size
    padded = [int(i) for i in indices] + [int(indices[-1])] * missing
    checked = np.random.default_rng(seed).random(len(padded)) < check_share
    source = FileSource(split, padded, background, checked)
    threads = min(workers, len(available_cores()))
    ds.config.set_seed(seed)
    ds.config.set_prefetch_size(PREFETCH_BATCHES)
    if split.records:
        dataset = _recorded(split, padded).map(
            lambda content: np.frombuffer(for_mindspore(content.tobytes(), background), np.uint8),
            input_columns=["image"],
            num_parallel_workers=threads,
        )
    else:
        dataset = ds.GeneratorDataset(
            source,
            COLUMNS,
            shuffle=False,
            num_parallel_workers=threads,
            python_multiprocessing=False,
        )
    dataset = dataset.map(transforms, input_columns=["image"], num_parallel_workers=threads)
    dataset = dataset.batch(batch_size, drop_remainder=True, num_parallel_workers=1)
    try:
        if sink:
            rows = _through_device(dataset, len(padded) // batch_size)
        else:
            rows = dataset.create_tuple_iterator(num_epochs=1, do_copy=False)
    except RuntimeError as cause:
        raise DataError(_pipeline_reason(cause, split)) from cause
    return _read(rows, split, source, count=count, batch_size=batch_size)


def _through_device(dataset: Any, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches that lie on the device already, in the same order.

    Only images and labels go through the queue. Masks, rates and what rank 0 wants still come from the
    host with each step, so that a run can stop after any step and continue exactly.
    """
    take = ms.data_sink(lambda images, labels: (images, labels), dataset)

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        try:
            for _ in range(steps):
                yield take()
        finally:  # it would begin again from the first batch
            dataset.__transfer_dataset__.stop_send()

    return rows()


def _recorded(split: Split, indices: list[int]) -> Any:
    """Encoded images and labels out of records, in that order."""
    files, size = [str(path) for path in split.records], len(split)
    # MindSpore refuses more indices than there are records, which filling up a batch can lead to.
    pieces = [
        ds.MindDataset(
            files,
            COLUMNS,
            num_parallel_workers=1,
            sampler=ds.SubsetSampler(indices[start : start + size]),
        )
        for start in range(0, len(indices), size)
    ]
    return pieces[0].concat(pieces[1:]) if len(pieces) > 1 else pieces[0]


def batches_in_blocks(
    start: Callable[[int, int], Iterator[Batch]], *, steps: int, first: int, block_steps: int
) -> Iterator[Batch]:
    """Batches ``first`` to ``steps`` of an epoch that is read in blocks, each with a seed of its own.

    The state of MindSpore's random operations cannot be saved. It can be made anew: a block always
    starts with the same state, so to continue inside one, its first batches are made again and dropped.

    Args:
        start: opens the pipeline of the batches from one position to another.
        steps: batches of the epoch.
        first: batches that are done already.
        block_steps: batches of a block.
    """
    begins = range(first - first % block_steps, steps, block_steps)
    blocks = [(begin, min(steps, begin + block_steps)) for begin in begins]
    following = start(*blocks[0]) if blocks else iter(())
    for index, (begin, _) in enumerate(blocks):
        current = following
        if index + 1 < len(blocks):
            following = start(*blocks[index + 1])  # it fills its queue while this one is used
        yield from islice(current, max(0, first - begin), None)


def _read(
    rows: Iterator[tuple[Tensor, Tensor]],
    split: Split,
    source: FileSource,
    *,
    count: int,
    batch_size: int,
) -> Iterator[Batch]:
    left = count
    try:
        for images, labels in rows:
            # Those of records are (N, 1).
            flat = labels if labels.ndim == 1 else Tensor(labels.asnumpy()[:, 0])
            yield Batch(images, flat, min(left, batch_size))
            left -= batch_size
    except RuntimeError as cause:
        problem = source.problem or _first_damaged(source, count - left)
        raise problem or DataError(_pipeline_reason(cause, split)) from cause


def _first_damaged(source: FileSource, start: int) -> DataError | None:
    """What is wrong with the first bad file from ``start`` on; MindSpore does not say which it is."""
    for name in source.paths[start:]:
        path = source.root / name
        try:
            content = read_bytes(path)
            decode_image(content, max_pixels=sys.maxsize)
            vision.Decode()(np.frombuffer(for_mindspore(content, source.background), np.uint8))
        except ImageProblem as problem:
            return _no_longer_good(path, problem)
        except RuntimeError as cause:  # Pillow reads more than MindSpore
            return _no_longer_good(path, ImageProblem(in_one_line(cause)))
    return None


def _no_longer_good(path: Path, problem: ImageProblem) -> DataError:
    return DataError(
        f"image {path} cannot be decoded any more ({problem}); stage the data set again"
    )


def _pipeline_reason(error: RuntimeError, split: Split) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines)[:300]
    if split.records:
        folder = split.records[0].parent
        return (
            f"records of {folder} cannot be read; delete that folder, they are made anew ({said})"
        )
    return f"an image cannot be decoded; stage the data set again ({said})"
