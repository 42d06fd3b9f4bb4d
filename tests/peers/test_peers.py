"""Files that the peers saved are imported and give their logits; converted back, they load strictly.

The peers run in a Python of their own: ``EFFNET_PEERS_PYTHON``, by default the one that runs the tests.
It needs the extra ``peers``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from effnet_core.model_store.hub_repository import publish_to_hub
from effnet_core.results import EvalResult
from effnet_core.weights.checkpoint import open_checkpoint
from effnet_core.weights.hub import HubAddress
from effnet_core.weights.importing import convert, import_weights
from tests.support.hub import serve_hub
from tests.unit.weights.test_importing import foreign, write

SCRIPT = Path(__file__).parent.parent / "golden" / "make_peers.py"
PYTHON = os.environ.get("EFFNET_PEERS_PYTHON", sys.executable)
MODULES = ("torch", "torchvision", "timm", "efficientnet_lite_pytorch", "efficientnet_pytorch")
TOLERANCE = 1e-4

B_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)
LITE_SIZES = (224, 240, 260, 280, 300)
V2_SIZES = {"s": 384, "m": 480, "l": 480}
LAYOUTS = {
    "torchvision": "torchvision",
    "timm": "timm",
    "timm_tf": "timm-tf",
    "lukemelas": "lukemelas",
}

# Name in make_peers.py: variant, layout, side: every variant that a peer has, at the variant's own.
MODELS = {
    f"{peer}_{short}": (f"efficientnet_{short}", layout, size)
    for peer, layout in LAYOUTS.items()
    for short, size in (
        *((f"b{n}", size) for n, size in enumerate(B_SIZES)),
        *((f"lite{n}", size) for n, size in enumerate(LITE_SIZES)),
        *((f"v2_{n}", size) for n, size in V2_SIZES.items()),
    )
    if not (peer == "torchvision" and short.startswith("lite"))
    and not (peer == "lukemelas" and short.startswith("v2"))
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
        sidecar.variant, num_classes=sidecar.num_classes, bn_eps=sidecar.bn_eps, padding=sidecar.padding
    )
    load_parameters(opened, network.get_parameters())
    network.set_train(False)
    np.save(out, network(Tensor(np.load(images)["images"])).asnumpy())
main(*sys.argv[1:])
"""


pytestmark = pytest.mark.filterwarnings("ignore:Use .content=:DeprecationWarning")


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


def compare(name: str, checkpoint: Path, peer: Path, size: int) -> np.ndarray:
    """Hold this project's logits to the peer's; the peer's."""
    code, own = peer.with_name("logits.py"), peer.with_name("own.npy")
    code.write_text(LOGITS)
    subprocess.run([sys.executable, str(code), str(checkpoint), str(peer), str(own)], check=True)
    with np.load(peer) as answer:
        wanted: np.ndarray = answer["logits"]
    difference = np.abs(np.load(own) - wanted).max() / wanted.std()
    print(f"{name}: {difference:.1e} of the spread at {size} px", flush=True)
    assert difference <= TOLERANCE
    return wanted


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
    wanted = compare(name, result.checkpoint, tmp_path / "peer.npz", size)

    converted = convert(
        open_checkpoint(result.checkpoint), tmp_path / "back.safetensors", to=layout
    )
    assert converted.differences == ()
    run_peer("load", name, str(size), str(tmp_path / "back"))
    with np.load(tmp_path / "back.npz") as answer:
        assert np.array_equal(answer["logits"], wanted)


@pytest.mark.timeout(600)
@pytest.mark.mindspore
@pytest.mark.parametrize(
    ("variant", "layout"),
    [
        ("efficientnet_b0", "timm"),
        ("efficientnet_lite0", "timm-tf"),
        ("efficientnet_v2_s", "timm-tf"),
    ],
)
def test_timm_loads_what_was_published(
    variant: str, layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``effnet publish --to hf-hub:me/model``, then ``timm.create_model``: same logits, same pictures."""
    if missing():
        pytest.skip(f"{PYTHON} has no {missing()}: install 'effnet-flows[peers]' (make peers)")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "120")  # ten seconds are few on a loaded machine
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    size = 96
    source = write(tmp_path / "x.safetensors", foreign(layout, variant, num_classes=5))
    given = {"image_size": size, "crop_pct": 0.9}
    import_weights(source, tmp_path / "own.ckpt", layout=layout, preprocess=given)
    checkpoint = open_checkpoint(tmp_path / "own.ckpt")
    evaluation = EvalResult(10, 9, 10, 0.5, checkpoint_sha256=checkpoint.sha256)
    (tmp_path / "files").mkdir()
    with serve_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        publish_to_hub(
            checkpoint,
            HubAddress("me/model"),
            tmp_path / "files",
            evaluation=evaluation,
            metrics=[],
            export_onnx=lambda path: path.write_bytes(b"onnx"),
            version="v1",
        )
        run_peer("hub", "hf-hub:me/model", str(size), str(tmp_path / "peer"))
    compare(variant, checkpoint.path, tmp_path / "peer.npz", size)
    with np.load(tmp_path / "peer.npz") as answer:
        config = json.loads(str(answer["config"]))
    spec = checkpoint.sidecar.preprocess
    assert config == {
        "input_size": [3, size, size],
        "crop_pct": spec.crop_pct,
        "interpolation": spec.interpolation,
        "mean": list(spec.mean),
        "std": list(spec.std),
    }
