"""The tensors that a header lists: names, shapes, types, bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from darkroom.manager.library.parts import FileFormat

ITEM_SIZES = {
    "f64": 8, "f32": 4, "f16": 2, "bf16": 2, "f8_e4m3": 1, "f8_e5m2": 1,
    "i64": 8, "i32": 4, "i16": 2, "i8": 1, "u8": 1, "bool": 1,
}  # fmt: skip
"""Bytes of a number; of types that are not listed the header says how many bytes a tensor takes."""

MAX_TENSORS = 100_000
MAX_DIMS = 8
MAX_ELEMENTS = 1 << 48


class TensorHead(NamedTuple):
    """One tensor. shape: rows first. nbytes: in the file."""

    shape: tuple[int, ...]
    dtype: str
    nbytes: int


Tensors = Mapping[str, TensorHead]


@dataclass(frozen=True)
class Header:
    """What a file says before its weights. metadata: single values as text, arrays left out."""

    format: FileFormat
    tensors: Tensors
    metadata: Mapping[str, str] = field(default_factory=dict)

    def types(self) -> dict[str, int]:
        """Bytes by type, the most first."""
        counts: Counter[str] = Counter()
        for tensor in self.tensors.values():
            counts[tensor.dtype] += tensor.nbytes
        return dict(counts.most_common())


def elements(shape: tuple[int, ...]) -> int:
    """How many numbers a tensor has. Raises ValueError for shapes that none can have."""
    if len(shape) > MAX_DIMS:
        raise ValueError(f"{len(shape)} dimensions")
    product = 1
    for size in shape:
        if type(size) is not int or not 0 <= size <= MAX_ELEMENTS:
            raise ValueError(f"a side of {size}")
        product *= size
        if product > MAX_ELEMENTS:
            raise ValueError("more numbers than any file holds")
    return product
