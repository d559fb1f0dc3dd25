"""What the probe says of networks whose answer is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from darkroom.api.names import PredictionType
from darkroom.families.latent_diffusion import LatentDiffusionConfig
from darkroom.families.sd2.probe import probe_prediction
from darkroom.nets.te.clip import CLIPTextConfig
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import KLConfig


def config_of(in_channels: int) -> LatentDiffusionConfig:
    unet = UNetConfig(
        in_channels=in_channels,
        model_channels=64,
        channel_mult=(1,),
        num_res_blocks=(1,),
        transformer_depth=(1,),
        context_dim=32,
        linear_proj=True,
    )
    return LatentDiffusionConfig(unet, KLConfig(), CLIPTextConfig(100, 77, 32, 64, 1, 1, "gelu"))


@pytest.mark.parametrize("in_channels", [4, 9])
@pytest.mark.parametrize(
    ("bias", "expected"),
    [(0.5, PredictionType.EPS), (-0.4, PredictionType.EPS), (-0.6, PredictionType.V)],
)
@torch.inference_mode()
def test_output_far_below_x_means_v(bias: float, expected: PredictionType, in_channels: int) -> None:
    config = config_of(in_channels)
    net = UNetModel(config.unet).eval()
    net.out[2].weight.zero_()
    net.out[2].bias.fill_(bias)  # so the output is `bias`, and x is 0.5
    assert probe_prediction(net, config) == expected


def test_the_probe_shows_constants() -> None:
    seen: list[Tensor] = []

    def watch(x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        seen.extend((x, t, context))
        return x[:, :4]

    probe_prediction(watch, config_of(9))
    x, t, context = seen
    assert (x.shape, t.tolist(), context.shape) == ((1, 9, 8, 8), [999.0], (1, 2, 32))
    assert (x[:, :4] == 0.5).all()
    assert not x[:, 4:].any()
    assert (context == 0.5).all()
