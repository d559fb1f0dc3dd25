"""Where a generation's noise comes from: a generator for each image, so that a batch equals single images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from darkroom.api.names import RngType
from darkroom.core.rng import make_rng


class NoiseSource:
    """Noise of b images, drawn in stable-diffusion.cpp's order: first the initial noise, then the samplers'.

    seeds: one for each image, not negative.
    sampler_rng: None or the same kind as `rng` continues the image's generator after its initial noise;
    another kind is a generator of its own that starts at the same seed.
    Numbers are drawn on the CPU, so they are the same on every device.
    """

    def __init__(self, seeds: Sequence[int], rng: RngType, sampler_rng: RngType | None = None) -> None:
        self._initial = [make_rng(rng, seed) for seed in seeds]
        shared = sampler_rng is None or sampler_rng is rng
        self._sampler = self._initial if shared else [make_rng(sampler_rng or rng, seed) for seed in seeds]

    def initial(self, shape: tuple[int, ...]) -> Tensor:
        """Noise to start from: shape (c, h, w) of one image gives (b, c, h, w), float32 on the CPU."""
        return torch.stack([rng.randn(shape) for rng in self._initial])

    def next(self, like: Tensor) -> Tensor:
        """The samplers' next noise, with the shape, dtype and device of `like` (b, c, h, w)."""
        return to_device_of(like, torch.stack([rng.randn(tuple(like.shape[1:])) for rng in self._sampler]))

    def next_seeds(self) -> list[int]:
        """A 64-bit seed for each image: the bits of two normal numbers, first one low."""
        draws = torch.stack([rng.randn((2,)) for rng in self._sampler])
        words = (draws.view(torch.int32).to(torch.int64) & 0xFFFFFFFF).tolist()
        return [low | high << 32 for low, high in words]


def to_device_of(like: Tensor, noise: Tensor) -> Tensor:
    """`noise` from the CPU to where `like` is, without waiting for work that is under way there."""
    if like.is_cuda:
        # Only a pinned copy is asynchronous; from pageable memory it would first drain the stream.
        noise = noise.pin_memory()
    return noise.to(like.device, like.dtype, non_blocking=True)
