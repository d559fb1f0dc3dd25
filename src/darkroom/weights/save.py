"""Writes GGUF files."""

from __future__ import annotations

import math
import os
import struct
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from darkroom.quant.gguf import BLOCK_TYPES
from darkroom.quant.packed import PackedTensor
from darkroom.weights import gguf
from darkroom.weights.index import DTYPES

Value = str | bool | int | float

ALIGNMENT = 32
VERSION = 3
GGML_MAX_DIMS = 4
WIDE = 256
"""Row length of a reshaped tensor where its size allows: whole blocks of every type."""

TYPE_NUMBERS = {name: number for number, name in gguf.TYPES.items()}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def write_gguf(
    path: Path, tensors: Mapping[str, Tensor | PackedTensor], metadata: Mapping[str, Value] | None = None
) -> None:
    """Writes a GGUF v3 file. It appears under its name only when it is whole.

    tensors: float16, bfloat16, float32, float64, whole numbers or GGUF blocks. One whose rows are not whole
    blocks is stored with rows that are, its own shape beside it as `comfy.gguf.orig_shape.<name>`, which is
    ComfyUI-GGUF's way.
    metadata: whole numbers are stored as int64 (uint32 for keys of `general.`), fractions as float64.

    Raises ValueError for a type that GGUF does not have.
    """
    stored = {name: _stored_shape(tensor) for name, tensor in tensors.items()}
    reshaped = {name: tuple(t.shape) for name, t in tensors.items() if tuple(t.shape) != stored[name]}
    header = bytearray(gguf.MAGIC)
    header += struct.pack("<IQQ", VERSION, len(tensors), len(metadata or {}) + len(reshaped))
    for key, value in (metadata or {}).items():
        header += _string(key) + _value(key, value)
    for name, shape in reshaped.items():
        header += _string(gguf.ORIG_SHAPE + name)
        header += struct.pack(f"<IIQ{len(shape)}i", gguf.ARRAY, 5, len(shape), *shape)
    offset = 0
    for name, tensor in tensors.items():
        dims = tuple(reversed(stored[name]))
        header += _string(name)
        header += struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, TYPE_NUMBERS[_type(tensor)], offset)
        offset += _aligned(_nbytes(tensor))
    header += bytes(_aligned(len(header)) - len(header))
    _write_whole(path, bytes(header), tensors)


def _write_whole(path: Path, header: bytes, tensors: Mapping[str, Tensor | PackedTensor]) -> None:
    """Writes beside `path` and renames: a reader sees the old file or the new one, never a part."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(header)
            for tensor in tensors.values():
                _write_tensor(file, tensor)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write_tensor(file: BinaryIO, tensor: Tensor | PackedTensor) -> None:
    data = tensor.data if isinstance(tensor, PackedTensor) else tensor.detach()
    raw = data.cpu().contiguous().view(-1).view(torch.uint8).numpy()
    file.write(raw.data)
    file.write(bytes(_aligned(raw.nbytes) - raw.nbytes))


def _stored_shape(tensor: Tensor | PackedTensor) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if not isinstance(tensor, PackedTensor):
        return shape if 0 < len(shape) <= GGML_MAX_DIMS else (math.prod(shape),)
    block = BLOCK_TYPES[tensor.format].elements
    if 0 < len(shape) <= GGML_MAX_DIMS and shape[-1] % block == 0:
        return shape
    numel = math.prod(shape)
    width = WIDE if numel % WIDE == 0 else block
    return (numel // width, width)


def _type(tensor: Tensor | PackedTensor) -> str:
    name = tensor.format if isinstance(tensor, PackedTensor) else DTYPE_NAMES.get(tensor.dtype, "")
    if name not in TYPE_NUMBERS:
        what = tensor.format if isinstance(tensor, PackedTensor) else tensor.dtype
        raise ValueError(f"GGUF has no tensor type {what}; it has {', '.join(TYPE_NUMBERS)}")
    return name


def _nbytes(tensor: Tensor | PackedTensor) -> int:
    return tensor.nbytes if isinstance(tensor, PackedTensor) else tensor.numel() * tensor.element_size()


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", gguf.STRING) + _string(value)
    if isinstance(value, bool):
        return struct.pack("<I?", gguf.BOOL, value)
    if isinstance(value, float):
        return struct.pack("<Id", 12, value)
    if key.startswith("general."):  # file_type, quantization_version: uint32 by the format's definition
        return struct.pack("<II", 4, value)
    return struct.pack("<Iq", 11, value)
