"""Memory that is held back, so that the server can answer when drawing has taken all the rest."""

from __future__ import annotations

import asyncio
import mmap
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

from darkroom.server.errors import has_run_out

PIECES = 8
PIECE_BYTES = 4 * 2**20

THREADS = 8
"""For requests that are read, checked and written beside the event loop."""


class Spare:
    """Some address space that is given up when memory runs out, and taken again when there is room for it.

    It counts where memory is promised before it is used: under `ulimit -v`, on Windows, and on Linux without
    overcommit. Nothing is ever written to it, so it costs no memory.
    """

    def __init__(self) -> None:
        self._pieces: list[mmap.mmap] = []
        self.take()

    def take(self) -> None:
        """Holds back as much as there is room for."""
        try:
            while len(self._pieces) < PIECES:
                self._pieces.append(mmap.mmap(-1, PIECE_BYTES))
        except (OSError, MemoryError):
            return

    def give_up(self) -> None:
        """Lets others have it."""
        while self._pieces:
            self._pieces.pop().close()


def prepare(loop: asyncio.AbstractEventLoop, spare: Spare) -> None:
    """Starts the loop's threads while there is memory for them; gives up `spare` when the loop lacks some."""
    executor = ThreadPoolExecutor(THREADS, "requests")
    barrier = Barrier(THREADS)
    for started in [executor.submit(barrier.wait) for _ in range(THREADS)]:
        started.result()
    loop.set_default_executor(executor)

    def heard(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if has_run_out(context.get("exception")):
            spare.give_up()
        loop.default_exception_handler(context)

    loop.set_exception_handler(heard)
