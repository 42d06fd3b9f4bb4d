"""A store on a share that is not mounted is not an empty store."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import StoreBusy, StoreError
from effnet_core.model_store.publication import publish_model
from effnet_core.model_store.versions import cached_model
from tests.unit.model_store.test_publication import make_run, put


class Share:
    """A file system that can be mounted and taken away."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.content = folder.with_name("disk")
        self.content.mkdir()

    def mount(self) -> bool:
        command = ["mount", "--bind", str(self.content), str(self.folder)]
        return not subprocess.run(command, check=False, capture_output=True).returncode

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "share"
    folder.mkdir()
    share = Share(folder)
    if not share.mount():
        pytest.skip("this machine does not let anybody mount a file system")
    yield share
    subprocess.run(["umount", str(folder)], check=False, capture_output=True)


def test_a_share_that_is_not_mounted(share: Share, tmp_path: Path) -> None:
    storage = StorageConfig(root=str(share.folder / "store"), name="animals")
    put(tmp_path, storage, "good", content="good", correct=95)
    share.unmount()
    worse = make_run(tmp_path / "worse", "worse", correct=30)

    def publish() -> object:
        return publish_model(
            tmp_path / "worse", evaluation=worse, storage=storage, gate=EvaluateConfig()
        )

    refused: list[Callable[[], object]] = [publish, lambda: cached_model(storage)]
    for call in refused:
        with pytest.raises(
            StoreBusy, match=f"had 'good' on .* mounted at {share.folder}, which is"
        ):
            call()
    assert not list(share.folder.iterdir())  # nothing was written below the missing share
    assert share.mount()
    published = publish_model(
        tmp_path / "worse", evaluation=worse, storage=storage, gate=EvaluateConfig()
    )
    assert not published.promoted
    assert "below 0.95 of production version 'good'" in published.reason


def test_a_store_that_was_deleted_is_begun_anew(tmp_path: Path) -> None:
    storage = StorageConfig(root=str(tmp_path / "store"), name="animals")
    put(tmp_path, storage, "v1", content="one")
    shutil.rmtree(tmp_path / "store")
    with pytest.raises(StoreError, match="publish it first"):
        cached_model(storage)
    assert put(tmp_path, storage, "v2", content="two").promoted


def test_a_note_that_is_damaged_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    storage = StorageConfig(root=str(tmp_path / "store"), name="animals")
    put(tmp_path, storage, "v1", content="one")
    (note,) = (tmp_path / "state").rglob("*.json")
    for text in ("", "[]", '{"store": 1}'):
        note.write_text(text)
        assert cached_model_version(storage) == "v1"


def cached_model_version(storage: StorageConfig) -> str:
    from effnet_core.model_store.versions import resolve_version

    return str(resolve_version(storage, "production")["version"])
