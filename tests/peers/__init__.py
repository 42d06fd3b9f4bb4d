"""The full comparison with torchvision, timm and lukemelas (``make peers``)."""
