"""Attention, whichever way it is computed, against the formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from darkroom.layers import blocked_attention
from darkroom.layers.attention import attention, merge_heads, split_heads

SHAPES = [
    (2, 8, 300, 300, 40),
    (2, 8, 64, 77, 160),
    (1, 1, 257, 257, 512),
    (3, 5, 7, 1, 64),
    (1, 3, 1, 9, 24),
]


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q.double() @ k.double().transpose(2, 3) * q.shape[-1] ** -0.5
    return scores.softmax(-1) @ v.double()


def heads_of_projections(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Strided views, as networks have them."""
    torch.manual_seed(0)
    b, n, l, s, d = shape
    return tuple(split_heads(torch.randn(b, length, n * d, dtype=dtype), n) for length in (l, s, s))


def error(got: Tensor, expected: Tensor) -> float:
    return ((got - expected).square().mean() / expected.square().mean()).sqrt().item()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_float32_is_exact(shape: tuple[int, ...]) -> None:
    q, k, v = heads_of_projections(shape, torch.float32)
    assert error(attention(q, k, v), formula(q, k, v)) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_scale_and_mask_take_the_place_of_the_usual_ones(dtype: torch.dtype) -> None:
    q, k, v = heads_of_projections((2, 4, 30, 50, 64), dtype)
    mask = torch.randn(1, 4, 30, 50).to(dtype)
    for bias in (None, mask):
        scores = 0.25 * (q.double() @ k.double().transpose(2, 3))
        expected = (scores if bias is None else scores + bias).softmax(-1) @ v.double()
        assert error(attention(q, k, v, bias, scale=0.25), expected) < (1e-6 if dtype.itemsize == 4 else 8e-3)


@pytest.mark.parametrize(
    ("shape", "block_bytes"),
    [
        (shape, block_bytes)
        for shape in SHAPES
        for block_bytes in (1, 20_000, 16 << 20)
        if block_bytes > 1 or shape[2] <= 100  # a row at a time takes long
    ],
    ids=str,
)
@torch.inference_mode()
def test_blocks_are_as_exact_as_bf16(
    shape: tuple[int, ...], block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocked_attention, "_BLOCK_BYTES", block_bytes)
    q, k, v = heads_of_projections(shape, torch.bfloat16)
    assert error(blocked_attention.attention(q, k, v), formula(q, k, v)) < 8e-3


@torch.inference_mode()
def test_blocks_bear_large_scores() -> None:
    q, k, v = heads_of_projections((1, 2, 40, 50, 16), torch.bfloat16)
    out = blocked_attention.attention(q * 100, k * 100, v)
    assert out.isfinite().all()


def test_blocks_leave_autograd_alone() -> None:
    q, k, v = (x.requires_grad_() for x in heads_of_projections((1, 2, 8, 8, 16), torch.bfloat16))
    assert not blocked_attention.supports(q)
    attention(q, k, v).sum().backward()
    assert q.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_mask_hides(dtype: torch.dtype) -> None:
    q, k, v = heads_of_projections((1, 2, 6, 6, 16), dtype)
    mask = torch.ones(6, 6, dtype=torch.bool).tril()
    got = attention(q, k, v, mask)
    torch.testing.assert_close(got[:, :, 0], v[:, :, 0], rtol=1e-2, atol=1e-2)


def test_heads_split_and_merge_without_a_copy() -> None:
    x = torch.randn(2, 5, 12)
    heads = split_heads(x, 3)
    assert heads.shape == (2, 3, 5, 4)
    assert merge_heads(heads).data_ptr() == x.data_ptr()
