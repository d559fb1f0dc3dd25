"""Whether a model can be started now, and what must happen before: a pure decision over records."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from darkroom.manager.config import ManagerConfig
from darkroom.manager.pool.eviction import Room, Target, evict_for
from darkroom.manager.pool.memory import Measurement
from darkroom.manager.pool.record import Record
from darkroom.manager.pool.scheduler import ends_at, is_over, rests_until
from darkroom.manager.pool.state import ModelState


@dataclass(frozen=True)
class Floor:
    """What there is: the models with a process, free ports, memory.

    linger: seconds that an idle model is left alone, but never more than a tenth of what its load took.
    """

    live: Sequence[Record]
    config: ManagerConfig
    free_ports: int
    measurement: Measurement
    linger: float

    @property
    def room(self) -> Room:
        """For the eviction rule."""
        memory = self.measurement.available(
            [record.held() for record in self.live], self.config.memory_budget
        )
        return Room(min(self.config.max_loaded, len(self.live) + self.free_ports), memory)


@dataclass(frozen=True)
class Verdict:
    """fits: start it. evict: stop these first. drain: let these take no more requests. refused: why never.

    ask_again: a time at which the answer can be another one. None of them: wait for what is under way.
    """

    fits: bool = False
    evict: tuple[Record, ...] = ()
    drain: tuple[Record, ...] = ()
    refused: str = ""
    ask_again: float = math.inf


def place(record: Record, floor: Floor, now: float) -> Verdict:
    """What to do for a model that waits for its place."""
    staying = [other for other in floor.live if other.state is not ModelState.STOPPING]
    room, target = floor.room, Target(record.name, record.need())

    def victims(is_busy: Callable[[Record], bool]) -> tuple[Record, ...] | None:
        running = [other.running(busy=is_busy(other)) for other in staying]
        names = evict_for(target, running, room, floor.config.eviction, now)
        return None if names is None else tuple(other for other in staying if other.name in names)

    def is_idle(other: Record) -> bool:
        return other.state is ModelState.READY and now >= _rests_until(other, floor)

    def may_end(other: Record) -> bool:
        at_work = other.state in (ModelState.READY, ModelState.BUSY)
        return at_work and is_over(other.turn(), record.oldest, now, floor.config.age_bound)

    evict = victims(lambda other: not is_idle(other))
    if evict == ():
        everything = [other.running(busy=True) for other in floor.live]
        return Verdict(fits=evict_for(target, everything, room) == ())
    if evict:
        return Verdict(evict=evict)
    if victims(lambda other: False) is None:
        return Verdict(refused=_why(record, floor, room))
    drain = victims(lambda other: not (is_idle(other) or may_end(other) or _leaves(other)))
    if drain:
        return Verdict(
            evict=tuple(other for other in drain if is_idle(other)),
            drain=tuple(other for other in drain if not is_idle(other) and not _leaves(other)),
        )
    times = (_next(record, other, floor) for other in staying)
    return Verdict(ask_again=min((time for time in times if time > now), default=math.inf))


def _leaves(other: Record) -> bool:
    """Whether it goes anyway when its requests are done."""
    return other.state is ModelState.DRAINING


def _rests_until(other: Record, floor: Floor) -> float:
    return rests_until(other.turn(), min(floor.linger, (other.load_seconds or 0.0) / 10))


def _next(record: Record, other: Record, floor: Floor) -> float:
    """When `other` may become ready to go, by the clock alone."""
    if other.state is ModelState.READY:
        return _rests_until(other, floor)
    if other.state is ModelState.BUSY:
        return ends_at(other.turn(), record.oldest, floor.config.age_bound)
    return math.inf


def _why(record: Record, floor: Floor, room: Room) -> str:
    if not floor.live and room.places < 1:
        ports = floor.config.ports
        return f"pool: all ports from {ports.start} to {ports.stop - 1} are held by others; free one"
    pinned = ", ".join(other.name for other in floor.live if other.is_pinned)
    return (
        f"pool: there is no room for '{record.name}' beside the pinned models ({pinned}); "
        "unpin or unload one of them"
    )
