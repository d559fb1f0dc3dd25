"""GroupNorm kernels against torch in float32: shapes for one launch and for three, whole and ragged."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F

from .conftest import Place

SHAPES = pytest.mark.parametrize(
    ("batch", "channels", "height", "width"),
    [
        (2, 320, 4, 4),
        (2, 32, 7, 6),
        (2, 64, 6, 10),
        (1, 128, 8, 8),
        (2, 128, 16, 16),
        (2, 960, 4, 5),
        (1, 1280, 8, 8),
        (1, 1920, 5, 5),
        (1, 2560, 2, 2),
    ],
)


@pytest.fixture(params=["one launch", "three launches", "three with loops"], autouse=True)
def launches(request: pytest.FixtureRequest, place: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sends small pictures the ways of large ones too; memory that nobody wrote to reads as NaN."""
    from darkroom.layers.kernels import group_norm

    if request.param != "one launch":
        monkeypatch.setattr(group_norm, "ONE_LAUNCH_NUMBERS", 0)
    if request.param == "three with loops":
        monkeypatch.setattr(group_norm, "MAX_CHUNKS", 3)
        monkeypatch.setattr(group_norm, "TILE_NUMBERS", 512)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@SHAPES
def test_norm(place: Place, batch: int, channels: int, height: int, width: int) -> None:
    from darkroom.layers.kernels import group_norm

    x = place.randn(batch, channels, height, width, scale=2.0) + 3 * place.randn(channels, 1, 1)
    x = x.to(memory_format=torch.channels_last)
    weight, bias = place.randn(channels), place.randn(channels)
    assert group_norm.supports(x, 32)
    result = group_norm.group_norm(x, 32, weight, bias, 1e-5)
    place.assert_close(result, F.group_norm(x.float(), 32, weight.float(), bias.float(), 1e-5))


@SHAPES
def test_shift_bias_and_silu(place: Place, batch: int, channels: int, height: int, width: int) -> None:
    from darkroom.layers.kernels import group_norm

    x = place.randn(batch, channels, height, width)
    weight, bias, channel_bias = place.randn(channels), place.randn(channels), place.randn(channels)
    shift = place.randn(batch, 2 * channels)[:, channels:]  # a view, as the joined projection leaves it
    result = group_norm.group_norm(
        x, 32, weight, bias, 1e-5, shift=shift, channel_bias=channel_bias, silu=True
    )
    moved = x.float() + (shift.float() + channel_bias.float())[:, :, None, None]
    place.assert_close(result, F.silu(F.group_norm(moved, 32, weight.float(), bias.float(), 1e-5)))


def test_mean_far_from_zero(place: Place) -> None:
    from darkroom.layers.kernels import group_norm

    x = (torch.randn(1, 64, 16, 16) + 300.0).to(memory_format=torch.channels_last)
    x = x.to(place.device, place.dtype)
    ones = torch.ones(64, device=place.device, dtype=place.dtype)
    result = group_norm.group_norm(x, 32, ones, torch.zeros_like(ones), 1e-5)
    reference = F.group_norm(x.double(), 32, ones.double(), None, 1e-5).float()
    assert (result.float() - reference).norm() / reference.norm() < max(place.tolerance, 1e-4)


def test_reads_and_writes_nothing_else(place: Place) -> None:
    from darkroom.layers.kernels import group_norm

    around = place.randn(4, 96, 5, 7)
    around[0], around[-1] = torch.nan, torch.inf
    weight, bias = place.randn(96), place.randn(96)
    result = group_norm.group_norm(around[1:-1], 32, weight, bias, 1e-5)
    place.assert_close(result, F.group_norm(around[1:-1].float(), 32, weight.float(), bias.float(), 1e-5))
    assert around[0].isnan().all()
    assert around[-1].isinf().all()


def test_same_bits_twice(place: Place) -> None:
    from darkroom.layers.kernels import group_norm

    x, weight, bias = place.randn(2, 320, 6, 6), place.randn(320), place.randn(320)
    first = group_norm.group_norm(x, 32, weight, bias, 1e-5)
    assert torch.equal(first, group_norm.group_norm(x, 32, weight, bias, 1e-5))


def test_refuses_what_it_cannot_read(place: Place) -> None:
    from darkroom.layers.kernels import group_norm

    assert not group_norm.supports(place.randn(1, 64, 8, 8).contiguous(), 32)  # channels first
    assert not group_norm.supports(place.randn(1, 48, 8, 8), 32)  # 1.5 channels a group
