"""Work in threads that asyncio waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def finished(function: Callable[..., T], *args: object) -> T:
    """Runs a function in a thread; it is waited for even when the caller is cancelled meanwhile."""
    running = asyncio.ensure_future(asyncio.to_thread(function, *args))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
