"""What every layer of tests shares."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet_core.cli.guard import GC_THRESHOLD
from effnet_core.data.staging import stage_dataset
from effnet_core.events import Event, listen
from effnet_core.infer.engines import tuning
from effnet_core.kernels import build as operators
from effnet_core.model_store.mounts import STATE_VARIABLE
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.weights.web import PRIVATE_VARIABLE
from tests.support.images import source_with_splits
from tests.support.s3 import (
    aws_environment,
    bucket,
    moto,
    moto_server,
    seaweedfs,
    seaweedfs_server,
)

SHARED_VARIABLE = "EFFNET_TEST_SHARED"
"""A folder that the parts of one ``make test`` have in common, empty at its start."""

__all__ = ["aws_environment", "bucket", "moto", "moto_server", "seaweedfs", "seaweedfs_server"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what starts an object store; fixtures with a server as one of their params mark it themselves."""
    servers = {"seaweedfs_server", "moto_server"}
    for item in items:
        if servers & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.store)


def pytest_collection_finish() -> None:
    """Never look for garbage in what imports made, and seldom in the rest: it takes a tenth of a run."""
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The cache of the tests and their child processes: new in each run, but for the CPU kernels.

    Their library's name says what it was made of and with, and it is tested before each use. So all runs
    can share one, which takes 15 s of a processor to build. The parts of one ``make test`` also share the
    engines of inference, and what was measured of them.
    """
    assert pytestconfig.cache is not None
    folder = tmp_path_factory.mktemp("cache")
    (folder / operators.CACHE_NAME).symlink_to(pytestconfig.cache.mkdir("cpu-operators"))
    if shared := os.environ.get(SHARED_VARIABLE):
        engines = Path(shared, tuning.CACHE_NAME)
        engines.mkdir(mode=0o700, exist_ok=True)
        (folder / tuning.CACHE_NAME).symlink_to(engines)
    os.environ[CACHE_VARIABLE] = str(folder)
    os.environ[STATE_VARIABLE] = str(tmp_path_factory.mktemp("state"))
    os.environ[PRIVATE_VARIABLE] = "1"  # servers of tests are on the loopback address


@pytest.fixture
def events() -> Iterator[list[Event]]:
    """Every event that the core emits during the test."""
    seen: list[Event] = []
    with listen(seen.append):
        yield seen


@pytest.fixture(scope="session")
def source_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes with 8 training and 4 validation images each, 40x32 JPEG; read only."""
    return source_with_splits(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="session")
def data_dir(source_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``source_dir`` as a staged data set: 24 training and 12 validation images; read only."""
    out = tmp_path_factory.mktemp("staged")
    stage_dataset(source_dir, out)
    return out
