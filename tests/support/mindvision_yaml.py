"""A configuration in three files, laid out as MindVision lays out its own."""

from __future__ import annotations

from pathlib import Path

DATASET = """
data_loader:
  train:
    dataset:
      type: ImageNet
      path: "{path}" # Root directory of the data set.
      split: "train"
      batch_size: {batch}
      repeat_num: 1
      shuffle: True
      num_parallel_workers: 1
    map:
      operations:
        - type: RandomCropDecodeResize
          size: [224, 224]
          scale: [0.08, 1.0]
          ratio: [0.75, 1.333]
        - type: RandomHorizontalFlip
          prob: 0.5
        - type: Normalize
          mean: [123.675, 116.28, 103.53]
          std: [58.395, 57.12, 57.375]
        - type: HWC2CHW
  eval:
    dataset:
      type: ImageNet
      path: "{path}"
      split: "val"
      batch_size: {batch}
      num_parallel_workers: 1
    map:
      operations:
        - type: Decode
        - type: Resize
          size: 256
        - type: CenterCrop
          size: [224, 224]
        - type: Normalize
          mean: [123.675, 116.28, 103.53]
          std: [58.395, 57.12, 57.375]
        - type: HWC2CHW
"""

MODEL = """
model_name: "{variant}"
dataset_sink_mode: False
context:
  mode: 0
  device_target: "{device}"
model:
  type: BaseClassifier
  backbone:
    type: EfficientNet
    width_mult: {width}
    depth_mult: {depth}
  head:
    type: DenseHead
    input_channel: {channels}
    num_classes: {classes}
    keep_prob: 0.7
learning_rate:
  type: "cosine_decay_lr"
  min_lr: 0.0
  max_lr: {rate}
  total_step: 6005400
  step_per_epoch: 20018
  decay_epoch: {epochs}
optimizer:
  type: 'RMSProp'
  momentum: 0.9
loss:
  type: CrossEntropySmooth
  sparse: True
  reduction: "mean"
  smooth_factor: 0.1
  classes_num: {classes}
train:
  pre_trained: False
  pretrained_model: null
  ckpt_path: "./output/"
  epochs: {epochs}
  save_checkpoint_steps: 20018
  keep_checkpoint_max: 10
  run_distribute: True
eval:
  pretrained_model: "{weights}"
export:
  pretrained_model: ""
  batch_size: 256
  image_height: 300
  image_width: 300
  input_channel: 3
  file_name: "{variant}"
  file_formate: "ONNX"
"""

TOP = """
base_config: ['../datasets/data.yaml', './model.yaml']
image_size: [{size}, {size}]
"""

B3 = {
    "variant": "efficientnet_b3",
    "device": "GPU",
    "width": 1.2,
    "depth": 1.4,
    "channels": 1536,
    "classes": 1000,
    "rate": 0.1,
    "epochs": 300,
    "weights": "",
    "path": "",
    "batch": 64,
    "size": 300,
}


def write_yaml(root: Path, **changes: object) -> Path:
    """The three files below ``root``; values as of ``B3`` but for ``changes``."""
    values = B3 | changes
    (root / "datasets").mkdir(parents=True, exist_ok=True)
    (root / "efficientnet").mkdir(exist_ok=True)
    (root / "datasets" / "data.yaml").write_text(DATASET.format(**values))
    (root / "efficientnet" / "model.yaml").write_text(MODEL.format(**values))
    path = root / "efficientnet" / "run.yaml"
    path.write_text(TOP.format(**values))
    return path
