"""The one tree of settings: read from a recipe and overrides, validated once, then frozen.

Precedence: class defaults < recipe < ``-o section.key=value``. A file, a deployment's parameters and
a form on the dashboard all take the path through ``load_config``.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from effnet_core.errors import ConfigError
from effnet_core.family.variants import (
    DEFAULT_BN_EPS,
    DEFAULT_PADDING,
    DROP_PATH_RATE,
    Padding,
    Variant,
)
from effnet_core.family.variants import variant as variant_row
from effnet_core.storage.client import S3Access
from effnet_core.system.machine import devices
from effnet_core.text import nearest

REFERENCE_BATCH_SIZE = 256
"""The global batch size that ``optim.base_lr`` is given for."""


class Section(BaseModel):
    """A frozen group of settings that knows its own keys and no others."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse ``train.epochs=true``, which pydantic would read as 1."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        if isinstance(value, bool) and annotation is not bool:
            raise ValueError(f"must not be a boolean; got {value}")
        return value


class ModelConfig(Section):
    """Which network."""

    variant: str = "efficientnet_b0"
    """Member of the family; `effnet models` lists them."""
    num_classes: int | None = Field(None, ge=2)
    """Outputs of the classifier; counted from the data set when absent."""
    drop_rate: float | None = Field(None, ge=0, lt=1)
    """Probability of dropping an input of the classifier; the variant's own when absent."""
    drop_path_rate: float = Field(DROP_PATH_RATE, ge=0, lt=1)
    """Probability of dropping the deepest residual branch; grows linearly from 0."""
    bn_momentum: float = Field(0.99, ge=0, lt=1)
    """Share of the old running statistics that one step keeps (MindSpore's convention)."""
    bn_eps: float | None = Field(None, gt=0)
    """Added to the variance inside BatchNorm; that of the weights, else 1e-3, when absent."""
    padding: Padding | None = None
    """symmetric, or same: TensorFlow's; that of the weights, else symmetric, when absent."""
    weights: str | None = None
    """What to start from instead of random weights: file, run folder, URL or name; same variant."""
    new_head: bool = False
    """Start a new classifier where the classes of `model.weights` are not those of the data set."""

    @field_validator("variant")
    @classmethod
    def _known_variant(cls, value: str) -> str:
        try:
            variant_row(value)
        except ConfigError as cause:
            raise ValueError(str(cause)) from cause
        return value


class DataConfig(Section):
    """Which images, and what is done to them before the network sees them."""

    train_split: str = "train"
    """Split of the staged data set that is learned from."""
    eval_split: str = "val"
    """Split that is evaluated."""
    image_size: int | None = Field(None, ge=16, le=2048)
    """Side of the square input, px; the variant's own when absent."""
    crop_pct: float | None = Field(None, gt=0, le=1)
    """Share of the resized side that evaluation's centre crop keeps; the variant's when absent."""
    interpolation: Literal["bicubic", "bilinear"] | None = None
    """How images are resized; as for the weights, else the variant's own, when absent."""
    mean: tuple[float, float, float] | None = None
    """Mean of R, G, B in 0-1 units, subtracted; as interpolation when absent."""
    std: tuple[float, float, float] | None = None
    """Deviation of R, G, B in 0-1 units, divided by; as interpolation when absent."""
    background: str | None = "white"
    """Colour that transparent images are laid on, by name or as '#rrggbb'; null drops transparency."""
    layout: Literal["auto", "classes", "splits", "names"] = "auto"
    """What the folders of a source are, where it does not tell: classes, or splits that hold classes; names
    where files are called by their class, as in cat.0.jpg."""
    path_column: str | None = None
    """Column of a table that names the images; one of the usual names when absent."""
    label_column: str | None = None
    """Column of a table that names the class; one of the usual names when absent."""
    table_root: str | None = None
    """Folder that the paths in a table are relative to; the table's own when absent."""
    names_encoding: str | None = None
    """Encoding of the names in a zip that does not say, such as gbk; guessed when absent."""
    max_pixels: int = Field(100_000_000, ge=1)
    """Larger images are set aside; JPEGs shrink while they are decoded and may have 16 times as many."""
    global_batch_size: int = Field(256, ge=1)
    """Images per update, all ranks together."""
    crop_scale: tuple[float, float] = (0.08, 1.0)
    """Range of the share of an image's area that training's random crop takes."""
    crop_ratio: tuple[float, float] = (0.75, 1.3333333333333333)
    """Range of that crop's width / height."""
    flip_rate: float = Field(0.5, ge=0, le=1)
    """Probability of mirroring a training image left to right."""
    policy: Literal["none", "randaugment", "autoaugment", "trivialaugment"] = "none"
    """Policy by which shape and colours of a training image are changed (MindSpore's own)."""
    policy_ops: int = Field(2, ge=1, le=16)
    """Changes that randaugment applies to an image, one after the other."""
    policy_magnitude: int = Field(9, ge=0, le=30)
    """Strength of randaugment's changes."""
    erase_rate: float = Field(0, ge=0, le=1)
    """Probability that a rectangle of a training image is filled with noise (random erasing)."""
    mixup_alpha: float = Field(0, ge=0)
    """Parameter of the Beta distribution by which two training images are blended; 0 means never."""
    cutmix_alpha: float = Field(0, ge=0)
    """Parameter of the Beta distribution by which a rectangle comes from another image; 0 means never."""
    repeats: int = Field(1, ge=1)
    """Passes over the training split in one epoch."""
    progressive_sizes: tuple[Annotated[int, Field(ge=16, le=2048)], ...] = ()
    """Sides of the training input, px, one after the other in equal parts of the run."""
    format: Literal["folder", "mindrecord"] = "folder"
    """What training and evaluation read: staged files, or MindRecord files made of them once."""
    hard_links: bool = False
    """Stage by hard links, which take no room, instead of copies: for a source whose files nobody
    changes, since a change would reach the data set too."""
    check_share: float = Field(0.01, ge=0, le=1)
    """Share of the files read in training and evaluation whose digest is compared with the manifest."""
    workers: int = Field(1, ge=1)
    """Threads that decode and augment, per rank; never more than the machine has cores."""
    sink: bool = False
    """Send training batches into MindSpore's queue on the device ahead of the steps; not on a CPU."""

    @field_validator("background")
    @classmethod
    def _known_colour(cls, value: str | None) -> str | None:
        if value is not None:
            rgb_of(value)
        return value

    @field_validator("names_encoding")
    @classmethod
    def _known_encoding(cls, value: str | None) -> str | None:
        try:
            codecs.lookup(value or "utf-8")
        except LookupError as cause:
            raise ValueError(f"must be an encoding such as gbk or cp866; got {value!r}") from cause
        return value

    @field_validator("std")
    @classmethod
    def _positive_std(
        cls, value: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
        if value is not None and min(value) <= 0:
            raise ValueError(f"must be positive, all three; got {value}")
        return value

    @field_validator("crop_scale", "crop_ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"needs 0 < low <= high; got {value}")
        return value

    @field_validator("crop_scale")
    @classmethod
    def _at_most_whole(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[1] > 1:
            raise ValueError(f"is a share of the area, at most 1; got {value}")
        return value


class OptimConfig(Section):
    """How weights follow gradients."""

    name: Literal["rmsprop", "sgd", "adamw"] = "rmsprop"
    """rmsprop is TensorFlow's (epsilon inside the root, mean square starts at 1)."""
    base_lr: float = Field(0.016, gt=0)
    """Peak learning rate per 256 images; the rate used is base_lr * global_batch_size / 256."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Momentum of the update; adamw's first beta."""
    decay: float = Field(0.9, ge=0, lt=1)
    """Decay of rmsprop's mean square."""
    epsilon: float = Field(1e-3, gt=0)
    """Added to rmsprop's mean square before the root, to adamw's after it."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of adamw's mean square."""
    weight_decay: float = Field(1e-5, ge=0)
    """L2 penalty (adamw: decoupled decay) of kernels and matrices; norms and biases have none."""
    clip_norm: float = Field(0, ge=0)
    """Length to which the gradient of all weights together is cut; 0 means never."""
    accumulate_steps: int = Field(1, ge=1)
    """Batches whose gradients make one update; each is a part of data.global_batch_size."""
    backbone_lr_scale: float = Field(1.0, gt=0, le=1)
    """Learning rate of everything but the classifier, as a share of the classifier's."""
    layer_decay: float = Field(1.0, gt=0, le=1)
    """Learning rate of a block as a share of the next one's, from the classifier down to the stem."""


class ScheduleConfig(Section):
    """The learning rate over time."""

    name: Literal[
        "cosine", "exponential", "natural_exp", "inverse", "polynomial", "piecewise_constant"
    ] = "cosine"
    """Shape after warm-up."""
    warmup_epochs: float = Field(5, ge=0)
    """Epochs of linear rise from 0; part of the run."""
    min_lr: float = Field(0.0, ge=0)
    """Where cosine and polynomial end; no schedule but piecewise_constant goes below it."""
    decay_factor: float = Field(0.97, gt=0)
    """exponential: multiplier; natural_exp, inverse: how fast it decays."""
    decay_epochs: float | None = Field(None, gt=0)
    """exponential, inverse: epochs of one decay (2.4); cosine, polynomial: of the fall (the run)."""
    stair: bool = True
    """exponential, natural_exp, inverse: fall at once after decay_epochs, not a little every step."""
    by_epoch: bool = False
    """Hold the learning rate constant within an epoch, as MindSpore's own functions do."""
    power: float = Field(1.0, gt=0)
    """Exponent of the polynomial."""
    cycle: bool = False
    """polynomial: begin again after decay_epochs, with a longer fall each time."""
    milestones: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """piecewise_constant: steps at which each learning rate ends; the last one stays."""
    rates: tuple[Annotated[float, Field(gt=0)], ...] = ()
    """piecewise_constant: learning rates as they are used, not scaled to the batch."""

    @model_validator(mode="after")
    def _pieces_fit(self) -> ScheduleConfig:
        milestones, rates = self.milestones, self.rates
        if self.name != "piecewise_constant":
            if milestones or rates:
                raise ValueError(
                    f"schedule.milestones and schedule.rates belong to piecewise_constant, not to "
                    f"{self.name}; leave them out or change schedule.name"
                )
        elif len(milestones) != len(rates) or not rates:
            raise ValueError(
                f"schedule.milestones has {len(milestones)} entries and schedule.rates {len(rates)}; "
                "piecewise_constant needs as many of each, at least one"
            )
        elif list(milestones) != sorted(set(milestones)):
            raise ValueError(
                f"schedule.milestones={list(milestones)} must rise from each to the next"
            )
        return self


Unit = Literal["epochs", "steps", "images", "minutes"]


@dataclass(frozen=True)
class Budget:
    """A length of training."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """The length that a text such as ``30 minutes`` means.

        Raises:
            ValueError: it is none; the message names the units.
        """
        number, _, unit = text.strip().partition(" ")
        try:
            amount = float(number)
        except ValueError:
            amount = math.nan
        unit = unit.strip() if unit.strip().endswith("s") else f"{unit.strip()}s"
        if unit not in get_args(Unit) or not 0 < amount < math.inf:
            raise ValueError(
                f"must be a number above 0 and one of {', '.join(get_args(Unit))}, such as "
                f"'30 minutes'; got {text!r}{nearest(unit, get_args(Unit))}"
            )
        return cls(amount, cast(Unit, unit))

    def steps(self, *, steps_per_epoch: int, batch_size: int) -> int | None:
        """Updates in it, rounded up; None where only the clock can tell."""
        per_unit = {"epochs": steps_per_epoch, "steps": 1, "images": 1 / batch_size}
        if self.unit == "minutes":
            return None
        return math.ceil(self.amount * per_unit[self.unit] - 1e-9)

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


class AutoConfig(Section):
    """Settings that are decided by data, machine and weights where a person leaves them open."""

    enabled: bool = False
    """Decide every setting that is not given, and say why, before the run starts."""
    quality: Literal["fast", "good", "best"] = "good"
    """fast fits a classifier on the weights' features; good fine-tunes for minutes; best for longer."""
    minutes: float | None = Field(None, gt=0)
    """Minutes that the whole run may take, from its start."""


class TrainConfig(Section):
    """The training run."""

    epochs: int = Field(350, ge=1)
    """Epochs of the run."""
    budget: str | None = None
    """Length of the run in another unit, instead of epochs: '90000 steps', '30 minutes', '5e6 images'."""
    probe: Literal["none", "first", "only"] = "none"
    """Fit the classifier alone on features of `model.weights`, in seconds, and train from there; only: and
    do not train."""
    freeze_epochs: int = Field(0, ge=0)
    """First epochs in which only the classifier learns, with the weights' BatchNorm statistics."""
    freeze_bn: bool = False
    """Train with BatchNorm's running statistics, as inference does, and leave them as they are: short
    fine-tuning then starts from what the weights answer. model.bn_momentum has no effect."""
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    """Probability mass moved from the true class to all."""
    class_weights: Literal["balanced"] | tuple[Annotated[float, Field(gt=0)], ...] | None = None
    """Weight of each class in the loss; balanced: as many times more as it is rarer."""
    amp_level: Literal["O0", "O2", "O3"] = "O0"
    """Mixed precision: O0 is float32; O2 is all but BatchNorm in 16 bits, O3 BatchNorm too (not on a GPU)."""
    amp_dtype: Literal["auto", "fp16", "bf16"] = "auto"
    """The 16 bits of O2 and O3; auto is bf16 on an Ascend where the layers have it, else fp16."""
    amp_norm: Literal["fp32", "mixed"] = "fp32"
    """O2: what BatchNorm takes and gives: float32, or the 16 bits around it, with sums and statistics in
    float32; that saves two casts a layer."""
    loss_scale: Literal["dynamic"] | Annotated[float, Field(ge=1)] = "dynamic"
    """fp16: factor of the loss, so that small gradients stay above zero; dynamic follows overflows."""
    ema_decay: float = Field(0, ge=0, lt=1)
    """Decay of a moving average of the weights, which then is evaluated and published; 0 means none."""
    early_stop_evaluations: int = Field(0, ge=0)
    """Evaluations without a better top-1 after which the run ends; 0 means never."""
    final_model: Literal["last", "best"] = "last"
    """Which weights the finished model has: the last ones or those of the best evaluation."""
    calibrate: bool = True
    """At the end fit a temperature on the validation split that makes probabilities honest; answers stay."""
    seed: int = Field(0, ge=0)
    """Seed of initial weights, image order, augmentation and masks."""
    log_every_steps: int = Field(50, ge=1)
    """Steps between lines of the log and of metrics.jsonl."""
    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Where figures go besides metrics.jsonl: TensorBoard's event files in the run folder, MLflow."""
    evaluate_every_epochs: int = Field(1, ge=1)
    """Epochs between evaluations; the last epoch is always evaluated."""
    checkpoint_every_epochs: int = Field(1, ge=1)
    """Epochs between checkpoints; the last epoch is always saved."""
    checkpoint_every_steps: int = Field(0, ge=0)
    """Steps between checkpoints, besides those of epochs; 0 means none."""
    checkpoint_every_minutes: float = Field(15, ge=0)
    """Minutes after the last checkpoint at which another is written; 0 means none."""
    keep_checkpoints: int = Field(3, ge=1)
    """Newest checkpoints that are kept, besides the weights of the best evaluation."""
    resume_from: Path | None = None
    """Checkpoint of another run to continue from, with optimizer and position."""

    @field_validator("budget", mode="before")
    @classmethod
    def _readable_budget(cls, value: Any) -> str | None:
        if value is None:
            return None
        Budget.parse(str(value))
        return str(value)

    @property
    def length(self) -> Budget:
        """How long the run is."""
        return Budget.parse(self.budget) if self.budget else Budget(self.epochs, "epochs")


class EvaluateConfig(Section):
    """Evaluation and the gate before publication."""

    per_device_batch_size: int = Field(64, ge=1)
    """Images per forward pass on each rank."""
    min_top1: float = Field(0.0, ge=0, le=1)
    """A model below this top-1 is not promoted to production."""
    promote_if: Literal["better", "not_worse", "significantly_better"] = "not_worse"
    """How a model must compare with production on the same images: top-1 at most the margin below, more
    than the margin above, or above it with the whole 95 % interval and McNemar's p < 0.05."""
    promote_margin: float = Field(0.0, ge=0, le=1)
    """Difference in top-1 that `promote_if` allows or asks for."""


class InferConfig(Section):
    """Batch inference over a folder, a list or a bucket."""

    engine: Literal["auto", "mindspore", "onnxruntime", "openvino"] = "auto"
    """What computes. auto on a CPU: onnxruntime, or what a run of many pictures finds to be faster with
    the same answers; on a GPU onnxruntime where it has CUDA; else mindspore."""
    engine_threads: int = Field(0, ge=0)
    """Threads of onnxruntime and openvino; 0 means one for each core, or for every second one where
    that is measured to be faster."""
    precision: Literal["auto", "fp32", "fp16", "bf16", "int8"] = "auto"
    """Precision. auto is fp32, or on a CPU a faster one whose answers agree with it as `infer.agreement`
    says; fp32 asks for exactness. fp16 needs openvino or a GPU, bf16 openvino, int8 a model that
    `effnet quantize` has made one for."""
    agreement: Literal["strict", "close"] = "strict"
    """When answers agree with fp32's: the same best class, and no probability another by more than 0.01,
    on all but 0.2 % of pictures (strict), or by more than 0.05, on all but 1 % (close)."""
    batch_size: int = Field(0, ge=0)
    """Images in one call of the engine; 0 means the fastest of some, measured once on this machine."""
    decoders: int | None = Field(None, ge=0)
    """Threads that only decode; 0 lets those that compute decode; the fastest, measured once, when
    absent."""
    readers: int = Field(0, ge=0)
    """Threads that read files; 0 means 2 for folders and 16 for buckets and addresses of the web."""
    http_timeout_s: float = Field(30, gt=0)
    """Seconds that a picture at an address of the web may take to arrive."""
    http_max_mb: float = Field(100, gt=0)
    """Megabytes of a picture at an address of the web, at most."""
    http_tries: int = Field(4, ge=1)
    """Tries for each address of the web, with growing waits, while its server is busy or out of reach."""
    fast_decode: bool = True
    """Decode faster: shrink large JPEGs while decoding, to at least twice the size needed; one level off."""
    recursive: bool = True
    """Whether folders inside the input folder count too."""
    top_k: int = Field(5, ge=1)
    """Classes kept for each image, best first."""
    probabilities: bool = False
    """Also keep the probability of every class, as a column `probabilities`."""
    features: bool = False
    """Also keep the pooled features, as a column `features`: for search and drift."""
    explain: bool = False
    """Show in the report what spoke for the answers of the least certain pictures: class activation maps."""
    shard_images: int = Field(4096, ge=1)
    """Images in one part file; the unit that is retried."""
    max_error_share: float = Field(0.1, ge=0, le=1)
    """Share of unreadable images above which the run is stopped."""
    format: Literal["parquet", "csv", "jsonl"] = "parquet"
    """Form of the part files."""
    keep_columns: tuple[str, ...] = ()
    """Columns of a list or of a table with pictures that answers carry too, such as `[id, customer]`."""
    partition_by: str | None = None
    """Write parts into a folder for each value (`class=cat/`): `class`, the best answer, or a kept column."""
    lease_s: float = Field(60, ge=1)
    """Seconds after which another machine takes over a shard of an output in a bucket whose process has
    given no sign of life."""

    @property
    def answers_precision(self) -> str:
        """The precision that a run's answers belong to: auto means answers that agree with fp32's."""
        return "fp32" if self.precision == "auto" else self.precision


class StorageConfig(Section):
    """Where models are published, and how object stores are reached."""

    root: str = "store"
    """Folder or s3://bucket/prefix of the model store."""
    name: str = Field("efficientnet", pattern=r"^[a-z0-9][a-z0-9._-]{0,62}$")
    """Name under which versions are published: lower-case letters, digits, dot, dash, underscore."""
    onnx: bool = False
    """Publish the model as ONNX too, after it was compared with MindSpore (some seconds)."""
    int8: bool = False
    """Publish an int8 network too, where it loses at most `storage.int8_max_drop` of top-1."""
    int8_max_drop: float = Field(0.005, ge=0, le=1)
    """Share of top-1 on the whole validation split that int8 may lose."""
    int8_images: int = Field(256, ge=1)
    """Training images from which int8 takes the ranges of activations."""
    endpoint_url: str | None = None
    """Address of the S3 server; by AWS_ENDPOINT_URL or the profile, else AWS itself, when absent."""
    profile: str | None = None
    """Profile of the AWS configuration files that holds credentials; boto3's own chain when absent."""
    region: str | None = None
    """Region of the buckets; by environment or profile, else us-east-1, when absent."""
    checksums: Literal["when_supported", "when_required"] = "when_supported"
    """when_required is for S3 servers that do not know the newer checksums of transfers."""
    anonymous: bool = False
    """Read public buckets without credentials."""
    requester_pays: bool = False
    """Pay for requests to buckets whose owners let those who read pay."""
    credentials_block: str | None = None
    """Name of the Prefect Secret block that holds S3 credentials as JSON; used by flows only."""

    @property
    def access(self) -> S3Access:
        """How object stores are reached."""
        return S3Access(
            self.endpoint_url,
            self.profile,
            self.region,
            self.checksums,
            self.anonymous,
            self.requester_pays,
        )


GPU_ONLY = (
    "layout",
    "conv_tf32",
    "matmul_tf32",
    "conv_algorithm",
    "fuse_kernels",
    "lazy_kernels",
)
"""Settings of ``runtime`` that only GPUs have."""


class RuntimeConfig(Section):
    """Processes and devices."""

    device: Literal["CPU", "GPU", "Ascend"] = "CPU"
    """What MindSpore computes on."""
    world_size: int = Field(1, ge=1)
    """Processes that train or evaluate together, one a device; on all hosts together. On GPU and Ascend
    as many as this machine has devices, times the hosts, when absent."""
    hosts: tuple[str, ...] = ()
    """Addresses of the machines that train together, rank 0's first; empty means this one alone."""
    host_index: int | None = Field(None, ge=0)
    """Which of `runtime.hosts` this machine is, from 0; found by its addresses when absent."""
    kernels: Literal["auto", "builtin", "native"] = "auto"
    """CPU kernels of training and evaluation: this project's own where they can be had; MindSpore's
    built-in ones; own ones or an error. builtin also leaves resizing in labelling to Pillow."""
    pin_cores: bool = True
    """Give each CPU process cores of its own."""
    master_port: int = Field(0, ge=0, le=65535)
    """Port at which ranks meet; 0 takes a free one, which several hosts cannot know."""
    startup_timeout_s: int = Field(120, ge=5)
    """Seconds that ranks wait for each other at the start."""
    timeout_s: int = Field(0, ge=0)
    """Seconds after which a job is stopped; 0 means never."""
    stall_timeout_s: int = Field(900, ge=0)
    """Seconds without a sign of life, such as computing, after which a job is ended so that it can be
    tried again; 0 means never."""
    stop_grace_s: int = Field(30, ge=1)
    """Seconds that a job has to save its state once it is asked to stop."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Order of channels and pixels inside a network that is trained; NHWC is for GPUs."""
    conv_tf32: bool = True
    """GPU: let convolutions round float32 to TF32, on which tensor cores compute; MindSpore's default."""
    matmul_tf32: bool = False
    """GPU: let matrix products round float32 to TF32."""
    conv_algorithm: Literal["normal", "performance"] = "normal"
    """GPU: how cuDNN chooses convolutions, forward and backward: by rules, or by trying all once."""
    fuse_kernels: bool = False
    """GPU: let MindSpore fuse element-wise kernels and compile them (graph kernel fusion)."""
    lazy_kernels: bool = True
    """GPU: load CUDA kernels when they are first called, not all of them at the start."""
    exact_resume: bool = True
    """Warm CPU kernels up by some steps before a run is resumed, so that they round as they did before."""
    mindspore_log: Literal["debug", "info", "warning", "error", "critical"] = "error"
    """Least severe message of MindSpore's own log that is written."""

    @model_validator(mode="before")
    @classmethod
    def _all_devices(cls, values: Any) -> Any:
        """A process for each device where nobody says how many."""
        if not isinstance(values, Mapping) or "world_size" in values:
            return values
        device, hosts = values.get("device"), values.get("hosts") or ()
        if device not in ("GPU", "Ascend") or not isinstance(hosts, Sequence):
            return values
        return {**values, "world_size": max(1, len(devices(device))) * max(1, len(hosts))}

    @model_validator(mode="after")
    def _gpu_settings_fit(self) -> RuntimeConfig:
        for key in GPU_ONLY:
            value, usual = getattr(self, key), type(self).model_fields[key].default
            if self.device != "GPU" and value != usual:
                shown = str(value).lower() if isinstance(value, bool) else value
                raise ValueError(
                    f"runtime.{key}={shown} is for runtime.device=GPU, not {self.device}; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _hosts_fit(self) -> RuntimeConfig:
        hosts, world, index = self.hosts, self.world_size, self.host_index
        if index is not None and index >= max(1, len(hosts)):
            raise ValueError(
                f"runtime.host_index={index} is none of the {len(hosts)} runtime.hosts, counted from 0"
            )
        if not hosts:
            return self
        if len(set(hosts)) < len(hosts):
            raise ValueError(f"runtime.hosts={', '.join(hosts)} names a host twice")
        if world % len(hosts) or world == len(hosts) == 1:
            raise ValueError(
                f"runtime.world_size={world} must be a multiple of the {len(hosts)} runtime.hosts, with at "
                "least 2 processes in all"
            )
        if not self.master_port:
            raise ValueError(
                "runtime.hosts needs runtime.master_port, the same on every host: a port that is free on "
                f"{hosts[0]} and that the others reach"
            )
        return self

    @property
    def local_world_size(self) -> int:
        """Processes on each host."""
        return self.world_size // max(1, len(self.hosts))

    @property
    def on_this_host(self) -> RuntimeConfig:
        """The same for a job that one host does alone."""
        changes = {"hosts": (), "host_index": None, "world_size": self.local_world_size}
        return self.model_copy(update=changes)


class RunConfig(Section):
    """Every setting of a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    infer: InferConfig = InferConfig()
    storage: StorageConfig = StorageConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    auto: AutoConfig = AutoConfig()

    @model_validator(mode="after")
    def _warmup_fits(self) -> RunConfig:
        warmup, epochs = self.schedule.warmup_epochs, self.train.length.amount
        if self._decides("schedule.warmup_epochs"):
            return self
        if self.train.length.unit == "epochs" and warmup >= epochs:
            raise ValueError(
                f"warmup_epochs={warmup:g} does not end before the run does (epochs={epochs:g}); "
                f"lower schedule.warmup_epochs or raise train.epochs"
            )
        return self

    def _decides(self, key: str) -> bool:
        """Whether a setting is open and will be decided."""
        section, _, leaf = key.partition(".")
        return self.auto.enabled and leaf not in getattr(self, section).model_fields_set

    @model_validator(mode="after")
    def _freezing_fits(self) -> RunConfig:
        frozen, epochs = self.train.freeze_epochs, self.train.length.amount
        if self.train.length.unit == "epochs" and frozen > epochs:
            raise ValueError(
                f"freeze_epochs={frozen} is more than the run has (epochs={epochs:g}); "
                "lower train.freeze_epochs or raise train.epochs"
            )
        if frozen and self.model.weights is None and not self._decides("model.weights"):
            raise ValueError(
                f"freeze_epochs={frozen} needs weights to start from: a random backbone must learn; "
                "set model.weights or leave out train.freeze_epochs"
            )
        return self

    @model_validator(mode="after")
    def _precision_fits(self) -> RunConfig:
        train, device = self.train, self.runtime.device
        if train.amp_level == "O3" and device == "GPU":
            raise ValueError(
                "train.amp_level=O3 needs a BatchNorm that evaluates in fp16, which MindSpore does not have "
                "on runtime.device=GPU; use O2"
            )
        if train.amp_norm == "mixed" and train.amp_level != "O2":
            raise ValueError(
                f"train.amp_norm=mixed needs train.amp_level=O2, not {train.amp_level}"
            )
        if train.amp_level == "O0" or train.amp_dtype != "bf16":
            return self
        if device != "Ascend":
            slow = " (slower there than train.amp_level=O0)" if device == "CPU" else ""
            raise ValueError(
                f"train.amp_dtype=bf16 cannot be computed by MindSpore on runtime.device={device}; use "
                f"fp16{slow}, or an Ascend"
            )
        if not self._has_bf16:
            raise ValueError(
                f"train.amp_dtype=bf16 does not go with train.amp_level={train.amp_level} and "
                f"{self.model.variant}: MindSpore's BatchNorm and ReLU6 know fp16 only; use fp16, or O2 "
                "and a variant with SiLU"
            )
        return self

    @model_validator(mode="after")
    def _sinking_fits(self) -> RunConfig:
        if self.data.sink and self.runtime.device == "CPU":
            raise ValueError(
                "data.sink=true needs a queue on the device, which MindSpore does not have on "
                "runtime.device=CPU; leave it out, or use a GPU or Ascend"
            )
        return self

    @property
    def _has_bf16(self) -> bool:
        """Whether MindSpore's layers know bf16 at this level; BatchNorm and ReLU6 do not."""
        level, norm = self.train.amp_level, self.train.amp_norm
        return level == "O2" and norm == "fp32" and self.row.activation == "silu"

    @property
    def amp_dtype(self) -> Literal["fp16", "bf16"]:
        """The 16 bits of mixed precision: the setting, or what suits the device."""
        if self.train.amp_dtype != "auto":
            return self.train.amp_dtype
        return "bf16" if self.runtime.device == "Ascend" and self._has_bf16 else "fp16"

    @property
    def row(self) -> Variant:
        """The variant's row of the table."""
        return variant_row(self.model.variant)

    @property
    def image_size(self) -> int:
        """Side of the input, px: the setting or the variant's own."""
        return self.data.image_size or self.row.image_size

    @property
    def train_image_size(self) -> int:
        """Side of the input in training, px: the setting or the variant's own."""
        return self.data.image_size or self.row.train_size or self.row.image_size

    @property
    def crop_pct(self) -> float:
        """Share kept by the centre crop: the setting or the variant's own."""
        return self.data.crop_pct or self.row.crop_pct

    @property
    def interpolation(self) -> Literal["bicubic", "bilinear"]:
        """How images are resized: the setting or the variant's own."""
        return self.data.interpolation or self.row.interpolation

    @property
    def mean(self) -> tuple[float, float, float]:
        """Mean of R, G, B: the setting or the variant's own."""
        return self.data.mean or self.row.mean

    @property
    def std(self) -> tuple[float, float, float]:
        """Deviation of R, G, B: the setting or the variant's own."""
        return self.data.std or self.row.std

    @property
    def background(self) -> tuple[int, int, int] | None:
        """R, G, B that transparent images are laid on, or None where transparency is dropped."""
        return None if self.data.background is None else rgb_of(self.data.background)

    @property
    def bn_eps(self) -> float:
        """Added to the variance inside BatchNorm."""
        return self.model.bn_eps or DEFAULT_BN_EPS

    @property
    def padding(self) -> Padding:
        """How convolutions pad."""
        return self.model.padding or DEFAULT_PADDING

    @property
    def drop_rate(self) -> float:
        """Dropout of the classifier: the setting or the variant's own."""
        rate = self.model.drop_rate
        return self.row.drop_rate if rate is None else rate

    @property
    def peak_lr(self) -> float:
        """The learning rate at the end of warm-up, scaled to the global batch."""
        return self.optim.base_lr * self.data.global_batch_size / REFERENCE_BATCH_SIZE

    @property
    def per_device_batch_size(self) -> int:
        """Images that one rank takes at a time: its share of the global batch, or of a part of it.

        Raises:
            ConfigError: the batch does not divide by the number of ranks. Evaluation and inference have
                batches of their own, so this is not a rule of the tree as a whole.
        """
        batch, world = self.data.global_batch_size, self.runtime.world_size
        parts = world * self.optim.accumulate_steps
        if batch % parts:
            lower = batch // parts * parts
            choices = " or ".join(str(n) for n in (lower, lower + parts) if n > 0)
            times = (
                f" times accumulate_steps={self.optim.accumulate_steps}" if parts > world else ""
            )
            raise ConfigError(
                f"global_batch_size={batch} does not divide by world_size={world}{times}; "
                f"use {choices} (data.global_batch_size)"
            )
        return batch // parts


def rgb_of(colour: str) -> tuple[int, int, int]:
    """R, G, B of a colour's name or ``#rrggbb``.

    Raises:
        ValueError: it is not a colour.
    """
    from PIL import ImageColor

    try:
        red, green, blue = ImageColor.getrgb(colour)[:3]
    except ValueError as cause:
        hint = nearest(colour, ImageColor.colormap)
        raise ValueError(
            f"must be a colour such as 'white' or '#rrggbb'; got {colour!r}{hint}"
        ) from cause
    return red, green, blue
