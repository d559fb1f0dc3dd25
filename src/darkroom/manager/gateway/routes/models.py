"""Every model of the library, and the companions of each."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse

from darkroom.manager.config import OPENAI_NAMES
from darkroom.manager.gateway.views import component_view, download_view, model_view
from darkroom.manager.library.roles import FileRole
from darkroom.manager.pool.state import absent
from darkroom.manager.removal import remove
from darkroom.manager.service import Manager


class Attachment(BaseModel):
    """Which file serves a role. file: None for the library's own choice again."""

    role: FileRole = Field(description="vae, clip_l, t5xxl, ...")
    file: Path | None = Field(None, description="a path on the manager's machine")


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["models"])

    @routes.get("/models", summary="Models of the library")
    async def models() -> JSONResponse:
        """OpenAI's list, with family, variant, size and state of each; aliases come after the models."""
        await manager.up_to_date()
        known = {status.model: status for status in manager.pool.state()}

        def listing() -> list[dict[str, Any]]:
            return [
                model_view(manager.library, model, known.get(model.id) or absent(model.id))
                for model in manager.library.models()
            ]

        listed = await asyncio.to_thread(listing)
        names = {**manager.library.aliases, **manager.config.aliases}
        if manager.config.openai_aliases:
            default = await manager.resolve(None)
            names = {**dict.fromkeys(OPENAI_NAMES, default), **names}
        created = {view["id"]: view["created"] for view in listed}
        aliases = [
            {"id": alias, "object": "model", "created": created.get(name, 0), "owned_by": "alias", "of": name}
            for alias, name in names.items()
        ]
        return JSONResponse({"object": "list", "data": [*listed, *aliases]})

    @routes.get("/models/{model:path}/components", summary="What a model is made of")
    async def components(model: str) -> dict[str, Any]:
        """Each companion: role, state, the file that serves it and why, size, source, licence, gate."""
        found = await manager.named(model)
        listed = [component_view(component) for component in manager.library.components(found)]
        blocked = any(component["required"] and component["state"] != "present" for component in listed)
        return {"model": found.id, "ready": not blocked, "components": listed}

    @routes.post("/models/{model:path}/components:fetch", status_code=202, summary="Fetch what is missing")
    async def fetch(model: str) -> dict[str, Any]:
        """Begins to download whatever keeps the model from loading; /v1/downloads tells how far it is."""
        found = await manager.named(model)
        started = manager.fetch_missing(found)
        return {"model": found.id, "downloads": [download_view(download) for _, download in started]}

    @routes.post("/models/{model:path}/components:attach", summary="Say which file serves a role")
    async def attach(model: str, body: Attachment) -> dict[str, Any]:
        """A file of the manager's machine; without `file`, the library chooses again."""
        found = await manager.named(model)
        if body.file is None:
            manager.library.detach(found, body.role)
            parts = manager.library.components(found)
            return component_view(next(part for part in parts if part.role is body.role))
        return component_view(manager.library.attach(found, body.role, body.file))

    @routes.get("/models/{model:path}", summary="One model")
    async def model(model: str) -> dict[str, Any]:
        """As in the list."""
        found = await manager.named(model)
        return model_view(manager.library, found, manager.pool.status(found.id))

    @routes.delete("/models/{model:path}", summary="Remove a model")
    async def delete(model: str) -> dict[str, Any]:
        """Takes a model or another file out of the store; files of your own folders are left alone."""
        return {"id": await remove(manager, model), "object": "model", "deleted": True}

    return routes
