from __future__ import annotations

import torch

from darkroom.api.names import RngType
from darkroom.core.rng import make_rng
from darkroom.sampling.noise import NoiseSource


def test_each_image_has_its_own_generator() -> None:
    both = NoiseSource([3, 4], RngType.CUDA).initial((2, 5, 5))
    assert torch.equal(both[0], make_rng(RngType.CUDA, 3).randn((2, 5, 5)))
    assert torch.equal(both[1], make_rng(RngType.CUDA, 4).randn((2, 5, 5)))


def test_samplers_noise_continues_the_image_generator() -> None:
    rng = make_rng(RngType.CUDA, 3)
    first, second, third = (rng.randn((2, 5, 5)) for _ in range(3))
    for sampler_rng in (None, RngType.CUDA):
        noise = NoiseSource([3], RngType.CUDA, sampler_rng)
        like = noise.initial((2, 5, 5))
        assert torch.equal(like[0], first)
        assert torch.equal(noise.next(like)[0], second)
        assert torch.equal(noise.next(like)[0], third)


def test_another_sampler_rng_starts_at_the_seed() -> None:
    noise = NoiseSource([3], RngType.CUDA, RngType.CPU)
    like = noise.initial((2, 5, 5))
    assert torch.equal(noise.next(like)[0], make_rng(RngType.CPU, 3).randn((2, 5, 5)))


def test_noise_takes_dtype_and_place_of_x() -> None:
    noise = NoiseSource([3], RngType.CPU)
    like = noise.initial((1, 4, 4)).to(torch.float64)
    assert noise.next(like).dtype == torch.float64
    assert noise.next(like.to("meta")).device.type == "meta"


def test_seeds_are_the_bits_of_two_numbers() -> None:
    draw = make_rng(RngType.CUDA, 8).randn((2,))
    expected = int.from_bytes(draw.numpy().tobytes(), "little")
    assert NoiseSource([8], RngType.CUDA).next_seeds() == [expected]
