"""`GET /`: the page that people draw with, and the files it is made of."""

from __future__ import annotations

import os
from pathlib import Path

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from darkroom.api.errors import RequestError
from darkroom.core.page_files import INDEX, page_files
from darkroom.server.errors import ApiError
from darkroom.server.service import Service


def check_page(path: Path | None) -> None:
    """Raises RequestError for a --serve-html-path that cannot be served."""
    if path is None:
        return
    if not path.is_file():
        what = "is no file" if path.exists() else "does not exist"
        raise RequestError(f"--serve-html-path: '{path}' {what}; expected the path of an HTML file")
    if not os.access(path, os.R_OK):
        raise RequestError(f"--serve-html-path: '{path}' cannot be read (permission denied)")


def router(service: Service) -> APIRouter:
    """The routes. With --serve-html-path that file is the whole page."""
    routes = APIRouter(include_in_schema=False)
    own = service.options.serve_html_path
    if own is not None:

        @routes.get("/")
        async def own_page() -> Response:
            if not own.is_file():
                raise ApiError(f"--serve-html-path: '{own}' is gone", status=500)
            return FileResponse(own, media_type="text/html", headers={"Cache-Control": "no-cache"})

        return routes

    parts = page_files("server")

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return await part(request, INDEX)

    @routes.api_route("/page/{name}", methods=["GET", "HEAD"])
    async def part(request: Request, name: str) -> Response:
        if name not in parts:
            raise HTTPException(404, f"the page has no file {name!r:.80}")
        return Response(*parts[name].answer(request.headers.get("if-none-match", "")))

    return routes
