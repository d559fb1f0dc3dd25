"""Images that leave a batch before it is done, without a sampler noticing."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from darkroom.sampling.guidance import C, Denoiser
from darkroom.sampling.steps import Denoised


class LiveRows:
    """`denoise(x, sigma)` of n images, of which some may leave; the network then runs for the others only.

    A sampler goes on with all of them. Those that left have seen a clean latent of zeros since.
    """

    def __init__(self, denoiser: Denoiser[C], n: int) -> None:
        self._denoiser = denoiser
        self._n = n
        self._rows = list(range(n))
        self._index: Tensor | None = None

    @property
    def rows(self) -> list[int]:
        """Those that are still there."""
        return list(self._rows)

    def leave(self, rows: Collection[int]) -> None:
        """These images are no longer asked for."""
        staying = [place for place, row in enumerate(self._rows) if row not in rows]
        if len(staying) == len(self._rows):
            return
        self._rows = [self._rows[place] for place in staying]
        self._index = None
        self._denoiser.keep(staying)

    def __call__(self, x: Tensor, sigma: float) -> Denoised:
        """The clean latents that x (n, c, h, w) seems to come from."""
        if len(self._rows) == self._n:
            return self._denoiser(x, sigma)
        if self._index is None:
            self._index = torch.tensor(self._rows, device=x.device)
        index = self._index
        found = self._denoiser(x.index_select(0, index), sigma)

        def placed(part: Tensor) -> Tensor:
            return torch.zeros_like(x, dtype=part.dtype).index_copy(0, index, part)

        return Denoised(placed(found.x0), None if found.uncond is None else placed(found.uncond))
