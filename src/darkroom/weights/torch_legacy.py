"""torch.save's file before 1.6: five pickles, then each storage with its length before it."""

from __future__ import annotations

import struct
from typing import IO, cast

from darkroom.api.errors import CheckpointError
from darkroom.core.torch_globals import Storage
from darkroom.weights import torch_pickle
from darkroom.weights.index import DTYPES
from darkroom.weights.mapped import MappedFile
from darkroom.weights.torch_state import StorageRange, TorchFile

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
MAGIC = b"\x80\x02\x8a\x0a" + MAGIC_NUMBER.to_bytes(10, "little") + b"."
PROTOCOL = 1001


def open_torch_legacy(file: MappedFile) -> TorchFile:
    """Reads the pickles and finds the storages behind them.

    Raises CheckpointError for a damaged file.
    """
    subject = str(file.path)
    stream = cast(IO[bytes], file.buffer)  # a mapping reads, seeks and tells like a file
    stream.seek(len(MAGIC))
    protocol = torch_pickle.load(stream, subject).value
    system = torch_pickle.load(stream, subject).value
    if protocol != PROTOCOL:
        raise CheckpointError(
            f"{subject}: is of another file protocol of torch than {PROTOCOL}; save it again"
        )
    if not isinstance(system, dict) or not system.get("little_endian", True):
        raise CheckpointError(f"{subject}: was saved on a big-endian machine; only little-endian is read")
    unpickled = torch_pickle.load(stream, subject)
    keys = torch_pickle.load(stream, subject).value
    if not isinstance(keys, list):
        raise CheckpointError(f"{subject}: has no list of storages; the file is damaged")
    storages = _storages(file, stream.tell(), keys, unpickled.storages)
    return TorchFile(file, unpickled.value, storages)


def _storages(
    file: MappedFile, at: int, keys: list[object], types: dict[str, Storage]
) -> dict[str, StorageRange]:
    """Walks from storage to storage: each tells its length, and its reference in the pickle the type."""
    found: dict[str, StorageRange] = {}
    for key in keys:
        if not isinstance(key, str) or key not in types:
            raise CheckpointError(f"{file.path}: has a storage that nothing refers to; the file is damaged")
        head = file.bytes(at, 8)
        if len(head) < 8:
            raise CheckpointError(f"{file.path}: is truncated before its last tensors; download it again")
        (numel,) = struct.unpack("<q", head)
        nbytes = numel * DTYPES[types[key].dtype].itemsize
        at += 8
        if numel < 0 or at + nbytes > file.size:
            raise CheckpointError(
                f"{file.path}: is truncated: a tensor ends at byte {at + nbytes} "
                f"and the file has {file.size}; download it again"
            )
        found[key] = StorageRange(at, nbytes)
        at += nbytes
    return found
