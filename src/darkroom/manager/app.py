"""The manager as a web application, and the process that serves it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

import uvicorn
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from httpx2 import TransportError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from darkroom.api.errors import DarkroomError, RequestError
from darkroom.api.openai.errors import ErrorCode
from darkroom.api.openai.parse import field_error
from darkroom.api.version import __version__
from darkroom.manager.config import ManagerConfig, Paths
from darkroom.manager.gateway import page
from darkroom.manager.gateway.access import Access
from darkroom.manager.gateway.documentation import add_documentation
from darkroom.manager.gateway.errors import GatewayError, error_response
from darkroom.manager.gateway.observe import Observe
from darkroom.manager.gateway.routes import (
    a1111,
    admin,
    downloads,
    health,
    images,
    jobs,
    library_files,
    models,
    native,
    store,
)
from darkroom.manager.presence import announced, require_alone
from darkroom.manager.service import Manager

logger = logging.getLogger(__name__)

_BACKLOG = 512
_GRACE = 5
_LAST_GRACE = 2
"""seconds for an orderly end after the second signal"""


def create_app(manager: Manager) -> ASGIApp:
    """All routes behind the door."""
    app = FastAPI(
        title="Darkroom",
        version=__version__,
        summary="Several image models behind one API",
        docs_url=None,
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    for part in (images, jobs, models, downloads, store, library_files, a1111, native, admin, health):
        app.include_router(part.router(manager))
    app.include_router(page.router())
    add_documentation(app)
    for kind in (DarkroomError, TransportError, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _answer_error)
    return Observe(Access(app, manager.config, manager.keys), manager.metrics)


async def _answer_error(request: Request, error: Exception) -> Response:
    """Every error in the form of the API that was asked."""
    match error:
        case RequestValidationError():
            first = field_error(error.errors()[0])
            return error_response(request.url.path, first)
        case HTTPException(status_code=404):
            nothing = f"{request.method} {request.url.path}: nothing is there; /docs lists what is"
            error = GatewayError(nothing, status=404, code="not_found", retry=False)
        case HTTPException():
            error = GatewayError(str(error.detail), status=error.status_code, code=ErrorCode.INVALID_VALUE)
    return error_response(request.url.path, error)


def check_exposure(config: ManagerConfig, has_keys: bool) -> None:
    """Errors: RequestError for an address that others reach while nobody needs a key."""
    if not (config.is_loopback or has_keys or config.insecure):
        raise RequestError(
            f"host {config.host}: others can reach it and there is no key; make one with "
            "`darkroom keys create`, or say --insecure"
        )


def listen(config: ManagerConfig) -> socket.socket:
    """The socket, bound. Errors: RequestError where the address is taken or not this machine's."""
    host = config.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio's no-delay asks for TCP
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, config.port))
    except (OSError, OverflowError) as error:
        bound.close()
        raise RequestError(
            f"{config.host}:{config.port}: {error}; choose another --port or --host"
        ) from error
    bound.listen(_BACKLOG)
    bound.setblocking(False)
    return bound


def address_of(bound: socket.socket) -> str:
    """`http://127.0.0.1:8080`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@asynccontextmanager
async def serving(manager: Manager, *, with_old_jobs: bool = True) -> AsyncIterator[str]:
    """The manager at work, at the address that is given; stopped with all its processes at the end.

    with_old_jobs: take up the durable jobs of earlier managers.
    """
    check_exposure(manager.config, bool(manager.keys))
    bound = listen(manager.config)
    await manager.start(with_old_jobs=with_old_jobs)
    settings = uvicorn.Config(
        create_app(manager),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = _Server(settings)
    serving = asyncio.create_task(server.serve([bound]))
    try:
        yield address_of(bound)
    finally:
        try:
            await manager.stop()
        finally:
            server.should_exit = True
            await serving


async def serve(config: ManagerConfig, paths: Paths, on_ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; a second signal does not wait for running work.

    on_ready: told the address once requests are taken. Errors: RequestError before that.
    """
    require_alone(paths)
    manager = Manager(config, paths)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _on_signal, manager, stopping)
    async with serving(manager) as url:
        with announced(paths, url):
            on_ready(url)
            await stopping.wait()
        logger.info("stopping: running work has %.0f s", config.drain_timeout)


class _Server(uvicorn.Server):
    """uvicorn, whose signals are handled here: the pool is drained before connections are closed."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """None are caught."""
        return nullcontext()


def _on_signal(manager: Manager, stopping: asyncio.Event) -> None:
    if stopping.is_set():
        loop = asyncio.get_running_loop()
        urgent = loop.create_task(manager.stop(0))
        urgent.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        loop.call_later(_LAST_GRACE, _leave)
    stopping.set()


def _leave() -> None:
    """Ends this process, and with it its children, whatever still runs; jobs are on disk."""
    logger.warning("stopping: not everything has ended in %d s; leaving it", _LAST_GRACE)
    os._exit(1)
