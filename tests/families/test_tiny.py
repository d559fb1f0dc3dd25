"""Colours of latents without a network, and tiny autoencoders of every family."""

from __future__ import annotations

import pytest
import torch

from darkroom.api.errors import CheckpointError
from darkroom.families import discover
from darkroom.families.latent_rgb import SD3_RGB, ChannelMix
from darkroom.families.latents import FLUX_LATENT, LatentFormat
from darkroom.families.tiny import TINY_FILES, native_name, read_tiny
from darkroom.nets.vae.tae import TAESDConfig, TAESDDecoder
from darkroom.nets.vae.taehv import TAEHVConfig, TAEHVDecoder
from darkroom.weights.source import MemorySource


def test_a_mix_is_a_sum_over_channels() -> None:
    mix = ChannelMix(((1.0, 0.0, 0.5), (0.0, -1.0, 0.5)), bias=(0.1, 0.2, 0.3))
    moved: list[tuple[int, ...]] = []

    def take(tensor: torch.Tensor) -> torch.Tensor:
        moved.append(tuple(tensor.shape))
        return tensor

    look = mix.on(take)
    latent = torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 5).to(torch.bfloat16)
    pixels = look(latent)
    assert pixels.shape == (1, 3, 4, 5)
    torch.testing.assert_close(pixels[0, :, 1, 2], torch.tensor([2.1, -2.8, 2.8]))
    look(latent)
    assert moved == [(2, 3), (3,)]  # once, not at every preview


def test_every_family_has_colours_and_a_tiny_autoencoder() -> None:
    for family in discover():
        assert len(family.latent.rgb.factors) == family.latent.channels
        assert family.latent.tiny in TINY_FILES


def test_stabilitys_mix_is_as_published() -> None:
    """sd3.5, sd3_impls.py, first and last row."""
    assert SD3_RGB.factors[0] == (-0.0645, 0.0177, 0.1052)
    assert SD3_RGB.factors[15] == (-0.1418, -0.1457, -0.1259)
    assert SD3_RGB.bias == (0, 0, 0)


@pytest.mark.parametrize(
    ("name", "native"),
    [
        ("3.conv.0.weight", "3.conv.0.weight"),
        ("decoder.layers.2.conv.0.weight", "3.conv.0.weight"),
        ("tae.decoder.layers.0.bias", "1.bias"),
        ("taesd_decoder.1.bias", "1.bias"),
        ("decoder.7.conv.weight", "7.conv.weight"),
        ("encoder.layers.0.weight", None),
        ("taesd_encoder.1.conv.0.weight", None),
        ("vae_scale", None),
    ],
)
def test_spellings(name: str, native: str | None) -> None:
    assert native_name(name) == native


VIDEO = TAEHVDecoder(TAEHVConfig(widths=(8, 8, 8, 8)))
PICTURE = TAESDDecoder(TAESDConfig(16, width=8))
WAN = LatentFormat(channels=16, downscale=8, scale=1.0, rgb=SD3_RGB, tiny="taew2_1")


def read(net: torch.nn.Module, latent: LatentFormat) -> str:
    return type(read_tiny(MemorySource(net.state_dict()).index, "it", "This model", latent).config).__name__


def test_videos_and_pictures_are_told_apart() -> None:
    assert read(VIDEO, WAN) == "TAEHVConfig"
    assert read(PICTURE, FLUX_LATENT) == "TAESDConfig"
    with pytest.raises(CheckpointError, match=r"videos of latents .* taef1_decoder"):
        read(VIDEO, FLUX_LATENT)
    with pytest.raises(CheckpointError, match=r"taew2_1\.safetensors"):
        read(PICTURE, WAN)
