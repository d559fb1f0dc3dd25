"""Latents to colours without a network: a mix of channels for each latent format, for previews.

The mixes are least-squares fits as published: those of stable-diffusion.cpp (latent-preview.h), and Stability
AI's own for Stable Diffusion 3 (sd3.5, sd3_impls.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ChannelMix:
    """RGB in [-1, 1] of a latent pixel as the diffusion network sees it.

    factors: (c, 3), what each channel adds to red, green and blue. bias: (3,), what is there without any.
    """

    factors: tuple[tuple[float, float, float], ...]
    bias: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def on(self, take: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Latents (b, c, h, w)  ->  pixels (b, 3, h, w), about in [-1, 1], where `take` brings tensors."""
        factors, bias = (take(torch.tensor(values)) for values in (self.factors, self.bias))

        def mixed(latent: Tensor) -> Tensor:
            return torch.einsum("bchw,cr->brhw", latent.float(), factors) + bias[:, None, None]

        return mixed


SD1_RGB = ChannelMix(
    (
        (0.337366, 0.216344, 0.257386),
        (0.165636, 0.386828, 0.046994),
        (-0.267803, 0.237036, 0.223517),
        (-0.178022, -0.200862, -0.678514),
    ),
    bias=(-0.017478, -0.055834, -0.105825),
)
"""Of Stable Diffusion 1 and 2."""

BUILTIN_RGB = ChannelMix(
    (
        (-0.4963, 0.0141, -0.2448),
        (0.2351, -0.0715, -0.4521),
        (-0.2135, 0.0974, -0.0176),
        (0.0251, 0.4002, -0.0892),
    ),
    bias=(0.0769, 0.0088, -0.0207),
)
"""Of the built-in model, fitted to pictures that it drew."""

SDXL_RGB = ChannelMix(
    (
        (0.258303, 0.27764, 0.329699),
        (-0.299701, 0.105446, 0.014194),
        (0.050522, 0.186163, -0.143257),
        (-0.211938, -0.149892, -0.080036),
    ),
    bias=(0.144381, -0.033313, 0.007061),
)
"""Of SDXL."""

SD3_RGB = ChannelMix(
    (
        (-0.0645, 0.0177, 0.1052),
        (0.0028, 0.0312, 0.065),
        (0.1848, 0.0762, 0.036),
        (0.0944, 0.036, 0.0889),
        (0.0897, 0.0506, -0.0364),
        (-0.002, 0.1203, 0.0284),
        (0.0855, 0.0118, 0.0283),
        (-0.0539, 0.0658, 0.1047),
        (-0.0057, 0.0116, 0.07),
        (-0.0412, 0.0281, -0.0039),
        (0.1106, 0.1171, 0.122),
        (-0.0248, 0.0682, -0.0481),
        (0.0815, 0.0846, 0.1207),
        (-0.012, -0.0055, -0.0867),
        (-0.0749, -0.0634, -0.0456),
        (-0.1418, -0.1457, -0.1259),
    ),
)
"""Of Stable Diffusion 3 and 3.5."""

FLUX_RGB = ChannelMix(
    (
        (-0.041168, 0.019917, 0.097253),
        (0.028096, 0.02673, 0.129576),
        (0.065618, -0.06795, -0.014651),
        (-0.012998, -0.014762, 0.081251),
        (0.078567, 0.059296, -0.024687),
        (-0.015987, -0.003697, 0.005012),
        (0.033605, 0.138999, 0.068517),
        (-0.02445, -0.063567, -0.030101),
        (-0.040194, -0.01671, 0.127185),
        (0.112681, 0.088764, -0.04194),
        (-0.023498, 0.093664, 0.025543),
        (0.082899, 0.04832, 0.007491),
        (0.075712, 0.074139, 0.081965),
        (-0.143501, 0.018263, -0.136138),
        (-0.025767, -0.082035, -0.040023),
        (-0.111849, -0.055589, -0.032361),
    ),
    bias=(0.0246, -0.006937, -0.008089),
)
"""Of Flux.1, Chroma and Z-Image."""

WAN_RGB = ChannelMix(
    (
        (0.015123, -0.148418, 0.479828),
        (0.003652, -0.01068, -0.037142),
        (0.212264, 0.063033, 0.016779),
        (0.232999, 0.406476, 0.220125),
        (-0.051864, -0.082384, -0.069396),
        (0.085005, -0.161492, 0.010689),
        (-0.245369, -0.506846, -0.11701),
        (-0.151145, 0.017721, 0.007207),
        (-0.293239, -0.207936, -0.421135),
        (-0.187721, 0.050783, 0.177649),
        (-0.013067, 0.265964, 0.166578),
        (0.028327, 0.109329, 0.108642),
        (-0.205343, 0.043991, 0.148914),
        (0.014307, -0.048647, -0.007219),
        (0.21715, 0.053074, 0.319923),
        (0.155357, 0.083156, 0.06478),
    ),
    bias=(-0.27027, -0.234976, -0.456853),
)
"""Of Wan 2.1 and Qwen-Image."""
