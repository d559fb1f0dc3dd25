"""The pool: several models ready behind one call, each in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx2

from darkroom.api.errors import DarkroomError, OutOfMemoryError
from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.pool import messages as m
from darkroom.manager.pool.diagnosis import diagnose
from darkroom.manager.pool.errors import FailureKind, ShuttingDown, SidecarLost
from darkroom.manager.pool.keeper import Keeper
from darkroom.manager.pool.ladder import Rung
from darkroom.manager.pool.output import last_lines
from darkroom.manager.pool.record import Ticket
from darkroom.manager.pool.roster import Roster, Specify
from darkroom.manager.pool.run_file import Entry, reap
from darkroom.manager.pool.sidecar import Sidecar
from darkroom.manager.pool.spec import Patience
from darkroom.manager.pool.state import Capabilities, ModelStatus, PoolEvent, absent

_log = logging.getLogger(__name__)
_LOSS_SECONDS = 3.0
"""how long a broken connection may be ahead of the news that the process is gone"""
_TRIES = len(Rung) + 4
"""of a request that runs out of memory: each rung, two rounds of making room, and two for the unforeseen"""
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Lease:
    """The right to send one request to a model's process; it stays until the lease ends."""

    model: str
    sidecar: Sidecar
    _inbox: asyncio.Queue[m.Message]
    _lines: int
    """those that the process had printed before"""

    @property
    def url(self) -> str:
        """Where the process answers: http://127.0.0.1:39100."""
        return self.sidecar.url

    @property
    def capabilities(self) -> Capabilities:
        """What this model's engine can do."""
        return self.sidecar.capabilities

    @property
    def rung(self) -> Rung:
        """How frugal the process is."""
        return self.sidecar.launch.rung

    def ran_out_of_memory(self) -> bool:
        """Whether the process has said so since the lease began; some engines tell it nowhere else."""
        return diagnose(0, self.sidecar.output.since(self._lines)) is FailureKind.OUT_OF_MEMORY

    def beat(self) -> None:
        """Tells that there was progress, such as an event of the job's stream."""
        self.sidecar.beat()

    def cancel_hard(self) -> None:
        """Kills the process and starts it again: how a job is stopped without capabilities.cancel_running."""
        self._inbox.put_nowait(m.Restart(self.model, self.sidecar))

    async def lost(self) -> SidecarLost | None:
        """Why the process is gone, None when it is still there."""
        try:
            async with asyncio.timeout(_LOSS_SECONDS):
                failure = await asyncio.shield(self.sidecar.ended)
        except TimeoutError:
            return None
        if failure is None:
            return SidecarLost(f"model '{self.model}': was stopped", FailureKind.KILLED, (), 1.0)
        message = f"model '{self.model}': its process is gone: {failure.message}"
        return SidecarLost(message, failure.kind, failure.tail, 1.0)


class Pool:
    """Models by name, loaded when they are wanted.

    config: ports, limits and times that people set. paths: run files, logs, rungs. specify: from a model's
    name to what it is started with. `start` first, in the event loop that it is to live in.
    """

    def __init__(
        self, config: ManagerConfig, paths: Paths, specify: Specify, patience: Patience | None = None
    ) -> None:
        self._config = config
        self._paths = paths
        self._specify = specify
        self._patience = patience or Patience()
        self._roster: Roster | None = None
        self._task: asyncio.Task[None] | None = None
        self._loads: set[asyncio.Task[None]] = set()
        self.reaped: list[Entry] = []

    async def start(self) -> None:
        """Ends what a dead manager has left, and begins to load what is to be there from the start."""
        self._paths.run.mkdir(parents=True, exist_ok=True)
        self.reaped = await asyncio.to_thread(reap, self._paths.run)
        self._roster = Roster(self._config, self._paths, self._specify, self._patience)
        self._task = asyncio.create_task(Keeper(self._roster).run())
        for model in self._config.preload:
            task = asyncio.create_task(self._preload(model))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)

    @contextlib.asynccontextmanager
    async def lease(self, model: str, keep_alive: float | None = None) -> AsyncIterator[Lease]:
        """Waits until the model is loaded and has room for a request; joins those who wait already.

        keep_alive: how many seconds the model stays after this request; None as it is set, infinity for ever.
        A broken connection inside, when the process is gone, leaves as SidecarLost; an OutOfMemoryError
        inside makes room or puts the model one rung down before it leaves.

        Errors: PoolFull, LoadFailed, Quarantined, ShuttingDown, and what `specify` raises.
        """
        async with self._leased(model, keep_alive) as (lease, _):
            yield lease

    async def run(
        self,
        model: str,
        work: Callable[[Lease], Awaitable[_Answer]],
        keep_alive: float | None = None,
        may_repeat: Callable[[], bool] = lambda: True,
    ) -> _Answer:
        """What `work` answers with a lease, again on a lower rung each time it runs out of memory, and once
        more when its process dies under it.

        may_repeat: whether nothing has been sent to the client yet, so that another try goes unnoticed.
        Errors: as `lease`, and what `work` raises.
        """
        tries = 0
        while True:
            outcome = _Outcome()
            try:
                async with self._leased(model, keep_alive) as (lease, outcome):
                    return await work(lease)
            except OutOfMemoryError:
                tries += 1
                if tries == _TRIES or not (outcome.another_try_helps and may_repeat()):
                    raise
            except SidecarLost as error:
                tries += 1
                allowed = _TRIES if error.kind is FailureKind.OUT_OF_MEMORY else 2
                if tries >= allowed or error.kind is FailureKind.HANG or not may_repeat():
                    raise

    @contextlib.asynccontextmanager
    async def _leased(self, model: str, keep_alive: float | None) -> AsyncIterator[tuple[Lease, _Outcome]]:
        roster = self._running
        sidecar = await self._ask(self._ticket(model, keep_alive=keep_alive))
        lease = Lease(model, sidecar, roster.inbox, sidecar.output.count)
        outcome, is_short = _Outcome(), False
        try:
            yield lease, outcome
        except OutOfMemoryError:
            is_short = True
            raise
        except httpx2.TransportError as error:
            if lost := await lease.lost():
                raise lost from error
            raise
        finally:
            answer: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
            roster.inbox.put_nowait(m.Release(model, sidecar, is_short, answer))
            if self._is_running:
                outcome.another_try_helps = await answer

    async def load(self, model: str, keep_alive: float | None = None) -> ModelStatus:
        """Loads it if need be, whatever its crashes. Errors: as `lease`."""
        await self._ask(self._ticket(model, takes_slot=False, insists=True, keep_alive=keep_alive))
        return self.status(model)

    async def unload(self, model: str, *, force: bool = False) -> None:
        """Ends its process when its requests are done, with `force` at once; returns when it is gone."""
        done = self._future()
        self._running.inbox.put_nowait(m.Unload(model, force, done))
        await done

    async def pin(self, model: str, pinned: bool = True) -> None:
        """Never unload it to make room, nor when it is idle."""
        done = self._future()
        self._running.inbox.put_nowait(m.Pin(model, pinned, done))
        await done

    async def pardon(self, model: str) -> None:
        """Forgets its crashes and its rung."""
        done = self._future()
        self._running.inbox.put_nowait(m.Pardon(model, done))
        await done

    def state(self) -> list[ModelStatus]:
        """Every model that the pool knows something of."""
        roster = self._running
        now = roster.now()
        return [record.status(now, self._config.keep_alive) for record in roster.records.values()]

    def status(self, model: str) -> ModelStatus:
        """One model, absent if nothing is known of it."""
        found = next((status for status in self.state() if status.model == model), None)
        return found or absent(model)

    def open_files(self) -> set[Path]:
        """The files of the models that have a process."""
        records = self._running.records.values()
        return {
            file
            for record in records
            if record.sidecar and record.spec
            for file in record.spec.files.values()
        }

    def events(self) -> AsyncIterator[PoolEvent]:
        """How everything is, then what happens, until the pool is shut down."""
        return self._running.news.listen(self.state)

    def logs(self, model: str) -> tuple[str, ...]:
        """The last lines that the model's process has printed, or the one before it."""
        record = self._running.records.get(model)
        if record and record.sidecar:
            return record.sidecar.output.tail
        return last_lines(self.log_file(model))

    def log_file(self, model: str) -> Path:
        """Where all its lines are."""
        return self._running.log_file(model)

    async def shutdown(self, drain: float | None = None) -> None:
        """Takes nothing more, lets requests end for `drain` seconds, then ends all processes.

        drain None: as it is set. A second call with 0 does not wait any longer: processes are killed.
        """
        if self._roster is None or self._task is None or self._task.done():
            return
        for task in self._loads:
            task.cancel()
        done = self._future()
        wait = self._config.drain_timeout if drain is None else drain
        self._roster.inbox.put_nowait(m.Shutdown(wait, done))
        await asyncio.wait((done, self._task), return_when=asyncio.FIRST_COMPLETED)

    @property
    def _running(self) -> Roster:
        if self._roster is None or not self._is_running:
            raise ShuttingDown("pool: it is not running")
        return self._roster

    @property
    def _is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    def _future(self) -> asyncio.Future[None]:
        return asyncio.get_running_loop().create_future()

    def _ticket(
        self, model: str, *, takes_slot: bool = True, insists: bool = False, keep_alive: float | None = None
    ) -> Ticket:
        granted: asyncio.Future[Sidecar] = asyncio.get_running_loop().create_future()
        return Ticket(model, granted, self._running.now(), takes_slot, insists, keep_alive)

    async def _ask(self, ticket: Ticket) -> Sidecar:
        roster = self._running
        roster.inbox.put_nowait(m.Acquire(ticket))
        try:
            return await ticket.granted
        except asyncio.CancelledError:
            roster.inbox.put_nowait(m.Withdraw(ticket))
            raise

    async def _preload(self, model: str) -> None:
        try:
            await self.load(model)
        except DarkroomError as error:
            _log.warning("preload: %s", error)


@dataclass
class _Outcome:
    """What became of a lease that ran out of memory."""

    another_try_helps: bool = False
