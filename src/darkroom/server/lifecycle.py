"""From the open port to the exit code: listening, signals, the parent's end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from darkroom.api.errors import RequestError
from darkroom.server.options import ServerOptions
from darkroom.server.parent import watch_parent
from darkroom.server.service import Service

logger = logging.getLogger(__name__)

STOP_SECONDS = 3.0
"""For the step being computed to end, of the 5 that a stop may take."""


def listen(options: ServerOptions) -> socket.socket:
    """The open port. Raises RequestError when it cannot be had."""
    address = (options.listen_ip, options.listen_port)
    try:
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        listener = socket.socket(family, kind, protocol)
        if sys.platform != "win32":  # there it would let two programs share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise RequestError(
            f"--listen-port: {address[0]}:{address[1]} cannot be listened on ({error.strerror or error}); "
            "another port can, 0 takes a free one"
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Where clients find the server."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class HttpServer(uvicorn.Server):
    """uvicorn that leaves signals to `serve`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise a signal anew at its end, and the exit code would not be 0."""
        yield


async def serve(app: ASGIApp, service: Service, listener: socket.socket) -> None:
    """Says where it listens and serves until a signal or the parent's end; then stops within 5 seconds.

    A step that takes longer than that ends with the process.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=1
    )
    server = HttpServer(config)
    stop = asyncio.Event()
    _on_signal(stop)
    watching = asyncio.create_task(watch_parent(service.options.parent_pid, stop))
    sys.stdout.write(f"listening on {url_of(listener)}\n")
    sys.stdout.flush()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    watching.cancel()
    if serving.done():
        stopping.cancel()
        serving.result()
        return
    logger.info("stopping: no more requests are taken")
    is_idle = await service.stop(STOP_SECONDS)
    server.should_exit = True
    await serving
    if not is_idle:
        logger.warning("stopping: what the model is doing takes too long and is given up")
        sys.stderr.flush()
        os._exit(0)


def _on_signal(stop: asyncio.Event) -> None:
    """The first SIGTERM or SIGINT sets `stop`; a second ends the process at once."""
    loop = asyncio.get_running_loop()

    def heard(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(0)
        loop.call_soon_threadsafe(stop.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, heard)
