"""Resizing by area in linear light.

Each new pixel is the mean of the part of the picture that it covers, as stb_image_resize does with its box
filter and the sRGB colour space in stable-diffusion.cpp.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def resize_by_area(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    """sRGB bytes (h, w) or (h, w, c) at (height, width) or (height, width, c)."""
    h, w = pixels.shape[:2]
    linear = _LINEAR_OF_SRGB[pixels].reshape(h, w, -1)
    rows = np.tensordot(_area_weights(h, height), linear, axes=(1, 0))  # (height, w, c)
    resized = np.tensordot(_area_weights(w, width), rows, axes=(1, 1))  # (width, height, c)
    return _srgb(resized.transpose(1, 0, 2)).reshape(height, width, *pixels.shape[2:])


def _area_weights(old: int, new: int) -> NDArray[np.float32]:
    """How much of each new pixel lies on each old one: (new, old), rows sum to 1."""
    edges = np.arange(new + 1) * (old / new)
    start, end = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)[None]
    covered = np.clip(np.minimum(end, pixel + 1) - np.maximum(start, pixel), 0, None)
    weights: NDArray[np.float32] = (covered / covered.sum(axis=1, keepdims=True)).astype(np.float32)
    return weights


def _linear_of_srgb() -> NDArray[np.float32]:
    """IEC 61966-2-1 for each of the 256 byte values."""
    v = np.arange(256) / 255
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4).astype(np.float32)


_LINEAR_OF_SRGB = _linear_of_srgb()


def _srgb(linear: NDArray[np.float32]) -> NDArray[np.uint8]:
    v = np.clip(linear, 0, 1)
    encoded = np.where(v <= 0.0031308, v * 12.92, 1.055 * np.maximum(v, 1e-9) ** (1 / 2.4) - 0.055)
    return (encoded * 255 + 0.5).astype(np.uint8)
