"""Write small files as training scripts save them, for ``tests/unit/weights/test_training_files.py``.

Run by hand with a Python that has torch: ``python -m tests.golden.make_containers``.
"""

from __future__ import annotations

import argparse
from collections import OrderedDict
from pathlib import Path, PosixPath

import numpy as np
import torch

HERE = Path(__file__).parent / "peers"


def main() -> None:
    weights = {"conv.weight": torch.arange(12.0).reshape(3, 4), "norm.bias": torch.ones(3)}
    parameter = torch.nn.Parameter(torch.zeros(3, 4))
    parameter.grad = torch.ones(3, 4)
    optimizer = torch.optim.RMSprop([parameter])
    optimizer.step()
    options = argparse.Namespace(
        lr=0.1,
        betas=None,
        mean=(0.5, 0.5, 0.5),
        output=PosixPath("out"),
        device=torch.device("cpu"),
        seed=2**40,
        score=np.float64(1.5),
        sizes=np.arange(3),
    )

    def named(prefix: str, factor: float = 1) -> OrderedDict[str, torch.Tensor]:
        return OrderedDict((prefix + name, value * factor) for name, value in weights.items())

    timm = {
        "epoch": 3,
        "arch": "efficientnet_b0",
        "state_dict": named("module.", 0),
        "optimizer": optimizer.state_dict(),
        "args": options,
        "amp_scaler": {"scale": 65536.0},
        "state_dict_ema": named("module."),
        "metric": np.float64(71.25),
        "best": np.float32(1),
    }
    lightning = {
        "epoch": 1,
        "state_dict": named("model."),
        "optimizer_states": [optimizer.state_dict()],
        "callbacks": {"ModelCheckpoint": {"best_model_score": torch.tensor(0.5)}},
        "hyper_parameters": {"lr": 0.1},
    }
    torch.save(timm, HERE / "training_timm.pth")
    torch.save(timm, HERE / "training_timm_legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(lightning, HERE / "training_lightning.ckpt")
    torch.save(named("_orig_mod."), HERE / "training_compiled.pth")
    torch.save(
        {name: value.bfloat16() for name, value in weights.items()}, HERE / "training_bf16.pth"
    )


if __name__ == "__main__":
    main()
