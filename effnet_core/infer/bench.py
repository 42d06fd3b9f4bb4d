"""How fast this machine labels: variants, engines and precisions, each measured in a process of its own.

The way is that of ``effnet predict``, from JPEG bytes in memory to answers, so that no disk or server is
measured. Weights are drawn: speed does not depend on what a network has learned.
"""

from __future__ import annotations

import io
import json
import math
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from PIL import Image

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.data.preprocess import PreprocessSpec
from effnet_core.errors import ConfigError, DataError, EffnetError
from effnet_core.export.export import packaged_photograph
from effnet_core.family.variants import Variant, variant
from effnet_core.infer import engines
from effnet_core.infer.pipeline import Predictor, Rejection, Wanted, iter_predictions
from effnet_core.infer.shards import resizer_for
from effnet_core.jobs import cuda
from effnet_core.jobs.job import PredictJob, Shard
from effnet_core.system.files import read_json, write_json
from effnet_core.system.locks import scratch_folder
from effnet_core.system.machine import available_cores
from effnet_core.weights.checkpoint import Checkpoint, Sidecar, open_checkpoint, save_arrays
from effnet_core.weights.layouts import shapes

VARIANTS = ("efficientnet_lite0", "efficientnet_b0", "efficientnet_b3")
"""What is measured unless one says otherwise: small, middle, larger."""
PICTURE = (500, 375)
"""Width and height of the drawn pictures, ImageNet's usual ones."""
PICTURES = 48
CALLS = 20
AS_OF_MANY = 10_000
"""Images that a labelling is thought to have, for what only pays with many."""
LEAST_S = 2.0
"""Seconds that are measured, whatever was left."""
CLASSES = 1000


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    variant: str
    engine: str
    precision: str

    def __str__(self) -> str:
        return f"{self.variant} {self.engine} {self.precision}"


@dataclass(frozen=True)
class Speed:
    """What was measured, or why not."""

    case: Case
    images_per_s: float = 0.0
    ms: float = 0.0
    """Of one image alone, from pixels to logits; the median."""
    memory_mb: float = 0.0
    """The process's peak."""
    problem: str = ""

    def seconds_for(self, images: int) -> float:
        """How long so many images take; infinite where nothing was measured."""
        return images / self.images_per_s if self.images_per_s else math.inf


def cases(
    variants: Sequence[str], names: Sequence[str], precisions: Sequence[str], config: RunConfig
) -> list[Case]:
    """What can be measured here: all combinations that the machine and its packages have.

    Args:
        variants: of the family; ``VARIANTS`` where empty.
        names: of engines; all installed ones but mindspore where empty, and that where there is no other.
        precisions: all that an engine has where empty.
        config: names the device.

    Raises:
        ConfigError: a variant is unknown, or an engine that was named cannot be used with any precision.
    """
    found: list[Case] = []
    for name in variants or VARIANTS:
        variant(name)
    if "int8" in precisions:
        raise ConfigError(
            "--precision int8 cannot be measured with drawn weights, which have no int8 network; make one "
            "with effnet quantize, and label with infer.precision=int8"
        )
    for engine in names or tuple(engines.PACKAGES):
        usable, reason = [], ""
        for precision in precisions or ("fp32", "fp16", "bf16"):
            try:
                engines.choose(_settings(config, engine, precision))
                usable.append(precision)
            except ConfigError as cause:
                reason = reason or str(cause)
        if names and not usable:
            raise ConfigError(reason)
        found += [Case(name, engine, one) for name in variants or VARIANTS for one in usable]
    return found or [Case(name, "mindspore", "fp32") for name in variants or VARIANTS]


def _settings(config: RunConfig, engine: str, precision: str) -> RunConfig:
    infer = config.infer.model_copy(update={"engine": engine, "precision": precision})
    return config.model_copy(update={"infer": infer})


def measure(
    planned: Sequence[Case],
    config: RunConfig,
    *,
    seconds: float,
    pictures: Path | None = None,
    tell: Callable[[Speed], None],
) -> list[Speed]:
    """Measure cases one after the other, within a time.

    Args:
        planned: as ``cases`` gives them.
        config: settings of inference, and the device.
        seconds: for all of them; each gets its share of what is left, and what it needs to start.
        pictures: folder of pictures to decode; drawn ones by default.
        tell: is given each result as it comes.
    """
    deadline, results = time.monotonic() + seconds, []
    with scratch_folder("bench") as folder:
        for number, case in enumerate(planned):
            share = (deadline - time.monotonic()) / (len(planned) - number)
            if share <= 0:
                speed = Speed(case, problem="no time was left; give more --seconds")
            else:
                speed = _in_a_process(case, config, share, folder, pictures)
            results.append(speed)
            tell(speed)
    return results


def _in_a_process(
    case: Case, config: RunConfig, seconds: float, folder: Path, pictures: Path | None
) -> Speed:
    work = {
        "case": asdict(case),
        "config": config.model_dump(mode="json"),
        "seconds": seconds,
        "folder": str(folder),
        "pictures": str(pictures) if pictures else None,
    }
    given, answer = folder / "work.json", folder / "answer.json"
    write_json(given, work)
    answer.unlink(missing_ok=True)
    environment = None
    if config.runtime.device == "GPU":
        environment = dict(os.environ)
        cuda.prepare(environment, lazy_kernels=config.runtime.lazy_kernels)
    done = subprocess.run(
        [sys.executable, "-m", "effnet_core.infer.bench", str(given), str(answer)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if not answer.exists():
        lines = (done.stderr or done.stdout).strip().splitlines()
        return Speed(case, problem=lines[-1][:200] if lines else f"exit code {done.returncode}")
    return Speed(case, **read_json(answer))


def measure_here(work: dict[str, Any]) -> dict[str, Any]:
    """The child's part: the fields of a ``Speed``."""
    began = time.monotonic()
    case = Case(**work["case"])
    config = _settings(load_config(None, values=work["config"]), case.engine, case.precision)
    checkpoint = draw_checkpoint(variant(case.variant), Path(work["folder"]))
    predictor = _loaded(checkpoint, config, case, Path(work["folder"]))
    source = _Pictures(Path(work["pictures"]) if work["pictures"] else None)
    _rate(predictor, source, config, seconds=0.0)  # warms up
    one = _milliseconds(predictor)
    left = max(LEAST_S, work["seconds"] - (time.monotonic() - began))
    rate = _rate(predictor, source, config, seconds=left)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"images_per_s": round(rate, 2), "ms": round(one, 2), "memory_mb": round(peak, 1)}


def draw_checkpoint(row: Variant, folder: Path) -> Checkpoint:
    """A checkpoint with drawn weights, made once in a folder."""
    path = folder / f"{row.name}.ckpt"
    if not path.exists():
        rng = np.random.default_rng(0)
        config = load_config(None, [f"model.variant={row.name}"])
        arrays = {
            name: _drawn(rng, name, shape)
            for name, shape in shapes(row, num_classes=CLASSES).items()
        }
        names = tuple(str(index) for index in range(CLASSES))
        spec = PreprocessSpec.from_config(config)
        save_arrays(path, arrays, Sidecar(row.name, names, spec, 0.99, config.bn_eps, 0, 0, False))
    return open_checkpoint(path)


def _drawn(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    if name.endswith(("gamma", "moving_variance")):
        return np.ones(shape, np.float32)
    if len(shape) < 2:
        return np.zeros(shape, np.float32)
    spread = math.sqrt(1.0 / math.prod(shape[1:]))
    return rng.normal(0.0, spread, shape).astype(np.float32)


def _loaded(checkpoint: Checkpoint, config: RunConfig, case: Case, folder: Path) -> Predictor:
    """The engine as a labelling of many images has it, tuned."""
    file = None
    if case.engine != "mindspore":
        from effnet_core.export.onnx_model import write_onnx

        file = folder / f"{case.variant}.onnx"
        if not file.exists():
            write_onnx(checkpoint, file, features=True, pixels=True)
    else:
        from effnet_core.jobs.collective import join_group

        join_group(config.runtime)
    shard = Shard(0, 0, AS_OF_MANY, "part", checkpoint.sha256)
    job = PredictJob(
        checkpoint.path,
        checkpoint.sha256,
        engine=case.engine,
        engine_file=file,
        output=folder,
        input_root=str(folder),
        shards=(shard,),
        allowed_errors=0,
    )
    return engines.load(job, checkpoint, config.infer, config.runtime.device)


class _Pictures:
    """Some pictures in memory, as an image reader."""

    readers = 1

    def __init__(self, folder: Path | None) -> None:
        content = list(_draw() if folder is None else _some_of(folder))
        if not content:
            raise DataError(
                f"{folder} holds no file; give a folder of pictures, or leave --images out"
            )
        self.content = {f"{index}.jpg": value for index, value in enumerate(content)}

    def read(self, path: str) -> bytes:
        """As ``ImageReader.read``."""
        return self.content[path]


def _draw() -> Iterator[bytes]:
    """Pieces of the packaged photograph."""
    rng = np.random.default_rng(0)
    with Image.open(packaged_photograph()) as opened:
        whole = opened.convert("RGB")
        for _ in range(PICTURES):
            wide = rng.uniform(0.5, 1.0) * whole.width
            high = wide * PICTURE[1] / PICTURE[0]
            left, top = rng.uniform(0, whole.width - wide), rng.uniform(0, whole.height - high)
            piece = whole.resize(
                PICTURE, Image.Resampling.BICUBIC, (left, top, left + wide, top + high)
            )
            stream = io.BytesIO()
            piece.save(stream, "JPEG", quality=90)
            yield stream.getvalue()


def _some_of(folder: Path) -> Iterator[bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    step = max(1, len(files) // PICTURES)
    for path in files[::step][:PICTURES]:
        yield path.read_bytes()


def _rate(predictor: Predictor, source: _Pictures, config: RunConfig, *, seconds: float) -> float:
    """Images/s from bytes to answers; pictures that cannot be read do not count."""
    infer = config.infer
    decoders = infer.decoders
    if decoders is None:
        decoders = len(available_cores()) if config.runtime.device == "GPU" else 0
    paths = list(source.content) * 100_000
    pieces = iter_predictions(
        predictor,
        source,
        paths,
        Wanted(
            fast_decode=infer.fast_decode,
            max_pixels=config.data.max_pixels,
            resize=resizer_for(AS_OF_MANY, config),
        ),
        readers=1,
        decoders=decoders,
    )
    next(pieces)
    began, done = time.perf_counter(), 0
    for piece in pieces:
        done += sum(not isinstance(answer, Rejection) for answer in piece.answers)
        if time.perf_counter() - began >= seconds:
            break
    pieces.close()  # type: ignore[attr-defined]  # a generator
    return done / (time.perf_counter() - began)


def _milliseconds(predictor: Predictor) -> float:
    """Of one image alone."""
    side, times = predictor.preprocess.image_size, []
    pixels = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), np.uint8)
    for _ in range(CALLS):
        began = time.perf_counter()
        predictor.forward(pixels)
        times.append(time.perf_counter() - began)
    return 1000 * median(times)


def main() -> int:
    """``python -m effnet_core.infer.bench WORK ANSWER``; started by ``measure``, not by people."""
    given, answer = map(Path, sys.argv[1:])
    try:
        found = measure_here(json.loads(given.read_text(encoding="utf-8")))
    except EffnetError as error:
        found = {"problem": str(error)}
    write_json(answer, found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
