"""TAEHV's decoder for one picture: against a frame-by-frame walk, with a memory, over the same layers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from darkroom.nets.vae.taehv import MemBlock, TAEHVConfig, TAEHVDecoder, TGrow

SMALL = TAEHVConfig(latent_channels=4, widths=(16, 12, 8, 8))


def random_decoder(config: TAEHVConfig) -> TAEHVDecoder:
    torch.manual_seed(0)
    net = TAEHVDecoder(config).eval()
    for parameter in net.parameters():
        parameter.requires_grad_(False).mul_(2)
    return net


def frames_of(layers: list[nn.Module], memory: dict[nn.Module, Tensor], x: Tensor) -> list[Tensor]:
    """What becomes of one frame x (b, c, h, w), in the order of the author's streaming decoder."""
    if not layers:
        return [x]
    layer, rest = layers[0], layers[1:]
    if isinstance(layer, MemBlock):
        past = memory.get(layer, torch.zeros_like(x))
        memory[layer] = x
        return frames_of(rest, memory, torch.relu(layer.conv(torch.cat([x, past], 1)) + x))
    if isinstance(layer, TGrow):
        return [
            frame for part in layer.conv(x).chunk(layer.frames, 1) for frame in frames_of(rest, memory, part)
        ]
    return frames_of(rest, memory, layer(x))


@torch.inference_mode()
def test_the_picture_is_the_last_frame_of_the_first_latent() -> None:
    net = random_decoder(SMALL)
    latent = torch.randn(2, 4, 3, 5)
    frames = frames_of(list(net), {}, latent)
    assert len(frames) == 4
    got = net(latent)
    assert got.shape == (2, 3, 24, 40)
    torch.testing.assert_close(got, frames[-1] * 2 - 1, rtol=1e-5, atol=1e-5)
    assert (frames[-1] - frames[0]).abs().max() > 0.1  # any frame would not do


def shapes_of(config: TAEHVConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in TAEHVDecoder(config).state_dict().items()}


@pytest.mark.parametrize("config", [SMALL, TAEHVConfig()], ids=("small", "taew2_1"))
def test_config_is_read_from_shapes(config: TAEHVConfig) -> None:
    assert TAEHVConfig.from_shapes(shapes_of(config)) == config


def test_patched_pixels_are_not_taken_for_colours() -> None:
    """taew2_2's last layer gives 2x2 pixels each."""
    shapes = shapes_of(SMALL) | {"22.weight": (12, 8, 3, 3)}
    with pytest.raises(ValueError, match="several colours"):
        TAEHVConfig.from_shapes(shapes)
