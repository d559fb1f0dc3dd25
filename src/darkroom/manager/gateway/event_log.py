"""What happened to one job, for clients that listen now and those that come back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from darkroom.api.jobs import JobEvent

_KEPT = 1000


class EventLog:
    """The newest events of a job. after: the id that the last event of an earlier process had."""

    def __init__(self, after: int = 0) -> None:
        self._events: deque[JobEvent] = deque(maxlen=_KEPT)
        self._last = after
        self._changed = asyncio.Event()

    @property
    def last(self) -> int:
        """The id of the newest event."""
        return self._last

    def add(self, type: str, data: dict[str, object]) -> None:
        """Something happened. An older preview goes when a newer one comes."""
        if type == "preview":
            self._events = deque((e for e in self._events if e.type != "preview"), maxlen=_KEPT)
        self._last += 1
        self._events.append(JobEvent(id=self._last, type=type, data=data))
        self._changed.set()
        self._changed = asyncio.Event()

    async def follow(self, after: int, quiet: float) -> AsyncIterator[JobEvent | None]:
        """Events younger than `after`, and None after each `quiet` seconds without one. Ends with the job."""
        while True:
            changed = self._changed
            for event in [event for event in self._events if event.id > after]:
                after = event.id
                yield event
                if event.type in FINAL:
                    return
            try:
                await asyncio.wait_for(changed.wait(), quiet)
            except TimeoutError:
                yield None


FINAL = frozenset({"completed", "failed", "cancelled", "interrupted"})
"""Types of events that are a job's last."""
