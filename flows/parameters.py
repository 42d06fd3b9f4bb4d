"""Types of flow parameters: what the dashboard's form shows and refuses before a run starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from prefect.runtime import flow_run
from pydantic import Field

from effnet_core.config.load import by_section
from effnet_core.config.recipes import recipe_names

AS_IN_RECIPE: Final = "as in recipe"
"""The entry of a list that leaves a setting as the recipe has it."""

NO_WEIGHTS: Final = "none"
"""What the field for weights takes for random ones, where the recipe has others."""

VariantName = Literal[
    "as in recipe",
    "efficientnet_b0",
    "efficientnet_b1",
    "efficientnet_b2",
    "efficientnet_b3",
    "efficientnet_b4",
    "efficientnet_b5",
    "efficientnet_b6",
    "efficientnet_b7",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
    "efficientnet_lite3",
    "efficientnet_lite4",
    "efficientnet_v2_s",
    "efficientnet_v2_m",
    "efficientnet_v2_l",
]
Device = Literal["as in recipe", "CPU", "GPU", "Ascend"]
Quality = Literal["as in recipe", "fast", "good", "best"]
Engine = Literal["as in recipe", "auto", "onnxruntime", "openvino", "mindspore"]
Runner = Literal["threads", "dask"]

# The recipes that come with the library, or a path of one's own.
Recipe = Annotated[
    str, Field(pattern=rf"^({'|'.join(map(str, recipe_names()))}|.+\.ya?ml)$", max_length=4096)
]
FolderPath = Annotated[str, Field(min_length=1, max_length=4096)]
Split = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Version = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")] | None
Share = Annotated[float, Field(ge=0, le=1)]
ValidationShare = Annotated[float, Field(ge=0, le=0.9)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
Epochs = Annotated[int, Field(ge=1, le=10_000)] | None
BatchSize = Annotated[int, Field(ge=1, le=1_000_000)] | None
LearningRate = Annotated[float, Field(gt=0, le=100)] | None
Minutes = Annotated[float, Field(gt=0, le=100_000)] | None
Processes = Annotated[int, Field(ge=1, le=1024)] | None
TopK = Annotated[int, Field(ge=1, le=1_000_000)] | None
ShardImages = Annotated[int, Field(ge=1, le=10_000_000)] | None
Column = Annotated[str, Field(min_length=1, max_length=256)] | None
Columns = list[Annotated[str, Field(min_length=1, max_length=256)]] | None
Workers = Annotated[int, Field(ge=1, le=1024)]
DaskAddress = Annotated[str, Field(pattern=r"^(tcp|tls|ucx|ws|wss)://[^\s/:]+:[0-9]+$")] | None
Overrides = list[Annotated[str, Field(pattern=r"^\s*[a-z]+\.[a-z0-9_]+\s*=")]] | None

VARIANTS = get_args(VariantName)[1:]


def form_values(fields: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """The fields of a form as settings by section; what the form leaves open is left out.

    Args:
        fields: value by ``section.key``; open where it is None, empty or ``as in recipe``.
    """
    return by_section(
        {key: None if value in ("", AS_IN_RECIPE) else value for key, value in fields.items()}
    )


def own_folder(kind: str) -> str:
    """A folder of this very flow run, the same in each of its starts, so that a retry continues.

    Args:
        kind: name of the folder above it.
    """
    return str(Path("runs", kind, f"{flow_run.name}-{str(flow_run.id)[:8]}").resolve())
