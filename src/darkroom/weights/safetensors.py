"""The safetensors format: a JSON header with names, types and offsets, then the bytes.

Format: https://github.com/huggingface/safetensors. Read here without the library, which cannot give
memory back and does not say what is wrong with a broken download.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.weights.index import DTYPES, TensorIndex, TensorInfo
from darkroom.weights.mapped import MappedFile

HEADER_LIMIT = 100_000_000
"""Bytes of JSON, the limit of the format's own library."""

TYPES = {
    "F64": "f64",
    "F32": "f32",
    "F16": "f16",
    "BF16": "bf16",
    "F8_E4M3": "f8_e4m3",
    "F8_E5M2": "f8_e5m2",
    "I64": "i64",
    "I32": "i32",
    "I16": "i16",
    "I8": "i8",
    "U8": "u8",
    "BOOL": "bool",
}


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` (9 bytes or more) means to be one."""
    return head[8:9] == b"{"


class SafetensorsFile:
    """An open safetensors file.

    Raises CheckpointError where the header is too long, not valid, or does not agree with the file's size.
    """

    def __init__(self, file: MappedFile) -> None:
        self._file = file
        length = int.from_bytes(file.bytes(0, 8), "little")
        if length > HEADER_LIMIT:
            raise CheckpointError(
                f"{file.path}: its safetensors header claims {length} bytes; at most {HEADER_LIMIT} are read"
            )
        self._data = 8 + length
        if self._data > file.size:
            raise CheckpointError(
                f"{file.path}: is truncated: its header takes {self._data} bytes "
                f"and the file has {file.size}; download it again"
            )
        header = _parse(file.bytes(8, length), str(file.path))
        metadata = header.pop("__metadata__", {})
        self._offsets: dict[str, tuple[int, int]] = {}
        self.index = TensorIndex(
            [self._entry(name, entry) for name, entry in header.items()],
            {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {},
        )
        self._check_overlaps()

    def _entry(self, name: str, entry: object) -> TensorInfo:
        match entry:
            case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(begin), int(end)]} if all(
                type(n) is int and n >= 0 for n in shape
            ):
                info = TensorInfo(name, tuple(shape), TYPES.get(dtype, dtype.lower()))
            case _:
                raise CheckpointError(
                    f"{self._file.path}: the header's entry of tensor {name!r} is malformed; "
                    "expected dtype, shape and data_offsets"
                )
        if not 0 <= begin <= end:
            raise CheckpointError(
                f"{self._file.path}: tensor {name!r} has offsets {begin}, {end}; the file is damaged"
            )
        if self._data + end > self._file.size:
            raise CheckpointError(
                f"{self._file.path}: is truncated: tensor {name!r} ends at byte {self._data + end} "
                f"and the file has {self._file.size}; download it again"
            )
        if info.dtype in DTYPES and end - begin != math.prod(shape) * DTYPES[info.dtype].itemsize:
            raise CheckpointError(
                f"{self._file.path}: tensor {name!r} has {end - begin} bytes, but {dtype} {list(shape)} "
                f"takes {math.prod(shape) * DTYPES[info.dtype].itemsize}; the file is damaged"
            )
        self._offsets[name] = (self._data + begin, end - begin)
        return info

    def _check_overlaps(self) -> None:
        ranges = sorted(
            (start, start + count, name) for name, (start, count) in self._offsets.items() if count
        )
        for (_, end, name), (start, _, other) in pairwise(ranges):
            if start < end:
                raise CheckpointError(
                    f"{self._file.path}: tensors {name!r} and {other!r} overlap; the file is damaged"
                )

    def read(self, name: str) -> Tensor:
        """The tensor, mapped."""
        info = self.index[name]
        if info.dtype not in DTYPES:
            raise CheckpointError(
                f"{self._file.path}: tensor {name!r} is of type {info.dtype}, which is not read; "
                f"known types: {', '.join(DTYPES)}"
            )
        start, _ = self._offsets[name]
        return self._file.tensor(start, info.numel, DTYPES[info.dtype]).view(info.shape)

    def release(self, name: str) -> None:
        """Gives the tensor's memory back."""
        self._file.release(*self._offsets[name])

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def _parse(text: bytes, subject: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> Mapping[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in found if names.count(name) > 1)
            raise CheckpointError(f"{subject}: its header names {twice!r} twice; the file is damaged")
        return found

    try:
        header = json.loads(text, object_pairs_hook=unique)
    except (ValueError, RecursionError) as err:
        raise CheckpointError(
            f"{subject}: its safetensors header is not valid JSON ({err}); the file is damaged"
        ) from err
    if not isinstance(header, dict):
        raise CheckpointError(f"{subject}: its safetensors header is no JSON object; the file is damaged")
    return header
