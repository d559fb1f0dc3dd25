"""The header of GGUF, versions 1 to 3: key-value metadata, then names, shapes and types of the tensors.

Format: ggml's docs/gguf.md. Vocabularies are only walked over.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import pairwise

from darkroom.manager.library.limited import HeaderError, LimitedFile
from darkroom.manager.library.parts import FileFormat
from darkroom.manager.library.tensors import MAX_DIMS, MAX_TENSORS, Header, TensorHead, elements

MAGIC = b"GGUF"
VERSIONS = (1, 2, 3)
ORIG_SHAPE = "comfy.gguf.orig_shape."
"""ComfyUI-GGUF's key for the shape of a tensor that was reshaped so that its rows are whole blocks."""

CHUNK = 1 << 20
MAX_PAIRS = 100_000
MAX_NAME = 1 << 16
MAX_TEXT = 1 << 24

# ggml's number: name, elements of a block, bytes of a block (ggml's ggml.c).
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("f32", 1, 4), 1: ("f16", 1, 2), 2: ("q4_0", 32, 18), 3: ("q4_1", 32, 20), 6: ("q5_0", 32, 22),
    7: ("q5_1", 32, 24), 8: ("q8_0", 32, 34), 9: ("q8_1", 32, 36), 10: ("q2_k", 256, 84),
    11: ("q3_k", 256, 110), 12: ("q4_k", 256, 144), 13: ("q5_k", 256, 176), 14: ("q6_k", 256, 210),
    15: ("q8_k", 256, 292), 16: ("iq2_xxs", 256, 66), 17: ("iq2_xs", 256, 74), 18: ("iq3_xxs", 256, 98),
    19: ("iq1_s", 256, 50), 20: ("iq4_nl", 32, 18), 21: ("iq3_s", 256, 110), 22: ("iq2_s", 256, 82),
    23: ("iq4_xs", 256, 136), 24: ("i8", 1, 1), 25: ("i16", 1, 2), 26: ("i32", 1, 4), 27: ("i64", 1, 8),
    28: ("f64", 1, 8), 29: ("iq1_m", 256, 56), 30: ("bf16", 1, 2), 34: ("tq1_0", 256, 54),
    35: ("tq2_0", 256, 66), 39: ("mxfp4", 32, 17), 40: ("nvfp4", 64, 36),
}  # fmt: skip

STRING, ARRAY = 8, 9
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


_layout = lru_cache(maxsize=64)(lambda codes: struct.Struct("<" + codes))


def read_gguf(file: LimitedFile) -> Header:
    """Reads the header. Raises HeaderError for other versions and for one that does not fit the file."""
    reader = _Reader(file)
    try:
        return reader.header()
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError) as err:
        raise HeaderError(
            f"its GGUF header breaks off near byte {reader.at} (file: {file.size}); download it again"
        ) from err


class _Reader:
    """Reads front to back, a megabyte at a time."""

    def __init__(self, file: LimitedFile) -> None:
        file.seek(len(MAGIC))
        self._file, self._data, self._start = file, b"", len(MAGIC)
        self._pos = 0
        self._wide = "Q"

    @property
    def at(self) -> int:
        """The next byte of the file."""
        return self._start + self._pos

    def header(self) -> Header:
        (version,) = self._unpack("I")
        if version & 0xFFFF == 0:
            raise HeaderError("it is a big-endian GGUF file; only little-endian files are read")
        if version not in VERSIONS:
            raise HeaderError(f"it is GGUF version {version}; versions 1 to 3 are read")
        self._wide = "I" if version == 1 else "Q"  # version 1 counts with 32 bits
        count, pairs = self._unpack(self._wide * 2)
        if count > MAX_TENSORS or pairs > MAX_PAIRS:
            raise HeaderError(f"its GGUF header claims {count} tensors and {pairs} values; it is damaged")
        values: dict[str, str] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        for _ in range(pairs):
            self._pair(values, shapes)
        raw = [self._tensor() for _ in range(count)]
        return Header(FileFormat.GGUF, self._checked(raw, values, shapes), values)

    def _checked(
        self,
        raw: list[tuple[str, tuple[int, ...], int, int]],
        values: dict[str, str],
        shapes: dict[str, tuple[int, ...]],
    ) -> dict[str, TensorHead]:
        alignment = int(values.get("general.alignment", "32")) if values else 32
        if alignment <= 0 or alignment > 1 << 20:
            raise HeaderError(f"its GGUF header has an alignment of {alignment}; it is damaged")
        data = -(-self.at // alignment) * alignment
        tensors: dict[str, TensorHead] = {}
        ranges: list[tuple[int, int, str]] = []
        for name, shape, kind, offset in raw:
            if name in tensors:
                raise HeaderError(f"it holds tensor {name[:80]!r} twice; the file is damaged")
            tensor = _tensor_head(name, shape, kind)
            end = data + offset + tensor.nbytes
            if end > self._file.size:
                size = self._file.size
                raise HeaderError(
                    f"it is truncated: tensor {name[:80]!r} ends at byte {end} and the file has {size}"
                )
            if tensor.nbytes:
                ranges.append((offset, offset + tensor.nbytes, name))
            own = shapes.get(name)
            if own is not None and elements(own) == elements(shape):
                tensor = tensor._replace(shape=own)
            tensors[name] = tensor
        ranges.sort()
        for (_, before, name), (start, _, other) in pairwise(ranges):
            if start < before:
                raise HeaderError(f"tensors {name[:80]!r} and {other[:80]!r} overlap; the file is damaged")
        return tensors

    def _need(self, count: int) -> None:
        """Makes `count` bytes available at the current place. Raises struct.error at the file's end."""
        while len(self._data) - self._pos < count:
            wanted = max(CHUNK, count - (len(self._data) - self._pos))
            left = self._file.size - self._file.tell()
            piece = self._file.read(min(wanted, left))
            if not piece:
                raise struct.error("the end")
            self._data = self._data[self._pos :] + piece
            self._start += self._pos
            self._pos = 0

    def _unpack(self, codes: str) -> tuple[int, ...]:
        layout = _layout(codes)
        if len(self._data) - self._pos < layout.size:
            self._need(layout.size)
        values = layout.unpack_from(self._data, self._pos)
        self._pos += layout.size
        return values

    def _string(self, limit: int) -> str:
        (length,) = self._unpack(self._wide)
        if length > limit:
            raise HeaderError(f"its GGUF header has a text of {length} bytes; the file is damaged")
        self._need(length)
        text = self._data[self._pos : self._pos + length]
        self._pos += length
        return text.decode("utf-8", errors="replace")

    def _pair(self, values: dict[str, str], shapes: dict[str, tuple[int, ...]]) -> None:
        key = self._string(MAX_NAME)
        (kind,) = self._unpack("I")
        if kind == STRING:
            values[key] = self._string(MAX_TEXT)
        elif kind in SCALARS:
            values[key] = str(self._unpack(SCALARS[kind])[0])
        elif kind == ARRAY:
            self._array(key, shapes)
        else:
            raise HeaderError(f"its GGUF header has a value of unknown type {kind}; the file is damaged")

    def _array(self, key: str, shapes: dict[str, tuple[int, ...]]) -> None:
        (kind,) = self._unpack("I")
        (count,) = self._unpack(self._wide)
        if kind == STRING:
            self._skip_strings(count)
        elif kind in SCALARS:
            if key.startswith(ORIG_SHAPE) and count <= MAX_DIMS and SCALARS[kind] in "IiQqHhBb":
                shapes[key[len(ORIG_SHAPE) :]] = self._unpack(SCALARS[kind] * count)
            else:
                self._skip(count * struct.calcsize("<" + SCALARS[kind]))
        else:
            raise HeaderError("its GGUF header has an array of unknown type; the file is damaged")

    def _skip(self, count: int) -> None:
        """Passes over bytes without reading them."""
        inside = len(self._data) - self._pos
        if count <= inside:
            self._pos += count
            return
        self._start += self._pos + count
        if self._start > self._file.size:
            raise struct.error("the end")
        self._file.seek(self._start)
        self._data, self._pos = b"", 0

    def _skip_strings(self, count: int) -> None:
        width = struct.calcsize("<" + self._wide)
        if count * width > self._file.size - self.at:
            raise struct.error("the end")
        length_at = struct.Struct("<" + self._wide).unpack_from
        while count:
            # as many as are here whole, in one tight loop
            data, at, last = self._data, self._pos, len(self._data) - width
            while count and at <= last:
                end = at + width + length_at(data, at)[0]
                if end > len(data):
                    break
                at, count = end, count - 1
            self._pos = at
            if count:
                (length,) = self._unpack(self._wide)
                self._skip(length)
                count -= 1

    def _tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name = self._string(MAX_NAME)
        (dims,) = self._unpack("I")
        if dims > MAX_DIMS:
            raise HeaderError(f"tensor {name[:80]!r} has {dims} dimensions; the file is damaged")
        shape = self._unpack(self._wide * dims)
        kind, offset = self._unpack("IQ")
        return name, tuple(reversed(shape)), kind, offset


def _tensor_head(name: str, shape: tuple[int, ...], kind: int) -> TensorHead:
    if kind not in TYPES:
        raise HeaderError(f"tensor {name[:80]!r} is of ggml type {kind}, which is not known")
    dtype, per_block, nbytes = TYPES[kind]
    try:
        count = elements(shape)
    except ValueError as err:
        raise HeaderError(f"tensor {name[:80]!r} has {err}; the file is damaged") from err
    if count % per_block:
        raise HeaderError(f"tensor {name[:80]!r} {list(shape)} is no whole number of {dtype} blocks")
    return TensorHead(shape, dtype, count // per_block * nbytes)
