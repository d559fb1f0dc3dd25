"""What the pool's task is told; the processes' own messages are in sidecar.py."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from darkroom.manager.pool.engine import Engine
from darkroom.manager.pool.memory import Measurement
from darkroom.manager.pool.record import Ticket
from darkroom.manager.pool.sidecar import Gone, Loading, Ready, Sidecar
from darkroom.manager.pool.spec import LaunchSpec


@dataclass(frozen=True)
class Acquire:
    """Somebody wants a model."""

    ticket: Ticket


@dataclass(frozen=True)
class Withdraw:
    """Who held the ticket is gone; it may have been granted in the same moment."""

    ticket: Ticket


@dataclass(frozen=True)
class Release:
    """A request is done. answer: whether another try makes sense after it ran out of memory."""

    model: str
    sidecar: Sidecar
    out_of_memory: bool
    answer: asyncio.Future[bool]


@dataclass(frozen=True)
class Restart:
    """The process is to be killed and started again: the only way to cancel what some engines draw."""

    model: str
    sidecar: Sidecar


@dataclass(frozen=True)
class Specified:
    """What is known of a model before its start, or why it cannot be started."""

    model: str
    known: tuple[LaunchSpec, Engine, Measurement] | Exception


@dataclass(frozen=True)
class Measured:
    """What processes hold."""

    measurement: Measurement


@dataclass(frozen=True)
class Unload:
    """A person wants a model to go. force: without waiting for its requests."""

    model: str
    force: bool
    done: asyncio.Future[None]


@dataclass(frozen=True)
class Pin:
    """A person wants a model to stay, or no longer."""

    model: str
    pinned: bool
    done: asyncio.Future[None]


@dataclass(frozen=True)
class Pardon:
    """A model's crashes and its rung are to be forgotten."""

    model: str
    done: asyncio.Future[None]


@dataclass(frozen=True)
class Tick:
    """A time has come."""


@dataclass(frozen=True)
class Shutdown:
    """The manager stops. drain: seconds for requests to end by themselves."""

    drain: float
    done: asyncio.Future[None]


Message = (
    Acquire | Withdraw | Release | Restart | Specified | Measured | Unload | Pin | Pardon | Tick | Shutdown
    | Loading | Ready | Gone
)  # fmt: skip
