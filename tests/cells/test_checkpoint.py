"""Checkpoints that are whole, and loads that are strict."""

from __future__ import annotations

import errno
import os
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from mindspore import Parameter, Tensor

from effnet_core.config.schema import OptimConfig
from effnet_core.errors import CheckpointError
from effnet_core.model.network import EfficientNet, create_model
from effnet_core.system.files import read_json, write_json
from effnet_core.train.optim import create_optimizer
from effnet_core.weights import checkpoint
from effnet_core.weights.checkpoint import Checkpoint, Sidecar
from effnet_core.weights.load import load_parameters
from tests.support.fakes import SPEC

SIDECAR = Sidecar(
    variant="efficientnet_tiny",
    class_names=("cat", "dög", "owl"),
    preprocess=SPEC,
    bn_momentum=0.9,
    bn_eps=1e-3,
    epoch=2,
    step=6,
    training_state=False,
    data_digest="d",
    metrics={"top1": 0.5},
)


def tiny(seed: int = 0, *, num_classes: int = 3) -> EfficientNet:
    return create_model("efficientnet_tiny", num_classes=num_classes, seed=seed)


def values(parameters: list[Parameter]) -> dict[str, np.ndarray]:
    return {p.name: p.asnumpy().copy() for p in parameters}


def few(**named: float) -> list[Parameter]:
    """Some parameters of two elements, filled with a number."""
    return [
        Parameter(Tensor(np.full(2, value, np.float32)), name=name.replace("__", "."))
        for name, value in named.items()
    ]


def saved(folder: Path, **named: float) -> Path:
    path = folder / "m.ckpt"
    checkpoint.save(path, few(**named), SIDECAR)
    return path


def equal(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name]) for name in first
    )


# --- round trip ----------------------------------------------------------------------------------


def test_a_network_comes_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "model.ckpt"
    network = tiny(1)
    written = checkpoint.save(path, network.get_parameters(), SIDECAR)
    found = checkpoint.open_checkpoint(path).sidecar
    assert found == written
    assert found.sha256
    assert found.size_bytes == path.stat().st_size
    assert set(found.libraries) == {"effnet-flows", "mindspore", "numpy"}
    blank = replace(found, sha256="", size_bytes=0, libraries={})
    assert blank == SIDECAR
    assert found.num_classes == 3
    other = tiny(2)
    load_parameters(checkpoint.open_checkpoint(path), other.get_parameters())
    assert equal(values(network.get_parameters()), values(other.get_parameters()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.ckpt", "model.json"]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("name", ["rmsprop", "sgd"])
def test_optimizer_state_comes_back_and_weights_load_without_it(tmp_path: Path, name: str) -> None:
    def parts(seed: int) -> tuple[EfficientNet, list[Parameter]]:
        network = tiny(seed)
        optimizer = create_optimizer(network.trainable_params(), OptimConfig(name=name))
        found = {p.name: p for p in (*network.get_parameters(), *optimizer.get_parameters())}
        return network, list(found.values())

    network, everything = parts(1)
    for parameter in everything:
        if parameter.name.startswith(("mean_square.", "moment")):
            parameter.set_data(Tensor(np.full(parameter.shape, 0.25, np.float32)))
    checkpoint.save(tmp_path / "s.ckpt", everything, SIDECAR)
    _, other = parts(2)
    load_parameters(checkpoint.open_checkpoint(tmp_path / "s.ckpt"), other)
    assert equal(values(everything), values(other))
    weights = tiny(3)
    load_parameters(checkpoint.open_checkpoint(tmp_path / "s.ckpt"), weights.get_parameters())
    assert equal(values(network.get_parameters()), values(weights.get_parameters()))


def test_saving_again_replaces(tmp_path: Path) -> None:
    saved(tmp_path, a=1)
    path = saved(tmp_path, a=2)
    target = few(a=0)
    checkpoint.open_checkpoint(path)
    load_parameters(checkpoint.open_checkpoint(path), target)
    assert values(target)["a"].tolist() == [2, 2]


# --- strict loads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "wanted", "message"),
    [
        ({"a": 1}, {"a": 0, "b": 0}, "1 parameters missing (b), 0 parameters left over"),
        ({"a": 1, "c": 1}, {"a": 0}, "0 parameters missing, 1 parameters left over (c)"),
        # MindSpore's own loader fills "a.weight" from "bogus.a.weight".
        ({"bogus__a__weight": 1}, {"a__weight": 0}, "1 parameters missing (a.weight)"),
        ({"a__weight": 1}, {"net__a__weight": 0}, "1 parameters missing (net.a.weight)"),
        ({"a": 1, "moments__a": 1}, {"a": 0, "mean_square__a": 0}, "missing (mean_square.a)"),
    ],
)
def test_names_must_fit_exactly(
    tmp_path: Path, stored: dict[str, float], wanted: dict[str, float], message: str
) -> None:
    path = saved(tmp_path, **stored)
    target = few(**wanted)
    with pytest.raises(CheckpointError) as caught:
        load_parameters(checkpoint.open_checkpoint(path), target)
    assert "is of another model" in str(caught.value)
    assert message in str(caught.value)
    assert all((value == 0).all() for value in values(target).values())


def test_another_number_of_classes_is_another_model(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    checkpoint.save(path, tiny(num_classes=3).get_parameters(), SIDECAR)
    network = tiny(num_classes=4)
    before = values(network.get_parameters())
    with pytest.raises(CheckpointError, match=r"classifier.weight has shape \(3, 32\)"):
        load_parameters(checkpoint.open_checkpoint(path), network.get_parameters())
    assert equal(before, values(network.get_parameters()))


# --- damage --------------------------------------------------------------------------------------


def test_a_missing_checkpoint_or_sidecar(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoint.open_checkpoint(tmp_path / "m.ckpt")
    path = saved(tmp_path, a=1)
    checkpoint.sidecar_path(path).unlink()
    with pytest.raises(CheckpointError, match=r"has no sidecar m\.json beside it"):
        checkpoint.open_checkpoint(path)


def test_a_truncated_checkpoint(tmp_path: Path) -> None:
    path = saved(tmp_path, a=1)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"is damaged: \d+ bytes where its sidecar says \d+"):
        checkpoint.open_checkpoint(path)


def test_a_flipped_bit(tmp_path: Path) -> None:
    """MindSpore itself loads such a file without a word."""
    path = saved(tmp_path, a=1)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="its SHA-256 is not the one in its sidecar"):
        checkpoint.open_checkpoint(path)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"variant": "x"}'])
def test_a_damaged_sidecar(tmp_path: Path, text: str) -> None:
    path = saved(tmp_path, a=1)
    checkpoint.sidecar_path(path).write_text(text)
    with pytest.raises(CheckpointError, match="is damaged or of another version"):
        checkpoint.open_checkpoint(path)


def test_a_file_that_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "m.ckpt"
    path.write_bytes(b"hello")
    with pytest.raises(CheckpointError, match="cannot be read; it is damaged"):
        load_parameters(Checkpoint(path, SIDECAR), few(a=0))


def test_another_process_s_checkpoint_is_the_same_one_or_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, a=1)
    first = checkpoint.open_checkpoint(path)
    assert checkpoint.open_checkpoint(path, sha256=first.sha256) == first
    assert checkpoint.opened_before(path, first.sha256) == first
    saved(tmp_path, a=2)
    with pytest.raises(CheckpointError, match="was replaced while it was in use"):
        checkpoint.open_checkpoint(path, sha256=first.sha256)
    with pytest.raises(CheckpointError, match="was replaced while it was in use"):
        checkpoint.opened_before(path, first.sha256)


# --- full disks ----------------------------------------------------------------------------------


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, a=1)

    def half(target: Path, _: object) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_ckpt", half)
        with pytest.raises(CheckpointError) as caught:
            saved(tmp_path, a=2)
    message = str(caught.value)
    assert message.startswith(
        f"checkpoint {path} cannot be written (no space left on device); it needs 8 bytes and "
    )
    assert message.endswith(" are free, and earlier checkpoints are untouched")
    checkpoint.open_checkpoint(path)
    target = few(a=0)
    load_parameters(checkpoint.open_checkpoint(path), target)
    assert values(target)["a"].tolist() == [1, 1]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.ckpt", "m.json"]


def test_a_disk_that_is_really_full_leaves_nothing_behind(tmp_path: Path) -> None:
    """The limit on the size of files stands in for the disk's: MindSpore's own writer meets it."""
    path = saved(tmp_path, a=1)
    big = [Parameter(Tensor(np.ones(500_000, np.float32)), name="a")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        with pytest.raises(CheckpointError, match=r"cannot be written \(.*\); it needs 2,000,000"):
            checkpoint.save(path, big, SIDECAR)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    checkpoint.open_checkpoint(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.ckpt", "m.json"]


def test_a_sidecar_that_cannot_be_written_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, a=1)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint, "write_json", fail)
    with pytest.raises(CheckpointError, match="no space left on device"):
        saved(tmp_path, a=2)
    checkpoint.open_checkpoint(path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.ckpt", "m.json"]


# --- the folder of a run -------------------------------------------------------------------------


def steps(folder: Path, *numbers: int) -> None:
    for number in numbers:
        checkpoint.save(checkpoint.step_path(folder, number), few(a=number), SIDECAR)


def test_prune_keeps_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    steps(folder, 9, 10, 100, 2)
    checkpoint.prune(folder, 2)
    assert sorted(p.name for p in folder.iterdir()) == [
        "step-00000010.ckpt",
        "step-00000010.json",
        "step-00000100.ckpt",
        "step-00000100.json",
    ]


def newest_path(folder: Path) -> Path:
    found = checkpoint.newest(folder)
    assert found is not None
    return found.path


def test_newest_passes_over_what_is_damaged(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert checkpoint.newest(folder) is None
    steps(folder, 9, 10, 11, 12)
    assert newest_path(folder) == checkpoint.step_path(folder, 12)
    checkpoint.sidecar_path(checkpoint.step_path(folder, 12)).unlink()
    path = checkpoint.step_path(folder, 11)
    path.write_bytes(path.read_bytes()[:-1])
    side = checkpoint.sidecar_path(checkpoint.step_path(folder, 10))
    write_json(side, {**read_json(side), "sha256": "0" * 64})
    assert newest_path(folder) == checkpoint.step_path(folder, 9)
    checkpoint.step_path(folder, 9).unlink()
    assert checkpoint.newest(folder) is None


def test_weights_may_be_named_by_their_run_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no finished model"):
        checkpoint.find(tmp_path)
    checkpoint.save(tmp_path / checkpoint.MODEL_NAME, few(a=1), SIDECAR)
    assert checkpoint.find(tmp_path) == tmp_path / checkpoint.MODEL_NAME
    assert checkpoint.find(tmp_path / "x.ckpt") == tmp_path / "x.ckpt"
