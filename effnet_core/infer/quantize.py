"""An int8 network beside a checkpoint, kept only if it is as good on the whole validation split.

Made in a child process: ranges of activations are taken from training images, and top-1 is measured with
each engine that is installed, for fp32 and int8 in the same way.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from effnet_core.config.schema import RunConfig
from effnet_core.data.manifest import Dataset, Split, open_dataset
from effnet_core.data.preprocess import PixelArray, decode_square
from effnet_core.errors import ConfigError, DataError, QuantizationRefused
from effnet_core.events import Event, emit, emit_sometimes
from effnet_core.infer import engines
from effnet_core.infer.pipeline import Rejection, Wanted, iter_predictions
from effnet_core.infer.readers import FolderReader
from effnet_core.infer.shards import resizer_for
from effnet_core.jobs.job import QuantizeJob
from effnet_core.jobs.launch import run_job
from effnet_core.jobs.signals import leave_at_once
from effnet_core.system.files import put_in_place, sha256_of_file, write_json
from effnet_core.system.locks import scratch_folder
from effnet_core.system.machine import available_cores
from effnet_core.weights import quantized
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint, sidecar_path
from effnet_core.weights.quantized import Quantized

STAGE = "quantize"
MICRO_BATCH = 4
BATCH = 8
"""Images in a call while ranges are taken."""


def quantize(
    checkpoint: Checkpoint,
    data_dir: Path,
    *,
    config: RunConfig,
    max_drop: float,
    images: int,
    split: str | None = None,
) -> Quantized:
    """Make the int8 network of a checkpoint and put it beside it, if it loses little enough.

    Args:
        checkpoint: the model; its sidecar tells of the int8 network afterwards.
        data_dir: staged data set with the model's classes.
        config: processes and threads.
        max_drop: share of top-1 that may be lost, such as 0.005.
        images: training images from which ranges are taken.
        split: that decides; ``data.eval_split`` by default.

    Raises:
        QuantizationRefused: every way loses more; nothing was kept.
        ConfigError: it cannot be measured on this processor.
        DataError, CheckpointError, ExportError: the data set or the model cannot be used.
    """
    if "onnxruntime" not in engines.installed():
        raise ConfigError(
            "int8 needs the packages onnx and onnxruntime; pip install onnx onnxruntime"
        )
    engines.require_int8()
    dataset = open_dataset(data_dir)
    if dataset.class_names != checkpoint.sidecar.class_names:
        raise DataError(
            f"data set {data_dir} has other classes than the model ({dataset.num_classes} and "
            f"{checkpoint.sidecar.num_classes}); give the one that it was trained on"
        )
    with scratch_folder("int8", beside=checkpoint.path.parent) as folder:
        job = QuantizeJob(
            checkpoint.path.resolve(),
            checkpoint.sha256,
            engine_file=engines.engine_file(checkpoint, config),
            data_dir=data_dir.resolve(),
            out=folder.resolve(),
            split=split or config.data.eval_split,
            max_drop=max_drop,
            images=images,
        )
        single = config.runtime.model_copy(update={"world_size": 1})
        with scratch_folder("quantize") as work:
            answer = run_job(job, config.model_copy(update={"runtime": single}), work)
        found = Quantized.from_dict(answer)
        _put_beside(checkpoint, folder, found)
    emit(Event(STAGE, f"{found}; kept in {checkpoint.path.with_name(quantized.ONNX_NAME)}", 1, 1))
    return found


def _put_beside(checkpoint: Checkpoint, folder: Path, found: Quantized) -> None:
    """The files first, the sidecar that names them last."""
    for name in quantized.NAMES:
        target = checkpoint.path.with_name(name)
        if (folder / name).exists():
            put_in_place(folder / name, target)
        else:
            target.unlink(missing_ok=True)
    sidecar = replace(checkpoint.sidecar, int8=found.to_dict())
    write_json(sidecar_path(checkpoint.path), sidecar.to_dict())


def copy_checkpoint(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    """The same checkpoint in a folder of one's own, because files in a cache or a store never change."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / checkpoint.path.name
    shutil.copyfile(checkpoint.path, target)
    write_json(sidecar_path(target), checkpoint.sidecar.to_dict())
    return open_checkpoint(target)


def quantize_here(job: QuantizeJob, checkpoint: Checkpoint, config: RunConfig) -> dict[str, Any]:
    """The child's part: tries one way after the other; the fields of a ``Quantized``.

    Raises:
        QuantizationRefused: all lose too much.
    """
    from effnet_core.export.int8 import WAYS, Way, write_int8, write_ir

    def but(way: Way) -> str:
        return f" (fp32: {way.kept})" if way.kept else ""

    leave_at_once("quantization was stopped; the same command starts it again")
    dataset = open_dataset(job.data_dir)
    held_out = dataset.split(job.split)
    names = engines.installed()
    fp32 = min(top1(name, "fp32", job.engine_file, checkpoint, held_out, config) for name in names)
    calibration = spread(dataset.split(config.data.train_split), job.images)
    figures = []
    for way in WAYS if _is_hard(checkpoint) else WAYS[:2]:
        path = job.out / quantized.ONNX_NAME
        emit(Event(STAGE, f"int8: ranges from {len(calibration):,} training images{but(way)}"))
        write_int8(job.engine_file, path, _squares(calibration, dataset, checkpoint, config), way)
        found = min(top1(name, "int8", path, checkpoint, held_out, config) for name in names)
        figures.append(found)
        emit(
            Event(
                STAGE,
                f"int8{but(way)}: top-1 {found:.2%}, fp32 {fp32:.2%} on {len(held_out):,} images of "
                f"{held_out.name}",
            )
        )
        if fp32 - found <= job.max_drop + 1e-9:
            write_ir(path, [job.out / name for name in quantized.IR_NAMES])
            return Quantized(
                sha256_of_file(path),
                found,
                fp32,
                len(held_out),
                held_out.name,
                dataset.digest,
                len(calibration),
                way.kept,
            ).to_dict()
    best = max(figures)
    raise QuantizationRefused(
        f"int8 has top-1 {best:.2%} at best, fp32 {fp32:.2%} on the same {len(held_out):,} images of "
        f"{held_out.name}: {100 * (fp32 - best):.2f} points less, allowed is {100 * job.max_drop:g} "
        "(--max-drop); it was not kept"
    )


def _is_hard(checkpoint: Checkpoint) -> bool:
    """Whether the network has activations and gates that lose much in 8 bits: all but Lite."""
    from effnet_core.family.variants import variant

    return variant(checkpoint.sidecar.variant).activation != "relu6"


def spread(split: Split, count: int) -> list[str]:
    """Paths from all over a split, which has its classes in order."""
    total = len(split)
    count = min(count, total)
    return [split.paths[index * total // count] for index in range(count)]


def _squares(
    paths: Sequence[str], dataset: Dataset, checkpoint: Checkpoint, config: RunConfig
) -> Iterator[PixelArray]:
    spec = checkpoint.sidecar.preprocess
    for start in range(0, len(paths), BATCH):
        yield np.stack(
            [
                decode_square(
                    (dataset.root / path).read_bytes(), spec, fast=config.infer.fast_decode
                )
                for path in paths[start : start + BATCH]
            ]
        )


def top1(
    engine: str, precision: str, file: Path, checkpoint: Checkpoint, split: Split, config: RunConfig
) -> float:
    """Share of a split's images whose best class is theirs.

    Raises:
        DataError: an image cannot be read.
    """
    infer = config.infer.model_copy(update={"engine": engine, "precision": precision})
    predictor = engines.load_file(
        engine,
        file,
        checkpoint.sidecar,
        infer,
        workers=len(available_cores()),
        micro_batch=MICRO_BATCH,
    )
    reader = FolderReader(split.root)
    wanted = Wanted(
        1,
        fast_decode=infer.fast_decode,
        max_pixels=16 * config.data.max_pixels,
        resize=resizer_for(len(split), config),
    )
    right = done = 0
    for piece in iter_predictions(
        predictor, reader, split.paths, wanted, readers=infer.readers or reader.readers
    ):
        for answer in piece.answers:
            if isinstance(answer, Rejection):
                raise DataError(
                    f"{split.root / answer.path} cannot be read any more ({answer.reason}); stage the data "
                    "set again"
                )
            right += answer.class_ids[0] == int(split.labels[done])
            done += 1
        emit_sometimes(STAGE, done, len(split))
    return right / len(split)
