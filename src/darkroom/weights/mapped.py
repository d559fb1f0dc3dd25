"""A file mapped into memory: its bytes become tensors when they are touched, not before."""

from __future__ import annotations

import mmap
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

from darkroom.api.errors import CheckpointError

LINUX_MAP_NORESERVE = 0x4000


class MappedFile:
    """The whole of a file, copy-on-write: what is written into its tensors never reaches the file.

    Raises CheckpointError where the file cannot be opened or is empty.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size == 0:
                    raise CheckpointError(f"{path}: is empty (0 bytes); download it again")
                self._map = _map(file.fileno())
        except (FileNotFoundError, NotADirectoryError):
            raise CheckpointError(f"{path}: there is no such file; give the path of a model file") from None
        except OSError as err:
            raise CheckpointError(f"{path}: cannot be read ({err.strerror}); give a readable file") from err
        self.size = len(self._map)

    def bytes(self, start: int, count: int) -> bytes:
        """A copy of `count` bytes from `start`, fewer at the end of the file."""
        return self._map[start : start + count]

    @property
    def buffer(self) -> mmap.mmap:
        """The mapping itself, for parsers."""
        return self._map

    def tensor(self, start: int, numel: int, dtype: torch.dtype) -> Tensor:
        """`numel` elements from byte `start`: a view of the file, a copy only where `start` is misaligned."""
        if numel == 0:
            return torch.empty(0, dtype=dtype)
        if start % dtype.itemsize:
            data = torch.frombuffer(self._map, dtype=torch.uint8, count=numel * dtype.itemsize, offset=start)
            return data.clone().view(dtype)
        return torch.frombuffer(self._map, dtype=dtype, count=numel, offset=start)

    @property
    def is_open(self) -> bool:
        """Whether the mapping is still this object's to give."""
        return hasattr(self, "_map")

    def release(self, start: int, count: int) -> None:
        """Gives the memory of a range back to the system; touched again, it is read again.

        Only whole pages inside the range go, so what was written to a neighbour's page stays.
        """
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = (start + count) // mmap.PAGESIZE * mmap.PAGESIZE
        if last > first and hasattr(mmap, "MADV_DONTNEED") and self.is_open:
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def close(self) -> None:
        """Lets go of the mapping, which ends with the last tensor made of it.

        Not `mmap.close`: torch's tensors keep the mapping alive but not open, and would be left hanging.
        """
        del self._map


def _map(fileno: int) -> mmap.mmap:
    """A private writable mapping. On Linux without a reservation: a file may be larger than the memory."""
    if sys.platform == "linux":
        flags = mmap.MAP_PRIVATE | LINUX_MAP_NORESERVE
        return mmap.mmap(fileno, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return mmap.mmap(fileno, 0, access=mmap.ACCESS_COPY)
