"""int8 of a real network: refused where it loses too much, and what is kept labels as it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.config.load import load_config
from effnet_core.data.digits import write_digits
from effnet_core.errors import QuantizationRefused
from effnet_core.infer import engines
from effnet_core.infer.parts import read_parts
from effnet_core.system.machine import processor_features
from effnet_core.weights import quantized
from effnet_core.weights.checkpoint import open_checkpoint

SETTINGS = (
    *("model.variant=efficientnet_lite0", "model.weights=efficientnet_lite0"),
    *("train.probe=only", "runtime.world_size=1"),
)


@pytest.mark.slow
@pytest.mark.mindspore
@pytest.mark.skipif(
    not engines.computes_int8("x86_64", processor_features()), reason="no VNNI here"
)
def test_a_classifier_on_imagenets_features(tmp_path: Path) -> None:
    """Digits of 64 px on features that were learned on photographs: 1.7 points less in int8."""
    write_digits(tmp_path / "digits")
    config = load_config("digits", SETTINGS)
    api.stage(tmp_path / "digits" / "labelled", tmp_path / "data")
    trained = api.train(config, tmp_path / "data", tmp_path / "run")
    with pytest.raises(QuantizationRefused, match=r"points less, allowed is 0\.5"):
        api.quantize(tmp_path / "run", config=config)
    found = api.quantize(tmp_path / "run", config=config, max_drop=0.05)
    assert found.images == trained.evaluation.seen
    assert abs(found.fp32_top1 - trained.evaluation.top1) < 0.01
    assert 0.005 < found.drop <= 0.05
    checkpoint = open_checkpoint(tmp_path / "run" / "model.ckpt")
    assert quantized.path_of(checkpoint) is not None

    labels = load_config(None, ["infer.precision=int8"])
    summary = api.infer(
        str(tmp_path / "run"),
        [tmp_path / "digits" / "labelled" / "val"],
        tmp_path / "out",
        config=labels,
    )
    assert summary["engine"]["precision"] == "int8"
    rows = read_parts(tmp_path / "out")
    right = sum(row["class_names"][0] == Path(row["path"]).parent.name for row in rows)
    assert right / len(rows) >= found.top1 - 0.01
