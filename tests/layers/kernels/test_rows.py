"""Norms, modulation and gated sums of rows against torch in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from darkroom.layers import kernels
from darkroom.layers import norm as seam

from .conftest import Place, real_size

SHAPES = pytest.mark.parametrize(
    ("batch", "length", "width"),
    [
        (2, 7, 48),
        (1, 5, 1536),
        (2, 3, 3072),
        (1, 9, 3840),
        (1, 2, 5120),
        real_size(2, 4250, 1536),
        real_size(1, 4608, 3072),
        real_size(1, 4173, 3840),
        real_size(2, 4129, 5120),
        real_size(1, 1024 * 1024 + 3, 96),
    ],
)


def parts(place: Place, batch: int, length: int, width: int) -> tuple[Tensor, ...]:
    """x, y, gate, shift and scale, the last three as views of one projection, and two weights."""
    x, y = place.randn(batch, length, width, scale=2.0) + 1, place.randn(batch, length, width)
    gate, shift, scale = place.randn(batch, 3 * width)[:, None].chunk(3, dim=-1)
    return x, y, gate, shift, scale, place.randn(width), place.randn(width)


def rms_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:], weight, eps=1e-6)


@SHAPES
def test_norms(place: Place, batch: int, length: int, width: int) -> None:
    from darkroom.layers.kernels import rows

    x, _, _, shift, scale, weight, bias = parts(place, batch, length, width)
    assert rows.supports(x, shift, scale, weight)
    f_x, f_shift, f_scale, f_weight = (part.float() for part in (x, shift, scale, weight))

    place.assert_close(rows.norm(x, weight, eps=1e-6), rms_norm(f_x, f_weight))
    modulated = rms_norm(f_x, f_weight) * (1 + f_scale)
    place.assert_close(rows.norm(x, weight, scale=scale, eps=1e-6), modulated)
    layer = F.layer_norm(f_x, (width,), eps=1e-6) * (1 + f_scale) + f_shift
    place.assert_close(rows.norm(x, shift=shift, scale=scale, eps=1e-6, centred=True), layer)
    activated = F.silu(rms_norm(f_x + bias.float(), f_weight))
    place.assert_close(rows.norm(x, weight, bias=bias, eps=1e-6, silu=True), activated)


@SHAPES
def test_gated_residual(place: Place, batch: int, length: int, width: int) -> None:
    from darkroom.layers.kernels import rows

    x, y, gate, shift, scale, weight, next_weight = parts(place, batch, length, width)
    f_x, f_y, f_gate, f_shift, f_scale = (part.float() for part in (x, y, gate, shift, scale))
    total = f_x + f_gate * f_y
    place.assert_close(rows.gated_residual(x, gate, y), total)
    result, normed = rows.gated_residual_norm(x, gate, y, shift=shift, scale=scale, eps=1e-6, centred=True)
    place.assert_close(result, total)
    place.assert_close(normed, F.layer_norm(total, (width,), eps=1e-6) * (1 + f_scale) + f_shift)

    total = f_x + f_gate * rms_norm(f_y, weight.float())
    place.assert_close(rows.gated_residual(x, gate, y, weight, 1e-6), total)
    result, normed = rows.gated_residual_norm(x, gate, y, weight, next_weight, scale=scale, eps=1e-6)
    place.assert_close(result, total)
    place.assert_close(normed, rms_norm(total, next_weight.float()) * (1 + f_scale))


def test_views(place: Place) -> None:
    """Some tokens of a longer sequence, and a scale and shift for each token."""
    from darkroom.layers.kernels import rows

    x = place.randn(2, 9, 192)[:, 4:, 64:128]
    shift, scale = place.randn(2, 9, 128)[:, 4:].chunk(2, dim=-1)
    assert rows.supports(x, shift, scale)
    reference = F.layer_norm(x.float(), (64,), eps=1e-6) * (1 + scale.float()) + shift.float()
    place.assert_close(rows.norm(x, shift=shift, scale=scale, eps=1e-6, centred=True), reference)
    shared = place.randn(1, 1, 64)
    reference = x.float() + shared.float() * x.float()
    place.assert_close(rows.gated_residual(x, shared, x), reference)


def test_reads_and_writes_nothing_else(place: Place) -> None:
    from darkroom.layers.kernels import rows

    around = place.randn(3, 5, 80)
    around[:, 0], around[:, -1], around[:, :, 48:] = torch.nan, torch.inf, torch.nan
    x = around[:, 1:-1, :48]
    weight = place.randn(48)
    place.assert_close(rows.norm(x, weight, eps=1e-6), rms_norm(x.float(), weight.float()))


def test_refuses_what_it_cannot_read(place: Place) -> None:
    from darkroom.layers.kernels import rows

    x = place.randn(2, 5, 48)
    assert not rows.supports(x.transpose(1, 2))
    assert not rows.supports(x[0])
    assert not rows.supports(x, x[:, :3])
    assert not rows.supports(x, x.double())


def test_seams(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function of layers.norm gives the same with the kernels as without."""
    x, y, gate, shift, scale, weight, next_weight = parts(place, 2, 7, 64)
    image, gamma = place.randn(2, 64, 3, 5), weight[:, None, None]
    calls: list[Callable[[], Tensor | tuple[Tensor, Tensor]]] = [
        lambda: seam.rms_norm(x, weight),
        lambda: seam.modulated_rms_norm(x, weight, scale),
        lambda: seam.modulated_layer_norm(x, shift, scale),
        lambda: seam.gated_residual(x, gate, y),
        lambda: seam.normed_residual(x, gate, y, weight),
        lambda: seam.gated_residual_norm(x, gate, y, shift, scale),
        lambda: seam.normed_residual_norm(x, gate, y, weight, next_weight, scale),
        lambda: seam.pixel_norm(image, gamma, conv_bias=next_weight, silu=True),
    ]
    monkeypatch.setattr(kernels, "usable", lambda x: False)
    plain = [call() for call in calls]
    monkeypatch.setattr(kernels, "usable", lambda x: True)
    for call, references in zip(calls, plain, strict=True):
        results = call()
        for result, reference in zip(as_tuple(results), as_tuple(references), strict=True):
            assert result.stride() == reference.stride()
            place.assert_close(result, reference.float())


def as_tuple(x: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return x if isinstance(x, tuple) else (x,)
