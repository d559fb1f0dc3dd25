"""The one task that writes the pool's state: it takes messages one by one and decides after each."""

from __future__ import annotations

import asyncio
import logging
import math

from darkroom.manager.pool import messages as m
from darkroom.manager.pool.errors import (
    FailureKind,
    PoolFull,
    Quarantined,
    ShuttingDown,
)
from darkroom.manager.pool.memory import measure
from darkroom.manager.pool.placing import Floor, Verdict, place
from darkroom.manager.pool.reactions import Reactions
from darkroom.manager.pool.record import Record
from darkroom.manager.pool.roster import Roster
from darkroom.manager.pool.scheduler import Waiting, in_order
from darkroom.manager.pool.sidecar import Gone, Loading, Ready
from darkroom.manager.pool.state import ModelState

_log = logging.getLogger(__name__)


class Keeper:
    """Takes messages, and after each one grants, starts and stops what can be granted, started, stopped."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self._reactions = Reactions(roster)
        self._timer: asyncio.TimerHandle | None = None
        self._wake = math.inf
        self._closing: asyncio.Future[None] | None = None
        self._also_done: list[asyncio.Future[None]] = []
        self._drain_until = math.inf
        self._is_urgent = False

    async def run(self) -> None:
        """Until the pool is shut down and nothing is left."""
        measuring = asyncio.create_task(self._measure_regularly())
        while not (self._closing and not self._roster.live):
            message = await self._roster.inbox.get()
            try:
                self._take(message)
                self._decide()
            except Exception:  # a defect here must not take the other models along
                _log.exception("pool: a %s went wrong", type(message).__name__)
        measuring.cancel()
        if self._timer:
            self._timer.cancel()
        self._roster.run_file.close()
        self._roster.news.end()
        while not self._roster.inbox.empty():
            self._take(self._roster.inbox.get_nowait())
        for done in (self._closing, *self._also_done):
            if not done.done():
                done.set_result(None)

    def _take(self, message: m.Message) -> None:
        roster, reactions = self._roster, self._reactions
        match message:
            case m.Acquire(ticket):
                reactions.acquire(ticket)
            case m.Withdraw(ticket):
                reactions.withdraw(ticket)
            case m.Release():
                reactions.release(message)
            case m.Specified():
                reactions.specified(message)
            case Loading():
                reactions.loading(message)
            case Ready():
                reactions.ready(message)
            case Gone():
                reactions.gone(message)
            case m.Measured(measurement):
                roster.measured(measurement)
            case m.Restart(model, sidecar):
                record = roster.get(model)
                if record.sidecar is sidecar:
                    record.reload = True
                    roster.stop(record, "cancelled", grace=0)
            case m.Unload():
                reactions.unload(message)
            case m.Pin(model, pinned, done):
                record = roster.get(model)
                record.pinned = pinned
                roster.tell(record, "state", "pinned" if pinned else "unpinned")
                done.set_result(None)
            case m.Pardon(model, done):
                roster.pardon(roster.get(model))
                done.set_result(None)
            case m.Shutdown(drain, done):
                self._shut_down(drain, done)
            case m.Tick():
                pass

    def _shut_down(self, drain: float, done: asyncio.Future[None]) -> None:
        if self._closing is None:
            self._closing, self._reactions.is_closing = done, True
            for record in self._roster.records.values():
                record.fail(lambda: ShuttingDown("pool: the manager is stopping"))
        else:
            self._also_done.append(done)
            self._is_urgent = drain == 0
        self._drain_until = min(self._drain_until, self._roster.now() + drain)

    # decisions

    def _decide(self) -> None:
        now = self._roster.now()
        self._wake = math.inf
        if self._closing:
            self._close(now)
        for record in list(self._roster.records.values()):
            record.drop_cancelled()
            self._serve(record, now)
        self._place_queued(now)
        for record in list(self._roster.records.values()):
            if record.is_forgettable:
                del self._roster.records[record.name]
        if self._timer:
            self._timer.cancel()
        if self._wake < math.inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(self._wake, self._roster.inbox.put_nowait, m.Tick())

    def _serve(self, record: Record, now: float) -> None:
        """Whatever concerns this model alone."""
        roster = self._roster
        match record.state:
            case ModelState.READY | ModelState.BUSY:
                self._grant(record, now)
                unloads_at = record.unloads_at(roster.config.keep_alive)
                if unloads_at <= now:
                    roster.stop(record, "idle")
                else:
                    self._wake = min(self._wake, unloads_at)
            case ModelState.DRAINING if not record.leases:
                roster.stop(record, record.stop_reason)
            case ModelState.ABSENT | ModelState.FAILED if record.tickets:
                if now < record.quarantined_until:
                    record.fail(lambda: _quarantined(record, now))
                else:
                    roster.begin_to_specify(record)
            case ModelState.QUEUED if not record.tickets:
                roster.set(record, ModelState.ABSENT, "nobody waits any more")

    def _grant(self, record: Record, now: float) -> None:
        sidecar = record.sidecar
        if sidecar is None or self._roster.is_blocked(record):
            return
        waiting = list(record.tickets)
        record.tickets.clear()
        for ticket in waiting:
            if ticket.takes_slot and record.leases >= sidecar.launch.engine.slots:
                record.tickets.append(ticket)
                continue
            record.last_used = now
            record.batch -= 1
            record.leases += ticket.takes_slot
            record.uses += ticket.takes_slot
            if ticket.takes_slot or ticket.keep_alive is not None:
                record.keep_alive = ticket.keep_alive
            ticket.granted.set_result(sidecar)
        if record.leases and not sidecar.working:
            sidecar.beat()
        sidecar.working = record.leases
        if record.leases and record.state is ModelState.READY:
            self._roster.set(record, ModelState.BUSY)

    def _place_queued(self, now: float) -> None:
        """Strictly in order: who came first is not overtaken by one that needs less room."""
        roster = self._roster
        queued = [record for record in roster.records.values() if record.state is ModelState.QUEUED]
        for waiting in in_order(Waiting(record.name, record.oldest) for record in queued):
            record = roster.records[waiting.name]
            if roster.is_blocked(record):
                return
            floor = Floor(
                roster.live, roster.config, roster.ports.free(), roster.measurement, roster.patience.linger
            )
            verdict = place(record, floor, now)
            self._wake = min(self._wake, verdict.ask_again)
            if not self._carry_out(record, verdict):
                return

    def _carry_out(self, record: Record, verdict: Verdict) -> bool:
        """Whether the next one in the queue may be looked at."""
        roster = self._roster
        for other in verdict.evict:
            roster.stop(other, f"room for '{record.name}'", evicted=True)
        for other in verdict.drain:
            roster.drain(other, f"the turn of '{record.name}'")
        if verdict.refused:
            record.fail(lambda: PoolFull(verdict.refused, retry_after=10))
            roster.set(record, ModelState.ABSENT, verdict.refused)
            return True
        if not verdict.fits:
            return False
        if not roster.launch(record):
            self._wake = min(self._wake, roster.now() + roster.patience.poll)
            return False
        return True

    def _close(self, now: float) -> None:
        for record in self._roster.live:
            if not record.leases or now >= self._drain_until:
                self._roster.stop(record, "the manager stops")
                if self._is_urgent and record.sidecar:
                    record.sidecar.stop(0)
            else:
                self._wake = min(self._wake, self._drain_until)

    async def _measure_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._roster.patience.measure)
            if pids := self._roster.pids():
                self._roster.inbox.put_nowait(m.Measured(await measure(pids)))


def _quarantined(record: Record, now: float) -> Quarantined:
    failure = record.failure
    wait = record.quarantined_until - now
    return Quarantined(
        f"model '{record.name}': failed too often and is left alone for {wait:.0f} s"
        + (f"; last: {failure.message}" if failure else ""),
        failure.kind if failure else FailureKind.CRASH,
        failure.tail if failure else (),
        retry_after=max(1.0, wait),
    )
