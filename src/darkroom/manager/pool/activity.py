"""Whether a process that works still gets on: judged by its progress, never by how long it takes."""

from __future__ import annotations

import statistics
from collections import deque


class Activity:
    """The last sign of progress and how long the last steps took; all times by one clock, in seconds."""

    def __init__(self, now: float) -> None:
        self._last = now
        self._steps: deque[float] = deque(maxlen=50)

    def beat(self, now: float) -> None:
        """There was progress, or there is nothing to do."""
        self._last = now

    def step(self, now: float, seconds: float | None = None) -> None:
        """A step is done; it took `seconds`, or else all the time since the last sign."""
        self._steps.append(now - self._last if seconds is None else seconds)
        self._last = now

    def stalled_for(self, now: float) -> float:
        """How long there has been no sign."""
        return now - self._last

    def limit(self, base: float, steps: float) -> float:
        """After how long without a sign the work hangs: `base` and so many median steps."""
        return base + steps * (statistics.median(self._steps) if self._steps else 0.0)
