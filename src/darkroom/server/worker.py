"""The one thread that touches the engine."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")

_Work = tuple[Callable[[], Any], "asyncio.Future[Any]", asyncio.AbstractEventLoop]


class Worker:
    """Runs functions one after the other in a thread of its own.

    The thread does not keep the process alive: a step that cannot be stopped ends with it.
    """

    def __init__(self, name: str = "engine") -> None:
        self._work: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins to take work."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the work it has been given."""
        self._work.put(None)

    async def run(self, function: Callable[[], T]) -> T:
        """What `function` returns or raises, called in the caller's context.

        Who stops waiting for it does not stop it.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        context = contextvars.copy_context()
        self._work.put((lambda: context.run(function), future, loop))
        return await future

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            function, future, loop = work
            try:
                result = function()
            except BaseException as error:
                _tell(loop, future, error=error)
            else:
                _tell(loop, future, result=result)
            del work, function, future  # or the pictures would live until the next work


def _tell(
    loop: asyncio.AbstractEventLoop,
    future: asyncio.Future[Any],
    *,
    result: object = None,
    error: BaseException | None = None,
) -> None:
    def tell() -> None:
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        elif isinstance(error, Exception) and not isinstance(error, StopIteration):
            future.set_exception(error)
        else:
            future.set_exception(RuntimeError(f"{type(error).__name__}: {error}"))

    if not loop.is_closed():
        loop.call_soon_threadsafe(tell)
