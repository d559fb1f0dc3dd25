"""The tensors of a torch checkpoint, whichever way its file is laid out."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError
from darkroom.core.torch_globals import TensorRef, named_tensors
from darkroom.weights.index import DTYPES, TensorIndex, TensorInfo
from darkroom.weights.mapped import MappedFile


@dataclass(frozen=True)
class StorageRange:
    """Where the bytes of a storage lie. deflated: their size in the file where they are compressed."""

    start: int
    nbytes: int
    deflated: int | None = None


class TorchFile:
    """An open torch checkpoint.

    Raises CheckpointError where a tensor reaches beyond its storage, or there is none at all.
    """

    def __init__(self, file: MappedFile, unpickled: object, storages: Mapping[str, StorageRange]) -> None:
        self._file = file
        self._tensors = named_tensors(unpickled)
        self._storages = storages
        if not self._tensors:
            raise CheckpointError(f"{file.path}: is a torch file without a tensor; expected a state dict")
        for name, ref in self._tensors.items():
            self._check(name, ref)
        self.index = TensorIndex(
            TensorInfo(name, ref.shape, ref.dtype) for name, ref in self._tensors.items()
        )

    def _check(self, name: str, ref: TensorRef) -> None:
        storage = self._storages.get(ref.storage.key)
        if storage is None:
            raise CheckpointError(
                f"{self._file.path}: the data of tensor {name!r} is missing; download it again"
            )
        first = ref.storage.offset * DTYPES[ref.storage.dtype].itemsize
        reach = 1 + sum((size - 1) * stride for size, stride in zip(ref.shape, ref.stride, strict=True))
        needed = 0 if 0 in ref.shape else (ref.offset + reach) * DTYPES[ref.dtype].itemsize
        if first + needed > storage.nbytes:
            raise CheckpointError(
                f"{self._file.path}: tensor {name!r} needs {first + needed} bytes and its storage has "
                f"{storage.nbytes}; the file is damaged"
            )

    def read(self, name: str) -> Tensor:
        """The tensor with its own strides: mapped, unless it is compressed in the file."""
        ref = self._tensors[name]
        storage, dtype = self._storages[ref.storage.key], DTYPES[ref.dtype]
        first = ref.storage.offset * DTYPES[ref.storage.dtype].itemsize
        count = (storage.nbytes - first) // dtype.itemsize
        if storage.deflated is None:
            flat = self._file.tensor(storage.start + first, count, dtype)
        else:
            flat = self._inflated(name, storage)[first : first + count * dtype.itemsize].view(dtype)
        return flat.as_strided(ref.shape, ref.stride, ref.offset)

    def _inflated(self, name: str, storage: StorageRange) -> Tensor:
        packed = self._file.bytes(storage.start, storage.deflated or 0)
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, storage.nbytes)
        except zlib.error as err:
            raise CheckpointError(
                f"{self._file.path}: the data of tensor {name!r} is damaged ({err})"
            ) from err
        if len(data) != storage.nbytes:
            raise CheckpointError(f"{self._file.path}: the data of tensor {name!r} is truncated")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)

    def release(self, name: str) -> None:
        """Gives the memory of the tensor's storage back."""
        storage = self._storages[self._tensors[name].storage.key]
        if storage.deflated is None:
            self._file.release(storage.start, storage.nbytes)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
