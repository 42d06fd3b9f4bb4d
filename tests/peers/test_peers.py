"""Files that the peers saved are imported and give their logits; converted back, they load strictly.

The peers run in a Python of their own: ``EFFNET_PEERS_PYTHON``, by default the one that runs the tests.
It needs the extra ``peers``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from effnet_core.weights.checkpoint import open_checkpoint
from effnet_core.weights.importing import convert, import_weights

SCRIPT = Path(__file__).parent.parent / "golden" / "make_peers.py"
PYTHON = os.environ.get("EFFNET_PEERS_PYTHON", sys.executable)
MODULES = ("torch", "torchvision", "timm", "efficientnet_lite_pytorch")
TOLERANCE = 1e-4

# Name in make_peers.py: variant, layout, side: the variant's own.
MODELS = {
    **{
        f"torchvision_b{n}": (f"efficientnet_b{n}", "torchvision", size)
        for n, size in enumerate((224, 240, 260, 300, 380, 456, 528, 600))
    },
    "torchvision_v2_s": ("efficientnet_v2_s", "torchvision", 384),
    "timm_b0": ("efficientnet_b0", "timm", 224),
    "timm_tf_b0": ("efficientnet_b0", "timm-tf", 224),
    "timm_tf_b4": ("efficientnet_b4", "timm-tf", 380),
    "timm_tf_lite0": ("efficientnet_lite0", "timm-tf", 224),
    "lukemelas_lite0": ("efficientnet_lite0", "lukemelas", 224),
}

LOGITS = """
import sys
from effnet_core.jobs import environment
environment.prepare()
import numpy as np
from pathlib import Path
from effnet_core.weights import checkpoint
from effnet_core.weights.load import load_parameters
from effnet_core.model.network import create_model
from mindspore import Tensor
def main(path, images, out):
    opened = checkpoint.open_checkpoint(Path(path))
    sidecar = opened.sidecar
    network = create_model(
        sidecar.variant, num_classes=1000, bn_eps=sidecar.bn_eps, padding=sidecar.padding
    )
    load_parameters(opened, network.get_parameters())
    network.set_train(False)
    np.save(out, network(Tensor(np.load(images)["images"])).asnumpy())
main(*sys.argv[1:])
"""


@cache
def missing() -> str:
    """Which of the peers' modules that Python lacks."""
    code = (
        "import importlib.util as u, sys; "
        "print(*(m for m in sys.argv[1:] if u.find_spec(m) is None))"
    )
    done = subprocess.run(
        [PYTHON, "-c", code, *MODULES], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def run_peer(*arguments: str) -> None:
    done = subprocess.run(
        [PYTHON, "-W", "ignore", str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(600)
@pytest.mark.mindspore
@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    if missing():
        pytest.skip(f"{PYTHON} has no {missing()}: install 'effnet-flows[peers]' (make peers)")
    variant, layout, size = MODELS[name]
    run_peer("save", name, str(size), str(tmp_path / "peer"))
    result = import_weights(
        tmp_path / "peer.pth", tmp_path / "own.ckpt", layout=layout if "timm" in layout else None
    )
    assert (result.sidecar.variant, result.layout) == (variant, layout)
    code = tmp_path / "logits.py"
    code.write_text(LOGITS)
    arguments = [str(result.checkpoint), str(tmp_path / "peer.npz"), str(tmp_path / "own.npy")]
    subprocess.run([sys.executable, str(code), *arguments], check=True)
    with np.load(tmp_path / "peer.npz") as answer:
        wanted = answer["logits"]
    difference = np.abs(np.load(tmp_path / "own.npy") - wanted).max() / wanted.std()
    print(f"{name}: {difference:.1e} of the spread at {size} px")
    assert difference <= TOLERANCE

    converted = convert(
        open_checkpoint(result.checkpoint), tmp_path / "back.safetensors", to=layout
    )
    assert converted.differences == ()
    run_peer("load", name, str(size), str(tmp_path / "back"))
    with np.load(tmp_path / "back.npz") as answer:
        assert np.array_equal(answer["logits"], wanted)
