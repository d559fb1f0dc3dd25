"""The header of safetensors: eight bytes of length, then JSON with names, types, shapes and offsets.

Format: https://github.com/huggingface/safetensors.
"""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from darkroom.manager.library.limited import HeaderError, LimitedFile
from darkroom.manager.library.parts import FileFormat
from darkroom.manager.library.tensors import ITEM_SIZES, MAX_TENSORS, Header, TensorHead, elements

TYPES = {
    "F64": "f64", "F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E4M3": "f8_e4m3", "F8_E5M2": "f8_e5m2",
    "I64": "i64", "I32": "i32", "I16": "i16", "I8": "i8", "U8": "u8", "BOOL": "bool",
}  # fmt: skip

FORMAT_LIMIT = 100_000_000
"""Bytes of JSON that the format allows."""


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins with `head` means to be one."""
    return head[8:9] == b"{"


def read_safetensors(file: LimitedFile) -> Header:
    """Reads the header. Raises HeaderError for one that is damaged or does not agree with the file's size."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > FORMAT_LIMIT:
        raise HeaderError(f"its header claims {length} bytes, the format allows {FORMAT_LIMIT}")
    data = 8 + length
    if data > file.size:
        raise HeaderError(f"it is truncated: its header takes {data} bytes and the file has {file.size}")
    entries = _parse(file.read(length))
    metadata = entries.pop("__metadata__", {})
    if len(entries) > MAX_TENSORS:
        raise HeaderError(f"it lists {len(entries)} tensors; no model has more than {MAX_TENSORS}")
    tensors: dict[str, TensorHead] = {}
    ranges: list[tuple[int, int, str]] = []
    for name, entry in entries.items():
        tensor, begin = _tensor(name, entry)
        end = data + begin + tensor.nbytes
        if end > file.size:
            raise HeaderError(
                f"it is truncated: tensor {name[:80]!r} ends at byte {end} and the file has {file.size}"
            )
        tensors[name] = tensor
        if tensor.nbytes:
            ranges.append((begin, begin + tensor.nbytes, name))
    for (_, end, name), (begin, _, other) in pairwise(sorted(ranges)):
        if begin < end:
            raise HeaderError(f"tensors {name[:80]!r} and {other[:80]!r} overlap; the file is damaged")
    known = {str(k): str(v) for k, v in metadata.items()} if isinstance(metadata, dict) else {}
    return Header(FileFormat.SAFETENSORS, tensors, known)


def _tensor(name: str, entry: Any) -> tuple[TensorHead, int]:  # noqa: ANN401 - JSON
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (TypeError, KeyError, ValueError) as err:
        raise HeaderError(f"the header's entry of tensor {name[:80]!r} is malformed") from err
    if type(dtype) is not str or type(begin) is not int or type(end) is not int:
        raise HeaderError(f"the header's entry of tensor {name[:80]!r} is malformed")
    try:
        count = elements(shape)
    except ValueError as err:
        raise HeaderError(f"tensor {name[:80]!r} has {err}; the file is damaged") from err
    if not 0 <= begin <= end:
        raise HeaderError(f"tensor {name[:80]!r} has offsets {begin}, {end}; the file is damaged")
    known = TYPES.get(dtype) or dtype[:16].lower()
    width = ITEM_SIZES.get(known)
    if width is not None and end - begin != count * width:
        raise HeaderError(
            f"tensor {name[:80]!r} has {end - begin} bytes, but {dtype} {list(shape)} takes {count * width}; "
            "the file is damaged"
        )
    return TensorHead(shape, known, end - begin), begin


def _parse(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
        if isinstance(header, dict) and text.count(b'"data_offsets"') != len(header) - (
            "__metadata__" in header
        ):
            json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as err:
        raise HeaderError("its safetensors header is not valid JSON; the file is damaged") from err
    if not isinstance(header, dict):
        raise HeaderError("its safetensors header is no JSON object; the file is damaged")
    return header


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python's reader keeps the last of two entries with one name. Slow, so only where there may be two."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise HeaderError("its header names a tensor twice; the file is damaged")
    return found
