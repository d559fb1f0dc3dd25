"""Embeddings of tokens and of scalars."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def embedding(rows: int, width: int) -> nn.Embedding:
    """A table of vectors, (rows, width).

    Not nn.Embedding's own normal weights: on the meta device torch imports its compiler to "draw" them.
    """
    return nn.Embedding(rows, width, _weight=torch.empty(rows, width).uniform_(-1, 1))


def timestep_embedding(t: Tensor, width: int, max_period: float = 10000.0) -> Tensor:
    """Sinusoids of the timestep, cosines first (arXiv 2006.11239, in LDM's order).

    t: (b,) in [0, 1000), may be fractional  ->  (b, width) float32
    """
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(steps * (-math.log(max_period) / half))
    angles = t.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)
