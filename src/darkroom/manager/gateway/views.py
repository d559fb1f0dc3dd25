"""How things of the other rooms look in JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from darkroom.manager.gateway.errors import as_gateway_error
from darkroom.manager.library.components import Component
from darkroom.manager.library.library import Library
from darkroom.manager.library.model import Model
from darkroom.manager.pool.state import ModelStatus, as_json
from darkroom.manager.service import Manager
from darkroom.manager.store.collect import Garbage, Item
from darkroom.manager.store.download import Download


def model_view(library: Library, model: Model, status: ModelStatus) -> dict[str, Any]:
    """One model: OpenAI's four fields, and what the library and the pool know."""
    missing = [part for part in library.components(model) if part.is_in_the_way]
    return {
        "id": model.id,
        "object": "model",
        "created": _created(model.path),
        "owned_by": "darkroom" if model.builtin else "local",
        "title": model.title,
        "family": model.family,
        "variant": model.identity.variant or None,
        "type": model.identity.type or None,
        "size": model.file.size,
        "file": None if model.builtin else str(model.path),
        "state": status.state.value,
        "loaded": status.state.is_serving,
        "ready": not missing,
        "missing": [part.role.value for part in missing],
        "engine": model.engine,
    }


def _created(path: Path) -> int:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return 0


def component_view(component: Component) -> dict[str, Any]:
    """One companion, with every published file that fits."""
    known = [
        {
            "name": file.name,
            "source": file.source,
            "size": file.bytes,
            "sha256": file.sha256,
            "licence": file.licence,
            "gated": file.gated,
            "page": file.page,
        }
        for file in component.known
    ]
    return {**component.as_details(), "known": known}


def download_view(download: Download) -> dict[str, Any]:
    """One download and how far it is."""
    progress = download.progress
    error = as_gateway_error(download.error).error if download.error else None
    return {
        "id": download.id,
        "name": download.wanted.name,
        "role": download.wanted.role,
        "source": download.wanted.origin,
        "licence": download.wanted.licence or None,
        "state": progress.state.value,
        "received": progress.received,
        "total": progress.total,
        "speed": progress.speed,
        "eta": progress.eta,
        "file": str(download.path) if download.path else None,
        "error": error.body()["error"] if error else None,
    }


def pool_view(manager: Manager) -> dict[str, Any]:
    """The pool: its limits and every model that it knows of."""
    config = manager.config
    return {
        "ports": [config.first_port, config.last_port],
        "max_loaded": config.max_loaded,
        "memory_budget": config.memory_budget,
        "eviction": config.eviction,
        "models": [as_json(status) for status in manager.pool.state()],
    }


def garbage_view(garbage: Garbage) -> dict[str, Any]:
    """What a collection of garbage did, or would do."""
    return {
        "dry_run": garbage.dry_run,
        "bytes": garbage.bytes,
        "removed": [_item(item) for item in garbage.removed],
        "deleted": [_item(item) for item in garbage.deleted],
        "kept": [_item(item) for item in garbage.kept],
    }


def _item(item: Item) -> dict[str, Any]:
    return {"sha256": item.sha256 or None, "name": item.name, "size": item.size, "reason": item.reason}
