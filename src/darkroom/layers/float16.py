"""What float16 cannot hold."""

from __future__ import annotations

import torch
from torch import Tensor

MAX = 65504


def clamp_float16(x: Tensor) -> Tensor:
    """x cut to what float16 holds where that is its type; x itself elsewhere."""
    return x.clamp(-MAX, MAX) if x.dtype == torch.float16 else x
