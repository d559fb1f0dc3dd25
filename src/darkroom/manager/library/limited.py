"""A file that is read only so far, whatever it claims about itself."""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Self

from darkroom.api.errors import CheckpointError

READ_LIMIT = 32 << 20
"""Bytes that the header of one file may take. Those of published models take up to 8 MB (vocabularies)."""


class HeaderError(CheckpointError):
    """A file is no model, or is damaged. The message says what it is instead, without the file's name."""


class LimitedFile(io.RawIOBase):
    """A regular file, open for reading; `taken` counts the bytes that were read.

    Raises HeaderError once it would be more than `limit`.
    """

    def __init__(self, path: Path, limit: int = READ_LIMIT) -> None:
        self._file = path.open("rb", buffering=0)
        self.size = path.stat().st_size
        self.taken, self._limit = 0, limit

    def read(self, count: int | None = -1) -> bytes:
        """The next `count` bytes, fewer at the end of the file."""
        left = max(0, self.size - self._file.tell())
        count = left if count is None or count < 0 else min(count, left)
        if self.taken + count > self._limit:
            raise HeaderError(
                f"its header takes more than {self._limit >> 20} MB; the file is damaged or made to harm"
            )
        self.taken += count
        data = bytearray()
        while len(data) < count and (piece := self._file.read(count - len(data))):
            data += piece
        return bytes(data)

    def readline(self, size: int | None = -1) -> bytes:
        """The next line, as pickle's text opcodes need it; at most 64 KB."""
        start = self.tell()
        data = self.read(min(1 << 16, self.size - start))
        end = data.find(b"\n") + 1
        if not end:
            raise HeaderError("it holds a line without an end; the file is damaged")
        self.seek(start + end)
        self.taken -= len(data) - end
        return data[:end]

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a place of the file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._file.tell()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
