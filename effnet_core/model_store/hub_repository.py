"""``effnet publish --to hf-hub:OWNER/NAME``: a model as a repository of the Hugging Face hub.

It holds ``model.safetensors`` with timm's names and ``config.json``, so that ``timm.create_model`` loads it,
``model.onnx``, and the model card as ``README.md`` with its curves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from effnet_core.data import imagenet
from effnet_core.errors import CheckpointError
from effnet_core.events import Event, emit
from effnet_core.family.scaling import expand
from effnet_core.family.variants import Variant
from effnet_core.family.variants import variant as variant_row
from effnet_core.model_store.card import CARD_NAME, describe
from effnet_core.results import EvalResult
from effnet_core.system.files import write_json, write_text
from effnet_core.weights.checkpoint import Checkpoint, Sidecar
from effnet_core.weights.hub import HubAddress, hub_errors, library, settings
from effnet_core.weights.importing import convert
from effnet_core.weights.layouts import family
from effnet_core.weights.publisher import CONFIG_NAME

TOPIC = "publish"
ONNX_NAME = "model.onnx"
WEIGHTS_NAME = "model.safetensors"


def publish_to_hub(
    checkpoint: Checkpoint,
    address: HubAddress,
    work_dir: Path,
    *,
    evaluation: EvalResult,
    metrics: list[dict[str, Any]],
    export_onnx: Callable[[Path], object],
    version: str,
    private: bool = False,
) -> str:
    """Write a model into a repository of the hub, in one commit; the repository is created if need be.

    Args:
        checkpoint: the model.
        address: of the repository; a revision is the branch that is written to.
        work_dir: an empty folder for the files.
        evaluation: of this very checkpoint.
        metrics: rows of ``metrics.jsonl``, for the curves.
        export_onnx: writes and compares the ONNX file.
        version: what the commit and the card call it.
        private: create the repository so that only its owner sees it.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: the evaluation is of another checkpoint, or the hub refuses.
        ConfigError: ``huggingface_hub`` is not installed.
        DownloadFailed: the hub cannot be reached.
    """
    hub = library()
    if evaluation.checkpoint_sha256 != checkpoint.sha256:
        raise CheckpointError(
            f"the evaluation is of checkpoint {evaluation.checkpoint_sha256[:12] or 'unknown'}, not of "
            f"{checkpoint.path} ({checkpoint.sha256[:12]}); evaluate it, then publish it"
        )
    sidecar = checkpoint.sidecar
    convert(checkpoint, work_dir / WEIGHTS_NAME, to="timm")
    export_onnx(work_dir / ONNX_NAME)
    write_json(work_dir / CONFIG_NAME, timm_config(sidecar))
    files = describe(address.repository, version, sidecar, evaluation, metrics)
    card = files.pop(CARD_NAME).decode()
    write_text(work_dir / "README.md", _readme(card, address, sidecar, evaluation))
    for name, content in files.items():
        (work_dir / name).write_bytes(content)
    emit(Event(TOPIC, f"uploading {len(list(work_dir.iterdir()))} files to {address}"))
    hub.utils.disable_progress_bars()
    api = hub.HfApi(endpoint=settings()["endpoint"])
    with hub_errors(str(address)):
        api.create_repo(address.repository, private=private, exist_ok=True)
        commit = api.create_commit(
            address.repository,
            [hub.CommitOperationAdd(path.name, path) for path in sorted(work_dir.iterdir())],
            revision=address.revision,
            commit_message=f"Version {version}",
        )
    return str(commit.commit_url)


def architecture(row: Variant) -> str:
    """What timm calls a variant's network."""
    return (
        row.name.replace("efficientnet_v2_", "efficientnetv2_") if family(row) == "v2" else row.name
    )


def timm_config(sidecar: Sidecar) -> dict[str, Any]:
    """``config.json`` by which ``timm.create_model`` builds the network and its preprocessing."""
    row, spec = variant_row(sidecar.variant), sidecar.preprocess
    arguments: dict[str, Any] = {"bn_eps": sidecar.bn_eps}
    if sidecar.padding == "same":
        arguments["pad_type"] = "same"
    names = list(sidecar.class_names)
    readable = imagenet.readable(names)
    return {
        "architecture": architecture(row),
        "num_classes": sidecar.num_classes,
        "num_features": expand(row).head_channels,
        "label_names": names,
        "label_descriptions": dict(zip(names, readable, strict=True)),
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": "effnet",
            "custom_load": False,
            "input_size": [3, spec.image_size, spec.image_size],
            "fixed_input_size": False,
            "interpolation": spec.interpolation,
            "crop_pct": spec.crop_pct,
            "crop_mode": spec.crop_mode,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": sidecar.num_classes,
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
        "effnet": {"variant": row.name, "background": spec.background},
    }


def _readme(card: str, address: HubAddress, sidecar: Sidecar, evaluation: EvalResult) -> str:
    """The card with the hub's front matter before it and the two ways to load the model after it."""
    metrics = [{"type": "accuracy", "name": "top-1", "value": round(evaluation.top1, 6)}]
    if evaluation.top5 is not None:
        metrics.append({"type": "accuracy", "name": "top-5", "value": round(evaluation.top5, 6)})
    split = {
        "type": "imagefolder",
        "name": sidecar.data_digest[:12] or "unknown",
        "split": evaluation.split,
    }
    result = {"task": {"type": "image-classification"}, "dataset": split, "metrics": metrics}
    front = {
        "library_name": "timm",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "timm", "efficientnet", "mindspore", "onnx"],
        "model-index": [{"name": address.repository.partition("/")[2], "results": [result]}],
    }
    # JSON is YAML, and needs no rules for quoting.
    lines = [f"{key}: {json.dumps(value)}" for key, value in front.items()]
    return "\n".join(
        [
            "---",
            *lines,
            "---",
            "",
            card,
            "```python",
            f'timm.create_model("{address}", pretrained=True)',
            "```",
            "",
            "```shell",
            f"effnet predict photos --weights {address}",
            "```",
            "",
            f"`{ONNX_NAME}` takes uint8 pictures and normalises them itself.",
            "",
        ]
    )
