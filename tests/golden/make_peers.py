"""The peers' side: logits of torchvision's, timm's and lukemelas' networks with drawn weights.

Run with a Python that has torch, torchvision, timm and efficientnet-lite-pytorch (extra ``peers``);
this project need not be installed there. One of:

    python tests/golden/make_peers.py golden                  rewrite tests/golden/peers
    python tests/golden/make_peers.py save NAME SIZE FILE     FILE.pth and FILE.npz (input, logits)
    python tests/golden/make_peers.py load NAME SIZE FILE     load FILE.safetensors strictly, print logits
    python tests/golden/make_peers.py hub ADDRESS SIZE FILE   timm.create_model(ADDRESS): FILE.npz
"""

from __future__ import annotations

import importlib
import json
import sys
import types
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import recipe

HERE = Path(__file__).parent / "peers"

# Name: publisher, model, side of the golden input (own size but for the largest)
MODELS = {
    **{
        f"torchvision_b{n}": ("torchvision", f"efficientnet_b{n}", size)
        for n, size in enumerate((224, 240, 260, 300, 380, 160, 160, 160))
    },
    "torchvision_v2_s": ("torchvision", "efficientnet_v2_s", 384),
    "timm_b0": ("timm", "efficientnet_b0", 224),
    "timm_tf_b0": ("timm", "tf_efficientnet_b0", 224),
    "timm_tf_b4": ("timm", "tf_efficientnet_b4", 380),
    "timm_tf_lite0": ("timm", "tf_efficientnet_lite0", 224),
    "timm_tf_lite4": ("timm", "tf_efficientnet_lite4", 160),
    "timm_tf_v2_s": ("timm", "tf_efficientnetv2_s", 160),
    "lukemelas_lite0": ("lukemelas", "efficientnet-lite0", 224),
}

# The rest of the family at its own sizes, for the comparison without fixtures (tests/peers).
B_SIZES = dict(enumerate((224, 240, 260, 300, 380, 456, 528, 600)))
LITE_SIZES = dict(enumerate((224, 240, 260, 280, 300)))
V2_SIZES = {"s": 384, "m": 480, "l": 480}
ALL = {
    **{
        f"{prefix}_{short}{n}": (publisher, f"{tf}efficientnet_{short}{n}", size)
        for prefix, publisher, tf in (("timm", "timm", ""), ("timm_tf", "timm", "tf_"))
        for short, sizes in (("b", B_SIZES), ("lite", LITE_SIZES))
        for n, size in sizes.items()
    },
    **{
        f"{prefix}_v2_{n}": (publisher, model.format(n), size)
        for prefix, publisher, model in (
            ("torchvision", "torchvision", "efficientnet_v2_{}"),
            ("timm", "timm", "efficientnetv2_{}"),
            ("timm_tf", "timm", "tf_efficientnetv2_{}"),
        )
        for n, size in V2_SIZES.items()
    },
    **{f"lukemelas_b{n}": ("lukemelas", f"efficientnet-b{n}", s) for n, s in B_SIZES.items()},
    **{
        f"lukemelas_lite{n}": ("lukemelas", f"efficientnet-lite{n}", s)
        for n, s in LITE_SIZES.items()
    },
    **MODELS,
}


def build(name: str) -> torch.nn.Module:
    """A peer's network in evaluation."""
    publisher, model, _ = ALL[name]
    if publisher == "torchvision":
        # Its compiled operators (boxes) are missing in some builds, and no classifier needs them.
        sys.modules.setdefault(
            "torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations")
        )
        network = getattr(importlib.import_module("torchvision.models"), model)()
    elif publisher == "timm":
        network = importlib.import_module("timm").create_model(model)
    else:
        lite = "efficientnet_lite_pytorch" if "lite" in model else "efficientnet_pytorch"
        network = importlib.import_module(lite).EfficientNet.from_name(model)
    return network.eval()


def filled(name: str) -> torch.nn.Module:
    """With the recipe's parameters, logits with a spread of 1 on the golden image."""
    network = build(name)
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    state = {key: torch.from_numpy(value) for key, value in recipe.draw_all(shapes).items()}
    network.load_state_dict(state, strict=True)
    return network


def logits(network: torch.nn.Module, size: int) -> np.ndarray:
    with torch.no_grad():
        return network(torch.from_numpy(recipe.images(1, size))).numpy()


def golden() -> None:
    HERE.mkdir(exist_ok=True)
    for name, (_, model, size) in MODELS.items():
        network = filled(name)
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        values = logits(network, size)
        np.savez_compressed(
            HERE / f"{name}.npz", logits=values, size=size, model=model, names=recipe.digest(shapes)
        )
        print(f"{name}: {size} px, spread {values.std():.3f}")
    containers()


def containers() -> None:
    """Small files of every container and type, and what is in them."""
    shared = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = {
        "float": shared,
        "transposed": shared.t(),
        "part": shared[1:, ::2],
        "half": torch.tensor([1.5, -2.0], dtype=torch.float16),
        "bfloat": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "double": torch.tensor([[0.1]], dtype=torch.float64),
        "long": torch.tensor(7),
        "flag": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(torch.ones(2)),
    }
    torch.save(state, HERE / "containers_zip.pth")
    torch.save(state, HERE / "containers_legacy.pth", _use_new_zipfile_serialization=False)
    wrapped = {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 3}
    torch.save(wrapped, HERE / "containers_wrapped.pth")
    torch.save(torch.nn.Linear(2, 2), HERE / "containers_object.pth")
    expected = {key: value.detach().float().numpy() for key, value in state.items()}
    np.savez_compressed(HERE / "containers.npz", **expected)


def save(name: str, size: str, file: str) -> None:
    network = filled(name)
    legacy = ALL[name][0] == "lukemelas"
    torch.save(network.state_dict(), f"{file}.pth", _use_new_zipfile_serialization=not legacy)
    np.savez(f"{file}.npz", images=recipe.images(1, int(size)), logits=logits(network, int(size)))


def load(name: str, size: str, file: str) -> None:
    from safetensors.torch import load_file

    network = build(name)
    network.load_state_dict(load_file(f"{file}.safetensors"), strict=True)
    np.savez(f"{file}.npz", logits=logits(network, int(size)))


def hub(address: str, size: str, file: str) -> None:
    """What timm makes of a repository of the hub (``HF_ENDPOINT``), and how it prepares images."""
    import timm

    network = timm.create_model(address, pretrained=True).eval()
    images = recipe.images(1, int(size))
    config = timm.data.resolve_model_data_config(network)
    with torch.no_grad():
        values = network(torch.from_numpy(images)).numpy()
    facts = {key: config[key] for key in ("input_size", "crop_pct", "interpolation", "mean", "std")}
    np.savez(f"{file}.npz", images=images, logits=values, config=json.dumps(facts))


if __name__ == "__main__":
    {"golden": golden, "save": save, "load": load, "hub": hub}[sys.argv[1]](*sys.argv[2:])
