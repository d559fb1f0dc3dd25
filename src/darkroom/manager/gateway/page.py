"""`GET /`: the page that people manage models and draw with, and the files it is made of."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from darkroom.core.page_files import INDEX, page_files


def router() -> APIRouter:
    """The routes; none of them needs a key, for they tell nothing of anyone's."""
    routes = APIRouter(include_in_schema=False)
    parts = page_files("manager")

    @routes.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return await part(request, INDEX)

    @routes.api_route("/assets/{name}", methods=["GET", "HEAD"])
    async def part(request: Request, name: str) -> Response:
        if name not in parts:
            raise HTTPException(404, f"the page has no file {name!r:.80}")
        return Response(*parts[name].answer(request.headers.get("if-none-match", "")))

    return routes
