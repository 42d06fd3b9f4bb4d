"""EfficientNet on MindSpore: the library below the flows, useful without them.

Importing this package loads neither MindSpore nor Prefect. Work on tensors happens in child
processes that ``effnet_core.launch`` starts (docs/adr/0003-launching.md says why).
"""

__version__ = "0.2.0"

__all__ = ["__version__"]
