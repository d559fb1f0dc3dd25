"""Convolutions over images in channels_last memory."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Conv2d(nn.Conv2d):
    """Convolution (+ residual).

    x: (b, c_in, h, w), residual: (b, c_out, h', w') or None  ->  (b, c_out, h', w')
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride, kernel // 2 if padding is None else padding
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: D102
        out = F.conv2d(x, self.weight, self.bias, self.stride, self.padding)
        return out if residual is None else out + residual


class UpsampleConv2d(Conv2d):
    """Doubles an image by nearest neighbours, then convolves it 3x3.

    x: (b, c, h, w)  ->  (b, c, 2h, 2w)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:  # noqa: D102
        return super().forward(F.interpolate(x, scale_factor=2.0, mode="nearest"), residual)
