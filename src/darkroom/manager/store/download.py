"""One download: what it does, how far it is, and the switches it has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from darkroom.api.errors import Cancelled, DarkroomError
from darkroom.manager.store.errors import StoreError, StoreFull
from darkroom.manager.store.progress import Meter, Progress, State
from darkroom.manager.store.wanted import Wanted

_log = logging.getLogger(__name__)


class Download:
    """All who want one file share one of these.

    It belongs to the store: whoever waits for it may go away, it goes on. A full disk pauses it, with `error`
    set; so does `pause()`, without.
    """

    def __init__(
        self,
        wanted: Wanted,
        work: Callable[[Download], Awaitable[Path]],
        on_state: Callable[[Download], None],
        progress: Progress,
    ) -> None:
        self.wanted = wanted
        self.path: Path | None = None
        """once it is completed"""
        self.error: DarkroomError | None = None
        self.progress = progress
        self._work = work
        self._on_state = on_state
        self._meter = Meter()
        self._task: asyncio.Task[None] | None = None
        self._why_stopped = State.INTERRUPTED
        self._changed = asyncio.Event()

    @property
    def id(self) -> str:
        """What it is called in the API."""
        return self.wanted.key[:16]

    @property
    def state(self) -> State:
        """Where it stands."""
        return self.progress.state

    @property
    def is_over(self) -> bool:
        """Nothing more will happen unless somebody starts it again."""
        return not self.state.is_active and (self.state is not State.PAUSED or self.error is not None)

    def start(self) -> None:
        """Begins, or goes on from where it stopped."""
        if self._task is not None and not self._task.done():
            return
        self.error = None
        self._why_stopped = State.INTERRUPTED
        self._meter.clear()
        self.show(State.QUEUED)
        self._task = asyncio.create_task(self._run(), name=f"download {self.wanted.name}")

    async def pause(self) -> None:
        """Stops and keeps what is there. Who waits goes on waiting."""
        if self.state.is_active:
            await self._stop(State.PAUSED)

    async def resume(self) -> None:
        """Goes on."""
        if self.state is not State.COMPLETED:
            self.start()

    async def cancel(self) -> None:
        """Stops for good; who waits gets Cancelled. The store drops what is there (`Store.cancel`)."""
        if self.state is State.COMPLETED:
            return
        await self._stop(State.CANCELLED)
        if self.path is None and self.state is not State.CANCELLED:
            self.error = self._cancelled()
            self.show(State.CANCELLED)

    def _cancelled(self) -> Cancelled:
        return Cancelled(f"download of {self.wanted.name}: cancelled")

    async def interrupt(self) -> None:
        """The store closes; another run will go on."""
        await self._stop(State.INTERRUPTED)

    async def _stop(self, why: State) -> None:
        self._why_stopped = why
        task = self._task
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait([task])

    async def _run(self) -> None:
        try:
            self.path = await self._work(self)
            self.show(State.COMPLETED)
        except asyncio.CancelledError:
            if self._why_stopped is State.CANCELLED:
                self.error = self._cancelled()
            self.show(self._why_stopped)
        except StoreFull as error:
            self.error = error
            _log.warning("%s", error)
            self.show(State.PAUSED)
        except DarkroomError as error:
            self.error = error
            self.show(State.FAILED)
        except OSError as error:
            self.error = StoreError(f"{self.wanted.name}: the store cannot be written to: {error}")
            self.show(State.FAILED)
        except Exception as error:
            _log.exception("download of %s", self.wanted.name)
            self.error = StoreError(f"{self.wanted.name}: {type(error).__name__}: {error}")
            self.show(State.FAILED)

    def show(self, state: State, received: int | None = None, total: int | None = None) -> None:
        """Tells everyone where it stands. received, total: None for no change."""
        before = self.progress
        received = before.received if received is None else received
        total = before.total if total is None else total
        speed, eta = 0.0, None
        if state is State.DOWNLOADING:
            self._meter.add(received)
            speed = self._meter.speed
            eta = (total - received) / speed if total is not None and speed > 0 else None
        self.progress = replace(before, state=state, received=received, total=total, speed=speed, eta=eta)
        if state is not before.state or total != before.total:
            self._on_state(self)
        self._changed.set()
        self._changed = asyncio.Event()

    async def events(self) -> AsyncIterator[Progress]:
        """How far it is, now and after each change, until it is over."""
        while True:
            changed = self._changed
            is_over = self.is_over
            yield self.progress
            if is_over:
                return
            await changed.wait()

    async def wait(self) -> Path:
        """The file.

        Errors: what stopped the download.
        """
        async for _ in self.events():
            pass
        if self.path is not None:
            return self.path
        raise self.error or StoreError(f"{self.wanted.name}: its download was interrupted; fetch it again")
