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
        self.margin = kernel // 2 if padding is None else padding
        super().__init__(in_channels, out_channels, kernel, stride, self.margin)

    def forward(  # noqa: D102
        self, x: Tensor, residual: Tensor | None = None, *, add_bias: bool = True
    ) -> Tensor:
        bias = self.bias if add_bias else None
        return convolve(x, self.weight, bias, self.stride[0], self.margin, residual)


class CausalConv3d(nn.Module):
    """Convolution over frames that sees no later frame (+ residual); before the first one there are zeros.

    x, residual: pictures, each a first frame, (b, c, h, w), or videos (b, c, t, h, w); sizes are kept

    Of a picture only the last tap in time sees anything: it is a 2-D convolution. For that the tap has to lie
    in one piece, which `memory_order` tells those who place the weight; it may lie otherwise.

    kernel: pixels on a side; time_kernel: frames, as many as that if None.
    """

    memory_order = (2, 0, 3, 4, 1)
    """Axes of the weight (c_out, c_in, t, h, w), outermost first: taps, each in channels_last memory."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, time_kernel: int | None = None
    ) -> None:
        super().__init__()
        frames = kernel if time_kernel is None else time_kernel
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, frames, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)

    def forward(  # noqa: D102
        self, x: Tensor, residual: Tensor | None = None, *, add_bias: bool = True
    ) -> Tensor:
        bias, (frames, kernel) = self.bias if add_bias else None, self.weight.shape[2:4]
        margin = kernel // 2
        if x.dim() == 4:
            return convolve(x, self.weight[:, :, -1], bias, 1, margin, residual)
        out = F.conv3d(F.pad(x, (*(margin,) * 4, frames - 1, 0)), self.weight, bias)
        return out if residual is None else out + residual


class UpsampleConv2d(Conv2d):
    """Doubles an image by nearest neighbours, then convolves it 3x3.

    x: (b, c, h, w)  ->  (b, out_channels or c, 2h, 2w)
    """

    def __init__(self, channels: int, out_channels: int | None = None) -> None:
        super().__init__(channels, channels if out_channels is None else out_channels, 3)

    def forward(  # noqa: D102
        self, x: Tensor, residual: Tensor | None = None, *, add_bias: bool = True
    ) -> Tensor:
        if _is_large(x) and onednn.usable(x):
            out = _upsample_conv(x, self.weight, self.bias if add_bias else None)
            return out if residual is None else out.add_(residual)
        return super().forward(double(x), residual, add_bias=add_bias)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: int = 1,
    padding: int = 0,
    residual: Tensor | None = None,
) -> Tensor:
    """Convolution, plus bias and residual.

    x: (b, c_in, h, w), weight: (c_out, c_in, k, k), bias: (c_out,), residual: (b, c_out, h', w')
    ->  (b, c_out, h', w')
    """
    if x.is_contiguous(memory_format=torch.channels_last):
        is_per_pixel = weight.shape[2:] == (1, 1) and stride == 1
        if is_per_pixel and (kernels.usable(x) or onednn.usable(x)):
            pixels = None if residual is None else residual.permute(0, 2, 3, 1)
            return linear(x.permute(0, 2, 3, 1), weight.flatten(1), bias, pixels).permute(0, 3, 1, 2)
        if kernels.usable(x) and (
            residual is None or residual.is_contiguous(memory_format=torch.channels_last)
        ):
            return _convolve_on_cuda(x, weight, bias, stride, padding, residual)
    out = F.conv2d(x, weight, bias, stride, padding)
    if residual is None:
        return out
    return out + residual if torch.is_grad_enabled() else out.add_(residual)


def _convolve_on_cuda(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, padding: int, residual: Tensor | None
) -> Tensor:
    """The convolution and one pass for all that is added; torch spends one on the bias alone."""
    from darkroom.layers.kernels import pointwise

    if _is_narrow(x, weight, stride, padding):
        out = F.linear(
            pointwise.patches(x.permute(0, 2, 3, 1), stride), weight.permute(0, 2, 3, 1).flatten(1)
        )
    else:
        out = F.conv2d(x, weight, None, stride, padding).permute(0, 2, 3, 1).contiguous()
    if bias is not None or residual is not None:
        pointwise.add_(out, bias, None if residual is None else residual.permute(0, 2, 3, 1))
    return out.permute(0, 3, 1, 2)


def _is_narrow(x: Tensor, weight: Tensor, stride: int, padding: int) -> bool:
    """Whether the pixels are so few that reading the weights is the work, which a matrix product does."""
    b, _, h, w = x.shape
    return (
        weight.shape[2:] == (3, 3)
        and padding == 1
        and weight.is_contiguous(memory_format=torch.channels_last)
        and b * h * w <= NARROW_PIXELS * stride * stride
    )


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
