"""Every setting does something: those whose effect shows without MindSpore."""

from __future__ import annotations

import http.server
import os
import threading
import time
import zipfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from prefect.blocks.system import Secret

from effnet_core import api
from effnet_core.auto.decide import decide
from effnet_core.config.load import leaf_keys
from effnet_core.config.schema import RunConfig
from effnet_core.data.images import ImageProblem
from effnet_core.data.order import epoch_order, train_indices
from effnet_core.data.preprocess import PreprocessSpec, preprocess
from effnet_core.data.sources.formats import find_images
from effnet_core.data.sources.opening import find_in
from effnet_core.data.sources.tree import Rules
from effnet_core.data.staging import stage_dataset
from effnet_core.errors import DataError, JobTimeout, WorkerStalled
from effnet_core.export.onnx_model import write_onnx
from effnet_core.family.scaling import cost
from effnet_core.family.variants import variant
from effnet_core.infer import engines, pipeline, web
from effnet_core.infer.engines import selection
from effnet_core.infer.inputs import list_inputs
from effnet_core.infer.output import finish
from effnet_core.infer.parts import read_parts, write_part
from effnet_core.infer.places import BucketPlace, open_output
from effnet_core.infer.plan import InferencePlan, plan
from effnet_core.infer.shards import predict_shards
from effnet_core.infer.web import WebReader
from effnet_core.jobs import launch, stall
from effnet_core.jobs.job import EVENTS_NAME, TrainJob, TrialJob
from effnet_core.jobs.launch import run_job
from effnet_core.jobs.stall import Process, StallWatch
from effnet_core.kernels import choice
from effnet_core.model_store.publication import publish_model
from effnet_core.quality import gate
from effnet_core.results import ShardResult
from effnet_core.results.engines import Tried
from effnet_core.storage import s3_client
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.storage.client import in_use
from effnet_core.system.files import write_json
from effnet_core.train.mixing import change_batch
from effnet_core.train.schedule import lr_schedule
from effnet_core.weights.checkpoint import open_checkpoint
from effnet_core.worker import rank as worker
from tasks.credentials import credentials_of
from tests.support import every_setting
from tests.support.every_setting import Proof
from tests.support.fakes import BrightnessPredictor, engine_job, predict_job
from tests.support.images import class_folders, draw, encode, source_with_splits
from tests.support.weights import make_checkpoint
from tests.unit.auto.test_decide import FACTS
from tests.unit.model_store.test_publication import make_run


def pixels(config: RunConfig, _: Path) -> bytes:
    """An image as the network would see it."""
    return preprocess(draw(90, 60), PreprocessSpec.from_config(config)).tobytes()


def pixels_of_a_transparent_image(config: RunConfig, _: Path) -> bytes:
    image = draw(90, 60).convert("RGBA")
    image.putalpha(100)
    return preprocess(image, PreprocessSpec.from_config(config)).tobytes()


def rates(config: RunConfig, _: Path) -> bytes:
    """The learning rate of every step."""
    steps = config.train.length.steps(steps_per_epoch=10, batch_size=1)
    return lr_schedule(
        config.schedule, config.peak_lr, steps_per_epoch=10, total_steps=steps or 0
    ).tobytes()


def links_of_a_staged_file(config: RunConfig, folder: Path) -> int:
    """How many names a staged file has."""
    source = source_with_splits(folder / "source", train=1, val=1)
    dataset, _ = stage_dataset(source, folder / "out", hard_links=config.data.hard_links)
    return (dataset.root / dataset.split("train").paths[0]).stat().st_nlink


def order_of_an_epoch(config: RunConfig, _: Path) -> list[int]:
    return epoch_order(10, seed=0, epoch=1, repeats=config.data.repeats).tolist()


def changed_batch(config: RunConfig, _: Path) -> bytes:
    """Four images of noise as training sees them."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((4, 3, 16, 16)).astype(np.float32)
    labels = np.arange(4, dtype=np.int32)
    changed, _labels = change_batch(rng, images, labels, config.data, num_classes=4)
    return changed.tobytes()


def network_size(config: RunConfig, _: Path) -> tuple[Any, int, float]:
    return cost(variant(config.model.variant)), config.image_size, config.drop_rate


def batch_of_rank_1(config: RunConfig, _: Path) -> list[int]:
    return train_indices(
        np.arange(1000),
        rank=1,
        world_size=config.runtime.world_size,
        per_device_batch_size=config.per_device_batch_size,
    ).tolist()


def planned(config: RunConfig, folder: Path) -> InferencePlan:
    (folder / "in").mkdir()
    for index in range(6):
        picture = draw(1200, 900, seed=index)
        (folder / "in" / f"{index}.jpg").write_bytes(encode(picture, "JPEG"))
    listed = list_inputs([folder / "in"], folder / "out")
    return plan(listed, folder / "out", model_sha256="m", infer=config.infer)


def parts(config: RunConfig, folder: Path) -> list[str]:
    return [shard.part.partition(".")[2] for shard in planned(config, folder).shards]


def answers(config: RunConfig, folder: Path) -> list[dict[str, Any]]:
    """The rows that come out."""
    result = planned(config, folder)
    job = predict_job(result)
    predict_shards(BrightnessPredictor(), job, config)
    return read_parts(result.output)


def columns_carried(config: RunConfig, folder: Path) -> list[str]:
    """Columns of a list that its plan keeps."""
    (folder / "a.png").write_bytes(encode(draw()))
    (folder / "list.csv").write_text("path,id\na.png,7\n")
    keep = config.infer.keep_columns
    listed = list_inputs([folder / "list.csv"], folder / "out", keep=keep)
    return [name for name, _ in listed.columns]


def folders_of_parts(config: RunConfig, folder: Path) -> list[str]:
    """Folders between the output and its parts."""
    answers(config, folder)
    root = folder / "out" / "predictions"
    return sorted({str(path.parent.relative_to(root)) for path in root.rglob("part-*")})


def fetched(config: RunConfig, _: Path) -> list[Any]:
    """What comes of a picture whose server takes its time, of a large one, and of one that is not there."""
    asked: list[str] = []

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            time.sleep(0.6 if self.path == "/slow" else 0)
            content = b"x" * (2000 if self.path == "/large" else 10)
            self.send_response(503 if self.path == "/busy" else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    found: list[Any] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        reader = WebReader(f"http://127.0.0.1:{server.server_address[1]}/", config.infer)
        with mock.patch.object(web, "FIRST_WAIT_S", 0.0):
            for name in ("slow", "large", "busy"):
                try:
                    found.append(len(reader.read(name)))
                except ImageProblem as problem:
                    found.append(str(problem))
        server.shutdown()
        thread.join()
    return [*found, asked.count("/busy")]


def lease_of_an_output(config: RunConfig, _: Path) -> float:
    """How long others wait for a sign of life of this process."""
    with open_output("s3://some-bucket/labels", config) as place:
        assert isinstance(place, BucketPlace)
        return place.lease_s


def explained(config: RunConfig, folder: Path) -> list[str]:
    """Pictures that show what spoke for their answers."""
    result = planned(config, folder)
    names = BrightnessPredictor.class_names
    model = open_checkpoint(make_checkpoint(folder / "m.ckpt", image_size=32, class_names=names))
    predict_shards(BrightnessPredictor(), predict_job(result), config)
    api.finish_inference(result, model, weights="m", config=config)
    return sorted(path.name for path in (result.output / "explained").glob("*.png"))


def answers_or_not(config: RunConfig, folder: Path) -> list[str]:
    """The pictures, JPEGs of 1.1 million pixels each, that are labelled."""
    return [row["path"] for row in answers(config, folder)]


def staged_labels(config: RunConfig, folder: Path) -> set[str]:
    """Classes of folders that could be splits."""
    class_folders(folder / "train", {"a": 1, "b": 1})
    class_folders(folder / "test", {"a": 1, "b": 1})
    return {item.class_name for item in find_images(folder, Rules.of(config.data)).candidates}


def table_labels(config: RunConfig, folder: Path) -> list[tuple[str, str]]:
    """File and class of the rows of a table."""
    for name in ("1.png", "2.png", "elsewhere/1.png", "elsewhere/2.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encode(draw()))
    (folder / "t.csv").write_text("path,b,label,y\n1.png,2.png,cat,dog\n")
    root = config.data.table_root
    rules = Rules.of(config.data.model_copy(update={"table_root": root and str(folder / root)}))
    found = find_images(folder / "t.csv", rules).candidates
    return [(str(item.path.relative_to(folder)), item.class_name) for item in found]


def names_in_a_zip(config: RunConfig, folder: Path) -> list[str]:
    """Folders of an archive whose names are in no encoding that is said."""
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.writestr("XXXX/a.png", encode(draw()))
    content = (folder / "a.zip").read_bytes().replace(b"XXXX", "кошк".encode("cp1251"))
    (folder / "a.zip").write_bytes(content)
    found = find_in(folder / "a.zip", folder / "work", Rules.of(config.data))
    return [item.class_name for item in found.candidates]


def threads_that(kind: str, config: RunConfig, folder: Path) -> list[int]:
    with mock.patch.object(pipeline, "_pool", wraps=pipeline._pool) as pool:
        answers(config, folder)
    return [call.args[0] for call in pool.call_args_list if call.args[1] == kind]


def images_found(config: RunConfig, folder: Path) -> int:
    for path in ("in/a.jpg", "in/deep/b.jpg"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(b"")
    checkpoint = open_checkpoint(make_checkpoint(folder / "a.ckpt"))
    return api.plan_inference(checkpoint, [folder / "in"], folder / "out", config=config).images


def engine_of(config: RunConfig, folder: Path) -> Any:
    checkpoint = open_checkpoint(make_checkpoint(folder / "a.ckpt"))
    engine_file = folder / "a.onnx"
    write_onnx(checkpoint, engine_file, features=True, pixels=True)
    job = engine_job(checkpoint, engines.choose(config), engine_file, images=9)
    return engines.load(job, checkpoint, config.infer)


def asked_precision(config: RunConfig, folder: Path) -> str:
    """What OpenVINO is asked for; whether it differs is the processor's matter."""
    with mock.patch("openvino.Core") as core:
        core.return_value.get_property.return_value = ["FP32", "BF16"]
        engine_of(config, folder)
    _, _, settings = core.return_value.compile_model.call_args.args
    return str(list(settings.values()))


def what_agrees(config: RunConfig, folder: Path) -> tuple[float, float]:
    """What a trial of engines is told to take for the same answers."""
    checkpoint = open_checkpoint(make_checkpoint(folder / "a.ckpt"))
    seen: list[tuple[float, float]] = []

    def run_job(job: TrialJob, *_: Any) -> dict[str, Any]:
        seen.append((job.share, job.within))
        return {"tried": [vars(Tried(one.engine, one.precision)) for one in job.choices]}

    with (
        mock.patch.object(selection, "run_job", run_job),
        mock.patch.object(selection.engines, "engine_file", return_value=folder / "file"),
        mock.patch.dict("os.environ", {CACHE_VARIABLE: str(folder / "cache")}),
    ):
        selection.select(checkpoint, config, folder, 9999, lambda count: ["a.jpg"] * count)
    return seen[0]


def int8_of_a_publication(config: RunConfig, folder: Path) -> Any:
    """How much int8 may lose, over how many images, where a publication makes it."""
    evaluation = make_run(folder / "run", "good", correct=80)
    write_json(folder / "result.json", evaluation.to_dict())
    data = mock.Mock(data_dir=folder, split="val")
    with (
        mock.patch.object(gate, "_comparison", return_value=data),
        mock.patch.object(gate, "open_dataset"),
        mock.patch.object(gate, "write_reference"),
        mock.patch.object(gate, "quantize") as quantize,
        mock.patch.object(gate, "publish_model"),
    ):
        gate.publish(folder / "run", config=config, evaluation=folder / "result.json")
    if quantize.call_args is None:
        return None
    return {key: quantize.call_args.kwargs[key] for key in ("max_drop", "images")}


def end_with_one_error_in_six(config: RunConfig, folder: Path) -> str:
    result = planned(config, folder)
    [shard] = result.shards
    write_part(result.part_path(shard), [], model_sha256="m")
    bad = [{"path": "0.png", "reason": "empty file"}]
    write_json(result.shard_path(shard), ShardResult(shard.part, 0, 6, 5, bad).to_dict())
    try:
        finish(result, infer=config.infer, model_sha256="m")
    except DataError:
        return "refused"
    return "accepted"


def published(config: RunConfig, folder: Path) -> list[tuple[str, bool]]:
    """Where two models land, the second a little worse than the first, and which are promoted."""
    storage = config.storage.model_copy(update={"root": str(folder / config.storage.root)})
    seen = []
    for name, correct in (("good", 80), ("worse", 75)):
        evaluation = make_run(folder / name, name, correct=correct)
        result = publish_model(
            folder / name,
            evaluation=evaluation,
            storage=storage,
            gate=config.evaluate,
            version=name,
        )
        place = Path(result.uri.removeprefix("file://")).relative_to(folder)
        seen.append((str(place), result.promoted))
    return seen


def object_store_client(config: RunConfig, folder: Path) -> tuple[Any, ...]:
    """What a client was made of."""
    (folder / "config").write_text("[profile lab]\n")
    (folder / "credentials").write_text(
        "[default]\naws_access_key_id=a\naws_secret_access_key=b\n"
        "[lab]\naws_access_key_id=c\naws_secret_access_key=d\n"
    )
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    files = {
        "AWS_CONFIG_FILE": str(folder / "config"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
    }
    with mock.patch.dict(os.environ, {**kept, **files}, clear=True):
        client = s3_client(config.storage.access)
        signed = client.generate_presigned_url("get_object", Params={"Bucket": "bbb", "Key": "k"})
    key_id = signed.partition("X-Amz-Credential=")[2].partition("%2F")[0]
    meta = client.meta
    return meta.endpoint_url, meta.region_name, meta.config.request_checksum_calculation, key_id


def headers_of_a_request(config: RunConfig, _: Path) -> list[str]:
    """Names of the headers with which an object would be asked for."""
    seen: list[str] = []

    def stop(request: Any, **_: Any) -> None:
        seen.extend(sorted(map(str.lower, request.headers)))
        raise InterruptedError

    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with mock.patch.dict(os.environ, keys):
        client = s3_client(config.storage.access)
        client.meta.events.register_first("before-send.s3", stop)
        with pytest.raises(InterruptedError):
            client.get_object(Bucket="bbb", Key="k")
        client.meta.events.unregister("before-send.s3", stop)
    return seen


def credentials_in_a_task(config: RunConfig, _: Path) -> str:
    """The variables that a task's child process would get."""
    block = mock.Mock()
    block.get.return_value = {"aws_access_key_id": "id", "aws_secret_access_key": "s"}
    with (
        mock.patch.object(Secret, "load", lambda name: block),
        credentials_of(config.storage),
    ):
        given = in_use()
    return ",".join(given.environment()) if given else "boto3's own chain"


def command(config: RunConfig, folder: Path) -> list[str]:
    """The command line of a job's ranks, without the port that was free and the folder."""
    line = launch._command(config.runtime, folder)
    return [
        item.replace(str(folder), "RUN_DIR")
        for item in line
        if config.runtime.master_port or not item.startswith("--master_port")
    ]


def chosen_operators(config: RunConfig, folder: Path) -> str:
    return str(choice.describe(config.runtime.kernels, config.runtime.device))


def cores_of_rank_0(config: RunConfig, _: Path) -> list[Any]:
    with (
        mock.patch("os.sched_setaffinity") as pin,
        mock.patch("effnet_core.system.machine.available_cores", return_value=[0, 1, 2, 3]),
    ):
        worker._take_cores(config, rank=0)
    return [call.args for call in pin.call_args_list]


class Clock:
    """Time that passes only while somebody sleeps."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def end_of_a_job_of_two_seconds(config: RunConfig, folder: Path) -> str:
    clock = Clock()
    process = mock.Mock(poll=lambda: None if clock.now < 2 else 0)
    with mock.patch.object(launch, "time", clock):
        try:
            events = launch._EventTail(folder / EVENTS_NAME)
            launch._wait(process, config.runtime, folder, events)
        except JobTimeout:
            return "stopped"
    return "ended"


def end_of_a_job_that_only_waits(config: RunConfig, folder: Path) -> str:
    clock = Clock()
    process = mock.Mock(poll=lambda: None if clock.now < 3600 else 0)
    with (
        mock.patch.object(launch, "time", clock),
        mock.patch.object(launch, "read_processes", return_value={1: Process("sleeping", 0.0)}),
        mock.patch.object(stall.time, "monotonic", clock.monotonic),
        mock.patch.object(StallWatch.__init__, "__defaults__", (clock.monotonic,)),
    ):
        try:
            events = launch._EventTail(folder / EVENTS_NAME)
            launch._wait(process, config.runtime, folder, events)
        except WorkerStalled:
            return "stopped"
    return "ended"


def started_process(config: RunConfig, folder: Path) -> tuple[list[str], str | None]:
    """The supervisor's command line, and the environment of a job."""
    process = mock.Mock(stdin=mock.Mock(), **{"poll.return_value": 0})
    with (
        mock.patch.object(launch.subprocess, "Popen", return_value=process) as popen,
        mock.patch.dict(os.environ),
        pytest.raises(launch.WorkerLost),
    ):
        os.environ.pop("GLOG_v", None)
        run_job(TrainJob(folder, "d"), config, folder)
    argv = [item.replace(str(folder), "RUN_DIR") for item in popen.call_args.args[0]]
    return argv, popen.call_args.kwargs["env"].get("GLOG_v")


def loading_of_cuda_kernels(config: RunConfig, _: Path) -> str:
    return launch._child_environment(config.runtime)["CUDA_MODULE_LOADING"]


def sixteen_bits(config: RunConfig, _: Path) -> str:
    return config.amp_dtype


EXPONENTIAL = ("schedule.name=exponential",)
POLYNOMIAL = ("schedule.name=polynomial", "schedule.decay_epochs=100")
PIECES = ("schedule.name=piecewise_constant", "schedule.warmup_epochs=0")
PORT = "runtime.master_port=23456"
TWO_RANKS = ("runtime.world_size=2",)
ON_ASCEND = ("runtime.device=Ascend", "train.amp_level=O2")

PROOFS = {
    "model.variant": Proof("efficientnet_b4", network_size),
    "data.image_size": Proof("192", pixels),
    "data.crop_pct": Proof("0.6", pixels),
    "data.interpolation": Proof("bilinear", pixels),
    "data.mean": Proof("[0.5, 0.5, 0.5]", pixels),
    "data.std": Proof("[0.5, 0.5, 0.5]", pixels),
    "data.background": Proof("black", pixels_of_a_transparent_image),
    "data.max_pixels": Proof("60000", answers_or_not),
    "data.layout": Proof("classes", staged_labels),
    "data.path_column": Proof("b", table_labels),
    "data.label_column": Proof("y", table_labels),
    "data.table_root": Proof("elsewhere", table_labels),
    "data.names_encoding": Proof("cp866", names_in_a_zip),
    "data.global_batch_size": Proof("128", batch_of_rank_1, TWO_RANKS),
    "optim.base_lr": Proof("0.1", rates),
    "schedule.name": Proof("exponential", rates),
    "schedule.warmup_epochs": Proof("1", rates),
    "schedule.min_lr": Proof("0.001", rates),
    "schedule.decay_factor": Proof("0.5", rates, EXPONENTIAL),
    "schedule.decay_epochs": Proof("1", rates, EXPONENTIAL),
    "schedule.stair": Proof("false", rates, EXPONENTIAL),
    "schedule.by_epoch": Proof("true", rates),
    "schedule.power": Proof("2", rates, POLYNOMIAL),
    "schedule.cycle": Proof("true", rates, POLYNOMIAL),
    "schedule.milestones": Proof(
        "[20, 30]",
        rates,
        (*PIECES, "schedule.milestones=[10, 30]", "schedule.rates=[0.2, 0.1]"),
    ),
    "schedule.rates": Proof(
        "[0.3, 0.1]",
        rates,
        (*PIECES, "schedule.milestones=[10, 30]", "schedule.rates=[0.2, 0.1]"),
    ),
    "data.repeats": Proof("2", order_of_an_epoch),
    "data.erase_rate": Proof("1", changed_batch),
    "data.hard_links": Proof("true", links_of_a_staged_file),
    "data.mixup_alpha": Proof("1", changed_batch),
    "data.cutmix_alpha": Proof("1", changed_batch),
    "train.epochs": Proof("10", rates),
    "train.budget": Proof("100 steps", rates),
    "train.amp_dtype": Proof("fp16", sixteen_bits, ON_ASCEND),
    "auto.quality": Proof("fast", lambda config, _: decide(config, FACTS).config.train),
    "auto.minutes": Proof("1", lambda config, _: decide(config, FACTS).config.train),
    "evaluate.min_top1": Proof("0.9", published),
    "evaluate.promote_if": Proof("better", published, ("evaluate.promote_margin=0.1",)),
    "evaluate.promote_margin": Proof("0.1", published),
    "infer.engine": Proof("mindspore", lambda config, _: engines.choose(config)),
    "infer.engine_threads": Proof("7", lambda config, folder: engine_of(config, folder).workers),
    "infer.precision": Proof("bf16", asked_precision, ("infer.engine=openvino",)),
    "infer.agreement": Proof("close", what_agrees),
    "infer.batch_size": Proof("4", lambda config, folder: engine_of(config, folder).micro_batch),
    "infer.readers": Proof("7", partial(threads_that, "reader")),
    "infer.decoders": Proof("7", partial(threads_that, "decoder")),
    "infer.fast_decode": Proof("false", answers, ("infer.features=true",)),
    "infer.recursive": Proof("false", images_found),
    "infer.probabilities": Proof("true", answers),
    "infer.features": Proof("true", answers),
    "infer.explain": Proof("true", explained),
    "infer.top_k": Proof("1", answers),
    "infer.shard_images": Proof("2", parts),
    "infer.max_error_share": Proof("0.5", end_with_one_error_in_six),
    "infer.format": Proof("csv", parts),
    "infer.keep_columns": Proof("[id]", columns_carried),
    "infer.partition_by": Proof("class", folders_of_parts),
    "infer.http_timeout_s": Proof("0.2", fetched),
    "infer.http_max_mb": Proof("0.001", fetched),
    "infer.http_tries": Proof("2", fetched),
    "infer.lease_s": Proof("5", lease_of_an_output),
    "storage.root": Proof("elsewhere", published),
    "storage.name": Proof("animals", published),
    "storage.int8": Proof("true", int8_of_a_publication),
    "storage.int8_max_drop": Proof("0.1", int8_of_a_publication, ("storage.int8=true",)),
    "storage.int8_images": Proof("9", int8_of_a_publication, ("storage.int8=true",)),
    "storage.endpoint_url": Proof("http://127.0.0.1:9", object_store_client),
    "storage.profile": Proof("lab", object_store_client),
    "storage.region": Proof("eu-west-1", object_store_client),
    "storage.checksums": Proof("when_required", object_store_client),
    "storage.anonymous": Proof("true", headers_of_a_request),
    "storage.requester_pays": Proof("true", headers_of_a_request),
    "storage.credentials_block": Proof("bucket-key", credentials_in_a_task),
    "runtime.lazy_kernels": Proof("false", loading_of_cuda_kernels, ("runtime.device=GPU",)),
    "runtime.world_size": Proof("4", command),
    "runtime.kernels": Proof("builtin", chosen_operators),
    "runtime.hosts": Proof("[127.0.0.1, 192.0.2.1]", command, (*TWO_RANKS, PORT)),
    "runtime.host_index": Proof(
        "1", command, (*TWO_RANKS, PORT, "runtime.hosts=[127.0.0.1, 192.0.2.1]")
    ),
    "runtime.pin_cores": Proof("false", cores_of_rank_0, TWO_RANKS),
    "runtime.master_port": Proof("23456", command, TWO_RANKS),
    "runtime.startup_timeout_s": Proof("77", command, TWO_RANKS),
    "runtime.stall_timeout_s": Proof("0", end_of_a_job_that_only_waits),
    "runtime.timeout_s": Proof("1", end_of_a_job_of_two_seconds),
    "runtime.stop_grace_s": Proof("3", started_process),
    "runtime.mindspore_log": Proof("info", started_process),
}


def test_every_setting_has_a_proof() -> None:
    named = [*every_setting.UNIT, *every_setting.CELLS, *every_setting.JOBS]
    assert sorted(named) == sorted(leaf_keys())
    assert sorted(PROOFS) == sorted(every_setting.UNIT)


@pytest.mark.parametrize("key", PROOFS)
def test_another_value_changes_something(key: str, tmp_path: Path) -> None:
    PROOFS[key].check(key, tmp_path)
