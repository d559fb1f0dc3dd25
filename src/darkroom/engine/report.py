"""Tells the caller what a generation is doing, and asks whether it should go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from darkroom.api.errors import Cancelled
from darkroom.api.result import IsCancelled, OnProgress, Phase, Progress

logger = logging.getLogger(__name__)


class Advance(Protocol):
    """To be told how many steps of a phase are done, and of how many where that was not known before.

    Raises Cancelled once the caller has asked for it.
    """

    def __call__(self, step: int, of: int | None = None) -> None: ...  # noqa: D102


class Report:
    """Progress, cancellation and the seconds of each phase, for one generation."""

    def __init__(self, on_progress: OnProgress, is_cancelled: IsCancelled, images: int = 1) -> None:
        self._on_progress = on_progress
        self._is_cancelled = is_cancelled
        self._images = images
        self.timings: dict[Phase, float] = {}

    @contextmanager
    def phase(self, phase: Phase, steps: int, image: int = 1, together: int = 1) -> Iterator[Advance]:
        """Times the block; the function it yields is told how many steps are done.

        image: the picture that is worked on, from 1; with `together` above 1 the first of so many.

        Raises Cancelled at the start and at every step, once the caller has asked for it.
        """
        start = time.perf_counter()

        def advance(step: int, of: int | None = None) -> None:
            if self._is_cancelled():
                raise Cancelled("generation: cancelled")
            seconds = time.perf_counter() - start
            progress = Progress(phase, step, of or steps, seconds, image, self._images, together)
            self._on_progress(progress)

        advance(0)
        yield advance
        seconds = time.perf_counter() - start
        self.timings[phase] = self.timings.get(phase, 0.0) + seconds
        logger.info("%s: %.2f s", phase, seconds)

    def loading(self, total: int) -> Callable[[int], None]:
        """A function to be told the bytes of each tensor that is read, of `total` in all.

        Nothing is reported, and no time counted, unless it is called. Raises Cancelled as `phase` does.
        """
        start = time.perf_counter()
        before = self.timings.get(Phase.LOAD, 0.0)
        done = 0

        def read(nbytes: int) -> None:
            nonlocal done
            if self._is_cancelled():
                raise Cancelled("loading: cancelled")
            done += nbytes
            seconds = time.perf_counter() - start
            self.timings[Phase.LOAD] = before + seconds
            self._on_progress(Progress(Phase.LOAD, done, total, seconds, 1, self._images))

        return read


def loading_for(reports: Sequence[Report], total: int) -> Callable[[int], None]:
    """`Report.loading` for several generations at once; it ends when all of them are cancelled."""
    each = [report.loading(total) for report in reports]

    def read(nbytes: int) -> None:
        cancelled = 0
        for one in each:
            try:
                one(nbytes)
            except Cancelled:
                cancelled += 1
        if cancelled == len(each):
            raise Cancelled("loading: cancelled")

    return read
