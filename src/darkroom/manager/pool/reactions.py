"""What each message changes in the pool's models; decisions follow in keeper.py."""

from __future__ import annotations

import asyncio
import logging
import math

from darkroom.manager.pool import messages as m
from darkroom.manager.pool.errors import FailureKind, LoadFailed, PoolError, ShuttingDown
from darkroom.manager.pool.record import Record, Ticket
from darkroom.manager.pool.roster import Roster
from darkroom.manager.pool.sidecar import Gone, Loading, Ready, Sidecar
from darkroom.manager.pool.state import Failure, ModelState

_log = logging.getLogger(__name__)


class Reactions:
    """One method for each message; only the keeper's task calls them."""

    def __init__(self, roster: Roster) -> None:
        self._roster = roster
        self.is_closing = False
        """nothing new is begun"""

    # what requests and people want

    def acquire(self, ticket: Ticket) -> None:
        """Puts it with the others that wait for the model."""
        if ticket.granted.done():
            return
        if self.is_closing:
            ticket.granted.set_exception(ShuttingDown("pool: the manager is stopping"))
            return
        record = self._roster.get(ticket.model)
        if ticket.insists:
            record.quarantined_until = -math.inf
        record.tickets.append(ticket)

    def withdraw(self, ticket: Ticket) -> None:
        """It may have been granted in the moment in which its client went."""
        granted = ticket.granted
        if ticket.takes_slot and granted.done() and not granted.cancelled() and not granted.exception():
            record = self._roster.get(ticket.model)
            if record.sidecar is granted.result():
                self._end_lease(record)

    def release(self, message: m.Release) -> None:
        """Ends a lease; what ran out of memory learns whether to try again."""
        record = self._roster.get(message.model)
        is_here = record.sidecar is message.sidecar
        if is_here:
            self._end_lease(record)
            if not message.out_of_memory:
                record.proven = message.sidecar.launch.rung
        helps = message.out_of_memory and (not is_here or self._roster.make_frugal(record))
        if not message.answer.done():
            message.answer.set_result(helps)

    def _end_lease(self, record: Record) -> None:
        record.leases -= 1
        record.released = record.last_used = self._roster.now()
        if record.sidecar:
            record.sidecar.working = record.leases
            record.sidecar.beat()
        if record.state is ModelState.BUSY and not record.leases:
            self._roster.set(record, ModelState.READY)

    def unload(self, message: m.Unload) -> None:
        """Stops the process, or lets it drain first."""
        record = self._roster.get(message.model)
        if record.sidecar is None:
            record.fail(lambda: PoolError(f"model '{record.name}': was unloaded before it was there"))
            message.done.set_result(None)
            return
        record.unloaded.append(message.done)
        if not record.is_up:
            record.fail(lambda: PoolError(f"model '{record.name}': was unloaded while it loaded"))
        if record.leases and not message.force:
            self._roster.drain(record, "unloaded")
        else:
            self._roster.stop(record, "unloaded")

    # what helpers and processes tell

    def specified(self, message: m.Specified) -> None:
        """The model joins the queue for places, or those who wait get the error."""
        record = self._roster.get(message.model)
        if record.state is not ModelState.VALIDATING:
            return
        if isinstance(message.known, Exception):
            error = message.known
            record.fail(lambda: error)
            self._roster.set(record, ModelState.ABSENT, str(error))
            return
        spec, engine, measurement = message.known
        self._roster.measured(measurement)
        self._roster.specified(record, spec, engine)

    def loading(self, message: Loading) -> None:
        """Notes how far a load is."""
        record = self._roster.get(message.sidecar.launch.model)
        if record.sidecar is message.sidecar and not record.is_up:
            record.bytes_read = message.read
            record.bytes_total = message.total or record.bytes_total
            if record.state is ModelState.STARTING:
                self._roster.set(record, ModelState.LOADING)
            else:
                self._roster.tell(record, "progress")

    def ready(self, message: Ready) -> None:
        """Begins the model's turn."""
        record = self._roster.get(message.sidecar.launch.model)
        if record.sidecar is not message.sidecar or record.state is ModelState.STOPPING:
            return
        now = self._roster.now()
        record.is_up, record.failure = True, None
        record.load_seconds = now - record.started
        record.bytes_read = record.bytes_total = max(record.bytes_read, record.bytes_total)
        record.loads += 1
        record.port_attempts = record.evictions = record.uses = 0
        record.last_used = record.turn_started = now
        record.released, record.keep_alive = -math.inf, None
        record.drop_cancelled()
        record.batch = len(record.tickets)
        self._roster.set(record, ModelState.READY)
        _log.info("model '%s': ready in %.1f s at %s", record.name, record.load_seconds, message.sidecar.url)

    def gone(self, message: Gone) -> None:
        """Clears up after a process, and judges how it ended."""
        record = self._roster.get(message.sidecar.launch.model)
        was_up = record.is_up
        if record.sidecar is not message.sidecar:
            return
        if not self._roster.bury(record, message):
            self._roster.set(record, ModelState.STOPPING, "its memory is awaited")
            return
        if message.failure is None:
            self._roster.set(record, ModelState.ABSENT, record.stop_reason)
        elif was_up:
            self._crashed(record, message.failure)
        else:
            self._load_failed(record, message.failure)
        if record.reload and not self.is_closing:
            self.acquire(Ticket(record.name, _unheard(), self._roster.now(), takes_slot=False))
        record.reload = False

    def _crashed(self, record: Record, failure: Failure) -> None:
        """While it served: the requests with it are lost, those that wait get a new process."""
        record.restarts += 1
        record.failure = failure
        if failure.kind is not FailureKind.OUT_OF_MEMORY or not self._roster.make_frugal(record):
            record.note_failure(failure, self._roster.now(), self._roster.patience)
        _log.warning("model '%s': %s", record.name, failure.message)
        self._roster.set(record, ModelState.FAILED, failure.message)

    def _load_failed(self, record: Record, failure: Failure) -> None:
        patience = self._roster.patience
        if failure.kind is FailureKind.PORT and record.port_attempts + 1 < patience.port_attempts:
            record.port_attempts += 1
            self._roster.set(record, ModelState.QUEUED, failure.message)
            return
        if failure.kind is FailureKind.OUT_OF_MEMORY and self._roster.make_frugal(record):
            self._roster.begin_to_specify(record)
            return
        record.port_attempts = record.evictions = 0
        record.note_failure(failure, self._roster.now(), patience)
        _log.warning("model '%s': %s", record.name, failure.message)
        self._roster.set(record, ModelState.FAILED, failure.message)
        message = f"model '{record.name}': could not be loaded: {failure.message}"
        record.fail(lambda: LoadFailed(message, failure.kind, failure.tail))


def _unheard() -> asyncio.Future[Sidecar]:
    """For a ticket that nobody waits for: its error is nobody's."""
    future: asyncio.Future[Sidecar] = asyncio.get_running_loop().create_future()
    future.add_done_callback(lambda future: future.cancelled() or future.exception())
    return future
