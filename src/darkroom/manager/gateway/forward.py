"""A sidecar's answer, byte by byte as it comes, for as long as the client is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import httpx2
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from darkroom.api.errors import DarkroomError, OutOfMemoryError
from darkroom.api.events import sse
from darkroom.manager.gateway.errors import GatewayError, as_gateway_error
from darkroom.manager.gateway.sidecars import Call, Sidecars, raise_if_out_of_memory
from darkroom.manager.pool.pool import Lease

logger = logging.getLogger(__name__)

_DROPPED = {
    b"connection",
    b"date",
    b"keep-alive",
    b"server",
    b"te",
    b"trailer",
    b"transfer-encoding",
    b"upgrade",
    b"x-request-id",  # the gateway's own
}
_PASSED = ("accept", "last-event-id", "traceparent", "tracestate", "user-agent", "x-progress")
_STREAM_ERROR = b'"out_of_memory"'


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


class FromSidecar(Response):
    """Asks the model's sidecar when it is sent, loading the model if need be.

    Nothing goes to the client before the sidecar's first bytes: until then another try goes unnoticed.
    """

    def __init__(
        self,
        sidecars: Sidecars,
        model: str,
        call: Call,
        *,
        keep_alive: float | None = None,
        headers: dict[str, str] | None = None,
        cancel_on_disconnect: bool = True,
        on_lease: Callable[[Lease], None] = lambda lease: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._sidecars = sidecars
        self._model = model
        self._call = call
        self._keep_alive = keep_alive
        self._added = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        self._cancels = cancel_on_disconnect
        self._on_lease = on_lease
        self._on_end = on_end
        self._started = False
        self._streams = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Errors: as `Pool.run`, before anything is sent; afterwards a stream tells them itself."""

        async def work(lease: Lease) -> None:
            self._on_lease(lease)
            async with self._sidecars.client.stream(**self._call.arguments(lease)) as answer:
                await self._pass(lease, answer, send)

        try:
            async with WhileConnected(receive, self._cancels):
                await self._sidecars.run(self._model, work, self._keep_alive, lambda: not self._started)
        except ClientGone:
            self._sidecars.metrics.cancels.labels("disconnect").inc()
            logger.info("model '%s': the client went away, its request was cancelled", self._model)
        except (DarkroomError, httpx2.TransportError) as error:
            if not self._started:
                raise
            await self._end(error, send)
        finally:
            self._on_end()
            if self._call.body:
                await self._call.body.close()

    async def _pass(self, lease: Lease, answer: httpx2.Response, send: Send) -> None:
        self._streams = answer.headers.get("Content-Type", "").startswith("text/event-stream")
        ran_out = False
        if not self._streams and answer.status_code >= 500:
            raise_if_out_of_memory(lease, answer.status_code, await answer.aread())
            await self._start(answer, send)
            await send({"type": "http.response.body", "body": answer.content, "more_body": False})
            return
        async for piece in answer.aiter_raw():
            if self._streams and len(piece) < 8192 and _STREAM_ERROR in piece:
                ran_out = True
                if not self._started:
                    break
            if not self._started:
                await self._start(answer, send)
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if ran_out:
            raise OutOfMemoryError(f"model '{self._model}': memory was short; ask again, it is frugal now")
        if not self._started:
            await self._start(answer, send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _start(self, answer: httpx2.Response, send: Send) -> None:
        self._started = True
        passed = [(name.lower(), value) for name, value in answer.headers.raw]
        headers = [(name, value) for name, value in passed if name not in _DROPPED]
        await send(
            {
                "type": "http.response.start",
                "status": answer.status_code,
                "headers": [*headers, *self._added],
            }
        )

    async def _end(self, error: Exception, send: Send) -> None:
        """A stream that has begun ends with an error event, anything else just ends."""
        logger.warning("model '%s': its answer broke off: %s", self._model, error)
        if isinstance(error, OutOfMemoryError) or not self._streams:
            body = b""
        else:
            body = sse("error", as_gateway_error(error).error.body())
        await send({"type": "http.response.body", "body": body, "more_body": False})


def passed_headers(request: Request) -> dict[str, str]:
    """Headers of a client that mean something to a sidecar."""
    headers = {name: request.headers[name] for name in _PASSED if name in request.headers}
    return {**headers, "X-Request-Id": str(getattr(request.state, "request_id", ""))}
