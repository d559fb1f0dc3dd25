"""Fields of a block: how bytes are taken apart and put together. Blocks are uint8 (n, nbytes), one a row."""

from __future__ import annotations

import functools

import torch
from torch import Tensor


def f16(blocks: Tensor, at: int) -> Tensor:
    """The float16 at byte `at` of each block: (n, 1) float32."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).to(torch.float32)


def i16(field: Tensor) -> Tensor:
    """Little-endian 16-bit words as their unsigned values: (n, 2 k) -> (n, k) int32."""
    return field.contiguous().view(torch.int16).to(torch.int32) & 0xFFFF


def i32(field: Tensor) -> Tensor:
    """Little-endian 32-bit words; bits 31 come out as the sign: (n, 4 k) -> (n, k) int32."""
    return field.contiguous().view(torch.int32)


def shifted(field: Tensor, shifts: tuple[int, ...], mask: int) -> Tensor:
    """Every element cut into `len(shifts)` fields, which become a new last dimension."""
    return (field.unsqueeze(-1) >> _amounts(shifts, field.dtype, field.device)) & mask


@functools.cache
def _amounts(shifts: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, so that a GPU is handed them once."""
    return torch.tensor(shifts, dtype=dtype, device=device)


def planes(field: Tensor, shifts: tuple[int, ...], mask: int, width: int) -> Tensor:
    """Runs of `width` bytes cut into planes, the fields of the first shift before those of the next.

    field: (n, k * width) -> (n, k, len(shifts), width) uint8. One shift at a time: torch has vector code for
    shifts by a number only, and a GPU need not be handed a tensor of them.
    """
    runs = field.reshape(field.shape[0], -1, width)
    return torch.stack([(runs >> shift) & mask for shift in shifts], dim=2)


def nibbles(field: Tensor, width: int) -> Tensor:
    """Low halves of each run of `width` bytes, then its high halves: (n, k width) -> (n, 2 k width) uint8."""
    return planes(field, (0, 4), 0x0F, width).flatten(1)


def join_planes(fields: Tensor, shifts: tuple[int, ...], width: int) -> Tensor:
    """The bytes that `planes` takes apart: (n, k * len(shifts) * width) uint8 -> (n, k * width)."""
    runs = fields.reshape(fields.shape[0], -1, len(shifts), width)
    joined = runs[:, :, 0] << shifts[0]
    for i, shift in enumerate(shifts[1:], 1):
        joined |= runs[:, :, i] << shift
    return joined.flatten(1)


def f16_bytes(values: Tensor) -> Tensor:
    """Numbers as float16: (n, k) -> (n, 2 k) uint8."""
    return values.to(torch.float16).contiguous().view(torch.uint8)
