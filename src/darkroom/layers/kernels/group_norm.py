"""GroupNorm with optional SiLU and per-channel shift over channels_last pictures.

A tensor in channels_last is a matrix (b, h*w, c) whose rows are pixels. A program owns a block of channels
that holds whole groups, so that statistics never cross programs along the channels. Large pictures take two
launches: partial statistics by rows, then the normalisation, which joins the partials itself; small ones take
one. Mean and squared deviation are joined by the parallel variance formula (Chan, Golub, LeVeque 1979) in
float32, in a fixed order: the same input gives the same bits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP_PAD = 16
ONE_LAUNCH_ROWS = 256
ROWS = 64


@triton.jit
def _load_tile(x, rows, cols, row_ok, col_ok, width, extra):
    mask = row_ok[:, None] & col_ok[None, :]
    tile = tl.load(x + rows[:, None].to(tl.int64) * width + cols[None, :], mask=mask, other=0.0).to(
        tl.float32
    )
    return tl.where(mask, tile + extra[None, :], 0.0), mask


@triton.jit
def _channel_extra(
    shift, bias, sample, shift_stride, cols, col_ok, HAS_SHIFT: tl.constexpr, HAS_BIAS: tl.constexpr
):
    extra = tl.zeros_like(cols).to(tl.float32)
    if HAS_SHIFT:
        extra += tl.load(shift + sample * shift_stride + cols, mask=col_ok, other=0.0).to(tl.float32)
    if HAS_BIAS:
        extra += tl.load(bias + cols, mask=col_ok, other=0.0).to(tl.float32)
    return extra


@triton.jit
def _row_statistics(
    x, extra, first, last, cols, col_ok, width, group_width, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
    GROUPS: tl.constexpr,
):  # fmt: skip
    """Mean and summed squared deviation of each group over rows [first, last): two vectors (GROUPS,)."""
    lanes = tl.arange(0, BLOCK_R)
    count = (last - first).to(tl.float32)
    tile, mask = _load_tile(x, first + lanes, cols, first + lanes < last, col_ok, width, extra)
    seen = tl.minimum(last - first, BLOCK_R).to(tl.float32)
    centre = tl.sum(tile, axis=0) / seen
    delta = tl.where(mask, tile - centre[None, :], 0.0)
    total = delta
    square = delta * delta
    for row in range(first + BLOCK_R, last, BLOCK_R):
        tile, mask = _load_tile(x, row + lanes, cols, row + lanes < last, col_ok, width, extra)
        delta = tl.where(mask, tile - centre[None, :], 0.0)
        total += delta
        square += delta * delta
    channel_total = tl.sum(total, axis=0)
    channel_mean = centre + channel_total / count
    channel_m2 = tl.sum(square, axis=0) - channel_total * channel_total / count
    member = _membership(group_width, col_ok, BLOCK_C, GROUPS)
    mean = tl.sum(tl.where(member, channel_mean[:, None], 0.0), axis=0) / group_width
    offset = tl.where(member, channel_mean[:, None] - mean[None, :], 0.0)
    m2 = tl.sum(tl.where(member, channel_m2[:, None], 0.0) + count * offset * offset, axis=0)
    return mean, m2


@triton.jit
def _membership(group_width, col_ok, BLOCK_C: tl.constexpr, GROUPS: tl.constexpr):
    owner = tl.arange(0, BLOCK_C) // group_width
    return (owner[:, None] == tl.arange(0, GROUPS)[None, :]) & col_ok[:, None]


@triton.jit
def _scale_offset(
    weight, bias, mean, variance, eps, cols, col_ok, group_width, BLOCK_C: tl.constexpr, GROUPS: tl.constexpr
):
    """Per-channel scale and offset such that x * scale + offset is the normalised x."""
    member = _membership(group_width, col_ok, BLOCK_C, GROUPS)
    rstd = tl.sum(tl.where(member, tl.rsqrt(variance + eps)[None, :], 0.0), axis=1)
    centre = tl.sum(tl.where(member, mean[None, :], 0.0), axis=1)
    scale = tl.load(weight + cols, mask=col_ok, other=0.0).to(tl.float32) * rstd
    return scale, tl.load(bias + cols, mask=col_ok, other=0.0).to(tl.float32) - centre * scale


@triton.jit
def _normalise_rows(
    x, y, scale, offset, extra, first, last, cols, col_ok, width, BLOCK_R: tl.constexpr, SILU: tl.constexpr
):
    lanes = tl.arange(0, BLOCK_R)
    for row in range(first, last, BLOCK_R):
        tile, mask = _load_tile(x, row + lanes, cols, row + lanes < last, col_ok, width, extra)
        out = tile * scale[None, :] + offset[None, :]
        if SILU:
            out = out / (1.0 + tl.exp(-out))
        place = y + (row + lanes)[:, None].to(tl.int64) * width + cols[None, :]
        tl.store(place, out.to(y.dtype.element_ty), mask=mask)


@triton.jit
def _statistics_kernel(
    x, partial, shift, shift_stride, channel_bias, rows, width, groups, group_width, chunk_rows, chunks,
    block_octets, HAS_SHIFT: tl.constexpr, HAS_BIAS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0)
    block = tl.program_id(1)
    sample = tl.program_id(2)
    block_groups = block_octets * 8 // group_width
    cols = block * (block_octets * 8) + tl.arange(0, BLOCK_C)
    col_ok = (tl.arange(0, BLOCK_C) < block_octets * 8) & (cols < width)
    x += sample.to(tl.int64) * rows * width
    extra = _channel_extra(shift, channel_bias, sample, shift_stride, cols, col_ok, HAS_SHIFT, HAS_BIAS)
    first = chunk * chunk_rows
    last = tl.minimum(first + chunk_rows, rows)
    mean, m2 = _row_statistics(
        x, extra, first, last, cols, col_ok, width, group_width, BLOCK_R, BLOCK_C, GROUPS
    )
    member = tl.arange(0, GROUPS)
    group = block * block_groups + member
    keep = (member < block_groups) & (group < groups)
    place = partial + ((sample * groups + group) * chunks + chunk) * 2
    tl.store(place, mean, mask=keep)
    tl.store(place + 1, m2, mask=keep)


@triton.jit
def _normalise_kernel(
    x, y, partial, weight, bias, shift, shift_stride, channel_bias, eps, rows, width, groups, group_width,
    chunk_rows, chunks, block_octets, program_rows, HAS_SHIFT: tl.constexpr, HAS_BIAS: tl.constexpr,
    SILU: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(1)
    sample = tl.program_id(2)
    cols = block * (block_octets * 8) + tl.arange(0, BLOCK_C)
    col_ok = (tl.arange(0, BLOCK_C) < block_octets * 8) & (cols < width)
    block_groups = block_octets * 8 // group_width
    member = tl.arange(0, GROUPS)
    group = block * block_groups + member
    chunk = tl.arange(0, CHUNKS)
    keep = ((member < block_groups) & (group < groups))[:, None] & (chunk < chunks)[None, :]
    place = partial + ((sample * groups + group)[:, None] * chunks + chunk[None, :]) * 2
    means = tl.load(place, mask=keep, other=0.0)
    m2s = tl.load(place + 1, mask=keep, other=0.0)
    counts = tl.minimum(tl.maximum(rows - chunk * chunk_rows, 0), chunk_rows).to(tl.float32)[None, :]
    mean = tl.sum(means * counts, axis=1) / rows
    offset = means - mean[:, None]
    m2 = tl.sum(tl.where(keep, m2s + counts * group_width * offset * offset, 0.0), axis=1)
    variance = m2 / (rows * group_width).to(tl.float32)
    scale, offset = _scale_offset(
        weight, bias, mean, variance, eps, cols, col_ok, group_width, BLOCK_C, GROUPS
    )
    extra = _channel_extra(shift, channel_bias, sample, shift_stride, cols, col_ok, HAS_SHIFT, HAS_BIAS)
    start = sample.to(tl.int64) * rows * width
    first = tl.program_id(0) * program_rows
    last = tl.minimum(first + program_rows, rows)
    _normalise_rows(
        x + start, y + start, scale, offset, extra, first, last, cols, col_ok, width, BLOCK_R, SILU
    )


@triton.jit
def _small_kernel(
    x, y, weight, bias, shift, shift_stride, channel_bias, eps, rows, width, group_width, block_octets,
    HAS_SHIFT: tl.constexpr, HAS_BIAS: tl.constexpr, SILU: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    sample = tl.program_id(1)
    cols = block * (block_octets * 8) + tl.arange(0, BLOCK_C)
    col_ok = (tl.arange(0, BLOCK_C) < block_octets * 8) & (cols < width)
    start = sample.to(tl.int64) * rows * width
    extra = _channel_extra(shift, channel_bias, sample, shift_stride, cols, col_ok, HAS_SHIFT, HAS_BIAS)
    mean, m2 = _row_statistics(
        x + start, extra, 0, rows, cols, col_ok, width, group_width, BLOCK_R, BLOCK_C, GROUPS
    )
    variance = m2 / (rows * group_width).to(tl.float32)
    scale, offset = _scale_offset(
        weight, bias, mean, variance, eps, cols, col_ok, group_width, BLOCK_C, GROUPS
    )
    _normalise_rows(x + start, y + start, scale, offset, extra, 0, rows, cols, col_ok, width, BLOCK_R, SILU)


class Plan(NamedTuple):
    """How a picture is cut: channels a program holds, whole groups in them, row chunks of the statistics."""

    block_channels: int
    block_groups: int
    blocks: int
    chunk_rows: int
    chunks: int
    program_rows: int


def plan(batch: int, rows: int, channels: int, groups: int) -> Plan:
    """The cut of a (batch, rows, channels) picture; few shapes of program, so that few are compiled."""
    group_width = channels // groups

    def waste(block: int) -> tuple[float, int]:
        fit = min(block // group_width, GROUP_PAD, groups)
        return (float("inf") if fit == 0 else -(-groups // fit) * block / channels, abs(block - 128))

    block_channels = min((64, 128, 256), key=waste)
    block_groups = min(block_channels // group_width, GROUP_PAD, groups)
    # 16-byte loads need every block to start at a multiple of eight channels.
    while block_groups > 1 and block_groups * group_width % 8:
        block_groups -= 1
    blocks = -(-groups // block_groups)
    chunk_rows = max(ROWS, triton.next_power_of_2(-(-rows // 128)))
    chunks = -(-rows // chunk_rows)
    wanted = max(1, 2048 // (blocks * batch))
    program_rows = max(ROWS, triton.next_power_of_2(-(-rows // wanted)))
    return Plan(block_channels, block_groups, blocks, chunk_rows, chunks, program_rows)


def supports(x: Tensor, groups: int) -> bool:
    """Whether the kernels take x (b, c, h, w): channels_last, groups that fit a program, aligned rows."""
    if (
        x.ndim != 4
        or x.shape[1] % groups
        or x.shape[1] % 8
        or not x.is_contiguous(memory_format=torch.channels_last)
    ):
        return False
    group_width = x.shape[1] // groups
    if group_width > 256:
        return False
    cut = plan(x.shape[0], x.shape[2] * x.shape[3], x.shape[1], groups)
    return cut.block_groups * group_width % 8 == 0


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
    batch, width, height, columns = x.shape
    rows, group_width = height * columns, width // groups
    cut = plan(batch, rows, width, groups)
    block_octets = cut.block_groups * group_width // 8
    y = torch.empty_like(x)
    shift_stride = 0 if shift is None else shift.stride(0)
    flags = {"HAS_SHIFT": shift is not None, "HAS_BIAS": channel_bias is not None}
    blocks = {"BLOCK_R": ROWS, "BLOCK_C": cut.block_channels, "GROUPS": GROUP_PAD}
    if rows <= ONE_LAUNCH_ROWS:
        _small_kernel[(cut.blocks, batch)](
            x, y, weight, bias, shift, shift_stride, channel_bias, eps, rows, width, group_width,
            block_octets, **flags, SILU=silu, **blocks, num_warps=8,
        )  # fmt: skip
        return y
    partial = torch.empty(batch * groups * cut.chunks * 2, dtype=torch.float32, device=x.device)
    _statistics_kernel[(cut.chunks, cut.blocks, batch)](
        x, partial, shift, shift_stride, channel_bias, rows, width, groups, group_width, cut.chunk_rows,
        cut.chunks, block_octets, **flags, **blocks, num_warps=8,
    )  # fmt: skip
    _normalise_kernel[(-(-rows // cut.program_rows), cut.blocks, batch)](
        x, y, partial, weight, bias, shift, shift_stride, channel_bias, eps, rows, width, groups, group_width,
        cut.chunk_rows, cut.chunks, block_octets, cut.program_rows, **flags, SILU=silu,
        CHUNKS=64 if cut.chunks <= 64 else 128, **blocks, num_warps=8,
    )  # fmt: skip
    return y
