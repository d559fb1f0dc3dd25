"""A name for every request, which its answer carries, so that both sides' logs can be put together."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER = "X-Request-Id"

request_id: ContextVar[str] = ContextVar("request_id", default="")
"""Of the request that is being answered."""

_SOUND = re.compile(r"[\w.:+/=-]{1,128}", re.ASCII)


class RequestIds:
    """Takes the client's own id, or makes one, and puts it into the answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on under its id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        id = given if _SOUND.fullmatch(given) else f"req_{uuid.uuid4().hex}"

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = id
            await send(message)

        token = request_id.set(id)
        try:
            await self._app(scope, receive, send_on)
        finally:
            request_id.reset(token)
