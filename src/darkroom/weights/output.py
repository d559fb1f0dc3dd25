"""A file that is written in parts and in any order, and appears under its name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
import threading
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from darkroom.api.errors import RequestError

_unfinished: set[Path] = set()


class OutputFile:
    """While entered, a file beside `path` that takes its place when the block ends well, and goes otherwise.

    A link is followed; missing folders are made. Parts may be written by several threads.

    Raises RequestError where it cannot be written or the disk has no room for `size` bytes.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._target = Path(os.path.realpath(path))
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        folder = self._target.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if free < self._size:
                raise RequestError(
                    f"{self._path}: takes {self._size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB; "
                    "make room or write it elsewhere"
                )
            # short: the name itself may be as long as names can be
            descriptor, name = tempfile.mkstemp(dir=folder, prefix=".darkroom.", suffix=".part")
        except OSError as error:
            raise self._failed(error) from None
        self._file, self._temporary = os.fdopen(descriptor, "r+b", buffering=0), Path(name)
        _unfinished.add(self._temporary)
        try:
            self._file.truncate(self._size)
        except OSError as error:
            self._discard()
            raise self._failed(error) from None
        return self

    def write(self, start: int, data: Tensor | bytes) -> None:
        """Puts `data` at byte `start`: the memory of a tensor in row order, or bytes."""
        view = memoryview(data) if isinstance(data, bytes) else _memory(data)
        try:
            with self._lock:
                self._file.seek(start)
                while view:
                    view = view[self._file.write(view) :]
        except OSError as error:
            raise self._failed(error) from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._discard()
            return
        try:
            self._file.close()
            self._temporary.chmod(0o644)
            self._temporary.replace(self._target)
        except OSError as failure:
            self._temporary.unlink(missing_ok=True)
            raise self._failed(failure) from None
        finally:
            _unfinished.discard(self._temporary)

    def _discard(self) -> None:
        self._file.close()
        self._temporary.unlink(missing_ok=True)
        _unfinished.discard(self._temporary)

    def _failed(self, error: OSError) -> RequestError:
        advice = "; make room or write it elsewhere" if error.errno == errno.ENOSPC else ""
        return RequestError(f"{self._path}: cannot be written ({error.strerror}){advice}")


def discard_unfinished() -> None:
    """Removes what is being written, for a process that is about to end at once."""
    while _unfinished:
        with contextlib.suppress(OSError):
            _unfinished.pop().unlink()


def _memory(tensor: Tensor) -> memoryview:
    data: memoryview = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
    return data
