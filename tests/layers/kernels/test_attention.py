"""Attention for narrow heads against torch in float32, on views of a joined projection."""

from __future__ import annotations

import pytest
import torch.nn.functional as F

from .conftest import Place


@pytest.mark.parametrize(
    ("queries", "keys", "width"), [(128, 128, 40), (70, 70, 40), (100, 77, 64), (130, 300, 64), (64, 7, 8)]
)
def test_attention(place: Place, queries: int, keys: int, width: int) -> None:
    from darkroom.layers.kernels import attention

    joined = place.randn(2, max(queries, keys), 3 * 3 * width).unflatten(-1, (3, 3, width))
    q, k, v = (joined[:, :n, i].transpose(1, 2) for i, n in enumerate((queries, keys, keys)))
    assert attention.supports(q, k, v)
    result = attention.attention(q, k, v, width**-0.5)
    place.assert_close(result, F.scaled_dot_product_attention(q.float(), k.float(), v.float()))
    assert result.transpose(1, 2).is_contiguous()


def test_refuses_wide_heads(place: Place) -> None:
    from darkroom.layers.kernels import attention

    q = place.randn(1, 2, 16, 80)
    assert not attention.supports(q, q, q)
