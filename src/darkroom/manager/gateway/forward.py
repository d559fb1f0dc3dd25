"""One request to a sidecar and its answer back, byte by byte, for as long as the client is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import httpx2
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from darkroom.manager.gateway.errors import GatewayError

_DROPPED = {
    "connection",
    "content-encoding",
    "date",
    "keep-alive",
    "proxy-authenticate",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",  # the gateway's own
}
_PASSED = ("accept", "last-event-id", "traceparent", "tracestate", "user-agent", "x-progress")


def sidecar_client() -> httpx2.AsyncClient:
    """A client for sidecars: no proxies of the environment, no limit on how long a picture takes."""
    return httpx2.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(None, connect=5.0),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=30.0),
    )


class ClientGone(GatewayError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__("request: the client went away", status=499, code="cancelled", retry=False)


class WhileConnected:
    """Cancels what is done inside when the client goes away, and says so: ClientGone.

    The request's body must have been read.
    """

    def __init__(self, receive: Receive, enabled: bool = True) -> None:
        self._receive = receive
        self._enabled = enabled
        self._gone = False
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        if self._enabled:
            self._watch = asyncio.create_task(self._wait(task))
        return self

    async def _wait(self, worker: asyncio.Task[Any]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._gone = True
        worker.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._watch:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        if self._gone and kind is asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.uncancel() == 0:
                raise ClientGone from None


class Relayed(StreamingResponse):
    """A sidecar's answer as it comes. What `held` holds, the lease above all, is let go at its end."""

    def __init__(self, answer: httpx2.Response, held: AsyncExitStack, headers: Mapping[str, str]) -> None:
        passed = {name: value for name, value in answer.headers.items() if name.lower() not in _DROPPED}
        super().__init__(
            self._pieces(answer),
            status_code=answer.status_code,
            headers={**passed, **headers},
            background=BackgroundTask(held.aclose),
        )
        self._held = held

    @staticmethod
    async def _pieces(answer: httpx2.Response) -> AsyncIterator[bytes]:
        async for piece in answer.aiter_raw():
            yield piece

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends it; a client that goes away ends the sidecar's work, because the connection is closed."""
        try:
            async with WhileConnected(receive):
                await self.stream_response(send)
        except (ClientGone, OSError):
            pass
        finally:
            await self._held.aclose()


def passed_headers(request: Request) -> dict[str, str]:
    """Headers of a client that mean something to a sidecar."""
    headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
    return {**headers, "X-Request-Id": str(getattr(request.state, "request_id", ""))}
