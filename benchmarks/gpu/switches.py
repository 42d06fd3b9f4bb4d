"""The settings that the check tries: one by one, and those that promise something together."""

from __future__ import annotations

DEFAULT = "as installed"
O2, MIXED = "train.amp_level=O2", "train.amp_norm=mixed"
FAST = "runtime.conv_algorithm=performance"
TF32 = "runtime.matmul_tf32=true"
NHWC = "runtime.layout=NHWC"
FUSED = "runtime.fuse_kernels=true"

SWITCHES: dict[str, tuple[str, ...]] = {
    DEFAULT: (),
    "cuDNN tries all convolutions": (FAST,),
    "O2": (O2,),
    "O2, BatchNorm in 16 bits": (O2, MIXED),
    "together: all convolutions, TF32": (FAST, TF32),
    "together: NHWC, O2, BatchNorm in 16 bits, all convolutions": (NHWC, O2, MIXED, FAST),
    "together: O2, BatchNorm in 16 bits, all convolutions": (O2, MIXED, FAST),
    "NHWC": (NHWC,),
    "kernels fused": (FUSED,),
    "together: kernels fused, all convolutions, TF32": (FUSED, FAST, TF32),
    "together: kernels fused, O2, BatchNorm in 16 bits, all convolutions": (FUSED, O2, MIXED, FAST),
    "TF32 in matrix products": (TF32,),
    "no TF32 in convolutions": ("runtime.conv_tf32=false",),
    "all CUDA kernels loaded at the start": ("runtime.lazy_kernels=false",),
}
"""By what the table calls them, the most telling first: a check that is cut has those."""

PRECISIONS = ("float32", "bfloat16", "float16")
TORCH = {
    f"torch, {mode}, {precision}": (mode, precision)
    for mode in ("eager", "compiled")
    for precision in PRECISIONS
}
"""torch with channels_last; float32 with its TF32."""
