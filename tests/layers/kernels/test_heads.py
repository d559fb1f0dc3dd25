"""Normalised, turned and joined heads, against torch in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from darkroom.layers import joint_attention as seam
from darkroom.layers import kernels
from darkroom.layers.joint_attention import Stream
from darkroom.layers.rope import rope_table

from .conftest import Place, real_size


def streams(
    place: Place, lengths: tuple[int, ...], heads: int, width: int, *, has_norms: bool, batch: int = 2
) -> list[Stream]:
    """Streams whose q, k and v are parts of a projection that also holds something else."""
    made = []
    for length in lengths:
        whole = place.randn(batch, length, (3 * heads + 1) * width)
        q, k, v, _ = whole.split((heads * width,) * 3 + (width,), dim=-1)
        norms = (place.randn(width), place.randn(width)) if has_norms else (None, None)
        made.append(Stream(q, k, v, *norms))
    return made


def joined(
    some: list[Stream], heads: int, rope: Tensor | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The kernel's q, k and v, and torch's in float32."""
    from darkroom.layers.kernels import heads as fused

    parts = [(stream.q, stream.k, stream.v) for stream in some]
    norms = [(stream.q_norm, stream.k_norm) for stream in some]
    assert fused.supports(heads, parts, norms, rope)
    exact = [
        Stream(
            *(part.float() for part in (stream.q, stream.k, stream.v)),
            *(None if norm is None else norm.float() for norm in (stream.q_norm, stream.k_norm)),
        )
        for stream in some
    ]
    return fused.joined(heads, parts, norms, rope, 1e-6), seam._heads(exact, heads, rope, 1e-6)


def table(place: Place, length: int, width: int) -> Tensor:
    positions = torch.arange(2 * length).view(length, 2) * 0.37
    return rope_table(positions, (width // 4, width - width // 4)).to(place.device)


@pytest.mark.parametrize("has_norms", [True, False], ids=["norms", "no norms"])
@pytest.mark.parametrize("has_rope", [True, False], ids=["rope", "no rope"])
@pytest.mark.parametrize(
    ("lengths", "heads", "width"),
    [
        ((5, 19), 3, 64),
        ((17,), 6, 128),
        ((3, 2, 33), 5, 16),
        real_size((512, 4096), 24, 128),
        real_size((4173,), 30, 128),
        real_size((333, 4096), 38, 64),
        real_size((4095, 77), 24, 64),
    ],
)
def test_joined(
    place: Place, lengths: tuple[int, ...], heads: int, width: int, has_rope: bool, has_norms: bool
) -> None:
    some = streams(place, lengths, heads, width, has_norms=has_norms)
    rope = table(place, sum(lengths), width) if has_rope else None
    results, references = joined(some, heads, rope)
    for result, reference in zip(results, references, strict=True):
        assert result.shape == reference.shape
        place.assert_close(result, reference)
    assert torch.equal(results[2].float(), references[2])
    if len(lengths) == 1:
        assert results[2].data_ptr() == some[0].v.data_ptr()


def test_table_of_each_sample(place: Place) -> None:
    some = streams(place, (4, 9), 3, 64, has_norms=True)
    rope = torch.stack((table(place, 13, 64), table(place, 13, 64).flip(0)))
    for result, reference in zip(*joined(some, 3, rope), strict=True):
        place.assert_close(result, reference)


def test_reads_nothing_else(place: Place) -> None:
    around = place.randn(1, 7, 4 * 3 * 16)
    around[:, 0], around[:, -1], around[..., -48:] = torch.nan, torch.inf, torch.nan
    q, k, v, _ = around[:, 1:-1].chunk(4, dim=-1)
    for result, reference in zip(*joined([Stream(q, k, v)] * 2, 3, None), strict=True):
        assert torch.equal(result.float(), reference)


def test_seam(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joint attention gives the same with the kernel as without; heads that it cannot take go without."""
    for width in (64, 40):
        some = streams(place, (5, 8), 3, width, has_norms=True)
        rope = table(place, 13, width)
        monkeypatch.setattr(kernels, "usable", lambda x: False)
        plain = seam.joint_attention(some, 3, rope=rope)
        monkeypatch.setattr(kernels, "usable", lambda x: True)
        for result, reference in zip(seam.joint_attention(some, 3, rope=rope), plain, strict=True):
            place.assert_close(result, reference.float())
