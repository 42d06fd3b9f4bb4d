"""Names and tags of flow runs that say what they do, however long the paths are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from effnet_core.config.load import CONFIG_NAME
from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import DATASET_NAME
from effnet_core.errors import DataError, EffnetError
from effnet_core.family.variants import VARIANTS
from effnet_core.system.files import read_json
from effnet_core.weights.checkpoint import MODEL_NAME, sidecar_path
from effnet_core.weights.web import redacted
from flows.parameters import NO_WEIGHTS, form_values
from flows.service.environments import flow_config

PREFIX = "efficientnet_"
UNTELLING = ("data", "staged", "dataset", "images", "labelled", "train", "run")
"""Names of folders that say nothing; the folder above says more."""


def named(prefix: str, parameter: str) -> Callable[[], str]:
    """A ``flow_run_name`` such as ``stage-pets``: the prefix and what a parameter's path is called."""

    def name() -> str:
        return f"{prefix}-{last_name(flow_run.get_parameters().get(parameter))}"

    return name


def training_name(prefix: str) -> Callable[[], str]:
    """A ``flow_run_name`` such as ``train-b0-digits-e20``: variant, data and epochs."""

    def name() -> str:
        given = flow_run.get_parameters()
        recipe = str(given.get("recipe", ""))
        try:
            config = flow_config(recipe, given.get("overrides"), form=training_values(given))
        except EffnetError:  # the run itself says what is wrong
            return f"{prefix}-{last_name(recipe)}"
        source = given.get("source")  # of a pipeline, whose data need not be there yet
        data = last_name(source) if source else data_name(given.get("data"))
        return f"{prefix}-{short_variant(config)}-{data}-{_length(config)}"

    return name


def staging_name() -> str:
    """A ``flow_run_name`` such as ``stage-digits``: what is staged, or else where to."""
    given = flow_run.get_parameters()
    source, out = given.get("source"), given.get("out")
    return f"stage-{last_name(source if is_telling(source) else out)}"


def evaluation_name() -> str:
    """A ``flow_run_name`` such as ``evaluate-lite0-digits-val``: variant, data and split."""
    given = flow_run.get_parameters()
    weights = weights_name(given.get("weights"))
    return f"evaluate-{weights}-{data_name(given.get('data'))}-{given.get('split', 'val')}"


def publication_name() -> str:
    """A ``flow_run_name`` such as ``publish-lite0-as-digits``: variant and name in the store."""
    given = flow_run.get_parameters()
    run_dir = Path(str(given.get("run_dir")))
    try:
        config = flow_config(run_dir / CONFIG_NAME, given.get("overrides"))
    except EffnetError:  # the run itself says what is wrong
        return f"publish-{last_name(run_dir)}"
    return f"publish-{short_variant(config)}-as-{config.storage.name}"


def _length(config: RunConfig) -> str:
    """``e20`` for 20 epochs; ``auto`` where they are decided later."""
    decides = config.auto.enabled and "epochs" not in config.train.model_fields_set
    return "auto" if decides else f"e{config.train.epochs}"


TRAINING_FIELDS = {
    "variant": "model.variant",
    "weights": "model.weights",
    "epochs": "train.epochs",
    "global_batch_size": "data.global_batch_size",
    "base_lr": "optim.base_lr",
    "device": "runtime.device",
    "processes": "runtime.world_size",
    "engine": "infer.engine",
    "quality": "auto.quality",
    "minutes": "auto.minutes",
}
"""Fields of a training's and a pipeline's form, and the settings that they are."""


def training_values(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings that the fields of a training's or a pipeline's form hold."""
    values = form_values({key: given.get(field) for field, key in TRAINING_FIELDS.items()})
    if given.get("weights") == NO_WEIGHTS:
        values["model"]["weights"] = None
    return values


def data_name(folder: object) -> str:
    """What a data set is called: by the folder that it was staged from, where that is known."""
    try:
        return last_name(read_json(Path(str(folder)) / DATASET_NAME)["source"])
    except (DataError, OSError, KeyError, TypeError):
        return last_name(folder)


def weights_name(weights: object) -> str:
    """The variant of a checkpoint of ours, else what its file or folder is called."""
    path = Path(str(weights))
    path = path / MODEL_NAME if path.is_dir() else path
    try:
        variant = str(read_json(sidecar_path(path))["variant"])
    except (DataError, OSError, KeyError, TypeError):
        return last_name(redacted(str(weights)).removesuffix("?***"))
    return variant.removeprefix(PREFIX)


def is_telling(path: object) -> bool:
    """Whether some segment of a path says what it holds."""
    return any(part not in UNTELLING for part in _parts(path))


def last_name(path: object) -> str:
    """The last telling segment of a path, without an ending such as ``.yaml``."""
    parts = _parts(path)
    telling = [part for part in parts if part not in UNTELLING] or parts
    return PurePath(telling[-1]).stem if telling else "run"


def _parts(path: object) -> list[str]:
    return [part for part in PurePath(str(path or "")).parts if part not in ("/", ".", "..")]


def short_variant(config: RunConfig) -> str:
    """``b0`` for ``efficientnet_b0``."""
    return config.model.variant.removeprefix(PREFIX)


def tag_run(*tags: str) -> None:
    """Add tags to this flow run, beside those of its deployment; the variant in use replaces another."""
    given = set(flow_run.tags)
    if not VARIANTS.keys().isdisjoint(tags):
        given -= VARIANTS.keys()
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, tags=sorted({*given, *tags}))
