"""Which CPU kernels a run computes with on this machine, and why. MindSpore is not needed here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from effnet_core.errors import ConfigError
from effnet_core.kernels import build
from effnet_core.kernels.build import Unavailable

Mode: TypeAlias = Literal["auto", "native", "builtin"]
Device: TypeAlias = Literal["CPU", "GPU", "Ascend"]


@dataclass(frozen=True)
class Choice:
    """What training computes with on this machine."""

    native: bool
    reason: str
    """Why, in words that can stand after ``native kernels:`` or ``built-in kernels:``."""
    library: Path | None = None
    """Where the native kernels are, or will be once they are built."""

    def __str__(self) -> str:
        return f"{'native' if self.native else 'built-in'} kernels: {self.reason}"


def describe(mode: Mode, device: Device) -> Choice:
    """What a run would compute with, without building anything."""
    refused = _refusal(mode, device)
    if refused is not None:
        return Choice(False, refused)
    try:
        plan = build.plan()
    except Unavailable as cause:
        return Choice(False, str(cause))
    if not plan.library.exists():
        return Choice(True, f"built at first use, {plan}", plan.library)
    problem = build.problem_of(plan.library)
    if problem is not None:
        return Choice(
            True, f"{plan}, built anew at next use: the present file {problem}", plan.library
        )
    return Choice(True, str(plan), plan.library)


def library(mode: Mode, device: Device, tell: Callable[[str], None]) -> Path | None:
    """The library of native kernels, built where it has to be, or None for the built-in ones.

    Args:
        mode: as ``runtime.kernels``.
        device: as ``runtime.device``.
        tell: is given what is used and why, one line, and before it that something is built.

    Raises:
        ConfigError: ``runtime.kernels=native`` and they cannot be had.
    """
    if _refusal(mode, device) is not None:
        return None
    try:
        plan = build.plan()
        path = build.library(plan, tell)
    except Unavailable as cause:
        if mode == "native":
            raise ConfigError(
                f"runtime.kernels=native, but native CPU kernels cannot be used: {cause}; mend that, or set "
                "runtime.kernels=auto"
            ) from cause
        tell(f"CPU kernels: built-in, several times slower than native ones: {cause}")
        return None
    tell(f"CPU kernels: native ({plan})")
    return path


def _refusal(mode: Mode, device: Device) -> str | None:
    """Why the settings ask for the built-in kernels, if they do."""
    if device != "CPU":
        if mode == "native":
            raise ConfigError(
                f"runtime.kernels=native is for runtime.device=CPU, not {device}; set "
                "runtime.kernels=auto"
            )
        return f"runtime.device={device}"
    return "runtime.kernels=builtin" if mode == "builtin" else None
