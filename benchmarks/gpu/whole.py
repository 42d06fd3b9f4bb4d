"""Measurements of whole commands: training, resumption, sinking, labelling, several GPUs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any


def _tell(**facts: Any) -> None:
    from benchmarks.gpu.child import tell

    tell(**facts)


def _settings(options: dict[str, Any], *more: str) -> list[str]:
    return [
        f"runtime.device={options['device']}",
        "runtime.world_size=1",
        f"model.variant={options['whole_variant']}",
        "model.weights=null",
        f"data.image_size={options['side']}",
        f"data.global_batch_size={options['whole_batch']}",
        "schedule.warmup_epochs=0.5",
        "optim.base_lr=0.05",
        "train.epochs=2",
        "train.log_every_steps=1",
        *more,
    ]


def data_set(options: dict[str, Any]) -> Path:
    """The demo's digits, staged; the same for every part."""
    from effnet_core.data.digits import write_digits
    from effnet_core.data.staging import stage_dataset
    from effnet_core.system.locks import alone

    folder = Path(options["folder"])
    with alone(folder / "data"):
        if not (folder / "data").exists():
            write_digits(folder / "digits")
            stage_dataset(folder / "digits/labelled", folder / "data")
    return folder / "data"


def photographs(options: dict[str, Any]) -> list[Path]:
    """Drawn JPEGs of 500x375, and many names for them."""
    from benchmarks.train import draw_files

    folder = Path(options["folder"]) / "drawn"
    draw_files(folder)
    files = sorted(folder.rglob("*.jpg"))
    pictures = Path(options["folder"]) / "pictures"
    pictures.mkdir()
    for index in range(options["pictures"]):
        (pictures / f"{index:06d}.jpg").hardlink_to(files[index % len(files)])
    return files


def train(options: dict[str, Any], name: str, *more: str) -> Any:
    """A training of two epochs, or what an earlier call of this name gave."""
    from effnet_core import api
    from effnet_core.config.load import load_config

    config = load_config(None, _settings(options, *more))
    return api.train(config, data_set(options), Path(options["folder"]) / name)


def outcome(result: Any) -> dict[str, float]:
    """What two trainings must have in common."""
    evaluation = result.evaluation
    return {"loss": evaluation.loss, "top1": evaluation.top1}


def correctness(options: dict[str, Any]) -> None:
    """A checkpoint on device and CPU; a run that is resumed; sinking; labelling."""
    import numpy as np

    straight = train(options, "straight")
    _tell(straight=outcome(straight))
    answers = []
    for device in ("CPU", options["device"]):
        out = Path(options["folder"]) / f"logits-{device}.npy"
        more = {"device": device, "checkpoint": str(straight.checkpoint), "out": str(out)}
        child("logits", {**options, **more})
        answers.append(np.load(out))
    apart = float(np.abs(answers[0] - answers[1]).max())
    same = float((answers[0].argmax(1) == answers[1].argmax(1)).mean())
    _tell(logits_apart=apart, logits_spread=float(answers[0].std()), same_class=same)
    from effnet_core import api

    evaluated = api.evaluate(straight.checkpoint, data_set(options), config=None)
    _tell(evaluated_on_cpu={"loss": evaluated.loss, "top1": evaluated.top1})
    first = min((Path(options["folder"]) / "straight/checkpoints").glob("step-*.ckpt"))
    _tell(resumed=outcome(train(options, "resumed", f"train.resume_from={first}")))
    if options["device"] != "CPU":
        _tell(sunk=outcome(train(options, "sunk", "data.sink=true")))
    labels = {
        device: _labels(options, straight.checkpoint, device)
        for device in ("CPU", options["device"])
    }
    one, other = labels.values() if len(labels) > 1 else 2 * [*labels.values()]
    _tell(labelled=len(one), labels_same=sum(a == b for a, b in zip(one, other, strict=True)))


def _labels(options: dict[str, Any], weights: Path, device: str) -> list[int]:
    from effnet_core import api
    from effnet_core.config.load import load_config
    from effnet_core.infer.parts import read_parts

    settings = [f"runtime.device={device}", "runtime.world_size=1", "infer.engine=mindspore"]
    out = Path(options["folder"]) / f"labels-{device}"
    api.infer(weights, [data_set(options)], out, config=load_config(None, settings))
    return [row["class_ids"][0] for row in read_parts(out)]


def child(name: str, options: dict[str, Any]) -> None:
    """Run another measurement to its end."""
    from effnet_core.jobs import cuda

    environment = dict(os.environ)
    if options["device"] == "GPU":
        cuda.prepare(environment)
    command = [sys.executable, "-m", "benchmarks.gpu.child", name, json.dumps(options)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)


ENGINES = {
    "onnxruntime, float32": ("infer.engine=onnxruntime",),
    "onnxruntime, float16": ("infer.engine=onnxruntime", "infer.precision=fp16"),
    "mindspore": ("infer.engine=mindspore",),
}


def labelling(options: dict[str, Any]) -> None:
    """Images/s from files to answers by each engine, beside decoding and computing alone."""
    from effnet_core import api
    from effnet_core.config.load import load_config
    from effnet_core.data.preprocess import decode_square

    folder = Path(options["folder"])
    weights = _checkpoint(options)
    files, pictures = photographs(options), folder / "pictures"
    spec = api.open_weights(weights, load_config(None, []).storage).sidecar.preprocess
    content = [path.read_bytes() for path in files]
    began = time.perf_counter()
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        count = len(list(pool.map(lambda data: decode_square(data, spec, fast=True), 8 * content)))
    decoding = count / (time.perf_counter() - began)
    _tell(decoding_images_per_s=decoding)
    for name, settings in ENGINES.items():
        if "fp16" in settings[-1] and options["device"] == "CPU":
            continue
        given = [f"runtime.device={options['device']}", "runtime.world_size=1", *settings]
        try:
            config = load_config(None, given)
            summary = api.infer(weights, [pictures], folder / f"out-{name}", config=config)
        except Exception as problem:  # one engine that is missing leaves the others
            _tell(**{name: {"error": str(problem)[:300]}})
            continue
        rate = summary["images_per_s"]
        _tell(**{name: {"images_per_s": rate, "share_of_decoding": rate / decoding}})


def _checkpoint(options: dict[str, Any]) -> Path:
    """A network as it is initialised: speed does not depend on what it has learned."""
    from benchmarks.infer import write_checkpoint

    path = Path(options["folder"]) / "b0.ckpt"
    if options["device"] == "CPU":
        result: Path = train(options, "straight").checkpoint
        return result
    write_checkpoint(path)
    return path


def ranks(options: dict[str, Any]) -> None:
    """Two ranks against one: the same images an update, and the rate."""
    for count in (1, 2):
        result = train(options, f"ranks-{count}", f"runtime.world_size={count}")
        _tell(**{f"{count} rank(s)": {**outcome(result), "images_per_s": result.images_per_s}})
