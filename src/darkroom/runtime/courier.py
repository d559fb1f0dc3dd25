"""Weights on their way to a device: beside its work where it can do both, else in front of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch

Wait = Callable[[], None]
"""Lets later work on the device wait until something has arrived there."""


class Courier:
    """Brings one thing after the other, each at once: for devices without a second queue of work."""

    def bring(self, work: Callable[[], None]) -> Wait:
        """Does `work`, which puts something on the device; what it returns is called before that is used.

        The memory that `work` writes to may be in use by what the device was told to do before.
        """
        work()
        return _nothing

    def close(self) -> None:
        """Ends its work, whether or not anybody waited for it; a second call does nothing."""


class CudaCourier(Courier):
    """Works in a stream of its own, copies from page-locked memory running beside the card's other work.

    in_background: `work` itself takes long, because it reads files: a thread does it.
    """

    def __init__(self, device: torch.device, *, in_background: bool = False) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._thread = ThreadPoolExecutor(1, "weights") if in_background else None

    def bring(self, work: Callable[[], None]) -> Wait:
        """As the base class says: the stream waits for what the card was told to do so far."""
        before = torch.cuda.current_stream(self._device).record_event()

        def carry() -> torch.cuda.Event:
            # Gradients and the current stream are the thread's own settings.
            with torch.no_grad(), torch.cuda.device(self._device), torch.cuda.stream(self._stream):
                self._stream.wait_event(before)
                work()
                arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
                arrived.record(self._stream)
                return arrived

        if self._thread is None:
            event = carry()
            return lambda: torch.cuda.current_stream(self._device).wait_event(event)
        future = self._thread.submit(carry)
        return lambda: torch.cuda.current_stream(self._device).wait_event(future.result())

    def close(self) -> None:
        """Ends the thread; what the card does from now on waits for what is still on its way."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def _nothing() -> None:
    """It is there already."""
