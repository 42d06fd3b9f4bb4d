"""What people and tasks call: train, evaluate and label, each as a job in child processes."""

from effnet_core.api.evaluation import evaluate, evaluation_job
from effnet_core.api.finished import evaluation_of, training_result
from effnet_core.api.labelling import (
    finish_inference,
    infer,
    infer_shards,
    iter_predictions,
    plan_inference,
)
from effnet_core.api.opening import open_weights
from effnet_core.api.preparation import Prepared, prepare_training
from effnet_core.api.quantization import quantize
from effnet_core.api.staging import ensure_records, stage
from effnet_core.api.training import train

__all__ = [
    "Prepared",
    "ensure_records",
    "evaluate",
    "evaluation_job",
    "evaluation_of",
    "finish_inference",
    "infer",
    "infer_shards",
    "iter_predictions",
    "open_weights",
    "plan_inference",
    "prepare_training",
    "quantize",
    "stage",
    "train",
    "training_result",
]
