"""The ranks of a job and what they do together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, communication, ops
from numpy.typing import NDArray

from effnet_core.config.schema import RuntimeConfig
from effnet_core.errors import ConfigError, JobError
from effnet_core.events import Event, emit
from effnet_core.jobs.environment import compute_at_once
from effnet_core.system.machine import SLOW_FIRST_USE, available_cores, newer_than_kernels
from effnet_core.text import in_one_line

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int64]

DIGIT_BITS = 12

ROUNDING = 4.0
"""Last bits by which ranks may come apart in an update: its sums and products round a few times."""


def is_statistic(name: str) -> bool:
    """Whether a parameter is one of BatchNorm's running statistics."""
    return name.endswith(("moving_mean", "moving_variance"))


def rounding(dtype: object) -> float:
    """How far rounding may take a value of a type in one update, relative to its tensor's largest."""
    bits = {"Float16": 10, "BFloat16": 7}.get(str(dtype), 23)
    return ROUNDING * 2.0**-bits


def _apart(mine: FloatArray, first: FloatArray) -> float:
    """The largest difference, relative to the largest value; infinite where only one is a number."""
    same = (mine == first) | (np.isnan(mine) & np.isnan(first))
    if same.all():
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = float(np.abs(mine - first)[~same].max())
    scale = float(np.abs(first).max())
    return difference / scale if np.isfinite(difference) and scale > 0 else float("inf")


@dataclass(frozen=True)
class Group:
    """This process's place among the ranks."""

    rank: int
    world_size: int

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes files and logs."""
        return self.rank == 0

    def sum_floats(self, values: FloatArray) -> FloatArray:
        """Element-wise sum over all ranks; every rank gets it."""
        if self.world_size == 1:
            return values
        total: FloatArray = ops.AllReduce()(Tensor(values.astype(np.float32))).asnumpy()
        return total

    def sum_counts(self, values: IntArray) -> IntArray:
        """Element-wise sum over all ranks of whole numbers from 0 to 2**36, exact.

        MindSpore's CPU collective knows floats only, so each number travels as three digits of 12
        bits, whose sums over thousands of ranks are still exact in float32.
        """
        shifts = (0, DIGIT_BITS, 2 * DIGIT_BITS)
        digits = np.stack([(values >> shift) & ((1 << DIGIT_BITS) - 1) for shift in shifts])
        sums = self.sum_floats(digits.astype(np.float32)).astype(np.int64)
        total: IntArray = sum(part << shift for part, shift in zip(sums, shifts, strict=True))
        return total

    def gather_floats(self, values: FloatArray) -> FloatArray:
        """The values (n,) of every rank as (ranks, n), to the last bit; every rank gets them."""
        rows: FloatArray = ops.AllGather()(Tensor(values[None].astype(np.float32))).asnumpy()
        return rows

    def wait(self) -> None:
        """Wait until every rank has come here."""
        self.sum_floats(np.zeros(1, dtype=np.float32))

    def average_statistics(self, parameters: Iterable[Parameter]) -> None:
        """Give every rank the mean of all ranks' BatchNorm statistics.

        Each rank normalises by its own images, so running statistics drift apart while weights stay
        equal.
        """
        if self.world_size == 1:
            return
        moving = [p for p in parameters if is_statistic(p.name)]
        flat = np.concatenate([p.asnumpy().reshape(-1) for p in moving])
        flat = self.sum_floats(flat) / np.float32(self.world_size)
        start = 0
        for parameter in moving:
            piece = flat[start : start + parameter.size].reshape(parameter.shape)
            parameter.set_data(Tensor(piece.astype(np.float32)))
            start += parameter.size

    def keep_equal(self, parameters: Iterable[Parameter], *, steps: int) -> float:
        """Make sure that all ranks hold the same parameters to the last bit.

        All ranks apply the same updates, but with several threads a rank MindSpore may split a loop in
        another place than its neighbour does and round the last bit differently. Then every rank takes
        over rank 0's values.

        Args:
            parameters: weights, statistics and the optimizer's state.
            steps: updates since the ranks were equal.

        Returns:
            The largest difference of any rank to rank 0, relative to its tensor's largest value; every
            rank gets it. 0.0 where all were equal.

        Raises:
            JobError: a difference is more than ``steps`` times rounding; on every rank.
        """
        parameters = list(parameters)
        if self.world_size == 1 or self._all_equal(parameters_digest(parameters)):
            return 0.0
        mine = np.concatenate([p.asnumpy().astype(np.float32).reshape(-1) for p in parameters])
        first = self.sum_floats(mine if self.is_first else np.zeros_like(mine))
        ends = np.cumsum([p.size for p in parameters])[:-1]
        pieces = list(zip(np.split(mine, ends), np.split(first, ends), strict=True))
        apart = np.array([_apart(*piece) for piece in pieces], dtype=np.float32)
        allowed = np.array([rounding(p.dtype) for p in parameters]) * max(1, steps)
        found = self.gather_floats(apart)  # (ranks, parameters)
        rank, worst = np.unravel_index(int((found / allowed).argmax()), found.shape)
        if not found[rank, worst] <= allowed[worst]:
            raise JobError(
                f"rank {rank} differs from rank 0 by {found[rank, worst]:.2g} of the largest value of "
                f"{parameters[worst].name} after {steps} steps, and rounding explains "
                f"{allowed[worst]:.2g}; please report this"
            )
        for parameter, (_, values) in zip(parameters, pieces, strict=True):
            parameter.set_data(Tensor(values.reshape(parameter.shape), parameter.dtype))
        return float(found.max())

    def _all_equal(self, digest: str) -> bool:
        """Whether all ranks gave the same digest."""
        mine = np.frombuffer(bytes.fromhex(digest), dtype=np.uint8).astype(np.int64)
        return bool((self.sum_counts(mine) == mine * self.world_size).all())

    def require_equal(self, digest: str, *, what: str) -> None:
        """Make sure that all ranks hold the same ``digest``.

        Raises:
            JobError: they do not.
        """
        if self.world_size > 1 and not self._all_equal(digest):
            raise JobError(
                f"{what} differ between ranks, which must never happen; please report this"
            )


def parameters_digest(parameters: Iterable[Parameter]) -> str:
    """SHA-256 over names and values of parameters."""
    digest = hashlib.sha256()
    for parameter in parameters:
        digest.update(parameter.name.encode() + b"\0" + parameter.asnumpy().tobytes())
    return digest.hexdigest()


def join_group(runtime: RuntimeConfig) -> Group:
    """Choose the device and, with several ranks, meet the others.

    Raises:
        ConfigError: this machine cannot offer the device.
    """
    if runtime.device == "CPU":
        compute_at_once()
    ms.set_context(mode=ms.GRAPH_MODE)
    if runtime.device == "CPU":
        # MindSpore counts the machine's cores, not those that this rank may use; threads that share a
        # core spin against each other.
        cores = len(available_cores())
        ms.set_context(runtime_num_threads=cores)
        ms.set_device("CPU")
        if cores == 1:
            _compute_in_one_piece()
        return _meet(runtime)
    if runtime.device == "GPU" and newer_than_kernels():
        emit(Event("device", message=SLOW_FIRST_USE))
    try:
        ms.set_device(runtime.device)
        if runtime.device == "GPU":
            _tune_gpu(runtime)
        group = _meet(runtime)
        (Tensor([1.0]) + 1.0).asnumpy()  # MindSpore asks the driver no sooner
    except (RuntimeError, ValueError) as cause:
        raise ConfigError(
            f"runtime.device={runtime.device} is not available on this machine ({in_one_line(cause)}); "
            "use CPU, or install the driver and MindSpore's libraries for it"
        ) from cause
    return group


def _tune_gpu(runtime: RuntimeConfig) -> None:
    """Hand MindSpore what the settings say about its kernels; before the first operator."""
    precision, tuning = ms.device_context.gpu.op_precision, ms.device_context.gpu.op_tuning
    precision.conv_allow_tf32(runtime.conv_tf32)
    precision.matmul_allow_tf32(runtime.matmul_tf32)
    for choose in (tuning.conv_fprop_algo, tuning.conv_dgrad_algo, tuning.conv_wgrad_algo):
        choose(runtime.conv_algorithm)
    if runtime.fuse_kernels:
        ms.set_context(enable_graph_kernel=True)


def _meet(runtime: RuntimeConfig) -> Group:
    """This rank's place among the others."""
    if runtime.world_size == 1:
        return Group(0, 1)
    communication.init()
    ms.set_auto_parallel_context(parallel_mode=ms.ParallelMode.DATA_PARALLEL, gradients_mean=True)
    return Group(communication.get_rank(), communication.get_group_size())


def _compute_in_one_piece() -> None:
    """Let CPU kernels not cut their loops into pieces, of which there may be 25 for one core.

    They try several numbers of pieces and keep the one that was fastest, by a clock that a busy machine
    disturbs; other pieces round other last bits, so that no two runs would be sure to agree.
    """
    with suppress(RuntimeError):  # it was said before in this process
        ms.device_context.cpu.op_tuning.threads_num(1)
