"""Headers of files to be written, and where in the file each tensor goes."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from darkroom.quant.gguf import BLOCK_TYPES
from darkroom.weights import gguf, safetensors
from darkroom.weights.index import DTYPES, TensorInfo

Value = str | bool | int | float

ALIGNMENT = 32
VERSION = 3
GGML_MAX_DIMS = 4
WIDE = 256
"""Row length of a reshaped tensor where its size allows: whole blocks of every type."""

GGUF_TYPES = {name: number for number, name in gguf.TYPES.items()}
SAFETENSORS_TYPES = {name: spelling for spelling, name in safetensors.TYPES.items()}


@dataclass(frozen=True)
class Layout:
    """header: the first bytes of the file. starts: the first byte of each tensor. size: bytes of the file."""

    header: bytes
    starts: Mapping[str, int]
    size: int


def gguf_layout(tensors: Iterable[TensorInfo], metadata: Mapping[str, Value | bytes] | None = None) -> Layout:
    """A GGUF v3 file.

    tensors: float16, bfloat16, float32, float64, whole numbers or GGUF blocks. One whose rows are not whole
    blocks is stored with rows that are, and one of more than four dimensions with the first of them as one;
    its own shape lies beside it as `comfy.gguf.orig_shape.<name>`, which is ComfyUI-GGUF's way.
    metadata: whole numbers are stored as int64 (uint32 for keys of `general.`), fractions as float64; bytes
    are a value as another file has it.

    Raises ValueError for a type that GGUF does not have.
    """
    infos = list(tensors)
    pairs = {key: _value(key, value) for key, value in (metadata or {}).items()}
    for info in infos:
        if _stored_shape(info) != info.shape:
            shape = info.shape
            array = struct.pack(f"<IIQ{len(shape)}i", gguf.ARRAY, 5, len(shape), *shape)
            pairs[gguf.ORIG_SHAPE + info.name] = array
    header = bytearray(gguf.MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(pairs)))
    for key, value in pairs.items():
        header += _string(key) + value
    offsets, offset = {}, 0
    for info in infos:
        if info.dtype not in GGUF_TYPES:
            raise ValueError(f"GGUF has no tensor type {info.dtype}; it has {', '.join(GGUF_TYPES)}")
        dims = tuple(reversed(_stored_shape(info)))
        header += _string(info.name)
        header += struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, GGUF_TYPES[info.dtype], offset)
        offsets[info.name] = offset
        offset += _aligned(info.nbytes)
    header += bytes(_aligned(len(header)) - len(header))
    starts = {name: len(header) + offset for name, offset in offsets.items()}
    return Layout(bytes(header), starts, len(header) + offset)


def safetensors_layout(tensors: Iterable[TensorInfo], metadata: Mapping[str, str] | None = None) -> Layout:
    """A safetensors file; its data begins at a multiple of 8 bytes. Raises ValueError for GGUF blocks."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offsets, offset = {}, 0
    # widest elements first, as the format's library does: each tensor is aligned then
    for info in sorted(tensors, key=lambda info: -DTYPES[info.dtype].itemsize if info.dtype in DTYPES else 0):
        if info.dtype not in SAFETENSORS_TYPES:
            raise ValueError(f"safetensors has no tensor type {info.dtype}")
        entries[info.name] = {
            "dtype": SAFETENSORS_TYPES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, offset + info.nbytes],
        }
        offsets[info.name] = offset
        offset += info.nbytes
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    starts = {name: len(header) + offset for name, offset in offsets.items()}
    return Layout(header, starts, len(header) + offset)


def _stored_shape(info: TensorInfo) -> tuple[int, ...]:
    shape, block = info.shape, BLOCK_TYPES.get(info.dtype)
    if not shape:
        return (1,)
    if block is None or shape[-1] % block.elements == 0:
        return shape if len(shape) <= GGML_MAX_DIMS else (math.prod(shape[:-3]), *shape[-3:])
    width = WIDE if info.numel % WIDE == 0 else block.elements
    return (info.numel // width, width)


def _aligned(count: int) -> int:
    return -(-count // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, value: Value | bytes) -> bytes:
    match value:
        case bytes():
            return value
        case str():
            return struct.pack("<I", gguf.STRING) + _string(value)
        case bool():
            return struct.pack("<I?", gguf.BOOL, value)
        case float():
            return struct.pack("<Id", 12, value)
        case _ if key.startswith("general."):  # file_type, quantization_version: uint32 by definition
            return struct.pack("<II", 4, value)
        case _:
            return struct.pack("<Iq", 11, value)
