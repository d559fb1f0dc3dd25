"""A weight as it lies in the file: blocks of small integers with their scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from darkroom.quant import fp8, gguf

FLOAT16_EXPONENT = 0x7C00
"""Bits that are all set in infinities and in what is no number."""


@dataclass(frozen=True)
class PackedTensor:
    """A quantized weight that stays packed until it is bound or used.

    data: uint8 (nbytes,), the blocks in row order. shape: the weight's, rows first.
    format: a GGUF block type in lower case (q8_0, q4_k, ...), or f8_e4m3 / f8_e5m2.
    scale: the factor of a scaled fp8 weight, one value or one for each row.
    """

    data: Tensor
    format: str
    shape: tuple[int, ...]
    scale: Tensor | None = None

    @classmethod
    def encode(cls, weight: Tensor, format: str) -> PackedTensor:
        """Quantizes `weight` of any float type to one of `gguf.ENCODERS`; its size must be whole blocks."""
        return cls(gguf.encode(weight, format), format, tuple(weight.shape))

    @classmethod
    def join(cls, parts: Sequence[PackedTensor]) -> PackedTensor | None:
        """The rows of all parts, one after the other; None where formats or widths differ."""
        first = parts[0]
        if any(part.format != first.format or part.shape[1:] != first.shape[1:] for part in parts):
            return None
        scale = None
        if any(part.scale is not None for part in parts):
            scale = torch.cat([part._row_scales() for part in parts])
        shape = (sum(part.shape[0] for part in parts), *first.shape[1:])
        return cls(torch.cat([part.data for part in parts]), first.format, shape, scale)

    @property
    def nbytes(self) -> int:
        """Bytes of the packed data."""
        return self.data.numel()

    @property
    def numel(self) -> int:
        """Weights in it."""
        return math.prod(self.shape)

    def to(self, device: torch.device) -> PackedTensor:
        """The same on `device`, itself if it is there."""
        if self.data.device == device:
            return self
        scale = None if self.scale is None else self.scale.to(device)
        return replace(self, data=self.data.to(device), scale=scale)

    def decode(self, dtype: torch.dtype) -> Tensor:
        """The weight as a contiguous tensor of `dtype`, on the device of `data`."""
        if self.format in fp8.DTYPES:
            return fp8.decode(self.data, self.format, self.shape, dtype, self.scale)
        return gguf.decode(self.data, self.format, dtype).reshape(self.shape)

    def is_damaged(self) -> Tensor:
        """Whether a scale that many weights share is infinite or no number: bool (), beside the data."""
        damaged = torch.zeros((), dtype=torch.bool, device=self.data.device)
        if self.format in fp8.DTYPES:
            return damaged if self.scale is None else ~torch.isfinite(self.scale).all()
        block = gguf.BLOCK_TYPES[self.format]
        for at in block.scales:
            scales = self.data.view(torch.int16).view(-1, block.nbytes // 2)[:, at // 2]
            damaged |= ((scales & FLOAT16_EXPONENT) == FLOAT16_EXPONENT).any()
        return damaged

    @property
    def has_whole_rows(self) -> bool:
        """Whether no block holds weights of two rows."""
        row = math.prod(self.shape[1:])
        return self.format in fp8.DTYPES or row % gguf.BLOCK_TYPES[self.format].elements == 0

    def rows(self, indices: Tensor) -> PackedTensor:
        """The rows of these numbers (n,), each as often as it is named; blocks must not cross rows."""
        assert self.has_whole_rows, "each row is found by its bytes"
        data = self.data.view(self.shape[0], -1)[indices].flatten()
        per_row = self.scale is not None and self.scale.numel() > 1
        scale = self.scale.reshape(-1)[indices] if self.scale is not None and per_row else self.scale
        return PackedTensor(data, self.format, (len(indices), *self.shape[1:]), scale)

    def row_slice(self, start: int, stop: int) -> PackedTensor | Tensor:
        """Rows `start` to `stop`; packed where blocks do not cross rows, else decoded to float32."""
        row = math.prod(self.shape[1:])
        shape = (stop - start, *self.shape[1:])
        if self.format in fp8.DTYPES:
            per_row = self.scale is not None and self.scale.numel() > 1
            scale = self.scale.reshape(-1)[start:stop] if self.scale is not None and per_row else self.scale
            return PackedTensor(self.data[start * row : stop * row], self.format, shape, scale)
        block = gguf.BLOCK_TYPES[self.format]
        if start * row % block.elements or stop * row % block.elements:
            return self.decode(torch.float32)[start:stop]
        first, last = (n * row // block.elements * block.nbytes for n in (start, stop))
        return PackedTensor(self.data[first:last], self.format, shape)

    def row_ranges(self, ranges: Sequence[tuple[int, int]]) -> PackedTensor:
        """These rows, one range after the other; blocks must not cross rows."""
        slices = [self.row_slice(start, stop) for start, stop in ranges]
        parts = [part for part in slices if isinstance(part, PackedTensor)]
        joined = parts[0] if len(parts) == 1 else PackedTensor.join(parts)
        assert joined is not None, "parts of one tensor have one format"
        return joined

    def has_whole_columns(self, ranges: Sequence[tuple[int, int]]) -> bool:
        """Whether no block holds weights of a column in one of the ranges and of one that is not."""
        elements = 1 if self.format in fp8.DTYPES else gguf.BLOCK_TYPES[self.format].elements
        ends = [end for both in ranges for end in both]
        return len(self.shape) == 2 and self.has_whole_rows and all(end % elements == 0 for end in ends)

    def columns(self, ranges: Sequence[tuple[int, int]]) -> PackedTensor:
        """These columns of a matrix, one range after the other; they must be whole blocks."""
        assert self.has_whole_columns(ranges), "blocks are not divided"
        block = gguf.BLOCK_TYPES.get(self.format)
        elements, nbytes = (block.elements, block.nbytes) if block else (1, 1)
        rows, blocks = self.shape[0], self.data.view(self.shape[0], -1, nbytes)
        data = torch.cat([blocks[:, start // elements : stop // elements] for start, stop in ranges], dim=1)
        width = sum(stop - start for start, stop in ranges)
        return replace(self, data=data.flatten(), shape=(rows, width))

    def _row_scales(self) -> Tensor:
        if self.scale is None:
            return torch.ones(self.shape[0], device=self.data.device)
        return self.scale.reshape(-1).expand(self.shape[0])
