"""Data sets: staging, manifests, transforms and loaders."""
