"""Convolutions, and the upsampling one, against the operations they stand for in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.layers.conv import CausalConv3d, Conv2d, UpsampleConv2d

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 8e-3}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
NHWC = torch.channels_last


def image(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, dtype=dtype).contiguous(memory_format=NHWC)


def double(conv: Conv2d, x: Tensor) -> Tensor:
    assert conv.bias is not None
    return F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), conv.stride, conv.padding)


def error(got: Tensor, expected: Tensor) -> float:
    return ((got.double() - expected).abs().max() / expected.abs().max()).item()


@DTYPES
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (1, 1)])
@pytest.mark.parametrize("memory_format", [NHWC, torch.contiguous_format], ids=str)
@torch.inference_mode()
def test_conv_with_residual(
    kernel: int, stride: int, memory_format: torch.memory_format, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    conv = Conv2d(6, 10, kernel, stride).to(dtype=dtype, memory_format=NHWC)
    x = image(2, 6, 8, 12, dtype=dtype).contiguous(memory_format=memory_format)
    expected = double(conv, x)
    residual = image(*expected.shape, dtype=dtype)
    before = residual.clone()
    assert error(conv(x), expected) < TOLERANCE[dtype]
    assert error(conv(x, residual), expected + residual.double()) < TOLERANCE[dtype]
    assert residual.equal(before)


@DTYPES
@pytest.mark.parametrize("kernel", [1, 3])
@torch.inference_mode()
def test_memory_stays_channels_last(kernel: int, dtype: torch.dtype) -> None:
    conv = Conv2d(6, 10, kernel).to(dtype=dtype, memory_format=NHWC)
    assert conv(image(2, 6, 8, 8, dtype=dtype)).is_contiguous(memory_format=NHWC)


@torch.inference_mode()
def test_bias_can_be_left_out() -> None:
    conv = Conv2d(6, 10, 3)
    assert conv.bias is not None
    x = torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(conv(x, add_bias=False) + conv.bias[:, None, None], conv(x))


@DTYPES
@pytest.mark.parametrize("size", [(1, 64, 65), (2, 32, 64), (1, 5, 6)], ids=str)
@torch.inference_mode()
def test_upsampling_is_doubling_and_convolution(size: tuple[int, int, int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    b, h, w = size
    conv = UpsampleConv2d(8, 6).to(dtype=dtype, memory_format=NHWC)
    x = image(b, 8, h, w, dtype=dtype)
    expected = double(conv, F.interpolate(x.double(), scale_factor=2.0))
    got = conv(x)
    assert got.is_contiguous(memory_format=NHWC)
    assert error(got, expected) < TOLERANCE[dtype]


def causal(conv: CausalConv3d, x: Tensor) -> Tensor:
    reach = conv.weight.shape[2] // 2
    frames = torch.cat((x.new_zeros(*x.shape[:2], 2 * reach, *x.shape[3:]), x), dim=2)
    return F.conv3d(
        frames.double(), conv.weight.double(), conv.bias.double(), padding=(0, reach, reach)
    )  # (b, c, t, h, w)


@DTYPES
@pytest.mark.parametrize("kernel", [1, 3])
@torch.inference_mode()
def test_causal_conv_of_pictures_and_of_frames(kernel: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    conv = CausalConv3d(6, 10, kernel).to(dtype)
    conv.bias.normal_()
    x, residual = (torch.randn(2, channels, 4, 5, 6).to(dtype) for channels in (6, 10))
    expected = causal(conv, x)
    assert error(conv(x), expected) < TOLERANCE[dtype]
    assert error(conv(x, residual), expected + residual.double()) < TOLERANCE[dtype]
    first = x[:, :, 0].contiguous(memory_format=NHWC)
    assert error(conv(first), expected[:, :, 0]) < TOLERANCE[dtype]
    assert error(conv(first, add_bias=False), expected[:, :, 0] - conv.bias.double()[:, None, None]) < 2e-2
    assert conv(first).is_contiguous(memory_format=NHWC)


def test_upsampling_has_gradients() -> None:
    conv = UpsampleConv2d(4)
    conv(torch.randn(1, 4, 64, 64)).sum().backward()
    assert conv.weight.grad is not None
