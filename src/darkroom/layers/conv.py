"""Convolutions over images in channels_last memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers import kernels
from darkroom.layers.linear import linear


class Conv2d(nn.Conv2d):
    """Convolution (+ residual).

    x: (b, c_in, h, w), residual: (b, c_out, h', w') or None  ->  (b, c_out, h', w')

    add_bias=False leaves the bias to what comes next: a norm that takes it saves a pass over the image.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int = 1, padding: int | None = None
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel, stride, kernel // 2 if padding is None else padding
        )

    def forward(  # noqa: D102
        self, x: Tensor, residual: Tensor | None = None, *, add_bias: bool = True
    ) -> Tensor:
        bias = self.bias if add_bias else None
        if kernels.usable(x) and x.is_contiguous(memory_format=torch.channels_last):
            if self.kernel_size == (1, 1) and self.stride == (1, 1):
                pixels = None if residual is None else residual.permute(0, 2, 3, 1)
                return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), bias, pixels).permute(0, 3, 1, 2)
            if residual is not None and residual.is_contiguous(memory_format=torch.channels_last):
                from darkroom.layers.kernels import pointwise

                out = F.conv2d(x, self.weight, None, self.stride, self.padding)
                return pointwise.add_bias_residual_(out, bias, residual)
        out = F.conv2d(x, self.weight, bias, self.stride, self.padding)
        return out if residual is None else out + residual


class UpsampleConv2d(Conv2d):
    """Doubles an image by nearest neighbours, then convolves it 3x3.

    x: (b, c, h, w)  ->  (b, c, 2h, 2w)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3)

    def forward(  # noqa: D102
        self, x: Tensor, residual: Tensor | None = None, *, add_bias: bool = True
    ) -> Tensor:
        x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return super().forward(x, residual, add_bias=add_bias)
