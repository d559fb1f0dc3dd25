"""Bytes from the network on their way to the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

from darkroom.manager.store.errors import StoreError
from darkroom.manager.store.partial import Partial

_MOST = 8 * 1024**2
_PIECE = 1024**2


class Sink:
    """Writes in a thread what has gathered meanwhile, so that reading, summing and writing go on at once.

    Nothing is held back: when the network pauses, all that came is in the file. Leaving waits for that.
    """

    def __init__(self, partial: Partial, on_piece: Callable[[], None]) -> None:
        self._partial = partial
        self._on_piece = on_piece
        self._held = bytearray()
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        self._ended = False
        self._error: Exception | None = None

    async def put(self, data: bytes) -> None:
        """Takes bytes; waits while the disk is far behind.

        Errors: OSError of an earlier write; StoreError of `on_piece`.
        """
        if self._error is not None:
            raise self._error
        self._held += data
        self._arrived.set()
        if len(self._held) >= _MOST:
            self._room.clear()
            await self._room.wait()

    async def _write(self) -> None:
        while not (self._ended and not self._held):
            await self._arrived.wait()
            self._arrived.clear()
            while self._held:
                piece = bytes(self._held[:_PIECE])
                del self._held[:_PIECE]
                try:
                    await asyncio.to_thread(self._partial.write, piece)
                    self._on_piece()
                except (OSError, StoreError) as error:
                    self._error = error
                    return
                finally:
                    self._room.set()

    async def __aenter__(self) -> Self:
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = True
        self._arrived.set()
        await self._writer
        if self._error is not None and not isinstance(error, asyncio.CancelledError):
            raise self._error
