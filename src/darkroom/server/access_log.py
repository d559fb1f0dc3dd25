"""An id for each request, a line in the log when it is answered, and its place in the figures."""

from __future__ import annotations

import logging
import re
import secrets
import time
from contextvars import ContextVar
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.core.log import log_fields
from darkroom.server.metrics import Metrics

logger = logging.getLogger(__name__)

HEADER = "X-Request-Id"

_SOUND = re.compile(r"[\w.:+/-]{1,128}", re.ASCII)

_APIS = {"v1": "openai", "sdapi": "a1111", "sdcpp": "sdcpp"}


@dataclass
class Exchange:
    """A request and its answer. job: the one that came of it. status: 0 until the answer begins."""

    id: str
    job: str | None = None
    status: int = 0
    bytes: int = 0


_current: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def current_exchange() -> Exchange | None:
    """The request that is being answered; None outside of one."""
    return _current.get()


class AccessLog:
    """Gives every answer the id of its request: the client's own, if it sent a sound one.

    What is logged meanwhile carries it. The log tells each request once its answer is complete, but nothing
    of its query; those that only look, and see something, with `--verbose` alone.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hands the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        given = Headers(scope=scope).get(HEADER, "")
        exchange = Exchange(given if _SOUND.fullmatch(given) else f"req_{secrets.token_hex(8)}")
        token = _current.set(exchange)

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                MutableHeaders(scope=message)[HEADER] = exchange.id
            exchange.bytes += len(message.get("body", b""))
            await send(message)

        try:
            with log_fields(request=exchange.id), self._metrics.in_flight.track_inprogress():
                try:
                    await self._app(scope, receive, send_on)
                finally:
                    self._tell(scope, exchange, time.perf_counter() - start)
        finally:
            _current.reset(token)

    def _tell(self, scope: Scope, exchange: Exchange, seconds: float) -> None:
        method, path, api = scope["method"], scope["path"], api_of(scope["path"])
        only_looks = method in ("GET", "HEAD", "OPTIONS") and 0 < exchange.status < 400
        logger.log(
            logging.DEBUG if only_looks else logging.INFO,
            "request",
            extra={
                "fields": {
                    "method": method,
                    "path": path,
                    "status": exchange.status or None,  # the client left before the answer
                    "ms": round(1000 * seconds, 1),
                    "bytes": exchange.bytes,
                    "api": api,
                    "job": exchange.job,
                }
            },
        )
        self._metrics.answered(api, _route(scope), method, exchange.status, seconds)


def _route(scope: Scope) -> str:
    """The template that the path matched, of which there are few; `none` for paths that lead nowhere."""
    if "route" not in scope:
        return "none"
    return str(scope["route"].path if scope.get("path_params") else scope["path"])


def api_of(path: str) -> str:
    """Which of the HTTP APIs a path belongs to: openai, a1111, sdcpp, or server for the rest."""
    return _APIS.get(path.split("/", 2)[1] if path.startswith("/") else "", "server")
