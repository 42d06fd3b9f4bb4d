"""Labelling in the process that asks, row by row: for notebooks and programs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from effnet_core.config.schema import RunConfig
from effnet_core.errors import ConfigError
from effnet_core.infer import engines
from effnet_core.infer.answers import COLUMNS, OPTIONAL_COLUMNS
from effnet_core.infer.inputs import InputList
from effnet_core.infer.pipeline import Prediction, Wanted, iter_predictions
from effnet_core.infer.readers import MemberReader, open_reader
from effnet_core.infer.shards import resizer_for
from effnet_core.weights.checkpoint import Checkpoint

KNOWN_AT_ONCE = 4096
"""Files whose places in containers are known to the reader at once."""


def label_here(
    checkpoint: Checkpoint, listed: InputList, config: RunConfig
) -> Iterator[dict[str, Any]]:
    """A row for each file of a list: its answer, or why there is none.

    Raises:
        ConfigError: the engine is MindSpore, which needs a process of its own.
        EffnetError: as the engine and the source.
    """
    infer = config.infer
    engine, file = engines.prepare(checkpoint, config)
    if file is None:
        raise ConfigError(
            f"infer.engine={engine} runs in child processes only; choose infer.engine=onnxruntime, or use "
            "infer() with an output folder"
        )
    total = len(listed.paths)
    predictor = engines.load_for(engine, file, checkpoint, infer, total, config.runtime.device)
    source = open_reader(listed.root, config.storage, infer=infer, members=bool(listed.where))
    wanted = Wanted(
        infer.top_k,
        infer.probabilities,
        infer.features,
        infer.fast_decode,
        config.data.max_pixels,
        resize=resizer_for(total, config),
    )
    entries = iter(listed.entries())
    while some := list(itertools.islice(entries, KNOWN_AT_ONCE)):
        if isinstance(source, MemberReader):
            source.know(some)
        waiting = iter(some)
        for micro_batch in iter_predictions(
            predictor,
            source,
            [entry.path for entry in some],
            wanted,
            readers=infer.readers or source.readers,
            decoders=infer.decoders or 0,
        ):
            for answer in micro_batch.answers:
                kept = dict(
                    zip((name for name, _ in listed.columns), next(waiting).kept, strict=True)
                )
                if isinstance(answer, Prediction):
                    yield {**_row(answer), **kept}
                else:
                    yield {"path": answer.path, "error": answer.reason, **kept}


def _row(answer: Prediction) -> dict[str, Any]:
    values = {name: getattr(answer, name) for name in (*COLUMNS, *OPTIONAL_COLUMNS)}
    return {name: value for name, value in values.items() if value is not None}
