"""Weights by their name on the hub, from a server here that speaks the same protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet_core.errors import CheckpointError, ConfigError, DownloadFailed
from effnet_core.weights import hub as hub_files
from effnet_core.weights.checkpoint import Checkpoint
from effnet_core.weights.hub import HubAddress
from effnet_core.weights.resolve import locate, meaning, resolve
from tests.support.hub import Hub, Repository, serve_hub
from tests.unit.weights.test_importing import foreign, write
from tests.unit.weights.test_publisher import ADV, GOLDEN

pytest.importorskip("huggingface_hub")
NAME = "timm/tf_efficientnet_b0.ap_in1k"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    path = tmp_path_factory.mktemp("hub") / "model.safetensors"
    write(path, foreign("timm-tf", "efficientnet_tiny"))
    config = GOLDEN["tf_efficientnet_b0.ap_in1k"]
    beside = {"architecture": "tf_efficientnet_b0", "pretrained_cfg": config}
    return {"model.safetensors": path.read_bytes(), "config.json": json.dumps(beside).encode()}


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("EFFNET_CACHE_DIR", str(tmp_path / "cache"))
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        server.repositories[NAME] = Repository(dict(files))
        yield server


def opened(weights: str) -> Checkpoint:
    def no_store(_: str) -> Checkpoint:
        raise AssertionError("not a version of the store")

    return resolve(weights, store=no_store)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf-hub:a/b", ("a/b", None, None)),
        ("hf-hub:a/b.c-d_e@v1.0", ("a/b.c-d_e", "v1.0", None)),
        ("hf-hub:a/b@refs/pr/1", ("a/b", "refs", "pr/1")),
        ("hf-hub:a/b/x/y.ckpt", ("a/b", None, "x/y.ckpt")),
        ("hf-hub:a/b@0123/y.ckpt", ("a/b", "0123", "y.ckpt")),
    ],
)
def test_addresses(text: str, parts: tuple[str | None, ...]) -> None:
    found = HubAddress.parse(text)
    assert (found.repository, found.revision, found.file) == parts
    assert str(found) == text
    assert meaning(text) == "hub"


@pytest.mark.parametrize(
    "text", ["hf-hub:", "hf-hub:a", "hf-hub:a/b c", "hf-hub:/a/b", "hf-hub:a/b@"]
)
def test_what_is_not_an_address(text: str) -> None:
    with pytest.raises(ConfigError, match="write hf-hub:OWNER/NAME"):
        HubAddress.parse(text)


def test_weights_and_their_preprocessing_by_name(hub: Hub) -> None:
    checkpoint = opened(f"hf-hub:{NAME}")
    assert checkpoint.sidecar.variant == "efficientnet_tiny"
    assert checkpoint.sidecar.preprocess.mean == ADV
    assert checkpoint.sidecar.padding == "same"
    assert NAME in checkpoint.sidecar.source
    before = len(hub.requests)
    assert opened(f"hf-hub:{NAME}") == checkpoint
    assert {method for method, _ in hub.requests[before:]} == {
        "HEAD"
    }  # only whether it is the newest
    path, hint, _ = locate(f"hf-hub:{NAME}")
    assert (path.name, hint) == ("model.safetensors", NAME)


def test_a_published_name_is_fetched_from_the_hub(hub: Hub) -> None:
    assert opened("tf_efficientnet_b0.ap_in1k").sidecar.preprocess.mean == ADV
    assert ("GET", f"/{NAME}/resolve/main/model.safetensors") in hub.requests


def test_off_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(CheckpointError, match="in the cache, and the hub is off-line"):
            opened(f"hf-hub:{NAME}")
    first = opened(f"hf-hub:{NAME}")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    count = len(hub.requests)
    assert opened(f"hf-hub:{NAME}") == first
    assert len(hub.requests) == count


def test_revisions_and_files(hub: Hub, files: dict[str, bytes]) -> None:
    repository = hub.repositories[NAME]
    repository.tags["v1"] = {"old.safetensors": files["model.safetensors"]}
    with pytest.raises(
        CheckpointError, match=r"has no file model\.safetensors, pytorch_model\.bin"
    ):
        opened(f"hf-hub:{NAME}@v1")
    found = opened(f"hf-hub:{NAME}@v1/old.safetensors")
    assert found.sidecar.variant == "efficientnet_tiny"
    with pytest.raises(CheckpointError, match="@v2 has no such revision"):
        opened(f"hf-hub:{NAME}@v2")


def test_private_and_gated_repositories(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = hub.repositories[NAME]
    repository.private = True
    with pytest.raises(CheckpointError, match="does not exist, or is private"):
        opened(f"hf-hub:{NAME}")
    with pytest.raises(CheckpointError, match="hf-hub:no/body does not exist"):
        opened("hf-hub:no/body")
    repository.private, repository.gated = False, True
    with pytest.raises(CheckpointError, match="only to those who have asked"):
        opened(f"hf-hub:{NAME}")
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert opened(f"hf-hub:{NAME}").sidecar.variant == "efficientnet_tiny"
    assert set(hub.tokens) == {hub.token}


def test_a_broken_transfer_continues(hub: Hub, files: dict[str, bytes]) -> None:
    hub.cut_after = len(files["model.safetensors"]) // 2
    hub.repositories[NAME].files.pop("config.json")
    path = hub_files.fetch(HubAddress.parse(f"hf-hub:{NAME}"))
    assert path.read_bytes() == files["model.safetensors"]
    assert hub.cut_after is None


def test_a_hub_that_cannot_be_reached(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again, and waits
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="the hub cannot be reached"):
        opened(f"hf-hub:{NAME}")
