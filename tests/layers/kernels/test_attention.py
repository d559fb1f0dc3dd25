"""Attention with heads too wide for torch's kernels, whole and in blocks of rows."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from darkroom.layers import attention


@pytest.mark.gpu
@pytest.mark.parametrize("block_bytes", [1 << 28, 1 << 16])
def test_wide_heads(monkeypatch: pytest.MonkeyPatch, block_bytes: int) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    monkeypatch.setattr(attention, "_WIDE_BLOCK_BYTES", block_bytes)
    with torch.inference_mode():
        q, k, v = (torch.randn(2, 300, 512, device="cuda", dtype=torch.bfloat16)[:, None] for _ in range(3))
        result = attention.attention(q, k, v)
        reference = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
    assert result.shape == q.shape
    assert (result.float() - reference).norm() / reference.norm() < 1e-2
