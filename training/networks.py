"""The three networks of the built-in model: their sizes and their first weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from darkroom.nets.te.clip import CLIPTextConfig, CLIPTextModel
from darkroom.nets.unet import UNetConfig, UNetModel
from darkroom.nets.vae.kl import AutoencoderKL, KLConfig

N = TypeVar("N", bound=nn.Module)

TEXT = CLIPTextConfig(
    vocab_size=49408, num_positions=77, hidden_size=128, intermediate_size=512, num_layers=4, num_heads=2
)
UNET = UNetConfig(
    model_channels=32,
    channel_mult=(2, 3, 4),
    num_res_blocks=(2, 2, 2),
    transformer_depth=(0, 1, 1),
    middle_depth=1,
    context_dim=128,
)
# 96 channels are three to a group of GroupNorm. With one, the last norm would take every flat colour away.
VAE = KLConfig(ch=96, ch_mult=(1, 1, 1, 1), num_res_blocks=1)

# Layers that start at zero, so that every residual branch starts as nothing.
_ZERO = ("out_layers.3.weight", "proj_out.weight", "to_out.0.weight", "ff.net.2.weight", "out.2.weight")
_ZERO_VAE = ("conv2.weight", "proj_out.weight")


def rehearse() -> None:
    """Makes all networks tiny from here on."""
    global TEXT, UNET, VAE
    TEXT = replace(TEXT, hidden_size=32, intermediate_size=64, num_layers=1, num_heads=1)
    UNET = replace(UNET, channel_mult=(1, 1, 2), num_res_blocks=(1, 1, 1), context_dim=32)
    VAE = replace(VAE, ch=32)


def new_text_encoder(generator: torch.Generator) -> CLIPTextModel:
    """The CLIP text encoder with random weights."""
    return _initialised(CLIPTextModel(TEXT), generator, ())


def new_unet(generator: torch.Generator) -> UNetModel:
    """The UNet with random weights."""
    return _initialised(UNetModel(UNET), generator, _ZERO)


def new_vae(generator: torch.Generator) -> AutoencoderKL:
    """The autoencoder with random weights."""
    return _initialised(AutoencoderKL(VAE), generator, _ZERO_VAE)


def _initialised(net: N, generator: torch.Generator, zero: tuple[str, ...]) -> N:
    """Sets all parameters by name and shape alone, so that it does not matter which modules hold them."""
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            parameter.copy_(_first_value(name, parameter, generator, zero))
    return net


def _first_value(name: str, like: Tensor, generator: torch.Generator, zero: tuple[str, ...]) -> Tensor:
    if name.endswith("bias") or name.endswith(zero):
        return torch.zeros_like(like)
    if like.ndim == 1:
        return torch.ones_like(like)
    noise = torch.randn(like.shape, generator=generator)
    if "embedding" in name:
        return noise * (0.3 if "token" in name else 0.1)
    fan_in = like[0].numel()
    return noise * (0.8 / fan_in**0.5)


class Reconstruction(nn.Module):
    """The autoencoder as training runs it: pixels to a sampled latent and back, in one call.

    x: (b, 3, H, W)  ->  pixels (b, 3, H, W), mean and logvar (b, 4, h, w)
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:  # noqa: D102
        mean, logvar = self.vae.encode(x)
        z = mean + torch.exp(0.5 * logvar) * torch.randn_like(mean)
        return self.vae.decode(z), mean, logvar


def vae_for_training(generator: torch.Generator) -> Reconstruction:
    """The autoencoder with random weights, ready to train."""
    vae = new_vae(generator)
    with torch.no_grad():  # begins with little noise on the latent
        vae.quant_conv.bias[VAE.embed_dim :] = -4.0
    return Reconstruction(vae)
