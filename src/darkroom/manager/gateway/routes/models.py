"""Every model of the library, and the companions of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from darkroom.manager.config import OPENAI_NAMES
from darkroom.manager.gateway.errors import GatewayError
from darkroom.manager.gateway.views import component_view, download_view, model_view
from darkroom.manager.library.roles import FileRole
from darkroom.manager.service import Manager


class Attachment(BaseModel):
    """Which file serves a role. file: None for the library's own choice again."""

    role: FileRole = Field(description="vae, clip_l, t5xxl, ...")
    file: Path | None = Field(None, description="a path on the manager's machine")


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(prefix="/v1", tags=["models"])

    @routes.get("/models", summary="Models of the library")
    async def models() -> dict[str, Any]:
        """OpenAI's list, with family, variant, size and state of each; aliases come after the models."""
        await manager.scanned()
        listed = [model_view(manager, model) for model in manager.library.models()]
        names = {**manager.config.aliases, **manager.library.aliases}
        if manager.config.openai_aliases:
            default = await manager.resolve(None)
            names = {**dict.fromkeys(OPENAI_NAMES, default), **names}
        created = {view["id"]: view["created"] for view in listed}
        aliases = [
            {"id": alias, "object": "model", "created": created.get(name, 0), "owned_by": "alias", "of": name}
            for alias, name in names.items()
        ]
        return {"object": "list", "data": [*listed, *aliases]}

    @routes.get("/models/{model:path}/components", summary="What a model is made of")
    async def components(model: str) -> dict[str, Any]:
        """Each companion: role, state, the file that serves it and why, size, source, licence, gate."""
        found = await manager.model(model)
        listed = [component_view(component) for component in manager.library.components(found)]
        blocked = any(component["required"] and component["state"] != "present" for component in listed)
        return {"model": found.id, "ready": not blocked, "components": listed}

    @routes.post("/models/{model:path}/components:fetch", status_code=202, summary="Fetch what is missing")
    async def fetch(model: str) -> dict[str, Any]:
        """Begins to download whatever keeps the model from loading; /v1/downloads tells how far it is."""
        found = await manager.model(model)
        started = manager.fetch_missing(found)
        return {"model": found.id, "downloads": [download_view(download) for _, download in started]}

    @routes.post("/models/{model:path}/components:attach", summary="Say which file serves a role")
    async def attach(model: str, body: Attachment) -> dict[str, Any]:
        """A file of the manager's machine; without `file`, the library chooses again."""
        found = await manager.model(model)
        if body.file is None:
            manager.library.detach(found, body.role)
            parts = manager.library.components(found)
            return component_view(next(part for part in parts if part.role is body.role))
        return component_view(manager.library.attach(found, body.role, body.file))

    @routes.get("/models/{model:path}", summary="One model")
    async def model(model: str) -> dict[str, Any]:
        """As in the list."""
        id = await manager.resolve(model)
        return model_view(manager, await manager.model(id))

    @routes.delete("/models/{model:path}", summary="Remove a model")
    async def remove(model: str) -> dict[str, Any]:
        """Takes a model that was pulled out of the store; files of your own folders are left alone."""
        found = await manager.model(model)
        store = manager.paths.store.resolve()
        if found.builtin or not found.path.absolute().is_relative_to(manager.paths.store.absolute()):
            raise GatewayError(
                f"model '{found.id}': its file is not the store's; delete {found.path} yourself",
                status=409,
                code="not_in_store",
                param="model",
                retry=False,
            )
        await manager.pool.unload(found.id)
        sha256 = manager.store.sum_of(found.path)
        manager.store.drop(found.id)
        manager.store.remove(sha256)
        await manager.rescan()
        return {"id": found.id, "object": "model", "deleted": True, "store": str(store)}

    return routes
