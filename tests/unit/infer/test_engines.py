"""Choosing an engine, making its file once, and ONNX Runtime itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError, DataError, ExportError
from effnet_core.events import Event
from effnet_core.export import export
from effnet_core.export.onnx_model import write_onnx
from effnet_core.infer import engines
from effnet_core.infer.engines import onnxruntime, tuning
from effnet_core.storage.cache import CACHE_VARIABLE, cache_dir
from effnet_core.weights.checkpoint import Checkpoint, open_checkpoint
from tests.support.fakes import engine_job
from tests.support.weights import make_checkpoint

ONNX = load_config(None, ["infer.engine=onnxruntime"])
FILE_ENGINES = ("onnxruntime", "openvino")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / tuning.CACHE_NAME


@pytest.fixture
def agreement() -> Iterator[mock.Mock]:
    """In place of the comparison with MindSpore."""
    with mock.patch.object(export, "require_agreement") as stub:
        yield stub


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return open_checkpoint(make_checkpoint(tmp_path / "model.ckpt"))


@pytest.fixture
def file(checkpoint: Checkpoint, tmp_path: Path) -> Path:
    path = tmp_path / "engine.onnx"
    write_onnx(checkpoint, path, features=True, pixels=True)
    return path


def loaded(
    engine: str,
    checkpoint: Checkpoint,
    file: Path,
    *,
    micro_batch: int = 4,
    workers: int = 2,
    device: str = "CPU",
) -> Any:
    return engines.load_file(
        engine,
        file,
        checkpoint.sidecar,
        RunConfig().infer,
        workers=workers,
        micro_batch=micro_batch,
        device=device,
    )


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), np.uint8)


def test_auto_is_onnxruntime_on_a_cpu_that_has_it() -> None:
    assert engines.choose(RunConfig()) == "onnxruntime"
    assert engines.choose(load_config(None, ["runtime.device=Ascend"])) == "mindspore"
    with mock.patch.object(engines, "find_spec", return_value=None):
        assert engines.choose(RunConfig()) == "mindspore"


ONE_GPU = ("runtime.device=GPU", "runtime.world_size=1")
BUILT_FOR_GPUS = [onnxruntime.TENSORRT, onnxruntime.CUDA, onnxruntime.CPU]


def test_auto_is_onnxruntime_on_a_gpu_where_it_has_cuda() -> None:
    config = load_config(None, [*ONE_GPU])
    assert engines.choose(config) == "mindspore"  # the ordinary package has none
    with mock.patch.object(onnxruntime, "built_for", lambda: BUILT_FOR_GPUS):
        assert engines.choose(config) == "onnxruntime"
        assert (
            engines.choose(load_config(None, [*ONE_GPU, "infer.precision=fp16"])) == "onnxruntime"
        )
        ascend = load_config(None, ["runtime.device=Ascend"])
        assert engines.choose(ascend) == "mindspore"


def test_what_computes_on_a_gpu_best_first(tmp_path: Path) -> None:
    def names(device: str, *, tensorrt: bool, built: list[str] = BUILT_FOR_GPUS) -> list[str]:
        chosen = onnxruntime.providers(
            device, "fp32", built=built, tensorrt=tensorrt, cache=tmp_path
        )
        return [name.removesuffix("ExecutionProvider") for name, _ in chosen]

    assert names("CPU", tensorrt=True) == ["CPU"]
    assert names("GPU", tensorrt=True) == ["Tensorrt", "CUDA", "CPU"]
    assert names("GPU", tensorrt=False) == ["CUDA", "CPU"]
    assert names("GPU", tensorrt=True, built=[onnxruntime.CPU]) == ["CPU"]
    for precision in ("fp32", "fp16"):
        (_, options), *_ = onnxruntime.providers(
            "GPU", precision, built=BUILT_FOR_GPUS, tensorrt=True, cache=tmp_path
        )
        assert options["trt_fp16_enable"] is (precision == "fp16")
        assert options["trt_engine_cache_path"] == str(tmp_path)


def test_a_gpu_that_does_not_start_is_told_not_replaced_by_the_cpu(
    checkpoint: Checkpoint, file: Path
) -> None:
    with pytest.raises(ConfigError, match="onnxruntime cannot use the GPU"):
        loaded("onnxruntime", checkpoint, file, device="GPU")


def test_sixteen_bits_answer_nearly_the_same(checkpoint: Checkpoint, file: Path) -> None:
    """By the CPU provider, which turns what it lacks in 16 bits into 32."""
    images = pixels(6)
    exact = loaded("onnxruntime", checkpoint, file).forward(images)
    config = load_config(None, [*ONE_GPU, "infer.precision=fp16"])
    half = onnxruntime.OnnxRuntimePredictor(
        file, checkpoint.sidecar, workers=1, micro_batch=4, precision=config.infer.precision
    ).forward(images)
    assert half.logits.dtype == half.features.dtype == np.float32
    assert not np.array_equal(half.logits, exact.logits)
    np.testing.assert_allclose(half.logits, exact.logits, rtol=2e-2, atol=2e-2)


def test_on_a_gpu_large_calls_are_prepared_by_all_cores(checkpoint: Checkpoint, file: Path) -> None:
    job = engine_job(checkpoint, "onnxruntime", file, images=1000)
    with mock.patch.object(engines, "load_file") as load_file:
        engines.load(job, checkpoint, RunConfig().infer, "GPU")
    given = load_file.call_args.kwargs
    assert (given["workers"], given["micro_batch"], given["device"]) == (2, 64, "GPU")


def test_what_was_asked_for_is_used_or_refused() -> None:
    assert engines.choose(load_config(None, ["infer.engine=mindspore"])) == "mindspore"
    with pytest.raises(ConfigError, match=r"onnxruntime-gpu on runtime\.device=GPU"):
        engines.choose(load_config(None, ["infer.engine=onnxruntime", *ONE_GPU]))
    with pytest.raises(ConfigError, match=r"openvino runs on CPU, not on runtime\.device=GPU"):
        engines.choose(load_config(None, ["infer.engine=openvino", *ONE_GPU]))
    with (
        mock.patch.object(engines, "find_spec", return_value=None),
        pytest.raises(ConfigError, match="pip install onnx onnxruntime"),
    ):
        engines.choose(ONNX)
    for precision in ("bf16", "fp16"):
        asked = f"infer.precision={precision}"
        assert engines.choose(load_config(None, [asked])) == "openvino"
        with pytest.raises(ConfigError, match=rf"infer\.precision={precision} needs .*openvino"):
            engines.choose(load_config(None, [asked, "infer.engine=onnxruntime"]))
    with pytest.raises(ConfigError, match=r"infer\.precision=int8 needs .*runtime\.device=CPU"):
        engines.choose(load_config(None, ["infer.precision=int8", "infer.engine=mindspore"]))
    with pytest.raises(ConfigError, match=r"infer\.engine='tensorrt' is not allowed"):
        load_config(None, ["infer.engine=tensorrt"])


def test_an_engine_is_made_once(checkpoint: Checkpoint, cache: Path, agreement: mock.Mock) -> None:
    first = engines.prepare(checkpoint, ONNX)
    name, made = first
    assert name == "onnxruntime" and made is not None
    assert made.parent == cache
    assert engines.prepare(checkpoint, ONNX) == first
    assert agreement.call_count == 1
    assert [path.name for path in cache.glob("[!.]*")] == [made.name]
    mindspore = load_config(None, ["infer.engine=mindspore"])
    assert engines.prepare(checkpoint, mindspore) == ("mindspore", None)


def test_another_model_or_sidecar_is_another_engine(
    checkpoint: Checkpoint, cache: Path, agreement: mock.Mock, tmp_path: Path
) -> None:
    paths = {engines.engine_file(checkpoint, ONNX)}
    other = open_checkpoint(make_checkpoint(tmp_path / "other.ckpt", seed=1))
    paths.add(engines.engine_file(other, ONNX))
    changes: tuple[dict[str, Any], ...] = (
        {"bn_eps": 1e-5},
        {"padding": "same"},
        {"class_names": ("x", "y", "z")},
    )
    for change in changes:
        changed = replace(checkpoint, sidecar=replace(checkpoint.sidecar, **change))
        paths.add(engines.engine_file(changed, ONNX))
    paths.add(engines.engine_file(checkpoint, ONNX, "openvino"))
    assert len(paths) == 6


def test_a_damaged_engine_is_made_again(
    checkpoint: Checkpoint, cache: Path, agreement: mock.Mock
) -> None:
    path = engines.engine_file(checkpoint, ONNX)
    whole = path.read_bytes()
    for damage in (b"", b"nonsense", whole[: len(whole) // 2]):
        path.write_bytes(damage)
        assert engines.engine_file(checkpoint, ONNX) == path
        assert path.read_bytes() == whole


def test_an_engine_that_disagrees_is_not_kept(
    checkpoint: Checkpoint, cache: Path, agreement: mock.Mock
) -> None:
    agreement.side_effect = ExportError("differ by up to 3")
    with pytest.raises(ExportError, match="differ by up to 3"):
        engines.engine_file(checkpoint, ONNX)
    assert [path for path in cache.iterdir() if path.suffix != ".lock"] == []


@pytest.mark.costly
def test_two_processes_make_an_engine_once(
    checkpoint: Checkpoint, cache: Path, tmp_path: Path
) -> None:
    count = tmp_path / "count"
    code = f"""
import time
from pathlib import Path
from effnet_core.infer import engines
from effnet_core.config.schema import RunConfig
from effnet_core.export import export
from effnet_core.weights.checkpoint import open_checkpoint
def agree(*arguments, **options):
    with open({str(count)!r}, "a") as stream:
        stream.write("x")
    time.sleep(0.5)
export.require_agreement = agree
print(engines.engine_file(open_checkpoint(Path({str(checkpoint.path)!r})), RunConfig()))
"""
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    printed = {process.communicate()[0] for process in started}
    assert [process.returncode for process in started] == [0, 0, 0]
    assert len(printed) == 1
    assert count.read_text() == "x"


def test_the_cache_lies_where_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir("engines") == tmp_path / "xdg" / "effnet" / "engines"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir("engines") == tmp_path / ".cache" / "effnet" / "engines"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(DataError, match=CACHE_VARIABLE):
        cache_dir("engines")


@pytest.mark.parametrize("engine", FILE_ENGINES)
def test_answers_do_not_depend_on_piece_or_lane(
    engine: str, checkpoint: Checkpoint, file: Path
) -> None:
    batch = pixels(7)
    one = loaded(engine, checkpoint, file, micro_batch=1, workers=1)
    alone = [one.forward(square[None]) for square in batch]
    other = loaded(engine, checkpoint, file, micro_batch=7)
    with ThreadPoolExecutor(2) as workers:
        together = [future.result() for future in [workers.submit(other.forward, batch)] * 3]
    for answer in (*together, other.forward(batch[:5])):
        count = len(answer.logits)
        wanted = np.concatenate([outputs.logits for outputs in alone[:count]])
        features = np.concatenate([outputs.features for outputs in alone[:count]])
        assert answer.logits.dtype == np.float32
        if engine == "onnxruntime":
            np.testing.assert_array_equal(answer.logits, wanted)
        np.testing.assert_allclose(answer.logits, wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(answer.features, features, rtol=0, atol=1e-5)


def test_openvino_has_computed_once_before_lanes_call_it(
    checkpoint: Checkpoint, file: Path
) -> None:
    """Two first calls at the same time hung in OpenVINO 2026.4, now and then on a busy machine."""
    with mock.patch(
        "openvino.InferRequest.infer", autospec=True, side_effect=[mock.MagicMock()]
    ) as call:
        loaded("openvino", checkpoint, file, micro_batch=3)
    [(_, inputs)] = [made.args for made in call.call_args_list]
    assert inputs["pixels"].shape == (3, 32, 32, 3)


def test_a_precision_that_the_processor_lacks_is_refused(
    checkpoint: Checkpoint, file: Path
) -> None:
    infer = RunConfig().infer.model_copy(update={"precision": "bf16"})
    with mock.patch("openvino.Core") as core:
        core.return_value.get_property.return_value = ["FP32", "INT8"]
        with pytest.raises(
            ConfigError, match=r"infer\.precision=bf16 .* use infer\.precision=fp32"
        ):
            engines.load_file("openvino", file, checkpoint.sidecar, infer, workers=1, micro_batch=1)


def test_the_fastest_piece_is_measured_once_for_each_machine(
    checkpoint: Checkpoint, file: Path, monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    job = engine_job(checkpoint, "onnxruntime", file, images=1000)
    rates = {1: 100.0, 2: 150.0, 4: 140.0, 8: 90.0, 16: 500.0}
    measured: list[int] = []

    def rate(predictor: Any) -> float:
        measured.append(predictor.micro_batch)
        return rates[predictor.micro_batch]

    monkeypatch.setattr(tuning, "_rate", rate)
    monkeypatch.setattr(engines, "available_cores", lambda: [0])
    load = partial(engines.load, job, checkpoint, RunConfig().infer)
    rates[4] = 146.0  # hardly below the best, and hands over less often
    assert load().micro_batch == 4  # type: ignore[attr-defined]
    (file.parent / tuning.TUNING_NAME).unlink()
    measured.clear()
    rates[4] = 140.0
    assert load().micro_batch == 2  # type: ignore[attr-defined]
    assert measured == [1, 2, 4, 8]  # 8 is so much worse that 16 is not tried
    assert "1x1: 100.0, 1x2: 150.0, 1x4: 140.0, 1x8: 90.0" in events[-1].message
    assert load().micro_batch == 2  # type: ignore[attr-defined]
    assert len(measured) == 4
    monkeypatch.setattr(tuning, "processor", lambda: "another")
    load()
    assert len(measured) == 8
    (file.parent / tuning.TUNING_NAME).write_text("nonsense")
    assert load().micro_batch == 2  # type: ignore[attr-defined]
    few = engine_job(checkpoint, "onnxruntime", file, images=engines.FEW)
    load = partial(engines.load, few, checkpoint, RunConfig().infer)
    assert load().micro_batch == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("few_lanes", "settings", "wanted"),
    [
        (195.0, (), "4x2"),  # may be chance: no reason to leave cores idle
        (230.0, (), "2x2"),
        (230.0, ("infer.engine_threads=3",), "3x2"),
        (230.0, ("infer.batch_size=4",), "2x4"),
        (230.0, ("infer.batch_size=4", "infer.engine_threads=1"), "1x4"),
    ],
)
def test_threads_are_measured_too_unless_they_are_given(
    few_lanes: float,
    settings: tuple[str, ...],
    wanted: str,
    checkpoint: Checkpoint,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a machine whose four cores are two with two faces each."""
    rates = {1: 100.0, 2: 180.0, 4: 150.0}

    def rate(predictor: Any) -> float:
        return few_lanes if predictor.workers == 2 else rates[predictor.micro_batch]

    monkeypatch.setattr(tuning, "_rate", rate)
    monkeypatch.setattr(engines, "available_cores", lambda: [0, 1, 2, 3])
    job = engine_job(checkpoint, "onnxruntime", file, images=1000)
    found: Any = engines.load(job, checkpoint, load_config(None, list(settings)).infer)
    assert f"{found.workers}x{found.micro_batch}" == wanted


@pytest.mark.parametrize("engine", FILE_ENGINES)
@pytest.mark.costly
def test_a_rate_is_a_rate(engine: str, checkpoint: Checkpoint, file: Path) -> None:
    assert tuning._rate(loaded(engine, checkpoint, file)) > 0


def test_lanes_are_those_asked_for(checkpoint: Checkpoint, file: Path) -> None:
    job = engine_job(checkpoint, "onnxruntime", file, images=9)
    for setting, workers in ((0, len(os.sched_getaffinity(0))), (5, 5)):
        infer = load_config(None, [f"infer.engine_threads={setting}"]).infer
        assert engines.load(job, checkpoint, infer).workers == workers


@pytest.mark.parametrize("engine", FILE_ENGINES)
@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_a_bad_engine_file_is_one_sentence(
    content: bytes | None, engine: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ExportError, match=r"engine file .*bad\.onnx cannot be loaded") as caught:
        loaded(engine, checkpoint, path)
    assert "\n" not in str(caught.value)


@pytest.mark.costly
def test_the_parent_loads_no_mindspore(
    checkpoint: Checkpoint, cache: Path, agreement: mock.Mock
) -> None:
    engines.prepare(checkpoint, ONNX)
    code = (
        "import sys, json; from pathlib import Path; from effnet_core.infer import engines; "
        "from effnet_core.config.schema import RunConfig; "
        "from effnet_core.weights.checkpoint import open_checkpoint; "
        f"engines.prepare(open_checkpoint(Path({str(checkpoint.path)!r})), RunConfig()); "
        "print(json.dumps(sorted({'mindspore', 'onnxruntime', 'openvino'} & set(sys.modules))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []
