"""Published versions as weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core.api import open_weights
from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import StoreError
from effnet_core.model_store.publication import publish_model
from effnet_core.model_store.versions import cached_model
from tests.unit.model_store.test_publication import make_run


def test_production_and_versions_stand_for_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    storage = StorageConfig(root=str(tmp_path / "store"), name="m")
    with pytest.raises(StoreError):
        open_weights("production", storage)
    versions = []
    for name, correct in (("a", 70), ("b", 80)):
        evaluation = make_run(tmp_path / name, name, correct=correct)
        published = publish_model(
            tmp_path / name, evaluation=evaluation, storage=storage, gate=EvaluateConfig()
        )
        versions.append(published.version)
    assert open_weights("production", storage) == cached_model(storage, versions[1])
    assert open_weights(f"store:{versions[0]}", storage) == cached_model(storage, versions[0])
    with pytest.raises(StoreError, match="nope"):
        open_weights("store:nope", storage)
    (tmp_path / "a").rename(
        tmp_path / "production"
    )  # a run folder of that name is meant by its name
    assert open_weights("production", storage).path == Path("production/model.ckpt")
