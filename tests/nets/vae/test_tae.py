"""TAESD's decoder against diffusers' on the same random weights, and its config from shapes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import AutoencoderTiny

from darkroom.nets.vae.tae import TAESDConfig, TAESDDecoder

SMALL = TAESDConfig(latent_channels=4, width=16)
SIXTEEN = TAESDConfig(latent_channels=16, width=8, blocks=(2, 1, 1))
CONFIGS = pytest.mark.parametrize("config", [SMALL, SIXTEEN], ids=("taesd", "other-depth"))


def diffusers_tiny(config: TAESDConfig, net: TAESDDecoder) -> Any:  # noqa: ANN401
    levels = len(config.blocks)
    made: Any = AutoencoderTiny
    reference = made(
        latent_channels=config.latent_channels,
        encoder_block_out_channels=(config.width,) * levels,
        decoder_block_out_channels=(config.width,) * levels,
        num_encoder_blocks=(1,) * levels,
        num_decoder_blocks=config.blocks,
    )
    shifted = {}  # diffusers clamps outside of its list of layers
    for name, tensor in net.state_dict().items():
        place, rest = name.split(".", 1)
        shifted[f"layers.{int(place) - 1}.{rest}"] = tensor
    reference.decoder.load_state_dict(shifted, strict=True)
    return reference.eval()


@CONFIGS
@torch.inference_mode()
def test_decoder_equals_diffusers(config: TAESDConfig) -> None:
    torch.manual_seed(0)
    net = TAESDDecoder(config).eval()
    latent = torch.randn(2, config.latent_channels, 6, 5) * 2
    expected = diffusers_tiny(config, net).decode(latent).sample
    got = net(latent)
    assert got.shape == (2, 3, 6 * config.downscale, 5 * config.downscale)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@CONFIGS
def test_config_is_read_from_shapes(config: TAESDConfig) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in TAESDDecoder(config).state_dict().items()}
    assert TAESDConfig.from_shapes(shapes) == config


def test_a_missing_layer_is_named() -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in TAESDDecoder(SMALL).state_dict().items()}
    del shapes["17.weight"]
    with pytest.raises(KeyError, match=r"17\.weight"):
        TAESDConfig.from_shapes(shapes)
