"""What happens in the pool, for everyone who wants to hear it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

from darkroom.manager.pool.state import ModelStatus, PoolEvent

_BACKLOG = 1000
"""events that a listener may be behind before it loses the oldest"""


class News:
    """A stream of events to any number of listeners; a slow one delays nobody."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._listeners: set[asyncio.Queue[PoolEvent | None]] = set()
        self._is_over = False

    def tell(self, type: str, status: ModelStatus, reason: str = "") -> None:
        """To all who listen now."""
        event = PoolEvent(next(self._ids), type, status, reason)
        for queue in self._listeners:
            if queue.full():
                queue.get_nowait()
            queue.put_nowait(event)

    def end(self) -> None:
        """There will be no more."""
        self._is_over = True
        for queue in self._listeners:
            with contextlib.suppress(asyncio.QueueEmpty):
                if queue.full():
                    queue.get_nowait()
            queue.put_nowait(None)

    async def listen(self, now: Callable[[], list[ModelStatus]]) -> AsyncIterator[PoolEvent]:
        """How everything is `now`, as events of type `state`, then what happens, until there is no pool."""
        queue: asyncio.Queue[PoolEvent | None] = asyncio.Queue(_BACKLOG)
        self._listeners.add(queue)
        try:
            for status in now():
                yield PoolEvent(next(self._ids), "state", status)
            while not self._is_over or not queue.empty():
                event = await queue.get()
                if event is None:
                    return
                yield event
        finally:
            self._listeners.discard(queue)
