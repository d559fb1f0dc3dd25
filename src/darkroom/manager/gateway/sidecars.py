"""Requests on their way to a model's sidecar: buffered answers, and the few questions beside a picture."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx2

from darkroom.api.errors import DarkroomError, OutOfMemoryError
from darkroom.manager.gateway.bodies import Body
from darkroom.manager.gateway.metrics import Metrics
from darkroom.manager.gateway.native_client import NativeClient, refusal
from darkroom.manager.pool.pool import Lease, Pool

T = TypeVar("T")

_OUT_OF_MEMORY = b"out_of_memory"


@dataclass(frozen=True)
class Call:
    """One request to a sidecar. headers: the client's that mean something to it."""

    method: str
    path: str
    body: Body | None = None
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def arguments(self, lease: Lease) -> dict[str, Any]:
        """httpx2's; can be asked for again, for another try."""
        url = f"{lease.url}{self.path}" + (f"?{self.query}" if self.query else "")
        arguments = self.body.as_request() if self.body else {}
        headers = {**self.headers, **arguments.pop("headers", {})}
        return {"method": self.method, "url": url, "headers": headers, **arguments}


@dataclass(frozen=True)
class Answer:
    """A sidecar's whole answer."""

    status: int
    headers: httpx2.Headers
    content: bytes

    def json(self) -> Any:  # noqa: ANN401
        """The body. Errors: GatewayError when it is an error's, or no JSON."""
        try:
            document = json.loads(self.content)
        except ValueError:
            document = {"error": self.content[:500].decode("utf-8", "replace")}
            raise refusal(max(self.status, 500), document) from None
        if self.status >= 400:
            raise refusal(self.status, document)
        return document


def sidecar_client() -> httpx2.AsyncClient:
    """A client for sidecars: no proxies of the environment, no limit on how long a picture takes."""
    return httpx2.AsyncClient(
        trust_env=False,
        follow_redirects=False,
        timeout=httpx2.Timeout(None, connect=5.0),
        limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64, keepalive_expiry=2.0),
    )


class Sidecars:
    """The pool, and the client that speaks with its processes."""

    def __init__(self, pool: Pool, metrics: Metrics) -> None:
        self.pool = pool
        self.metrics = metrics
        self.client = sidecar_client()

    async def run(
        self,
        model: str,
        work: Callable[[Lease], Awaitable[T]],
        keep_alive: float | None = None,
        may_repeat: Callable[[], bool] = lambda: True,
    ) -> T:
        """`Pool.run`, measured."""
        asked = time.perf_counter()

        async def measured(lease: Lease) -> T:
            began = time.perf_counter()
            self.metrics.queue_wait.labels(model).observe(began - asked)
            try:
                return await work(lease)
            finally:
                self.metrics.generate.labels(model).observe(time.perf_counter() - began)

        return await self.pool.run(model, measured, keep_alive, may_repeat)

    async def ask(self, model: str, call: Call, keep_alive: float | None = None) -> Answer:
        """The whole answer of the model's sidecar, which is loaded for it."""

        async def work(lease: Lease) -> Answer:
            answer = await self.client.request(**call.arguments(lease))
            raise_if_out_of_memory(lease, answer.status_code, answer.content)
            return Answer(answer.status_code, answer.headers, answer.content)

        return await self.run(model, work, keep_alive)

    async def ask_loaded(self, model: str, call: Call, seconds: float = 10.0) -> Answer | None:
        """The answer of the model's sidecar if one serves: nothing is loaded, nothing waits."""
        status = self.pool.status(model)
        if not status.state.is_serving or status.port is None:
            return None
        arguments = (call.body.as_request() if call.body else {}) | {
            "method": call.method,
            "url": f"http://127.0.0.1:{status.port}{call.path}" + (f"?{call.query}" if call.query else ""),
        }
        try:
            answer = await self.client.request(**arguments, timeout=seconds)
        except httpx2.TransportError:
            return None
        return Answer(answer.status_code, answer.headers, answer.content)

    async def cancel(self, lease: Lease, native: NativeClient, id: str) -> None:
        """Ends a sidecar's job: asked to, or with its process where the engine cannot stop one."""
        try:
            if await native.cancel(id):
                return
        except httpx2.TransportError:
            return
        lease.cancel_hard()


def raise_if_out_of_memory(lease: Lease, status: int, content: bytes) -> None:
    """Errors: OutOfMemoryError where a sidecar's answer, or what it printed, says so, for the pool to help.

    stable-diffusion.cpp's answers a plain 500 and prints why.
    """
    if status < 500 or not (_OUT_OF_MEMORY in content or lease.ran_out_of_memory()):
        return
    try:
        error = json.loads(content)
        message = error["error"]["message"] if isinstance(error.get("error"), dict) else error["message"]
    except (ValueError, KeyError, TypeError, AttributeError):
        message = too_little_memory(lease)
    raise OutOfMemoryError(str(message))


def too_little_memory(lease: Lease) -> str:
    """For people, where the engine has no words of its own."""
    return f"model '{lease.model}': the device has too little memory; take a smaller picture or another model"


def job_failure(lease: Lease, fault: dict[str, Any]) -> DarkroomError:
    """What a sidecar's native job that has no pictures stands for. fault: its `error`."""
    code, message = fault.get("code"), str(fault.get("message") or "the engine gave no picture")
    if code == "out_of_memory":
        return OutOfMemoryError(message)
    if code != "cancelled" and lease.ran_out_of_memory():
        return OutOfMemoryError(too_little_memory(lease))
    return refusal(409 if code == "cancelled" else 500, {"error": fault, "message": message, "code": code})
