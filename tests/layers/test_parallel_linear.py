"""The two layers of a parallel block against the plain way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from darkroom.layers.linear import Linear
from darkroom.layers.parallel_linear import joined_linear, linear_and_gelu


class Other(nn.Linear):
    """A layer of another kind, such as one with quantized weights."""


@pytest.mark.parametrize("kind", [Linear, Other])
@pytest.mark.parametrize("bias", [True, False])
def test_the_parts_are_the_whole(kind: type[nn.Linear], bias: bool) -> None:
    torch.manual_seed(0)
    first, second = kind(8, 20, bias=bias), kind(20, 8, bias=bias)
    x = torch.randn(2, 5, 8)
    with torch.inference_mode():
        whole = F.linear(x, first.weight, first.bias)
        plain, hidden = linear_and_gelu(x, first, 12)
        out = joined_linear(plain, hidden, second)

        torch.testing.assert_close(plain, whole[..., :12])
        torch.testing.assert_close(hidden, F.gelu(whole[..., 12:], approximate="tanh"))
        torch.testing.assert_close(out, second(torch.cat((plain, hidden), dim=-1)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_half_precision_on_the_card_is_as_exact() -> None:
    torch.manual_seed(0)
    layer = Linear(3072 + 1024, 256).to("cuda", torch.bfloat16)
    first, second = (torch.randn(1, 64, width, device="cuda").bfloat16() for width in (1024, 3072))
    with torch.inference_mode():
        both = torch.cat((first, second), dim=-1)
        exact = F.linear(both.double(), layer.weight.double(), layer.bias.double())
        plain, ours = layer(both), joined_linear(first, second, layer)
    assert (ours - exact).abs().max() < 1.5 * (plain - exact).abs().max()
