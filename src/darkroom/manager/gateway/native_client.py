"""A sidecar's native API, `/sdcpp/v1`: the one that carries every setting, of our engine and of others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx2

from darkroom.api.events import ServerEvent, read_sse
from darkroom.api.openai.errors import ErrorType
from darkroom.manager.gateway.errors import GatewayError

_BUSY_WAIT = 1.0
_BUSY_TRIES = 600


class NativeClient:
    """One sidecar. Errors of all calls: GatewayError for its refusals, httpx2.TransportError when it dies."""

    def __init__(self, client: httpx2.AsyncClient, url: str) -> None:
        self._client = client
        self._base = f"{url}/sdcpp/v1"

    async def capabilities(self) -> dict[str, Any]:
        """What the model can do and what its requests start from."""
        return await self._json("GET", "/capabilities")

    async def submit(self, body: dict[str, Any]) -> str:
        """The id of a new job. A sidecar whose queue is full is asked again until it has room."""
        for _ in range(_BUSY_TRIES):
            answer = await self._client.post(f"{self._base}/img_gen", json=body)
            if answer.status_code != 429:
                return str(self._read(answer)["id"])
            await asyncio.sleep(_BUSY_WAIT)
        raise GatewayError(
            "sidecar: its queue stays full; try later", status=429, code="queue_full", retry_after=30
        )

    async def state(self, id: str) -> dict[str, Any]:
        """The job as it is now, with its pictures when it is done."""
        return await self._json("GET", f"/jobs/{id}")

    async def events(self, id: str) -> AsyncIterator[ServerEvent]:
        """What happens to the job, until it ends; only our own engine tells."""
        async with self._client.stream("GET", f"{self._base}/jobs/{id}/events") as answer:
            if not answer.is_success:
                await answer.aread()
                self._read(answer)
            async for event in read_sse(answer.aiter_lines()):
                yield event

    async def cancel(self, id: str) -> bool:
        """Whether the job ends; stable-diffusion.cpp's cannot end one that is being drawn."""
        answer = await self._client.post(f"{self._base}/jobs/{id}/cancel")
        return answer.is_success

    async def _json(self, method: str, path: str) -> dict[str, Any]:
        return self._read(await self._client.request(method, f"{self._base}{path}"))

    @staticmethod
    def _read(answer: httpx2.Response) -> dict[str, Any]:
        try:
            document = answer.json()
        except ValueError:
            document = {"error": answer.text[:500]}
        if answer.is_success and isinstance(document, dict):
            return document
        raise refusal(answer.status_code, document)


def refusal(status: int, document: object) -> GatewayError:
    """A sidecar's error in the gateway's form. document: its body, in either form."""
    error = document.get("error") if isinstance(document, dict) else None
    if isinstance(error, dict):
        message, code, param = str(error.get("message")), error.get("code"), error.get("param")
    else:
        fields = document if isinstance(document, dict) else {}
        message = str(fields.get("message") or error or f"the sidecar answers {status}")
        code, param = fields.get("code"), fields.get("param")
    return GatewayError(
        message,
        status=status if 400 <= status < 600 else 502,
        code=str(code or ("invalid_request" if status < 500 else "generation_failed")),
        type=ErrorType.INVALID_REQUEST if status < 500 else ErrorType.SERVER,
        param=param if isinstance(param, str) else None,
        retry=None if status == 429 else False,
    )
