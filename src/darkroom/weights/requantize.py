"""Weights in another type than their file's: single tensors, and a source that converts what is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.quant import fp8
from darkroom.quant.gguf import BLOCK_TYPES, encode
from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import DTYPES, TensorIndex, TensorInfo
from darkroom.weights.source import TensorSource
from darkroom.weights.tensor_types import TypeRules

CPU = torch.device("cpu")

PIECE = 1 << 22
"""Weights converted at a time, a multiple of all block sizes: 16 MiB of float32."""


def pieces(tensor: Tensor | PackedTensor, size: int = PIECE) -> Iterator[Tensor | PackedTensor]:
    """The weights in order, flat, about `size` at a time; whole rows where a row has a scale of its own."""
    if not isinstance(tensor, PackedTensor):
        yield from torch.split(tensor.reshape(-1), size) if tensor.numel() else ()
        return
    if tensor.scale is not None and tensor.scale.numel() > 1:
        rows = max(1, size // max(1, math.prod(tensor.shape[1:])))
        for start in range(0, tensor.shape[0], rows):
            yield tensor.row_slice(start, min(start + rows, tensor.shape[0]))
        return
    block = BLOCK_TYPES.get(tensor.format)
    elements, nbytes = (block.elements, block.nbytes) if block else (1, 1)
    for data in torch.split(tensor.data, size // elements * nbytes):
        yield PackedTensor(data, tensor.format, (data.numel() // nbytes * elements,), tensor.scale)


def convert_piece(piece: Tensor | PackedTensor, dtype: str, subject: str) -> Tensor:
    """A piece of a tensor as plain numbers of `dtype`, or as the bytes of its blocks.

    subject: whose piece it is, for errors. Raises CheckpointError for values that are no finite numbers.
    """
    if isinstance(piece, PackedTensor):
        if piece.format == dtype and piece.scale is None and dtype in BLOCK_TYPES:
            return piece.data
        if piece.format == dtype and piece.scale is None:
            return piece.data.view(DTYPES[dtype])
        piece = piece.decode(torch.float32)
    if dtype not in BLOCK_TYPES:
        return piece.to(DTYPES[dtype])
    if not torch.isfinite(piece.sum(dtype=torch.float32)) and not torch.isfinite(piece).all():
        raise CheckpointError(
            f"{subject}: holds values that are no finite numbers, which {dtype} cannot; the file is damaged"
        )
    return encode(piece, dtype)


def convert(
    tensor: Tensor | PackedTensor, dtype: str, subject: str, device: torch.device = CPU
) -> Tensor | PackedTensor:
    """The whole tensor in another type, itself if it has it; where it was, however it got it.

    device: where it is converted. Raises what `convert_piece` does.
    """
    shape, numel = tuple(tensor.shape), math.prod(tensor.shape)
    block = BLOCK_TYPES.get(dtype)
    if isinstance(tensor, PackedTensor) and tensor.format == dtype:
        return tensor
    if not isinstance(tensor, PackedTensor) and tensor.dtype == DTYPES.get(dtype):
        return tensor
    size = block.size(numel) if block else numel
    out = torch.empty(size, dtype=torch.uint8 if block else DTYPES[dtype])
    at = 0
    for piece in pieces(tensor):
        made = convert_piece(piece.to(device), dtype, subject).flatten()
        out[at : at + len(made)] = made
        at += len(made)
    return PackedTensor(out, dtype, shape) if block else out.view(shape)


class Requantized:
    """Tensors of a source, some of them converted when they are read."""

    def __init__(self, source: TensorSource, types: Mapping[str, str], device: torch.device = CPU) -> None:
        """types: of the tensors to convert, by name. device: where they are converted."""
        self._source, self._types, self._device = source, types, device
        self.index = TensorIndex(
            (
                TensorInfo(name, info.shape, types.get(name, info.dtype))
                for name, info in source.index.items()
            ),
            source.index.metadata,
        )

    def read(self, name: str) -> Tensor | PackedTensor:
        """One tensor in its new type; a copy where that is not the file's."""
        tensor = self._source.read(name)
        if name not in self._types:
            return tensor
        made = convert(tensor, self._types[name], f"tensor {name!r}", self._device)
        if made is not tensor:
            self._source.release(name)
        return made

    def release(self, name: str) -> None:
        """Gives back memory that reading `name` has taken up."""
        self._source.release(name)

    def under(self, prefix: str) -> TensorSource:
        """The tensors whose names start with `prefix`, without it."""
        types = {name[len(prefix) :]: t for name, t in self._types.items() if name.startswith(prefix)}
        part = self._source.under(prefix)
        return Requantized(part, types, self._device) if types else part


def requantized(
    source: TensorSource, rules: TypeRules, spelling: Callable[[str], str], device: torch.device = CPU
) -> TensorSource:
    """The source with its weights as `rules` want them; one-dimensional tensors stay as they are.

    spelling: a tensor's name as rules see it. device: where they are converted.
    """
    types = {}
    for name, info in source.index.items():
        wanted = rules.wanted(TensorInfo(spelling(name), info.shape, info.dtype))
        if len(info.shape) > 1 and wanted != info.dtype:
            types[name] = wanted
    return Requantized(source, types, device) if types else source


def is_scaled(tensor: Tensor | PackedTensor) -> bool:
    """Whether it is fp8 with a scale beside it, which no file that is written here can hold."""
    return isinstance(tensor, PackedTensor) and tensor.format in fp8.DTYPES and tensor.scale is not None
