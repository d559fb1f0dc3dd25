"""A number for each request, and a line in the log when it is answered."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger(__name__)

HEADER = "X-Request-Id"

_SOUND = re.compile(r"[A-Za-z0-9._-]{1,64}")


class AccessLog:
    """Gives every answer the number of its request: the client's own, if it sent a sound one.

    The log has one line a request, `key=value`, once the answer is complete; of the query nothing is told.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        given = Headers(scope=scope).get(HEADER, "")
        number = given if _SOUND.fullmatch(given) else f"req_{secrets.token_hex(8)}"
        scope.setdefault("state", {})["request_id"] = number
        status = 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = number
            await send(message)

        try:
            await self._app(scope, receive, send_on)
        finally:
            milliseconds = 1000 * (time.perf_counter() - start)
            logger.info(
                "request id=%s method=%s path=%r status=%d ms=%.1f",
                number,
                scope["method"],
                scope["path"],
                status,
                milliseconds,
            )
