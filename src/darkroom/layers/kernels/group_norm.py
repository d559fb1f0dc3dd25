"""GroupNorm with optional SiLU and per-channel shift over channels_last pictures.

A tensor in channels_last is a matrix (b, h*w, c) whose rows are pixels. A program takes some rows of some
whole groups, a tile (rows, groups, lanes) with the lanes padded to a power of two. Where one group fits a
program's registers one launch reads it once; else there are two: mean and squared deviation of each chunk of
rows, then the normalisation, which joins them itself by the parallel variance formula (Chan, Golub, LeVeque
1979), in float32 and in a fixed order: the same input gives the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_GROUP_WIDTH = 256
MAX_CHUNKS = 128
ONE_LAUNCH_NUMBERS = 32768
TILE_NUMBERS = 4096
TILE_LANES = 128
WANTED_PROGRAMS = 512
WARPS = 8
MAX_REGISTERS: int | None = None

# Options are numbers, not constants: each combination would be compiled anew.
_OPTIONS = ["shift_stride", "has_shift", "has_bias", "silu", "rows", "chunks"]


@triton.jit
def _columns(block, groups, WIDTH: tl.constexpr, PACK: tl.constexpr, LANES: tl.constexpr):
    """Channels (PACK, LANES) of the block's groups, and which of them there are."""
    group = block * PACK + tl.arange(0, PACK)[:, None]
    lane = tl.arange(0, LANES)[None, :]
    return group * WIDTH + lane, (group < groups) & (lane < WIDTH)


@triton.jit
def _moved(shift, shift_stride, has_shift, channel_bias, has_bias, sample, cols, col_ok):
    """What is added to each channel before the norm."""
    extra = tl.load(shift + sample * shift_stride + cols, mask=col_ok & (has_shift != 0), other=0.0)
    bias = tl.load(channel_bias + cols, mask=col_ok & (has_bias != 0), other=0.0)
    return extra.to(tl.float32) + bias.to(tl.float32)


@triton.jit
def _load(x, first, last, cols, col_ok, extra, channels, ROWS: tl.constexpr):
    """Rows from `first` on, before `last`, in float32: the tile, its places and which of them are there."""
    rows = first + tl.arange(0, ROWS)
    place = rows.to(tl.int64)[:, None, None] * channels + cols[None, :, :]
    mask = (rows < last)[:, None, None] & col_ok[None, :, :]
    tile = tl.load(x + place, mask=mask, other=0.0).to(tl.float32) + extra[None, :, :]
    return tl.where(mask, tile, 0.0), place, mask


@triton.jit
def _group_sum(tile):
    return tl.sum(tl.sum(tile, axis=0), axis=1)


@triton.jit
def _store(y, tile, place, mask, scale, offset, silu):
    out = tile * scale[None, :, :] + offset[None, :, :]
    if silu != 0:
        out = out / (1.0 + tl.exp(-out))
    tl.store(y + place, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _scale_offset(weight, bias, mean, variance, eps, cols, col_ok):
    """Per channel, such that x * scale + offset is the normalised x."""
    scale = tl.load(weight + cols, mask=col_ok, other=0.0).to(tl.float32) * tl.rsqrt(variance + eps)[:, None]
    return scale, tl.load(bias + cols, mask=col_ok, other=0.0).to(tl.float32) - mean[:, None] * scale


@triton.jit(do_not_specialize=_OPTIONS)
def _one_launch_kernel(
    x, y, weight, bias, shift, shift_stride, has_shift, channel_bias, has_bias, eps, silu, rows, groups,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(1)
    cols, col_ok = _columns(tl.program_id(0), groups, WIDTH, 1, LANES)
    extra = _moved(shift, shift_stride, has_shift, channel_bias, has_bias, sample, cols, col_ok)
    start = sample.to(tl.int64) * rows * groups * WIDTH
    tile, place, mask = _load(x + start, 0, rows, cols, col_ok, extra, groups * WIDTH, ROWS)
    count = (rows * WIDTH).to(tl.float32)
    mean = _group_sum(tile) / count
    delta = tl.where(mask, tile - mean[None, :, None], 0.0)
    variance = _group_sum(delta * delta) / count
    scale, offset = _scale_offset(weight, bias, mean, variance, eps, cols, col_ok)
    _store(y + start, tile, place, mask, scale, offset, silu)


@triton.jit(do_not_specialize=_OPTIONS)
def _statistics_kernel(
    x, partial, shift, shift_stride, has_shift, channel_bias, has_bias, rows, groups, chunk_rows, chunks,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PACK: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    sample = tl.program_id(2)
    cols, col_ok = _columns(tl.program_id(1), groups, WIDTH, PACK, LANES)
    extra = _moved(shift, shift_stride, has_shift, channel_bias, has_bias, sample, cols, col_ok)
    channels = groups * WIDTH
    x += sample.to(tl.int64) * rows * channels
    first = chunk * chunk_rows
    last = tl.minimum(first + chunk_rows, rows)
    tile, _place, mask = _load(x, first, last, cols, col_ok, extra, channels, ROWS)
    centre = _group_sum(tile) / (tl.minimum(last - first, ROWS) * WIDTH).to(tl.float32)
    total = tl.where(mask, tile - centre[None, :, None], 0.0)
    square = total * total
    for row in range(first + ROWS, last, ROWS):
        more, _at, inside = _load(x, row, last, cols, col_ok, extra, channels, ROWS)
        delta = tl.where(inside, more - centre[None, :, None], 0.0)
        total += delta
        square += delta * delta
    count = ((last - first) * WIDTH).to(tl.float32)
    off = _group_sum(total) / count
    group = tl.program_id(1) * PACK + tl.arange(0, PACK)
    part = partial + (sample * chunks + chunk) * 2 * groups + group
    tl.store(part, centre + off, mask=group < groups)
    tl.store(part + groups, _group_sum(square) - count * off * off, mask=group < groups)


@triton.jit(do_not_specialize=_OPTIONS)
def _normalise_kernel(
    x, y, partial, weight, bias, shift, shift_stride, has_shift, channel_bias, has_bias, eps, silu, rows,
    groups, chunk_rows, chunks, program_rows,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, PACK: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    sample = tl.program_id(2)
    cols, col_ok = _columns(tl.program_id(1), groups, WIDTH, PACK, LANES)
    extra = _moved(shift, shift_stride, has_shift, channel_bias, has_bias, sample, cols, col_ok)
    channels = groups * WIDTH
    x += sample.to(tl.int64) * rows * channels
    y += sample.to(tl.int64) * rows * channels
    first = tl.program_id(0) * program_rows
    last = tl.minimum(first + program_rows, rows)
    tile, place, mask = _load(x, first, last, cols, col_ok, extra, channels, ROWS)

    group = tl.program_id(1) * PACK + tl.arange(0, PACK)[None, :]
    chunk = tl.arange(0, CHUNKS)[:, None]
    keep = (chunk < chunks) & (group < groups)
    part = partial + (sample * chunks + chunk) * 2 * groups + group
    means = tl.load(part, mask=keep, other=0.0)
    m2s = tl.load(part + groups, mask=keep, other=0.0)
    counts = tl.minimum(tl.maximum(rows - chunk * chunk_rows, 0), chunk_rows).to(tl.float32)
    mean = tl.sum(means * counts, axis=0) / rows
    off = means - mean[None, :]
    m2 = tl.sum(tl.where(keep, m2s + counts * WIDTH * off * off, 0.0), axis=0)
    scale, offset = _scale_offset(weight, bias, mean, m2 / (rows.to(tl.float32) * WIDTH), eps, cols, col_ok)
    _store(y, tile, place, mask, scale, offset, silu)
    for row in range(first + ROWS, last, ROWS):
        more, at, inside = _load(x, row, last, cols, col_ok, extra, channels, ROWS)
        _store(y, more, at, inside, scale, offset, silu)


class Plan(NamedTuple):
    """How a picture is cut into tiles of `rows` pixels and `pack` groups of `lanes` padded channels."""

    rows: int
    pack: int
    lanes: int
    chunk_rows: int
    program_rows: int


def plan(batch: int, rows: int, group_width: int, groups: int) -> Plan:
    """Cuts that keep every multiprocessor busy, pixels read in the longest runs that allows."""
    lanes = triton.next_power_of_2(group_width)
    least_chunk = triton.next_power_of_2(triton.cdiv(rows, MAX_CHUNKS))
    pack = min(triton.next_power_of_2(groups), max(1, TILE_LANES // lanes))

    def programs(chunk_rows: int) -> int:
        return int(triton.cdiv(rows, chunk_rows) * triton.cdiv(groups, pack) * batch)

    while pack > 1 and pack * lanes > 32 and programs(least_chunk) < WANTED_PROGRAMS:
        pack //= 2
    tile_rows = max(1, TILE_NUMBERS // (pack * lanes))
    while tile_rows > max(16, least_chunk) and programs(tile_rows) < WANTED_PROGRAMS:
        tile_rows //= 2
    most_programs = max(1, 4096 // (triton.cdiv(groups, pack) * batch))
    program_rows = max(tile_rows, triton.next_power_of_2(triton.cdiv(rows, most_programs)))
    return Plan(tile_rows, pack, lanes, max(least_chunk, tile_rows), program_rows)


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
            x, y, weight, bias, *moves, eps, int(silu), rows, groups, WIDTH=width, ROWS=padded_rows,
            LANES=lanes, num_warps=min(16, max(4, numbers // 512)),
        )  # fmt: skip
        return y
    cut = plan(batch, rows, width, groups)
    chunks = triton.cdiv(rows, cut.chunk_rows)
    blocks = triton.cdiv(groups, cut.pack)
    tile: dict[str, int | None] = {"WIDTH": width, "ROWS": cut.rows, "PACK": cut.pack, "LANES": cut.lanes}
    tile["num_warps"] = min(WARPS, max(4, cut.rows * cut.pack * cut.lanes // 512))
    tile["maxnreg"] = MAX_REGISTERS
    partial = torch.empty(batch * chunks * 2 * groups, dtype=torch.float32, device=x.device)
    _statistics_kernel[(chunks, blocks, batch)](
        x, partial, *moves, rows, groups, cut.chunk_rows, chunks, **tile
    )
    _normalise_kernel[(triton.cdiv(rows, cut.program_rows), blocks, batch)](
        x, y, partial, weight, bias, *moves, eps, int(silu), rows, groups, cut.chunk_rows, chunks,
        cut.program_rows, **tile, CHUNKS=64 if chunks <= 64 else MAX_CHUNKS,
    )  # fmt: skip
    return y
