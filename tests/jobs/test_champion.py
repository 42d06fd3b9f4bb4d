"""Publication measures production on the challenger's images, with real models in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.config.load import write_config
from effnet_core.data.manifest import open_dataset
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import GateRefused
from effnet_core.events import Event
from effnet_core.model_store.production import promote as move_pointer
from effnet_core.quality.champion import CACHE_NAME, measured_answers
from effnet_core.quality.gate import promote, publish
from effnet_core.results import TrainResult
from effnet_core.results.answers import ANSWERS_NAME, Answers
from effnet_core.storage.cache import cache_dir
from effnet_core.weights.checkpoint import open_checkpoint
from tests.support.images import class_folders
from tests.support.tiny import tiny_config
from tests.support.weights import make_checkpoint

pytestmark = pytest.mark.mindspore


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set that is not the one of the first run: it has other images and one class more."""
    folder = tmp_path_factory.mktemp("grown")
    class_folders(folder / "source", {"cat": 9, "dog": 9, "elk": 4, "owl": 9}, width=40, height=32)
    stage_dataset(folder / "source", folder / "data", val_share=0.5)
    return folder / "data"


@pytest.fixture(scope="module")
def second_run(grown: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of drawn weights on that data, with its evaluation."""
    run_dir = tmp_path_factory.mktemp("second") / "run"
    run_dir.mkdir()
    names = open_dataset(grown).class_names
    model = make_checkpoint(run_dir / "model.ckpt", class_names=names, image_size=32)
    write_config(tiny_config(), run_dir)
    api.evaluate(model, grown, config=tiny_config(), work_dir=run_dir / "measured")
    return run_dir


def test_production_is_measured_on_the_challengers_images(
    one_rank: tuple[Path, TrainResult],
    second_run: Path,
    grown: Path,
    tmp_path: Path,
    events: list[Event],
) -> None:
    run_dir, trained = one_rank
    own = Answers.read(run_dir / ANSWERS_NAME)
    assert own.right.sum() == trained.evaluation.correct1
    assert own.origin.checkpoint_sha256 == trained.sha256

    config = tiny_config(f"storage.root={tmp_path / 'store'}", "storage.name=animals")
    first = publish(run_dir, config=config, version="first")
    assert first.promoted

    measured = second_run / "measured"
    shown = {"config": config, "evaluation": measured, "version": "second"}
    # What the images cannot be found for is published, and the gate stays closed.
    lost = publish(second_run, **shown)
    assert not lost.promoted and "was measured on other data" in lost.reason

    second = publish(second_run, **shown, data_dir=grown)
    challenger = Answers.read(measured / ANSWERS_NAME)
    champion = measured_answers(
        open_checkpoint(run_dir / "model.ckpt"),
        open_dataset(grown),
        "val",
        config=config,
        cache=cache_dir(CACHE_NAME),
    )
    assert champion.origin.split == challenger.origin.split == "val"
    names = open_dataset(grown).class_names
    elks = open_dataset(grown).split("val").labels == names.index("elk")
    assert (champion.true[elks] == -1).all() and not champion.right[elks].any()
    words = f"{(challenger.right & ~champion.right).sum()} images won and "
    words += f"{(champion.right & ~challenger.right).sum()} lost of {len(champion)}"
    assert words in (second.gate or second.reason)
    assert second.promoted == (challenger.right.sum() >= champion.right.sum())
    count = sum("comparing with production" in event.message for event in events)
    assert count >= 1

    # The measurement is kept by digest: the same question starts no process.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("effnet_core.quality.champion.run_job", None)
        again = publish(second_run, **shown, data_dir=grown)
    assert (again.gate, again.reason) == (second.gate, second.reason)


def test_the_gate_by_hand_takes_the_images_too(
    one_rank: tuple[Path, TrainResult], second_run: Path, grown: Path, tmp_path: Path
) -> None:
    run_dir, _ = one_rank
    config = tiny_config(f"storage.root={tmp_path / 'store'}", "storage.name=animals")
    publish(run_dir, config=config, version="first")
    publish(
        second_run,
        config=config,
        evaluation=second_run / "measured",
        version="second",
        promote=False,
    )
    with pytest.raises(GateRefused, match="was measured on other data"):
        move_pointer(config.storage, "second", config.evaluate)
    lenient = config.model_copy(
        update={"evaluate": config.evaluate.model_copy(update={"promote_margin": 1.0})}
    )
    pointer = promote("second", config=lenient, data_dir=grown)
    assert pointer["version"] == "second"
    assert pointer["comparison"]["champion"] == "first"
    assert pointer["comparison"]["images"] == len(open_dataset(grown).split("val"))
