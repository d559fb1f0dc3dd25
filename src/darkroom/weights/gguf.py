"""The GGUF format, versions 2 and 3: key-value metadata, tensor descriptions, then aligned data.

Format: ggml's docs/gguf.md. Read here without the gguf package, which takes seconds over the vocabularies
that language models carry in their metadata; an array is only walked over here, and read when it is used.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from functools import cached_property
from mmap import mmap
from typing import NamedTuple, overload

from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.quant.gguf import BLOCK_TYPES
from darkroom.quant.packed import PackedTensor
from darkroom.weights.index import DTYPES, TensorIndex, TensorInfo
from darkroom.weights.mapped import MappedFile

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ORIG_SHAPE = "comfy.gguf.orig_shape."
"""ComfyUI-GGUF's key for the shape of a tensor that was reshaped so that its rows are whole blocks."""

TYPES: dict[int, str] = {
    0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0",
    10: "q2_k", 11: "q3_k", 12: "q4_k", 13: "q5_k", 14: "q6_k",
    16: "iq2_xxs", 17: "iq2_xs", 18: "iq3_xxs", 19: "iq1_s", 20: "iq4_nl", 21: "iq3_s", 22: "iq2_s",
    23: "iq4_xs",
    24: "i8", 25: "i16", 26: "i32", 27: "i64", 28: "f64", 29: "iq1_m", 30: "bf16", 34: "tq1_0", 35: "tq2_0",
    39: "mxfp4", 40: "nvfp4", 41: "q1_0",
}  # fmt: skip
"""ggml's numbers of the tensor types that can be read."""

STRING, ARRAY, BOOL = 8, 9, 7
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", BOOL: "?", 10: "Q", 11: "q", 12: "d"}
"""struct's codes of the metadata's value types."""

MAX_DIMS = 8


Element = str | int | float


class Array(Sequence[Element]):
    """An array in the metadata, read when its first element is asked for.

    kind: the value type of its elements, strings or scalars. start: where they begin in `buffer`.
    """

    def __init__(self, buffer: mmap, kind: int, length: int, start: int) -> None:
        self.kind = kind
        self._buffer, self._length, self._start = buffer, length, start

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, at: int) -> Element: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Element]: ...

    def __getitem__(self, at: int | slice) -> Element | Sequence[Element]:
        return self._elements[at]

    @cached_property
    def _elements(self) -> Sequence[Element]:
        if self.kind != STRING:
            return struct.unpack_from(f"<{self._length}{SCALARS[self.kind]}", self._buffer, self._start)
        at, length_at, strings = self._start, struct.Struct("<Q").unpack_from, []
        for _ in range(self._length):
            start = at + 8
            at = start + length_at(self._buffer, at)[0]
            strings.append(str(self._buffer[start:at], "utf-8", "replace"))
        return strings


class GGUFFile:
    """An open GGUF file.

    Raises CheckpointError for other versions, unknown tensor types, and a header that does not fit the file.
    """

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        header = _Header(file)
        self._pairs = header.pairs
        self._offsets: dict[str, int] = {}
        self.index = TensorIndex(
            [self._entry(header, raw) for raw in header.tensors],
            {**{key: str(value) for key, value in header.values.items()}, **header.arrays},
        )

    def _entry(self, header: _Header, raw: _RawTensor) -> TensorInfo:
        path, numel = self._file.path, math.prod(raw.shape)
        dtype = TYPES.get(raw.type)
        if dtype is None:
            raise CheckpointError(
                f"{path}: tensor {raw.name!r} is of ggml type {raw.type}, which is not read; "
                f"known types: {', '.join(TYPES.values())}"
            )
        block = BLOCK_TYPES.get(dtype)
        if block and numel % block.elements:
            raise CheckpointError(
                f"{path}: tensor {raw.name!r} {list(raw.shape)} is no whole number of {dtype} blocks of "
                f"{block.elements}; the file is damaged"
            )
        nbytes = block.size(numel) if block else numel * DTYPES[dtype].itemsize
        start = header.data + raw.offset
        if start + nbytes > self._file.size:
            raise CheckpointError(
                f"{path}: is truncated: tensor {raw.name!r} ends at byte {start + nbytes} and the file has "
                f"{self._file.size}; download it again"
            )
        if raw.name in self._offsets:
            raise CheckpointError(f"{path}: holds tensor {raw.name!r} twice; the file is damaged")
        self._offsets[raw.name] = start
        return TensorInfo(raw.name, self._shape(header, raw), dtype)

    def _shape(self, header: _Header, raw: _RawTensor) -> tuple[int, ...]:
        array = header.arrays.get(ORIG_SHAPE + raw.name)
        if array is None:
            return raw.shape
        shape = header.numbers(array)
        if math.prod(shape) != math.prod(raw.shape) or any(n < 0 for n in shape):
            raise CheckpointError(
                f"{self._file.path}: tensor {raw.name!r} is stored as {list(raw.shape)}, and its own shape "
                f"{list(shape)} has another number of elements; the file is damaged"
            )
        return shape

    def read(self, name: str) -> Tensor | PackedTensor:
        """The tensor, mapped; packed if it is of a block type."""
        info, start = self.index[name], self._offsets[name]
        if info.dtype in DTYPES:
            return self._file.tensor(start, info.numel, DTYPES[info.dtype]).view(info.shape)
        return PackedTensor(self._file.tensor(start, info.nbytes, DTYPES["u8"]), info.dtype, info.shape)

    def metadata(self) -> dict[str, bytes]:
        """What the file says about itself as its bytes, a value's type in front; no tensor's shape."""
        return {
            key: self._file.bytes(start, stop - start)
            for key, (start, stop) in self._pairs.items()
            if not key.startswith(ORIG_SHAPE)
        }

    def release(self, name: str) -> None:
        """Gives the tensor's memory back."""
        self._file.release(self._offsets[name], self.index[name].nbytes)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class _RawTensor(NamedTuple):
    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


class _Header:
    """Reads a header front to back; `data` is where the tensors begin."""

    def __init__(self, file: MappedFile) -> None:
        self._path, self._map, self._at = file.path, file.buffer, len(MAGIC)
        self.values: dict[str, str | int | float] = {}
        self.arrays: dict[str, Array] = {}
        self.pairs: dict[str, tuple[int, int]] = {}  # where each value is, its type included
        try:
            self._check_version()
            tensors, pairs = self._unpack("<QQ")
            for _ in range(pairs):
                self._pair()
            self.tensors = [self._tensor() for _ in range(tensors)]
        except (struct.error, OverflowError, UnicodeDecodeError, MemoryError) as err:
            raise CheckpointError(
                f"{file.path}: its GGUF header breaks off near byte {self._at} (file: {file.size}); "
                "download it again"
            ) from err
        alignment = self.values.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment <= 0:
            raise CheckpointError(
                f"{file.path}: general.alignment is {alignment}; expected a positive number"
            )
        self.data = -(-self._at // alignment) * alignment

    def numbers(self, array: Array) -> tuple[int, ...]:
        """The whole numbers in an array."""
        if len(array) > MAX_DIMS or SCALARS.get(array.kind, "f") in "fd?":
            raise CheckpointError(f"{self._path}: a tensor's {ORIG_SHAPE[:-1]} is no list of whole numbers")
        return tuple(map(int, array))

    def _check_version(self) -> None:
        (version,) = self._unpack("<I")
        if version & 0xFFFF == 0:
            raise CheckpointError(
                f"{self._path}: is a big-endian GGUF file; only little-endian files are read"
            )
        if version not in VERSIONS:
            raise CheckpointError(f"{self._path}: is GGUF version {version}; versions 2 and 3 are read")

    def _unpack(self, format: str) -> tuple[int, ...]:
        values = struct.unpack_from(format, self._map, self._at)
        self._at += struct.calcsize(format)
        return values

    def _string(self) -> str:
        (length,) = self._unpack("<Q")
        start, self._at = self._at, self._at + length
        if self._at > len(self._map):
            raise struct.error
        return str(self._map[start : self._at], "utf-8")

    def _pair(self) -> None:
        key = self._string()
        start = self._at
        self._read_value(key)
        self.pairs[key] = (start, self._at)

    def _read_value(self, key: str) -> None:
        (kind,) = self._unpack("<I")
        if kind == ARRAY:
            kind, count = self._unpack("<IQ")
            self.arrays[key] = Array(self._map, kind, count, self._at)
            self._skip(key, kind, count)
            if self._at > len(self._map):
                raise struct.error
        elif kind == STRING:
            self.values[key] = self._string()
        else:
            (self.values[key],) = self._unpack("<" + self._code(key, kind))

    def _code(self, key: str, kind: int) -> str:
        if kind not in SCALARS:
            raise CheckpointError(
                f"{self._path}: metadata {key!r} has unknown type {kind}; the file is damaged"
            )
        return SCALARS[kind]

    def _skip(self, key: str, kind: int, count: int) -> None:
        if kind == ARRAY:
            raise CheckpointError(f"{self._path}: metadata {key!r} is an array of arrays; these are not read")
        if kind != STRING:
            self._at += count * struct.calcsize("<" + self._code(key, kind))
            return
        at, length_at, buffer = self._at, struct.Struct("<Q").unpack_from, self._map
        for _ in range(count):
            at += 8 + length_at(buffer, at)[0]
        self._at = at

    def _tensor(self) -> _RawTensor:
        name = self._string()
        (dims,) = self._unpack("<I")
        if dims > MAX_DIMS:
            raise CheckpointError(f"{self._path}: tensor {name!r} has {dims} dimensions; the file is damaged")
        *shape, kind, offset = self._unpack(f"<{dims}QIQ")
        return _RawTensor(name, tuple(reversed(shape)), kind, offset)
