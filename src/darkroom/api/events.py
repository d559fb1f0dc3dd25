"""Server-sent events: how they are written, and how a client reads them.

The format is the HTML Living Standard's "Server-sent events" section.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

PING = b": ping\n\n"
"""A comment that keeps a quiet connection open."""


@dataclass(frozen=True)
class ServerEvent:
    """One event as a client sees it. id: None for a stream that cannot be resumed."""

    type: str
    data: str
    id: str | None = None

    def json(self) -> Any:  # noqa: ANN401
        """The data, taken as JSON."""
        return json.loads(self.data)


def sse(type: str, data: object, id: int | str | None = None) -> bytes:
    """One event whose data is a text, or else is written as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    lines = [f"event: {type}", *(f"data: {line}" for line in text.split("\n"))]
    if id is not None:
        lines.insert(0, f"id: {id}")
    return ("\n".join(lines) + "\n\n").encode()


async def read_sse(lines: AsyncIterator[str]) -> AsyncIterator[ServerEvent]:
    """The events of a stream's lines, which come without their ends. Comments are left out."""
    type, data, id = "message", list[str](), None
    async for line in lines:
        if not line:
            if data:
                yield ServerEvent(type, "\n".join(data), id)
            type, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            type = value
        elif name == "data":
            data.append(value)
        elif name == "id":
            id = value
