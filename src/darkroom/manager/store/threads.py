"""Work in threads that asyncio waits for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def finished(function: Callable[[], T], stop: Callable[[], object] = lambda: None) -> T:
    """Runs a function in a thread; it is waited for even when the caller is cancelled meanwhile.

    stop: called then, to make it quick.
    """
    running = asyncio.ensure_future(asyncio.to_thread(function))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        stop()
        await asyncio.wait([running])
        raise
