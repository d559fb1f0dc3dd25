"""What a model file holds, read from its header alone: names, shapes and types of its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from darkroom.quant import fp8
from darkroom.quant.gguf import BLOCK_TYPES

DTYPES: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8_e4m3": torch.float8_e4m3fn,
    "f8_e5m2": torch.float8_e5m2,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "bool": torch.bool,
}
"""The plain types of `TensorInfo.dtype` and what torch calls them."""

Metadata = Mapping[str, str | Sequence[str | int | float]]
"""What a file says about itself: single values as text, arrays (a vocabulary's tokens) read when touched."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a file.

    shape: torch's order, rows first. dtype: f64 f32 f16 bf16 f8_e4m3 f8_e5m2 i64 i32 i16 i8 u8 bool,
    or the name of a GGUF block type in lower case (q4_0, q6_k, iq4_xs, mxfp4, ...).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def numel(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)

    @property
    def is_quantized(self) -> bool:
        """Whether it is blocks of small integers, or 8-bit floats."""
        return self.dtype in BLOCK_TYPES or self.dtype in fp8.DTYPES

    @property
    def nbytes(self) -> int:
        """Bytes that the tensor takes in the file; 0 for a type that cannot be read."""
        if block := BLOCK_TYPES.get(self.dtype):
            return block.size(self.numel)
        return self.numel * DTYPES[self.dtype].itemsize if self.dtype in DTYPES else 0


class TensorIndex(Mapping[str, TensorInfo]):
    """The tensors of a file by name, in the file's order, and the file's own metadata."""

    def __init__(self, tensors: Iterable[TensorInfo], metadata: Metadata | None = None) -> None:
        self._tensors = {info.name: info for info in tensors}
        self.metadata: Metadata = {} if metadata is None else metadata

    def __getitem__(self, name: str) -> TensorInfo:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"TensorIndex({len(self)} tensors)"

    def under(self, prefix: str) -> TensorIndex:
        """The tensors whose names start with `prefix`, without it."""
        return TensorIndex(
            (
                replace(info, name=name[len(prefix) :])
                for name, info in self._tensors.items()
                if name.startswith(prefix)
            ),
            self.metadata,
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name to shape."""
        return {name: info.shape for name, info in self._tensors.items()}
