"""Whose turn it is: pure rules that keep models from thrashing and requests from starving.

Requests for one model are drained together. A model that is loaded keeps its turn while it has work, until a
request for a model that has no room is older than the age bound; then it takes no more requests and goes when
the last one with it is done. A turn that has just begun first serves those who waited for it, also for the
age bound at most, so that no request waits longer than the age bound and one turn for each model before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """How long a loaded model has had the place that another wants; times by one clock.

    batch: requests that waited when it began and still wait. released: when its last request ended.
    working: whether requests are with it now.
    """

    started: float
    batch: int
    released: float
    working: bool


@dataclass(frozen=True)
class Waiting:
    """The requests for a model that has no place. oldest: when the first of them came."""

    name: str
    oldest: float


def in_order(queues: Iterable[Waiting]) -> list[Waiting]:
    """Who gets a place first: the one whose oldest request came first."""
    return sorted(queues, key=lambda queue: (queue.oldest, queue.name))


def is_over(turn: Turn, oldest: float, now: float, age_bound: float) -> bool:
    """Whether a model must take no more requests for the sake of one that has waited since `oldest`."""
    has_had_its_share = turn.batch <= 0 or now - turn.started >= age_bound
    return has_had_its_share and now - oldest >= age_bound


def rests_until(turn: Turn, linger: float) -> float:
    """Until when an idle model is left alone: its next request often follows the last one at once."""
    return turn.released + linger


def ends_at(turn: Turn, oldest: float, age_bound: float) -> float:
    """The earliest time at which `is_over` can become true by the clock alone."""
    share = turn.started + age_bound if turn.batch > 0 else oldest + age_bound
    return max(share, oldest + age_bound)
