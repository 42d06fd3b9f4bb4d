"""The pure parts of the core: no MindSpore, a few seconds in all."""
