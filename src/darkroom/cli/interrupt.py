"""Ctrl+C: the first stops at the next step, the second at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from darkroom.api.errors import Cancelled

EXIT_CODE = 130
"""128 + SIGINT, as shells count."""


class Interrupt:
    """While entered, catches SIGINT; called, tells whether it has come.

    on_first: tells the person that it was heard. on_second: tidies up before the process ends at once.
    """

    def __init__(self, on_first: Callable[[], None], on_second: Callable[[], None]) -> None:
        self._on_first = on_first
        self._on_second = on_second
        self._requested = threading.Event()

    def __enter__(self) -> Interrupt:
        self._catches = threading.current_thread() is threading.main_thread()
        if self._catches:
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._catches:
            signal.signal(signal.SIGINT, self._before)

    def __call__(self) -> bool:
        """Whether Ctrl+C was pressed."""
        return self._requested.is_set()

    def check(self) -> None:
        """Raises Cancelled once Ctrl+C was pressed."""
        if self():
            raise Cancelled("stopped; nothing was written")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self():
            self._on_second()
            os._exit(EXIT_CODE)
        self._requested.set()
        self._on_first()
