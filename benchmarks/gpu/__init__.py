"""What a machine with NVIDIA GPUs does with this project: ``make gpu-check`` (docs/gpu.md)."""
