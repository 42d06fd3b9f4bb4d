"""The gate compares pair by pair where it is given how; card and pointer say how that ended."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from effnet_core.config.schema import EvaluateConfig, StorageConfig
from effnet_core.errors import DataError, GateRefused, JobTimeout, StoreBusy, StoreDamaged
from effnet_core.model_store.production import Compare, promote
from effnet_core.model_store.publication import PublishedVersion, publish_model
from effnet_core.model_store.registry import VersionManifest
from effnet_core.results.paired import ClassChange, Paired, compare_counts
from tests.unit.model_store.test_publication import make_run, put


@pytest.fixture
def storage(tmp_path: Path) -> StorageConfig:
    return StorageConfig(root=str(tmp_path / "store"), name="animals")


class Rival:
    """Says of every production that the challenger won and lost so many images of 200."""

    def __init__(self, won: int, lost: int, *, error: Exception | None = None) -> None:
        found = compare_counts(150, lost, won, 50 - lost - won)
        classes = [ClassChange("fox|y", 40, 30, 20), ClassChange("gnu", 40, 10, 40)]
        self.found = Paired(**{**vars(found), "champion": "first", "classes": classes})
        self.error = error
        self.asked: list[str] = []

    def __call__(self, production: VersionManifest) -> Paired:
        self.asked.append(production.version)
        if self.error:
            raise self.error
        return self.found


def publish(
    tmp_path: Path, storage: StorageConfig, version: str, compare: Compare, **gate: object
) -> PublishedVersion:
    """A version that was measured on other data than production."""
    run_dir = tmp_path / f"run-{version}"
    evaluation = make_run(run_dir, version, correct=30, split="test")
    return publish_model(
        run_dir,
        evaluation=evaluation,
        storage=storage,
        gate=EvaluateConfig(**gate),
        version=version,
        compare=compare,
    )


def test_pairs_decide_where_the_data_differ(tmp_path: Path, storage: StorageConfig) -> None:
    put(tmp_path, storage, "first", correct=95)
    worse = publish(tmp_path, storage, "worse", Rival(2, 5))
    assert not worse.promoted
    assert (
        "its top-1 0.76 on 200 images of 'test' is more than evaluate.promote_margin=0 below"
        in (worse.reason)
    )
    assert "0.775 of production version 'first' on the same images: -1.50% (95 %" in worse.reason
    better = publish(tmp_path, storage, "better", rival := Rival(9, 2))
    assert better.promoted and set(rival.asked) == {"first"}
    assert "+3.50% (95 % interval" in better.gate and "McNemar's exact p = 0.0654" in better.gate
    pointer = json.loads((Path(storage.root) / "animals" / "production.json").read_text())
    assert pointer["reason"] == better.gate
    assert Paired.from_dict(pointer["comparison"]) == rival.found
    card = (Path(better.uri) / "MODEL_CARD.md").read_text()
    assert "On the same 200 images, first has top-1 76.00% and this version 79.50%: +3.50%" in card
    assert "| fox\\|y | 40 | 75.0% | 50.0% | -25.0% |" in card
    assert "| probabilities | not checked |" in card


@pytest.mark.parametrize(
    ("gate", "passes"),
    [
        ({"promote_if": "not_worse"}, True),
        ({"promote_if": "better"}, True),
        ({"promote_if": "significantly_better"}, False),
        ({"promote_if": "better", "promote_margin": 0.05}, False),
        ({"min_top1": 0.5}, False),
    ],
)
def test_what_is_asked_is_a_setting(
    tmp_path: Path, storage: StorageConfig, gate: dict[str, object], passes: bool
) -> None:
    put(tmp_path, storage, "first")
    found = publish(tmp_path, storage, "next", Rival(9, 2), **gate)
    assert found.promoted is passes
    if not passes:
        assert f"evaluate.{next(iter(gate))}" in found.reason


def test_significance_needs_pairs(tmp_path: Path, storage: StorageConfig) -> None:
    put(tmp_path, storage, "first", correct=10)
    gate = EvaluateConfig(promote_if="significantly_better")
    found = put(tmp_path, storage, "next", correct=99, gate=gate)
    assert not found.promoted
    assert "only a comparison on the same images can say" in found.reason


def test_production_that_cannot_be_measured_is_an_error_and_never_an_open_gate(
    tmp_path: Path, storage: StorageConfig
) -> None:
    put(tmp_path, storage, "first", correct=10)
    errors = StoreBusy("the store is busy"), JobTimeout("too slow"), DataError("no such folder")
    for number, error in enumerate(errors):
        with pytest.raises(type(error), match=str(error)):
            publish(tmp_path, storage, f"v{number}", Rival(9, 2, error=error))
    closed = publish(tmp_path, storage, "next", Rival(9, 2, error=StoreDamaged("it is gone")))
    assert not closed.promoted
    assert "nothing to compare it with: it is gone. To promote it all the same" in closed.reason
    with pytest.raises(GateRefused):
        promote(storage, "next", EvaluateConfig(), compare=Rival(2, 9))
    pointer = promote(storage, "next", EvaluateConfig(), compare=Rival(9, 2))
    assert pointer["version"] == "next"
    assert pointer["comparison"]["won"] == 9


def test_the_first_version_is_compared_with_nothing(tmp_path: Path, storage: StorageConfig) -> None:
    rival = Rival(0, 9)
    assert publish(tmp_path, storage, "first", rival).promoted
    assert rival.asked == []
