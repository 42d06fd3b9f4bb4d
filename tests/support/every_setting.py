"""Proof that every setting does something: the table of who proves what, and what a proof is.

A setting that is read by nobody is worse than none. Each key of ``RunConfig`` belongs to one of three
layers; ``tests/LAYER/test_every_setting.py`` holds its proof, and the first of them fails when a key
belongs to none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig

UNIT = (
    "model.variant",
    "data.image_size",
    "data.crop_pct",
    "data.interpolation",
    "data.mean",
    "data.std",
    "data.background",
    "data.max_pixels",
    "data.layout",
    "data.path_column",
    "data.label_column",
    "data.table_root",
    "data.names_encoding",
    "data.global_batch_size",
    "optim.base_lr",
    "schedule.name",
    "schedule.warmup_epochs",
    "schedule.min_lr",
    "schedule.decay_factor",
    "schedule.decay_epochs",
    "schedule.stair",
    "schedule.by_epoch",
    "schedule.power",
    "schedule.cycle",
    "schedule.milestones",
    "schedule.rates",
    "data.repeats",
    "data.erase_rate",
    "data.hard_links",
    "data.mixup_alpha",
    "data.cutmix_alpha",
    "train.epochs",
    "train.budget",
    "train.amp_dtype",
    "auto.quality",
    "auto.minutes",
    "evaluate.min_top1",
    "evaluate.promote_if",
    "evaluate.promote_margin",
    "infer.engine",
    "infer.engine_threads",
    "infer.precision",
    "infer.agreement",
    "infer.decoders",
    "infer.readers",
    "infer.fast_decode",
    "infer.recursive",
    "infer.probabilities",
    "infer.features",
    "infer.explain",
    "infer.batch_size",
    "infer.top_k",
    "infer.shard_images",
    "infer.max_error_share",
    "infer.format",
    "infer.http_timeout_s",
    "infer.http_max_mb",
    "infer.http_tries",
    "infer.keep_columns",
    "infer.partition_by",
    "infer.lease_s",
    "storage.root",
    "storage.name",
    "storage.int8",
    "storage.int8_max_drop",
    "storage.int8_images",
    "storage.endpoint_url",
    "storage.profile",
    "storage.region",
    "storage.checksums",
    "storage.anonymous",
    "storage.requester_pays",
    "storage.credentials_block",
    "runtime.lazy_kernels",
    "runtime.world_size",
    "runtime.kernels",
    "runtime.hosts",
    "runtime.host_index",
    "runtime.pin_cores",
    "runtime.master_port",
    "runtime.startup_timeout_s",
    "runtime.timeout_s",
    "runtime.stall_timeout_s",
    "runtime.stop_grace_s",
    "runtime.mindspore_log",
)
"""Proved without MindSpore."""

CELLS = (
    "model.num_classes",
    "model.drop_rate",
    "model.drop_path_rate",
    "model.bn_momentum",
    "model.bn_eps",
    "model.padding",
    "model.weights",
    "model.new_head",
    "data.train_split",
    "data.eval_split",
    "data.crop_scale",
    "data.crop_ratio",
    "data.flip_rate",
    "data.policy",
    "data.policy_ops",
    "data.policy_magnitude",
    "data.progressive_sizes",
    "data.check_share",
    "data.workers",
    "data.sink",
    "optim.name",
    "optim.momentum",
    "optim.decay",
    "optim.epsilon",
    "optim.beta2",
    "optim.clip_norm",
    "optim.accumulate_steps",
    "optim.layer_decay",
    "optim.weight_decay",
    "optim.backbone_lr_scale",
    "train.label_smoothing",
    "train.class_weights",
    "train.amp_level",
    "train.amp_norm",
    "train.trackers",
    "train.loss_scale",
    "train.ema_decay",
    "train.early_stop_evaluations",
    "train.final_model",
    "train.calibrate",
    "train.seed",
    "train.freeze_epochs",
    "train.freeze_bn",
    "train.resume_from",
    "runtime.layout",
    "runtime.conv_tf32",
    "runtime.matmul_tf32",
    "runtime.conv_algorithm",
    "runtime.fuse_kernels",
    "runtime.exact_resume",
    "evaluate.per_device_batch_size",
)
"""Proved with MindSpore in the test's process."""

JOBS = (
    "data.format",
    "train.log_every_steps",
    "train.evaluate_every_epochs",
    "train.checkpoint_every_epochs",
    "train.checkpoint_every_steps",
    "train.checkpoint_every_minutes",
    "train.keep_checkpoints",
    "runtime.device",
    "storage.onnx",
    "auto.enabled",
    "train.probe",
)
"""Proved by running a job."""


@dataclass(frozen=True)
class Proof:
    """What is seen of a setting's effect."""

    value: str
    """Another value than the default."""
    observe: Callable[[RunConfig, Path], Any]
    """Something real that follows from a configuration; gets an empty folder to work in."""
    given: tuple[str, ...] = ()
    """Other settings without which this one has no effect."""

    def check(self, key: str, folder: Path) -> None:
        """Fail unless the other value changes what is seen, and the same value does not."""
        usual = self._seen(folder / "a")
        if (self.observe, self.given) not in _STEADY:
            again = self._look(folder / "b", self.given)
            assert usual == again, f"{key}: what is observed changes by itself"
            _STEADY.add((self.observe, self.given))
        other = self._seen(folder / "c", f"{key}={self.value}")
        assert other != usual, f"{key}={self.value} changes nothing"

    def _seen(self, folder: Path, *overrides: str) -> Any:
        """What is seen with these settings, now or in an earlier proof: many share one."""
        settings = (*self.given, *overrides)
        if (self.observe, settings) not in _SEEN:
            _SEEN[self.observe, settings] = self._look(folder, settings)
        return _SEEN[self.observe, settings]

    def _look(self, folder: Path, settings: tuple[str, ...]) -> Any:
        folder.mkdir()
        return self.observe(load_config(None, list(settings)), folder)


_SEEN: dict[tuple[Callable[[RunConfig, Path], Any], tuple[str, ...]], Any] = {}
"""By what sees it and the settings."""
_STEADY: set[tuple[Callable[[RunConfig, Path], Any], tuple[str, ...]]] = set()
"""What was seen twice, alike both times."""
