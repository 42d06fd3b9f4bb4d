"""``effnet publish --to`` and ``effnet predict --weights hf-hub:``; a server here is the hub."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from effnet_core.config.load import write_config
from effnet_core.config.schema import RunConfig
from effnet_core.infer.parts import read_parts
from effnet_core.results import EvalResult, TrainResult
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.hub import serve_hub
from tests.support.images import draw, encode
from tests.support.weights import make_checkpoint

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]
pytest.importorskip("huggingface_hub")


def test_a_run_becomes_a_repository_and_labels_from_there(tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    checkpoint = open_checkpoint(make_checkpoint(run_dir / "model.ckpt"))
    names = list(checkpoint.sidecar.class_names)
    evaluation = EvalResult(
        10, 9, 10, 0.5, class_names=names, split="val", checkpoint_sha256=checkpoint.sha256
    )
    result = TrainResult(str(checkpoint.path), checkpoint.sha256, 1, 10, 0, 5.0, evaluation)
    (run_dir / "result.json").write_text(json.dumps(result.to_dict()))
    (run_dir / "job.json").write_text("{}")
    write_config(RunConfig(), run_dir)
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode(draw(50, 40, seed=0)))
    with serve_hub() as hub:
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.address,
            "HF_TOKEN": hub.token,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "EFFNET_CACHE_DIR": str(tmp_path / "cache"),
        }

        def effnet(*arguments: object) -> str:
            command = [sys.executable, "-m", "effnet_core", *map(str, arguments)]
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, cwd=tmp_path
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        said = effnet("publish", run_dir, "--to", "hf-hub:me/model")
        assert f"{hub.address}/me/model/commit/" in said
        assert {"model.onnx", "model.safetensors"} <= set(hub.repositories["me/model"].files)
        for output, weights in (("there", "hf-hub:me/model"), ("here", run_dir)):
            effnet("predict", picture, "--weights", weights, "--output", tmp_path / output)
    [there], [here] = (read_parts(tmp_path / name) for name in ("there", "here"))
    assert there["class_names"] == here["class_names"]
    assert there["probs"] == pytest.approx(here["probs"], abs=1e-6)
