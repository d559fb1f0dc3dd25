"""How far ours is from theirs."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference, as a share of the largest value."""
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max() / expected.abs().max())


def difference(ours: Image.Image, theirs: Image.Image) -> float:
    """The largest difference of two pictures, of 255."""
    pixels = [np.asarray(picture.convert("RGB"), dtype=np.float64) for picture in (ours, theirs)]
    assert pixels[0].std() > 5, "a flat picture would show nothing"
    return float(np.abs(pixels[0] - pixels[1]).max())
