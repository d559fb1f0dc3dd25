"""Model files without weights: real headers in files of full size, which take no room on the disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from tests.headers import read_header

from darkroom.weights.index import DTYPES, TensorIndex, TensorInfo
from darkroom.weights.layouts import gguf_layout
from darkroom.weights.safetensors import TYPES

_SPELLINGS = {name: spelling for spelling, name in TYPES.items()}


def write_safetensors(path: Path, tensors: TensorIndex, metadata: Mapping[str, str] | None = None) -> Path:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, info in tensors.items():
        if info.dtype not in _SPELLINGS:
            info = replace(info, dtype="f16")
        end = offset + info.numel * DTYPES[info.dtype].itemsize
        entries[name] = {
            "dtype": _SPELLINGS[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(entries).encode()
    return _sparse(path, len(text).to_bytes(8, "little") + text, offset)


def write_gguf(path: Path, tensors: TensorIndex) -> Path:
    infos = [
        info
        if len(info.shape) <= 4
        else TensorInfo(info.name, (info.shape[0] * info.shape[1], *info.shape[2:]), "f16")
        for info in tensors.values()
    ]
    layout = gguf_layout(infos)
    return _sparse(path, layout.header, layout.size - len(layout.header))


def write_header(folder: Path, name: str, called: str | None = None) -> Path:
    """The header `name` of tests/data/headers as a file of its own format."""
    tensors = read_header(name)
    stem = name.rpartition("/")[2]
    if name.endswith("-gguf"):
        return write_gguf(folder / (called or f"{stem}.gguf"), tensors)
    return write_safetensors(folder / (called or f"{stem}.safetensors"), tensors)


def _sparse(path: Path, header: bytes, data: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + data)
    return path
