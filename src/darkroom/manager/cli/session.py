"""Who does the work of a command: the manager that runs, or one of this process's own, by the same API."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import typer

from darkroom.api.errors import DarkroomError, RequestError
from darkroom.api.events import ServerEvent, read_sse

T = TypeVar("T")


class Refused(DarkroomError):
    """The manager answered with an error. code, details: of its error object."""

    def __init__(self, message: str, code: str = "", details: Any = None) -> None:  # noqa: ANN401
        super().__init__(message)
        self.code = code
        self.details = details


class Api:
    """A manager's HTTP API. private: it is this process's own and ends with the command."""

    def __init__(self, client: httpx2.AsyncClient, *, private: bool) -> None:
        self._client = client
        self.private = private

    async def call(self, method: str, path: str, **options: Any) -> Any:  # noqa: ANN401 - JSON
        """The answer's JSON. Errors: Refused."""
        try:
            answer = await self._client.request(method, path, **options)
        except httpx2.TransportError as error:
            raise RequestError(f"{self._client.base_url}: {error}; is `darkroom serve` running?") from None
        return _read(answer)

    async def events(self, method: str, path: str, **options: Any) -> AsyncIterator[ServerEvent]:  # noqa: ANN401
        """A stream of server-sent events. Errors: Refused."""
        headers = {"Accept": "text/event-stream"}
        async with self._client.stream(method, path, headers=headers, **options) as answer:
            if not answer.is_success:
                await answer.aread()
                _read(answer)
            async for event in read_sse(answer.aiter_lines()):
                yield event

    async def lines(self, path: str) -> AsyncIterator[str]:
        """A text as it comes."""
        async with self._client.stream("GET", path) as answer:
            if not answer.is_success:
                await answer.aread()
                _read(answer)
            async for text in answer.aiter_text():
                yield text

    async def data(self, path: str) -> bytes:
        """A file. Errors: Refused."""
        answer = await self._client.get(path)
        if not answer.is_success:
            _read(answer)
        return answer.content


def _read(answer: httpx2.Response) -> Any:  # noqa: ANN401 - JSON
    try:
        document = answer.json()
    except ValueError:
        document = {"error": {"message": answer.text[:300] or f"status {answer.status_code}"}}
    if answer.is_success:
        return document
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        raise Refused(str(error or answer.status_code))
    message = str(error.get("message"))
    if answer.status_code == 401:
        message += " (the command line sends --key or DARKROOM_API_KEY)"
    raise Refused(message, str(error.get("code")), error.get("details"))


def run(context: typer.Context, work: Callable[[Api], Awaitable[T]], *, private: bool = True) -> T:
    """Does `work` with the manager that runs, or else with a private one.

    private: False for what only makes sense with one that runs. Errors: RequestError when there is none.
    """

    async def whole() -> T:
        async with _session(*context.find_root().obj, private=private) as api:
            return await work(api)

    return asyncio.run(_quiet(whole()))


async def _quiet(work: Coroutine[Any, Any, T]) -> T:
    return await work


@asynccontextmanager
async def _session(url: str, key: str, *, private: bool) -> AsyncIterator[Api]:
    from darkroom.manager.config import Paths
    from darkroom.manager.presence import running

    paths = Paths.default()
    found = running(paths)
    if url or found:
        base = url or (found.url if found else "")
        async with _client(base, key) as client:
            yield Api(client, private=False)
        return
    if not private:
        raise RequestError("no manager runs here; start one with `darkroom serve`, or give --url")
    async with _private_manager() as (base, key), _client(base, key) as client:
        yield Api(client, private=True)


def _client(base: str, key: str) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(
        base_url=base,
        trust_env=False,
        timeout=httpx2.Timeout(None, connect=5.0),
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )


@asynccontextmanager
async def _private_manager() -> AsyncIterator[tuple[str, str]]:
    """A manager on a free port, with a key that only this process knows."""
    from darkroom.manager.app import serving
    from darkroom.manager.config import ManagerConfig, Paths
    from darkroom.manager.gateway.keys import Keys, Scope
    from darkroom.manager.service import Manager

    paths = Paths.default()
    config = ManagerConfig.read(paths.config_file, host="127.0.0.1", port=0, preload=(), drain_timeout=0.0)
    with tempfile.TemporaryDirectory(prefix=f"darkroom-{os.getpid()}-") as folder:
        manager = Manager(config, paths)
        manager.keys = Keys(Path(folder) / "keys.json")
        _, key = manager.keys.create("command line", frozenset({Scope.ADMIN}))
        async with serving(manager, with_old_jobs=False) as url:
            yield url, key
