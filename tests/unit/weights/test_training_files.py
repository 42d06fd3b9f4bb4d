"""Files as training scripts save them: read for their weights; nothing else in them is made."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pytest

from effnet_core.errors import CheckpointError
from effnet_core.weights.containers import read_tensors
from effnet_core.weights.torch_pickle import BESIDE
from tests.unit.weights.test_torch_file import dumps, zip_file

PEERS = Path(__file__).parents[2] / "golden" / "peers"


@pytest.mark.parametrize("path", sorted(PEERS.glob("training_*")), ids=lambda path: path.name)
def test_the_weights_of_a_training_checkpoint(path: Path) -> None:
    """timm's with options, numpy scalars and a moving average, Lightning's, torch.compile's, bf16."""
    _, found = read_tensors(path)
    assert set(found) == {"conv.weight", "norm.bias"}
    assert np.array_equal(found["conv.weight"], np.arange(12, dtype=np.float32).reshape(3, 4))
    assert found["conv.weight"].dtype == np.float32
    assert found["norm.bias"].tolist() == [1, 1, 1]


def test_a_namespace_alone_is_not_weights(tmp_path: Path) -> None:
    program = dumps({"args": argparse.Namespace(lr=0.1)})
    with pytest.raises(CheckpointError, match="it holds no named tensors"):
        read_tensors(zip_file(tmp_path / "x.pth", program))


class Evil:
    """Pickles as a call of ``function``."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, ...]:
        return self.call


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "builtins.getattr", "shutil.rmtree"]
)
def test_what_acts_is_still_refused(name: str, tmp_path: Path) -> None:
    assert name not in BESIDE
    module, _, function = name.rpartition(".")
    target = getattr(__import__(module), function)
    marker = tmp_path / "ran"
    program = dumps({"args": argparse.Namespace(x=Evil(target, f"touch {marker}"))})
    with pytest.raises(CheckpointError, match="nothing of it was run"):
        read_tensors(zip_file(tmp_path / "x.pth", program))
    assert not marker.exists()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (b"\x80\x02cargparse\nNamespace\nK\x01\x85\x81.", "it makes an object that is not known"),
        (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "it makes an object that is not known"),
        (b"\x80\x02}cargparse\nNamespace\n)\x81K\x01s.", "it has a key that is not text"),
        (b"\x80\x02B\xff\xff\xff\x7fx.", "it ends too early"),
    ],
)
def test_objects_in_wrong_places(program: bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=reason):
        read_tensors(zip_file(tmp_path / "x.pth", program))
