"""A lock between processes that the system takes back from a process that dies."""

from __future__ import annotations

import os
import sys
from pathlib import Path


class FileLock:
    """An advisory lock on a file of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None

    def acquire(self) -> bool:
        """Takes the lock; False when another holds it. Raises OSError when the place cannot be written to."""
        handle = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(handle), self._path.stat()):
                raise FileNotFoundError(self._path)  # its holder took the name away meanwhile
        except OSError:
            os.close(handle)
            return False
        self._handle = handle
        return True

    def release(self) -> None:
        """Gives the lock back."""
        if self._handle is not None:
            if sys.platform != "win32":
                self._path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None
