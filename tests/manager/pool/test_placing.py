"""Turns, in a time of our own: swaps are few and nobody waits too long, whatever the traffic."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest

from darkroom.manager.config import ManagerConfig
from darkroom.manager.pool.memory import Measurement
from darkroom.manager.pool.placing import Floor, place
from darkroom.manager.pool.record import Record, Ticket
from darkroom.manager.pool.scheduler import Turn, Waiting, ends_at, in_order, is_over
from darkroom.manager.pool.spec import LaunchSpec
from darkroom.manager.pool.state import ModelState

TICK = 0.05


@dataclass
class Simulation:
    """Models that share places; each draws one picture at a time."""

    places: int
    age_bound: float
    load: float = 2.0
    picture: float = 0.5
    now: float = 0.0
    records: dict[str, Record] = field(default_factory=dict)
    until: dict[str, float] = field(default_factory=dict)
    waits: list[float] = field(default_factory=list)
    swaps: int = 0

    def ask(self, model: str) -> None:
        record = self.records.setdefault(model, Record(model, spec=LaunchSpec(model)))
        unused: Any = None
        record.tickets.append(Ticket(model, unused, self.now))

    def tick(self) -> None:
        self.now += TICK
        for record in self.records.values():
            self.advance(record)
        queued = [record for record in self.records.values() if record.state is ModelState.QUEUED]
        for waiting in in_order(Waiting(record.name, record.oldest) for record in queued):
            if not self.settle(self.records[waiting.name]):
                break

    def advance(self, record: Record) -> None:
        is_due = self.now >= self.until.get(record.name, 0.0)
        if record.state is ModelState.LOADING and is_due:
            record.state, record.load_seconds = ModelState.READY, self.load
            record.turn_started = record.last_used = self.now
            record.batch = len(record.tickets)
        if record.leases and is_due:
            record.leases = 0
            record.released = record.last_used = self.now
        if record.state in (ModelState.READY, ModelState.BUSY) and not record.leases and record.tickets:
            self.waits.append(self.now - record.tickets.popleft().arrived)
            record.leases, record.batch = 1, record.batch - 1
            self.until[record.name] = self.now + self.picture
        if record.state in (ModelState.READY, ModelState.BUSY):
            record.state = ModelState.BUSY if record.leases else ModelState.READY
        if record.state is ModelState.DRAINING and not record.leases:
            record.state = ModelState.ABSENT
        if record.state is ModelState.ABSENT and record.tickets:
            record.state = ModelState.QUEUED

    def settle(self, record: Record) -> bool:
        absent = (ModelState.ABSENT, ModelState.QUEUED)
        live = [other for other in self.records.values() if other.state not in absent]
        config = ManagerConfig(max_loaded=self.places, age_bound=self.age_bound, eviction="lru")
        verdict = place(record, Floor(live, config, 20, Measurement({}, (), 2**40), 0.3), self.now)
        for other in verdict.evict:
            other.state = ModelState.ABSENT
        for other in verdict.drain:
            other.state = ModelState.DRAINING
        if verdict.fits:
            record.state = ModelState.LOADING
            self.until[record.name] = self.now + self.load
            self.swaps += 1
        return verdict.fits


def test_alternating_requests_are_drained_together() -> None:
    run = Simulation(places=1, age_bound=10.0)
    for number in range(400):  # 0.5 s apart, which is just what one model alone can draw
        run.ask("ab"[number % 2])
        for _ in range(10):
            run.tick()
    while any(record.tickets or record.leases for record in run.records.values()):
        run.tick()
    assert len(run.waits) == 400
    assert run.swaps <= 2 + run.now / 10.0  # one by one it were 400


@pytest.mark.parametrize("models", [2, 3, 5])
def test_nobody_starves_beside_a_model_that_never_rests(models: int) -> None:
    run = Simulation(places=1, age_bound=5.0)
    others = "bcdef"[: models - 1]
    for tick in range(8000):
        hot = run.records.get("a")
        if hot is None or len(hot.tickets) < 4:
            run.ask("a")
        if tick % 400 == 0:
            run.ask(others[tick // 400 % len(others)])
        run.tick()
    turn = run.age_bound + run.load + 2 * run.picture
    assert max(run.waits) <= models * turn
    assert run.swaps <= 2 * (8000 * TICK / (400 * TICK)) + 2


def test_two_places_for_three_models() -> None:
    run = Simulation(places=2, age_bound=5.0)
    deck = deque("abc")
    for _ in range(300):
        run.ask(deck[0])
        deck.rotate(1)
        for _ in range(8):
            run.tick()
    while any(record.tickets or record.leases for record in run.records.values()):
        run.tick()
    assert len(run.waits) == 300
    assert max(run.waits) <= 3 * (run.age_bound + run.load + run.picture)


def test_a_turn_first_serves_those_who_waited_for_it() -> None:
    young = Turn(started=100.0, batch=3, released=100.0, working=True)
    served = Turn(started=100.0, batch=0, released=100.0, working=True)
    assert not is_over(young, oldest=50.0, now=101.0, age_bound=30.0)
    assert is_over(young, oldest=50.0, now=130.0, age_bound=30.0)
    assert is_over(served, oldest=50.0, now=101.0, age_bound=30.0)
    assert not is_over(served, oldest=90.0, now=101.0, age_bound=30.0)
    assert ends_at(young, 50.0, 30.0) == 130.0
    assert ends_at(served, 110.0, 30.0) == 140.0


def test_pinned_models_and_ports_of_others_leave_no_room() -> None:
    record = Record("x", spec=LaunchSpec("x"))
    config = ManagerConfig(max_loaded=2)
    measurement = Measurement({}, (), 2**40)
    pinned = [Record(name, state=ModelState.READY, pinned=True) for name in "ab"]
    assert "(a, b)" in place(record, Floor(pinned, config, 9, measurement, 0), 0.0).refused
    assert "ports" in place(record, Floor([], config, 0, measurement, 0), 0.0).refused


def test_what_stops_makes_room_and_nothing_else_goes() -> None:
    record = Record("x", spec=LaunchSpec("x"))
    live = [Record("a", state=ModelState.STOPPING), Record("b", state=ModelState.READY, load_seconds=1.0)]
    verdict = place(record, Floor(live, ManagerConfig(max_loaded=2), 9, Measurement({}, (), 2**40), 0), 0.0)
    assert not verdict.fits
    assert verdict.evict == ()
