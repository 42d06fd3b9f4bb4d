"""MindVision's commands."""
