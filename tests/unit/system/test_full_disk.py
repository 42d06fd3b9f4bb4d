"""A disk that really is full: a limit of the system stops the writing, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_core.config.schema import StorageConfig
from effnet_core.data.staging import WORK_NAME
from effnet_core.storage import S3Url
from effnet_core.storage.trees import upload_tree
from tests.support.images import class_folders
from tests.support.s3 import SeaweedFS
from tests.support.weights import make_checkpoint
from tests.unit.data.sources.test_opening import pack
from tests.unit.model_store.test_publication import put

FILE_LIMIT_BYTES = 20_000


def refused(*arguments: str) -> str:
    """What a command says that may not write larger files; it fails with one sentence."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT_BYTES, FILE_LIMIT_BYTES))

    argv = [sys.executable, "-m", "effnet_core", *arguments]
    ended = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
    )
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert "file too large" in ended.stderr
    return ended.stderr


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "images", {"cat": 6, "dog": 6}, width=900, height=900)


def test_a_bucket_that_does_not_fit(
    seaweedfs: SeaweedFS,
    bucket: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert min(p.stat().st_size for p in images.rglob("*.jpg")) > FILE_LIMIT_BYTES
    monkeypatch.setenv("AWS_ENDPOINT_URL", seaweedfs.endpoint_url)
    upload_tree(images, S3Url(bucket, "data"), seaweedfs.access)
    text = refused("copy", f"s3://{bucket}/data", str(tmp_path / "copied"))
    assert "choose a folder that can be written to and has room" in text
    assert files(tmp_path / "copied") == []
    refused("stage", f"s3://{bucket}/data", "--out", str(tmp_path / "staged"))
    assert files(tmp_path / "staged") == ["dataset.json"]  # it says that this is not finished


@pytest.mark.costly
def test_an_archive_that_does_not_fit(images: Path, tmp_path: Path) -> None:
    pack(images, tmp_path / "set.tar")
    text = refused("stage", str(tmp_path / "set.tar"), "--out", str(tmp_path / "staged"))
    assert "set.tar cannot be unpacked into" in text
    assert files(tmp_path / "staged") == ["dataset.json"]
    assert not list((tmp_path / "staged" / WORK_NAME).rglob("*.jpg"))


@pytest.fixture(params=["folder", pytest.param("bucket", marks=pytest.mark.store)])
def make_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], StorageConfig]:
    def make() -> StorageConfig:
        if request.param == "folder":
            return StorageConfig(root=str(tmp_path / "store"), name="animals")
        server = request.getfixturevalue("seaweedfs")
        bucket = request.getfixturevalue("bucket")
        return StorageConfig(
            root=f"s3://{bucket}/models", name="animals", endpoint_url=server.endpoint_url
        )

    return make


@pytest.mark.costly
def test_a_model_that_does_not_fit(
    make_storage: Callable[[], StorageConfig], tmp_path: Path
) -> None:
    storage = make_storage()
    put(tmp_path, storage, "v1", content="x" * 240)  # 24 kB
    out = tmp_path / "fetched"
    at = ["-o", f"storage.endpoint_url={storage.endpoint_url}"] if storage.endpoint_url else []
    where = ["--store", storage.root, "--name", storage.name]
    refused("store", "fetch", "--out", str(out), *where, *at)
    assert "model.ckpt" not in files(out)
    assert not [name for name in files(out) if name.startswith(".")]


@pytest.mark.parametrize("format", ["onnx", "safetensors"])
@pytest.mark.costly
def test_an_export_that_does_not_fit(format: str, tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tmp_path / "model.ckpt")
    out = tmp_path / "out" / f"model.{format}"
    message = refused("export", "-w", str(checkpoint), "--out", str(out), "--format", format)
    assert f"{out} cannot be written (" in message
    assert files(tmp_path / "out") == []
