"""Squares of latent pixels as the tokens of a diffusion transformer."""

from __future__ import annotations

from torch import Tensor

PATCH = 2
"""Latent pixels that a token covers in each direction."""


def patchify(x: Tensor) -> Tensor:
    """Squares of PATCH x PATCH latent pixels as tokens, row by row.

    x: (b, c, h, w), h and w even  ->  (b, h/2 * w/2, 4c), channels first in a token
    """
    b, c, h, w = x.shape
    x = x.reshape(b, c, h // PATCH, PATCH, w // PATCH, PATCH)
    return x.permute(0, 2, 4, 1, 3, 5).reshape(b, -1, c * PATCH * PATCH)


def unpatchify(tokens: Tensor, height: int, width: int) -> Tensor:
    """The inverse: (b, l, 4c)  ->  (b, c, height, width)."""
    rows, columns = height // PATCH, width // PATCH
    x = tokens.reshape(len(tokens), rows, columns, -1, PATCH, PATCH)
    return x.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), -1, height, width)
