"""GroupNorm with optional SiLU and per-channel shift over channels_last pictures.

A picture in channels_last is a matrix (b, h*w, c) whose rows are pixels. Where one group of one picture fits
a program's registers, one launch reads it once. Else there are three: the mean and the squared deviation of
each channel over chunks of rows; from those the scale and offset of each channel, joined by the parallel
variance formula (Chan, Golub, LeVeque 1979); and the normalisation. All is summed in float32 and in a fixed
order: the same input gives the same bits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_GROUP_WIDTH = 256
ONE_LAUNCH_NUMBERS = 32768
TILE_NUMBERS = 4096
MAX_COLUMNS = 64
MAX_CHUNKS = 512
SCALES_NUMBERS = 8192

# Of these numbers Triton would compile a kernel for each kind: one, multiples of 16, the rest.
_COUNTS = ["shift_stride", "has_shift", "has_bias", "silu", "rows", "chunk_rows", "chunks"]


@triton.jit
def _moved(shift, shift_stride, has_shift, channel_bias, has_bias, sample, cols, col_ok):
    """What is added to each channel before the norm."""
    extra = tl.load(shift + sample * shift_stride + cols, mask=col_ok & (has_shift != 0), other=0.0)
    bias = tl.load(channel_bias + cols, mask=col_ok & (has_bias != 0), other=0.0)
    return extra.to(tl.float32) + bias.to(tl.float32)


@triton.jit
def _sum(tile):
    """Of all numbers in a tile (rows, columns)."""
    return tl.sum(tl.sum(tile, axis=0), axis=0)


@triton.jit
def _activated(x, silu):
    if silu != 0:
        x = x / (1.0 + tl.exp(-x))
    return x


@triton.jit(do_not_specialize=_COUNTS)
def _one_launch_kernel(
    x, y, weight, bias, shift, shift_stride, has_shift, channel_bias, has_bias, eps, silu, rows, channels,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    lane = tl.arange(0, LANES)
    cols = tl.program_id(0) * WIDTH + lane
    col_ok = lane < WIDTH
    row = tl.arange(0, ROWS)
    mask = (row < rows)[:, None] & col_ok[None, :]
    place = sample.to(tl.int64) * rows * channels + row[:, None] * channels + cols[None, :]
    extra = _moved(shift, shift_stride, has_shift, channel_bias, has_bias, sample, cols, col_ok)
    tile = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) + extra[None, :]
    count = (rows * WIDTH).to(tl.float32)
    mean = _sum(tl.where(mask, tile, 0.0)) / count
    delta = tl.where(mask, tile - mean, 0.0)
    rstd = tl.rsqrt(_sum(delta * delta) / count + eps)
    scale = tl.load(weight + cols, mask=col_ok, other=0.0).to(tl.float32) * rstd
    offset = tl.load(bias + cols, mask=col_ok, other=0.0).to(tl.float32)
    out = _activated(delta * scale[None, :] + offset[None, :], silu)
    tl.store(y + place, out.to(y.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_COUNTS)
def _statistics_kernel(
    x, partial, rows, channels, chunk_rows, chunks,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, HAS_MORE: tl.constexpr,
):  # fmt: skip
    """partial (b, chunks, 2, c): the mean and the sum of squared deviations of each channel in each chunk."""
    chunk = tl.program_id(0)
    sample = tl.program_id(2)
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    lane = tl.arange(0, ROWS)
    x += sample.to(tl.int64) * rows * channels
    first = chunk * chunk_rows
    last = tl.minimum(first + chunk_rows, rows)
    # Sums are of distances from the first pixel, so that a mean far from zero costs no digits.
    centre = tl.load(x + first.to(tl.int64) * channels + cols).to(tl.float32)
    row = first + lane
    mask = (row < last)[:, None] & (cols >= 0)[None, :]
    tile = tl.load(x + row.to(tl.int64)[:, None] * channels + cols[None, :], mask=mask, other=0.0)
    total = tl.where(mask, tile.to(tl.float32) - centre[None, :], 0.0)
    square = total * total
    if HAS_MORE:
        for start in range(first + ROWS, last, ROWS):
            row = start + lane
            mask = (row < last)[:, None] & (cols >= 0)[None, :]
            tile = tl.load(x + row.to(tl.int64)[:, None] * channels + cols[None, :], mask=mask, other=0.0)
            delta = tl.where(mask, tile.to(tl.float32) - centre[None, :], 0.0)
            total += delta
            square += delta * delta
    distance = tl.sum(total, axis=0)
    off = distance / (last - first).to(tl.float32)
    part = partial + (sample * chunks + chunk) * 2 * channels + cols
    tl.store(part, centre + off)
    tl.store(part + channels, tl.sum(square, axis=0) - distance * off)


@triton.jit(do_not_specialize=_COUNTS)
def _scales_kernel(
    partial, scales, weight, bias, shift, shift_stride, has_shift, channel_bias, has_bias, eps, rows,
    channels, chunk_rows, chunks,
    WIDTH: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    """scales (b, 2, c): scale and offset, such that x * scale + offset is the normalised x + extra."""
    sample = tl.program_id(1)
    lane = tl.arange(0, LANES)
    cols = tl.program_id(0) * WIDTH + lane
    col_ok = lane < WIDTH
    chunk = tl.arange(0, CHUNKS)
    mask = (chunk < chunks)[:, None] & col_ok[None, :]
    part = partial + (sample * chunks + chunk[:, None]) * 2 * channels + cols[None, :]
    extra = _moved(shift, shift_stride, has_shift, channel_bias, has_bias, sample, cols, col_ok)
    means = tl.load(part, mask=mask, other=0.0) + extra[None, :]
    squares = tl.load(part + channels, mask=mask, other=0.0)
    counts = tl.minimum(rows - chunk * chunk_rows, chunk_rows).to(tl.float32)[:, None]
    count = (rows * WIDTH).to(tl.float32)
    mean = _sum(tl.where(mask, means * counts, 0.0)) / count
    off = means - mean
    variance = _sum(tl.where(mask, squares + counts * off * off, 0.0)) / count
    scale = tl.load(weight + cols, mask=col_ok, other=0.0).to(tl.float32) * tl.rsqrt(variance + eps)
    offset = tl.load(bias + cols, mask=col_ok, other=0.0).to(tl.float32) + (extra - mean) * scale
    place = scales + sample * 2 * channels + cols
    tl.store(place, scale, mask=col_ok)
    tl.store(place + channels, offset, mask=col_ok)


@triton.jit(do_not_specialize=_COUNTS)
def _normalise_kernel(x, y, scales, silu, rows, channels, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    sample = tl.program_id(2)
    cols = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    mask = (row < rows)[:, None] & (cols >= 0)[None, :]
    place = sample.to(tl.int64) * rows * channels + row.to(tl.int64)[:, None] * channels + cols[None, :]
    tile = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    scale = tl.load(scales + sample * 2 * channels + cols)
    offset = tl.load(scales + sample * 2 * channels + channels + cols)
    out = _activated(tile * scale[None, :] + offset[None, :], silu)
    tl.store(y + place, out.to(y.dtype.element_ty), mask=mask)


class Cut(NamedTuple):
    """How a picture is cut: into tiles of `rows` pixels by `columns` channels, and chunks of whole tiles."""

    rows: int
    columns: int
    chunk_rows: int
    chunks: int


def cut(rows: int, channels: int, lanes: int) -> Cut:
    """Tiles whose columns divide the channels; no more chunks than one program can join."""
    columns = math.gcd(channels, MAX_COLUMNS)
    tile_rows = max(1, TILE_NUMBERS // columns)
    tiles = triton.cdiv(rows, tile_rows)
    chunk_rows = tile_rows * triton.cdiv(tiles, min(MAX_CHUNKS, SCALES_NUMBERS // lanes))
    return Cut(tile_rows, columns, chunk_rows, triton.cdiv(rows, chunk_rows))


def supports(x: Tensor, groups: int) -> bool:
    """Whether the kernels take x (b, c, h, w): channels_last, groups that fit a program."""
    return (
        x.ndim == 4
        and x.shape[1] % groups == 0
        and x.shape[1] // groups <= MAX_GROUP_WIDTH
        and x.is_contiguous(memory_format=torch.channels_last)
    )


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    *,
    shift: Tensor | None = None,
    channel_bias: Tensor | None = None,
    silu: bool = False,
) -> Tensor:
    """GroupNorm of x + shift + channel_bias, then SiLU if asked.

    x (b, c, h, w) channels_last; weight, bias, channel_bias (c,); shift (b, c), unit stride along c.
    """
    batch, channels, height, columns = x.shape
    rows, width = height * columns, channels // groups
    y = torch.empty_like(x)
    moves = (
        weight if shift is None else shift,  # any address will do for what is not read
        0 if shift is None else shift.stride(0),
        int(shift is not None),
        weight if channel_bias is None else channel_bias,
        int(channel_bias is not None),
    )
    lanes, padded_rows = triton.next_power_of_2(width), triton.next_power_of_2(rows)
    if (numbers := lanes * padded_rows) <= ONE_LAUNCH_NUMBERS:
        _one_launch_kernel[(groups, batch)](
            x, y, weight, bias, *moves, eps, int(silu), rows, channels,
            WIDTH=width, ROWS=padded_rows, LANES=lanes, num_warps=min(16, max(4, numbers // 512)),
        )  # fmt: skip
        return y
    tile_rows, tile_columns, chunk_rows, chunks = cut(rows, channels, lanes)
    blocks = channels // tile_columns
    partial = torch.empty(batch, chunks, 2, channels, dtype=torch.float32, device=x.device)
    scales = torch.empty(batch, 2, channels, dtype=torch.float32, device=x.device)
    _statistics_kernel[(chunks, blocks, batch)](
        x, partial, rows, channels, chunk_rows, chunks,
        ROWS=tile_rows, COLUMNS=tile_columns, HAS_MORE=chunk_rows > tile_rows, num_warps=4,
    )  # fmt: skip
    padded_chunks = triton.next_power_of_2(chunks)
    _scales_kernel[(groups, batch)](
        partial, scales, weight, bias, *moves, eps, rows, channels, chunk_rows, chunks,
        WIDTH=width, LANES=lanes, CHUNKS=padded_chunks, num_warps=8 if lanes * padded_chunks > 2048 else 4,
    )  # fmt: skip
    _normalise_kernel[(triton.cdiv(rows, tile_rows), blocks, batch)](
        x, y, scales, int(silu), rows, channels, ROWS=tile_rows, COLUMNS=tile_columns, num_warps=4
    )
    return y
