"""Convolutions over images in channels_last memory."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from darkroom.layers import kernels, onednn
from darkroom.layers.linear import linear

# Up to this many pixels a 3x3 convolution is a matrix product of gathered patches on CUDA.
NARROW_PIXELS = 128


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
        if x.is_contiguous(memory_format=torch.channels_last):
            if self._is_per_pixel() and (kernels.usable(x) or onednn.usable(x)):
                pixels = None if residual is None else residual.permute(0, 2, 3, 1)
                return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), bias, pixels).permute(0, 3, 1, 2)
            if kernels.usable(x) and (
                residual is None or residual.is_contiguous(memory_format=torch.channels_last)
            ):
                return self._convolve(x, bias, residual)
        out = F.conv2d(x, self.weight, bias, self.stride, self.padding)
        if residual is None:
            return out
        return out + residual if torch.is_grad_enabled() else out.add_(residual)

    def _convolve(self, x: Tensor, bias: Tensor | None, residual: Tensor | None) -> Tensor:
        """The convolution on CUDA and one pass for all that is added; torch spends one on the bias alone."""
        from darkroom.layers.kernels import pointwise

        if self._is_narrow(x):
            patches = pointwise.patches(x.permute(0, 2, 3, 1), self.stride[0])
            out = F.linear(patches, self.weight.permute(0, 2, 3, 1).flatten(1))
        else:
            out = F.conv2d(x, self.weight, None, self.stride, self.padding).permute(0, 2, 3, 1).contiguous()
        if bias is not None or residual is not None:
            pointwise.add_(out, bias, None if residual is None else residual.permute(0, 2, 3, 1))
        return out.permute(0, 3, 1, 2)

    def _is_narrow(self, x: Tensor) -> bool:
        """Whether the pixels are so few that reading the weights is the work, which a matrix product does."""
        b, _, h, w = x.shape
        return (
            self.kernel_size == (3, 3)
            and self.padding == (1, 1)
            and self.weight.is_contiguous(memory_format=torch.channels_last)
            and b * h * w <= NARROW_PIXELS * self.stride[0] * self.stride[1]
        )

    def _is_per_pixel(self) -> bool:
        return self.kernel_size == (1, 1) and self.stride == (1, 1)


class UpsampleConv2d(Conv2d):
    """Doubles an image by nearest neighbours, then convolves it 3x3.

    x: (b, c, h, w)  ->  (b, c, 2h, 2w)
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3)

    def forward(  # noqa: D102
        self, x: Tensor, residual: Tensor | None = None, *, add_bias: bool = True
    ) -> Tensor:
        if _is_large(x) and onednn.usable(x):
            out = _upsample_conv(x, self.weight, self.bias if add_bias else None)
            return out if residual is None else out.add_(residual)
        return super().forward(double(x), residual, add_bias=add_bias)


def double(x: Tensor) -> Tensor:
    """Nearest-neighbour doubling, (b, c, h, w)  ->  (b, c, 2h, 2w)."""
    if kernels.usable(x) and x.is_contiguous(memory_format=torch.channels_last):
        from darkroom.layers.kernels import pointwise

        return pointwise.double(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def join(x: Tensor, skip: Tensor) -> Tensor:
    """The channels of both, (b, c, h, w), (b, c', h, w)  ->  (b, c + c', h, w)."""
    if kernels.usable(x) and all(part.is_contiguous(memory_format=torch.channels_last) for part in (x, skip)):
        from darkroom.layers.kernels import pointwise

        return pointwise.join(x.permute(0, 2, 3, 1), skip.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return torch.cat((x, skip), dim=1)


def _is_large(x: Tensor) -> bool:
    """Whether summing the weights, which depends on channels alone, costs little beside the convolution."""
    return x.shape[0] * x.shape[2] * x.shape[3] >= 4096


def _upsample_conv(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Nearest-neighbour doubling and a 3x3 convolution, with 16 multiplications for the 36 they take in turn.

    Of the nine pixels under the kernel, those that are copies of one pixel of x share the sum of their
    weights: what is left for each of the four places in a doubled pixel is a 2x2 convolution of x.

    x: (b, c, h, w), weight: (o, c, 3, 3)  ->  (b, o, 2h, 2w)
    """
    b, _, h, w = x.shape
    outer, middle, last = weight.float().unbind(2)
    rows = torch.stack((torch.stack((outer, middle + last), 2), torch.stack((outer + middle, last), 2)))
    left, middle, right = rows.unbind(4)  # each (2 places, o, c, 2)
    taps = torch.stack((torch.stack((left, middle + right), 4), torch.stack((left + middle, right), 4)), 1)
    taps = taps.to(weight.dtype)  # (2, 2, o, c, 2, 2)
    out = x.new_empty(b, 2 * h, 2 * w, weight.shape[0]).permute(0, 3, 1, 2)
    for y in range(2):
        for z in range(2):
            tap = taps[y, z].contiguous(memory_format=torch.channels_last)
            place = F.conv2d(x, tap, bias, padding=1)  # (b, o, h + 1, w + 1), one row and one column unused
            out[:, :, y::2, z::2] = place[:, :, y : y + h, z : z + w]
    return out
