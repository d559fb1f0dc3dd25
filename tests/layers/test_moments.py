"""Group normalisation from pieces against torch's of the whole."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from darkroom.layers.moments import Moments, normalise
from darkroom.layers.norm import GroupNorm, GroupNormSiLU


@pytest.mark.parametrize("kind", [GroupNorm, GroupNormSiLU])
@torch.inference_mode()
def test_pieces_give_the_norm_of_the_whole(kind: type[GroupNorm]) -> None:
    torch.manual_seed(0)
    norm = kind(64)
    norm.weight.copy_(torch.randn(64))
    norm.bias.copy_(torch.randn(64))
    x = 3 * torch.randn(2, 64, 9, 7) + torch.linspace(-50, 90, 7)  # pieces that differ, far from zero
    moments = Moments(norm.num_groups)
    for piece in (x[:, :, :4, :2], x[:, :, 4:, :2], x[..., 2:].contiguous(memory_format=torch.channels_last)):
        moments.add(piece)
    expected = F.group_norm(x, 32, norm.weight, norm.bias, norm.eps)
    expected = F.silu(expected) if norm.silu else expected
    torch.testing.assert_close(
        normalise(x, *moments.scales(norm), silu=norm.silu), expected, rtol=0, atol=2e-5
    )


def test_the_type_of_numbers_is_kept() -> None:
    x, one = torch.ones(1, 32, 2, 2, dtype=torch.bfloat16), torch.ones(1, 32)
    assert normalise(x, one, one, silu=False).dtype is torch.bfloat16
