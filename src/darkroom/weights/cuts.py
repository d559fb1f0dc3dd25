"""Parts of a source's tensors, for networks that have only some heads and channels of the whole one's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import TensorIndex, TensorInfo
from darkroom.weights.source import TensorSource

Range = tuple[int, int]


@dataclass(frozen=True)
class Cut:
    """A part of a tensor: of its rows (axis 0) or columns (axis 1), these ranges one after the other."""

    axis: int
    ranges: tuple[Range, ...]


class Place(NamedTuple):
    """Where a tensor comes from: its name in the other source, and what of it; None for all."""

    name: str
    cut: Cut | None


class PartsSource:
    """Tensors of another source, whole or in part, under other names."""

    def __init__(self, source: TensorSource, places: Mapping[str, Place]) -> None:
        self._source = source
        self._places = places
        self.index = TensorIndex(
            (_info(replace(source.index[there], name=name), cut) for name, (there, cut) in places.items()),
            source.index.metadata,
        )

    def read(self, name: str) -> Tensor | PackedTensor:
        """One tensor; a part of a packed one stays packed where it is whole blocks."""
        there, cut = self._places[name]
        raw = self._source.read(there)
        return raw if cut is None else _part(raw, cut)

    def release(self, name: str) -> None:
        """Gives back the memory of the whole tensor."""
        self._source.release(self._places[name].name)

    def under(self, prefix: str) -> PartsSource:
        """The tensors whose names start with `prefix`, without it."""
        named = ((name, place) for name, place in self._places.items() if name.startswith(prefix))
        return PartsSource(self._source, {name[len(prefix) :]: place for name, place in named})


def _info(info: TensorInfo, cut: Cut | None) -> TensorInfo:
    if cut is None:
        return info
    shape = list(info.shape)
    shape[cut.axis] = sum(stop - start for start, stop in cut.ranges)
    packed = PackedTensor(torch.empty(0, dtype=torch.uint8, device="meta"), info.dtype, info.shape)
    stays = not info.is_quantized or _is_whole_blocks(packed, cut)
    return replace(info, shape=tuple(shape), dtype=info.dtype if stays else "f32")


def _is_whole_blocks(packed: PackedTensor, cut: Cut) -> bool:
    return packed.has_whole_columns(cut.ranges) if cut.axis else packed.has_whole_rows


def _part(raw: Tensor | PackedTensor, cut: Cut) -> Tensor | PackedTensor:
    if isinstance(raw, PackedTensor):
        if _is_whole_blocks(raw, cut):
            return raw.columns(cut.ranges) if cut.axis else raw.row_ranges(cut.ranges)
        raw = raw.decode(torch.float32)
    pieces = [raw.narrow(cut.axis, start, stop - start) for start, stop in cut.ranges]
    return torch.cat(pieces, cut.axis) if len(pieces) > 1 else pieces[0].contiguous()
