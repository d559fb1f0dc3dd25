"""Pools of stand-ins that are impatient enough for tests."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.manager.fake_sidecar import write_engine

from darkroom.api.errors import OutOfMemoryError
from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.model_settings import ModelSettings
from darkroom.manager.pool import LaunchSpec, Lease, ModelStatus, Patience, Pool, PoolEvent

DEADLINE = 30.0
PATIENCE = Patience(
    poll=0.02,
    watch=0.05,
    probe=0.1,
    probe_timeout=2.0,
    stop=2.0,
    quarantine=(0.4, 0.8),
    measure=0.1,
    recovery=0.5,
)


class Darkroom:
    """A home for pools: `flags` scripts each model's stand-in, `settings` and `weights` are its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.paths = Paths.under(home / "home")
        self.engine = write_engine(home / "sd-server")
        self.upstream = write_engine(home / "upstream-server", "--fake-upstream")
        self.flags: dict[str, list[str]] = {}
        self.settings: dict[str, ModelSettings] = {}
        self.weights: dict[str, int] = {}
        self.specified: list[str] = []
        self.log = home / "fake.log"

    async def specify(self, model: str) -> LaunchSpec:
        self.specified.append(model)
        settings = self.settings.get(model, ModelSettings())
        words = ("--fake-log", str(self.log), *self.flags.get(model, []), *settings.extra_args)
        settings = settings.model_copy(update={"engine": settings.engine or self.engine, "extra_args": words})
        return LaunchSpec(model, settings=settings, weight_bytes=self.weights.get(model, 0))

    @contextlib.asynccontextmanager
    async def pool(self, *, patience: Patience = PATIENCE, **config: object) -> AsyncIterator[Pool]:
        config = {"first_port": 39200, "last_port": 39219, "eviction": "lru"} | config
        pool = Pool(ManagerConfig.model_validate(config), self.paths, self.specify, patience)
        await pool.start()
        try:
            yield pool
        finally:
            await pool.shutdown(0)

    def started(self) -> list[str]:
        """The stand-ins' own account of their starts."""
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text().splitlines() if line.startswith("start")]


@pytest.fixture
def darkroom(tmp_path: Path) -> Darkroom:
    return Darkroom(tmp_path)


async def draw(lease: Lease, **fields: object) -> dict[str, Any]:
    """One picture, by OpenAI's API."""
    async with httpx2.AsyncClient(trust_env=False, timeout=60) as client:
        answer = await client.post(f"{lease.url}/v1/images/generations", json={"prompt": "x"} | fields)
    document: dict[str, Any] = answer.json()
    if answer.status_code == 500 and document["error"]["code"] == "out_of_memory":
        raise OutOfMemoryError(document["error"]["message"])
    assert answer.status_code == 200, document
    return document


async def draw_with(pool: Pool, model: str, **fields: object) -> dict[str, Any]:
    """A lease and a picture."""
    async with pool.lease(model) as lease:
        return await draw(lease, **fields)


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Waits for it, but not for ever."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true"
        await asyncio.sleep(0.01)


async def until_status(pool: Pool, model: str, test: Callable[[ModelStatus], object]) -> ModelStatus:
    """Waits until the model is so."""
    await until(lambda: test(pool.status(model)), f"status of {model}")
    return pool.status(model)


@contextlib.asynccontextmanager
async def heard(pool: Pool) -> AsyncIterator[list[PoolEvent]]:
    """All events from now on, as they come."""
    events: list[PoolEvent] = []

    async def listen() -> None:
        async for event in pool.events():
            events.append(event)

    task = asyncio.create_task(listen())
    await asyncio.sleep(0)
    try:
        yield events
    finally:
        task.cancel()


@contextlib.contextmanager
def listener(port: int) -> Iterator[socket.socket]:
    """Somebody else who holds a port."""
    with socket.socket() as foreign:
        foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        foreign.bind(("127.0.0.1", port))
        foreign.listen()
        yield foreign


def impatient(**changes: float | tuple[float, ...]) -> Patience:
    """The tests' patience with some of it changed."""
    return replace(PATIENCE, **changes)  # type: ignore[arg-type]
