"""Where answers go: a folder of this machine, or a bucket that any number of machines share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from effnet_core.config.schema import RunConfig
from effnet_core.errors import CheckpointError, FolderInUse
from effnet_core.infer.bucket import BucketOutput
from effnet_core.infer.parts import iter_rows, partition_of, rows_of_part
from effnet_core.infer.plan import InferencePlan, read_plan
from effnet_core.storage.addresses import is_s3
from effnet_core.storage.cache import cache_dir
from effnet_core.system.locks import alone, scratch_folder, sole_user
from effnet_core.weights.checkpoint import Checkpoint, opened_before

CACHE_NAME = "labelling"
"""Models that came with an output."""
Row = dict[str, Any]


class OutputPlace(Protocol):
    """An output, as one process sees it."""

    folder: Path
    """The output itself, or a folder for copies of its records."""
    address: str
    """What people know it by."""

    @property
    def remote(self) -> str:
        """Its address, where it is in a bucket; else empty."""
        ...

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep others out who would do something else there, until the block ends."""
        ...

    def make_plan(self, make: Callable[[], InferencePlan]) -> InferencePlan:
        """Plan a run, or find it planned."""
        ...

    def read_plan(self) -> InferencePlan:
        """The plan that lies there."""
        ...

    def keep_model(self, checkpoint: Checkpoint, *more: Path) -> None:
        """Make sure that whoever labels shards can have the model."""
        ...

    def find_model(self, path: Path, sha256: str) -> Checkpoint:
        """The model of a shard: at the path where the run was planned, or as ``keep_model`` kept it."""
        ...

    def say_plan(self, etag: str) -> None:
        """Tell others which plan this process works on, where a task has made it."""
        ...

    def plan_etag(self) -> str:
        """What ``say_plan`` takes."""
        ...

    def finish(
        self, plan: InferencePlan, write: Callable[[], dict[str, Any]], *, again: bool
    ) -> dict[str, Any]:
        """Write totals and report into the folder by ``write``, once.

        Args:
            plan: the run, whose shards are all finished.
            write: returns the summary.
            again: whether to write them again where somebody has.
        """
        ...

    def put_results(self) -> None:
        """Let others see the totals and errors that the folder has."""
        ...

    def rows(self, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
        """All answers, one by one."""
        ...


class FolderPlace:
    """A folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, str(folder)

    @property
    def remote(self) -> str:
        """Nothing."""
        return ""

    @contextmanager
    def used(self) -> Iterator[None]:
        """Be its only user."""
        with sole_user(self.folder, what="output folder"):
            yield

    def make_plan(self, make: Callable[[], InferencePlan]) -> InferencePlan:
        """Plan."""
        return make()

    def read_plan(self) -> InferencePlan:
        """As ``OutputPlace.read_plan``."""
        return read_plan(self.folder)

    def keep_model(self, checkpoint: Checkpoint, *more: Path) -> None:
        """Whoever has the folder has the model, too."""

    def find_model(self, path: Path, sha256: str) -> Checkpoint:
        """The model at the path."""
        return opened_before(path, sha256)

    def say_plan(self, etag: str) -> None:
        """Nobody else writes here."""

    def plan_etag(self) -> str:
        """Nothing."""
        return ""

    def finish(
        self, plan: InferencePlan, write: Callable[[], dict[str, Any]], *, again: bool
    ) -> dict[str, Any]:
        """Write."""
        return write()

    def put_results(self) -> None:
        """They are where they belong."""

    def rows(self, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
        """As ``OutputPlace.rows``."""
        return iter_rows(self.folder, columns)


class BucketPlace(BucketOutput):
    """An output in a bucket."""

    @property
    def remote(self) -> str:
        """Its address."""
        return self.address

    @contextmanager
    def used(self) -> Iterator[None]:
        """Be one of those who do the same there."""
        with self.joined():
            yield

    def find_model(self, path: Path, sha256: str) -> Checkpoint:
        """The model at the path, or that beside the answers, kept in this machine's cache."""
        if path.is_file():
            with suppress(CheckpointError):
                return opened_before(path, sha256)
        folder = cache_dir(CACHE_NAME) / sha256[:24]
        with alone(folder):
            return self.fetch_model(sha256, folder)

    def say_plan(self, etag: str) -> None:
        """As ``OutputPlace.say_plan``.

        Raises:
            FolderInUse: another run was planned meanwhile.
        """
        self._say_plan(etag)
        if self.plan_etag() != etag:
            raise FolderInUse(
                f"output {self.address} was planned anew by another command meanwhile; the same command "
                "looks again"
            )

    def rows(self, columns: tuple[str, ...] | None = None) -> Iterator[Row]:
        """As ``OutputPlace.rows``, part by part."""
        for path in self.iter_parts():
            more = partition_of(path)
            for row in rows_of_part(path, columns):
                yield {**row, **more} if more else row


@contextmanager
def open_output(output: str | Path, config: RunConfig) -> Iterator[OutputPlace]:
    """An output at a path or an ``s3://`` address.

    Raises:
        ConfigError: the address is none.
        DataError: there is no room for a temporary folder.
    """
    if not is_s3(str(output)):
        yield FolderPlace(Path(output))
        return
    with scratch_folder("labels") as folder:
        yield BucketPlace(str(output), folder, config.storage, config.infer.lease_s)
