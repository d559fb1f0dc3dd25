"""Files that are on this machine already, and what the manager needs of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, Field

from darkroom.manager.doctor import checks
from darkroom.manager.library.headers import read_header
from darkroom.manager.library.identify import identify
from darkroom.manager.library.limited import HeaderError
from darkroom.manager.library.roles import FileRole
from darkroom.manager.service import Manager


class Import(BaseModel):
    """What to take in."""

    path: Path = Field(description="a model file, or a folder of another program")
    role: str = Field("", description="what the file is; told by its content where it is empty")


def router(manager: Manager) -> APIRouter:
    """The routes."""
    routes = APIRouter(tags=["store"])

    @routes.post("/v1/store/import", summary="Take in a file, use a folder")
    async def take_in(body: Import) -> dict[str, Any]:
        """A file is linked, not copied; a folder is used where it is and never changed."""
        if body.path.is_dir():
            adopted = await manager.store.adopt(body.path)
            text = f"{adopted.folder}: {adopted.files} files are used in place ({adopted.kind})"
            return {"folder": str(adopted.folder), "files": adopted.files, "summary": text}
        file = await manager.store.add(body.path, body.role or role_of(body.path))
        await manager.rescan()
        names = [model.id for model in manager.library.models() if _is_same(model.path, file.path)]
        text = f"{body.path.name}: {f'model {names[0]}' if names else file.names[0][0]}"
        return {"sha256": file.sha256, "file": str(file.path), "models": names, "summary": text}

    @routes.get("/v1/store/files", summary="Files of the store")
    async def files() -> dict[str, Any]:
        """Each with the models that use it."""
        data = [
            {
                "sha256": file.sha256,
                "path": str(file.path),
                "size": file.size,
                "names": [f"{role}/{name}" for role, name in file.names],
                "used_by": sorted({use.model for use in file.uses}),
                "external": file.external,
            }
            for file in manager.store.files()
        ]
        return {"object": "list", "data": data}

    @routes.get("/admin/doctor", summary="What the manager needs of this machine")
    async def doctor() -> dict[str, Any]:
        """Each check with what was found."""
        found = await checks(manager)
        return {"ok": all(check.ok for check in found), "checks": [check.__dict__ for check in found]}

    return routes


def _is_same(path: Path, other: Path) -> bool:
    """Whether both are one file, under whatever name."""
    try:
        return path.samefile(other)
    except OSError:
        return False


def role_of(path: Path) -> str:
    """What a file is, by its content. What cannot be told is taken for a model, and shown as it is."""
    try:
        parts = identify(read_header(path)).parts
    except (HeaderError, OSError):
        return FileRole.MODEL.value
    kinds = {part.kind.value for part in parts}
    if "diffusion" in kinds or not kinds:
        return FileRole.MODEL.value
    kind = next(iter(sorted(kinds)))
    return kind if kind in {role.value for role in FileRole} else FileRole.MODEL.value
