"""Keeps a quiet stream of events alive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")

PING_SECONDS = 15.0


async def with_pings(events: AsyncIterator[T], seconds: float = PING_SECONDS) -> AsyncIterator[T | None]:
    """The events, and None whenever there was none for so long."""
    while True:
        news = asyncio.ensure_future(anext(events, None))
        try:
            while not (await asyncio.wait({news}, timeout=seconds))[0]:
                yield None
            event = news.result()
        finally:
            news.cancel()
        if event is None:
            return
        yield event
