"""Ctrl+C: the first stops at the next step, the second at once; and so does SIGTERM."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType

from darkroom.api.errors import Cancelled

EXIT_CODE = 128 + signal.SIGINT
"""As shells count."""


class Interrupt:
    """While entered, catches SIGINT; called, tells whether it has come.

    on_first: tells the person that it was heard. on_end: tidies up before the process ends at once, at the
    second SIGINT or the first SIGTERM.
    """

    def __init__(self, on_first: Callable[[], None], on_end: Callable[[], None]) -> None:
        self._on_first = on_first
        self._on_end = on_end
        self._requested = threading.Event()

    def __enter__(self) -> Interrupt:
        self._catches = threading.current_thread() is threading.main_thread()
        if self._catches:
            self._before = {
                number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)
            }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._catches:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def __call__(self) -> bool:
        """Whether Ctrl+C was pressed."""
        return self._requested.is_set()

    def check(self) -> None:
        """Raises Cancelled once Ctrl+C was pressed."""
        if self():
            raise Cancelled("stopped; nothing was written")

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self() or number == signal.SIGTERM:
            self._on_end()
            os._exit(128 + number)
        self._requested.set()
        self._on_first()
