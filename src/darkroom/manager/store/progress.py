"""How far a download is."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum

_WINDOW_S = 5.0


class State(StrEnum):
    """Where a download stands."""

    QUEUED = "queued"
    CHECKING = "checking"
    """looking for the file on this machine, or reading again what is there of it"""
    DOWNLOADING = "downloading"
    PAUSED = "paused"
    INTERRUPTED = "interrupted"
    """the process that downloaded it has ended"""
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_active(self) -> bool:
        """Something is being done."""
        return self in (State.QUEUED, State.CHECKING, State.DOWNLOADING)


@dataclass(frozen=True)
class Progress:
    """One look at a download. Bytes, bytes a second, seconds."""

    state: State
    received: int = 0
    """bytes there are, those of earlier runs included"""
    total: int | None = None
    speed: float = 0.0
    eta: float | None = None


class Meter:
    """Speed over the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def add(self, received: int) -> None:
        """`received` bytes are there now."""
        now = time.monotonic()
        if self._seen and received < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now, received))
        while len(self._seen) > 2 and now - self._seen[1][0] > _WINDOW_S:
            self._seen.popleft()

    def clear(self) -> None:
        """A new run begins."""
        self._seen.clear()

    @property
    def speed(self) -> float:
        """Bytes a second."""
        if len(self._seen) < 2:
            return 0.0
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - start) if end > start else 0.0
