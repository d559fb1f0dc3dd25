"""The HTTP application: every API's routes over one service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache, partial

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from darkroom.api.errors import DarkroomError
from darkroom.api.version import __version__
from darkroom.server.access_log import AccessLog
from darkroom.server.answers import answer_error
from darkroom.server.body_limit import BodyLimit
from darkroom.server.openapi import document
from darkroom.server.routes import a1111, health, metrics, native, openai, page, reference
from darkroom.server.security import Door
from darkroom.server.service import Service

ROUTES = (health, metrics, native, openai, a1111, page, reference)
"""The modules that each give a `router(service)`."""


def create_app(service: Service) -> FastAPI:
    """The application; entering its lifespan starts the service."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield

    app = FastAPI(
        title="Darkroom sd-server", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    for module in ROUTES:
        app.include_router(module.router(service))
    for kind in (DarkroomError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, answer_error)
    app.add_middleware(BodyLimit, max_bytes=service.options.max_body * 2**20)
    app.add_middleware(Door, options=service.options)
    app.openapi = cache(partial(document, app))  # type: ignore[method-assign]
    app.add_middleware(AccessLog, metrics=service.metrics)
    return app
