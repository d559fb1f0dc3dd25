"""One model as the pool's task keeps it; nobody else changes it."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from darkroom.manager.pool.errors import FailureKind
from darkroom.manager.pool.eviction import Running
from darkroom.manager.pool.ladder import Rung
from darkroom.manager.pool.memory import RAM
from darkroom.manager.pool.scheduler import Turn
from darkroom.manager.pool.sidecar import Sidecar
from darkroom.manager.pool.spec import LaunchSpec, Patience
from darkroom.manager.pool.state import Failure, ModelState, ModelStatus


@dataclass(eq=False)
class Ticket:
    """A request that waits for a model; `granted` gets the process, or what went wrong.

    takes_slot: it will work with the process; otherwise it only wants it loaded. insists: a person asked,
    so that quarantine does not count. keep_alive: seconds, None for the model's own.
    """

    model: str
    granted: asyncio.Future[Sidecar]
    arrived: float
    takes_slot: bool = True
    insists: bool = False
    keep_alive: float | None = None


@dataclass(eq=False)
class Record:
    """What is known of one model. Times are the event loop's."""

    name: str
    state: ModelState = ModelState.ABSENT
    spec: LaunchSpec | None = None
    sidecar: Sidecar | None = None
    tickets: deque[Ticket] = field(default_factory=deque)
    leases: int = 0
    pinned: bool | None = None
    """None: as its settings say"""
    keep_alive: float | None = None
    """what the last request asked for"""
    rung: Rung = Rung.FULL
    proven: Rung = Rung.FULL
    """on which a request last went well"""
    device: str = ""
    """where its diffusion network runs: "ram" or "cuda0"; empty before it is known"""
    rung_key: str = ""
    """what the rung is remembered for"""
    failures: deque[float] = field(default_factory=deque)
    quarantines: int = 0
    quarantined_until: float = 0.0
    failure: Failure | None = None
    bytes_read: int = 0
    bytes_total: int = 0
    memory: dict[str, int] = field(default_factory=dict)
    peak: dict[str, int] = field(default_factory=dict)
    """the most it has ever held, on this rung"""
    started: float = 0.0
    load_seconds: float | None = None
    last_used: float = 0.0
    released: float = -math.inf
    uses: int = 0
    loads: int = 0
    restarts: int = 0
    turn_started: float = 0.0
    batch: int = 0
    port_attempts: int = 0
    evictions: int = 0
    """rounds of making room since it last ran out of memory"""
    is_up: bool = False
    """whether its process has been ready"""
    blocked_by: set[str] = field(default_factory=set)
    """models that go because its memory was short"""
    reload: bool = False
    """start again when the process is gone"""
    stop_reason: str = ""
    unloaded: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def is_pinned(self) -> bool:
        """Whether it must not be unloaded to make room."""
        return bool(self.spec and self.spec.settings.pin) if self.pinned is None else self.pinned

    @property
    def oldest(self) -> float:
        """When the first waiting request came."""
        return min((ticket.arrived for ticket in self.tickets), default=math.inf)

    def drop_cancelled(self) -> None:
        """Forgets requests whose clients are gone."""
        self.tickets = deque(ticket for ticket in self.tickets if not ticket.granted.done())

    def turn(self) -> Turn:
        """For the scheduler."""
        return Turn(self.turn_started, self.batch, self.released, self.leases > 0)

    def running(self, *, busy: bool) -> Running:
        """For the eviction rule."""
        return Running(
            self.name,
            self.last_used,
            self.need(),
            busy,
            self.is_pinned,
            max(1, self.uses),
            self.load_seconds or 1.0,
        )

    def estimate(self) -> dict[str, int]:
        """Bytes by device before anything was measured: the files and a tenth for work."""
        if not self.spec or not self.spec.weight_bytes:
            return {}
        on_cpu = not self.device or self.rung is Rung.STREAMED
        return {RAM if on_cpu else self.device: self.spec.weight_bytes * 11 // 10}

    def need(self) -> dict[str, int]:
        """Bytes by device that it takes at most; what nobody could measure is estimated."""
        return self.estimate() | self.memory | self.peak

    def held(self) -> dict[str, int]:
        """Bytes by device that it has now."""
        return self.estimate() | self.memory if self.is_up else self.memory

    def fail(self, make: Callable[[], Exception]) -> None:
        """Everyone who waits gets the error."""
        for ticket in self.tickets:
            if not ticket.granted.done():
                ticket.granted.set_exception(make())
        self.tickets.clear()

    @property
    def is_forgettable(self) -> bool:
        """Whether nothing is known of it that is worth keeping."""
        has_history = self.loads or self.failures or self.failure or self.pinned is not None
        return self.state is ModelState.ABSENT and not self.tickets and not has_history

    def note_failure(self, failure: Failure, now: float, patience: Patience) -> None:
        """Counts it; too many in a short time quarantine the model, each time for longer."""
        self.failure = failure
        if failure.kind is FailureKind.PORT:
            return
        self.failures.append(now)
        while self.failures and now - self.failures[0] > patience.crash_window:
            self.failures.popleft()
        if len(self.failures) >= patience.crashes:
            if now - self.quarantined_until > patience.crash_window:
                self.quarantines = 0
            step = min(self.quarantines, len(patience.quarantine) - 1)
            self.quarantined_until = now + patience.quarantine[step]
            self.quarantines += 1
            self.failures.clear()

    def status(self, now: float, keep_alive: float) -> ModelStatus:
        """As others see it. keep_alive: the manager's."""
        sidecar = self.sidecar
        state = self.state
        if state is ModelState.FAILED and now < self.quarantined_until:
            state = ModelState.QUARANTINED
        idle = now - self.last_used if state is ModelState.READY else None
        unloads_at = self.unloads_at(keep_alive)
        return ModelStatus(
            model=self.name,
            state=state,
            engine=sidecar.launch.engine.name if sidecar else "",
            bytes_read=self.bytes_read,
            bytes_total=self.bytes_total,
            load_seconds=self.load_seconds,
            port=sidecar.launch.port if sidecar else None,
            pid=sidecar.pid if sidecar else None,
            memory=dict(self.memory),
            rung=int(self.rung),
            rung_name=self.rung.title,
            settings=dict(sidecar.settings) if sidecar else {},
            capabilities=sidecar.capabilities if sidecar else None,
            pinned=self.is_pinned,
            leases=self.leases,
            waiting=len(self.tickets),
            loads=self.loads,
            restarts=self.restarts,
            idle_seconds=idle,
            unloads_in=max(0.0, unloads_at - now) if math.isfinite(unloads_at) else None,
            quarantined_for=self.quarantined_until - now if state is ModelState.QUARANTINED else None,
            failure=self.failure,
        )

    def unloads_at(self, keep_alive: float) -> float:
        """When it has been idle for long enough; infinity while it is not idle, pinned, or is to stay."""
        if self.state is not ModelState.READY or self.leases or self.tickets or self.is_pinned:
            return math.inf
        if self.keep_alive is not None:
            return self.last_used + self.keep_alive
        own = self.spec.settings.keep_alive if self.spec else None
        return self.last_used + (keep_alive if own is None else own)
