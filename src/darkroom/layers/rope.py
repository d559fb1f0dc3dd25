"""Rotary position embeddings (arXiv 2104.09864)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def rope_table(positions: Tensor, widths: Sequence[int], theta: float = 10000.0) -> Tensor:
    """The angles' cosines and sines for positions on several axes, as Flux and its kin use them.

    positions: (l, axes), any numbers. widths: how many of a head's d channels turn with each axis.
    ->  (l, d/2, 2) float32: cosine and sine of each pair of channels, from float64 where the device has it.
    """
    assert positions.shape[1] == len(widths), "one width for each axis"
    exact = torch.float32 if positions.device.type == "mps" else torch.float64
    angles = []
    for axis, width in enumerate(widths):
        exponents = torch.arange(0, width, 2, dtype=exact, device=positions.device) / width
        angles.append(positions[:, axis, None].to(exact) * theta**-exponents)  # (l, width/2)
    turned = torch.cat(angles, dim=-1)
    return torch.stack((turned.cos(), turned.sin()), dim=-1).float()


def split_axes(head_size: int, share: int) -> tuple[int, int, int]:
    """How many of a head's channels turn with a token's number, with its row and with its column.

    One in `share` turns with the number, about: row and column have equally many, all of them in pairs.
    """
    pairs = head_size // 2
    number = max(1, pairs // share)
    number += (pairs - number) % 2
    return 2 * number, pairs - number, pairs - number


def apply_rope(x: Tensor, table: Tensor) -> Tensor:
    """Turns neighbouring pairs of channels by their angles: (x0 + i x1) * e^(i angle).

    x: (b, n, l, d), table: (l, d/2, 2) or (b, l, d/2, 2) float32  ->  (b, n, l, d) in x's type
    """
    table = table.unsqueeze(-4) if table.dim() == 3 else table[:, None]  # (b or 1, 1, l, d/2, 2)
    cos, sin = table.unbind(-1)
    even, odd = torch.unflatten(x.float(), -1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2).to(x.dtype)


def apply_rope_halves(x: Tensor, table: Tensor) -> Tensor:
    """The same turn where a pair is channel i and channel i + d/2, as language models lay them out.

    x: (b, n, l, d), table: (l, d/2, 2) or (b, l, d/2, 2) float32  ->  (b, n, l, d) in x's type
    """
    table = table.unsqueeze(-4) if table.dim() == 3 else table[:, None]
    cos, sin = table.unbind(-1)
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1).to(x.dtype)
