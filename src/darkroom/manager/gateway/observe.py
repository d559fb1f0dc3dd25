"""Every request gets an id, a line in the log and a place in the metrics. Outermost, and plain ASGI."""

from __future__ import annotations

import logging
import re
import secrets
import time

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from darkroom.manager.gateway.logs import request_id
from darkroom.manager.gateway.metrics import Metrics

logger = logging.getLogger(__name__)

_ID = re.compile(r"[\w.:-]{1,128}")
_APIS = {"v1": "openai", "sdapi": "a1111", "sdcpp": "sdcpp", "admin": "admin"}
_QUIET = ("/healthz", "/readyz", "/metrics")


def api_of(path: str) -> str:
    """The API that a path belongs to, for labels."""
    if path.startswith("/v1/jobs"):
        return "jobs"
    return _APIS.get(path.strip("/").partition("/")[0], "other")


class Observe:
    """See above. Routes name the model in `request.state.model`."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("X-Request-Id", "")
        id = given if _ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"
        state = scope.setdefault("state", {})
        state["request_id"] = id
        token = request_id.set(id)
        started = time.perf_counter()
        status = 500

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = id
                headers.setdefault("X-Content-Type-Options", "nosniff")
            await send(message)

        try:
            await self._app(scope, receive, marked)
        finally:
            self._note(scope, status, time.perf_counter() - started)
            request_id.reset(token)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        path, state = scope["path"], scope["state"]
        model = state.get("model") or ""
        self._metrics.requests.labels(api_of(path), model, str(status)).inc()
        key, client = state.get("key"), scope.get("client")
        logger.log(
            logging.DEBUG if path in _QUIET else logging.INFO,
            "%s %s -> %d in %.0f ms",
            scope["method"],
            path,
            status,
            seconds * 1000,
            extra={
                "method": scope["method"],
                "path": path,
                "status": status,
                "ms": round(seconds * 1000, 1),
                "model": model or None,
                "key": key.id if key else None,
                "client": client[0] if client else None,
            },
        )
