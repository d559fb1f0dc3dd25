"""What is on its way to a device: beside its work where it can do both, else in front of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

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


class Sender:
    """Hands tensors of one device to others: at once, for devices without a second queue of work."""

    def ready(self) -> object:
        """A mark that what the calling thread has asked the device for so far comes before."""
        return None

    def hand_over(self, tensor: Tensor, ready: object, to: torch.device) -> Tensor:
        """`tensor` on another device, for the calling thread's work there. ready: the mark made behind it.

        It may be freed when the device has been given something of that work in turn, or after `end`.
        """
        return tensor.to(to)

    def end(self) -> None:
        """Lets later work on the device wait for what has been handed over."""


class CudaSender(Sender):
    """Sends in streams of its own, one for each receiver, so that two cards send to each other at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._streams: dict[torch.device, torch.cuda.Stream] = {}

    def ready(self) -> torch.cuda.Event:
        """An event in the card's current stream."""
        event: torch.cuda.Event = torch.cuda.current_stream(self._device).record_event()
        return event

    def hand_over(self, tensor: Tensor, ready: object, to: torch.device) -> Tensor:
        """torch copies in the current stream of the card that sends; the receiver's waits for it."""
        assert isinstance(ready, torch.cuda.Event), "one of ours"
        if to not in self._streams:
            self._streams[to] = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream = self._streams[to]
        stream.wait_event(ready)
        with torch.cuda.stream(stream):
            return tensor.to(to, non_blocking=True)

    def end(self) -> None:
        """The card's current stream waits for the others."""
        for stream in self._streams.values():
            torch.cuda.current_stream(self._device).wait_stream(stream)


def _nothing() -> None:
    """It is there already."""
