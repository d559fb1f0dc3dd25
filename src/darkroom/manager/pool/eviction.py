"""Which models make room for another: a pure rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Memory = Mapping[str, int]
"""Bytes by device: "ram", "cuda0"."""


@dataclass(frozen=True)
class Running:
    """A model with a process, as far as the rule needs to know it.

    last_used: any clock's seconds, the larger the later. uses: requests since it was loaded.
    busy: it works, loads or stops; it is never chosen. memory: what will be free again without it.
    """

    name: str
    last_used: float
    memory: Memory = field(default_factory=dict)
    busy: bool = False
    pinned: bool = False
    uses: int = 1
    load_seconds: float = 1.0


@dataclass(frozen=True)
class Target:
    """The model that needs room. memory: what it will take."""

    name: str
    memory: Memory = field(default_factory=dict)


@dataclass(frozen=True)
class Room:
    """What there is. places: processes that may run at once (ports and --max-loaded).

    memory: bytes by device for all of them together; a device that is not named has no limit.
    """

    places: int
    memory: Memory = field(default_factory=dict)


Policy = Literal["lru", "cost"]


def evict_for(
    target: Target, running: Sequence[Running], room: Room, policy: Policy = "lru", now: float = 0.0
) -> tuple[str, ...] | None:
    """The names that must go before `target` can start: none when there is room, None when nothing helps.

    Never a busy or a pinned model. `lru`: the one that was used longest ago goes first. `cost`: the one that
    is cheapest to bring back for what it occupies, aged by the time since its last use (a greedy dual rule
    with sizes and frequencies; Cherkasova 1998). A model that need not go after all, because a later one made
    enough room, stays.
    """
    if _fits(target, running, room):
        return ()
    idle = [model for model in running if not model.busy and not model.pinned]
    if policy == "lru":
        order = sorted(idle, key=lambda model: (model.last_used, model.name))
    else:
        order = sorted(idle, key=lambda model: (_worth(model, now), model.last_used, model.name))
    chosen: list[Running] = []
    for model in order:
        chosen.append(model)
        if _fits(target, [other for other in running if other not in chosen], room):
            break
    else:
        return None
    for model in reversed(chosen[:-1]):  # the dearest first
        fewer = [other for other in chosen if other is not model]
        if _fits(target, [other for other in running if other not in fewer], room):
            chosen = fewer
    return tuple(model.name for model in chosen)


def _fits(target: Target, running: Sequence[Running], room: Room) -> bool:
    others = [model for model in running if model.name != target.name]
    if len(others) + 1 > room.places:
        return False
    if not others:
        return True  # alone it may try: the estimate can be wrong, and the ladder is there for the rest
    return all(
        sum(model.memory.get(device, 0) for model in others) + target.memory.get(device, 0) <= limit
        for device, limit in room.memory.items()
        if target.memory.get(device, 0)
    )


def _worth(model: Running, now: float) -> float:
    """Seconds of loading that a kept byte saves, less the longer nobody asked for it."""
    size = max(1, sum(model.memory.values()))
    return model.uses * model.load_seconds / size / (1.0 + max(0.0, now - model.last_used))
