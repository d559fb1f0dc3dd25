"""How large a request may be, found out while it arrives."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.core.malloc import release_freed_memory
from darkroom.server.answers import answer
from darkroom.server.errors import ApiError, BodyTooLarge

MAX_JSON_VALUES = 100_000
"""Commas and brackets of a JSON body: reading more would keep everybody else waiting."""

PATIENCE = 4
"""Times the limit that is read and thrown away: a client that is cut off would never see the answer."""


class BodyLimit:
    """Refuses bodies of more than `max_bytes`, before or while they are read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on with a `receive` that counts."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_bytes:
            await _discard(receive, PATIENCE * self._max_bytes)
            await answer(scope["path"], self._too_large())(scope, receive, send)
            return
        is_json = "json" in headers.get("content-type", "application/json")
        too_large = asyncio.Event()
        await self._app(scope, self._counting(receive, is_json, too_large), send)
        if too_large.is_set():
            await asyncio.to_thread(release_freed_memory)

    def _counting(self, receive: Receive, is_json: bool, too_large: asyncio.Event) -> Receive:
        size = values = 0

        async def counted() -> Message:
            nonlocal size, values
            message = await receive()
            body = message.get("body", b"")
            size += len(body)
            if size > self._max_bytes:
                too_large.set()
                await _discard(receive, PATIENCE * self._max_bytes)
                raise HTTPException(413, str(self._too_large()))
            if is_json and body:
                values += body.count(b",") + body.count(b"[") + body.count(b"{")
                if values > MAX_JSON_VALUES:
                    raise HTTPException(400, f"body: more than {MAX_JSON_VALUES} values; expected a request")
            return message

        return counted

    def _too_large(self) -> ApiError:
        megabytes = self._max_bytes // 2**20
        return BodyTooLarge(f"body: too large; at most {megabytes} MB are read (--max-body)")


async def _discard(receive: Receive, most: int) -> None:
    """Reads what still comes, up to `most` bytes."""
    while most > 0:
        message = await receive()
        most -= len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return
