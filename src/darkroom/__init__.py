"""Darkroom: pictures from single-file checkpoints."""

__version__ = "0.1.0"
