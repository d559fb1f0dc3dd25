"""Every file of the library, whatever it is: what is in it, or what is wrong with it."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from darkroom.manager.service import Manager


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1/store", tags=["store"])

    @routes.get("/library", summary="Files of the library, broken ones as well")
    async def library() -> dict[str, Any]:
        """`parts`, what can serve as a companion; `problem`, why a file cannot be used."""
        await manager.up_to_date()
        data = [
            {
                "path": str(file.path),
                "size": file.size,
                "format": file.format.value if file.format else None,
                "is_model": file.identity.is_model,
                "parts": [{"kind": part.kind.value, "title": part.title} for part in file.identity.parts],
                "problem": file.problem or file.identity.problem or None,
                "broken": bool(file.problem),
            }
            for file in manager.library.files()
        ]
        return {"object": "list", "data": data}

    return routes
