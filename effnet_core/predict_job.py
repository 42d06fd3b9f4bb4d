"""The child's side of batch inference: shards in, part files out."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from effnet_core.config import InferConfig
from effnet_core.errors import Interrupted
from effnet_core.events import Event, emit
from effnet_core.files import write_json
from effnet_core.interrupts import stop_requested
from effnet_core.predict import Prediction, Predictor, Rejection, iter_predictions
from effnet_core.predictions import PARTS_NAME, SHARDS_NAME, read_inputs, write_part
from effnet_core.results import ShardResult

STAGE = "predict"


def predict_shards(
    predictor: Predictor, inputs: dict[str, Any], infer: InferConfig
) -> dict[str, Any]:
    """Label the shards of a job and write a part file for each.

    Args:
        predictor: an engine with the model.
        inputs: ``output``, ``input_root``, ``model_sha256`` and ``shards`` (start, stop, part).

    Returns:
        JSON-ready results of the shards.

    Raises:
        Interrupted: this process was asked to stop; finished shards stay.
    """
    output, root = Path(inputs["output"]), Path(inputs["input_root"])
    paths = read_inputs(output)
    total = sum(shard["stop"] - shard["start"] for shard in inputs["shards"])
    done = 0
    results = []
    for shard in inputs["shards"]:
        started = time.perf_counter()
        rows: list[Prediction] = []
        rejected: list[dict[str, str]] = []
        chosen = paths[shard["start"] : shard["stop"]]
        for answers in iter_predictions(
            predictor, root, chosen, batch_size=infer.batch_size, top_k=infer.top_k
        ):
            if stop_requested():
                raise Interrupted(
                    f"batch inference was stopped after {done} of {total} images; the same command "
                    "goes on with the shards that are missing"
                )
            for answer in answers:
                if isinstance(answer, Rejection):
                    rejected.append({"path": answer.path, "reason": answer.reason})
                else:
                    rows.append(answer)
            done += len(answers)
            emit(Event(STAGE, done=done, total=total))
        part = output / PARTS_NAME / shard["part"]
        write_part(part, rows, model_sha256=inputs["model_sha256"])
        result = ShardResult(
            part=str(part),
            start=shard["start"],
            stop=shard["stop"],
            labelled=len(rows),
            rejected=rejected,
            histogram=dict(Counter(row.class_names[0] for row in rows)),
            seconds=round(time.perf_counter() - started, 3),
        )
        write_json(output / SHARDS_NAME / f"{shard['part']}.json", result.to_dict())
        results.append(result.to_dict())
        emit(
            Event(
                STAGE,
                f"labelled {len(rows)} images, set aside {len(rejected)}, wrote {part.name}",
                done,
                total,
            )
        )
    return {"shards": results}
