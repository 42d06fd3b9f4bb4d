"""Logits of the peers themselves (``tests/golden/peers``, made by ``make_peers.py``), reproduced here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mindspore import Tensor

from effnet_core.family.variants import variant
from effnet_core.model.network import create_model
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.containers import write_safetensors
from effnet_core.weights.importing import import_weights
from effnet_core.weights.layouts import LAYOUTS, shapes
from effnet_core.weights.load import load_parameters
from tests.golden import recipe

PEERS = Path(__file__).parent.parent / "golden" / "peers"
TOLERANCE = 1e-4
"""Largest difference of a logit, in units of the logits' spread."""

MODELS = {
    **{f"torchvision_b{n}": (f"efficientnet_b{n}", "torchvision") for n in range(8)},
    "torchvision_v2_s": ("efficientnet_v2_s", "torchvision"),
    "timm_b0": ("efficientnet_b0", "timm"),
    "timm_tf_b0": ("efficientnet_b0", "timm-tf"),
    "timm_tf_b4": ("efficientnet_b4", "timm-tf"),
    "timm_tf_lite0": ("efficientnet_lite0", "timm-tf"),
    "timm_tf_lite4": ("efficientnet_lite4", "timm-tf"),
    "timm_tf_v2_s": ("efficientnet_v2_s", "timm-tf"),
    "lukemelas_lite0": ("efficientnet_lite0", "lukemelas"),
}

QUICK = ("torchvision_b0", "torchvision_b1", "timm_tf_b0", "timm_tf_lite0", "lukemelas_lite0")
"""What the ordinary run compares; the others take minutes together (make test-all)."""

CASES = [
    name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in sorted(MODELS)
]


def foreign_shapes(name: str, layout: str) -> dict[str, tuple[int, ...]]:
    """Every name and shape that the publisher's own file has."""
    names = LAYOUTS[layout].names(variant(name))
    found = {names[own]: shape for own, shape in shapes(variant(name), num_classes=1000).items()}
    norms = [key.removesuffix(".running_var") for key in found if key.endswith(".running_var")]
    return {**found, **{f"{norm}.num_batches_tracked": () for norm in norms}}


def logits(path: Path, size: int, **changes: Any) -> np.ndarray[Any, Any]:
    checkpoint = checkpoints.open_checkpoint(path)
    sidecar = checkpoint.sidecar
    settings = {"bn_eps": sidecar.bn_eps, "padding": sidecar.padding, **changes}
    network = create_model(sidecar.variant, num_classes=sidecar.num_classes, **settings)
    load_parameters(checkpoint, network.get_parameters())
    network.set_train(False)
    return network(Tensor(recipe.images(1, size))).asnumpy()


def imported(name: str, layout: str, folder: Path) -> Path:
    """Drawn weights in the publisher's form, imported."""
    file = folder / f"{'tf_' if layout == 'timm-tf' else ''}{name}.safetensors"
    write_safetensors(file, recipe.draw_all(foreign_shapes(name, layout)))
    result = import_weights(file, folder / "own.ckpt")
    assert (result.sidecar.variant, result.layout) == (name, layout)
    return result.checkpoint


def test_every_fixture_is_tested() -> None:
    made = {path.stem for path in PEERS.glob("*.npz")} - {"containers"}
    assert made == set(MODELS)


@pytest.mark.parametrize("fixture", CASES)
def test_the_same_weights_give_the_peers_logits(fixture: str, tmp_path: Path) -> None:
    name, layout = MODELS[fixture]
    with np.load(PEERS / f"{fixture}.npz") as golden:
        wanted, size, names = golden["logits"], int(golden["size"]), str(golden["names"])
    assert recipe.digest(foreign_shapes(name, layout)) == names
    found = logits(imported(name, layout, tmp_path), size)
    difference = np.abs(found - wanted).max() / wanted.std()
    print(f"{fixture}: {difference:.1e} of the spread at {size} px")
    assert difference <= TOLERANCE


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported("efficientnet_lite0", "timm-tf", tmp_path_factory.mktemp("lite0"))


@pytest.mark.parametrize("change", [{"padding": "symmetric"}, {"bn_eps": 1e-5}])
def test_what_travels_with_a_layout_matters(change: dict[str, Any], lite0: Path) -> None:
    """The comparison would notice another padding (at even sides) or eps."""
    with np.load(PEERS / "timm_tf_lite0.npz") as golden:
        wanted, size = golden["logits"], int(golden["size"])
    assert size % 2 == 0
    assert np.abs(logits(lite0, size, **change) - wanted).max() / wanted.std() > 10 * TOLERANCE
