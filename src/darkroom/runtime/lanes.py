"""The work of one card in a CUDA graph that another card records."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Lane:
    """For devices that record nothing: work is asked for as it is anywhere else."""

    def start(self) -> None:
        """The calling thread works on the device that records; what comes next belongs to the recording."""

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within it the calling thread's work on this lane's device belongs to the recording."""
        yield

    def finish(self) -> None:
        """The device that records waits for the lane."""


class CudaLane(Lane):
    """A stream that the recording forks into and joins again, and memory that stays the graph's.

    Nothing but streams and pools: outside of a recording it does nothing.
    """

    def __init__(self, device: torch.device, main: torch.device) -> None:
        """`device`: whose lane it is. `main`: the one that records."""
        self._device, self._main = device, main
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            self._pool = torch.cuda.MemPool()
        self._is_recorded = False

    def start(self) -> None:
        """Forks, if the main card's current stream is being recorded."""
        with torch.cuda.device(self._main):
            self._is_recorded = torch.cuda.is_current_stream_capturing()
        if self._is_recorded:
            self._stream.wait_stream(torch.cuda.current_stream(self._main))

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Work in the stream, memory from the pool."""
        if not self._is_recorded:
            yield
            return
        with torch.cuda.stream(self._stream), torch.cuda.use_mem_pool(self._pool, self._device):
            yield

    def finish(self) -> None:
        """Joins."""
        if self._is_recorded:
            torch.cuda.current_stream(self._main).wait_stream(self._stream)
