"""A model as a repository of the hub: written to a server here, read back as the same model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from effnet_core.errors import CheckpointError
from effnet_core.family.variants import VARIANTS
from effnet_core.model_store.hub_repository import architecture, publish_to_hub, timm_config
from effnet_core.results import EvalResult
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint
from effnet_core.weights.hub import HubAddress
from effnet_core.weights.resolve import resolve
from tests.support.hub import LFS_FROM, Hub, serve_hub
from tests.support.weights import make_checkpoint

pytest.importorskip("huggingface_hub")
# The library's upload by Git LFS, with the httpx2 that it brings.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
ADDRESS = HubAddress("me/tiny")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("EFFNET_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "secret")
    # Xet's own protocol is spoken by the hub only; without it the library uses Git LFS.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def evaluated(checkpoint: Checkpoint) -> EvalResult:
    names = list(checkpoint.sidecar.class_names)
    return EvalResult(
        10, 9, 10, 0.5, class_names=names, split="val", checkpoint_sha256=checkpoint.sha256
    )


def publish(checkpoint: Checkpoint, folder: Path, **changes: object) -> str:
    folder.mkdir()
    values: dict[str, object] = {
        "evaluation": evaluated(checkpoint),
        "metrics": [{"kind": "train", "step": 1, "loss": 2.0}],
        "export_onnx": lambda path: path.write_bytes(bytes(2 * LFS_FROM)),
        "version": "v1",
    }
    return publish_to_hub(checkpoint, ADDRESS, folder, **{**values, **changes})  # type: ignore[arg-type]


@pytest.mark.costly
def test_there_and_back(hub: Hub, tmp_path: Path) -> None:
    own = make_checkpoint(
        tmp_path / "own.ckpt", class_names=("cat", "dog", "owl"), padding="same", image_size=48
    )
    checkpoint = open_checkpoint(own)
    commit = publish(checkpoint, tmp_path / "a", private=True)
    repository = hub.repositories["me/tiny"]
    assert repository.private
    assert commit == f"{hub.address}/me/tiny/commit/{repository.commit}"
    assert {"model.safetensors", "model.onnx", "config.json", "README.md", "loss.png"} <= set(
        repository.files
    )
    assert len(repository.files["model.onnx"]) == 2 * LFS_FROM  # by Git LFS
    assert any(path.endswith("/objects/batch") for _, path in hub.requests)

    def no_store(_: str) -> Checkpoint:
        raise AssertionError

    back = resolve("hf-hub:me/tiny", store=no_store)
    assert back.sidecar.class_names == ("cat", "dog", "owl")
    assert back.sidecar.preprocess == checkpoint.sidecar.preprocess
    assert (back.sidecar.bn_eps, back.sidecar.padding) == (1e-3, "same")
    before, after = checkpoint.load(), back.load()
    assert all(np.array_equal(after[name], before[name]) for name in before)
    publish(checkpoint, tmp_path / "b")  # into the repository that is there


def test_the_card(hub: Hub, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "own.ckpt"))
    publish(checkpoint, tmp_path / "a")
    card = hub.repositories["me/tiny"].files["README.md"].decode()
    _, front, body = card.split("---\n", 2)
    facts = yaml.safe_load(front)
    assert facts["library_name"] == "timm"
    assert facts["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.9
    assert "# me/tiny v1" in body
    assert "top-1 90.00%" in body
    assert 'timm.create_model("hf-hub:me/tiny", pretrained=True)' in body


def test_an_evaluation_of_another_checkpoint(hub: Hub, tmp_path: Path) -> None:
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "own.ckpt"))
    other = EvalResult(10, 9, 10, 0.5, checkpoint_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="the evaluation is of checkpoint 000000000000"):
        publish(checkpoint, tmp_path / "a", evaluation=other)
    assert hub.repositories == {}


def test_a_token_that_may_not_write(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "wrong")
    checkpoint = open_checkpoint(make_checkpoint(tmp_path / "own.ckpt"))
    with pytest.raises(CheckpointError, match="hf-hub:me/tiny"):
        publish(checkpoint, tmp_path / "a")


def test_timms_names_of_the_networks(tmp_path: Path) -> None:
    assert architecture(VARIANTS["efficientnet_b5"]) == "efficientnet_b5"
    assert architecture(VARIANTS["efficientnet_v2_s"]) == "efficientnetv2_s"
    sidecar = open_checkpoint(make_checkpoint(tmp_path / "x.ckpt")).sidecar
    assert timm_config(sidecar)["model_args"] == {"bn_eps": 1e-3}
