"""All jobs of a server: those that wait, those being drawn, and those that are over."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable

from darkroom.server.errors import JobExpired, JobNotFound, QueueFull
from darkroom.server.jobs import Job, positions

PICTURE_BYTES_KEPT = 512 * 2**20
"""What the pictures of finished jobs may take; the oldest expire early."""

HISTORY_SECONDS = 30.0
"""For a slow reader of events to get the steps and previews of a job that is over."""


class JobBook:
    """The queue and the memory of what was in it. Used in the event loop's thread only.

    room: jobs that may be under way at a time. ttl: seconds that a finished one is remembered.
    """

    def __init__(self, room: int, ttl: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._room, self._ttl, self._clock = room, ttl, clock
        self._jobs: dict[str, Job] = {}
        self._waiting: list[Job] = []
        self._running: list[Job] = []
        self._over: dict[str, float] = {}
        self._expired: dict[str, float] = {}
        self._arrived = asyncio.Event()

    @property
    def waiting(self) -> list[Job]:
        """The jobs in the queue, the next one first."""
        return list(self._waiting)

    @property
    def running(self) -> list[Job]:
        """The jobs being drawn."""
        return list(self._running)

    def new_id(self) -> str:
        """`job_<hex time>_<8 hex digits>`; the digits cannot be guessed."""
        return f"job_{int(time.time()):x}_{secrets.token_hex(4)}"

    def require_room(self) -> None:
        """Raises QueueFull when no more jobs are taken."""
        if len(self._waiting) + len(self._running) >= self._room:
            wait = self._seconds_to_room()
            raise QueueFull(
                f"job queue is full: {self._room} jobs are under way; try again in {wait} s",
                headers={"Retry-After": str(wait)},
            )

    def add(self, job: Job) -> None:
        """Puts the job at the end of the queue. Raises QueueFull."""
        self.require_room()
        self._jobs[job.id] = job
        self._waiting.append(job)
        positions(self._waiting)
        self._arrived.set()

    async def next(self) -> Job:
        """Waits for the job whose turn it is; it stays in the queue until `begin`."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting[0]

    def begin(self, jobs: list[Job]) -> None:
        """These waiting jobs are now drawn."""
        for job in jobs:
            self._waiting.remove(job)
            self._running.append(job)
            job.start()
        positions(self._waiting)

    def leave_queue(self, job: Job) -> bool:
        """Takes a waiting job out of the queue. False for one that does not wait."""
        if job not in self._waiting:
            return False
        self._waiting.remove(job)
        positions(self._waiting)
        return True

    def end(self, job: Job) -> None:
        """The job is final: from now on its time to be asked for runs."""
        if job in self._running:
            self._running.remove(job)
        self._over[job.id] = self._clock()
        asyncio.get_running_loop().call_later(HISTORY_SECONDS, job.shorten_history)
        self._save_memory()

    def get(self, id: str) -> Job:
        """Raises JobExpired, JobNotFound."""
        self.tidy()
        if id in self._jobs:
            return self._jobs[id]
        if id in self._expired:
            raise JobExpired(f"job expired: {id} was finished more than {self._ttl:g} s ago")
        raise JobNotFound("job not found")

    def all(self) -> list[Job]:
        """Every job that is remembered, the oldest first."""
        self.tidy()
        return list(self._jobs.values())

    def tidy(self) -> None:
        """Forgets what has been over for long enough."""
        now = self._clock()
        for id in [id for id, when in self._over.items() if now - when >= self._ttl]:
            self._expire(id)
        for id in [id for id, when in self._expired.items() if now - when >= self._ttl]:
            del self._expired[id]

    def _expire(self, id: str) -> None:
        del self._over[id]
        self._jobs.pop(id).forget_pictures()
        self._expired[id] = self._clock()

    def _save_memory(self) -> None:
        kept = [id for id in self._over if self._jobs[id].picture_bytes]
        total = sum(self._jobs[id].picture_bytes for id in kept)
        for id in kept[:-1]:
            if total <= PICTURE_BYTES_KEPT:
                return
            total -= self._jobs[id].picture_bytes
            self._expire(id)

    def _seconds_to_room(self) -> int:
        """When a job may be over, by what is known of those being drawn; 1 to 60."""
        etas = [job.eta for job in self._running if job.eta is not None]
        return max(1, min(60, math.ceil(min(etas)))) if etas else 1
