"""A rank's entry, without MindSpore."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from effnet_core.errors import DataError, Interrupted
from effnet_core.worker import rank as worker


class Cell:
    """Like MindSpore's: part of a circle, so that only the collector frees it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def _no_collection_by_chance() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collection_by_chance")
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (DataError, 1),
        (ValueError, 1),
        (Interrupted, 75),
    ],
)
def test_no_cell_outlives_a_job_however_it_ends(
    error: type[Exception] | None, code: int, tmp_path: Path
) -> None:
    """Else each one complains from ``__del__`` when the interpreter takes its modules apart."""
    cells: list[weakref.ref[Cell]] = []

    def job(*_: object) -> int:
        cell = Cell()
        cells.append(weakref.ref(cell))
        if error is not None:
            raise error("no images")
        return 0

    (tmp_path / "logs").mkdir()
    with (
        mock.patch.multiple(
            worker, read_config=mock.DEFAULT, read_job=mock.DEFAULT, _take_cores=mock.DEFAULT
        ),
        mock.patch.object(worker, "listen_as_first"),
        mock.patch.object(worker, "_run", job),
    ):
        assert worker.main(tmp_path) == code
    assert cells[0]() is None
